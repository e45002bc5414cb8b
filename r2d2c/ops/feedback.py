"""Ops of feedback alignment: a plain op whose gradient of `x` goes through weights of its own.

Each record is made from the plain op's, `linear` or a convolution: with the same arguments and one more, with its
forward bit for bit, and the same gradients of weight and bias (Lillicrap et al., 2016). Once the model has
learned they are the plain op; the functions of the training graph are in functions.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from r2d2c.ops.convolution import CONV1D, CONV2D, CONV_TRANSPOSE2D
from r2d2c.ops.dims import expect_same_dtype
from r2d2c.ops.linear import LINEAR
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes

_PREFIX = "feedback_"
_OWN = Arg("feedback", "param", doc="like the weight; drawn like it, and never trained")


class _Rerouted:
    """The lowering context of a plain op, whose product is called with the feedback."""

    def __init__(self, b: Any, name: str, feedback: Any) -> None:
        self._b, self._name, self._feedback = b, name, feedback

    def __getattr__(self, name: str) -> Any:
        return getattr(self._b, name)

    def __call__(self, target: str, *args: Any, **kwargs: Any) -> Any:
        if target != f"torch.nn.functional.{self._name}":
            return self._b(target, *args, **kwargs)
        x, weight, bias, *geometry = args
        function = f"r2d2c.ops.functions.{_PREFIX}{self._name}"
        return self._b(function, x, weight, bias, self._feedback, *geometry)


def _shape(plain: Op, rank: int) -> Callable[[Shapes, Any], Any]:
    def shape(s: Shapes, a: Any) -> Any:
        weight, feedback = a.weight, a.feedback
        result = plain.shape(s, a)
        if weight.rank != rank:
            raise ShapeError(
                f"feedback goes through one weight for all samples; this one is {weight}, per sample",
                "weight",
                fix=f"use `{plain.name}`",
            )
        expect_same_dtype(weight, feedback, "weight", "feedback")
        if feedback.rank != rank or not all(map(s.unify, feedback.dims, weight.dims)):
            message = f"`feedback` stands for the weight {weight} in the backward, and is {feedback}"
            raise ShapeError(message, "feedback", "weight")
        return result

    return shape


def _params(plain: Op) -> Callable[[Shapes, Any], dict[str, ParamSpec]]:
    assert plain.params is not None
    made = plain.params

    def params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
        specs = made(s, a)
        return {**specs, "feedback": replace(specs["weight"], kind="frozen")}

    return params


def _lower(plain: Op) -> Callable[[Any, Any], Any]:
    lower: Any = plain.lower

    def lowered(b: Any, a: Any) -> Any:
        return lower(_Rerouted(b, plain.name, a.feedback) if b.training else b, a)

    return lowered


def _one_weight(arg: Arg) -> Arg:
    return replace(arg, doc=arg.doc.partition(", or per sample")[0]) if arg.name == "weight" else arg


def _feedback(plain: Op, rank: int, examples: tuple[Example, ...]) -> Op:
    return replace(
        plain,
        name=f"{_PREFIX}{plain.name}",
        doc=f"`{plain.name}` that learns by feedback alignment: the gradient of `x` is that of a layer with the weight "
        "`feedback`; those of weight and bias are as usual.",
        args=(*map(_one_weight, plain.args), _OWN),
        shape=_shape(plain, rank),
        lower=_lower(plain),
        params=_params(plain),
        examples=examples,
        changes_credit="feedback",
    )


FEEDBACK_LINEAR = _feedback(
    LINEAR,
    2,
    (
        Example("feedback_linear(x, 5)", {"x": "f32[3, 4]"}),
        Example("feedback_linear(x, 5, bias=false)", {"x": "f32[2, 3, 4]"}),
        Example(
            "feedback_linear(x, 5, weight=w, feedback=v)",
            {"x": "f32[3, 4]", "w": "f32[5, 4]", "v": "f32[5, 4]"},
        ),
    ),
)
FEEDBACK_CONV1D = _feedback(
    CONV1D,
    3,
    (
        Example("feedback_conv1d(x, 4, 3)", {"x": "f32[2, 3, 8]"}),
        Example("feedback_conv1d(x, 4, 4, same=true, bias=false)", {"x": "f32[2, 3, 8]"}),
    ),
)
FEEDBACK_CONV2D = _feedback(
    CONV2D,
    4,
    (
        Example("feedback_conv2d(x, 4, 3)", {"x": "f32[2, 3, 8, 7]"}, tolerance=2e-5),
        Example(
            "feedback_conv2d(x, 6, 2, stride=2, padding=1, groups=3, bias=false)", {"x": "f32[2, 3, 6, 6]"}
        ),
        Example(
            "feedback_conv2d(x, 4, 2, same=true, weight=w, feedback=v)",
            {"x": "f32[3, 2, 5, 6]", "w": "f32[4, 2, 2, 2]", "v": "f32[4, 2, 2, 2]"},
        ),
    ),
)
FEEDBACK_CONV_TRANSPOSE2D = _feedback(
    CONV_TRANSPOSE2D,
    4,
    (
        Example("feedback_conv_transpose2d(x, 4, 3)", {"x": "f32[2, 3, 5, 4]"}, tolerance=2e-5),
        Example(
            "feedback_conv_transpose2d(x, 4, 3, stride=2, padding=1, extra=1, groups=2)",
            {"x": "f32[2, 6, 4, 3]"},
        ),
    ),
)

OPS = (FEEDBACK_LINEAR, FEEDBACK_CONV1D, FEEDBACK_CONV2D, FEEDBACK_CONV_TRANSPOSE2D)
PLAIN: Mapping[str, str] = {op.name: op.name.removeprefix(_PREFIX) for op in OPS}
