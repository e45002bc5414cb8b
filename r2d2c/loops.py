"""What a `loop` node says: its carries, what it runs over, and what it gives.

A loop node reads, in this order, the initial values of its carries, its sequences (one element of each is read a
step), and what is the same at every step. Its region is one step: ports in the same order; of its outputs the first
are the next values of the carries. Like every other value, loops are data: no stage but the lowering runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from r2d2c.graph import Node, Region, Value
from r2d2c.source import Span
from r2d2c.types import Dim, DimLike, TensorType, symbol

GiveKind = Literal["last", "steps", "mean", "count", "ponder"]
CarryCredit = Literal["backprop", "truncate", "local", "eprop"]


# The age of a slot that was never written. Ages stop one below it, far from where an i64 or a float would fail.
NEVER = 2**30


class Given(NamedTuple):
    """One output of a loop node, of the output ``port`` of its step.

    last: at the last step. steps: at every step, along an axis behind the batch. Where samples halt, `mean` is the mean
    over a sample's steps with its halting weights, `count` how many steps it took, `ponder` that count and the remainder.
    """

    kind: GiveKind
    port: int


@dataclass(frozen=True, slots=True)
class Carry:
    """A carried value. ``every``: the k of `truncate(k)`."""

    name: str
    type: TensorType
    credit: CarryCredit = "backprop"
    every: int = 0
    origin: Span | None = None

    def __str__(self) -> str:
        shown = f"truncate({self.every})" if self.credit == "truncate" else self.credit
        return f"{self.name}: {self.type}" + ("" if shown == "backprop" else f" {{credit: {shown}}}")


@dataclass(frozen=True, slots=True)
class Halt:
    """When samples halt: the step's output ``port`` is a bool, or a probability that adds up to 1 - ``epsilon``.

    Graves, Adaptive Computation Time for Recurrent Neural Networks, 2016.
    """

    port: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Store:
    """A memory that a loop carries: its slots, and which carries are its fields; then its ages and its step count.

    A field is ``[B, slots, …]``. Ages are i64[B, slots], steps since a slot was written and `NEVER` in one that never was.
    """

    name: str
    slots: DimLike
    fields: tuple[tuple[str, int], ...]
    age: int
    count: int

    def moved(self, place: Mapping[int, int]) -> Store:
        """The same memory where its carries are at other places; what is carried no more is left out, or at -1."""
        fields = tuple((name, place[port]) for name, port in self.fields if port in place)
        return replace(self, fields=fields, age=place.get(self.age, -1), count=place.get(self.count, -1))


@dataclass(frozen=True, slots=True)
class Loop:
    """``attrs['loop']``. ``trips``: how often the step runs, with ``halt`` at the most.

    over: the sequences' axis is named after ``trips``. recompute: only carries are stored for the backward.
    stateful: its carries are the model's state. memories: those carries that are the fields of memories.
    """

    name: str
    carries: tuple[Carry, ...]
    sequences: int
    trips: DimLike
    gives: tuple[Given, ...]
    over: bool = False
    halt: Halt | None = None
    recompute: bool = False
    stateful: bool = False
    memories: tuple[Store, ...] = ()

    @property
    def dims(self) -> list[DimLike]:
        """Every dim it mentions."""
        return [
            self.trips,
            *(store.slots for store in self.memories),
            *(dim for carry in self.carries for dim in carry.type.dims),
        ]

    def mapped(self, of: Callable[[DimLike], DimLike]) -> Loop:
        """The same loop with other dims."""
        carries = tuple(
            replace(c, type=c.type.with_dims(tuple(of(dim) for dim in c.type.dims))) for c in self.carries
        )
        memories = tuple(replace(store, slots=of(store.slots)) for store in self.memories)
        return replace(self, carries=carries, trips=of(self.trips), memories=memories)

    def cut(self, carry: int, number: int, trips: int) -> bool:
        """Whether no gradient comes back over the edge of a carry into the step ``number``, from 0 on.

        Of `truncate(k)` the last k steps learn together, then the k before them; where samples halt, the first k.
        """
        described = self.carries[carry]
        if number == 0 or described.credit in ("backprop", "eprop"):
            return False
        if described.credit == "local":
            return True
        counted = number if self.halt is not None else trips - number
        return counted % described.every == 0

    def least_trips(self, ranges: dict[str, tuple[int, int]]) -> int:
        """The fewest steps it may take."""
        if self.halt is not None:
            return 1
        return _bound(self.trips, ranges, 0)

    def most_trips(self, ranges: dict[str, tuple[int, int]]) -> int | None:
        """The most steps it may take; None if only the data says."""
        found = _bound(self.trips, ranges, 1)
        return found if found else None


def _bound(trips: DimLike, ranges: dict[str, tuple[int, int]], end: int) -> int:
    if isinstance(trips, int):
        return int(trips)
    for name, bounds in ranges.items():
        if trips == symbol(name):
            return bounds[end]
        difference = trips - symbol(name)
        if isinstance(difference, int):
            return bounds[end] + difference
    return 1 - end


def loop_of(node: Node) -> Loop:
    found: Loop = node.attrs["loop"]
    return found


def sequence_axis(type_: TensorType, trips: DimLike) -> int | None:
    """The axis of a sequence that has one element a step, the first behind the batch that is so long; None if none is."""
    first = stack_axis(type_)
    return next((axis for axis, dim in enumerate(type_.dims) if axis >= first and dim == trips), None)


def element(type_: TensorType, axis: int) -> TensorType:
    """The type of one element of a sequence."""
    return type_.with_dims((*type_.dims[:axis], *type_.dims[axis + 1 :]))


def one_axis(type_: TensorType, samples: DimLike) -> bool:
    """Whether a value has samples that halt along one axis, or is the same for all."""
    assert isinstance(samples, Dim), samples
    mentions = [dim for dim in type_.dims if isinstance(dim, Dim) and dim.symbols() & samples.symbols()]
    return not mentions or mentions == [samples]


def stack_axis(type_: TensorType) -> int:
    """Where the axis of steps goes: behind the batch."""
    return 1 if type_.dims and isinstance(type_.dims[0], Dim) and "B" in type_.dims[0].symbols() else 0


def stacked(type_: TensorType, trips: DimLike) -> TensorType:
    """The type of a value at every step."""
    axis = stack_axis(type_)
    dtype = {"float": "f32", "int": "i64"}.get(type_.dtype, type_.dtype)
    return TensorType(dtype, (*type_.dims[:axis], trips, *type_.dims[axis:]))


def given_type(given: Given, step: Region, types: dict[Value, TensorType], loop: Loop) -> TensorType | None:
    """The type of one output of a loop node, from those of its step."""
    type_ = (
        loop.carries[given.port].type
        if given.port < len(loop.carries)
        else types.get(step.outputs[given.port].value)
    )
    if type_ is None:
        return None
    if given.kind == "steps":
        return stacked(type_, loop.trips)
    if given.kind == "count":
        return TensorType("i64", type_.dims[:1])
    if given.kind == "ponder":
        return TensorType(type_.dtype if type_.floating and not type_.weak else "f32", type_.dims[:1])
    if given.kind == "mean" and not type_.floating:
        return TensorType("f32", type_.dims)
    return type_
