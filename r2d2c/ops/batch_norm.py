"""Normalisation over the batch, with running statistics."""

from __future__ import annotations

from typing import Any

from r2d2c.graph import Init
from r2d2c.ops.norms import (
    BIAS,
    WEIGHT,
    channel_params,
    channels_of,
    check_affine,
    eps,
    is_shared,
    lower_affine,
    onnx_affine,
)
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes
from r2d2c.types import TensorType


def _batch_params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    found = channel_params(s, a)
    dims = found["weight"].dims
    found["mean"] = ParamSpec(dims, Init("zeros"), ("channel",), kind="statistic")
    found["var"] = ParamSpec(dims, Init("ones"), ("channel",), kind="statistic")
    return found


def _batch_shape(s: Shapes, a: Any) -> tuple[TensorType, ...]:
    channels = channels_of(a)
    check_affine(s, a, (channels,))
    for name in ("mean", "var"):
        given = getattr(a, name)
        if given is None or given.rank != 1 or not s.unify(given.dims[0], channels):
            raise ShapeError(f"`{name}` is {given}, and [{channels}] is needed", name, "x")
    if not 0 < a.momentum <= 1:
        raise ShapeError(f"`momentum` is more than 0 and at most 1, not {a.momentum}", "momentum")
    return a.x, a.mean, a.var


def _batch_lower(b: Any, a: Any) -> Any:
    shared = is_shared(b, a, 1)
    weight, bias = (a.weight, a.bias) if shared else (None, None)
    if b.training:
        y = b("torch.nn.functional.batch_norm", a.x, None, None, weight, bias, True, 0.0, a.eps)
        axes = [axis for axis in range(b.type("x").rank) if axis != 1]
        # Under autocast `x` may have fewer bits than the statistics.
        seen = b("torch.var_mean", b.method("to", b.method("detach", a.x), a.mean), axes, correction=1)
        new_mean = b("torch.lerp", a.mean, b.item(seen, 1), a.momentum)
        new_var = b("torch.lerp", a.var, b.item(seen, 0), a.momentum)
    else:
        y = b("torch.nn.functional.batch_norm", a.x, a.mean, a.var, weight, bias, False, 0.0, a.eps)
        new_mean, new_var = a.mean, a.var
    return (y if shared else lower_affine(b, a, y, 1, 1)), new_mean, new_var


def _batch_onnx(o: Any, a: Any) -> Any:
    dtype, dims = o.type("mean").dtype, o.type("mean").dims
    shared = is_shared(o, a, 1)
    weight, bias = (a.weight, a.bias) if shared else (None, None)
    size = int(dims[0])
    weight = o.const([1.0] * size, dtype=dtype) if weight is None else weight
    bias = o.const([0.0] * size, dtype=dtype) if bias is None else bias
    y = o("BatchNormalization", a.x, weight, bias, a.mean, a.var, epsilon=a.eps)
    return (y if shared else onnx_affine(o, a, y, 1, 1)), a.mean, a.var


# No `mixes`: inference takes the running statistics, so no sample's result depends on another's.
BATCH_NORM = Op(
    "batch_norm",
    "Mean 0 and variance 1 over batch and space, then a trained scale and shift. Learning takes the batch's "
    "mean and variance and moves the running ones towards them; inference takes the running ones.",
    (
        Arg("x", doc="`[B, channels, …]`"),
        eps(1e-5),
        Arg("momentum", "float", 0.1, doc="how far the running statistics move at a step"),
        WEIGHT,
        BIAS,
        Arg("mean", "param", doc="the running mean of each channel"),
        Arg("var", "param", doc="the running variance of each channel"),
    ),
    _batch_shape,
    _batch_lower,
    _batch_onnx,
    outputs=("out", "new_mean", "new_var"),
    params=_batch_params,
    examples=(
        Example(
            "batch_norm(x, mean=m, var=v)", {"x": "f32[6, 4]", "m": "f32[4]", "v": "f32[4]"}, range=(0.1, 2.0)
        ),
        Example(
            "batch_norm(x, bias=false, mean=m, var=v)",
            {"x": "f32[3, 4, 5, 2]", "m": "f32[4]", "v": "f32[4]"},
            range=(0.1, 2.0),
        ),
        Example(
            "batch_norm(x, momentum=0.3, weight=w, bias=false, mean=m, var=v)",
            {"x": "f32[3, 4, 5]", "w": "f32[3, 4]", "m": "f32[4]", "v": "f32[4]"},
            range=(0.1, 2.0),
        ),
        Example("batch_norm(x)", {"x": "f32[6, 4, 3]"}, range=(0.1, 2.0)),
    ),
)

OPS = (BATCH_NORM,)
