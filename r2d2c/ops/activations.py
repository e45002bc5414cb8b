"""Activation functions. They need a floating dtype and keep it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from r2d2c.graph import Init
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes, normalise_axis
from r2d2c.ops.reductions import mixes_axis
from r2d2c.ops.shapes import expect_floating
from r2d2c.ops.unary import expect_tensor, expm1_onnx, log1p_onnx
from r2d2c.types import DimLike, TensorType

_X = Arg("x", doc="any shape")
_AXIS = Arg("axis", "axis", -1, doc="negative from the end")


def _same(s: Shapes, a: Any) -> TensorType:
    expect_tensor(a.x, "x", "an activation")
    expect_floating(a.x, "x")
    return a.x  # type: ignore[no-any-return]


def _along(s: Shapes, a: Any) -> TensorType:
    x = _same(s, a)
    normalise_axis(a.axis, x.rank)
    return x


def _examples(name: str, *more: str) -> tuple[Example, ...]:
    return (
        Example(f"{name}(x)", {"x": "f32[3, 4]"}, range=(-4.0, 4.0)),
        Example(f"{name}(x)", {"x": "f64[2, 1, 3]"}, range=(-4.0, 4.0)),
        *(Example(f"{name}(x, {text})", {"x": "f32[2, 3, 4]"}, range=(-4.0, 4.0)) for text in more),
    )


def _activation(
    name: str,
    doc: str,
    target: str,
    onnx: Callable[[Any, Any, str], Any] | str,
    args: tuple[Arg, ...] = (),
    examples: tuple[Example, ...] | None = None,
) -> Op:
    """An activation whose torch function takes ``x`` and then ``args``."""

    def lower(b: Any, a: Any) -> Any:
        return b(target, a.x, *(getattr(a, arg.name) for arg in args))

    def form(o: Any, a: Any) -> Any:
        return o(onnx, a.x) if isinstance(onnx, str) else onnx(o, a, o.out[0].dtype)

    return Op(name, doc, (_X, *args), _same, lower, form, examples=examples or _examples(name))


# -- ONNX forms from primitive ops: ONNX Runtime has most of its own for f32 alone.


def _exp_minus_one(o: Any, x: Any, dtype: str) -> Any:
    """``exp(min(x, 0)) - 1``, which never overflows."""
    return expm1_onnx(o, o("Min", x, o.const(0, dtype)), dtype)


def _leaky_relu(o: Any, a: Any, dtype: str) -> Any:
    if o.dtype_of(a.x) == "f32":  # what it is now: `.double()` turns f32 into f64
        return o("LeakyRelu", a.x, alpha=a.slope)
    return o("Where", o("Less", a.x, o.const(0, dtype)), o("Mul", a.x, o.const(a.slope, dtype)), a.x)


def _elu(o: Any, a: Any, dtype: str) -> Any:
    below = o("Mul", _exp_minus_one(o, a.x, dtype), o.const(a.alpha, dtype))
    return o("Where", o("Greater", a.x, o.const(0, dtype)), a.x, below)


def _selu(o: Any, a: Any, dtype: str) -> Any:
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    below = o("Mul", _exp_minus_one(o, a.x, dtype), o.const(alpha, dtype))
    return o("Mul", o("Where", o("Greater", a.x, o.const(0, dtype)), a.x, below), o.const(scale, dtype))


def _celu(o: Any, a: Any, dtype: str) -> Any:
    alpha = o.const(a.alpha, dtype)
    below = o("Mul", _exp_minus_one(o, o("Div", a.x, alpha), dtype), alpha)
    return o("Where", o("Greater", a.x, o.const(0, dtype)), a.x, below)


def _gelu(o: Any, a: Any) -> Any:
    dtype = o.dtype_of(a.x)
    if dtype == "f32":
        return o("Gelu", a.x, approximate="none" if a.form == "exact" else "tanh")
    one, half = o.const(1, dtype), o.const(0.5, dtype)
    if a.form == "exact":
        # ONNX Runtime has no double Erf: it runs in f32 there.
        inner = o.cast(o("Erf", o.cast(o("Mul", a.x, o.const(math.sqrt(0.5), dtype)), "float32")), dtype)
    else:
        cube = o("Mul", o("Mul", o("Mul", a.x, a.x), a.x), o.const(0.044715, dtype))
        inner = o("Tanh", o("Mul", o("Add", a.x, cube), o.const(math.sqrt(2 / math.pi), dtype)))
    return o("Mul", o("Mul", a.x, half), o("Add", inner, one))


def _silu(o: Any, a: Any, dtype: str) -> Any:
    return o("Mul", a.x, o("Sigmoid", a.x))


def softplus_onnx(o: Any, x: Any, dtype: str) -> Any:
    """max(x, 0) + log1p(exp(-|x|))."""
    small = log1p_onnx(o, o("Exp", o("Neg", o("Abs", x))), dtype)
    return o("Add", o("Max", x, o.const(0, dtype)), small)


def _mish(o: Any, a: Any, dtype: str) -> Any:
    return o("Mul", a.x, o("Tanh", softplus_onnx(o, a.x, dtype)))


def _softplus(o: Any, a: Any, dtype: str) -> Any:
    if a.beta == 1:
        return softplus_onnx(o, a.x, dtype)
    beta = o.const(a.beta, dtype)
    return o("Div", softplus_onnx(o, o("Mul", a.x, beta), dtype), beta)


def _softsign(o: Any, a: Any, dtype: str) -> Any:
    return o("Div", a.x, o("Add", o("Abs", a.x), o.const(1, dtype)))


def _log_sigmoid(o: Any, a: Any, dtype: str) -> Any:
    return o("Neg", softplus_onnx(o, o("Neg", a.x), dtype))


def _hardtanh(o: Any, a: Any, dtype: str) -> Any:
    return o("Clip", a.x, o.const(a.low, dtype), o.const(a.high, dtype))


def _hard_gate(o: Any, x: Any, dtype: str) -> Any:
    shifted = o("Add", o("Div", x, o.const(6, dtype)), o.const(0.5, dtype))
    return o("Clip", shifted, o.const(0, dtype), o.const(1, dtype))


def _hardsigmoid(o: Any, a: Any, dtype: str) -> Any:
    return _hard_gate(o, a.x, dtype)


def _hardswish(o: Any, a: Any, dtype: str) -> Any:
    return o("Mul", a.x, _hard_gate(o, a.x, dtype))


def _gauss(b: Any, a: Any) -> Any:
    return b("torch.exp", b("torch.neg", b("torch.square", a.x)))


def _gauss_onnx(o: Any, a: Any) -> Any:
    return o("Exp", o("Neg", o("Mul", a.x, a.x)))


# -- glu


def _glu_shape(s: Shapes, a: Any) -> TensorType:
    x = _along(s, a)
    axis = normalise_axis(a.axis, x.rank)
    size = x.dims[axis]
    if size % 2 != 0 and isinstance(size, int):
        raise ShapeError(f"`glu` halves axis {a.axis}, and `x` is {x}", "x")
    return x.with_dims((*x.dims[:axis], size // 2, *x.dims[axis + 1 :]))


def _glu_onnx(o: Any, a: Any) -> Any:
    value, gate = o("Split", a.x, outputs=2, axis=a.axis % o.type("x").rank, num_outputs=2)
    return o("Mul", value, o("Sigmoid", gate))


# -- prelu


def _prelu_params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    size: DimLike = 1 if a.axis is None else a.x.dims[normalise_axis(a.axis, a.x.rank)]
    return {"weight": ParamSpec((size,), Init("constant", (0.25,)), ("channel",))}


def _prelu_shape(s: Shapes, a: Any) -> TensorType:
    x, weight = _same(s, a), a.weight
    size: DimLike = 1 if a.axis is None else x.dims[normalise_axis(a.axis, x.rank)]
    if weight.rank not in (1, 2):
        raise ShapeError(f"a weight is [n] or, per sample, [B, n]; this one is {weight}", "weight")
    if not s.unify(weight.dims[-1], size):
        raise ShapeError(f"`prelu` takes {size} slopes here, and the weight is {weight}", "weight", "x")
    if weight.rank == 2 and not (x.rank >= 2 and s.unify(weight.dims[0], x.dims[0])):
        raise ShapeError(f"the weight {weight} is per sample, and `x` is {x}", "weight", "x")
    return x


def _slope_dims(x: TensorType, weight: TensorType, axis: int | None) -> list[DimLike]:
    """The shape in which the slopes broadcast against ``x``."""
    dims: list[DimLike] = [1] * x.rank
    if axis is not None:
        dims[axis % x.rank] = weight.dims[-1]
    if weight.rank == 2:
        dims[0] = weight.dims[0]
    return dims


def _prelu_lower(b: Any, a: Any) -> Any:
    x, weight = b.type("x"), b.type("weight")
    if weight.rank == 1 and (a.axis is None or a.axis % x.rank == 1):
        return b("torch.nn.functional.prelu", a.x, a.weight)
    slope = b.method("reshape", a.weight, b.sizes(_slope_dims(x, weight, a.axis)))
    return b("torch.where", b("torch.gt", a.x, 0), a.x, b("torch.mul", a.x, slope))


def _prelu_onnx(o: Any, a: Any) -> Any:
    slope = o("Reshape", a.weight, o.shape(_slope_dims(o.type("x"), o.type("weight"), a.axis)))
    positive = o("Greater", a.x, o.const(0, o.out[0].dtype))
    return o("Where", positive, a.x, o("Mul", a.x, slope))


PRELU = Op(
    "prelu",
    "`x` where it is positive and `weight * x` elsewhere, with one learned slope or, "
    "with `axis=`, one for each index of that axis.",
    (
        _X,
        Arg(
            "axis", "axis", None, doc="the axis that has a slope for each index; by default one slope for all"
        ),
        Arg("weight", "param", doc="`[n]`, or per sample `[B, n]`"),
    ),
    _prelu_shape,
    _prelu_lower,
    _prelu_onnx,
    params=_prelu_params,
    examples=(
        Example("prelu(x)", {"x": "f32[3, 4]"}),
        Example("prelu(x, axis=1)", {"x": "f32[2, 3, 4]"}),
        Example("prelu(x, axis=-1)", {"x": "f32[2, 3, 4]"}),
        Example("prelu(x, axis=-1, weight=w)", {"x": "f64[2, 3, 4]", "w": "f64[2, 4]"}),
    ),
)


def _softmax(name: str, operator: str, doc: str) -> Op:
    return Op(
        name,
        doc,
        (_X, _AXIS),
        _along,
        lambda b, a: b(f"torch.{name}", a.x, a.axis),
        lambda o, a: o(operator, a.x, axis=a.axis) if o.type("x").rank else o(operator, a.x, axis=-1),
        mixes=mixes_axis,
        examples=_examples(name, "axis=1"),
    )


_F = "torch.nn.functional"
_ALPHA = Arg("alpha", "float", 1.0, doc="the limit for very negative `x`, negated")

OPS = (
    _activation("relu", "`max(x, 0)`.", "torch.relu", "Relu"),
    _activation(
        "leaky_relu",
        "`x` where it is positive, `slope * x` elsewhere.",
        f"{_F}.leaky_relu",
        _leaky_relu,
        (Arg("slope", "float", 0.01, doc="for negative `x`"),),
        _examples("leaky_relu", "0.2"),
    ),
    _activation(
        "elu",
        "`x` where it is positive, `alpha * (exp(x) - 1)` elsewhere.",
        f"{_F}.elu",
        _elu,
        (_ALPHA,),
        _examples("elu", "0.5"),
    ),
    _activation("selu", "A scaled `elu` that keeps mean and variance through layers.", f"{_F}.selu", _selu),
    _activation(
        "celu",
        "`x` where it is positive, `alpha * (exp(x / alpha) - 1)` elsewhere.",
        f"{_F}.celu",
        _celu,
        (_ALPHA,),
        _examples("celu", "0.5"),
    ),
    Op(
        "gelu",
        "`x` times the normal distribution function of `x`; `tanh` approximates it.",
        (_X, Arg("form", "choice", "exact", doc="exact, or its approximation", choices=("exact", "tanh"))),
        _same,
        lambda b, a: b(f"{_F}.gelu", a.x, **({} if a.form == "exact" else {"approximate": "tanh"})),
        _gelu,
        examples=_examples("gelu", "tanh"),
    ),
    _activation("silu", "`x * sigmoid(x)`.", f"{_F}.silu", _silu),
    _activation("mish", "`x * tanh(softplus(x))`.", f"{_F}.mish", _mish),
    _activation(
        "softplus",
        "`log(1 + exp(beta * x)) / beta`, without overflow.",
        f"{_F}.softplus",
        _softplus,
        (Arg("beta", "float", 1.0, doc="the sharpness of the bend"),),
        _examples("softplus", "2"),
    ),
    _activation("softsign", "`x / (1 + abs(x))`.", f"{_F}.softsign", _softsign),
    _activation("sigmoid", "`1 / (1 + exp(-x))`.", "torch.sigmoid", "Sigmoid"),
    _activation("log_sigmoid", "`log(sigmoid(x))`, without overflow.", f"{_F}.logsigmoid", _log_sigmoid),
    _activation("tanh", "The hyperbolic tangent.", "torch.tanh", "Tanh"),
    _activation(
        "hardtanh",
        "`x`, at least `low` and at most `high`.",
        f"{_F}.hardtanh",
        _hardtanh,
        (
            Arg("low", "float", -1.0, doc="the least result"),
            Arg("high", "float", 1.0, doc="the greatest result"),
        ),
        _examples("hardtanh", "0, 3"),
    ),
    _activation("hardsigmoid", "`clamp(x / 6 + 0.5, 0, 1)`.", f"{_F}.hardsigmoid", _hardsigmoid),
    _activation("hardswish", "`x * hardsigmoid(x)`.", f"{_F}.hardswish", _hardswish),
    PRELU,
    Op(
        "glu",
        "The first half of an axis times the sigmoid of its second half.",
        (_X, _AXIS),
        _glu_shape,
        lambda b, a: b(f"{_F}.glu", a.x, a.axis),
        _glu_onnx,
        mixes=mixes_axis,
        examples=(
            Example("glu(x)", {"x": "f32[3, 6]"}),
            Example("glu(x, axis=0)", {"x": "f64[4, 3]"}),
            Example("glu(x, 1)", {"x": "f32[2, 4, 3]"}),
        ),
    ),
    _softmax("softmax", "Softmax", "`exp(x)` divided by its sum along an axis."),
    _softmax("log_softmax", "LogSoftmax", "`log(softmax(x))`, without overflow."),
    Op("gauss", "`exp(-x ^ 2)`.", (_X,), _same, _gauss, _gauss_onnx, examples=_examples("gauss")),
)
