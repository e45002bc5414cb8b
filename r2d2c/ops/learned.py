"""`learned`: a value that is trained itself, not a layer's weight: position and type embeddings, first states."""

from __future__ import annotations

from typing import Any

from r2d2c.graph import Init
from r2d2c.ops.dims import expect_fixed
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes
from r2d2c.types import TensorType


def _params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    for dim in a.sizes:
        expect_fixed(dim, "sizes", "the size of a parameter")
    return {"value": ParamSpec(tuple(a.sizes), Init("normal", (0.02,)), ())}


def _shape(s: Shapes, a: Any) -> TensorType:
    sizes, value = tuple(a.sizes), a.value
    extra = value.rank - len(sizes)
    if extra not in (0, 1) or not all(map(s.unify, value.dims[extra:], sizes)):
        shown = ", ".join(map(str, sizes))
        raise ShapeError(f"the value is {value}, and [{shown}] is needed, or [B, {shown}]", "value", "sizes")
    return value  # type: ignore[no-any-return]


LEARNED = Op(
    "learned",
    "A trained value of these sizes, the same for every sample: `x + learned((P, D))` gives each of P rows a position.",
    (
        Arg("sizes", "sizes", doc="its shape"),
        Arg("value", "param", doc="of this shape, or per sample with `B` in front; starts as `normal(0.02)`"),
    ),
    _shape,
    lambda b, a: a.value,
    lambda o, a: a.value,
    params=_params,
    cost=lambda a: 0,
    examples=(
        Example("learned((3, 4))", {}),
        Example("learned(5)", {}),
        Example("learned((3, 4), value=v)", {"v": "f64[3, 4]"}),
        Example("learned((3, 4), value=v)", {"v": "f32[2, 3, 4]"}),
    ),
)

OPS = (LEARNED,)
