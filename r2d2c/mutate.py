"""Apply mutations to op graphs: many at a time, all of them checked before anything is handed out.

A batch gives a new topology and a `Change`: what becomes of the rows of everything that has one row (or one column)
per node. Rows never move, so what a batch does not name keeps its bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from r2d2c.mutate_checks import (
    Readers,
    check_alive,
    check_kind,
    check_name,
    check_place,
    constant,
    downstream,
    find_column,
    pattern,
)
from r2d2c.mutations import (
    NODE_NAME,
    Add,
    AddInputs,
    Freeze,
    Limits,
    Merge,
    Mutation,
    MutationError,
    Prune,
    Split,
    Thaw,
    Widen,
    refuse,
)
from r2d2c.opgraph import ARGUMENTS, FREE, NUMBER, Ints, Topology, depths
from r2d2c.opkinds import kind_of

__all__ = [
    "Add",
    "AddInputs",
    "Change",
    "Freeze",
    "Limits",
    "Merge",
    "Mutated",
    "Mutation",
    "MutationError",
    "Prune",
    "Split",
    "Thaw",
    "Widen",
    "apply",
    "mutate",
]


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a batch did to rows: all that has a row per node follows it (see `train.growth_rows`).

    Row numbers are those of nodes, without the inputs. touched: rows that are not what they were; source: the row
    before the batch whose numbers, statistics and optimizer state each takes over (-1: none, it starts anew);
    numbers: f64[len(touched), 3], what new nodes' own numbers start at. to, from_, weight: the touched columns of the
    read-out, as sums of columns before the batch; a touched column that is not in `to` is zero. places: coordinates
    of new nodes that were given some, by row.
    """

    inputs: tuple[int, int]
    capacity: tuple[int, int]
    touched: Ints
    source: Ints
    numbers: Ints
    to: Ints
    from_: Ints
    weight: Ints
    places: Mapping[int, tuple[float, ...]]

    @property
    def reshapes(self) -> bool:
        return self.inputs[0] != self.inputs[1] or self.capacity[0] != self.capacity[1]


@dataclass(frozen=True, slots=True, eq=False)
class Mutated:
    """After a batch: the topology, the names of frozen nodes, and what the batch did to rows."""

    topology: Topology
    frozen: frozenset[str]
    change: Change


def apply(topology: Topology, *mutations: Mutation) -> Topology:
    """The topology after these mutations. Raises `MutationError`, and then nothing has changed."""
    return mutate(topology, mutations).topology


def mutate(
    topology: Topology,
    mutations: Sequence[Mutation],
    *,
    at: int = 0,
    frozen: frozenset[str] = frozenset(),
    limits: Limits | None = None,
) -> Mutated:
    """Apply a batch; `at` is written as the birth of new nodes.

    Raises `MutationError` for what cannot be, and then nothing has changed: what was given is never written to.
    """
    limits = limits or Limits()
    work = _Work(topology, set(frozen))
    for mutation in mutations:
        work.do(mutation, at, limits)
    if work.removed and work.count < limits.least:
        least = f"fewer than {limits.least}" if limits.least > 1 else "no"
        refuse(
            "empty",
            f"this would leave {least} nodes in the op graph",
            remedy="prune fewer, or add some first",
        )
    return Mutated(work.topology(), frozenset(work.frozen), work.change(topology))


@dataclass(slots=True, eq=False)
class _Work:
    """A topology that is being changed, and the books of where its rows come from."""

    before: Topology
    frozen: set[str]
    inputs: int = 0
    kind: Ints = field(init=False)
    args: Ints = field(init=False)
    born: Ints = field(init=False)
    names: list[str | None] = field(init=False)
    rows: dict[str, int] = field(init=False)
    next: int = 0
    removed: bool = False
    source: dict[int, int] = field(default_factory=dict)
    numbers: dict[int, tuple[float, ...]] = field(default_factory=dict)
    mix: dict[int, dict[int, float]] = field(default_factory=dict)
    places: dict[int, tuple[float, ...]] = field(default_factory=dict)
    where: Ints | None = None
    depth: Ints | None = None
    free: list[int] | None = None
    readers: Readers | None = None  # of the table as prunes find it

    def __post_init__(self) -> None:
        old = self.before
        self.inputs, self.next = old.inputs, old.next
        self.kind, self.args, self.born = old.kind.copy(), old.args.copy(), old.born.copy()
        self.names, self.rows = list(old.names), old.rows
        self.where = None if old.places is None else old.places.copy()

    @property
    def count(self) -> int:
        return len(self.rows)

    def do(self, mutation: Mutation, at: int, limits: Limits) -> None:
        self.readers = self.readers if isinstance(mutation, Prune) else None
        match mutation:
            case Add():
                self.add(mutation, at, limits)
            case Prune():
                self.prune(mutation)
            case Split():
                self.split(mutation, at, limits)
            case Merge():
                self.merge(mutation, limits)
            case Freeze(name):
                self.row(name)
                self.frozen.add(name)
            case Thaw(name):
                self.row(name)
                self.frozen.discard(name)
            case AddInputs(count):
                if count < 1:
                    refuse("inputs", f"an op graph cannot get {count} more inputs")
                self.args[self.args >= self.inputs] += count
                self.inputs += count
            case Widen(capacity):
                self.widen(capacity)

    def row(self, name: str) -> int:
        if name not in self.rows:
            refuse("unknown", f"there is no node `{name}`", name=name)
        return self.rows[name]

    def add(self, new: Add, at: int, limits: Limits) -> None:
        kind = check_kind(new)
        columns = [
            find_column(arg, new.name, self.inputs, self.rows) if isinstance(arg, str) else NUMBER
            for arg in new.args
        ]
        check_alive(new)
        if self.where is not None:
            check_place(new)
        self.place_node(new.name, kind, columns, at, limits)
        row = self.rows[new.name]
        self.source[row] = -1
        self.mix[row] = {}
        self.numbers[row] = tuple(0.0 if isinstance(arg, str) else float(arg) for arg in new.args)
        if new.place is not None:
            self.places[row] = new.place
            if self.where is not None:
                self.where[row] = new.place

    def place_node(self, name: str, kind: int, columns: Sequence[int], at: int, limits: Limits) -> None:
        """Write a node into the first free row."""
        check_name(name, self.rows)
        number = NODE_NAME.fullmatch(name)
        if number and int(number[1]) < self.next:
            fresh = f"n{self.next}"
            refuse("name", f"the name `{name}` was used before", name=name, remedy=f"the next is `{fresh}`")
        if limits.nodes is not None and self.count >= limits.nodes:
            refuse("limit", f"`{name}` would be more than the limit of {limits.nodes} nodes", name=name)
        if self.free is None:
            # From the highest down, so that the lowest is popped first.
            self.free = np.flatnonzero(self.kind == FREE)[::-1].tolist()
        if not self.free:
            full = f"there is no room for `{name}`: all {len(self.kind)} rows have nodes"
            refuse("full", full, name=name, remedy="raise `capacity`")
        row = self.free[-1]
        if limits.depth is not None:
            depth = 1 + max((self.deep(column) for column in columns if column != NUMBER), default=0)
            if depth > limits.depth:
                refuse("limit", f"`{name}` would be at depth {depth}, the limit is {limits.depth}", name=name)
            assert self.depth is not None
            self.depth[row] = depth
        else:
            self.depth = None
        self.free.pop()
        self.next = max(self.next, int(number[1]) + 1) if number else self.next
        self.kind[row] = kind
        self.args[row] = NUMBER
        self.args[row, : len(columns)] = columns
        self.born[row] = at
        self.names[row] = name
        self.rows[name] = row

    def deep(self, column: int) -> int:
        """The depth of a column: 0 for an input, 1 for a node of inputs alone."""
        if self.depth is None:
            self.depth = depths(self.topology())
        return 0 if column < self.inputs else int(self.depth[column - self.inputs])

    def prune(self, old: Prune) -> None:
        row = self.row(old.name)
        self.readers = self.readers or Readers(self.args, self.inputs)
        readers = self.readers.of(row)
        if readers and not old.dependents:
            read = f"`{old.name}` is read by `{self.names[readers[0]]}`"
            more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
            remedy = "prune those first, or prune it with its dependents"
            refuse("read", f"{read}{more}: only leaves can be pruned alone", name=old.name, remedy=remedy)
        self.remove(self.readers.downstream(row))

    def remove(self, rows: Iterable[int]) -> None:
        for row in rows:
            name = self.names[row]
            assert name is not None
            if name in self.frozen:
                refuse("frozen", f"`{name}` is frozen: it cannot go", name=name, remedy="thaw it first")
            self.kind[row] = FREE
            self.args[row] = NUMBER
            self.born[row] = 0
            self.names[row] = None
            if self.where is not None:
                self.where[row] = 0
            del self.rows[name]
            self.source[row] = -1
            self.mix[row] = {}
            self.numbers.pop(row, None)
            self.places.pop(row, None)
        self.removed = True
        self.free = None

    def split(self, old: Split, at: int, limits: Limits) -> None:
        row = self.row(old.name)
        arity = kind_of(self.kind[row]).arity
        if not (self.args[row, :arity] == NUMBER).any():
            same = f"`{old.name}` has no number of its own: its two halves would stay the same"
            refuse("same", same, name=old.name, remedy="split a node with a trainable number")
        if not 0 <= old.share <= 1:
            refuse("share", f"a share is from 0 to 1, not {old.share}", name=old.name)
        readers = [self.row(reader) for reader in old.readers]
        for name, reader in zip(old.readers, readers, strict=True):
            if not (self.args[reader] == self.inputs + row).any():
                refuse("unknown", f"`{name}` does not read `{old.name}`", name=name)
        self.place_node(old.into, int(self.kind[row]), self.args[row, :arity].tolist(), at, limits)
        new = self.rows[old.into]
        moved = self.args[readers]
        self.args[readers] = np.where(moved == self.inputs + row, self.inputs + new, moved)
        self.source[new] = self.source.get(row, row)
        self.numbers.pop(new, None)
        if row in self.numbers:
            self.numbers[new] = self.numbers[row]
        if row in self.places:
            self.places[new] = self.places[row]
        if self.where is not None:
            self.where[new] = self.where[row]
        mix = self.mixed(row)
        self.mix[new] = {column: weight * old.share for column, weight in mix.items() if old.share}
        if old.share:
            self.source.setdefault(row, row)
            self.mix[row] = {
                column: weight * (1 - old.share) for column, weight in mix.items() if old.share < 1
            }

    def merge(self, pair: Merge, limits: Limits) -> None:
        row, gone = self.row(pair.name), self.row(pair.gone)
        if row == gone:
            refuse("same", f"`{pair.name}` cannot be merged with itself", name=pair.name)
        if row in downstream(self.args, self.inputs, [gone]):
            refuse("cycle", f"`{pair.name}` reads `{pair.gone}`, so it would read itself", name=pair.name)
        if not math.isfinite(pair.scale):
            refuse("scale", f"`{pair.gone}` cannot be {pair.scale} times `{pair.name}`", name=pair.gone)
        mix = dict(self.mixed(row))
        for column, weight in self.mixed(gone).items():
            mix[column] = mix.get(column, 0.0) + weight * pair.scale
        readers = np.flatnonzero((self.args == self.inputs + gone).any(1))
        if len(readers) and pair.scale != 1:
            times = (
                f"`{pair.gone}` is {pair.scale} times `{pair.name}`, and `{self.names[readers[0]]}` reads it"
            )
            refuse("read", times, name=pair.gone, remedy="merge only leaves by a factor")
        for reader in readers:
            args = self.args[reader]
            args[args == self.inputs + gone] = self.inputs + row
            name = self.names[reader]
            assert name is not None
            kind = kind_of(self.kind[reader])
            if constant(kind.name, pattern(args[: kind.arity].tolist())):
                dead = f"`{name}` reads both `{pair.name}` and `{pair.gone}`, merged it would be constant"
                refuse("dead", dead, name=name, remedy=f"prune `{name}` first")
        self.depth = None
        if limits.depth is not None and len(readers):
            self.depth = depths(self.topology())
            if self.depth.max() > limits.depth:
                deep = f"merging `{pair.gone}` into `{pair.name}` would make the op graph {self.depth.max()} deep"
                refuse("limit", f"{deep}, the limit is {limits.depth}", name=pair.name)
        self.remove([gone])
        self.source.setdefault(row, row)
        self.mix[row] = mix

    def mixed(self, row: int) -> dict[int, float]:
        return self.mix.get(row, {row: 1.0})

    def widen(self, capacity: int) -> None:
        more = capacity - len(self.kind)
        if more < 1:
            refuse("capacity", f"the capacity is {len(self.kind)} already, {capacity} is not more")
        self.kind = np.concatenate([self.kind, np.full(more, FREE, self.kind.dtype)])
        self.args = np.concatenate([self.args, np.full((more, ARGUMENTS), NUMBER, self.args.dtype)])
        self.born = np.concatenate([self.born, np.zeros(more, self.born.dtype)])
        self.names += [None] * more
        if self.where is not None:
            self.where = np.concatenate([self.where, np.zeros((more, 3), self.where.dtype)])
        self.depth = self.free = None

    def topology(self) -> Topology:
        return replace(
            self.before,
            inputs=self.inputs,
            kind=self.kind,
            args=self.args,
            born=self.born,
            names=tuple(self.names),
            next=self.next,
            places=self.where,
        )

    def change(self, before: Topology) -> Change:
        touched = sorted(self.source)
        numbers = np.zeros((len(touched), ARGUMENTS))
        for at, row in enumerate(touched):
            own = self.numbers.get(row, ())
            numbers[at, : len(own)] = own
        mixes = [
            (row, column, weight)
            for row in touched
            for column, weight in self.mix.get(row, {row: 1.0}).items()
        ]
        to, from_, weight = zip(*mixes, strict=True) if mixes else ((), (), ())
        return Change(
            (before.inputs, self.inputs),
            (before.capacity, len(self.kind)),
            np.array(touched, np.int64),
            np.array([self.source[row] for row in touched], np.int64),
            numbers,
            np.array(to, np.int64),
            np.array(from_, np.int64),
            np.array(weight, np.float64),
            dict(self.places),
        )
