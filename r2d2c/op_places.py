"""Where the columns of an op graph are: its inputs at the points of a set of `places`, its nodes by what they read.

A node lies in the middle of the columns that it reads in x and y, and 1 above the highest of them in z: nodes are in
layers, and what is near in x and y is what has looked at the same part of the inputs. Numpy only. Places are f32, so
that a checkpoint has them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from r2d2c.formulas import Formula, evaluate, reads
from r2d2c.opgraph import NUMBER, Ints, Topology, depths, used

AXES = 3
# How much higher a node is than what it reads.
RISE = 1.0
# Quantities are rounded to so many digits of the largest coordinate of the inputs: f32 does not hold more.
_DIGITS = 6


def rounding(points: Ints) -> float:
    """1 over the unit to which quantities of columns are rounded. points: [n, 3], the input columns."""
    largest = float(np.abs(points).max(initial=0.0))
    return float(10.0 ** (_DIGITS - (math.ceil(math.log10(largest)) if largest > 0 else 0)))


# How each of `places.QUANTITIES` comes from the differences of coordinates, target minus source.
_QUANTITIES: Mapping[str, Callable[[Ints, Ints, Ints], Ints]] = {
    "distance": lambda dx, dy, dz: np.sqrt(dx * dx + dy * dy + dz * dz),
    "plane": lambda dx, dy, dz: np.sqrt(dx * dx + dy * dy),
    "step": lambda dx, dy, dz: dz,
    "dx": lambda dx, dy, dz: dx,
    "dy": lambda dx, dy, dz: dy,
    "dz": lambda dx, dy, dz: dz,
}


def holds(wire: Formula, source: Sequence[Ints], target: Sequence[Ints], scale: float) -> Ints:
    """bool[n], whether a column at `target` may read one at `source`; NaN is no.

    source, target: x, y and z, each f64[n] (or one number of n that are the same). scale: see `rounding`.
    """
    dx, dy, dz = (there - here for there, here in zip(target, source, strict=True))
    values = {name: np.rint(_QUANTITIES[name](dx, dy, dz) * scale) / scale for name in reads(wire)}
    found = evaluate(wire, values or {"distance": dx})
    yes: Ints = (found != 0) & ~np.isnan(found)
    return yes


def above(columns: Sequence[int], places: Ints) -> tuple[float, float, float]:
    """Where a node is that reads these columns (NUMBER is none). places: f64[columns, 3]."""
    read = places[[column for column in columns if column != NUMBER]]
    (x, y), z = read[:, :2].mean(0), read[:, 2].max() + RISE
    return float(np.float32(x)), float(np.float32(y)), float(np.float32(z))


def columns_of(topology: Topology, points: Ints) -> Ints:
    """f64[columns, 3], where all columns are. points: [inputs, 3]; free rows are anywhere."""
    assert topology.places is not None
    found: Ints = np.concatenate([points, topology.places]).astype(np.float64)
    return found


def place(topology: Topology, points: Ints) -> Ints:
    """f32[capacity, 3], where the nodes of an op graph are that has no places yet; zeros in free rows.

    points: [inputs, 3].
    """
    everything = np.concatenate([points, np.zeros((topology.capacity, AXES))]).astype(np.float64)
    for row in np.argsort(depths(topology), kind="stable").tolist():
        if topology.live[row]:
            everything[topology.inputs + row] = above(topology.args[row].tolist(), everything)
    found: Ints = everything[topology.inputs :].astype(np.float32)
    return found


def lengths(topology: Topology, points: Ints) -> Ints:
    """f64[capacity]: how far the columns that a node reads lie from it, all together; 0 for free rows."""
    places = columns_of(topology, points)
    read = used(topology) & (topology.args != NUMBER)
    ways = places[topology.args] - places[topology.inputs :, None, :]
    found: Ints = (np.sqrt(np.square(ways).sum(-1)) * read).sum(1)
    return found


def wired(topology: Topology, points: Ints, wire: Formula) -> Ints:
    """bool[capacity]: whether a node may read all that it reads, by the places; free rows may."""
    places = columns_of(topology, points)
    rows, arguments = np.nonzero(used(topology) & (topology.args != NUMBER))
    source = places[topology.args[rows, arguments]].T
    target = places[topology.inputs + rows].T
    bad = rows[~holds(wire, tuple(source), tuple(target), rounding(points))]
    found = np.ones(topology.capacity, bool)
    found[bad] = False
    return found


class Space:
    """What new nodes of an op graph may read together, and what they rather read, by the places of columns.

    places: f64[columns, 3]. reach: columns are drawn in proportion to exp(-d² / (2 reach²)) of their distance d to
    the first that a node reads, and are other columns than that; None: nothing is near. wire: must hold from every
    column that a node reads to the node (see `above`).
    """

    def __init__(
        self, places: Ints, inputs: int, reach: float | None = None, wire: Formula | None = None
    ) -> None:
        self.places, self.reach, self.wire = places, reach, wire
        # By coordinates: what is looked at is all columns at a time.
        self._xyz = np.ascontiguousarray(places.T, np.float64)
        self._scale = rounding(places[:inputs])
        self._alone: Ints | None = None

    def weights(self, weights: Ints, chosen: Sequence[int], more: bool) -> Ints:
        """f64[columns], how probable it is that a column is read after those that are chosen.

        weights: without places. more: whether the node reads more columns after this one. All are 0 where nothing fits.
        """
        if self.wire is not None and (chosen or not more):
            weights = weights * self.fits(chosen)
        if self.reach is None or not chosen:
            return weights
        first = chosen[0]
        with np.errstate(over="ignore"):  # of a reach that is next to nothing
            dx, dy, dz = (self._xyz - self._xyz[:, first, None]) / self.reach
            near: Ints = weights * np.exp(-(dx * dx + dy * dy + dz * dz) / 2)
        near[first] = 0
        return near if near.any() else weights

    def fits(self, chosen: Sequence[int]) -> Ints:
        """bool[columns], whether a node may read a column together with those that are chosen."""
        assert self.wire is not None
        if not chosen and self._alone is not None:
            return self._alone
        x, y, z = self._xyz
        read = [self._xyz[:, column, None] for column in chosen]
        count = len(read) + 1
        # As `above`, in the same order of sums.
        target = [
            _f32(sum((one[0] for one in read), start=np.zeros(1)) + x, count),
            _f32(sum((one[1] for one in read), start=np.zeros(1)) + y, count),
            _f32(np.maximum(z, max((one[2] for one in read), default=z)) + RISE, 1),
        ]
        found = holds(self.wire, (x, y, z), target, self._scale)
        for one in read:
            fitting = np.flatnonzero(found)
            there = [coordinate[fitting] for coordinate in target]
            found[fitting] = holds(self.wire, tuple(one), there, self._scale)
        if not chosen:
            self._alone = found
        return found


# With more columns than this, whether a new node fits is found out when it is drawn.
_MOST = 2_000


def fits_any(places: Ints, inputs: int, wire: Formula) -> bool:
    """Whether some node may read one of these columns, or two. places: f64[n, 3]."""
    space = Space(places, inputs, wire=wire)
    return (
        len(places) > _MOST
        or bool(space.fits([]).any())
        or any(space.fits([column]).any() for column in range(len(places)))
    )


def _f32(values: Ints, count: int) -> Ints:
    found: Ints = (values / count).astype(np.float32).astype(np.float64)
    return found
