"""Order along an axis: the place of the largest, sorting, the k largest; and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, normalise_axis
from r2d2c.ops.reductions import KEEP, axes_of, elements, mixes_axis, reduced_dims
from r2d2c.ops.unary import expect_number_dtype, expect_tensor
from r2d2c.types import TensorType

_X = Arg("x", doc="any shape")


def _arg_shape(name: str) -> Callable[[Shapes, Any], TensorType]:
    def shape(s: Shapes, a: Any) -> TensorType:
        expect_tensor(a.x, "x", f"`{name}`")
        expect_number_dtype(a.x, "x", f"`{name}`")
        return TensorType("i64", reduced_dims(a.x, axes_of(a.x, a.axis, "axis"), a.keep))

    return shape


def _arg(name: str, operator: str, what: str) -> Op:
    def lower(b: Any, a: Any) -> Any:
        return b(f"torch.{name}", a.x, a.axis, a.keep)

    def onnx(o: Any, a: Any) -> Any:
        x = a.x if o.type("x").floating else o.cast(a.x, "f64")
        if a.axis is not None and o.type("x").rank:
            return o(operator, x, axis=a.axis % o.type("x").rank, keepdims=int(a.keep))
        flat = o("Reshape", x, o.ints([-1]))
        found = o(operator, flat, axis=0, keepdims=0)
        return o("Reshape", found, o.ints([1] * o.type("x").rank)) if a.keep else found

    return Op(
        name,
        f"The index of the {what} element along an axis, the first where there are several. Without an axis, "
        "its index in the flattened value, the batch included.",
        (_X, Arg("axis", "axis", None, doc="negative from the end; the default is all"), KEEP),
        _arg_shape(name),
        lower,
        onnx,
        mixes=mixes_axis,
        cost=elements,
        traits=frozenset({"no_gradient"}),
        examples=(
            Example(f"{name}(x, -1)", {"x": "f32[3, 4]"}, gradient=False),
            Example(f"{name}(x)", {"x": "f64[3, 4]"}, gradient=False),
            Example(f"{name}(x, 0, keep=true)", {"x": "f32[3, 2, 2]"}, gradient=False),
            Example(f"{name}(x, axis=1)", {"x": "i64[3, 5] < 90"}, gradient=False),
        ),
    )


# -- cumsum, topk, sort


def _cumsum_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "`cumsum`")
    normalise_axis(a.axis, x.rank)
    return x if x.floating else x.with_dtype("i64")


CUMSUM = Op(
    "cumsum",
    "The running sum along an axis; integers and bools give i64.",
    (_X, Arg("axis", "axis", doc="the axis to sum along, negative from the end")),
    _cumsum_shape,
    lambda b, a: b("torch.cumsum", a.x, a.axis),
    lambda o, a: o("CumSum", o.cast(a.x, o.out[0].dtype), o.const(a.axis, "i64")),
    mixes=mixes_axis,
    cost=elements,
    examples=(
        Example("cumsum(x, -1)", {"x": "f32[3, 4]"}),
        Example("cumsum(x, axis=1)", {"x": "f64[2, 3, 2]"}),
        Example("cumsum(x, 0)", {"x": "bool[5]"}, gradient=False),
    ),
)


def _topk_shape(s: Shapes, a: Any) -> tuple[TensorType, TensorType]:
    x: TensorType = a.x
    expect_tensor(x, "x", "`topk`")
    expect_number_dtype(x, "x", "`topk`")
    axis = normalise_axis(a.axis, x.rank)
    size = x.dims[axis]
    if isinstance(size, int) and isinstance(a.k, int) and a.k > size:
        raise ShapeError(f"axis {a.axis} of `x` has {size} elements, fewer than {a.k}", "k", "x")
    found = x.with_dims((*x.dims[:axis], a.k, *x.dims[axis + 1 :]))
    return found, found.with_dtype("i64")


def _topk_lower(b: Any, a: Any) -> Any:
    found = b("torch.topk", a.x, b.size(a.k), a.axis, a.largest)
    return b.item(found, 0), b.item(found, 1)


def _topk_onnx(o: Any, a: Any) -> Any:
    axis = a.axis % o.type("x").rank
    return o("TopK", a.x, o.size(a.k), outputs=2, axis=axis, largest=int(a.largest), sorted=1)


TOPK = Op(
    "topk",
    "The `k` largest elements along an axis, largest first, and their indices: "
    "`values, indices = topk(x, 3)`.",
    (
        _X,
        Arg("k", "size", doc="how many"),
        Arg("axis", "axis", -1, doc="negative from the end"),
        Arg("largest", "bool", True, doc="false for the smallest, smallest first"),
    ),
    _topk_shape,
    _topk_lower,
    _topk_onnx,
    outputs=("values", "indices"),
    mixes=mixes_axis,
    cost=elements,
    examples=(
        Example("topk(x, 2)", {"x": "f32[3, 5]"}),
        Example("topk(x, 3, axis=0, largest=false)", {"x": "f64[4, 2]"}),
        Example("topk(x, 1, axis=-2)", {"x": "f32[2, 3, 4]"}),
    ),
)


def _sort_shape(s: Shapes, a: Any) -> tuple[TensorType, TensorType]:
    expect_tensor(a.x, "x", "`sort`")
    expect_number_dtype(a.x, "x", "`sort`")
    normalise_axis(a.axis, a.x.rank)
    return a.x, a.x.with_dtype("i64")


def _sort_lower(b: Any, a: Any) -> Any:
    found = b("torch.sort", a.x, dim=a.axis, descending=a.descending, stable=True)
    return b.item(found, 0), b.item(found, 1)


def _sort_onnx(o: Any, a: Any) -> Any:
    axis = a.axis % o.type("x").rank
    size = o.size(o.type("x").dims[axis])
    return o("TopK", a.x, size, outputs=2, axis=axis, largest=int(a.descending), sorted=1)


SORT = Op(
    "sort",
    "The elements in ascending order along an axis, and their indices: "
    "`values, indices = sort(x)`. Equal ones keep their order.",
    (
        _X,
        Arg("axis", "axis", -1, doc="negative from the end"),
        Arg("descending", "bool", False, doc="largest first"),
    ),
    _sort_shape,
    _sort_lower,
    _sort_onnx,
    outputs=("values", "indices"),
    mixes=mixes_axis,
    cost=elements,
    examples=(
        Example("sort(x)", {"x": "f32[3, 5]"}),
        Example("sort(x, axis=0, descending=true)", {"x": "f64[4, 2]"}),
        Example("sort(x, -2)", {"x": "i64[2, 6, 2] < 4"}, gradient=False),
    ),
)

OPS = (
    _arg("argmax", "ArgMax", "largest"),
    _arg("argmin", "ArgMin", "smallest"),
    CUMSUM,
    TOPK,
    SORT,
)
