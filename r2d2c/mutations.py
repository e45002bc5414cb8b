"""Mutations of op graphs as data, their JSON, and the error that refuses one.

Nodes are spoken of by name; the input columns are `x0`, `x1`, ….
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn, cast

INPUT_NAME = re.compile(r"x(0|[1-9][0-9]*)")
NODE_NAME = re.compile(r"n(0|[1-9][0-9]*)")
ANY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MutationError(ValueError):
    """A mutation that cannot be: the caller makes a diagnostic of it.

    reason: one word to tell cases apart (`cycle`, `arity`, `empty`, `nan`, …). name: the node it is about, if any.
    """

    def __init__(self, reason: str, message: str, *, name: str | None = None, remedy: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.name = name
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Add:
    """A new node. args: a column by its name, or what a trainable number of the node's own starts at."""

    name: str
    kind: str
    args: tuple[str | float, ...]
    place: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prune:
    """The end of a node: a leaf, or (dependents) a node with all that reads it, directly or not."""

    name: str
    dependents: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """A second node `into` that computes the same from the same numbers, for `readers` to read instead.

    It takes `share` of the read-out's weights. At a share of 0 the function keeps its bits; at a half, two nodes
    that nothing else tells apart would learn the same for ever.
    """

    name: str
    into: str
    readers: tuple[str, ...] = ()
    share: float = 0.25


@dataclass(frozen=True, slots=True)
class Merge:
    """The end of the node `gone`: what read it reads `name`, which also gets its weights in the read-out.

    scale: how many times the value of `name` the value of `gone` was; with another than 1 nothing may read it.
    """

    name: str
    gone: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Freeze:
    """From now on the node's numbers and running statistics stay as they are, and it is neither pruned nor merged away.

    Its column of the read-out is trained as before: what is new must be able to read it.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Thaw:
    """The end of `Freeze`."""

    name: str


@dataclass(frozen=True, slots=True)
class AddInputs:
    """More input columns, after those there are. Changes the shape of what the op graph shows."""

    count: int


@dataclass(frozen=True, slots=True)
class Widen:
    """Room for more nodes. Changes the shapes of all that has a row per node."""

    capacity: int


Mutation = Add | Prune | Split | Merge | Freeze | Thaw | AddInputs | Widen


@dataclass(frozen=True, slots=True)
class Limits:
    """How large an op graph may become. nodes, depth: the most (None: any); least: the fewest nodes."""

    nodes: int | None = None
    depth: int | None = None
    least: int = 1


WORDS: dict[str, type[Mutation]] = {
    "add": Add,
    "prune": Prune,
    "split": Split,
    "merge": Merge,
    "freeze": Freeze,
    "thaw": Thaw,
    "add_inputs": AddInputs,
    "widen": Widen,
}
_WORD_OF = {record: word for word, record in WORDS.items()}


def refuse(reason: str, message: str, *, name: str | None = None, remedy: str = "") -> NoReturn:
    raise MutationError(reason, message, name=name, remedy=remedy)


def to_json(mutation: Mutation) -> dict[str, Any]:
    """A mutation as what JSON can hold; fields that have their defaults are left out."""
    found: dict[str, Any] = {"do": _WORD_OF[type(mutation)]}
    for entry in dataclasses.fields(mutation):
        value = getattr(mutation, entry.name)
        if value != entry.default:
            found[entry.name] = list(value) if isinstance(value, tuple) else value
    return found


def from_json(data: Any) -> Mutation:
    """The mutation that `to_json` wrote. Raises `MutationError` (`damaged`) for anything else."""
    if not isinstance(data, dict) or data.get("do") not in WORDS:
        refuse("damaged", f"this is no mutation: {data!r}")
    record = WORDS[data["do"]]
    given = {}
    for entry in dataclasses.fields(record):
        if entry.name in data:
            value = data[entry.name]
            fits = _fits(value, str(entry.type))
        else:
            value, fits = entry.default, entry.default is not dataclasses.MISSING
        if not fits:
            refuse("damaged", f"`{entry.name}` of this mutation is wrong or missing: {data!r}")
        given[entry.name] = tuple(value) if isinstance(value, list) else value
    if unknown := set(data) - set(given) - {"do"}:
        refuse("damaged", f"this mutation has an unknown `{min(unknown)}`: {data!r}")
    made: Mutation = cast(Any, record)(**given)
    return made


def _fits(value: Any, wanted: str) -> bool:
    """Whether a value from JSON has a field's type, as it is written in the records above."""
    match wanted:
        case "str":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return _is_number(value)
        case "tuple[str, ...]":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "tuple[str | float, ...]":
            return isinstance(value, list) and all(
                isinstance(item, str) or _is_number(item) for item in value
            )
        case _:
            return isinstance(value, list) and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
