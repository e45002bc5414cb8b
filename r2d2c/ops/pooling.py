"""Pooling and upsampling over the dims behind batch and channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.ops.convolution import per_axis, window_size
from r2d2c.ops.dims import expect_known, onnx_range
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating, expect_rank
from r2d2c.types import DimLike, TensorType

_X = Arg("x", doc="`[B, channels, …]`")


def _spatial(a: Any) -> list[tuple[str, int]]:
    return [("x", axis) for axis in range(2, a.x.rank)]


# -- windows


def _geometry(a: Any, n: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride, padding."""
    kernel = per_axis(a.kernel, n, "kernel")
    stride = kernel if a.stride is None else per_axis(a.stride, n, "stride")
    padding = per_axis(a.padding, n, "padding", 0)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ShapeError(f"a padding of {a.padding} is more than half of the kernel {a.kernel}", "padding")
    return kernel, stride, padding


def _pool_shape(name: str, n: int) -> Callable[[Shapes, Any], TensorType]:
    def shape(s: Shapes, a: Any) -> TensorType:
        x: TensorType = a.x
        expect_rank(x, n + 2, "x", name)
        expect_floating(x, "x")
        sizes = [
            window_size(s.resolve(size), kernel, stride, 2 * padding, 1, "a window")
            for size, kernel, stride, padding in zip(x.dims[2:], *_geometry(a, n), strict=True)
        ]
        return TensorType(x.dtype, (*x.dims[:2], *sizes))

    return shape


def _pool_cost(n: int) -> Callable[[Any], DimLike]:
    def cost(a: Any) -> DimLike:
        total: DimLike = a.x.dims[0] * a.x.dims[1]
        for size, kernel, stride, _ in zip(a.x.dims[2:], *_geometry(a, n), strict=True):
            total = total * kernel * (size // stride)
        return total

    return cost


def _pool(kind: str, n: int) -> Op:
    name = f"{kind}_pool{n}d"
    target = f"torch.{name}" if kind == "max" or n == 1 else f"torch.nn.functional.{name}"

    def onnx(o: Any, a: Any) -> Any:
        kernel, stride, padding = _geometry(a, n)
        more = {} if kind == "max" else {"count_include_pad": 1}
        operator = "MaxPool" if kind == "max" else "AveragePool"
        return o(operator, a.x, kernel_shape=kernel, strides=stride, pads=padding * 2, **more)

    long, odd = ("8", "9") if n == 1 else ("8, 6", "9, 7")
    kernels = "3" if n == 1 else "(3, 2)"
    return Op(
        name,
        f"The {'largest' if kind == 'max' else 'mean'} element of every window"
        + ("." if kind == "max" else "; padding counts as zeros."),
        (
            _X,
            Arg("kernel", "ints", doc="the window's size, an int or one for each spatial dim"),
            Arg("stride", "ints", None, doc="the default is the window's size"),
            Arg("padding", "ints", 0, doc="on both sides of each spatial dim"),
        ),
        _pool_shape(name, n),
        lambda b, a: b(target, a.x, *_geometry(a, n)),
        onnx,
        mixes=_spatial,
        cost=_pool_cost(n),
        examples=(
            Example(f"{name}(x, 2)", {"x": f"f32[2, 3, {long}]"}),
            Example(f"{name}(x, {kernels}, stride=2, padding=1)", {"x": f"f32[2, 3, {odd}]"}),
            Example(f"{name}(x, 3, stride=1)", {"x": f"f32[1, 2, {odd}]"}),
        ),
    )


# -- adaptive and global


def _targets(a: Any, n: int) -> tuple[int, ...]:
    return per_axis(a.sizes if len(a.sizes) > 1 else a.sizes[0], n, "sizes")


def _adaptive_shape(n: int) -> Callable[[Shapes, Any], TensorType]:
    def shape(s: Shapes, a: Any) -> TensorType:
        x: TensorType = a.x
        expect_rank(x, n + 2, "x", f"adaptive_avg_pool{n}d")
        expect_floating(x, "x")
        for size in a.sizes:
            expect_known(size, "sizes", "the output's size")
        return TensorType(x.dtype, (*x.dims[:2], *_targets(a, n)))

    return shape


def _averaging(o: Any, size: DimLike, target: int, dtype: str) -> Any:
    """``[target, size]``: the means of windows i·size/target … (i+1)·size/target, rounded outwards."""
    length = o.size(size)
    starts = o.const([[i] for i in range(target)], dtype="i64")
    ends = o.const([[i + 1] for i in range(target)], dtype="i64")
    count, one = o.const(target, dtype="i64"), o.const(1, dtype="i64")
    first = o("Div", o("Mul", starts, length), count)
    last = o("Div", o("Add", o("Mul", ends, length), o("Sub", count, one)), count)
    place = o("Unsqueeze", onnx_range(o, size), o.ints([0]))
    inside = o("And", o("GreaterOrEqual", place, first), o("Less", place, last))
    return o("Div", o.cast(inside, dtype), o.cast(o("Sub", last, first), dtype))


def _adaptive_onnx(n: int) -> Callable[[Any, Any], Any]:
    def onnx(o: Any, a: Any) -> Any:
        x, targets = o.type("x"), _targets(a, n)
        if targets == (1,) * n:
            return o("ReduceMean", a.x, o.ints(range(2, n + 2)), keepdims=1)
        last = _averaging(o, x.dims[-1], targets[-1], x.dtype)
        y = o("MatMul", a.x, o("Transpose", last, perm=[1, 0]))
        return y if n == 1 else o("MatMul", _averaging(o, x.dims[2], targets[0], x.dtype), y)

    return onnx


def _adaptive(n: int, examples: tuple[Example, ...]) -> Op:
    name = f"adaptive_avg_pool{n}d"
    return Op(
        name,
        "Means of windows that are chosen so that the output has the given size.",
        (_X, Arg("sizes", "sizes", doc="the output's size, one for all or one for each spatial dim")),
        _adaptive_shape(n),
        lambda b, a: b(f"torch.nn.functional.{name}", a.x, list(_targets(a, n))),
        _adaptive_onnx(n),
        mixes=_spatial,
        examples=examples,
    )


def _global_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_floating(x, "x")
    if x.rank < 3:
        raise ShapeError(f"global_avg_pool needs dims behind batch and channels, `x` is {x}", "x")
    return TensorType(x.dtype, x.dims[:2])


GLOBAL_AVG_POOL = Op(
    "global_avg_pool",
    "The mean over all dims behind batch and channels.",
    (_X,),
    _global_shape,
    lambda b, a: b("torch.mean", a.x, tuple(range(2, b.type("x").rank))),
    lambda o, a: o("ReduceMean", a.x, o.ints(range(2, o.type("x").rank)), keepdims=0),
    mixes=_spatial,
    examples=(
        Example("global_avg_pool(x)", {"x": "f32[2, 3, 4, 5]"}),
        Example("global_avg_pool(x)", {"x": "f64[2, 3, 7]"}),
    ),
)

# -- upsampling


def _upsample_scales(a: Any) -> tuple[int, ...]:
    return per_axis(a.scale, a.x.rank - 2, "scale")


def _upsample_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_floating(x, "x")
    if x.rank not in (3, 4, 5):
        raise ShapeError(f"upsample needs [B, channels] and one to three spatial dims, `x` is {x}", "x")
    sizes = [size * scale for size, scale in zip(x.dims[2:], _upsample_scales(a), strict=True)]
    return TensorType(x.dtype, (*x.dims[:2], *sizes))


def _upsample_lower(b: Any, a: Any) -> Any:
    scales = per_axis(a.scale, b.type("x").rank - 2, "scale")
    return b(
        "torch.nn.functional.interpolate", a.x, scale_factor=tuple(float(s) for s in scales), mode="nearest"
    )


def _upsample_onnx(o: Any, a: Any) -> Any:
    scales = per_axis(a.scale, o.type("x").rank - 2, "scale")
    values = o.const([1.0, 1.0, *(float(s) for s in scales)], dtype="float32")
    how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    return o("Resize", a.x, None, values, **how)


UPSAMPLE = Op(
    "upsample",
    "Every element repeated `scale` times along each spatial dim (nearest neighbour).",
    (Arg("x", doc="`[B, channels, …]`"), Arg("scale", "ints", doc="an int or one for each spatial dim")),
    _upsample_shape,
    _upsample_lower,
    _upsample_onnx,
    examples=(
        Example("upsample(x, 2)", {"x": "f32[2, 3, 4, 5]"}),
        Example("upsample(x, (1, 3))", {"x": "f32[2, 3, 4, 5]"}),
        Example("upsample(x, 3)", {"x": "f32[2, 3, 4]"}),
    ),
)

ADAPTIVE_AVG_POOL1D = _adaptive(
    1,
    (
        Example("adaptive_avg_pool1d(x, 3)", {"x": "f32[2, 3, 8]"}),
        Example("adaptive_avg_pool1d(x, 1)", {"x": "f64[2, 3, 5]"}),
    ),
)
ADAPTIVE_AVG_POOL2D = _adaptive(
    2,
    (
        Example("adaptive_avg_pool2d(x, (2, 3))", {"x": "f32[2, 3, 5, 7]"}),
        Example("adaptive_avg_pool2d(x, 2)", {"x": "f64[2, 3, 4, 6]"}),
        Example("adaptive_avg_pool2d(x, 1)", {"x": "f32[2, 3, 4, 6]"}),
    ),
)

OPS = (
    _pool("max", 1),
    _pool("max", 2),
    _pool("avg", 1),
    _pool("avg", 2),
    ADAPTIVE_AVG_POOL1D,
    ADAPTIVE_AVG_POOL2D,
    GLOBAL_AVG_POOL,
    UPSAMPLE,
)
