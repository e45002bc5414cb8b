"""Convolutions. Pooling and upsampling are in pooling.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.graph import Init
from r2d2c.ops.dims import expect_fixed, expect_known, expect_same_dtype, lower_sizes, onnx_sizes, product
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating, expect_rank
from r2d2c.types import DimLike, TensorType


def per_axis(value: Any, count: int, argument: str, least: int = 1) -> tuple[int, ...]:
    """One int for each spatial axis, from an int for all or a tuple."""
    parts = value if isinstance(value, tuple) else (value,) * count
    if len(parts) != count:
        raise ShapeError(f"`{argument}` has {len(parts)} numbers for {count} spatial dims", argument)
    if min(parts) < least:
        raise ShapeError(f"`{argument}` must be at least {least}, not {min(parts)}", argument)
    return tuple(int(part) for part in parts)


def window_size(size: DimLike, kernel: int, stride: int, padding: int, dilation: int, what: str) -> DimLike:
    """How many windows there are along an axis; ``padding`` is that of both sides together."""
    reach = dilation * (kernel - 1) + 1
    if isinstance(size, int) and size + padding < reach:
        raise ShapeError(
            f"{what} of {reach} does not fit in {size} with a padding of {padding}", "kernel", "x"
        )
    return (size + padding - reach) // stride + 1


def _margins(a: Any, n: int) -> list[tuple[int, int]]:
    """The padding before and after each spatial axis."""
    if not a.same:
        return [(p, p) for p in per_axis(a.padding, n, "padding", 0)]
    reaches = [
        d * (k - 1)
        for k, d in zip(per_axis(a.kernel, n, "kernel"), per_axis(a.dilation, n, "dilation"), strict=True)
    ]
    return [(reach // 2, reach - reach // 2) for reach in reaches]


def _conv_axes(n: int) -> tuple[str, ...]:
    return ("kernel",) if n == 1 else ("kernel_h", "kernel_w")


def _conv_params(n: int) -> Callable[[Shapes, Any], dict[str, ParamSpec]]:
    def params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
        expect_rank(a.x, n + 2, "x", f"conv{n}d")
        kernel = per_axis(a.kernel, n, "kernel")
        _divisible(a.x.dims[1], a.groups, "x")
        expect_fixed(s.resolve(a.x.dims[1]), "x", "the size of a weight")
        width = s.resolve(a.x.dims[1]) // a.groups
        fans = (product((width, *kernel)), product((a.out, *kernel)))
        dims = (a.out, width, *kernel)
        return {
            "weight": ParamSpec(dims, Init("kaiming_uniform"), ("out", "in", *_conv_axes(n)), fans=fans),
            "bias": ParamSpec((a.out,), Init("fan_in_uniform"), ("out",), fans=fans),
        }

    return params


def _check_channels(s: Shapes, a: Any, expected: tuple[Any, ...], per_sample: bool) -> None:
    """Dtypes, groups, the weight (``expected`` without the sample axis) and the bias."""
    x, weight, bias = a.x, a.weight, a.bias
    expect_floating(x, "x")
    expect_same_dtype(x, weight, "x", "weight")
    rank = len(expected)
    if weight.rank != rank and not (per_sample and weight.rank == rank + 1):
        shown = ", ".join(str(part) for part in expected)
        raise ShapeError(f"a weight is [{shown}] here; this one is {weight}", "weight")
    for dim, wanted in zip(weight.dims[-rank:], expected, strict=True):
        if not s.unify(dim, wanted):
            raise ShapeError(
                f"the weight {weight} has {dim} where {wanted} is needed: `x` is {x}", "weight", "x"
            )
    if weight.rank > rank and not s.unify(weight.dims[0], x.dims[0]):
        raise ShapeError(f"the weight {weight} is per sample, and `x` is {x}", "weight", "x")
    if bias is not None and not (bias.rank in (1, 2) and s.unify(bias.dims[-1], a.out)):
        raise ShapeError(f"the bias {bias} does not fit {a.out} outputs", "bias")
    if bias is not None and bias.rank == 2 and not s.unify(bias.dims[0], x.dims[0]):
        raise ShapeError(f"the bias {bias} is per sample, and `x` is {x}", "bias", "x")


def _divisible(size: Any, groups: int, argument: str) -> None:
    if groups < 1 or (isinstance(size, int) and size % groups):
        raise ShapeError(f"{size} channels do not divide into {groups} groups", "groups", argument)


def _conv_shape(n: int) -> Callable[[Shapes, Any], TensorType]:
    def shape(s: Shapes, a: Any) -> TensorType:
        x: TensorType = a.x
        expect_rank(x, n + 2, "x", f"conv{n}d")
        kernel, stride = per_axis(a.kernel, n, "kernel"), per_axis(a.stride, n, "stride")
        dilation = per_axis(a.dilation, n, "dilation")
        channels = s.resolve(x.dims[1])
        _divisible(channels, a.groups, "x")
        _divisible(a.out, a.groups, "out")
        _check_channels(s, a, (a.out, channels // a.groups, *kernel), per_sample=True)
        sizes = [
            window_size(s.resolve(size), k, st, sum(margin), d, "a kernel")
            for size, k, st, margin, d in zip(
                x.dims[2:], kernel, stride, _margins(a, n), dilation, strict=True
            )
        ]
        return TensorType(x.dtype, (x.dims[0], a.out, *sizes))

    return shape


def _unsqueezed_bias(c: Any, bias: Any, type_: TensorType, n: int) -> Any:
    """A bias per sample or per channel, shaped to be added; the method's spelling is that of torch."""
    dims = (1, type_.dims[0]) if type_.rank == 1 else type_.dims
    return c.method("reshape", bias, lower_sizes(c, (*dims, *(1,) * n)))


def _conv_lower(n: int) -> Callable[[Any, Any], Any]:
    def lower(b: Any, a: Any) -> Any:
        x, weight, bias, groups = a.x, a.weight, a.bias, a.groups
        stride, dilation = per_axis(a.stride, n, "stride"), per_axis(a.dilation, n, "dilation")
        margins = _margins(a, n)
        batch, channels, *spatial = b.type("x").dims
        padding: Any = tuple(before for before, _ in margins)
        if any(before != after for before, after in margins):
            x = b("torch.nn.functional.pad", x, [side for margin in reversed(margins) for side in margin])
            spatial = [size + sum(margin) for size, margin in zip(spatial, margins, strict=True)]
            padding = (0,) * n
        per_sample = b.type("weight").rank == n + 3
        apart = bias is not None and (per_sample or b.type("bias").rank == 2)
        if per_sample:
            # One kernel a sample: the samples become groups of a single convolution.
            x = b.method("reshape", x, lower_sizes(b, (1, batch * channels, *spatial)))
            weight = b("torch.flatten", weight, 0, 1)
            groups = b.size(batch * groups)
        plain = None if apart else bias
        y = b(f"torch.nn.functional.conv{n}d", x, weight, plain, stride, padding, dilation, groups)
        if per_sample:
            y = b.method("reshape", y, b.sizes(b.out[0].dims))
        return b("torch.add", y, _unsqueezed_bias(b, bias, b.type("bias"), n)) if apart else y

    return lower


def _onnx_bias(o: Any, y: Any, bias: Any, n: int) -> Any:
    type_ = o.type("bias")
    dims = (1, type_.dims[0]) if type_.rank == 1 else type_.dims
    return o("Add", y, o("Reshape", bias, onnx_sizes(o, (*dims, *(1,) * n))))


def _patches(o: Any, a: Any, n: int, kernel: tuple[int, ...], geometry: dict[str, Any]) -> Any:
    """``[B, groups, in/groups * area, positions]``: a convolution with one-hot kernels cuts windows out."""
    import numpy

    type_ = o.type("x")
    channels, area = int(type_.dims[1]), int(numpy.prod(kernel))
    one_hot = numpy.tile(numpy.eye(area).reshape(area, 1, *kernel), (channels, 1, *(1,) * n))
    cut = o("Conv", a.x, o.const(one_hot, dtype=type_.dtype), group=channels, **geometry)
    return o("Reshape", cut, o.ints([0, a.groups, channels // a.groups * area, -1]))


def _conv_onnx(n: int) -> Callable[[Any, Any], Any]:
    def onnx(o: Any, a: Any) -> Any:
        margins, kernel = _margins(a, n), per_axis(a.kernel, n, "kernel")
        geometry = {
            "kernel_shape": kernel,
            "strides": per_axis(a.stride, n, "stride"),
            "dilations": per_axis(a.dilation, n, "dilation"),
            "pads": (*(before for before, _ in margins), *(after for _, after in margins)),
        }
        bias = a.bias
        if o.type("weight").rank == n + 3:
            # Conv has a fixed number of groups, and the batch has no fixed size: windows times a matrix each.
            expect_known(o.type("x").dims[1], "x", "the number of channels")
            windows = _patches(o, a, n, kernel, geometry)
            rows = o("Reshape", a.weight, o.ints([0, a.groups, int(a.out) // a.groups, -1]))
            y = o("Reshape", o("MatMul", rows, windows), onnx_sizes(o, o.out[0].dims))
        elif bias is not None and o.type("bias").rank == 1:
            return o("Conv", a.x, a.weight, bias, group=a.groups, **geometry)
        else:
            y = o("Conv", a.x, a.weight, group=a.groups, **geometry)
        return y if bias is None else _onnx_bias(o, y, bias, n)

    return onnx


def _conv_mixes(n: int) -> Callable[[Any], list[tuple[str, int]]]:
    def mixes(a: Any) -> list[tuple[str, int]]:
        return [("x", axis) for axis in range(1, n + 2)]

    return mixes


def _conv_cost(n: int) -> Callable[[Any], DimLike]:
    def cost(a: Any) -> DimLike:
        strides = per_axis(a.stride, n, "stride")
        positions = [size // stride for size, stride in zip(a.x.dims[2:], strides, strict=True)]
        width = a.x.dims[1] // a.groups
        return product((2, a.x.dims[0], a.out, width, *per_axis(a.kernel, n, "kernel"), *positions))

    return cost


def _conv(n: int, examples: tuple[Example, ...]) -> Op:
    spatial = ("length",) if n == 1 else ("height", "width")
    shown, kernel = ", ".join(spatial), ", ".join(_conv_axes(n))
    return Op(
        f"conv{n}d",
        f"Convolution over {' and '.join(spatial)}; `weight=` may be one kernel a sample.",
        (
            Arg("x", doc=f"`[B, in, {shown}]`"),
            Arg("out", "size", doc="the number of output channels"),
            Arg("kernel", "ints", doc="its size, an int or one for each spatial dim"),
            Arg("stride", "ints", 1),
            Arg("padding", "ints", 0, doc="zeros on both sides of each spatial dim"),
            Arg("dilation", "ints", 1),
            Arg("groups", "int", 1),
            Arg(
                "same",
                "bool",
                False,
                doc="pad so that the output has ceil(size / stride), in place of `padding`",
            ),
            Arg("weight", "param", doc=f"`[out, in/groups, {kernel}]`, or per sample with `B` in front"),
            Arg("bias", "param", doc="`[out]`, or per sample `[B, out]`; `bias=false` for none"),
        ),
        _conv_shape(n),
        _conv_lower(n),
        _conv_onnx(n),
        params=_conv_params(n),
        mixes=_conv_mixes(n),
        cost=_conv_cost(n),
        examples=examples,
    )


CONV1D = _conv(
    1,
    (
        Example("conv1d(x, 4, 3)", {"x": "f32[2, 3, 8]"}),
        Example("conv1d(x, 4, 4, same=true, bias=false)", {"x": "f32[2, 3, 8]"}),
        Example("conv1d(x, 4, 3, stride=2, padding=1, dilation=2, groups=2)", {"x": "f32[2, 6, 9]"}),
        Example(
            "conv1d(x, 4, 3, same=true, weight=w, bias=c)",
            {"x": "f32[2, 3, 8]", "w": "f32[2, 4, 3, 3]", "c": "f32[2, 4]"},
        ),
    ),
)
CONV2D = _conv(
    2,
    (
        Example("conv2d(x, 4, 3)", {"x": "f32[2, 3, 8, 7]"}, tolerance=2e-5),
        Example("conv2d(x, 4, (3, 5), stride=(2, 1), same=true)", {"x": "f32[2, 3, 8, 7]"}, tolerance=2e-5),
        Example("conv2d(x, 6, 2, stride=2, padding=1, groups=3, bias=false)", {"x": "f32[2, 3, 6, 6]"}),
        Example("conv2d(x, 4, 2, same=true, weight=w)", {"x": "f32[3, 2, 5, 6]", "w": "f32[3, 4, 2, 2, 2]"}),
        Example(
            "conv2d(x, 4, 3, stride=2, padding=1, groups=2, weight=w, bias=c)",
            {"x": "f32[3, 4, 5, 6]", "w": "f32[3, 4, 2, 3, 3]", "c": "f32[3, 4]"},
            tolerance=2e-5,
        ),
    ),
)

# -- transposed


def _transposed_params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    expect_rank(a.x, 4, "x", "conv_transpose2d")
    _divisible(a.out, a.groups, "out")
    expect_fixed(s.resolve(a.x.dims[1]), "x", "the size of a weight")
    kernel = per_axis(a.kernel, 2, "kernel")
    width = a.out // a.groups
    fans = (product((width, *kernel)), product((a.x.dims[1], *kernel)))
    dims = (a.x.dims[1], width, *kernel)
    return {
        "weight": ParamSpec(dims, Init("kaiming_uniform"), ("in", "out", *_conv_axes(2)), fans=fans),
        "bias": ParamSpec((a.out,), Init("fan_in_uniform"), ("out",), fans=fans),
    }


def _transposed_geometry(a: Any) -> list[tuple[int, ...]]:
    """Kernel, stride, padding, further size of the output, dilation."""
    stride = per_axis(a.stride, 2, "stride")
    extra = per_axis(a.extra, 2, "extra", 0)
    dilation = per_axis(a.dilation, 2, "dilation")
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ShapeError(
            f"`extra` must be less than the stride {a.stride} or the dilation {a.dilation}", "extra"
        )
    return [per_axis(a.kernel, 2, "kernel"), stride, per_axis(a.padding, 2, "padding", 0), extra, dilation]


def _transposed_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_rank(x, 4, "x", "conv_transpose2d")
    geometry = _transposed_geometry(a)
    channels = s.resolve(x.dims[1])
    _divisible(channels, a.groups, "x")
    _divisible(a.out, a.groups, "out")
    _check_channels(s, a, (channels, a.out // a.groups, *geometry[0]), per_sample=False)
    sizes = [
        (s.resolve(size) - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
        for size, kernel, stride, padding, extra, dilation in zip(x.dims[2:], *geometry, strict=True)
    ]
    if any(isinstance(size, int) and size < 1 for size in sizes):
        raise ShapeError(f"nothing is left of {x} with a padding of {a.padding}", "padding", "x")
    return TensorType(x.dtype, (x.dims[0], a.out, *sizes))


def _transposed_lower(b: Any, a: Any) -> Any:
    _, stride, padding, extra, dilation = _transposed_geometry(a)
    apart = a.bias is not None and b.type("bias").rank == 2
    bias = None if apart else a.bias
    y = b(
        "torch.nn.functional.conv_transpose2d",
        a.x,
        a.weight,
        bias,
        stride,
        padding,
        extra,
        a.groups,
        dilation,
    )
    return b("torch.add", y, _unsqueezed_bias(b, a.bias, b.type("bias"), 2)) if apart else y


def _transposed_onnx(o: Any, a: Any) -> Any:
    kernel, stride, padding, extra, dilation = _transposed_geometry(a)
    apart = a.bias is not None and o.type("bias").rank == 2
    y = o(
        "ConvTranspose", a.x, a.weight, *([] if apart or a.bias is None else [a.bias]), kernel_shape=kernel,
        strides=stride, pads=(*padding, *padding), output_padding=extra, dilations=dilation, group=a.groups,
    )  # fmt: skip
    return _onnx_bias(o, y, a.bias, 2) if apart else y


CONV_TRANSPOSE2D = Op(
    "conv_transpose2d",
    "Transposed convolution over height and width, to make an image larger.",
    (
        Arg("x", doc="`[B, in, height, width]`"),
        Arg("out", "size", doc="the number of output channels"),
        Arg("kernel", "ints"),
        Arg("stride", "ints", 1),
        Arg("padding", "ints", 0, doc="rows and columns taken off each side of the result"),
        Arg("extra", "ints", 0, doc="rows and columns added to one side of the result"),
        Arg("dilation", "ints", 1),
        Arg("groups", "int", 1),
        Arg("weight", "param", doc="`[in, out/groups, kernel_h, kernel_w]`"),
        Arg("bias", "param", doc="`[out]`, or per sample `[B, out]`; `bias=false` for none"),
    ),
    _transposed_shape,
    _transposed_lower,
    _transposed_onnx,
    params=_transposed_params,
    mixes=_conv_mixes(2),
    cost=lambda a: product((2, *a.x.dims, a.out // a.groups, *per_axis(a.kernel, 2, "kernel"))),
    examples=(
        Example("conv_transpose2d(x, 4, 3)", {"x": "f32[2, 3, 5, 4]"}, tolerance=2e-5),
        Example(
            "conv_transpose2d(x, 4, 3, stride=2, padding=1, extra=1, groups=2)", {"x": "f32[2, 6, 4, 3]"}
        ),
        Example(
            "conv_transpose2d(x, 4, 2, stride=2, dilation=2, bias=c)",
            {"x": "f32[2, 3, 4, 3]", "c": "f32[2, 4]"},
        ),
    ),
)

OPS = (CONV1D, CONV2D, CONV_TRANSPOSE2D)
