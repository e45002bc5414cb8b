"""Several values into one and one into several; moving elements along an axis."""

from __future__ import annotations

from functools import reduce
from typing import Any

from r2d2c.ops.dims import axes_of, expect_tensor, onnx_range
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, normalise_axis
from r2d2c.types import FLOATS, DimLike, TensorType, promote

_X = Arg("x", doc="any dtype")

# -- concat and stack


def _joined_dtype(xs: tuple[TensorType, ...]) -> str:
    return reduce(promote, [x.dtype for x in xs])


def _same_rank(xs: tuple[TensorType, ...], what: str) -> None:
    for x in xs:
        if x.weak:
            raise ShapeError(f"{what} needs tensors, and one of these is a number", "xs")
        if x.rank != xs[0].rank:
            raise ShapeError(f"{what} needs values with the same number of dims, not {xs[0]} and {x}", "xs")


def _concat_shape(s: Shapes, a: Any) -> TensorType:
    xs = tuple(a.xs)
    _same_rank(xs, "concat")
    expect_tensor(xs[0], "xs", "concat")
    axis = normalise_axis(a.axis, xs[0].rank)
    total: DimLike = 0
    for x in xs:
        for position, (dim, wanted) in enumerate(zip(x.dims, xs[0].dims, strict=True)):
            if position != axis and not s.unify(dim, wanted):
                raise ShapeError(
                    f"{xs[0]} and {x} can only differ in axis {a.axis}: {wanted} and {dim}", "xs"
                )
        total = total + x.dims[axis]
    return TensorType(_joined_dtype(xs), (*xs[0].dims[:axis], total, *xs[0].dims[axis + 1 :]))


def _concat_onnx(o: Any, a: Any) -> Any:
    return o("Concat", *(o.cast(x, o.out[0].dtype) for x in a.xs), axis=a.axis)


CONCAT = Op(
    "concat",
    "Values one behind the other along an axis.",
    (Arg("xs", "values", doc="values that differ along the axis only"), Arg("axis", "axis", -1)),
    _concat_shape,
    lambda b, a: b("torch.cat", list(a.xs), a.axis),
    _concat_onnx,
    mixes=lambda a: [("xs", normalise_axis(a.axis, a.xs[0].rank))],
    examples=(
        Example("concat(x, y)", {"x": "f32[2, 3]", "y": "f32[2, 4]"}),
        Example("concat(x, y, x, axis=1)", {"x": "f64[2, 1, 3]", "y": "f64[2, 4, 3]"}),
        Example("concat(x, y, axis=0)", {"x": "f32[2]", "y": "i64[3] < 9"}),
        Example("concat(x, y)", {"x": "bool[2]", "y": "bool[3]"}, gradient=False),
    ),
)


def _stack_shape(s: Shapes, a: Any) -> TensorType:
    xs = tuple(a.xs)
    _same_rank(xs, "stack")
    for x in xs:
        if not all(map(s.unify, x.dims, xs[0].dims)):
            raise ShapeError(f"stack needs values of one shape, not {xs[0]} and {x}", "xs")
    axis = normalise_axis(a.axis, xs[0].rank + 1)
    return TensorType(_joined_dtype(xs), (*xs[0].dims[:axis], len(xs), *xs[0].dims[axis:]))


def _stack_onnx(o: Any, a: Any) -> Any:
    where = o.ints([a.axis])
    parts = [o("Unsqueeze", o.cast(x, o.out[0].dtype), where) for x in a.xs]
    return o("Concat", *parts, axis=a.axis)


def _stack_lower(b: Any, a: Any) -> Any:
    dtype = b.out[0].dtype
    types = b.types("xs")
    xs = [
        x if t.dtype == dtype else b.method("to", x, b.dtype(dtype)) for x, t in zip(a.xs, types, strict=True)
    ]
    return b("torch.stack", xs, a.axis)


STACK = Op(
    "stack",
    "Values of one shape along a new axis.",
    (
        Arg("xs", "values", doc="values of one shape"),
        Arg("axis", "axis", -1, doc="where the new axis will stand"),
    ),
    _stack_shape,
    _stack_lower,
    _stack_onnx,
    examples=(
        Example("stack(x, y)", {"x": "f32[2, 3]", "y": "f32[2, 3]"}),
        Example("stack(x, y, x, axis=1)", {"x": "f64[2, 3]", "y": "f64[2, 3]"}),
        Example("stack(x, y, axis=0)", {"x": "i64[3] < 9", "y": "f32[3]"}),
    ),
)

# -- split


def _split_sizes(s: Shapes, a: Any) -> list[DimLike]:
    axis = normalise_axis(a.axis, a.x.rank)
    size = s.resolve(a.x.dims[axis])
    if a.parts < 1:
        raise ShapeError(f"`parts` must be at least 1, not {a.parts}", "parts")
    if a.sizes is None:
        part = size // a.parts
        if part * a.parts != size:
            raise ShapeError(f"`x` is {a.x}: {size} does not divide into {a.parts} parts", "parts", "x")
        return [part] * a.parts
    if len(a.sizes) != a.parts:
        raise ShapeError(f"{len(a.sizes)} sizes are given for {a.parts} parts", "sizes", "parts")
    total: DimLike = 0
    for part in a.sizes:
        total = total + part
    if not s.unify(total, size):
        raise ShapeError(f"`x` is {a.x}: the sizes add up to {total}, not to {size}", "sizes", "x")
    return list(a.sizes)


def _split_shape(s: Shapes, a: Any) -> tuple[TensorType, ...]:
    x: TensorType = a.x
    expect_tensor(x, "x", "split")
    axis = normalise_axis(a.axis, x.rank)
    return tuple(TensorType(x.dtype, (*x.dims[:axis], n, *x.dims[axis + 1 :])) for n in _split_sizes(s, a))


def _split_lower(b: Any, a: Any) -> Any:
    if a.sizes is None:
        pieces = b("torch.chunk", a.x, a.parts, a.axis)
    else:
        pieces = b("torch.split", a.x, list(b.sizes(a.sizes)), a.axis)
    return tuple(b.item(pieces, number) for number in range(a.parts))


def _split_onnx(o: Any, a: Any) -> Any:
    if a.parts == 1:
        return (a.x,)
    if a.sizes is None:
        return o("Split", a.x, outputs=a.parts, axis=a.axis, num_outputs=a.parts)
    return o("Split", a.x, o.shape(a.sizes), outputs=a.parts, axis=a.axis)


SPLIT = Op(
    "split",
    "`parts` pieces along an axis, of one size unless `sizes` are given.",
    (
        _X,
        Arg("parts", "int", doc="how many pieces"),
        Arg("axis", "axis", -1),
        Arg("sizes", "sizes", None, doc="the pieces' sizes"),
    ),
    _split_shape,
    _split_lower,
    _split_onnx,
    cost=lambda a: 0,
    examples=(
        Example("split(x, 2)", {"x": "f32[3, 8]"}),
        Example("split(x, 3, axis=1)", {"x": "f64[2, 6, 4]"}),
        Example("split(x, 2, sizes=(3, 5))", {"x": "f32[2, 8]"}),
        Example("split(x, 2, axis=0)", {"x": "i64[4] < 9"}, gradient=False),
    ),
)

# -- pad, roll, flip


def _margins(a: Any) -> tuple[int, int]:
    sizes = a.sizes if isinstance(a.sizes, tuple) else (a.sizes, a.sizes)
    if len(sizes) != 2 or min(sizes) < 0:
        raise ShapeError("`sizes` is one number, or two: before and after, not negative", "sizes")
    return sizes[0], sizes[1]


def _pad_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "pad")
    axes, extra = axes_of(x, a.axes, "axes"), sum(_margins(a))
    return TensorType(x.dtype, tuple(dim + extra if axis in axes else dim for axis, dim in enumerate(x.dims)))


def _pad_value(dtype: str, value: float) -> bool | int | float:
    return value if dtype in FLOATS else bool(value) if dtype == "bool" else int(value)


def _pad_lower(b: Any, a: Any) -> Any:
    x = b.type("x")
    axes, margins = axes_of(x, a.axes), _margins(a)
    # torch counts from the last axis.
    flat = [
        side
        for axis in range(x.rank - 1, min(axes) - 1, -1)
        for side in (margins if axis in axes else (0, 0))
    ]
    return b("torch.nn.functional.pad", a.x, flat, value=_pad_value(x.dtype, a.value))


def _pad_onnx(o: Any, a: Any) -> Any:
    x = o.type("x")
    axes, (before, after) = axes_of(x, a.axes), _margins(a)
    pads = o.ints([before] * len(axes) + [after] * len(axes))
    return o("Pad", a.x, pads, o.const(_pad_value(x.dtype, a.value), dtype=x.dtype), o.ints(list(axes)))


PAD = Op(
    "pad",
    "With a constant before and after, along the given axes.",
    (
        _X,
        Arg("sizes", "ints", doc="how many elements on each side, or (before, after)"),
        Arg("axes", "axes", (-1,)),
        Arg("value", "float", 0.0),
    ),
    _pad_shape,
    _pad_lower,
    _pad_onnx,
    mixes=lambda a: [("x", axis) for axis in axes_of(a.x, a.axes)],
    examples=(
        Example("pad(x, 1)", {"x": "f32[2, 3]"}),
        Example("pad(x, (2, 0), axes=1, value=-1.5)", {"x": "f64[2, 3, 4]"}),
        Example("pad(x, 1, axes=(-1, -2))", {"x": "f32[2, 3, 4, 4]"}),
        Example("pad(x, (0, 2), value=3)", {"x": "i64[3] < 9"}, gradient=False),
        Example("pad(x, 1)", {"x": "bool[3]"}, gradient=False),
    ),
)


def _axis_mixes(a: Any) -> list[tuple[str, int]]:
    return [("x", normalise_axis(a.axis, a.x.rank))]


def _same_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "an axis")
    normalise_axis(a.axis, x.rank)
    return x


def _roll_onnx(o: Any, a: Any) -> Any:
    size = o.type("x").dims[a.axis]
    moved = o("Sub", onnx_range(o, size), o.const(a.shift, dtype="i64"))
    # A divisor's sign is that of the result, so negative places wrap as well.
    return o("Gather", a.x, o("Mod", moved, o.size(size)), axis=a.axis)


ROLL = Op(
    "roll",
    "Moved `shift` places along an axis; what leaves at one end comes in at the other.",
    (_X, Arg("shift", "int"), Arg("axis", "axis", -1)),
    _same_shape,
    lambda b, a: b("torch.roll", a.x, a.shift, a.axis),
    _roll_onnx,
    mixes=_axis_mixes,
    examples=(
        Example("roll(x, 1)", {"x": "f32[2, 3]"}),
        Example("roll(x, -5, axis=1)", {"x": "f64[2, 3, 2]"}),
        Example("roll(x, 2, 0)", {"x": "i64[5] < 9"}, gradient=False),
    ),
)


def _flip_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "flip")
    axes_of(x, a.axes, "axes")
    return x


def _flip_onnx(o: Any, a: Any) -> Any:
    count = len(a.axes)
    first, last = o.ints([-1] * count), o.ints([-(2**63) + 1] * count)
    return o("Slice", a.x, first, last, o.ints(list(a.axes)), o.ints([-1] * count))


FLIP = Op(
    "flip",
    "In reverse order along the given axes.",
    (_X, Arg("axes", "axes", (-1,))),
    _flip_shape,
    lambda b, a: b("torch.flip", a.x, tuple(a.axes)),
    _flip_onnx,
    mixes=lambda a: [("x", axis) for axis in axes_of(a.x, a.axes)],
    examples=(
        Example("flip(x)", {"x": "f32[2, 3]"}),
        Example("flip(x, axes=(1, 2))", {"x": "f64[2, 3, 2]"}),
        Example("flip(x, 0)", {"x": "bool[4]"}, gradient=False),
    ),
)


OPS = (CONCAT, STACK, SPLIT, PAD, ROLL, FLIP)
