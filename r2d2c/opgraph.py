"""Op graphs: many small ops on columns of numbers, and the order in which they are computed together.

An op graph reads columns of inputs and makes one column per node. A node's op has up to three arguments, each an
input column, the column of another node, or a trainable number of the node's own. The table of nodes is padded to a
capacity, so that a mutation edits rows and nothing around the op graph changes its shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from r2d2c.opkinds import ARGUMENTS, FREE, KINDS, OP_KINDS, OpKind, kind_of

Ints = npt.NDArray[Any]
ARITY: Ints = np.array([kind.arity for kind in OP_KINDS], np.int16)
NUMBER = -1  # the argument that is the node's own trainable number (or that the op does not have)


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """The table of an op graph's nodes; rows without a node are free. Arrays are never written in place.

    kind: i32[capacity], the number of a kind (see `opkinds`), or FREE. args: i32[capacity, 3], a column (0 … inputs-1:
    an input; inputs + k: the node of row k), or NUMBER: the node's own number at this place, or no argument at all.
    born: i32[capacity], the count of mutations at the node's birth. names: by row, None where it is free; never used
    again after a node's end. next: the number in the next node's name. places: f32[capacity, 3], where each node is, zeros in
    free rows; None where the op graph has no places (see `op_places`).
    """

    inputs: int
    kind: Ints
    args: Ints
    born: Ints
    names: tuple[str | None, ...]
    next: int = 0
    places: Ints | None = None

    @property
    def capacity(self) -> int:
        return len(self.kind)

    @property
    def columns(self) -> int:
        """How many columns the op graph shows: those of its inputs, then one per row."""
        return self.inputs + self.capacity

    @property
    def live(self) -> Ints:
        """bool[capacity]: the rows that have a node."""
        found: Ints = self.kind != FREE
        return found

    @property
    def rows(self) -> dict[str, int]:
        """The rows of nodes by their names."""
        return {name: row for row, name in enumerate(self.names) if name is not None}

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.live))


def empty(inputs: int, capacity: int) -> Topology:
    """An op graph without nodes."""
    return Topology(
        inputs,
        np.full(capacity, FREE, np.int32),
        np.full((capacity, ARGUMENTS), NUMBER, np.int32),
        np.zeros(capacity, np.int32),
        (None,) * capacity,
    )


def used(topology: Topology) -> Ints:
    """bool[capacity, 3]: the arguments that the nodes' ops have."""
    found: Ints = np.arange(ARGUMENTS) < arities(topology.kind)[:, None]
    return found


def per_kind(kinds: Ints, value: Callable[[OpKind], int], free: int = 0) -> Ints:
    """i64: a number of each kind, for a table of kinds; ``free`` where it has none. Raises `UnknownKindError`."""
    numbers, places = np.unique(kinds, return_inverse=True)
    found = [free if number == FREE else value(kind_of(number)) for number in numbers.tolist()]
    return np.array(found, np.int64)[places.reshape(kinds.shape)]


def arities(kinds: Ints) -> Ints:
    """i64: how many arguments each op of a table of kinds has; 0 where there is none. Raises `UnknownKindError`."""
    if kinds.size and (kinds.max() >= len(OP_KINDS) or kinds.min() < FREE):
        return per_kind(kinds, lambda kind: kind.arity)
    return np.append(ARITY, 0)[kinds].astype(np.int64)


@dataclass(frozen=True, slots=True)
class Level:
    """Nodes whose arguments all lie in levels before. They are computed together, a call per kind.

    start, stop: their rows of the buffer. gather: i64, the buffer's rows that they read: kind by kind, and of a kind
    all first arguments, then all second ones. groups: by kind, (its number, how many nodes).
    """

    start: int
    stop: int
    gather: Ints
    groups: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """How an op graph is computed: a buffer of inputs, nodes by level and kind, numbers, and a row of zeros.

    nodes: i64[n], the nodes' table rows in the buffer's order, which begins at the buffer's row ``inputs``. numbers:
    i64[m], which of the capacity × 3 numbers the ops read; in the buffer they follow the nodes. order: i64[inputs +
    capacity], the buffer's row of each column; free rows show the zeros, which are the buffer's last row.
    """

    inputs: int
    capacity: int
    nodes: Ints
    numbers: Ints
    order: Ints
    levels: tuple[Level, ...]

    @property
    def size(self) -> int:
        """How many rows the buffer has."""
        return self.inputs + len(self.nodes) + len(self.numbers) + 1


def depths(topology: Topology) -> Ints:
    """i32[capacity]: how many nodes the longest path to a node has, itself included; 0 where the row is free.

    -1: the node lies on a cycle of nodes, or behind one, or reads a free row. Rows are not looked at one by one:
    each round takes all nodes whose arguments are known.
    """
    nodes, places = np.nonzero(used(topology) & (topology.args >= topology.inputs))
    sources = topology.args[nodes, places] - topology.inputs
    pending = np.bincount(nodes, minlength=topology.capacity)
    readers = nodes[np.argsort(sources, kind="stable")]
    counts = np.bincount(sources, minlength=topology.capacity)
    starts = np.cumsum(counts) - counts
    found: Ints = np.where(topology.live, -1, 0).astype(np.int32)
    front = np.flatnonzero(topology.live & (pending == 0))
    depth = 0
    while len(front):
        depth += 1
        found[front] = depth
        many = counts[front]
        ends = np.cumsum(many)
        edges = np.repeat(starts[front] - ends + many, many) + np.arange(ends[-1])
        reached = readers[edges]
        np.subtract.at(pending, reached, 1)
        front = np.unique(reached[pending[reached] == 0])
    return found


def plan(topology: Topology) -> Schedule:
    """The order of computation.

    Raises ValueError for nodes in a cycle or that read a free row (`depths` tells which), and `UnknownKindError`.
    """
    inputs, capacity = topology.inputs, topology.capacity
    depth = depths(topology)
    if (depth < 0).any():
        row = int(np.flatnonzero(depth < 0)[0])
        raise ValueError(
            f"op graph: {topology.names[row]} reads itself, through other nodes or not, or a free row"
        )
    width = int(topology.kind.max(initial=0)) + 1
    key = depth.astype(np.int64) * width + topology.kind
    nodes = np.flatnonzero(topology.live)
    nodes = nodes[np.argsort(key[nodes], kind="stable")]
    reads = used(topology)
    own = reads & (topology.args < 0)
    numbers = np.flatnonzero(own)
    zeros = inputs + len(nodes) + len(numbers)
    order = np.full(inputs + capacity, zeros, np.int64)
    order[:inputs] = np.arange(inputs)
    order[inputs + nodes] = inputs + np.arange(len(nodes))
    places = order[topology.args]  # what -1 picks is written over, or not read
    places[own] = inputs + len(nodes) + np.arange(len(numbers))

    keys = key[nodes]
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    sizes = np.diff(firsts, append=len(nodes))
    # By group, then by argument, then in the nodes' order.
    ranks = np.repeat(np.arange(len(firsts)), sizes)[:, None] * ARGUMENTS + np.arange(ARGUMENTS)
    kept = reads[nodes]
    gather = places[nodes][kept][np.argsort(ranks[kept], kind="stable")]
    kinds, levels_of = keys[firsts] % width, keys[firsts] // width
    lengths = sizes * arities(kinds)

    levels = []
    bounds = [*np.flatnonzero(np.diff(levels_of, prepend=-1)).tolist(), len(firsts)]
    kind_list, size_list = kinds.tolist(), sizes.tolist()
    rows_of = np.concatenate(([0], np.cumsum(sizes))).tolist()
    reads_of = np.concatenate(([0], np.cumsum(lengths))).tolist()
    for first, last in pairwise(bounds):
        levels.append(
            Level(
                inputs + rows_of[first],
                inputs + rows_of[last],
                gather[reads_of[first] : reads_of[last]],
                tuple(zip(kind_list[first:last], size_list[first:last], strict=True)),
            )
        )
    return Schedule(inputs, capacity, nodes, numbers, order, tuple(levels))


__all__ = [
    "ARGUMENTS",
    "ARITY",
    "FREE",
    "KINDS",
    "NUMBER",
    "OP_KINDS",
    "Ints",
    "Level",
    "Schedule",
    "Topology",
    "arities",
    "depths",
    "empty",
    "per_kind",
    "plan",
    "used",
]
