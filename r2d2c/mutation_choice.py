"""Which mutations to make: random additions, the nodes that matter least, and the scores that say so.

All choices come from what is given and a generator made from a seed and the count of mutations so far, so a run that
goes on after a stop chooses the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from r2d2c.mutate_checks import check_kind, commutes, constant, downstream
from r2d2c.mutations import Add, Limits, Prune, refuse
from r2d2c.opgraph import ARGUMENTS, FREE, KINDS, NUMBER, OP_KINDS, Ints, Topology, depths

_TRIES = 20
_ADDABLE = tuple(kind for kind in KINDS if kind != "identity")


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """What random additions lean to. All arrays have an entry (or row) per column: inputs, then node rows.

    usable: columns that may be read (a column that is always the same should not be). scores: columns are drawn in
    proportion to them, the size of their gradient, say. places: coordinates, f64[columns, n]; further arguments are
    drawn in proportion to exp(-d² / (2 reach²)) of their distance d to the first, and the new node lies in the
    middle of what it reads.
    """

    usable: Ints | None = None
    scores: Ints | None = None
    places: Ints | None = None
    reach: float = 1.0


@dataclass(frozen=True, slots=True)
class Draw:
    """How new nodes are drawn. kinds: the ops. number: how probable it is that an argument is the node's own number.

    At least one argument is a column. Numbers start at ±0.5 to ±1.5: away from zero, where a product never learns.
    """

    kinds: tuple[str, ...] = _ADDABLE
    number: float = 0.25
    bias: Bias = field(default_factory=Bias)


def generator(seed: int, at: int) -> np.random.Generator:
    """The generator of the mutation number `at`: from its number alone, so nothing has to be kept."""
    return np.random.default_rng([seed, at])


def additions(
    topology: Topology,
    count: int,
    random: np.random.Generator,
    draw: Draw | None = None,
    *,
    limits: Limits | None = None,
) -> list[Add]:
    """Random new nodes that read columns there are now; none is constant or computes what another one does.

    Fewer than `count` where there is no room, a limit is reached, or 20 tries found nothing new. Raises
    `MutationError` (`nan`) for scores that are no numbers, and (`kind`) for unknown ops.
    """
    draw, limits = draw or Draw(), limits or Limits()
    check_kinds(draw.kinds)
    weights = _weights(topology, draw.bias, limits)
    room = topology.capacity - topology.count
    if limits.nodes is not None:
        room = min(room, limits.nodes - topology.count)
    found: list[Add] = []
    if not weights.any():
        return found
    names = column_names(topology)
    chance = weights / weights.sum()
    taken: set[tuple[int, tuple[int, ...]]] = set()
    for number in range(max(0, min(count, room))):
        for _ in range(_TRIES):
            kind = draw.kinds[random.integers(len(draw.kinds))]
            columns = _arguments(OP_KINDS[KINDS[kind]].arity, chance, random, draw)
            if _is_new(topology, kind, columns, taken):
                break
        else:
            continue
        args = tuple(names[column] if column != NUMBER else _start(random) for column in columns)
        place = None
        if draw.bias.places is not None:
            read = [column for column in columns if column != NUMBER]
            place = tuple(np.mean(draw.bias.places[read], axis=0).tolist())
        found.append(Add(f"n{topology.next + len(found)}", kind, args, place))
    return found
