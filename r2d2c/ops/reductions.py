"""Reductions along axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, normalise_axis
from r2d2c.ops.unary import expect_number_dtype, expect_tensor
from r2d2c.types import DimLike, TensorType

AXES = Arg("axes", "axes", None, doc="the axis or axes to reduce, negative from the end; the default is all")
KEEP = Arg("keep", "bool", False, doc="keep the reduced axes, with size 1")
_X = Arg("x", doc="any shape")


# -- shared by all reductions


def axes_of(x: TensorType, axes: tuple[int, ...] | int | None, argument: str = "axes") -> tuple[int, ...]:
    """The axes that are reduced, sorted and not negative."""
    if axes is None:
        return tuple(range(x.rank))
    given = axes if isinstance(axes, tuple) else (axes,)
    found = [normalise_axis(axis, x.rank, argument) for axis in given]
    if len(set(found)) < len(found):
        raise ShapeError(f"an axis is named twice in {given}", argument)
    return tuple(sorted(found))


def reduced_dims(x: TensorType, axes: tuple[int, ...] | int | None, keep: bool) -> tuple[DimLike, ...]:
    gone = axes_of(x, axes)
    if keep:
        return tuple(1 if axis in gone else dim for axis, dim in enumerate(x.dims))
    return tuple(dim for axis, dim in enumerate(x.dims) if axis not in gone)


def mixes_axes(a: Any) -> list[tuple[str, int]]:
    return [("x", axis) for axis in axes_of(a.x, a.axes)]


def mixes_axis(a: Any) -> list[tuple[str, int]]:
    return [("x", axis) for axis in axes_of(a.x, a.axis, "axis")]


def elements(a: Any) -> DimLike:
    """A cost: one operation for each element of ``x``."""
    count: DimLike = 1
    for dim in a.x.dims:
        count = count * dim
    return count


def onnx_reduce(o: Any, operator: str, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    """A node of a reduction whose axes are an input. A scalar has none."""
    return o(operator, x, *([o.ints(axes)] if axes else []), keepdims=int(keep))


def onnx_count(o: Any, dims: tuple[DimLike, ...], dtype: str) -> Any:
    """The number of elements, as a scalar of ``dtype``; its dims may be known only when the model runs."""
    known = math.prod(int(dim) for dim in dims if isinstance(dim, int))
    count = o.const(known, dtype)
    for dim in dims:
        if not isinstance(dim, int):
            count = o("Mul", count, o.cast(o("Squeeze", o.size(dim)), dtype))
    return count


def _shape(name: str, dtype: str = "same") -> Callable[[Shapes, Any], TensorType]:
    """dtype: of the result for integers and bools; ``"same"`` refuses bools."""

    def shape(s: Shapes, a: Any) -> TensorType:
        x: TensorType = a.x
        expect_tensor(x, "x", f"`{name}`")
        if dtype == "same":
            expect_number_dtype(x, "x", f"`{name}`")
        result = x.dtype if x.floating or dtype == "same" else dtype
        return TensorType(result, reduced_dims(x, a.axes, a.keep))

    return shape


def _examples(name: str, low: float = -2.0, integers: bool = True, more: str = "") -> tuple[Example, ...]:
    examples = (
        Example(f"{name}(x{more})", {"x": "f32[3, 4]"}, range=(low, 2.0)),
        Example(f"{name}(x, axes=-1{more})", {"x": "f32[3, 4]"}, range=(low, 2.0)),
        Example(f"{name}(x, axes=(0, -1), keep=true{more})", {"x": "f64[2, 3, 4]"}, range=(low, 2.0)),
    )
    whole = Example(f"{name}(x, axes=1{more})", {"x": "i64[2, 3] < 6"}, gradient=False)
    return (*examples, whole) if integers else examples


def _reduction(
    name: str,
    doc: str,
    lower: Callable[[Any, Any, tuple[int, ...]], Any],
    onnx: str | Callable[[Any, Any, tuple[int, ...]], Any],
    *,
    dtype: str = "same",
    examples: tuple[Example, ...],
    extra: tuple[Arg, ...] = (),
) -> Op:
    def form(o: Any, a: Any) -> Any:
        axes = axes_of(o.type("x"), a.axes)
        if callable(onnx):
            return onnx(o, a, axes)
        return onnx_reduce(o, onnx, o.cast(a.x, o.out[0].dtype), axes, a.keep)

    return Op(
        name,
        doc,
        (_X, AXES, KEEP, *extra),
        _shape(name, dtype),
        lambda b, a: lower(b, a, axes_of(b.type("x"), a.axes)),
        form,
        mixes=mixes_axes,
        cost=elements,
        examples=examples,
    )


def _all(a: Any) -> bool:
    return a.axes is None and not a.keep


# -- sum, mean, prod, max, min, logsumexp


def _sum(b: Any, a: Any, axes: tuple[int, ...]) -> Any:
    return b("torch.sum", a.x) if _all(a) else b("torch.sum", a.x, axes, a.keep)


def _mean(b: Any, a: Any, axes: tuple[int, ...]) -> Any:
    convert = {} if b.type("x").floating else {"dtype": b.dtype("f32")}
    return b("torch.mean", a.x, **convert) if _all(a) else b("torch.mean", a.x, axes, a.keep, **convert)


def _prod(b: Any, a: Any, axes: tuple[int, ...]) -> Any:
    if _all(a) or not axes:
        return b("torch.prod", a.x)
    x = a.x
    for axis in reversed(axes):  # torch takes one axis at a time
        x = b("torch.prod", x, axis, a.keep)
    return x


def _max(b: Any, a: Any, axes: tuple[int, ...]) -> Any:
    return b("torch.amax", a.x, axes, a.keep)


def _min(b: Any, a: Any, axes: tuple[int, ...]) -> Any:
    return b("torch.amin", a.x, axes, a.keep)


def _logsumexp(b: Any, a: Any, axes: tuple[int, ...]) -> Any:
    return b("torch.logsumexp", a.x, axes, a.keep)


def logsumexp_onnx(o: Any, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    """log(sum(exp(x - m))) + m with the maximum m; ReduceLogSumExp is not stable everywhere."""
    top = onnx_reduce(o, "ReduceMax", x, axes, True)
    total = onnx_reduce(o, "ReduceSum", o("Exp", o("Sub", x, top)), axes, True)
    result = o("Add", o("Log", total), top)
    return result if keep or not axes else o("Squeeze", result, o.ints(axes))


def _logsumexp_onnx(o: Any, a: Any, axes: tuple[int, ...]) -> Any:
    return logsumexp_onnx(o, o.cast(a.x, o.out[0].dtype), axes, a.keep)


# -- std, var, norm

_UNBIASED = Arg("unbiased", "bool", True, doc="divide by n - 1, as for a sample, instead of n")


def _spread(target: str) -> Callable[[Any, Any, tuple[int, ...]], Any]:
    def lower(b: Any, a: Any, axes: tuple[int, ...]) -> Any:
        x = a.x if b.type("x").floating else b.method("to", a.x, b.dtype("f32"))
        return b(target, x, axes, correction=int(a.unbiased), keepdim=a.keep)

    return lower


def _spread_onnx(root: bool) -> Callable[[Any, Any, tuple[int, ...]], Any]:
    def onnx(o: Any, a: Any, axes: tuple[int, ...]) -> Any:
        dtype = o.out[0].dtype
        x = o.cast(a.x, dtype)
        centred = o("Sub", x, onnx_reduce(o, "ReduceMean", x, axes, True))
        total = onnx_reduce(o, "ReduceSum", o("Mul", centred, centred), axes, a.keep)
        count = onnx_count(o, tuple(o.type("x").dims[axis] for axis in axes), dtype)
        if a.unbiased:
            count = o("Sub", count, o.const(1, dtype))
        variance = o("Div", total, count)
        return o("Sqrt", variance) if root else variance

    return onnx


def _norm(b: Any, a: Any, axes: tuple[int, ...]) -> Any:
    x = a.x if b.type("x").floating else b.method("to", a.x, b.dtype("f32"))
    return b("torch.linalg.vector_norm", x, a.p, axes, a.keep)


def _norm_shape(s: Shapes, a: Any) -> TensorType:
    if a.p <= 0:
        raise ShapeError(f"the p of a norm is above 0, not {a.p:g}", "p")
    return _shape("norm", "f32")(s, a)


def _norm_onnx(o: Any, a: Any) -> Any:
    dtype = o.out[0].dtype
    x, axes = o.cast(a.x, dtype), axes_of(o.type("x"), a.axes)
    if a.p in (1, 2):
        return onnx_reduce(o, "ReduceL1" if a.p == 1 else "ReduceL2", x, axes, a.keep)
    size = o("Abs", x)
    if a.p == math.inf:
        return onnx_reduce(o, "ReduceMax", size, axes, a.keep)
    total = onnx_reduce(o, "ReduceSum", o("Pow", size, o.const(a.p, dtype)), axes, a.keep)
    return o("Pow", total, o.const(1 / a.p, dtype))


NORM = Op(
    "norm",
    "The p-norm of the elements along the axes: `sum(abs(x) ^ p) ^ (1 / p)`; "
    "`p=inf` is the largest magnitude.",
    (_X, Arg("p", "float", 2.0, doc="above 0, or `inf`"), AXES, KEEP),
    _norm_shape,
    lambda b, a: _norm(b, a, axes_of(b.type("x"), a.axes)),
    _norm_onnx,
    mixes=mixes_axes,
    cost=elements,
    examples=(
        Example("norm(x)", {"x": "f32[3, 4]"}),
        Example("norm(x, axes=-1, keep=true)", {"x": "f64[2, 3, 4]"}),
        Example("norm(x, 1, axes=0)", {"x": "f32[3, 4]"}),
        Example("norm(x, 3, axes=(1, 2))", {"x": "f32[2, 3, 4]"}),
        Example("norm(x, axes=1)", {"x": "i64[2, 3] < 6"}, gradient=False),
    ),
)


_STD_DOC = " along the axes, of a sample (`n - 1`) unless `unbiased=false`"

OPS = (
    _reduction(
        "sum",
        "The sum along the axes; integers and bools give i64.",
        _sum,
        "ReduceSum",
        dtype="i64",
        examples=(*_examples("sum"), Example("sum(x, 0)", {"x": "bool[5]"}, gradient=False)),
    ),
    _reduction(
        "mean",
        "The mean along the axes; integers and bools give f32.",
        _mean,
        "ReduceMean",
        dtype="f32",
        examples=(*_examples("mean"), Example("mean(x)", {"x": "bool[5]"}, gradient=False)),
    ),
    _reduction(
        "prod",
        "The product along the axes; integers and bools give i64.",
        _prod,
        "ReduceProd",
        dtype="i64",
        examples=_examples("prod", 0.5),
    ),
    _reduction("max", "The largest element along the axes.", _max, "ReduceMax", examples=_examples("max")),
    _reduction("min", "The smallest element along the axes.", _min, "ReduceMin", examples=_examples("min")),
    _reduction(
        "logsumexp",
        "`log(sum(exp(x)))` along the axes, without overflow.",
        _logsumexp,
        _logsumexp_onnx,
        dtype="f32",
        examples=_examples("logsumexp"),
    ),
    _reduction(
        "std",
        f"The standard deviation{_STD_DOC}; its gradient is nan where it is 0.",
        _spread("torch.std"),
        _spread_onnx(True),
        dtype="f32",
        extra=(_UNBIASED,),
        examples=(*_examples("std"), *_examples("std", more=", unbiased=false")[1:2]),
    ),
    _reduction(
        "var",
        f"The variance{_STD_DOC}.",
        _spread("torch.var"),
        _spread_onnx(False),
        dtype="f32",
        extra=(_UNBIASED,),
        examples=(*_examples("var"), *_examples("var", more=", unbiased=false")[1:2]),
    ),
    NORM,
)
