"""Elementwise arithmetic on two values, and `clamp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import elementwise
from r2d2c.ops.unary import expect_number_dtype, expect_tensor, fold, is_number
from r2d2c.types import TensorType

_XY = (Arg("x", doc="left operand"), Arg("y", doc="right operand, broadcast against `x`"))


def _example(
    name: str, low: float = -2.0, gradient: bool = True, integers: bool = True
) -> tuple[Example, ...]:
    examples = (
        Example(f"{name}(x, y)", {"x": "f32[3, 4]", "y": "f32[3, 4]"}, range=(low, 2.0), gradient=gradient),
        Example(
            f"{name}(x, y)", {"x": "f32[2, 1, 4]", "y": "f32[3, 1]"}, range=(low, 2.0), gradient=gradient
        ),
        Example(f"{name}(x, 2)", {"x": "f64[5]"}, range=(low, 2.0), gradient=gradient),
        Example(f"{name}(2, x)", {"x": "f32[5]"}, range=(low, 2.0), gradient=gradient),
        Example(f"{name}(x, y)", {"x": "i64[5] < 7", "y": "f32[5]"}, range=(low, 2.0), gradient=gradient),
    )
    whole = Example(
        f"{name}(x, y)", {"x": "i64[2, 3] < 9", "y": "i64[3] < 4"}, range=(1.0, 2.0), gradient=False
    )
    return (*examples, whole) if integers else examples


def _promoted(operator: str, on_bools: str | None = None) -> Callable[[Any, Any], Any]:
    """An ONNX form that brings both operands to one dtype first; ONNX never promotes.

    on_bools: the operator that does the same for bools.
    """

    def onnx(o: Any, a: Any) -> Any:
        use = on_bools if on_bools and o.out[0].dtype == "bool" else operator
        return o(use, *o.promote(a.x, a.y))

    return onnx


def _no_bools(what: str) -> Callable[[Shapes, Any], TensorType]:
    def shape(s: Shapes, a: Any) -> TensorType:
        if a.y.dtype == "bool":
            expect_number_dtype(a.x, "x", what)
        return elementwise(s, a)

    return shape


def _true_division(s: Shapes, a: Any) -> TensorType:
    result = elementwise(s, a)
    return result if result.floating else result.with_dtype("f32")


def _onnx_divide(o: Any, a: Any) -> Any:
    dtype = o.out[0].dtype
    return o("Div", o.cast(a.x, dtype), o.cast(a.y, dtype))


# -- floor division and remainder, with the sign of the divisor as in Python


def _float_remainder(o: Any, x: Any, y: Any, dtype: str) -> tuple[Any, Any]:
    """The remainder with the sign of ``x``, and whether its sign must be turned to that of ``y``."""
    zero = o.const(0, dtype)
    rest = o("Mod", x, y, fmod=1)
    differs = o("Xor", o("Less", rest, zero), o("Less", y, zero))
    return rest, o("And", o("Not", o("Equal", rest, zero)), differs)


def _remainder(b: Any, a: Any) -> Any:
    if b.type("x").weak and not b.type("y").weak:
        # Torch has no gradient for a number's remainder.
        return b("torch.remainder", b("torch.full_like", a.y, a.x, dtype=b.dtype(b.out[0].dtype)), a.y)
    return b("torch.remainder", a.x, a.y)


def _onnx_remainder(o: Any, a: Any) -> Any:
    x, y = o.promote(a.x, a.y)
    dtype = o.out[0].dtype
    if not o.out[0].floating:
        return o("Mod", x, y)
    rest, turn = _float_remainder(o, x, y, dtype)
    return o("Where", turn, o("Add", rest, y), rest)


def _floor_divide(b: Any, a: Any) -> Any:
    # Not torch.floor_divide: that one fails in a backward pass, this one has a zero gradient.
    return b("torch.div", a.x, a.y, rounding_mode="floor")


def _onnx_floor_divide(o: Any, a: Any) -> Any:
    x, y = o.promote(a.x, a.y)
    dtype = o.out[0].dtype
    if not o.out[0].floating:
        # ONNX divides integers towards zero; x less its remainder divides exactly.
        return o("Div", o("Sub", x, o("Mod", x, y)), y)
    # floor(x / y) alone is wrong where x / y rounds up to an integer: 1 // 0.1 is 9.
    rest, turn = _float_remainder(o, x, y, dtype)
    quotient = o("Div", o("Sub", x, rest), y)
    return o("Round", o("Where", turn, o("Sub", quotient, o.const(1, dtype)), quotient))


# -- the larger and the smaller of two


def _bound(b: Any, a: Any, side: str) -> Any:
    target = "torch.maximum" if side == "min" else "torch.minimum"
    if is_number(a.x) and is_number(a.y):
        return fold(target, a.x, a.y)
    if b.type("x").weak and b.type("y").weak:  # sizes, which are numbers of Python
        return b.python(max if side == "min" else min, a.x, a.y)
    if b.type("y").weak:
        return b("torch.clamp", a.x, **{side: a.y})
    if b.type("x").weak:
        return b("torch.clamp", a.y, **{side: a.x})
    return b(target, a.x, a.y)


def _maximum(b: Any, a: Any) -> Any:
    return _bound(b, a, "min")


def _minimum(b: Any, a: Any) -> Any:
    return _bound(b, a, "max")


# -- clamp


def _whole(a: Any) -> bool:
    return all(limit is None or float(limit).is_integer() for limit in (a.low, a.high))


def _clamp_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_tensor(x, "x", "`clamp`")
    expect_number_dtype(x, "x", "`clamp`")
    if a.low is None and a.high is None:
        raise ShapeError("`clamp` needs `low`, `high` or both", "low")
    if a.low is not None and a.high is not None and a.low > a.high:
        raise ShapeError(f"`low` is {a.low:g} and above `high`, {a.high:g}", "low", "high")
    return x if x.floating or _whole(a) else x.with_dtype("f32")


def _limits(a: Any, floating: bool) -> tuple[Any, Any]:
    keep = floating or not _whole(a)
    low, high = (limit if limit is None or keep else int(limit) for limit in (a.low, a.high))
    return low, high


def _clamp_lower(b: Any, a: Any) -> Any:
    return b("torch.clamp", a.x, *_limits(a, b.type("x").floating))


def _clamp_onnx(o: Any, a: Any) -> Any:
    dtype = o.out[0].dtype
    limits = [None if limit is None else o.const(limit, dtype) for limit in _limits(a, o.type("x").floating)]
    return o("Clip", o.cast(a.x, dtype), *limits)


CLAMP = Op(
    "clamp",
    "`x`, but at least `low` and at most `high`. Integers stay integers if the limits are whole.",
    (
        Arg("x", doc="any shape"),
        Arg("low", "float", None, doc="the least result; `none` for no limit"),
        Arg("high", "float", None, doc="the greatest result"),
    ),
    _clamp_shape,
    _clamp_lower,
    _clamp_onnx,
    examples=(
        Example("clamp(x, -1, 1)", {"x": "f32[3, 4]"}),
        Example("clamp(x, low=0.5)", {"x": "f64[5]"}),
        Example("clamp(x, high=0)", {"x": "f32[2, 1, 3]"}),
        Example("clamp(x, 1, 3)", {"x": "i64[6] < 6"}, gradient=False),
        Example("clamp(x, 0.5, 2.5)", {"x": "i64[6] < 6"}, gradient=False),
    ),
)

OPS = (
    Op(
        "add",
        "`x + y`, elementwise.",
        _XY,
        elementwise,
        "torch.add",
        _promoted("Add", "Or"),
        examples=_example("add"),
    ),
    Op(
        "sub",
        "`x - y`, elementwise.",
        _XY,
        _no_bools("`-`"),
        "torch.sub",
        _promoted("Sub"),
        examples=_example("sub"),
    ),
    Op(
        "mul",
        "`x * y`, elementwise.",
        _XY,
        elementwise,
        "torch.mul",
        _promoted("Mul", "And"),
        examples=_example("mul"),
    ),
    Op(
        "div",
        "`x / y`, elementwise; integers give f32.",
        _XY,
        _true_division,
        "torch.div",
        _onnx_divide,
        examples=_example("div", 0.5),
    ),
    Op(
        "floor_divide",
        "`x // y`, elementwise: the quotient rounded down; its gradient is zero.",
        _XY,
        _no_bools("`//`"),
        _floor_divide,
        _onnx_floor_divide,
        traits=frozenset({"no_gradient"}),
        examples=_example("floor_divide", 0.5, gradient=False),
    ),
    Op(
        "remainder",
        "`x % y`, elementwise, with the sign of `y`: `x - y * (x // y)`.",
        _XY,
        _no_bools("`%`"),
        _remainder,
        _onnx_remainder,
        examples=_example("remainder", 0.5),
    ),
    Op(
        "pow",
        "`x ^ y`, elementwise. Integers to a negative power are refused when the model runs.",
        _XY,
        _no_bools("`^`"),
        "torch.pow",
        _promoted("Pow"),
        examples=_example("pow", 0.5),
    ),
    Op(
        "maximum",
        "The larger of `x` and `y`, elementwise.",
        _XY,
        elementwise,
        _maximum,
        _promoted("Max", "Or"),
        examples=_example("maximum"),
    ),
    Op(
        "minimum",
        "The smaller of `x` and `y`, elementwise.",
        _XY,
        elementwise,
        _minimum,
        _promoted("Min", "And"),
        examples=_example("minimum"),
    ),
    CLAMP,
)
