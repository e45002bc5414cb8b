"""Distances between logits over classes and a target. The class axis is the last, or `axis=`.

There is one loss for each of the other dims: `[B]` for logits `[B, C]`, `[B, T]` for logits `[B, T, C]`.
"""

from __future__ import annotations

from typing import Any

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
from r2d2c.ops.reductions import onnx_count, onnx_reduce
from r2d2c.ops.shapes import expect_floating
from r2d2c.ops.unary import expect_tensor
from r2d2c.types import TensorType

_F = "torch.nn.functional"
_LOGITS = Arg("logits", doc="`[B, …, C]`")
_AXIS = Arg("axis", "axis", -1, doc="the axis of the classes, negative from the end")


def _without(type_: TensorType, axis: int) -> TensorType:
    return type_.with_dims((*type_.dims[:axis], *type_.dims[axis + 1 :]))


def _class_ids(s: Shapes, name: str, a: Any) -> TensorType:
    """The type of the losses of logits and class ids."""
    logits, target = a.logits, a.target
    axis = _class_axis(name, a)
    losses = _without(logits, axis)
    if target.dtype == "bool":
        fix = "convert it: `cast(…, i64)`"
        raise ShapeError(f"class ids are integers, `target` is {target}", "target", fix=fix)
    if target.rank != losses.rank or not all(map(s.unify, target.dims, losses.dims)):
        raise ShapeError(
            f"class ids have the dims of the logits without the class axis, {losses.with_dtype('i64')}: "
            f"`target` is {target}, `logits` is {logits}",
            "target",
            "logits",
        )
    s.bound("target", logits.dims[axis])
    return losses


def _class_axis(name: str, a: Any) -> int:
    expect_tensor(a.logits, "logits", f"`{name}`")
    expect_tensor(a.target, "target", f"`{name}`")
    expect_floating(a.logits, "logits")
    return normalise_axis(a.axis, a.logits.rank)


def _rows(b: Any, value: Any, rank: int, axis: int) -> Any:
    """A value with its class axis last, as one matrix with a row a sample."""
    if axis != rank - 1:
        value = b("torch.movedim", value, axis, -1)
    return b("torch.flatten", value, 0, -2) if rank > 2 else value


def _ids(b: Any, a: Any, flat: bool) -> Any:
    target = a.target if b.type("target").dtype == "i64" else b.method("to", a.target, b.dtype("i64"))
    return b("torch.flatten", target) if flat and b.type("target").rank > 1 else target


def _finish(b: Any, a: Any, losses: Any, flat: bool) -> Any:
    """Weigh what torch gave; back in the shape of the samples if it is one a row."""
    logits = b.type("logits")
    separate = weighed(a) or how(a) == "none"
    if flat and separate and logits.rank > 2:
        losses = b.method("reshape", losses, b.sizes(_without(logits, a.axis % logits.rank).dims))
    return reduce(b, a, losses, logits.rank - 1) if weighed(a) else losses


# -- cross_entropy


def _entropy_shape(s: Shapes, a: Any) -> TensorType:
    if not 0 <= a.label_smoothing < 1:
        raise ShapeError(f"`label_smoothing` is from 0 to 1, not {a.label_smoothing:g}", "label_smoothing")
    axis = _class_axis("cross_entropy", a)
    if not a.target.floating:
        return distance_type(s, a, _class_ids(s, "cross_entropy", a))
    if a.target.rank == a.logits.rank - 1:
        raise ShapeError(
            f"class ids are integers, `target` is {a.target}",
            "target",
            "logits",
            fix="convert it: `cast(…, i64)`",
        )
    expect_same_dims(s, "cross_entropy", a.logits, a.target, "logits", "target")
    return distance_type(s, a, _without(a.logits, axis))


def _entropy_lower(b: Any, a: Any) -> Any:
    logits = b.type("logits")
    axis = a.axis % logits.rank
    x, probabilities = seen(b, a, "logits", a.logits, axis), b.type("target").floating
    if probabilities:
        target = seen(b, a, "target", operand(b, a, "target", "logits", logits.dtype), axis)
    # Torch wants the classes on axis 1 (on 0 for one sample alone).
    flat = axis != min(1, logits.rank - 1)
    if flat:
        x = _rows(b, x, logits.rank, axis)
        target = _rows(b, target, logits.rank, axis) if probabilities else _ids(b, a, True)
    elif not probabilities:
        target = _ids(b, a, False)
    smoothing = {"label_smoothing": a.label_smoothing} if a.label_smoothing else {}
    return _finish(b, a, b(f"{_F}.cross_entropy", x, target, **smoothing, **reduction(a)), flat)


def _entropy_onnx(o: Any, a: Any) -> Any:
    dtype, logits = o.out[0].dtype, o.type("logits")
    axis = a.axis % logits.rank
    scores = o("LogSoftmax", a.logits, axis=axis)
    if o.type("target").floating:
        weighted = o("Mul", scores, o.cast(a.target, dtype))
        losses = o("Neg", onnx_reduce(o, "ReduceSum", weighted, (axis,), False))
    else:
        losses = o("Neg", _pick(o, scores, a.target, axis))
    if a.label_smoothing:
        even = o("Neg", onnx_reduce(o, "ReduceMean", scores, (axis,), False))
        keep, smooth = o.const(1 - a.label_smoothing, dtype), o.const(a.label_smoothing, dtype)
        losses = o("Add", o("Mul", losses, keep), o("Mul", even, smooth))
    return onnx_losses(o, a, losses, logits.rank - 1)


def _pick(o: Any, scores: Any, target: Any, axis: int) -> Any:
    """The score of the class of each sample."""
    ids = o("Unsqueeze", o.cast(target, "i64"), o.ints([axis]))
    return o("Squeeze", o("GatherElements", scores, ids, axis=axis), o.ints([axis]))


def _axis_of(a: Any) -> list[tuple[str, int]]:
    axis = a.axis % a.logits.rank
    return [("logits", axis), *([("target", axis)] if a.target.floating else [])]


CROSS_ENTROPY = Op(
    "cross_entropy",
    "`-log(softmax(logits))` of the class that `target` names, or its mean under the probabilities that "
    "`target` gives. `label_smoothing` mixes the target with equal probabilities.",
    (
        _LOGITS,
        Arg(
            "target",
            doc="class ids in the dims of `logits` without the classes, or probabilities in the same shape",
        ),
        _AXIS,
        Arg("label_smoothing", "float", 0.0, doc="the share of equal probabilities in the target"),
        *WEIGHING,
    ),
    _entropy_shape,
    _entropy_lower,
    _entropy_onnx,
    mixes=_axis_of,
    traits=DISTANCE,
    cost=cost,
    examples=(
        Example("cross_entropy(x, t)", {"x": "f32[4, 5]", "t": "i64[4] < 5"}),
        Example("cross_entropy(x, t, label_smoothing=0.1)", {"x": "f64[2, 3, 5]", "t": "i64[2, 3] < 5"}),
        Example("cross_entropy(x, t, axis=1, reduction=none)", {"x": "f32[2, 5, 3]", "t": "i32[2, 3] < 5"}),
        Example("cross_entropy(x, p)", {"x": "f32[2, 3, 5]", "p": "f32[2, 3, 5]"}, range=(0.1, 1.0)),
        Example(
            "cross_entropy(x, t, mask=m)", {"x": "f32[2, 3, 5]", "t": "i64[2, 3] < 5", "m": "bool[2, 3]"}
        ),
        Example(
            "cross_entropy(x, t, weights=w)",
            {"x": "f32[4, 5]", "t": "i64[4] < 5", "w": "f32[4]"},
            range=(0.1, 2.0),
        ),
        Example("cross_entropy(x, t, reduction=sum)", {"x": "f32[5]", "t": "i64[] < 5"}),
    ),
)


# -- hinge


def _hinge_shape(s: Shapes, a: Any) -> TensorType:
    if a.margin <= 0:
        raise ShapeError(f"`margin` is above 0, not {a.margin:g}", "margin")
    _class_axis("hinge", a)
    if a.target.floating:
        raise ShapeError(
            f"class ids are integers, `target` is {a.target}", "target", fix="convert it: `cast(…, i64)`"
        )
    return distance_type(s, a, _class_ids(s, "hinge", a))


def _hinge_lower(b: Any, a: Any) -> Any:
    logits = b.type("logits")
    axis = a.axis % logits.rank
    x = _rows(b, seen(b, a, "logits", a.logits, axis), logits.rank, axis)
    margin = {} if a.margin == 1 else {"margin": a.margin}
    narrow = logits.dtype in ("bf16", "f16")
    if narrow:  # torch has no kernel for these
        x = b.method("to", x, b.dtype("f32"))
    losses = b(f"{_F}.multi_margin_loss", x, _ids(b, a, True), **margin, **reduction(a))
    return _finish(b, a, b.method("to", losses, b.dtype(logits.dtype)) if narrow else losses, True)


def _hinge_onnx(o: Any, a: Any) -> Any:
    dtype, logits = o.out[0].dtype, o.type("logits")
    axis = a.axis % logits.rank
    margin = o.const(a.margin, dtype)
    own = o("Unsqueeze", _pick(o, a.logits, a.target, axis), o.ints([axis]))
    excess = o("Relu", o("Add", o("Sub", a.logits, own), margin))
    # The target's own class, which is not to count, gives exactly `margin`.
    total = o("Sub", onnx_reduce(o, "ReduceSum", excess, (axis,), False), margin)
    return onnx_losses(o, a, o("Div", total, onnx_count(o, (logits.dims[axis],), dtype)), logits.rank - 1)


HINGE = Op(
    "hinge",
    "By how much the other classes come nearer than `margin` to the target's: the sum of "
    "`max(0, margin - logits[target] + logits[other])` divided by the number of classes.",
    (
        _LOGITS,
        Arg("target", doc="class ids in the dims of `logits` without the class axis"),
        Arg("margin", "float", 1.0, doc="the lead that the target's class needs"),
        _AXIS,
        *WEIGHING,
    ),
    _hinge_shape,
    _hinge_lower,
    _hinge_onnx,
    mixes=_axis_of,
    traits=DISTANCE,
    cost=cost,
    examples=(
        Example("hinge(x, t)", {"x": "f32[4, 5]", "t": "i64[4] < 5"}),
        Example(
            "hinge(x, t, margin=0.5, axis=1, reduction=none)", {"x": "f64[2, 5, 3]", "t": "i64[2, 3] < 5"}
        ),
        Example("hinge(x, t, mask=m)", {"x": "f32[2, 3, 5]", "t": "i64[2, 3] < 5", "m": "bool[2]"}),
    ),
)


# -- kl


def _kl_shape(s: Shapes, a: Any) -> TensorType:
    both = pair_type(s, "kl", a, "x", "y", numbers=False)
    return distance_type(s, a, _without(both, normalise_axis(a.axis, both.rank)))


def _kl_lower(b: Any, a: Any) -> Any:
    dtype, rank = b.out[0].dtype, b.type("x").rank
    axis = a.axis % rank
    x, y = (seen(b, a, name, operand(b, a, name, "x", dtype), axis) for name in ("x", "y"))
    x, y = b("torch.log_softmax", x, axis), b("torch.log_softmax", y, axis)
    plain = not weighed(a)
    if plain and (how(a) == "sum" or (how(a) == "mean" and rank == 1)):
        return b(f"{_F}.kl_div", x, y, reduction="sum", log_target=True)
    if plain and how(a) == "mean" and rank == 2 and axis == 1:
        return b(f"{_F}.kl_div", x, y, reduction="batchmean", log_target=True)
    losses = b("torch.sum", b(f"{_F}.kl_div", x, y, reduction="none", log_target=True), axis)
    return reduce(b, a, losses, rank - 1)


def _kl_onnx(o: Any, a: Any) -> Any:
    dtype, rank = o.out[0].dtype, o.type("x").rank
    axis = a.axis % rank
    x, y = (o("LogSoftmax", o.cast(value, dtype), axis=axis) for value in (a.x, a.y))
    losses = onnx_reduce(o, "ReduceSum", o("Mul", o("Exp", y), o("Sub", y, x)), (axis,), False)
    return onnx_losses(o, a, losses, rank - 1)


KL = Op(
    "kl",
    "KL(softmax(y) ‖ softmax(x)), the sum of `softmax(y) * (log_softmax(y) - log_softmax(x))` over the "
    "classes: what is lost when `x` stands for the target `y`. Both are logits; log-probabilities are too.",
    (
        Arg("x", doc="logits `[B, …, C]`"),
        Arg("y", doc="the target's logits, in the shape of `x`"),
        _AXIS,
        *WEIGHING,
    ),
    _kl_shape,
    _kl_lower,
    _kl_onnx,
    mixes=lambda a: [(name, a.axis % getattr(a, name).rank) for name in ("x", "y")],
    traits=DISTANCE,
    cost=cost,
    examples=(
        Example("kl(x, y)", {"x": "f32[4, 5]", "y": "f32[4, 5]"}),
        Example("kl(x, y)", {"x": "f64[2, 3, 5]", "y": "f64[2, 3, 5]"}),
        Example("kl(x, y, axis=1, reduction=none)", {"x": "f32[2, 5, 3]", "y": "f32[2, 5, 3]"}),
        Example("kl(x, y, mask=m)", {"x": "f32[2, 3, 5]", "y": "f32[2, 3, 5]", "m": "bool[2, 3]"}),
    ),
)

OPS = (CROSS_ENTROPY, HINGE, KL)
