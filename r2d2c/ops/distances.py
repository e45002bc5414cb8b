"""Distances between two values of one shape. All give a scalar unless `reduction=none`.

`mixes` names the axes that a loss itself couples: a mean over the batch is not among them, it is what a
distance is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.ops.activations import softplus_onnx
from r2d2c.ops.distance_parts import (
    DISTANCE,
    WEIGHING,
    cost,
    distance_type,
    expect_same_dims,
    how,
    onnx_losses,
    operand,
    pair_type,
    reduce,
    reduction,
    seen,
    weighed,
)
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, normalise_axis
from r2d2c.ops.reductions import logsumexp_onnx, onnx_reduce
from r2d2c.ops.unary import log1p_onnx
from r2d2c.types import DimLike, TensorType

_F = "torch.nn.functional"
_X = Arg("x", doc="any shape")
_Y = Arg("y", doc="the shape of `x`, or a number")


def _examples(call: str, target: str = "y", low: float = -2.0, high: float = 2.0) -> tuple[Example, ...]:
    """call: ``mse(x, y%s)``."""
    x = "logits" if "logits" in call else "x"

    def example(more: str, first: str, second: str, **extra: str) -> Example:
        return Example(call % more, {x: first, target: second, **extra}, range=(low, high))

    return (
        example("", "f32[3, 4]", "f32[3, 4]"),
        example(", reduction=none", "f64[5]", "f64[5]"),
        example(", mask=m", "f32[2, 3, 4]", "f32[2, 3, 4]", m="bool[2, 3]"),
        example(", mask=m, weights=w", "f32[3, 4]", "f64[3, 4]", m="f32[3, 1]", w="f32[3]"),
        example(", reduction=sum, weights=w", "f32[3, 4]", "f32[3, 4]", w="f32[3]"),
    )


# -- one loss an element


def _elementwise(
    name: str,
    doc: str,
    target: str,
    losses: Callable[[Any, Any, Any, Any, str], Any],
    *,
    names: tuple[Arg, Arg] = (_X, _Y),
    extra: tuple[Arg, ...] = (),
    low: float = -2.0,
    high: float = 2.0,
    more: tuple[Example, ...] = (),
) -> Op:
    """target: torch's loss, with the arguments ``extra``. losses: the ONNX form before reduction."""
    left, right = names[0].name, names[1].name

    def shape(s: Shapes, a: Any) -> TensorType:
        for arg in extra:
            if getattr(a, arg.name) <= 0:
                raise ShapeError(f"`{arg.name}` is above 0, not {getattr(a, arg.name):g}", arg.name)
        return distance_type(s, a, pair_type(s, name, a, left, right))

    def lower(b: Any, a: Any) -> Any:
        dtype = b.out[0].dtype
        x = seen(b, a, left, operand(b, a, left, right, dtype))
        y = seen(b, a, right, operand(b, a, right, left, dtype))
        found = b(target, x, y, **{arg.name: getattr(a, arg.name) for arg in extra}, **reduction(a))
        return reduce(b, a, found, max(b.type(left).rank, b.type(right).rank)) if weighed(a) else found

    def onnx(o: Any, a: Any) -> Any:
        dtype = o.out[0].dtype
        x, y = o.cast(getattr(a, left), dtype), o.cast(getattr(a, right), dtype)
        return onnx_losses(o, a, losses(o, a, x, y, dtype), max(o.type(left).rank, o.type(right).rank))

    return Op(
        name,
        doc,
        (*names, *extra, *WEIGHING),
        shape,
        lower,
        onnx,
        traits=DISTANCE,
        cost=cost,
        examples=(*_examples(f"{name}({left}, {right}%s)", right, low, high), *more),
    )


def _mse(o: Any, a: Any, x: Any, y: Any, dtype: str) -> Any:
    difference = o("Sub", x, y)
    return o("Mul", difference, difference)


def _l1(o: Any, a: Any, x: Any, y: Any, dtype: str) -> Any:
    return o("Abs", o("Sub", x, y))


def _huber(o: Any, a: Any, x: Any, y: Any, dtype: str) -> Any:
    size = o("Abs", o("Sub", x, y))
    delta, half = o.const(a.delta, dtype), o.const(0.5, dtype)
    near = o("Mul", o("Mul", size, size), half)
    far = o("Mul", o("Sub", size, o.const(a.delta / 2, dtype)), delta)
    return o("Where", o("LessOrEqual", size, delta), near, far)


def _bce(o: Any, a: Any, x: Any, y: Any, dtype: str) -> Any:
    return o("Sub", softplus_onnx(o, x, dtype), o("Mul", x, y))


def _bce_probs(o: Any, a: Any, x: Any, y: Any, dtype: str) -> Any:
    floor = o.const(-100, dtype)  # as in torch, which keeps log(0) finite
    hit = o("Max", o("Log", x), floor)
    miss = o("Max", log1p_onnx(o, o("Neg", x), dtype), floor)
    return o("Neg", o("Add", o("Mul", y, hit), o("Mul", o("Sub", o.const(1, dtype), y), miss)))


# -- gaussian_nll


def _gaussian_shape(s: Shapes, a: Any) -> TensorType:
    losses = pair_type(s, "gaussian_nll", a, "x", "target")
    variance: TensorType = a.log_variance
    if variance.rank:
        expect_same_dims(s, "gaussian_nll", losses, variance, "x", "log_variance")
    if not variance.weak and variance.dtype != losses.dtype:
        raise ShapeError(f"`log_variance` is {variance}, and the losses {losses}", "log_variance", "x")
    return distance_type(s, a, losses)


def _gaussian_lower(b: Any, a: Any) -> Any:
    x, target = (seen(b, a, name, getattr(a, name)) for name in ("x", "target"))
    difference = b("torch.square", b("torch.sub", x, target))
    spread = operand(b, a, "log_variance", "x" if b.type("target").weak else "target", b.out[0].dtype)
    spread = seen(b, a, "log_variance", spread)
    losses = b("torch.add", spread, b("torch.mul", difference, b("torch.exp", b("torch.neg", spread))))
    return reduce(b, a, b("torch.mul", losses, 0.5), max(b.type("x").rank, b.type("target").rank))


def _gaussian_onnx(o: Any, a: Any) -> Any:
    dtype = o.out[0].dtype
    difference = o("Sub", o.cast(a.x, dtype), o.cast(a.target, dtype))
    spread = o.cast(a.log_variance, dtype)
    scaled = o("Mul", o("Mul", difference, difference), o("Exp", o("Neg", spread)))
    losses = o("Mul", o("Add", scaled, spread), o.const(0.5, dtype))
    return onnx_losses(o, a, losses, max(o.type("x").rank, o.type("target").rank))


GAUSSIAN = Op(
    "gaussian_nll",
    "`(log_variance + (x - target)^2 / exp(log_variance)) / 2`: the negative log-likelihood of a normal "
    "distribution, without its constant.",
    (
        Arg("x", doc="the mean that is predicted"),
        Arg("target", doc="the shape of `x`, or a number"),
        Arg("log_variance", doc="the shape of `x`, or a scalar"),
        *WEIGHING,
    ),
    _gaussian_shape,
    _gaussian_lower,
    _gaussian_onnx,
    traits=DISTANCE,
    cost=cost,
    examples=(
        Example("gaussian_nll(x, y, v)", {"x": "f32[3, 4]", "y": "f32[3, 4]", "v": "f32[3, 4]"}),
        Example("gaussian_nll(x, y, 0.5)", {"x": "f64[5]", "y": "f64[5]"}),
        Example(
            "gaussian_nll(x, y, v, mask=m)",
            {"x": "f32[3, 4]", "y": "f32[3, 4]", "v": "f32[]", "m": "bool[3]"},
        ),
    ),
)


# -- one loss a sample


def _l2_shape(s: Shapes, a: Any) -> TensorType:
    losses = pair_type(s, "l2", a, "x", "y")
    return distance_type(s, a, losses.with_dims(losses.dims[:1]))


def _l2_lower(b: Any, a: Any) -> Any:
    rank = max(b.type("x").rank, b.type("y").rank)
    difference = b("torch.sub", *(seen(b, a, name, getattr(a, name)) for name in ("x", "y")))
    if rank < 2:
        return reduce(b, a, b("torch.abs", difference), rank)
    return reduce(b, a, b("torch.linalg.vector_norm", difference, 2, tuple(range(1, rank))), 1)


def _l2_onnx(o: Any, a: Any) -> Any:
    dtype = o.out[0].dtype
    rank = max(o.type("x").rank, o.type("y").rank)
    difference = o("Sub", o.cast(a.x, dtype), o.cast(a.y, dtype))
    if rank < 2:
        return onnx_losses(o, a, o("Abs", difference), rank)
    return onnx_losses(o, a, onnx_reduce(o, "ReduceL2", difference, tuple(range(1, rank)), False), 1)


L2 = Op(
    "l2",
    "The Euclidean norm of `x - y` over all dims but the first, one loss a sample `[B]`; then their mean "
    "over the batch. Not squared: that is `mse`.",
    (_X, _Y, *WEIGHING),
    _l2_shape,
    _l2_lower,
    _l2_onnx,
    mixes=lambda a: [(name, axis) for name in ("x", "y") for axis in range(1, getattr(a, name).rank)],
    traits=DISTANCE,
    cost=cost,
    examples=(
        Example("l2(x, y)", {"x": "f32[3, 4]", "y": "f32[3, 4]"}),
        Example("l2(x, y, reduction=none)", {"x": "f64[3, 2, 2]", "y": "f64[3, 2, 2]"}),
        Example("l2(x, 1, weights=w)", {"x": "f32[3, 4]", "w": "f32[3]"}, range=(0.1, 2.0)),
        Example("l2(x, y, mask=m)", {"x": "f32[5]", "y": "f32[5]", "m": "bool[5]"}),
    ),
)


def _cosine_shape(s: Shapes, a: Any) -> TensorType:
    losses = pair_type(s, "cosine", a, "x", "y", numbers=False)
    axis = normalise_axis(a.axis, losses.rank)
    return distance_type(s, a, losses.with_dims((*losses.dims[:axis], *losses.dims[axis + 1 :])))


def _cosine_lower(b: Any, a: Any) -> Any:
    dtype = b.out[0].dtype
    axis = a.axis % b.type("x").rank
    x, y = (seen(b, a, name, operand(b, a, name, "x", dtype), axis) for name in ("x", "y"))
    similarity = b(f"{_F}.cosine_similarity", x, y, a.axis)
    if how(a) == "mean" and not weighed(a):
        return b("torch.sub", 1, b("torch.mean", similarity))
    return reduce(b, a, b("torch.sub", 1, similarity), b.type("x").rank - 1)


def _unit(o: Any, x: Any, axis: int, least: float, dtype: str) -> Any:
    return o("Div", x, o("Max", onnx_reduce(o, "ReduceL2", x, (axis,), True), o.const(least, dtype)))


def _cosine_onnx(o: Any, a: Any) -> Any:
    dtype, rank = o.out[0].dtype, o.type("x").rank
    axis = a.axis % rank
    x, y = (_unit(o, o.cast(value, dtype), axis, 1e-8, dtype) for value in (a.x, a.y))
    similarity = onnx_reduce(o, "ReduceSum", o("Mul", x, y), (axis,), False)
    return onnx_losses(o, a, o("Sub", o.const(1, dtype), similarity), rank - 1)


COSINE = Op(
    "cosine",
    "1 - the cosine of the angle between `x` and `y` along an axis, one loss for each of the other dims.",
    (_X, Arg("y", doc="the shape of `x`"), Arg("axis", "axis", -1, doc="negative from the end"), *WEIGHING),
    _cosine_shape,
    _cosine_lower,
    _cosine_onnx,
    mixes=lambda a: [(name, a.axis % getattr(a, name).rank) for name in ("x", "y")],
    traits=DISTANCE,
    cost=cost,
    examples=(
        Example("cosine(x, y)", {"x": "f32[3, 4]", "y": "f32[3, 4]"}),
        Example("cosine(x, y, axis=1, reduction=none)", {"x": "f64[3, 4, 2]", "y": "f64[3, 4, 2]"}),
        Example("cosine(x, y, mask=m)", {"x": "f32[2, 3, 4]", "y": "f32[2, 3, 4]", "m": "bool[2, 3]"}),
        Example(
            "cosine(x, y, weights=w)", {"x": "f32[3, 4]", "y": "f32[3, 4]", "w": "f32[3]"}, range=(0.1, 2.0)
        ),
    ),
)


def _nce_cost(a: Any) -> DimLike:
    rows, width = a.x.dims
    products: DimLike = 2 * width * rows * rows
    return products


def _nce_shape(s: Shapes, a: Any) -> TensorType:
    losses = pair_type(s, "info_nce", a, "x", "y", numbers=False)
    if losses.rank != 2:
        raise ShapeError(f"`info_nce` compares samples [B, D], `x` is {a.x}", "x", fix="flatten it first")
    if a.temperature <= 0:
        raise ShapeError(f"`temperature` is above 0, not {a.temperature:g}", "temperature")
    return distance_type(s, a, losses.with_dims(losses.dims[:1]))


def _nce_lower(b: Any, a: Any) -> Any:
    dtype = b.out[0].dtype
    x, y = (b(f"{_F}.normalize", operand(b, a, n, "x", dtype), dim=-1) for n in ("x", "y"))
    logits = b("torch.matmul", b("torch.div", x, a.temperature), b("torch.t", y))
    # The cross entropy whose class is the sample's own number.
    losses = b("torch.sub", b("torch.logsumexp", logits, 1), b("torch.diagonal", logits))
    return reduce(b, a, losses, 1)


def _nce_onnx(o: Any, a: Any) -> Any:
    dtype = o.out[0].dtype
    x, y = (_unit(o, o.cast(value, dtype), 1, 1e-12, dtype) for value in (a.x, a.y))
    x = o("Div", x, o.const(a.temperature, dtype))
    logits = o("MatMul", x, o("Transpose", y, perm=[1, 0]))
    own = onnx_reduce(o, "ReduceSum", o("Mul", x, y), (1,), False)
    return onnx_losses(o, a, o("Sub", logsumexp_onnx(o, logits, (1,), False), own), 1)


INFO_NCE = Op(
    "info_nce",
    "How badly each row of `x` is told to belong to the row of `y` with its number, among all rows of `y`: "
    "the cross entropy of the cosines divided by `temperature`. It couples the samples of a batch; a mask "
    "leaves out losses, not rows of `y`.",
    (
        Arg("x", doc="`[B, D]`"),
        Arg("y", doc="`[B, D]`"),
        Arg("temperature", "float", 0.1, doc="small is strict"),
        *WEIGHING,
    ),
    _nce_shape,
    _nce_lower,
    _nce_onnx,
    mixes=lambda a: [("x", 1), ("y", 0), ("y", 1)],
    traits=DISTANCE,
    cost=_nce_cost,
    examples=(
        Example("info_nce(x, y)", {"x": "f32[5, 4]", "y": "f32[5, 4]"}),
        Example("info_nce(x, y, temperature=0.5, reduction=none)", {"x": "f64[3, 4]", "y": "f64[3, 4]"}),
        Example("info_nce(x, y, mask=m)", {"x": "f32[5, 4]", "y": "f32[5, 4]", "m": "bool[5]"}),
    ),
)

_LOGITS = Arg("logits", doc="any shape; `sigmoid(logits)` is the probability")
_TARGET = Arg("target", doc="0 to 1, or bools, in the same shape; or a number")
_NUMBER = Example("mse(x, 1)", {"x": "f32[3]"})

OPS = (
    _elementwise("mse", "The mean of `(x - y)^2`.", f"{_F}.mse_loss", _mse, more=(_NUMBER,)),
    _elementwise("l1", "The mean of `abs(x - y)`.", f"{_F}.l1_loss", _l1),
    _elementwise(
        "huber",
        "The mean of `(x - y)^2 / 2` where `abs(x - y)` is at most `delta`, and of "
        "`delta * (abs(x - y) - delta / 2)` beyond.",
        f"{_F}.huber_loss",
        _huber,
        extra=(Arg("delta", "float", 1.0, doc="where it turns from a square into a line"),),
        more=(Example("huber(x, y, 0.3)", {"x": "f32[3, 4]", "y": "f32[3, 4]"}),),
    ),
    L2,
    COSINE,
    _elementwise(
        "bce",
        "The binary cross entropy of `sigmoid(logits)`, computed from the logits and so without overflow.",
        f"{_F}.binary_cross_entropy_with_logits",
        _bce,
        names=(_LOGITS, _TARGET),
        low=0.0,
        high=1.0,
        more=(
            Example("bce(x, 1)", {"x": "f32[3, 1]"}, range=(-4.0, 4.0)),
            Example("bce(x, t)", {"x": "f32[3, 2]", "t": "bool[3, 2]"}, range=(-4.0, 4.0)),
        ),
    ),
    _elementwise(
        "bce_probs",
        "The binary cross entropy of probabilities. Prefer `bce`, which takes logits.",
        f"{_F}.binary_cross_entropy",
        _bce_probs,
        names=(Arg("x", doc="probabilities"), _TARGET),
        low=0.05,
        high=0.95,
    ),
    GAUSSIAN,
    INFO_NCE,
)
