"""`x[…]`, and picking elements by integers."""

from __future__ import annotations

from typing import Any

from r2d2c.ops.dims import expect_integers, expect_tensor
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, normalise_axis
from r2d2c.types import Dim, DimLike, TensorType

_X = Arg("x", doc="any dtype")
_END = 2**63 - 1

# -- slice

Items = list[Any]


def _per_axis(items: tuple[Any, ...], rank: int) -> Items:
    """One entry an axis: an int, or ("slice", start, stop, step)."""
    found = list(items)
    if found.count("...") > 1:
        raise ShapeError("`...` can be given once", "items")
    if len(found) - found.count("...") > rank:
        raise ShapeError(f"there are {len(found) - found.count('...')} indices for {rank} dims", "x")
    everything = ("slice", None, None, None)
    missing = rank - len(found) + found.count("...")
    place = found.index("...") if "..." in found else len(found)
    found[place : place + 1] = [everything] * missing
    return found


def _bound(given: DimLike | None, default: DimLike, size: DimLike) -> DimLike:
    """A start or stop counted from the front, kept inside the axis where its size is known."""
    if given is None:
        return default
    value = size + given if isinstance(given, int) and given < 0 else given
    if isinstance(value, int) and isinstance(size, int):
        return min(max(value, 0), size)
    return value


def _sliced(size: DimLike, start: Any, stop: Any, step: Any) -> DimLike:
    """How many elements are taken."""
    step = 1 if step is None else step
    if not isinstance(step, int) or step < 1:
        raise ShapeError(f"a step must be at least 1, not {step}", "x", fix="`flip` reverses an axis")
    count = _bound(stop, size, size) - _bound(start, 0, size)
    if isinstance(count, int):
        count = max(count, 0)
    return count if step == 1 else (count + step - 1) // step


def _slice_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "an index")
    dims: list[DimLike] = []
    for axis, item in enumerate(_per_axis(a.items, x.rank)):
        size = s.resolve(x.dims[axis])
        if not isinstance(item, (int, Dim)):
            dims.append(_sliced(size, *item[1:]))
        elif isinstance(item, int) and isinstance(size, int) and not -size <= item < size:
            raise ShapeError(f"`x` is {x}: axis {axis} has no element {item}", "x")
    return TensorType(x.dtype, tuple(dims))


def _slice_mixes(a: Any) -> list[tuple[str, int]]:
    """An axis from which a part is taken: place i then holds another element than in the values beside it."""
    whole = (None, None, None)
    return [
        ("x", axis)
        for axis, item in enumerate(_per_axis(a.items, a.x.rank))
        if isinstance(item, (int, Dim)) or (tuple(item[1:]) != whole and tuple(item[1:]) != (None, None, 1))
    ]


def _slice_lower(b: Any, a: Any) -> Any:
    def place(value: Any) -> Any:
        return b.size(value) if isinstance(value, Dim) else value

    index: list[Any] = []
    for item in a.items:
        if item == "...":
            index.append(...)
        elif isinstance(item, (int, Dim)):
            index.append(place(item))
        else:
            index.append(slice(*(place(part) for part in item[1:])))
    return b.item(a.x, index[0] if len(index) == 1 else tuple(index))


def _slice_onnx(o: Any, a: Any) -> Any:
    starts: list[DimLike] = []
    stops: list[DimLike] = []
    axes: list[int] = []
    steps: list[int] = []
    dropped: list[int] = []
    for axis, item in enumerate(_per_axis(a.items, o.type("x").rank)):
        if isinstance(item, (int, Dim)):
            dropped.append(axis)
            start, stop, step = item, _END if item == -1 else item + 1, 1
        else:
            start, stop, step = item[1] or 0, _END if item[2] is None else item[2], item[3] or 1
            if (start, stop, step) == (0, _END, 1):
                continue
        starts.append(start)
        stops.append(stop)
        axes.append(axis)
        steps.append(step)
    if not axes:
        return a.x
    y = o("Slice", a.x, _places(o, starts), _places(o, stops), o.ints(axes), o.ints(steps))
    return o("Squeeze", y, o.ints(dropped)) if dropped else y


def _places(o: Any, values: list[DimLike]) -> Any:
    return o.shape(values) if any(isinstance(value, Dim) for value in values) else o.ints(values)


SLICE = Op(
    "slice",
    "`x[1:3, ..., -1]`: a part along some axes. A bound on a dim that only the run knows must lie within it.",
    (_X, Arg("items", "ints", doc="what stands between the brackets")),
    _slice_shape,
    _slice_lower,
    _slice_onnx,
    mixes=_slice_mixes,
    cost=lambda a: 0,
    examples=(
        Example("x[1]", {"x": "f32[3, 4]"}),
        Example("x[:, 1:-1, ..., -1]", {"x": "f64[2, 5, 3, 4]"}),
        Example("x[..., ::2]", {"x": "f32[2, 5]"}),
        Example("x[-2:, 0]", {"x": "i64[4, 3] < 9"}, gradient=False),
    ),
)

# -- take and gather


def _take_shape(s: Shapes, a: Any) -> TensorType:
    x, index = a.x, a.index
    expect_tensor(x, "x", "take")
    expect_integers(index, "index")
    axis = normalise_axis(a.axis, x.rank)
    s.bound("index", x.dims[axis])
    return TensorType(x.dtype, (*x.dims[:axis], *index.dims, *x.dims[axis + 1 :]))


def _take_lower(b: Any, a: Any) -> Any:
    axis = normalise_axis(a.axis, b.type("x").rank)
    rank = b.type("index").rank
    if rank <= 1:
        # Indexing by a scalar tensor would wait for its number; this does not.
        taken = b("torch.index_select", a.x, axis, a.index)
        return taken if rank else b("torch.squeeze", taken, axis)
    return b.item(a.x, (*(slice(None),) * axis, a.index))


def _take_mixes(a: Any) -> list[tuple[str, int]]:
    """The axis itself; and a dim that both have: `x[:, ids]` with an id a sample pairs all with all."""
    axis = normalise_axis(a.axis, a.x.rank)
    kept = [dim for position, dim in enumerate(a.x.dims) if position != axis]
    return [("x", axis), *(("index", n) for n, dim in enumerate(a.index.dims) if dim in kept)]


TAKE = Op(
    "take",
    "`x[ids]`: the slices at the given places along one axis, in the shape of `index`.",
    (_X, Arg("index", doc="integers at least 0 and less than the axis's size"), Arg("axis", "axis", 0)),
    _take_shape,
    _take_lower,
    lambda o, a: o("Gather", a.x, a.index, axis=a.axis),
    mixes=_take_mixes,
    examples=(
        Example("take(x, i)", {"x": "f32[4, 3]", "i": "i64[5] < 4"}),
        Example("take(x, i, axis=1)", {"x": "f64[2, 4, 3]", "i": "i64[2, 2] < 4"}),
        Example("take(x, i, -1)", {"x": "f32[2, 3, 4]", "i": "i32[6] < 4"}),
        Example("take(x, i, axis=1)", {"x": "i64[2, 4] < 9", "i": "i64[] < 4"}, gradient=False),
    ),
)


def _gather_shape(s: Shapes, a: Any) -> TensorType:
    x, index = a.x, a.index
    expect_tensor(x, "x", "gather")
    expect_integers(index, "index")
    axis = normalise_axis(a.axis, x.rank)
    if index.rank != x.rank:
        raise ShapeError(
            f"`x` is {x} and `index` is {index}: both need the same number of dims", "x", "index"
        )
    for position, (dim, wanted) in enumerate(zip(index.dims, x.dims, strict=True)):
        if position != axis and not s.unify(dim, wanted):
            message = f"`x` is {x} and `index` is {index}: they can only differ in axis {a.axis}"
            raise ShapeError(message, "x", "index", fix="`take` picks the same places for all")
    s.bound("index", x.dims[axis])
    return TensorType(x.dtype, index.dims)


def _gather_lower(b: Any, a: Any) -> Any:
    index = a.index if b.type("index").dtype == "i64" else b.method("to", a.index, b.dtype("i64"))
    return b("torch.gather", a.x, a.axis, index)


GATHER = Op(
    "gather",
    "Along one axis, elements at places of their own for each row: `x[i, index[i, j]]` for axis 1.",
    (_X, Arg("index", doc="integers; only the axis's size differs from `x`"), Arg("axis", "axis", -1)),
    _gather_shape,
    _gather_lower,
    lambda o, a: o("GatherElements", a.x, a.index, axis=a.axis),
    mixes=lambda a: [("x", normalise_axis(a.axis, a.x.rank))],
    examples=(
        Example("gather(x, i)", {"x": "f32[3, 4]", "i": "i64[3, 2] < 4"}),
        Example("gather(x, i, axis=1)", {"x": "f64[2, 4, 3]", "i": "i64[2, 5, 3] < 4"}),
        Example("gather(x, i, 0)", {"x": "f32[4]", "i": "i32[6] < 4"}),
        Example("gather(x, i)", {"x": "bool[3, 4]", "i": "i64[3, 1] < 4"}, gradient=False),
    ),
)

OPS = (SLICE, TAKE, GATHER)
