"""What a sweep knows: its settings, what became of each of their seeds, and means with intervals over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.diagnostics import Diagnostic

if TYPE_CHECKING:
    from r2d2c.train.sweep_space import Space

CONFIDENCE = 0.95
Ended = Literal["done", "failed", "pruned", "refused"]
State = Literal["waiting", "running", "elsewhere", "done", "failed", "pruned", "refused"]


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean over seeds and half the width of its confidence interval, which one value does not have.

    The interval is Student's: t(0.975, n-1) · s / √n with the sample's standard deviation s.
    """

    mean: float
    half: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Interval | None:
        """None if there is nothing."""
        found = tuple(float(value) for value in values if value is not None)
        if not found:
            return None
        mean = statistics.fmean(found) if all(map(math.isfinite, found)) else math.nan
        if len(found) == 1 or not math.isfinite(mean):
            return cls(mean, None, found)
        spread = statistics.stdev(found) / math.sqrt(len(found))
        return cls(mean, student_t(0.5 + CONFIDENCE / 2, len(found) - 1) * spread, found)


def student_t(share: float, freedom: int) -> float:
    """The quantile of Student's t distribution, ``share`` of which lies below, by bisection. 0.5 <= share < 1."""
    # Above 0 the distribution is 1 - I_x(freedom/2, 1/2) / 2 with x = freedom / (freedom + t²).
    low, high = 0.0, 1.0
    while _above(high, freedom) > 1 - share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _above(middle, freedom) > 1 - share else (low, middle)
    return (low + high) / 2


def _above(t: float, freedom: int) -> float:
    """How much of the distribution lies above t >= 0."""
    return 0.5 * _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # From the innermost term outwards: 1 / (1 + d1 / (1 + d2 / (1 + ...)))
    tail = 1.0
    for k in range(400, 0, -1):
        m = k // 2
        term = (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
            if k % 2 == 0
            else -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        )
        tail = 1 + term / tail
    return front / a / tail


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one training. value: the monitored one, of the epoch that counts; None if it did not get there.

    splits: loss and metrics of that epoch by split. seconds: of training. reasons: texts, if it failed.
    """

    state: Ended
    value: float | None = None
    epoch: int = 0
    seconds: float = 0.0
    splits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return found | {"reasons": list(self.reasons)}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Outcome:
        return cls(**{**stored, "reasons": tuple(stored["reasons"])})


@dataclass(slots=True)
class Setting:
    """One point of the space. values: what every key is set to. seeds: the trainings that have ended."""

    number: int
    values: Mapping[str, str]
    state: State = "waiting"
    seeds: dict[int, Outcome] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    def bad(self) -> tuple[int, Outcome] | None:
        """The first seed that did not come to its end, and what became of it."""
        return next(((s, o) for s, o in sorted(self.seeds.items()) if o.state != "done"), None)

    @property
    def done(self) -> list[Outcome]:
        """The seeds before a bad one. Of those after it some may have ended too, if there were several processes."""
        bad = self.bad()
        return [o for s, o in sorted(self.seeds.items()) if bad is None or s < bad[0]]

    def value(self) -> Interval | None:
        """The monitored value over the seeds that are done; of one that was pruned, the last one seen."""
        bad = self.bad()
        pruned = [bad[1]] if bad is not None and self.state == "pruned" else []
        return Interval.of(outcome.value for outcome in self.done or pruned)

    def measured(self, split: str, name: str) -> Interval | None:
        """The loss, or a metric, on a split."""
        return Interval.of(outcome.splits.get(split, {}).get(name) for outcome in self.done)

    def epoch(self) -> Interval | None:
        """Of the checkpoints that count."""
        return Interval.of(outcome.epoch for outcome in self.done)

    def seconds(self) -> Interval | None:
        return Interval.of(outcome.seconds for outcome in self.done)

    def label(self) -> str:
        """``credit=direct, dims.H=64``."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())


@dataclass(slots=True)
class Board:
    """The whole sweep. monitor: by what, on ``split``; better: `higher` or `lower` values of it are."""

    model: str
    folder: str
    data: str
    space: Space
    seeds: tuple[int, ...]
    epochs: int
    monitor: str
    better: str
    split: str
    metrics: tuple[str, ...] = ()
    total: int = 0
    workers: int = 1
    settings: dict[int, Setting] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        return [axis.key for axis in self.space.axes]

    def ranked(self) -> list[Setting]:
        """All settings: those that are done, the best first, then the others by their numbers."""

        def place(setting: Setting) -> tuple[int, float, int]:
            found = setting.value()
            order = {"done": 0, "running": 1, "elsewhere": 1, "waiting": 1, "pruned": 2}.get(setting.state, 3)
            mean = found.mean if order == 0 and found is not None else 0.0
            return order, -mean if self.better == "higher" else mean, setting.number

        return sorted(self.settings.values(), key=place)

    @property
    def splits(self) -> list[str]:
        """The splits of the table: test, and the one that decides."""
        found = {name for setting in self.settings.values() for o in setting.done for name in o.splits}
        return [name for name in ("test", self.split) if name in found]

    def count(self, *states: str) -> int:
        return sum(setting.state in states for setting in self.settings.values())


class SweepCallback:
    """The methods that a callback of a sweep may have. The board is always the same object, up to date."""

    def on_sweep(self, board: Board) -> None:
        """It begins, or goes on."""

    def on_epoch(self, board: Board, setting: Setting, seed: int, epoch: int, value: float) -> None:
        """An epoch of a training is done; value: the monitored one."""

    def on_training(self, board: Board, setting: Setting, seed: int, outcome: Outcome) -> None:
        """A training has ended."""

    def on_left(self, board: Board, setting: Setting) -> None:
        """A machine that shares the database had a setting and gives no sign any more; it is given out again."""

    def on_warning(self, board: Board, diagnostic: Diagnostic) -> None: ...


__all__ = ["Board", "Interval", "Outcome", "Setting", "State", "SweepCallback", "student_t"]
