"""Random numbers, drawn from (seed, node, step): a node keeps its noise when others come and go."""

from __future__ import annotations

from typing import Any

from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating
from r2d2c.types import TensorType

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

OPS = (DROPOUT, NOISE, NORMAL_LIKE, UNIFORM_LIKE)
