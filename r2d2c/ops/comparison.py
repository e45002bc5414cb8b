"""Comparison, logic and selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.reductions import AXES, KEEP, axes_of, elements, mixes_axes, reduced_dims
from r2d2c.ops.shapes import broadcast_dims, promoted
from r2d2c.ops.unary import expect_tensor, fold, is_number
from r2d2c.types import TensorType

_XY = (Arg("x", doc="left operand"), Arg("y", doc="right operand, broadcast against `x`"))
_X = (Arg("x", doc="any shape"),)


def _bools(s: Shapes, a: Any) -> TensorType:
    return TensorType("bool", broadcast_dims(s, a.x, a.y, names=("x", "y")))


def _compare(name: str, sign: str, mirrored: str, operator: str, negate: bool = False) -> Op:
    """mirrored: the comparison that is the same with its operands swapped."""

    def lower(b: Any, a: Any) -> Any:
        if is_number(a.x) and is_number(a.y):
            return fold(f"torch.{name}", a.x, a.y)
        if b.type("x").weak and not b.type("y").weak:
            # Torch compares a tensor with a number, not a number with a tensor.
            return b(f"torch.{mirrored}", a.y, a.x)
        return b(f"torch.{name}", a.x, a.y)

    def onnx(o: Any, a: Any) -> Any:
        x, y = o.promote(a.x, a.y)
        if o.dtype_of(x) == "bool" and operator != "Equal":
            x, y = o.cast(x, "i32"), o.cast(y, "i32")
        result = o(operator, x, y)
        return o("Not", result) if negate else result

    return Op(
        name,
        f"`x {sign} y`, elementwise; bools.",
        _XY,
        _bools,
        lower,
        onnx,
        traits=frozenset({"no_gradient"}),
        examples=(
            Example(f"{name}(x, y)", {"x": "f32[3, 4]", "y": "f32[3, 4]"}, gradient=False),
            Example(f"{name}(x, y)", {"x": "i64[2, 1, 4] < 3", "y": "i64[3, 1] < 3"}, gradient=False),
            Example(f"{name}(x, 0.5)", {"x": "f64[5]"}, gradient=False),
            Example(f"{name}(1, x)", {"x": "i64[6] < 3"}, gradient=False),
            Example(f"{name}(x, y)", {"x": "bool[6]", "y": "bool[6]"}, gradient=False),
        ),
    )


def _logical(name: str, operator: str, doc: str) -> Op:
    target = f"torch.{name}"

    def lower(b: Any, a: Any) -> Any:
        if is_number(a.x) and is_number(a.y):
            return fold(target, a.x, a.y)
        x, y = (b("torch.tensor", v) if is_number(v) else v for v in (a.x, a.y))
        return b(target, x, y)

    def onnx(o: Any, a: Any) -> Any:
        return o(operator, o.cast(a.x, "bool"), o.cast(a.y, "bool"))

    return Op(
        name,
        doc,
        _XY,
        _bools,
        lower,
        onnx,
        traits=frozenset({"no_gradient"}),
        examples=(
            Example(f"{name}(x, y)", {"x": "bool[3, 4]", "y": "bool[3, 4]"}, gradient=False),
            Example(f"{name}(x, y)", {"x": "bool[2, 1, 4]", "y": "bool[3, 1]"}, gradient=False),
            Example(f"{name}(x, y)", {"x": "i64[5] < 2", "y": "bool[5]"}, gradient=False),
            Example(f"{name}(x, true)", {"x": "bool[5]"}, gradient=False),
        ),
    )


def _same_bools(s: Shapes, a: Any) -> TensorType:
    return a.x.with_dtype("bool")  # type: ignore[no-any-return]


def _not_lower(b: Any, a: Any) -> Any:
    return not a.x if is_number(a.x) else b("torch.logical_not", a.x)


def _not_onnx(o: Any, a: Any) -> Any:
    return o("Not", o.cast(a.x, "bool"))


LOGICAL_NOT = Op(
    "logical_not",
    "`not x`, elementwise; numbers are true unless zero.",
    _X,
    _same_bools,
    _not_lower,
    _not_onnx,
    traits=frozenset({"no_gradient"}),
    examples=(
        Example("logical_not(x)", {"x": "bool[3, 4]"}, gradient=False),
        Example("logical_not(x)", {"x": "i64[5] < 2"}, gradient=False),
    ),
)


def _isnan_shape(s: Shapes, a: Any) -> TensorType:
    expect_tensor(a.x, "x", "`isnan`")
    return _same_bools(s, a)


def _isnan_onnx(o: Any, a: Any) -> Any:
    return o("Not", o("Equal", a.x, a.x))


ISNAN = Op(
    "isnan",
    "Whether `x` is not a number, elementwise; bools.",
    _X,
    _isnan_shape,
    "torch.isnan",
    _isnan_onnx,
    traits=frozenset({"no_gradient"}),
    examples=(
        Example("isnan(x)", {"x": "f32[3, 4]"}, gradient=False),
        Example("isnan(x)", {"x": "i64[5]"}, gradient=False),
        Example("isnan(x)", {"x": "f64[2, 1, 2]"}, gradient=False),
    ),
)


# -- where


def _where_shape(s: Shapes, a: Any) -> TensorType:
    expect_tensor(a.condition, "condition", "`where`")
    if a.condition.dtype != "bool":
        raise ShapeError(
            f"a condition is of bools, and `condition` is {a.condition}",
            "condition",
            fix="compare it: `… > 0`",
        )
    dtype = promoted(a.x, a.y)
    dtype = {"float": "f32", "int": "i64"}.get(dtype, dtype)
    return TensorType(dtype, broadcast_dims(s, a.condition, a.x, a.y, names=("condition", "x", "y")))


def _where_onnx(o: Any, a: Any) -> Any:
    dtype = o.out[0].dtype
    if dtype == "bool":  # for which runtimes have no Where
        x, y = o.cast(a.x, dtype), o.cast(a.y, dtype)
        return o("Or", o("And", a.condition, x), o("And", o("Not", a.condition), y))
    return o("Where", a.condition, o.cast(a.x, dtype), o.cast(a.y, dtype))


WHERE = Op(
    "where",
    "`x` where the condition is true and `y` elsewhere. Both are computed everywhere.",
    (
        Arg("condition", doc="bools"),
        Arg("x", doc="taken where the condition is true"),
        Arg("y", doc="taken elsewhere; all three broadcast"),
    ),
    _where_shape,
    "torch.where",
    _where_onnx,
    examples=(
        Example("where(c, x, y)", {"c": "bool[3, 4]", "x": "f32[3, 4]", "y": "f32[3, 4]"}),
        Example("where(c, x, y)", {"c": "bool[3, 1]", "x": "f32[2, 1, 4]", "y": "f32[]"}),
        Example("where(c, x, 0)", {"c": "bool[5]", "x": "f64[5]"}),
        Example("where(c, x, y)", {"c": "bool[5]", "x": "i64[5] < 9", "y": "f32[5]"}),
        Example("where(c, 1, 0)", {"c": "bool[5]"}, gradient=False),
        Example("where(c, x, y)", {"c": "bool[5]", "x": "bool[5]", "y": "bool[5]"}, gradient=False),
    ),
)


# -- any and all


def _quantify_shape(what: str) -> Callable[[Shapes, Any], TensorType]:
    def shape(s: Shapes, a: Any) -> TensorType:
        expect_tensor(a.x, "x", what)
        return TensorType("bool", reduced_dims(a.x, a.axes, a.keep))

    return shape


def _quantify(name: str, reduce: str, doc: str) -> Op:
    def lower(b: Any, a: Any) -> Any:
        x = b.method("to", a.x, b.dtype("bool")) if b.type("x").dtype == "u8" else a.x
        if a.axes is None and not a.keep:
            return b(f"torch.{name}", x)
        return b(f"torch.{name}", x, axes_of(b.type("x"), a.axes), a.keep)

    def onnx(o: Any, a: Any) -> Any:
        x = o.cast(o.cast(a.x, "bool"), "i32")
        axes = axes_of(o.type("x"), a.axes)
        return o.cast(o(reduce, x, *([o.ints(axes)] if axes else []), keepdims=int(a.keep)), "bool")

    return Op(
        name,
        doc,
        (*_X, AXES, KEEP),
        _quantify_shape(f"`{name}`"),
        lower,
        onnx,
        mixes=mixes_axes,
        cost=elements,
        traits=frozenset({"no_gradient"}),
        examples=(
            Example(f"{name}(x)", {"x": "bool[3, 4]"}, gradient=False),
            Example(f"{name}(x, -1)", {"x": "bool[3, 4]"}, gradient=False),
            Example(f"{name}(x, (0, 2), keep=true)", {"x": "bool[2, 3, 2]"}, gradient=False),
            Example(f"{name}(x, 0)", {"x": "i64[2, 5] < 2"}, gradient=False),
        ),
    )


OPS = (
    _compare("eq", "==", "eq", "Equal"),
    _compare("ne", "!=", "ne", "Equal", negate=True),
    _compare("lt", "<", "gt", "Less"),
    _compare("le", "<=", "ge", "LessOrEqual"),
    _compare("gt", ">", "lt", "Greater"),
    _compare("ge", ">=", "le", "GreaterOrEqual"),
    _logical("logical_and", "And", "`x and y`, elementwise; numbers are true unless zero."),
    _logical("logical_or", "Or", "`x or y`, elementwise; numbers are true unless zero."),
    LOGICAL_NOT,
    WHERE,
    ISNAN,
    _quantify("any", "ReduceMax", "Whether any element along the axes is true."),
    _quantify("all", "ReduceMin", "Whether all elements along the axes are true."),
)
