"""How op graphs grow while they are trained: what the spec says of it, and formulas for what a node is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.source import Span

if TYPE_CHECKING:
    from r2d2c.opgraph import Ints

Unit = Literal["epochs", "steps", "plateau"]
Preference = Literal["any", "gradient"]
# A number, one of `SCORES`, or a tuple: a sign or the name of a function, and its arguments.
Formula = float | str | tuple[Any, ...]

SCORES: dict[str, str] = {
    "effect": "the standard deviation of the node's column, times the norm of its weights in the read-out",
    "magnitude": "the norm of the node's weights in the read-out",
    "taylor": "how much the loss would change, to first order, without the node's column",
    "age": "how many rounds of growth the node has lived through",
}
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
}


@dataclass(frozen=True, slots=True)
class Every:
    """When it is time: after so many epochs or steps, or when so many epochs brought no progress."""

    unit: Unit
    count: int

    def __str__(self) -> str:
        return f"{self.unit}({self.count})"


@dataclass(frozen=True, slots=True)
class Growing:
    """How an op graph changes in training.

    A round prunes first, then adds. prune, add: how many nodes at most. by: what a node is worth; the least goes.
    whole: nodes that others read may go too, with all that depends on them. prefer: which columns new nodes read.
    depth: the most nodes in a row. epochs: after so many of training the op graph stays as it is.
    """

    every: Every
    add: int = 0
    prune: int = 0
    by: Formula = "effect"
    whole: bool = False
    prefer: Preference = "any"
    depth: int | None = None
    epochs: int | None = None
    origin: Span | None = field(default=None, compare=False)

    def __str__(self) -> str:
        parts = [f"prune {self.prune} by {spell(self.by)}"] if self.prune else []
        parts += [f"add {self.add}"] if self.add else []
        return f"{self.every}: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Reader:
    """A linear that reads the columns of an op graph: its weight [out, in], and where in `in` the columns begin."""

    weight: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class OpGraph:
    """An op graph of a model: the instance `name`, whose storage is `node.numbers`, `node.kind`, ….

    readers: the linears that read its columns. names: of the explicit nodes, by their numbers. node: the id of its node, whose first output are the columns.
    """

    name: str
    inputs: int
    capacity: int
    kinds: tuple[str, ...]
    readers: tuple[Reader, ...] = ()
    growing: Growing | None = None
    names: tuple[str, ...] = ()
    node: str = ""
    origin: Span | None = None


def reads(formula: Formula) -> set[str]:
    """Which of `SCORES` a formula needs."""
    if isinstance(formula, str):
        return {formula}
    if isinstance(formula, tuple):
        return set().union(*map(reads, formula[1:]))
    return set()


def worth(formula: Formula, scores: Mapping[str, Ints]) -> Ints:
    """A formula's value for every node. NaN and infinity come out as they do in numpy, without warnings."""
    import numpy as np

    def value(part: Formula) -> Any:
        if isinstance(part, str):
            return scores[part]
        if isinstance(part, tuple):
            head, *rest = part
            found = getattr(np, FUNCTIONS[head][0] if head in FUNCTIONS else OPERATORS[head])(
                *map(value, rest)
            )
            return np.asarray(found, np.float64)
        return float(part)

    with np.errstate(all="ignore"):
        found: Ints = value(formula) + np.zeros(len(next(iter(scores.values()))))
    return found


def spell(formula: Formula) -> str:
    """A formula as a spec has it."""
    if not isinstance(formula, tuple):
        return formula if isinstance(formula, str) else f"{formula:g}"
    head, *rest = formula
    shown = [spell(part) for part in rest]
    return f"{head}({', '.join(shown)})" if head in FUNCTIONS else f"({shown[0]} {head} {shown[1]})"
