"""Elementwise functions of one value, and `cast`.

A Python number (``sqrt(D)``) stays one: it is computed when compiling and stays weak in its dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, Trait
from r2d2c.types import DTYPES, TensorType

_X = Arg("x", doc="any shape")


def expect_tensor(type_: TensorType, argument: str, what: str) -> None:
    """Refuse a plain number."""
    if type_.weak:
        raise ShapeError(f"{what} needs a tensor, and `{argument}` is a number", argument)


def expect_number_dtype(type_: TensorType, argument: str, what: str) -> None:
    """Refuse bools."""
    if type_.dtype == "bool":
        fix = "convert it: `cast(…, i64)`"
        raise ShapeError(f"{what} is not defined for bools, and `{argument}` is {type_}", argument, fix=fix)


def fold(target: str, *numbers: Any) -> Any:
    """What a torch function gives for Python numbers, as a Python number."""
    import torch

    function = getattr(torch, target.removeprefix("torch."))
    double = torch.float64
    tensors = [torch.tensor(n, dtype=double if isinstance(n, float) else None) for n in numbers]
    return function(*tensors).item()


def is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def log1p_onnx(o: Any, x: Any, dtype: str) -> Any:
    """``log(1 + x)`` that keeps the digits of a small x: log(u) x/(u - 1) with u = 1 + x as rounded."""
    one, zero = o.const(1, dtype), o.const(0, dtype)
    u = o("Add", x, one)
    rest = o("Sub", u, one)
    # Equal for large and infinite x, where the quotient would be inf/inf.
    ratio = o("Where", o("Equal", rest, x), one, o("Div", x, rest))
    return o("Where", o("Equal", rest, zero), x, o("Mul", o("Log", u), ratio))


def expm1_onnx(o: Any, x: Any, dtype: str) -> Any:
    """``exp(x) - 1`` that keeps the digits of a small x: tanh(x/2) (exp(x) + 1)."""
    half = o("Tanh", o("Mul", x, o.const(0.5, dtype)))
    return o("Mul", half, o("Add", o("Exp", x), o.const(1, dtype)))


def square_onnx(o: Any, x: Any, dtype: str) -> Any:
    return o("Mul", x, x)


def _real(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    if x.floating:
        return x
    return x.with_dtype("float" if x.weak else "f32")


def _numeric(what: str) -> Callable[[Shapes, Any], TensorType]:
    def shape(s: Shapes, a: Any) -> TensorType:
        expect_number_dtype(a.x, "x", what)
        return a.x  # type: ignore[no-any-return]

    return shape


def _strong(dtype: str) -> str:
    return {"float": "f32", "int": "i64"}.get(dtype, dtype)


def _unary(
    name: str,
    doc: str,
    onnx: str | Callable[[Any, Any, str], Any],
    *,
    real: bool = True,
    low: float = -2.0,
    no_gradient: bool = False,
    identity_on_integers: bool = False,
) -> Op:
    """real: integers become floats. low: the least argument of the examples."""
    target = f"torch.{name}"

    def number(x: Any) -> Any:
        return fold(target, float(x) if real else x)

    def lower(b: Any, a: Any) -> Any:
        if is_number(a.x):
            return number(a.x)
        x = a.x
        if b.type("x").weak:
            # A size known only when the model runs. A 0-dim CPU tensor meets tensors of any device.
            x = b("torch.tensor", x, dtype=b.dtype("f64" if real else "i64"))
        return b(target, x)

    def form(o: Any, a: Any) -> Any:
        if is_number(a.x):
            return number(a.x)
        dtype = _strong(o.out[0].dtype)
        if identity_on_integers and not o.out[0].floating:
            return o("Identity", a.x)
        x = o.cast(a.x, dtype)
        return o(onnx, x) if isinstance(onnx, str) else onnx(o, x, dtype)

    gradient = not no_gradient
    traits: frozenset[Trait] = frozenset({"no_gradient"}) if no_gradient else frozenset()
    integers = "i64[4] < 6" if real or low > 0 else "i64[2, 1] < 6"
    return Op(
        name,
        doc,
        (_X,),
        _real if real else _numeric(f"`{name}`"),
        lower,
        form,
        traits=traits,
        examples=(
            Example(f"{name}(x)", {"x": "f32[3, 4]"}, range=(low, 2.0), gradient=gradient),
            Example(f"{name}(x)", {"x": "f64[2, 1, 3]"}, range=(low, 2.0), gradient=gradient),
            Example(f"{name}(x)", {"x": "f32[]"}, range=(low, 2.0), gradient=gradient),
            Example(f"{name}(x)", {"x": integers}, range=(low, 2.0), gradient=False),
        ),
    )


def _rsqrt(o: Any, x: Any, dtype: str) -> Any:
    return o("Reciprocal", o("Sqrt", x))


def _round(name: str, operator: str, doc: str) -> Op:
    return _unary(name, doc, operator, real=False, no_gradient=True, identity_on_integers=True)


# -- cast


def _cast_shape(s: Shapes, a: Any) -> TensorType:
    return a.x.with_dtype(a.dtype)  # type: ignore[no-any-return]


def _cast_lower(b: Any, a: Any) -> Any:
    if is_number(a.x) or b.type("x").weak:
        return b("torch.tensor", a.x, dtype=b.dtype(a.dtype))
    return b.method("to", a.x, b.dtype(a.dtype))


def _cast_onnx(o: Any, a: Any) -> Any:
    value = o.cast(a.x, a.dtype)
    # One node at least, so that the value can carry its own name.
    return o("Identity", value) if value is a.x else value


CAST = Op(
    "cast",
    "`x` in another dtype. Floats become integers by dropping their fraction, and bools by being zero or "
    "not; a gradient passes between floating dtypes alone.",
    (_X, Arg("dtype", "choice", doc="the new dtype", choices=DTYPES)),
    _cast_shape,
    _cast_lower,
    _cast_onnx,
    examples=(
        Example("cast(x, f32)", {"x": "i64[3, 4] < 9"}, gradient=False),
        Example("cast(x, f64)", {"x": "f32[5]"}),
        Example("cast(x, i64)", {"x": "f32[2, 3]"}, range=(-5.0, 5.0), gradient=False),
        Example("cast(x, f32)", {"x": "bool[3]"}, gradient=False),
        Example("cast(x, bool)", {"x": "i64[6] < 3"}, gradient=False),
    ),
)

STOP = Op(
    "stop",
    "`x` as a constant for learning: the same value, and no gradient passes.",
    (_X,),
    lambda s, a: a.x,
    lambda b, a: a.x if is_number(a.x) or b.type("x").weak else b.method("detach", a.x),
    "Identity",
    traits=frozenset({"no_gradient"}),
    examples=(
        Example("stop(x)", {"x": "f32[3, 4]"}, gradient=False),
        Example("stop(x)", {"x": "i64[5] < 9"}, gradient=False),
    ),
)

OPS = (
    _unary("neg", "`-x`.", "Neg", real=False),
    _unary("abs", "The absolute value.", "Abs", real=False),
    _unary("sign", "-1, 0 or 1; its gradient is zero.", "Sign", real=False, no_gradient=True),
    _unary("square", "`x ^ 2`.", square_onnx, real=False),
    _unary("reciprocal", "`1 / x`; integers give f32.", "Reciprocal", low=0.5),
    _unary("sqrt", "The square root; its gradient at 0 is infinite.", "Sqrt", low=0.1),
    _unary("rsqrt", "`1 / sqrt(x)`.", _rsqrt, low=0.1),
    _unary("exp", "`e ^ x`.", "Exp"),
    _unary("expm1", "`exp(x) - 1`, exact for small `x`.", expm1_onnx),
    _unary("log", "The natural logarithm.", "Log", low=0.1),
    _unary("log1p", "`log(1 + x)`, exact for small `x`.", log1p_onnx, low=-0.5),
    _unary("sin", "The sine of `x` in radians.", "Sin"),
    _unary("cos", "The cosine of `x` in radians.", "Cos"),
    _round("floor", "Floor", "The largest integer not above `x`, in `x`'s dtype; its gradient is zero."),
    _round("ceil", "Ceil", "The smallest integer not below `x`, in `x`'s dtype; its gradient is zero."),
    _round(
        "round", "Round", "The nearest integer, halves to the even one, in `x`'s dtype; its gradient is zero."
    ),
    CAST,
    STOP,
)
