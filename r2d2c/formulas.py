"""Formulas of numbers by name, such as `effect + 10 * (age < 2)`: what a spec may compute before or beside a model.

A formula is data: it names some quantities, and is evaluated over numpy arrays of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2d2c.opgraph import Ints

# A number, the name of a quantity, or a tuple: a sign or the name of a function, and its arguments.
Formula = float | str | tuple[Any, ...]

# What a formula may call, by numpy's names, with how many arguments each takes.
FUNCTIONS: dict[str, tuple[str, int]] = {
    "exp": ("exp", 1),
    "log": ("log", 1),
    "sqrt": ("sqrt", 1),
    "abs": ("abs", 1),
    "tanh": ("tanh", 1),
    "square": ("square", 1),
    "max": ("maximum", 2),
    "min": ("minimum", 2),
}
# Signs between two; a comparison is 1 where it holds, else 0.
OPERATORS: dict[str, str] = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "^": "power",
    "<": "less",
    ">": "greater",
    "<=": "less_equal",
    ">=": "greater_equal",
    "==": "equal",
    "!=": "not_equal",
    "and": "logical_and",
    "or": "logical_or",
}
# Signs before one.
PREFIXES: dict[str, str] = {"not": "logical_not"}


def reads(formula: Formula) -> set[str]:
    """The names of the quantities that a formula needs."""
    if isinstance(formula, str):
        return {formula}
    if isinstance(formula, tuple):
        return set().union(*map(reads, formula[1:]))
    return set()


def evaluate(formula: Formula, values: Mapping[str, Ints]) -> Ints:
    """f64, a formula's value for all entries of its quantities, arrays of one shape.

    NaN and infinity come out as they do in numpy, without warnings.
    """
    import numpy as np

    def value(part: Formula) -> Any:
        if isinstance(part, str):
            return values[part]
        if isinstance(part, tuple):
            head, *rest = part
            call = FUNCTIONS[head][0] if head in FUNCTIONS else OPERATORS.get(head) or PREFIXES[head]
            return np.asarray(getattr(np, call)(*map(value, rest)), np.float64)
        return float(part)

    with np.errstate(all="ignore"):
        found: Ints = value(formula) + np.zeros(np.shape(next(iter(values.values()))))
    return found


def spell(formula: Formula) -> str:
    """A formula as a spec has it."""
    if not isinstance(formula, tuple):
        return formula if isinstance(formula, str) else f"{formula:g}"
    head, *rest = formula
    shown = [spell(part) for part in rest]
    if head in FUNCTIONS:
        return f"{head}({', '.join(shown)})"
    return f"({head} {shown[0]})" if head in PREFIXES else f"({shown[0]} {head} {shown[1]})"
