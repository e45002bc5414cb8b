"""The same elements in another shape or order. Patterns (rearrange) are in patterns.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r2d2c.ops.dims import axes_of, cancel, divide, expect_tensor, lower_sizes, onnx_sizes, product
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, normalise_axis
from r2d2c.types import DimLike, TensorType

_X = Arg("x", doc="any dtype")

# -- reshape and flatten


def _reshaped(s: Shapes, x: TensorType, sizes: Sequence[DimLike]) -> tuple[DimLike, ...]:
    ours = [s.resolve(dim) for dim in x.dims]
    wanted = [s.resolve(size) for size in sizes]
    shown = f"[{', '.join(str(size) for size in sizes)}]"
    known = [size for size in wanted if size != -1]
    if len(wanted) - len(known) > 1 or any(isinstance(size, int) and size < 0 for size in known):
        raise ShapeError(f"{shown}: one size may be -1, for what is left", "sizes")
    if 0 in known:
        raise ShapeError(f"{shown}: a size is 0", "sizes")
    # Dims that stand on both sides cancel: `[B, T, 8]` to `[B, T, 2, 4]` takes no arithmetic on B and T.
    left, right = cancel(ours, known)
    if len(known) == len(wanted):
        if not s.unify(product(left), product(right)):
            raise ShapeError(f"`x` is {x}, which does not fit in {shown}", "x", "sizes")
        return tuple(wanted)
    rest = divide(product(left), product(right))
    if rest is None:
        raise ShapeError(f"`x` is {x}, which does not divide into {shown}", "x", "sizes")
    return tuple(rest if size == -1 else size for size in wanted)


def scrambled_axes(before: Sequence[DimLike], after: Sequence[DimLike]) -> list[int]:
    """Axes of ``before`` that a reshape runs into each other: `[B, T]` as `[T, B]` is no transpose.

    A border between two axes lies a number of elements from the end. It is kept when all borders of the
    result are multiples or divisors of that number.
    """
    start, stop = 0, min(len(before), len(after))
    while start < stop and before[start] == after[start]:
        start += 1
    tail = 0
    while tail < stop - start and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    old, new = before[start : len(before) - tail], after[start : len(after) - tail]
    borders = [product(new[position:]) for position in range(1, len(new))]
    found: list[int] = []
    for position in range(1, len(old)):
        border = product(old[position:])
        if not all(_divides(border, other) or _divides(other, border) for other in borders):
            found += [start + position - 1, start + position]
    return sorted(set(found))


def _divides(part: DimLike, whole: DimLike) -> bool:
    quotient = divide(whole, part)
    if quotient is None:
        return False
    return isinstance(quotient, int) or all(
        isinstance(atom, str) for atoms, _ in quotient.terms for atom in atoms
    )


def _reshape_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    if x.weak:
        raise ShapeError("a number has no shape to change", "x")
    return TensorType(x.dtype, _reshaped(s, x, a.sizes))


def _reshape_mixes(a: Any) -> list[tuple[str, int]]:
    return [("x", axis) for axis in scrambled_axes(a.x.dims, _reshaped(Shapes(), a.x, a.sizes))]


RESHAPE = Op(
    "reshape",
    "The elements in the same order, in another shape. One size may be -1.",
    (_X, Arg("sizes", "sizes", doc="the new shape; one of them may be -1, for what is left")),
    _reshape_shape,
    lambda b, a: b.method("reshape", a.x, lower_sizes(b, b.out[0].dims)),
    lambda o, a: o("Reshape", a.x, onnx_sizes(o, o.out[0].dims)),
    mixes=_reshape_mixes,
    cost=lambda a: 0,
    examples=(
        Example("reshape(x, (3, 2, 2))", {"x": "f32[3, 4]"}),
        Example("reshape(x, (2, -1))", {"x": "f64[2, 3, 4]"}),
        Example("reshape(x, -1)", {"x": "f32[2, 3]"}),
        Example("reshape(x, (4, 3))", {"x": "i64[12] < 9"}, gradient=False),
        Example("reshape(x, (2, -1, 2))", {"x": "bool[2, 6]"}, gradient=False),
    ),
)


def _flatten_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "flatten")
    start = normalise_axis(a.start, x.rank, "start")
    return TensorType(x.dtype, (*x.dims[:start], product(x.dims[start:])))


FLATTEN = Op(
    "flatten",
    "All dims from `start` on merged into one.",
    (_X, Arg("start", "axis", 1, doc="the first dim that is merged")),
    _flatten_shape,
    lambda b, a: b("torch.flatten", a.x, a.start),
    lambda o, a: o("Reshape", a.x, o.ints([*([0] * (o.out[0].rank - 1)), -1])),
    cost=lambda a: 0,
    examples=(
        Example("flatten(x)", {"x": "f32[2, 3, 4]"}),
        Example("flatten(x, start=2)", {"x": "f64[2, 3, 4, 5]"}),
        Example("flatten(x, 0)", {"x": "i64[2, 3] < 9"}, gradient=False),
        Example("flatten(x)", {"x": "f32[2, 3]"}),
    ),
)

# -- order of axes


def _transpose_order(a: Any) -> list[int]:
    order = list(range(a.x.rank))
    first, second = normalise_axis(a.a, a.x.rank, "a"), normalise_axis(a.b, a.x.rank, "b")
    order[first], order[second] = second, first
    return order


def _transpose_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "transpose")
    return TensorType(x.dtype, tuple(x.dims[axis] for axis in _transpose_order(a)))


def _transpose_onnx(o: Any, a: Any) -> Any:
    order = list(range(o.type("x").rank))
    order[a.a], order[a.b] = order[a.b], order[a.a]
    return o("Transpose", a.x, perm=order)


TRANSPOSE = Op(
    "transpose",
    "Two axes exchanged.",
    (_X, Arg("a", "axis", -2), Arg("b", "axis", -1)),
    _transpose_shape,
    lambda b, a: b("torch.transpose", a.x, a.a, a.b),
    _transpose_onnx,
    cost=lambda a: 0,
    examples=(
        Example("transpose(x)", {"x": "f32[2, 3, 4]"}),
        Example("transpose(x, 0, -1)", {"x": "f64[2, 3, 4]"}),
        Example("transpose(x, 1, 2)", {"x": "bool[2, 3, 4]"}, gradient=False),
    ),
)


def _permute_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    order = axes_of(x, a.axes, "axes")
    if a.axes is None or len(order) != x.rank:
        raise ShapeError(f"`x` is {x}: `axes` names all {x.rank} of them in their new order", "axes", "x")
    return TensorType(x.dtype, tuple(x.dims[axis] for axis in order))


PERMUTE = Op(
    "permute",
    "The axes in another order.",
    (_X, Arg("axes", "axes", doc="all axes, in their new order")),
    _permute_shape,
    lambda b, a: b("torch.permute", a.x, tuple(a.axes)),
    lambda o, a: o("Transpose", a.x, perm=[axis % o.type("x").rank for axis in a.axes]),
    cost=lambda a: 0,
    examples=(
        Example("permute(x, (2, 0, 1))", {"x": "f32[2, 3, 4]"}),
        Example("permute(x, (0, -1, 1, 2))", {"x": "f64[2, 3, 4, 5]"}),
        Example("permute(x, (1, 0))", {"x": "i64[2, 3] < 9"}, gradient=False),
    ),
)

# -- dims of size 1


def _squeeze_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "squeeze")
    axis = normalise_axis(a.axis, x.rank)
    if not s.unify(x.dims[axis], 1):
        raise ShapeError(f"`x` is {x}: axis {a.axis} has size {x.dims[axis]}, not 1", "axis", "x")
    return TensorType(x.dtype, (*x.dims[:axis], *x.dims[axis + 1 :]))


SQUEEZE = Op(
    "squeeze",
    "Without an axis of size 1.",
    (_X, Arg("axis", "axis")),
    _squeeze_shape,
    lambda b, a: b("torch.squeeze", a.x, a.axis),
    lambda o, a: o("Squeeze", a.x, o.ints([a.axis])),
    cost=lambda a: 0,
    examples=(
        Example("squeeze(x, 1)", {"x": "f32[2, 1, 3]"}),
        Example("squeeze(x, -1)", {"x": "f64[2, 1]"}),
        Example("squeeze(x, 0)", {"x": "i64[1] < 9"}, gradient=False),
    ),
)


def _unsqueeze_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    if x.weak:
        raise ShapeError("a number has no axes", "x")
    axis = normalise_axis(a.axis, x.rank + 1)
    return TensorType(x.dtype, (*x.dims[:axis], 1, *x.dims[axis:]))


UNSQUEEZE = Op(
    "unsqueeze",
    "With a new axis of size 1.",
    (_X, Arg("axis", "axis", doc="where the new axis will stand")),
    _unsqueeze_shape,
    lambda b, a: b("torch.unsqueeze", a.x, a.axis),
    lambda o, a: o("Unsqueeze", a.x, o.ints([a.axis])),
    cost=lambda a: 0,
    examples=(
        Example("unsqueeze(x, 1)", {"x": "f32[2, 3]"}),
        Example("unsqueeze(x, -1)", {"x": "f64[2, 3]"}),
        Example("unsqueeze(x, 0)", {"x": "bool[3]"}, gradient=False),
    ),
)

# -- repetition


def _expand_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    new = len(a.sizes) - x.rank
    if x.weak:
        raise ShapeError("a number has no shape to change", "x", fix="use `full(sizes, value)`")
    if new < 0:
        raise ShapeError(f"`x` is {x}, and has more dims than the {len(a.sizes)} of `sizes`", "sizes", "x")
    dims: list[DimLike] = []
    for position, size in enumerate(a.sizes):
        before: DimLike = x.dims[position - new] if position >= new else 1
        if size == -1 and position < new:
            raise ShapeError("-1 keeps a dim, and this one is new", "sizes")
        if size == -1 or (before != 1 and s.unify(before, size)):
            dims.append(before)
        elif before == 1:
            dims.append(size)
        else:
            raise ShapeError(f"`x` is {x}: {before} cannot be expanded to {size}", "x", "sizes")
    return TensorType(x.dtype, tuple(dims))


def _expand_lower(b: Any, a: Any) -> Any:
    given, wanted = b.type("x").dims, b.out[0].dims
    kept = len(wanted) - len(given)
    sizes = [
        -1 if position >= kept and given[position - kept] == dim else b.size(dim)
        for position, dim in enumerate(wanted)
    ]
    return b.method("expand", a.x, sizes)


EXPAND = Op(
    "expand",
    "Dims of size 1, and new ones in front, repeated to the given sizes.",
    (_X, Arg("sizes", "sizes", doc="the new shape; -1 keeps a dim")),
    _expand_shape,
    _expand_lower,
    lambda o, a: o("Expand", a.x, o.shape(o.out[0].dims)),
    cost=lambda a: 0,
    examples=(
        Example("expand(x, (2, 4, 3))", {"x": "f32[2, 1, 3]"}),
        Example("expand(x, (5, -1, 3))", {"x": "f64[2, 3]"}),
        Example("expand(x, (4,))", {"x": "i64[1] < 9"}, gradient=False),
    ),
)


def _tile_counts(a: Any) -> tuple[int, ...]:
    counts = a.counts if isinstance(a.counts, tuple) else (a.counts,)
    if len(counts) != a.x.rank or a.x.weak:
        raise ShapeError(f"`x` is {a.x}, and {len(counts)} counts are given", "counts", "x")
    if min(counts, default=1) < 1:
        raise ShapeError(f"a count must be at least 1, not {min(counts)}", "counts")
    return counts


def _tile_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    return TensorType(x.dtype, tuple(dim * count for dim, count in zip(x.dims, _tile_counts(a), strict=True)))


def _tile_mixes(a: Any) -> list[tuple[str, int]]:
    return [("x", axis) for axis, count in enumerate(_tile_counts(a)) if count > 1]


def _counts(a: Any) -> list[int]:
    return list(a.counts) if isinstance(a.counts, tuple) else [a.counts]


TILE = Op(
    "tile",
    "The whole repeated along each axis, one copy behind the other.",
    (_X, Arg("counts", "ints", doc="how often, for each axis")),
    _tile_shape,
    lambda b, a: b("torch.tile", a.x, _counts(a)),
    lambda o, a: o("Tile", a.x, o.ints(_counts(a))),
    mixes=_tile_mixes,
    examples=(
        Example("tile(x, (1, 3))", {"x": "f32[2, 3]"}),
        Example("tile(x, 2)", {"x": "f64[3]"}),
        Example("tile(x, (2, 1, 2))", {"x": "i64[2, 1, 3] < 9"}, gradient=False),
    ),
)

OPS = (RESHAPE, FLATTEN, TRANSPOSE, PERMUTE, SQUEEZE, UNSQUEEZE, EXPAND, TILE)
