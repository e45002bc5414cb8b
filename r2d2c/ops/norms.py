"""Normalisation within a sample. Weights and biases are one number a channel, or one a sample and channel.

That over the batch is in batch_norm.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r2d2c.graph import Init
from r2d2c.ops.dims import expect_fixed, expect_tensor, lower_sizes, onnx_sizes
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes, normalise_axis
from r2d2c.ops.shapes import expect_floating
from r2d2c.types import DimLike, TensorType

WEIGHT = Arg("weight", "param", doc="a factor for each channel, or per sample; `weight=false` for none")
BIAS = Arg("bias", "param", doc="added to each channel, or per sample; `bias=false` for none")


def eps(value: float) -> Arg:
    return Arg("eps", "float", value, doc="keeps the division finite")


# -- scale and shift


def _affine_params(dims: Sequence[DimLike], axes: tuple[str, ...]) -> dict[str, ParamSpec]:
    for dim in dims:
        expect_fixed(dim, "x", "a normalised size that has a weight")
    return {
        "weight": ParamSpec(tuple(dims), Init("ones"), axes),
        "bias": ParamSpec(tuple(dims), Init("zeros"), axes),
    }


def check_affine(s: Shapes, a: Any, dims: Sequence[DimLike]) -> None:
    """Weight and bias have ``dims``, or the batch in front of them."""
    x = a.x
    for name in ("weight", "bias"):
        given = getattr(a, name, None)
        if given is None:
            continue
        fits = given.rank >= len(dims) and all(map(s.unify, given.dims[given.rank - len(dims) :], dims))
        extra = given.rank - len(dims)
        if (
            not fits
            or extra > 1
            or (extra and not (x.rank > len(dims) and s.unify(given.dims[0], x.dims[0])))
        ):
            shown = ", ".join(str(dim) for dim in dims)
            raise ShapeError(
                f"the {name} is {given}, and [{shown}] is needed, or [B, {shown}]: `x` is {x}", name, "x"
            )


def _spread(x: TensorType, given: TensorType, first: int, count: int) -> tuple[DimLike, ...]:
    """The dims a weight takes to be multiplied with ``x``: its own stand at the axes ``first``, …"""
    per_sample = given.rank > count
    dims: list[DimLike] = [1] * x.rank
    dims[first : first + count] = given.dims[1:] if per_sample else given.dims
    if per_sample:
        dims[0] = given.dims[0]
    return tuple(dims)


def lower_affine(b: Any, a: Any, y: Any, first: int, count: int) -> Any:
    """``y * weight + bias``, whatever their ranks."""
    for name, target in (("weight", "torch.mul"), ("bias", "torch.add")):
        value = getattr(a, name, None)
        if value is not None:
            dims = _spread(b.type("x"), b.type(name), first, count)
            y = b(target, y, b.method("reshape", value, lower_sizes(b, dims)))
    return y


def onnx_affine(o: Any, a: Any, y: Any, first: int, count: int) -> Any:
    for name, operator in (("weight", "Mul"), ("bias", "Add")):
        value = getattr(a, name, None)
        if value is not None:
            dims = _spread(o.type("x"), o.type(name), first, count)
            y = o(operator, y, o("Reshape", value, onnx_sizes(o, dims)))
    return y


def is_shared(c: Any, a: Any, count: int) -> bool:
    """Whether weight and bias, where given, are not per sample; then torch's own functions take them."""
    names = [name for name in ("weight", "bias") if getattr(a, name, None) is not None]
    return all(c.type(name).rank == count for name in names)


def _onnx_standardise(o: Any, x: Any, axes: Sequence[int], eps: float, centre: bool = True) -> Any:
    """Mean 0 (unless not ``centre``) and mean square 1 along axes."""
    dtype, where = o.dtype_of(x), o.ints(list(axes))
    if centre:
        x = o("Sub", x, o("ReduceMean", x, where, keepdims=1))
    square = o("ReduceMean", o("Mul", x, x), where, keepdims=1)
    return o("Div", x, o("Sqrt", o("Add", square, o.const(eps, dtype=dtype))))


# -- over the last dims


def _last(a: Any) -> tuple[DimLike, ...]:
    x: TensorType = a.x
    expect_tensor(x, "x", "a norm")
    if not 1 <= a.dims <= x.rank:
        raise ShapeError(f"`x` is {x}: its last {a.dims} dims cannot be normalised", "dims", "x")
    return x.dims[x.rank - a.dims :]


def _last_params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    dims = [s.resolve(dim) for dim in _last(a)]
    return _affine_params(
        dims, ("channel",) if len(dims) == 1 else tuple(f"channel_{n}" for n in range(len(dims)))
    )


def _last_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_floating(x, "x")
    check_affine(s, a, _last(a))
    return x


def _last_mixes(a: Any) -> list[tuple[str, int]]:
    return [("x", axis) for axis in range(a.x.rank - a.dims, a.x.rank)]


def _layer_lower(b: Any, a: Any) -> Any:
    sizes = b.sizes(b.type("x").dims[b.type("x").rank - a.dims :])
    if is_shared(b, a, a.dims):
        return b("torch.nn.functional.layer_norm", a.x, sizes, a.weight, a.bias, a.eps)
    y = b("torch.nn.functional.layer_norm", a.x, sizes, None, None, a.eps)
    return lower_affine(b, a, y, b.type("x").rank - a.dims, a.dims)


def _layer_onnx(o: Any, a: Any) -> Any:
    first = o.type("x").rank - a.dims
    if a.weight is not None and is_shared(o, a, a.dims):
        given = [a.weight] if a.bias is None else [a.weight, a.bias]
        return o("LayerNormalization", a.x, *given, axis=-a.dims, epsilon=a.eps)
    y = _onnx_standardise(o, a.x, range(first, first + a.dims), a.eps)
    return onnx_affine(o, a, y, first, a.dims)


_DIMS = Arg("dims", "int", 1, doc="how many of the last dims are normalised together")

LAYER_NORM = Op(
    "layer_norm",
    "Mean 0 and variance 1 over the last dims, then a trained scale and shift.",
    (Arg("x"), _DIMS, eps(1e-5), WEIGHT, BIAS),
    _last_shape,
    _layer_lower,
    _layer_onnx,
    params=_last_params,
    mixes=_last_mixes,
    examples=(
        Example("layer_norm(x)", {"x": "f32[3, 8]"}),
        Example("layer_norm(x, 2, bias=false)", {"x": "f32[2, 4, 5]"}),
        Example("layer_norm(x, weight=false, bias=false)", {"x": "f64[2, 3, 8]"}),
        Example("layer_norm(x, weight=w, bias=c)", {"x": "f32[2, 3, 8]", "w": "f32[2, 8]", "c": "f32[2, 8]"}),
    ),
)


def _rms_lower(b: Any, a: Any) -> Any:
    sizes = b.sizes(b.type("x").dims[b.type("x").rank - a.dims :])
    if is_shared(b, a, a.dims):
        return b("torch.nn.functional.rms_norm", a.x, sizes, a.weight, a.eps)
    y = b("torch.nn.functional.rms_norm", a.x, sizes, None, a.eps)
    return lower_affine(b, a, y, b.type("x").rank - a.dims, a.dims)


def _rms_onnx(o: Any, a: Any) -> Any:
    first = o.type("x").rank - a.dims
    y = _onnx_standardise(o, a.x, range(first, first + a.dims), a.eps, centre=False)
    return onnx_affine(o, a, y, first, a.dims)


RMS_NORM = Op(
    "rms_norm",
    "Mean square 1 over the last dims, then a trained scale.",
    (Arg("x"), _DIMS, eps(1e-6), WEIGHT),
    _last_shape,
    _rms_lower,
    _rms_onnx,
    params=lambda s, a: {"weight": _last_params(s, a)["weight"]},
    mixes=_last_mixes,
    examples=(
        Example("rms_norm(x)", {"x": "f32[3, 8]"}),
        Example("rms_norm(x, 2, weight=false)", {"x": "f64[2, 4, 5]"}),
        Example("rms_norm(x, weight=w)", {"x": "f32[2, 3, 8]", "w": "f32[2, 8]"}),
    ),
)

# -- over groups of channels


def channels_of(a: Any) -> DimLike:
    expect_floating(a.x, "x")
    if a.x.rank < 2:
        raise ShapeError(f"channels are axis 1, and `x` is {a.x}", "x")
    return a.x.dims[1]  # type: ignore[no-any-return]


def channel_params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    return _affine_params((s.resolve(channels_of(a)),), ("channel",))


def _group_shape(s: Shapes, a: Any) -> TensorType:
    channels = s.resolve(channels_of(a))
    if a.groups < 1 or (isinstance(channels, int) and channels % a.groups):
        raise ShapeError(f"{channels} channels do not divide into {a.groups} groups", "groups", "x")
    check_affine(s, a, (channels,))
    return a.x  # type: ignore[no-any-return]


def _group_mixes(a: Any) -> list[tuple[str, int]]:
    return [("x", axis) for axis in range(1, a.x.rank)]


def _lower_groups(b: Any, a: Any, groups: Any) -> Any:
    if is_shared(b, a, 1):
        return b("torch.nn.functional.group_norm", a.x, groups, a.weight, a.bias, a.eps)
    return lower_affine(b, a, b("torch.nn.functional.group_norm", a.x, groups, None, None, a.eps), 1, 1)


def _group_onnx(o: Any, a: Any) -> Any:
    grouped = o("Reshape", a.x, o.ints([0, a.groups, -1]))
    y = o("Reshape", _onnx_standardise(o, grouped, [2], a.eps), onnx_sizes(o, o.type("x").dims))
    return onnx_affine(o, a, y, 1, 1)


GROUP_NORM = Op(
    "group_norm",
    "Mean 0 and variance 1 over each group of channels of a sample, then a trained scale and shift.",
    (Arg("x", doc="`[B, channels, …]`"), Arg("groups", "int"), eps(1e-5), WEIGHT, BIAS),
    _group_shape,
    lambda b, a: _lower_groups(b, a, a.groups),
    _group_onnx,
    params=channel_params,
    mixes=_group_mixes,
    examples=(
        Example("group_norm(x, 2)", {"x": "f32[3, 8]"}),
        Example("group_norm(x, 4, bias=false)", {"x": "f32[2, 8, 3, 5]"}),
        Example("group_norm(x, 1, weight=false, bias=false)", {"x": "f64[2, 6, 5]"}),
        Example(
            "group_norm(x, 2, weight=w, bias=c)", {"x": "f32[2, 6, 5]", "w": "f32[2, 6]", "c": "f32[2, 6]"}
        ),
    ),
)


def _instance_shape(s: Shapes, a: Any) -> TensorType:
    channels = channels_of(a)
    if a.x.rank < 3:
        raise ShapeError(
            f"instance_norm needs dims behind the channels, `x` is {a.x}", "x", fix="use `layer_norm`"
        )
    check_affine(s, a, (channels,))
    return a.x  # type: ignore[no-any-return]


def _instance_onnx(o: Any, a: Any) -> Any:
    return onnx_affine(o, a, _onnx_standardise(o, a.x, range(2, o.type("x").rank), a.eps), 1, 1)


INSTANCE_NORM = Op(
    "instance_norm",
    "Mean 0 and variance 1 over each channel of a sample, then a trained scale and shift.",
    (Arg("x", doc="`[B, channels, …]`"), eps(1e-5), WEIGHT, BIAS),
    _instance_shape,
    lambda b, a: _lower_groups(b, a, b.size(b.type("x").dims[1])),
    _instance_onnx,
    params=channel_params,
    mixes=lambda a: [("x", axis) for axis in range(2, a.x.rank)],
    examples=(
        Example("instance_norm(x)", {"x": "f32[2, 4, 3, 5]"}),
        Example("instance_norm(x, weight=false, bias=false)", {"x": "f64[2, 4, 7]"}),
        Example("instance_norm(x, weight=w)", {"x": "f32[2, 4, 7]", "w": "f32[2, 4]"}),
    ),
)

# -- unit length


def _l2_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_floating(x, "x")
    expect_tensor(x, "x", "l2_normalize")
    normalise_axis(a.axis, x.rank)
    return x


def _l2_onnx(o: Any, a: Any) -> Any:
    dtype = o.type("x").dtype
    length = o("ReduceL2", a.x, o.ints([a.axis]), keepdims=1)
    return o("Div", a.x, o("Max", length, o.const(a.eps, dtype=dtype)))


L2_NORMALIZE = Op(
    "l2_normalize",
    "`x` divided by its length along an axis.",
    (Arg("x"), Arg("axis", "axis", -1), eps(1e-12)),
    _l2_shape,
    lambda b, a: b("torch.nn.functional.normalize", a.x, 2.0, a.axis, a.eps),
    _l2_onnx,
    mixes=lambda a: [("x", normalise_axis(a.axis, a.x.rank))],
    examples=(
        Example("l2_normalize(x)", {"x": "f32[3, 4]"}),
        Example("l2_normalize(x, axis=1)", {"x": "f64[2, 3, 4]"}),
        Example("l2_normalize(x, 0)", {"x": "f32[5]"}),
    ),
)

OPS = (LAYER_NORM, RMS_NORM, GROUP_NORM, INSTANCE_NORM, L2_NORMALIZE)
