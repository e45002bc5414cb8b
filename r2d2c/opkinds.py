"""The kinds of ops that op graphs have: those of r2d2c, and those that plug-ins bring.

A kind is known by a number, which is in checkpoints. Of the built-in ones it is the place in `OP_KINDS`, where new ones
come last; of a plug-in's it comes from its name and formula, so that neither the order of plug-ins nor other ones
change it, and a kind whose formula was changed is not taken for the one that a model was trained with.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.opkind_formulas import LETTERS, FormulaError, check, evaluate, gradient, spelled

if TYPE_CHECKING:
    from r2d2c.opgraph import Ints

ARGUMENTS = 3  # the most that an op has
FREE = -1  # the kind of a row that no node has
# Numbers of plug-ins' kinds begin here; a table has them in 32 bits.
FOREIGN = 1000
_SPAN = 2**31 - 1 - FOREIGN


@dataclass(frozen=True, slots=True)
class OpKind:
    """An op on scalars: its value and its gradients, each written once, for numpy, torch and ONNX.

    formula: the value v, from the arguments a, b and c (see `opkind_formulas`). gradients: what an argument gets from
    the gradient g of the value; they may use a, b, c, v, and the gradients of the arguments before (da, db). Without
    them they are made of the formula. drawn: whether random ops are of this kind where no kinds are named.
    """

    name: str
    arity: int
    formula: str
    gradients: tuple[str, ...] = ()
    doc: str = ""
    drawn: bool = True

    @property
    def slopes(self) -> tuple[str, ...]:
        """The gradients, given or made of the formula."""
        return self.gradients or _slopes(self.formula, self.arity)


@lru_cache(256)
def _slopes(formula: str, arity: int) -> tuple[str, ...]:
    return tuple(gradient(formula, letter) for letter in LETTERS[:arity])


# Of arguments that are equal, `max` and `min` take the first. sigmoid(b) is written with tanh, which never overflows.
_GATE = "(0.5 * tanh(0.5 * b) + 0.5)"
OP_KINDS: tuple[OpKind, ...] = (
    OpKind("identity", 1, "a", ("g",), "the argument", drawn=False),
    OpKind("add", 2, "a + b", ("g", "g"), "the sum"),
    OpKind("sub", 2, "a - b", ("g", "-g"), "the difference"),
    OpKind("mul", 2, "a * b", ("g * b", "g * a"), "the product"),
    OpKind(
        "div",
        2,
        "a / (1 + abs(b))",
        ("g / (1 + abs(b))", "-da * v * sign(b)"),
        "a safe quotient: a / (1 + |b|)",
    ),
    OpKind("max", 2, "maximum(a, b)", ("g * (a >= b)", "g - da"), "the larger"),
    OpKind("min", 2, "minimum(a, b)", ("g * (a <= b)", "g - da"), "the smaller"),
    OpKind("gauss", 2, "exp(-square(a - b))", ("(b - a) * v * g * 2", "-da"), "how near: exp(-(a - b)²)"),
    OpKind(
        "gated", 2, f"a * {_GATE}", (f"g * {_GATE}", "(g - da) * v"), "a let through by b: a · sigmoid(b)"
    ),
    OpKind("sin", 1, "sin(a)", ("g * cos(a)",), "the sine"),
    OpKind("cos", 1, "cos(a)", ("-g * sin(a)",), "the cosine"),
    OpKind("tanh", 1, "tanh(a)", ("g - g * square(v)",), "the hyperbolic tangent"),
    OpKind("relu", 1, "maximum(a, 0)", ("g * (a > 0)",), "the positive part"),
    OpKind("abs", 1, "abs(a)", ("g * sign(a)",), "the absolute value"),
    OpKind("square", 1, "square(a)", ("a * g * 2",), "the square"),
    OpKind("multiply_add", 3, "a * b + c", ("g * b", "g * a", "g"), "a product and a sum: a · b + c"),
    OpKind("neg", 1, "-a", ("-g",), "the negative", drawn=False),
    OpKind("sigmoid", 1, "sigmoid(a)", ("g * (v - square(v))",), "1 / (1 + exp(-a))"),
    OpKind("softplus", 1, "softplus(a)", ("g * sigmoid(a)",), "log(1 + exp(a))"),
    OpKind("silu", 1, "a * sigmoid(a)", ("g * (sigmoid(a) * (1 - v) + v)",), "a · sigmoid(a)"),
    OpKind(
        "gelu",
        1,
        "0.5 * a * (1 + tanh(0.7978845608028654 * (a + 0.044715 * a * square(a))))",
        (),
        "a · Φ(a), by the usual tanh",
    ),
    OpKind("exp", 1, "exp(minimum(a, 10))", ("g * v * (a < 10)",), "a bounded exponential: exp(min(a, 10))"),
    OpKind("log", 1, "log(1 + abs(a))", ("g * sign(a) / (1 + abs(a))",), "a safe logarithm: log(1 + |a|)"),
    OpKind("sqrt", 1, "sqrt(abs(a) + 0.01)", ("g * sign(a) / v * 0.5",), "a safe root: √(|a| + 0.01)"),
    OpKind("sign", 1, "sign(a)", ("0",), "-1, 0 or 1; nothing goes back"),
    OpKind("mean", 2, "(a + b) * 0.5", ("g * 0.5", "g * 0.5"), "the mean"),
    OpKind(
        "hypot",
        2,
        "sqrt(square(a) + square(b) + 0.0001)",
        ("g * a / v", "g * b / v"),
        "the length: √(a² + b² + 0.0001)",
    ),
    OpKind("where", 3, "where(c > 0, a, b)", ("g * (c > 0)", "g - da", "0"), "a where c > 0, else b"),
    OpKind(
        "mix",
        3,
        "b + (a - b) * sigmoid(c)",
        ("g * sigmoid(c)", "g - da", "da * (1 - sigmoid(c)) * (a - b)"),
        "a smooth `where`: b + (a - b) · sigmoid(c)",
    ),
)
# Numbers by names: the built-in kinds, then those of the plug-ins of this process.
KINDS: dict[str, int] = {kind.name: index for index, kind in enumerate(OP_KINDS)}
_FOREIGN: dict[int, OpKind] = {}


class UnknownKindError(CompileError):
    """A table has an op of a kind that neither r2d2c nor a plug-in of this process has (E341)."""

    def __init__(self, number: int) -> None:
        sink = Sink()
        message = f"an op graph has an op of a kind that is not there: number {number}"
        fix = "load the plug-in that it was trained with, `--plugin FILE.py`"
        notes = [
            "a kind of a plug-in is known by its name and its formula; with another formula it is another one"
        ]
        sink.report("E341", None, message, fix=fix, notes=notes)
        super().__init__(sink.diagnostics)
        self.number = number


def number_of(kind: OpKind) -> int:
    """The number that checkpoints know a kind by."""
    if KINDS.get(kind.name, FOREIGN) < FOREIGN and OP_KINDS[KINDS[kind.name]] == kind:
        return KINDS[kind.name]
    said = f"{kind.name}({kind.arity}) = {spelled(kind.formula)}"
    return FOREIGN + zlib.crc32(said.encode()) % _SPAN


def kind_of(number: int) -> OpKind:
    """The kind with a number. Raises `UnknownKindError`."""
    if 0 <= number < len(OP_KINDS):
        return OP_KINDS[number]
    found = _FOREIGN.get(int(number))
    if found is None:
        raise UnknownKindError(int(number))
    return found


def register(kinds: Iterable[OpKind]) -> None:
    """Have the kinds of plug-ins in this process, for good: models that use them are there as long as they like.

    A name means the kind that had it last, as when a plug-in is changed and loaded again.
    """
    for kind in kinds:
        number = number_of(kind)
        _FOREIGN[number] = kind
        KINDS[kind.name] = number


def problem(kind: OpKind) -> str | None:
    """What is wrong with the record of a plug-in's kind, in words; None if nothing is."""
    what = f"the kind `{kind.name}`"
    if not isinstance(kind.name, str) or not kind.name.isidentifier() or not kind.name.isascii():
        return f"{what} has a name that is none"
    if kind.name in KINDS and KINDS[kind.name] < FOREIGN:
        return f"{what} has the name of a kind that op graphs have"
    if kind.name in ("p", "x"):
        return f"{what} has a name that means something else in op graphs"
    if not isinstance(kind.arity, int) or not 1 <= kind.arity <= ARGUMENTS:
        return f"{what} has {kind.arity} arguments; it may have 1 to {ARGUMENTS}"
    letters = LETTERS[: kind.arity]
    try:
        missing = sorted(set(letters) - check(kind.formula, letters, f"the formula of {what[4:]}"))
        if missing:
            return f"the formula of {what[4:]} does not read `{missing[0]}`"
        if kind.gradients and len(kind.gradients) != kind.arity:
            return f"{what} has {kind.arity} arguments, and {len(kind.gradients)} of its gradients are given"
        for place, text in enumerate(kind.gradients):
            names = [*letters, "v", "g", *(f"d{letter}" for letter in letters[:place])]
            check(text, names, f"the gradient of `{letters[place]}` of {what[4:]}")
    except FormulaError as error:
        return str(error)
    other = _FOREIGN.get(number_of(kind))
    if other is not None and (other.name, spelled(other.formula)) != (kind.name, spelled(kind.formula)):
        return f"{what} and `{other.name}` have one number; give one of them another name"
    return _wrong_gradient(kind)


def _wrong_gradient(kind: OpKind) -> str | None:
    """Whether the gradients of a record are those of its formula, by differences at some places."""
    if not kind.gradients:
        return None
    import numpy as np

    args = np.random.default_rng(0).normal(size=(kind.arity, 64)) * 2

    def value(args: Ints) -> Ints:
        return evaluate(kind.formula, dict(zip(LETTERS, args, strict=False)))

    with np.errstate(all="ignore"):
        scope = {**dict(zip(LETTERS, args, strict=False)), "v": value(args), "g": np.ones(64)}
    for place, text in enumerate(kind.gradients):
        step = np.zeros_like(args)
        step[place] = 1e-6
        with np.errstate(all="ignore"):
            wanted = (value(args + step) - value(args - step)) / 2e-6
            found = np.broadcast_to(evaluate(text, scope), wanted.shape)
        scope[f"d{LETTERS[place]}"] = found
        known = np.isfinite(wanted)
        near = np.abs(found - wanted) <= 1e-4 * (1 + np.abs(wanted))
        # Beside a corner or a step a difference says something else.
        if known.any() and near[known].mean() < 0.75:
            wrong = f"the gradient of `{LETTERS[place]}` of the kind `{kind.name}` is not that of its formula"
            return f"{wrong}; without `gradients` they are made of it"
    return None
