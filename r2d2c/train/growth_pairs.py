"""Ops of an op graph that compute the same, by what they gave for some samples: what `merge` of a round finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2d2c.mutate import mutate
from r2d2c.mutations import Limits, Merge, MutationError
from r2d2c.opgraph import Ints, Topology, depths
from r2d2c.train.growth_scores import by_parts

# How much two columns may differ in any sample, in standard deviations: the noise of f32.
SAME = 1e-5
LINES = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows: what `gone` gave was scale · (what `row` gave) + shift, in every sample."""

    row: int
    gone: int
    scale: float = 1.0
    shift: float = 0.0


def merges(
    topology: Topology,
    columns: Ints,
    count: int,
    *,
    frozen: frozenset[str] = frozenset(),
    shifts: bool,
    limits: Limits | None = None,
    fits: Callable[[Topology], bool] | None = None,
) -> list[tuple[Merge, float]]:
    """At most `count` merges, each with what read-outs add for a weight of 1 of the op that goes.

    columns: f64[N, inputs + capacity]. shifts: whether read-outs can add a constant. The deeper op goes, of equally
    deep ones the younger one, and no frozen one. One that is not the same, but a multiple of the other and a
    constant, only goes if no op reads it. fits: whether what a merge makes of the op graph may be.
    """
    depth = depths(topology)

    def rank(row: int) -> tuple[bool, int, int, int]:
        return str(topology.names[row]) not in frozen, int(depth[row]), int(topology.born[row]), row

    found: list[tuple[Merge, float]] = []
    steps: list[Merge] = []
    after = topology
    pairs = _Pairs(topology, columns).found(rank)
    for pair in sorted(pairs, key=lambda pair: (rank(pair.row), rank(pair.gone))):
        if len(found) == count:
            break
        read = (after.args == after.inputs + pair.gone).any()
        if (pair.shift and not shifts) or (read and (pair.scale, pair.shift) != (1, 0)):
            continue
        step = Merge(str(topology.names[pair.row]), str(topology.names[pair.gone]), pair.scale)
        try:
            made = mutate(topology, [*steps, step], frozen=frozen, limits=limits).topology
        except MutationError:
            continue  # what reads both would be constant, say
        if fits is not None and not fits(made):
            continue
        after = made
        steps.append(step)
        found.append((step, pair.shift))
    return found


class _Pairs:
    """Live ops whose columns are the same up to a factor and a constant.

    Not all pairs are compared: columns are sorted by their places on a random line, where equal ones are neighbours,
    and of many ops neighbours on others too.
    """

    def __init__(self, topology: Topology, columns: Ints) -> None:
        values = columns[:, topology.inputs :]
        with np.errstate(all="ignore"):
            spread = by_parts(lambda some: some.std(0), values)
            largest = by_parts(lambda some: np.abs(some).max(0), values)
            # What varies by rounding alone is not the same as anything.
            wide = topology.live & np.isfinite(largest) & (spread > SAME * largest)
        self.rows: list[int] = np.flatnonzero(wide).tolist()
        self.columns = columns
        self.places: list[int] = (topology.inputs + np.flatnonzero(wide)).tolist()
        self.spread = spread[wide]
        with np.errstate(all="ignore"):
            self.means: Ints = by_parts(lambda some: some.mean(0), values)[wide]

    def found(self, rank: Callable[[int], Any]) -> Iterator[Pair]:
        """Pairs with the one of the lowest rank: of those that are equal, and then of what these leave."""
        for group in self._groups():
            group.sort(key=lambda at: rank(self.rows[at]))
            firsts: list[int] = []
            for at in group:
                same = next((one for one in firsts if self._equal(one, at)), None)
                if same is None:
                    firsts.append(at)
                else:
                    yield Pair(self.rows[same], self.rows[at])
            for other in firsts[1:]:
                yield self._pair(firsts[0], other)

    def _groups(self) -> Iterator[list[int]]:
        lines = np.random.default_rng(0).normal(size=(LINES, len(self.columns)))
        with np.errstate(all="ignore"):
            along = by_parts(lambda some: (some - some.mean(0)).T @ lines.T, self.columns)[self.places]
        places = np.abs(along / self.spread[:, None]) / np.abs(lines).sum(1)
        order = np.argsort(places[:, 0], kind="stable")
        places = places[order]
        # |Σ line (u - v)| is at most Σ |line| · max |u - v|: what is the same is near on every line.
        ends = np.searchsorted(places[:, 0], places[:, 0] + SAME, side="right").tolist()
        taken: set[int] = set()
        for first, (one, end) in enumerate(zip(order.tolist(), ends, strict=True)):
            if one in taken or end == first + 1:
                continue
            group = [one]
            near = (np.abs(places[first + 1 : end] - places[first]) <= SAME).all(1)
            for other in order[first + 1 : end][near].tolist():
                if other not in taken and self._apart(one, other) <= SAME:
                    group.append(other)
                    taken.add(other)
            if len(group) > 1:
                yield group

    def _value(self, one: int) -> Ints:
        """f64[N]."""
        found: Ints = self.columns[:, self.places[one]].astype(np.float64)
        return found

    def _unit(self, one: int) -> Ints:
        """f64[N], with the mean 0 and the deviation 1."""
        found: Ints = (self._value(one) - self.means[one]) / self.spread[one]
        return found

    def _sign(self, one: int, other: int) -> float:
        return 1.0 if self._unit(one) @ self._unit(other) > 0 else -1.0

    def _apart(self, one: int, other: int) -> float:
        return float(np.abs(self._unit(one) - self._sign(one, other) * self._unit(other)).max())

    def _equal(self, one: int, other: int) -> bool:
        apart = np.abs(self._value(one) - self._value(other)).max()
        return bool(apart <= SAME * self.spread[one])

    def _pair(self, one: int, other: int) -> Pair:
        scale = float(self._sign(one, other) * self.spread[other] / self.spread[one])
        shift = float(self.means[other] - scale * self.means[one])
        shift = shift if abs(shift) > SAME * self.spread[other] else 0.0
        return Pair(self.rows[one], self.rows[other], scale, shift)
