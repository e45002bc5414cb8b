"""`formula`: samples of a formula that a model is to find again, such as ``formula:x0*x1 + x2``. Made from a seed."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe
from r2d2c.train.data.source import DataContext
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = {
    "inputs": "the size of x; the formula may leave some out (the last one it has)",
    "noise": "the deviation of what is added to y of train (0)",
}
# So that no nesting of it is too deep, and no table too wide.
MOST_LETTERS, MOST_INPUTS = 500, 10_000
FUNCTIONS = ("sin", "cos", "tanh", "exp", "abs", "sqrt", "square", "maximum", "minimum")
_SIGNS = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power"}


def make(made: Made) -> Recipe:
    """``x`` f32[N, inputs], drawn uniformly from -2..2, and ``y`` f32[N, 1], what the formula gives."""
    import numpy

    context, generator = made.context, made.generator
    formula = _parse(made.argument, context)
    used = [
        int(node.id[1:]) for node in ast.walk(formula) if isinstance(node, ast.Name) and node.id[0] == "x"
    ]
    inputs = made.number("inputs", max(used, default=0) + 1)
    if inputs > MOST_INPUTS:
        refuse("E502", f"`formula` has {MOST_INPUTS} inputs at most, not {inputs}", context.span)
    if used and max(used) >= inputs:
        refuse("E502", f"the formula reads `x{max(used)}`, and there are {inputs} inputs", context.span)
    noise = made.positive("noise", 0)

    def table(count: int, spread: float) -> Table:
        x = generator.uniform(-2, 2, (count, inputs))
        with numpy.errstate(all="ignore"):
            y = _value(formula, x) + numpy.zeros(count)
        if not numpy.isfinite(y).all():
            refuse("E502", f"`{made.argument}` has no value for some x from -2 to 2", context.span)
        y = y + spread * generator.standard_normal(count)
        return Table({"x": Column(x.astype(numpy.float32)), "y": Column(y.astype(numpy.float32)[:, None])})

    return Recipe(lambda count: table(count, noise), test=lambda count: table(count, 0.0))


def _parse(text: str, context: DataContext) -> ast.expr:
    fix = "write formula:x0*x1 + x2"
    if len(text) > MOST_LETTERS:
        refuse(
            "E502", f"a formula has {MOST_LETTERS} letters at most, not {len(text)}", context.span, fix=fix
        )
    try:
        found = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):  # ValueError: a null character
        refuse("E502", f"`formula` takes a formula of x0, x1, …, it got `{text}`", context.span, fix=fix)
    for node in ast.walk(found):
        if not _known(node):
            shown = ast.unparse(node) if isinstance(node, ast.expr) else text
            notes = [f"functions: {', '.join(FUNCTIONS)}"]
            refuse("E502", f"`{shown}` cannot be in a formula of data", context.span, notes=notes, fix=fix)
    return found


def _known(node: ast.AST) -> bool:
    match node:
        case ast.Call(ast.Name(name), [_, *rest], []):
            return name in FUNCTIONS and len(rest) == (name in ("maximum", "minimum"))
        case ast.Name(name):
            return name in FUNCTIONS or (name[0] == "x" and name[1:].isdecimal())
        case ast.Constant(value):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case ast.BinOp(_, sign, _):
            return type(sign) in _SIGNS
        case ast.UnaryOp(sign, _):
            return isinstance(sign, (ast.USub, ast.UAdd))
    return isinstance(node, (ast.operator, ast.unaryop, ast.expr_context))


def _value(node: ast.expr, x: NDArray[Any]) -> Any:
    import numpy

    match node:
        case ast.Name(name) if name not in FUNCTIONS:
            return x[:, int(name[1:])]
        case ast.Constant(value):
            return float(value)  # type: ignore[arg-type]
        case ast.BinOp(left, sign, right):
            return getattr(numpy, _SIGNS[type(sign)])(_value(left, x), _value(right, x))
        case ast.UnaryOp(sign, inner):
            return -_value(inner, x) if isinstance(sign, ast.USub) else _value(inner, x)
        case ast.Call(ast.Name(name), values):
            return getattr(numpy, name)(*(_value(value, x) for value in values))
    raise TypeError(ast.unparse(node))


FORMULA = Generated(
    name="formula",
    doc="samples of a formula, to be found again; made from a seed",
    make=make,
    samples=1_000,
    argument="x0*x1 + x2",
    options=OPTIONS,
    usage="inputs=3&noise=0",
).source()
