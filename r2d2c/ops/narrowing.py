"""`narrow`: the first part of a value's coordinates, with zeros for the rest; and `at_steps`: some of a loop's steps."""

from __future__ import annotations

import operator
from typing import Any

from r2d2c.loops import stack_axis
from r2d2c.ops.dims import expect_tensor, onnx_range
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, normalise_axis
from r2d2c.ops.shapes import expect_floating
from r2d2c.types import Dim, DimLike, TensorType


def _shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_floating(x, "x")
    if x.rank < 1:
        raise ShapeError("a scalar has no coordinates to leave out", "x")
    normalise_axis(a.axis, x.rank)
    if a.width.rank or not a.width.floating:
        raise ShapeError(f"`width` is a number from 0 to 1, not {a.width}", "width")
    return x


def _lower(b: Any, a: Any) -> Any:
    type_ = b.type("x")
    axis = normalise_axis(a.axis, type_.rank)
    size = b.size(type_.dims[axis])
    place = {"device": b.python(getattr, a.x, "device")}
    # Half a coordinate of slack: 1/3 of 48 is 16, whatever floating numbers make of it.
    limit = b.python(operator.sub, b.python(operator.mul, a.width, size), 0.5)
    kept = b("torch.lt", b("torch.arange", size, **place), limit)
    behind = type_.rank - axis - 1
    if behind:
        kept = b.method("reshape", kept, (-1, *[1] * behind))
    return b("torch.where", kept, a.x, 0.0)


def _onnx(o: Any, a: Any) -> Any:
    type_ = o.type("x")
    axis = normalise_axis(a.axis, type_.rank)
    dtype = type_.dtype
    numbers = o("Add", o.cast(onnx_range(o, type_.dims[axis]), dtype), o.const(0.5, dtype))
    limit = o("Mul", o.cast(a.width, dtype), o.cast(o.size(type_.dims[axis]), dtype))
    kept = o("Less", numbers, limit)
    behind = type_.rank - axis - 1
    if behind:
        kept = o("Reshape", kept, o.ints([-1, *[1] * behind]))
    return o("Where", kept, a.x, o.const(0.0, dtype))


NARROW = Op(
    "narrow",
    "The first `width` (a part, from 0 to 1) of the coordinates along an axis, and zeros for the rest. "
    "Nothing depends on those, and the gradient there is 0.",
    (
        Arg("x", doc="floating"),
        Arg("width", doc="a number from 0 to 1, such as the model's `width`"),
        Arg("axis", "axis", -1),
    ),
    _shape,
    _lower,
    _onnx,
    examples=(
        Example("narrow(x, 0.5)", {"x": "f32[3, 4]"}),
        Example("narrow(x, 0.25, axis=1)", {"x": "f64[2, 8, 3]"}),
        Example("narrow(x, 1.0)", {"x": "f32[5]"}),
    ),
)


# -- at_steps


def _count(a: Any) -> DimLike:
    count: DimLike = a.last - (a.first - 1)
    return count


def _at_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "at_steps")
    axis = stack_axis(x)
    if x.rank <= axis:
        raise ShapeError(f"`x` is {x}, which has no axis of steps", "x", fix="`r.z.steps` has one")
    if isinstance(a.first, Dim) or a.first < 1:
        raise ShapeError(f"the first step is a number from 1 on, not {a.first}", "x")
    # Whether the loop gets so far is checked apart, where the ranges of dims are known.
    return x.with_dims((*x.dims[:axis], _count(a), *x.dims[axis + 1 :]))


def _at_lower(b: Any, a: Any) -> Any:
    part = slice(a.first - 1, b.size(a.last))
    return b.item(a.x, (*(slice(None),) * stack_axis(b.type("x")), part))


def _at_onnx(o: Any, a: Any) -> Any:
    axis = stack_axis(o.type("x"))
    last = o.shape([a.last]) if isinstance(a.last, Dim) else o.ints([int(a.last)])
    return o("Slice", a.x, o.ints([a.first - 1]), last, o.ints([axis]), o.ints([1]))


AT_STEPS = Op(
    "at_steps",
    "Of what a loop gives at every step (`r.z.steps`) the steps from `first` to `last`, counted from 1; the axis of "
    "steps is the one behind the batch. A loss with `steps: 2..depth` reads its values so.",
    (
        Arg("x", doc="a value at every step, any dtype"),
        Arg("first", "int", doc="from 1 on"),
        Arg("last", "size", doc="a step that every run of the loop gets to"),
    ),
    _at_shape,
    _at_lower,
    _at_onnx,
    cost=lambda a: 0,
    examples=(
        Example("at_steps(x, 2, 3)", {"x": "f32[4, 5]"}),
        Example("at_steps(x, 1, 3)", {"x": "i64[3] < 9"}, gradient=False),
    ),
)

OPS = (NARROW, AT_STEPS)
