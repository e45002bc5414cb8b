"""What an expression can be while it is resolved: values of the graph, numbers, and names not yet used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from r2d2c.graph import Value
from r2d2c.ops.record import Op
from r2d2c.source import Span
from r2d2c.types import Dim

Number = (int, float)


@dataclass(frozen=True, slots=True)
class OpRef:
    """The name of an op, to be called or piped into, or a choice that is spelled like one (``zeros``, ``mean``)."""

    op: Op

    @property
    def name(self) -> str:
        return self.op.name


@dataclass(frozen=True, slots=True)
class BlockRef:
    """The name of a block."""

    name: str


@dataclass(frozen=True, slots=True)
class LoopRef:
    """The name of a loop."""

    name: str


@dataclass(frozen=True, slots=True)
class HyperRef:
    """The name of a hypernet."""

    name: str


@dataclass(frozen=True, slots=True)
class OpGraphRef:
    """The name of an op graph."""

    name: str


@dataclass(frozen=True, slots=True)
class PlacesRef:
    """The name of a set of places; as a value, its coordinates."""

    name: str


@dataclass(frozen=True, slots=True)
class Quoted:
    """A part of an expression that is read as a formula, and not evaluated."""


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What a loop gives, by name (`z`, `z.steps`), or with ``prefix`` the part of it under a name.

    sole: its only carry, which the whole stands for. arguments: what it was called with.
    """

    name: str
    values: Mapping[str, Value]
    sole: str | None = None
    arguments: tuple[tuple[str, Value], ...] = ()
    prefix: str = ""

    def part(self, name: str) -> LoopResult | None:
        """What is under a name; None if nothing is."""
        prefix = f"{self.prefix}.{name}" if self.prefix else name
        known = any(key == prefix or key.startswith(f"{prefix}.") for key in self.values)
        return replace(self, prefix=prefix) if known else None

    @property
    def value(self) -> Value | None:
        """The value it stands for, if it is one."""
        return self.values.get(self.prefix or self.sole or "")


@dataclass(frozen=True, slots=True)
class WriteRef:
    """The word ``write``, where a spec has memories."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryResult:
    """A memory at some place of a step. A shared one has no ages and no count.

    each: what was computed of it so far, by name.
    """

    name: str
    fields: Mapping[str, Value]
    age: Value | None = None
    count: Value | None = None
    each: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class SlotResult:
    """One slot of a memory in every sample: ``m.newest``. read: gives a part of it; known: the parts that it has."""

    memory: str
    which: str
    read: Callable[[str], Value]
    known: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Path:
    """A dotted name: a task's value, a layer or its storage. What it means shows when it is used."""

    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that means nothing here; an argument that takes a choice may still accept it."""

    name: str


@dataclass(frozen=True, slots=True)
class UnknownCall:
    """``normal(0.02)``: a call of a name that is no op, as initialisers and optimizers are written."""

    name: str
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class SliceItem:
    start: Any
    stop: Any
    step: Any


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A name that has a meaning, but not here; using it is reported with this code and message."""

    code: str
    message: str
    fix: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A part that has been reported already; what uses it stays silent."""


FAILED = Failed()
ELLIPSIS = "..."


def kind_of(result: Any) -> str:
    """What to call a result in a message."""
    if isinstance(result, Value):
        return "a value"
    if isinstance(result, bool):
        return "a bool"
    if isinstance(result, int):
        return "an integer"
    if isinstance(result, float):
        return "a number"
    if isinstance(result, str):
        return "a text"
    if isinstance(result, Dim):
        return "a dim known only when the model runs"
    if isinstance(result, OpRef):
        return f"the op `{result.name}`"
    if isinstance(result, BlockRef):
        return f"the block `{result.name}`"
    if isinstance(result, LoopRef):
        return f"the loop `{result.name}`"
    if isinstance(result, HyperRef):
        return f"the hypernet `{result.name}`"
    if isinstance(result, OpGraphRef):
        return f"the op graph `{result.name}`"
    if isinstance(result, PlacesRef):
        return f"the places `{result.name}`"
    if isinstance(result, LoopResult):
        return f"what the loop `{result.name}` gives"
    if isinstance(result, MemoryResult):
        return f"the memory `{result.name}`"
    if isinstance(result, SlotResult):
        return f"a slot of the memory `{result.memory}`"
    if isinstance(result, WriteRef):
        return "`write`"
    if isinstance(result, tuple):
        return "a tuple"
    if isinstance(result, (Path, Unknown, UnknownCall)):
        return f"`{result.name}`"
    return "this"


@dataclass(frozen=True, slots=True)
class Placed:
    """A result and where it stands."""

    value: Any
    span: Span
