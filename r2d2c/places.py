"""Places: named sets of points in R^3, and which points of two sets are wired. Numpy only.

Points are rows ``x, y, z`` of an array f64[n, 3]. A grid is centred on `at` and its last axis varies fastest, so that
point ``k`` of ``grid(8, 8)`` stands for entry ``k`` of ``reshape(8, 8)``: `x` runs with its rows, `y` with its columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from r2d2c.formulas import Formula, evaluate, reads, spell
from r2d2c.seeds import seed_of
from r2d2c.source import Span

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

Form = Literal["grid", "ball", "random", "given"]
Point = tuple[float, float, float]

# What the size of a form is called.
SCALES: dict[str, str] = {"grid": "spacing", "ball": "radius", "random": "size"}
# What a predicate may read of a pair of points, one of the set that is read (source) and one of the set that reads.
QUANTITIES: dict[str, str] = {
    "distance": "the Euclidean distance",
    "plane": "the distance in x and y",
    "step": "z of the target minus z of the source",
    "dx": "x of the target minus x of the source",
    "dy": "y of the target minus y of the source",
    "dz": "z of the target minus z of the source",
}
# The entries of the largest table that is worked on at once.
_PAIRS = 1 << 22
# Quantities are rounded to so many digits of the largest coordinate: 0.1 + 0.2 is to equal 0.3.
_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Placing:
    """A set of points: how many, and where they are at first.

    form: `grid` (spacing `scale` along the axes of ``counts``), `ball` (uniform, radius `scale`), `random` (uniform in a
    cube, edge `scale`) or `given` (``points``). at: the centre of all of them, or what is added to given points.
    learned: where they are is a parameter of the model.
    """

    name: str
    form: Form
    counts: tuple[int, ...]
    scale: float = 1.0
    at: Point = (0.0, 0.0, 0.0)
    points: tuple[Point, ...] = ()
    learned: bool = False
    origin: Span | None = field(default=None, compare=False)

    @property
    def count(self) -> int:
        """How many points it has."""
        return math.prod(self.counts)

    @property
    def storage(self) -> str:
        """The storage entry of its coordinates, f32[n, 3]: frozen, or a parameter if they are learned."""
        return f"{self.name}.points"

    def __str__(self) -> str:
        parts = [str(count) for count in self.counts] if self.form != "given" else [f"{self.count} points"]
        if self.scale != 1.0:
            parts.append(f"{SCALES[self.form]}={self.scale:g}")
        if self.at != (0.0, 0.0, 0.0):
            x, y, z = self.at
            parts.append(f"z={z:g}" if x == y == 0 else f"at=({x:g}, {y:g}, {z:g})")
        shown = f"{self.form}({', '.join(parts)})"
        return f"learned({shown})" if self.learned else shown

    def draw(self, seed: int) -> Floats:
        """The coordinates at first; ``seed`` is that of the model."""
        return coordinates(self, seed)


def coordinates(placing: Placing, seed: int) -> Floats:
    """f64[n, 3], where the points are, or begin. ``seed``: that of the model; a set draws from its hash with the name."""
    import numpy as np

    n = placing.count
    if placing.form == "grid":
        axes = [np.arange(c) - (c - 1) / 2 for c in placing.counts]
        axes += [np.zeros(1)] * (3 - len(axes))
        found = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], 1) * placing.scale
    elif placing.form == "given":
        found = np.array(placing.points, np.float64).reshape(n, 3)
    else:
        random = np.random.default_rng(seed_of(seed, placing.name))
        found = random.uniform(-0.5, 0.5, (n, 3)) * placing.scale
        if placing.form == "ball":
            # Uniform in a ball: a direction, and a radius whose cube is uniform.
            way = random.standard_normal((n, 3))
            length = placing.scale * random.uniform(size=(n, 1)) ** (1 / 3)
            found = way / np.linalg.norm(way, axis=1, keepdims=True) * length
    moved: Floats = found + np.array(placing.at)
    return moved


def quantities(source: Floats, target: Floats, names: Iterable[str] = QUANTITIES) -> dict[str, Floats]:
    """`QUANTITIES` of all pairs, each f64[m, n], for n points that are read and m that read them."""
    import numpy as np

    largest = max(float(np.abs(points).max(initial=0.0)) for points in (source, target))
    digits = _DIGITS - math.ceil(math.log10(largest)) if largest > 0 else _DIGITS
    axes = {"dx": (0,), "dy": (1,), "dz": (2,), "step": (2,), "plane": (0, 1), "distance": (0, 1, 2)}
    found = {}
    for name in names:
        parts = [target[:, None, axis] - source[None, :, axis] for axis in axes[name]]
        length = parts[0] if len(parts) == 1 else np.sqrt(sum(part * part for part in parts))
        found[name] = np.round(length, digits)
    return found


def _rows(targets: int, sources: int) -> Iterator[slice]:
    size = max(1, _PAIRS // max(sources, 1))
    yield from (slice(first, first + size) for first in range(0, targets, size))


def wired(where: Formula, source: Floats, target: Floats) -> Bools:
    """bool[m, n], which of n points each of m points reads. NaN is no."""
    import numpy as np

    table = np.empty((len(target), len(source)), np.bool_)
    for rows in _rows(*table.shape):
        found = evaluate(where, quantities(source, target[rows], sorted(reads(where))))
        table[rows] = (found != 0) & ~np.isnan(found)
    return table


# The signs and functions whose value is a yes or no where that of all their arguments is.
_COMPARE = frozenset(["<", ">", "<=", ">=", "==", "!="])
_KEEP = frozenset(["and", "or", "not", "*", "max", "min"])


def says_whether(formula: Formula) -> bool:
    """Whether a formula is a predicate: a comparison, or made of such."""
    if not isinstance(formula, tuple):
        return False
    return formula[0] in _COMPARE or (formula[0] in _KEEP and all(map(says_whether, formula[1:])))


@dataclass(frozen=True, slots=True)
class Rule:
    """Which points are wired: a predicate, and the sets where the spec names them.

    source, target: None where a value that the model computes says where the points are. origin: of the predicate.
    """

    formula: Formula
    source: Placing | None = None
    target: Placing | None = None
    origin: Span | None = field(default=None, compare=False)

    @property
    def known(self) -> bool:
        """Whether it is known before the model runs where all points are, at first."""
        return self.source is not None and self.target is not None

    @property
    def fixed(self) -> bool:
        """Whether it is known which points are wired, and stays so."""
        return self.known and not any(p.learned for p in (self.source, self.target) if p is not None)

    def __str__(self) -> str:
        shown = spell(self.formula)
        return shown[1:-1] if shown.startswith("(") else shown

    def reads(self) -> set[str]:
        return reads(self.formula)

    def draw(self, seed: int) -> Bools:
        """bool[m, n]: who reads whom at first; ``seed`` is that of the model."""
        return _drawn(self, seed)


@dataclass(frozen=True, slots=True)
class Reads:
    """Which points each point reads, as a table of their indices: what a layer with few wires is computed with."""

    rule: Rule

    def __str__(self) -> str:
        return str(self.rule)

    def width(self, seed: int) -> int:
        """The most that a point reads."""
        return int(self.rule.draw(seed).sum(axis=1).max())

    def draw(self, seed: int) -> npt.NDArray[np.int64]:
        """i64[m, width]: those that a point reads, in order; then, to fill its row, the first of those that it does not."""
        import numpy as np

        order = np.argsort(~self.rule.draw(seed), axis=1, kind="stable")
        return order[:, : self.width(seed)].astype(np.int64)


@lru_cache(maxsize=8)
def _drawn(rule: Rule, seed: int) -> Bools:
    assert rule.source is not None and rule.target is not None
    table = wired(rule.formula, coordinates(rule.source, seed), coordinates(rule.target, seed))
    table.flags.writeable = False
    return table
