"""Several steps of arithmetic in one pass over the numbers."""

from __future__ import annotations

from typing import Any

from r2d2c.ops.dims import expect_same_dtype, expect_tensor
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating
from r2d2c.types import TensorType


def _shape(s: Shapes, a: Any) -> TensorType:
    expect_floating(a.x, "x")
    for name in ("x", "factor", "term"):
        expect_tensor(getattr(a, name), name, "multiply_add")
    for name in ("factor", "term"):
        other: TensorType = getattr(a, name)
        expect_same_dtype(a.x, other, "x", name)
        if other.rank != a.x.rank or not all(map(s.unify, other.dims, a.x.dims)):
            raise ShapeError(f"`x` is {a.x} and `{name}` is {other}: they must be alike", "x", name)
    result: TensorType = a.x
    return result


MULTIPLY_ADD = Op(
    "multiply_add",
    "`x * factor + term`, of three values of one shape, in one pass over the numbers.",
    (Arg("x", doc="floating"), Arg("factor", doc="like `x`"), Arg("term", doc="like `x`")),
    _shape,
    lambda b, a: b("torch.addcmul", a.term, a.x, a.factor),
    lambda o, a: o("Add", o("Mul", a.x, a.factor), a.term),
    examples=(
        Example("multiply_add(x, y, z)", {"x": "f32[3, 4]", "y": "f32[3, 4]", "z": "f32[3, 4]"}),
        Example("multiply_add(x, y, z)", {"x": "f64[5]", "y": "f64[5]", "z": "f64[5]"}),
    ),
)

OPS = (MULTIPLY_ADD,)
