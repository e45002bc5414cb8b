"""Random numbers, drawn from (seed, node, step): a node keeps its noise when others come and go."""

from __future__ import annotations

from typing import Any

from r2d2c.ops.dims import expect_known
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating, expect_rank
from r2d2c.types import INTEGERS, TensorType

_X = Arg("x", doc="any shape, floating")


def _same_floating(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_floating(x, "x")
    if x.weak:
        raise ShapeError("a number has no shape to draw for", "x")
    return x


def _dropout_shape(s: Shapes, a: Any) -> TensorType:
    if not 0 <= a.p < 1:
        raise ShapeError(f"`p` is at least 0 and less than 1, not {a.p}", "p")
    return _same_floating(s, a)


def _dropout_lower(b: Any, a: Any) -> Any:
    if not b.training or a.p == 0:
        return a.x
    keep = 1 - a.p
    mask = b("torch.bernoulli", b("torch.full_like", a.x, keep), generator=b.generator(a.x))
    return b("torch.mul", a.x, b("torch.div", mask, keep))


DROPOUT = Op(
    "dropout",
    "In training 0 with probability `p`, else divided by 1 - p; the identity in inference.",
    (_X, Arg("p", "float", 0.5, doc="the probability to drop an element")),
    _dropout_shape,
    _dropout_lower,
    lambda o, a: a.x,
    traits=frozenset({"random", "train_only"}),
    examples=(
        Example("dropout(x)", {"x": "f32[3, 4]"}),
        Example("dropout(x, 0.1)", {"x": "f64[2, 3, 4]"}),
        Example("dropout(x, p=0.0)", {"x": "f32[5]"}),
    ),
)


def _noise_lower(b: Any, a: Any) -> Any:
    if not b.training:
        return a.x
    return b("torch.add", a.x, b("torch.randn_like", a.x, generator=b.generator(a.x)), alpha=a.std)


NOISE = Op(
    "noise",
    "In training `x` plus normal noise; the identity in inference. `normal_like` draws the noise alone.",
    (_X, Arg("std", "float", 1.0, doc="the noise's standard deviation")),
    _same_floating,
    _noise_lower,
    lambda o, a: a.x,
    traits=frozenset({"random", "train_only"}),
    examples=(Example("noise(x)", {"x": "f32[3, 4]"}), Example("noise(x, 0.1)", {"x": "f64[2, 3]"})),
)

NORMAL_LIKE = Op(
    "normal_like",
    "Normal numbers in the shape of `x`. Always random, so not allowed in an inference graph.",
    (_X,),
    _same_floating,
    lambda b, a: b("torch.randn_like", a.x, generator=b.generator(a.x)),
    traits=frozenset({"random", "no_gradient"}),
    examples=(
        Example("normal_like(x)", {"x": "f32[3, 4]"}, gradient=False),
        Example("normal_like(x)", {"x": "f64[5]"}, gradient=False),
    ),
)


def _uniform_lower(b: Any, a: Any) -> Any:
    drawn = b("torch.rand_like", a.x, generator=b.generator(a.x))
    return (
        drawn if (a.low, a.high) == (0, 1) else b("torch.add", b("torch.mul", drawn, a.high - a.low), a.low)
    )


UNIFORM_LIKE = Op(
    "uniform_like",
    "Numbers from `low` to `high` in the shape of `x`. Always random: not allowed in an inference graph.",
    (_X, Arg("low", "float", 0.0), Arg("high", "float", 1.0)),
    _same_floating,
    _uniform_lower,
    traits=frozenset({"random", "no_gradient"}),
    examples=(
        Example("uniform_like(x)", {"x": "f32[3, 4]"}, gradient=False),
        Example("uniform_like(x, -1, 1)", {"x": "f64[2, 3]"}, gradient=False),
    ),
)


# -- labels


def _expect_labels(s: Shapes, y: TensorType, classes: int) -> None:
    if y.dtype not in INTEGERS or y.weak:
        raise ShapeError(f"`y` is {y}, and classes are integers", "y")
    if classes < 2:
        raise ShapeError("of one class, no label is wrong", "classes" if y.rank else "y")
    s.bound("y", classes)


def _wrong_shape(s: Shapes, a: Any) -> TensorType:
    _expect_labels(s, a.y, expect_known(a.classes, "classes", "the number of classes"))
    return a.y  # type: ignore[no-any-return]


def _wrong_lower(b: Any, a: Any) -> Any:
    if not b.training:
        return b("torch.remainder", b("torch.add", a.y, 1), int(a.classes))
    step = b.method("random_", b("torch.empty_like", a.y), 1, int(a.classes), generator=b.generator(a.y))
    return b("torch.remainder", b("torch.add", a.y, step), int(a.classes))


WRONG_LABEL = Op(
    "wrong_label",
    "Another class than `y`, each of them as likely; the next one where nothing may be random.",
    (Arg("y", doc="integers at least 0 and less than `classes`"), Arg("classes", "size")),
    _wrong_shape,
    _wrong_lower,
    traits=frozenset({"random", "no_gradient"}),
    examples=(
        Example("wrong_label(y, 10)", {"y": "i64[4] < 10"}, gradient=False),
        Example("wrong_label(y, 2)", {"y": "i32[2, 3] < 2"}, gradient=False),
    ),
)


def _hard_shape(s: Shapes, a: Any) -> TensorType:
    expect_rank(a.logits, 2, "logits", "`hard_label`")
    expect_rank(a.y, 1, "y", "`hard_label`")
    expect_floating(a.logits, "logits")
    if not s.unify(a.logits.dims[0], a.y.dims[0]):
        raise ShapeError(f"`logits` is {a.logits} and `y` is {a.y}", "logits", "y")
    _expect_labels(s, a.y, expect_known(a.logits.dims[1], "logits", "the number of classes"))
    return a.y  # type: ignore[no-any-return]


def _hard_lower(b: Any, a: Any) -> Any:
    scores = a.logits
    if b.training:
        # argmax(l - log(q)), q ~ Exp(1), is a draw from softmax(l).
        q = b.method("exponential_", b("torch.empty_like", scores), 1, generator=b.generator(scores))
        scores = b("torch.sub", scores, b("torch.log", q))
    y = a.y if b.type("y").dtype == "i64" else b.method("to", a.y, b.dtype("i64"))
    # log 0 at the label: no number that could be written is low enough in every dtype.
    wrong = b("torch.scatter", b("torch.ones_like", scores), 1, b("torch.unsqueeze", y, 1), 0.0)
    label = b("torch.argmax", b("torch.add", scores, b("torch.log", wrong)), 1)
    return label if b.type("y").dtype == "i64" else b.method("to", label, b.dtype(b.type("y").dtype))


HARD_LABEL = Op(
    "hard_label",
    "Another class than `y`, drawn from the softmax of `logits` over the wrong ones; the most likely one where nothing "
    "may be random.",
    (Arg("logits", doc="`[B, C]`, floating"), Arg("y", doc="`[B]`, integers at least 0 and less than C")),
    _hard_shape,
    _hard_lower,
    traits=frozenset({"random", "no_gradient"}),
    examples=(
        Example("hard_label(logits, y)", {"logits": "f32[4, 10]", "y": "i64[4] < 10"}, gradient=False),
        Example("hard_label(logits, y)", {"logits": "f64[3, 2]", "y": "i32[3] < 2"}, gradient=False),
    ),
)

OPS = (DROPOUT, NOISE, NORMAL_LIKE, UNIFORM_LIKE, WRONG_LABEL, HARD_LABEL)
