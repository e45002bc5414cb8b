"""The language of what the kinds of op graphs compute: formulas of numbers a, b and c, and their derivatives.

One text is all that a kind has to say: kernels, ONNX, written Python, checks and gradients are made of it. It has
`+ - * /`, numbers, comparisons (1 where they hold, else 0) and the functions of `FUNCTIONS` and `SHORT`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2d2c.opgraph import Ints

LETTERS = "abc"
# Functions that numpy and torch share under one name, with how many arguments each takes.
FUNCTIONS = {
    "exp": 1, "log": 1, "sqrt": 1, "abs": 1, "sign": 1, "tanh": 1, "sin": 1, "cos": 1, "arctan": 1, "square": 1,
    "maximum": 2, "minimum": 2, "where": 3,
}  # fmt: skip
# What others stand for, of `a`; written so that nothing overflows.
SHORT = {
    "sigmoid": "0.5 * tanh(0.5 * a) + 0.5",
    "softplus": "maximum(a, 0) + log(1 + exp(-abs(a)))",
    "relu": "maximum(a, 0)",
}
_NUMBERS: dict[type, Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_COMPARED = (ast.Gt, ast.Lt, ast.GtE, ast.LtE)


class FormulaError(ValueError):
    """What is wrong with a formula, in words for the one who wrote it."""


@lru_cache(1024)
def tree(text: str) -> ast.expr:
    """The tree of a formula, or of a gradient: short names written out, numbers computed. It must not be changed."""
    return _Plain().visit(ast.parse(text.strip(), mode="eval").body)  # type: ignore[no-any-return]


@lru_cache(1024)
def value_tree(text: str) -> ast.expr:
    """The tree of a formula where a comparison, except in a `where`, is `where(…, 1, 0)`: libraries know it as a bool."""
    return _Valued().visit(_Plain().visit(ast.parse(text.strip(), mode="eval").body))  # type: ignore[no-any-return]


def spelled(text: str) -> str:
    """A formula in one spelling, whatever its blanks and brackets."""
    return ast.unparse(tree(text))


def check(text: str, names: Sequence[str], what: str) -> set[str]:
    """The names that a formula reads. Raises `FormulaError` for what is none of these names."""
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FormulaError(f"{what} `{text}` cannot be read") from None
    try:
        found = _checked(body, names, what)
        tree(text)
        value_tree(text)
        return found
    except RecursionError:
        raise FormulaError(f"{what} is too deep") from None


def _checked(node: ast.expr, names: Sequence[str], what: str) -> set[str]:
    def all_of(parts: Iterable[ast.expr]) -> set[str]:
        found: set[str] = set().union(*(_checked(part, names, what) for part in parts))
        if not found:
            raise FormulaError(f"{what}: `{ast.unparse(node)}` is of numbers alone; write what it is")
        return found

    match node:
        case ast.Name(name):
            if name not in names:
                raise FormulaError(f"{what} reads `{name}`; it may read {', '.join(f'`{n}`' for n in names)}")
            return {name}
        case ast.Constant(bool()):
            pass
        case ast.Constant(int() | float()):
            return set()
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float())):
            return set()
        case ast.UnaryOp(ast.USub(), inner):
            return all_of([inner])
        case ast.BinOp(left, op, right) if type(op) in _NUMBERS:
            return all_of([left, right])
        case ast.Compare(left, [op], [right]) if isinstance(op, _COMPARED):
            return all_of([left, right])
        case ast.Call(ast.Name(name), args, []):
            count = 1 if name in SHORT else FUNCTIONS.get(name)
            if count is None:
                known = ", ".join(f"`{f}`" for f in sorted({*FUNCTIONS, *SHORT}))
                raise FormulaError(f"{what} calls `{name}`; it may call {known}")
            if len(args) != count:
                raise FormulaError(f"{what} gives `{name}` {len(args)} of its {count} arguments")
            if name == "where" and not isinstance(args[0], ast.Compare):
                raise FormulaError(f"{what}: the first argument of `where` is a comparison, `c > 0`")
            return all_of(args)
    raise FormulaError(f"{what} has `{ast.unparse(node)}`; a formula has `+ - * /`, numbers and functions")


class _Plain(ast.NodeTransformer):
    """Short names written out, and what is of numbers alone computed."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        args = [self.visit(arg) for arg in node.args]
        assert isinstance(node.func, ast.Name)
        if node.func.id in SHORT:
            inside = _Given({"a": args[0]}).visit(ast.parse(SHORT[node.func.id], mode="eval").body)
            return inside  # type: ignore[no-any-return]
        return ast.Call(node.func, args, [])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        inner = self.visit(node.operand)
        number = _number(inner)
        return ast.UnaryOp(node.op, inner) if number is None else ast.Constant(-number)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        one, other = _number(left), _number(right)
        if one is not None and other is not None and not (isinstance(node.op, ast.Div) and other == 0):
            return ast.Constant(_NUMBERS[type(node.op)](one, other))
        return ast.BinOp(left, node.op, right)


class _Given(ast.NodeTransformer):
    """Expressions in place of names."""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)


class _Valued(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        if node.func.id != "where":
            return ast.Call(node.func, [self.visit(arg) for arg in node.args], [])
        condition = node.args[0]
        assert isinstance(condition, ast.Compare)
        held = ast.Compare(self.visit(condition.left), condition.ops, [self.visit(condition.comparators[0])])
        return ast.Call(node.func, [held, *(self.visit(arg) for arg in node.args[1:])], [])

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        held = ast.Compare(self.visit(node.left), node.ops, [self.visit(node.comparators[0])])
        return ast.Call(ast.Name("where", ast.Load()), [held, ast.Constant(1.0), ast.Constant(0.0)], [])


def _number(node: ast.expr) -> float | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else None


@lru_cache(256)
def _code(text: str) -> Any:
    return compile(ast.fix_missing_locations(ast.Expression(value_tree(text))), "<formula>", "eval")


def evaluate(text: str, values: Mapping[str, Ints]) -> Ints:
    """A checked formula, or a gradient, in numpy and in the precision of what its names stand for."""
    import numpy as np

    functions = {name: getattr(np, name) for name in FUNCTIONS}
    scope = {"__builtins__": {}} | functions
    found: Ints = eval(_code(text), scope, dict(values))
    return found


# -- derivatives


def gradient(text: str, letter: str) -> str:
    """What an argument gets from the gradient `g` of a formula's value. Of equal ones, `maximum` takes the first."""
    slope = _slope(tree(text), letter)
    return ast.unparse(_times(ast.Name("g", ast.Load()), slope))


def _slope(node: ast.expr, letter: str) -> ast.expr:
    match node:
        case ast.Name(name):
            return ast.Constant(1 if name == letter else 0)
        case ast.Constant() | ast.Compare():
            return ast.Constant(0)
        case ast.UnaryOp(_, inner):
            return _negative(_slope(inner, letter))
        case ast.BinOp(left, op, right):
            one, other = _slope(left, letter), _slope(right, letter)
            match op:
                case ast.Add():
                    return _plus(one, other)
                case ast.Sub():
                    return _minus(one, other)
                case ast.Mult():
                    return _plus(_times(one, right), _times(left, other))
            # Quotients of quotients: the square of a large number would overflow.
            return _minus(_over(one, right), _times(_over(left, right), _over(other, right)))
        case ast.Call(ast.Name("where"), [held, left, right]):
            one, other = _slope(left, letter), _slope(right, letter)
            if _number(one) == 0 == _number(other):
                return ast.Constant(0)
            return _call("where", held, one, other)
        case ast.Call(ast.Name("maximum" | "minimum" as name), [left, right]):
            first: ast.cmpop = ast.GtE() if name == "maximum" else ast.LtE()
            second: ast.cmpop = ast.Lt() if name == "maximum" else ast.Gt()
            if _number(right) is not None:  # at the border of a number nothing goes back, as in `relu`
                first = ast.Gt() if name == "maximum" else ast.Lt()
            takes = [ast.Compare(left, [sign], [right]) for sign in (first, second)]
            parts = [_slope(left, letter), _slope(right, letter)]
            return _plus(*(_times(part, take) for part, take in zip(parts, takes, strict=True)))
        case ast.Call(ast.Name(name), [inner]):
            return _times(_slope(inner, letter), _outer(name, inner, node))
    raise AssertionError(ast.dump(node))


def _outer(name: str, inner: ast.expr, value: ast.expr) -> ast.expr:
    """The slope of a function of one argument. value: the function at that argument."""
    match name:
        case "exp":
            return value
        case "log":
            return _over(ast.Constant(1), inner)
        case "sqrt":
            return _over(ast.Constant(0.5), value)
        case "abs":
            return _call("sign", inner)
        case "sign":
            return ast.Constant(0)
        case "tanh":
            return _minus(ast.Constant(1), _call("square", value))
        case "sin":
            return _call("cos", inner)
        case "cos":
            return _negative(_call("sin", inner))
        case "arctan":
            return _over(ast.Constant(1), _plus(ast.Constant(1), _call("square", inner)))
        case "square":
            return _times(ast.Constant(2), inner)
    raise AssertionError(name)


def _call(name: str, *args: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), list(args), [])


def _negative(node: ast.expr) -> ast.expr:
    number = _number(node)
    return ast.UnaryOp(ast.USub(), node) if number is None else ast.Constant(-number)


def _plus(left: ast.expr, right: ast.expr) -> ast.expr:
    if _number(left) == 0:
        return right
    return left if _number(right) == 0 else ast.BinOp(left, ast.Add(), right)


def _minus(left: ast.expr, right: ast.expr) -> ast.expr:
    if _number(left) == 0:
        return _negative(right)
    return left if _number(right) == 0 else ast.BinOp(left, ast.Sub(), right)


def _times(left: ast.expr, right: ast.expr) -> ast.expr:
    if 0 in (_number(left), _number(right)):
        return ast.Constant(0)
    if _number(left) == 1:
        return right
    return left if _number(right) == 1 else ast.BinOp(left, ast.Mult(), right)


def _over(left: ast.expr, right: ast.expr) -> ast.expr:
    if _number(left) == 0:
        return ast.Constant(0)
    return left if _number(right) == 1 else ast.BinOp(left, ast.Div(), right)
