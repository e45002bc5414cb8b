"""What a comparison knows while it runs: a row for every competitor, a history for each of its seeds.

Everything is read from the run folders, so that a comparison that goes on shows what one in a single go shows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.diagnostics import Diagnostic

if TYPE_CHECKING:
    from r2d2c.train.events import EpochInfo, Progress
    from r2d2c.train.run import Run

State = Literal["waiting", "running", "done", "diverged", "stopped", "refused"]
ALL = ""  # `train.angles.ALL`, which is not imported here, as it needs torch


@dataclass(frozen=True, slots=True)
class Stat:
    """Mean over seeds; ``std`` is None for one."""

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Stat | None:
        """None if there is nothing."""
        found = tuple(float(value) for value in values if value is not None)
        if not found:
            return None
        finite = all(map(math.isfinite, found))
        mean = statistics.fmean(found) if finite else math.nan
        return cls(mean, statistics.stdev(found) if len(found) > 1 and finite else None, found)


@dataclass(slots=True)
class History:
    """One training. splits: its records by split and epoch. best: the epoch of the checkpoint that test measured."""

    splits: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    test: Mapping[str, Any] | None = None
    angles: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    best: int | None = None
    finished: bool = False

    def add(self, record: Mapping[str, Any]) -> None:
        split = str(record.get("split"))
        if split == "test":
            self.test = record
        elif isinstance(record.get("epoch"), int):
            self.splits.setdefault(split, {})[record["epoch"]] = record

    @classmethod
    def read(cls, run: Run) -> History:
        from r2d2c.train.angles import FILE, read_angles

        found = cls(angles=read_angles(run.folder / FILE))
        for record in run.metrics:
            found.add(record)
        state = run.files.load().state
        found.finished = bool(state["finished"])
        best = state.get("best")
        found.best = best["epoch"] if best and state.get("validated") else None
        return found

    @property
    def shown(self) -> str:
        """The split that curves are of."""
        return "validation" if "validation" in self.splits else "train"

    @property
    def epoch(self) -> int:
        return max((max(records) for records in self.splits.values() if records), default=0)

    def record(self, split: str | None = None) -> Mapping[str, Any] | None:
        """Of a split, the record of the checkpoint that test is measured on, else the last."""
        records = self.splits.get(split or self.shown, {})
        return records.get(self.best or 0) or (records[max(records)] if records else None)

    @property
    def seconds(self) -> float:
        """Of training: measuring and saving are not in it."""
        return sum(record.get("seconds") or 0.0 for record in self.splits.get("train", {}).values())

    @property
    def last_angles(self) -> Mapping[str, float]:
        return self.angles[max(self.angles)] if self.angles else {}


@dataclass(slots=True)
class Row:
    """A competitor. weights: of the losses that all competitors have; None if its losses are of another kind.

    added: parameters (and fixed matrices) that its rules bring, and how many of them are trained.
    """

    label: str
    colour: str = "#555555"
    dashes: int = 0
    weights: Mapping[str, float] | None = None
    added: int = 0
    added_trained: int = 0
    state: State = "waiting"
    seed: int | None = None
    runs: dict[int, History] = field(default_factory=dict)
    reasons: tuple[Diagnostic, ...] = ()

    @property
    def finished(self) -> list[History]:
        return [run for run in self.runs.values() if run.finished]

    @property
    def counted(self) -> list[History]:
        """Those to average over: the finished ones, and until there is one the one that runs."""
        return self.finished or list(self.runs.values())

    def loss(self, record: Mapping[str, Any] | None) -> float | None:
        """The loss that all competitors share, of a record."""
        losses: Mapping[str, float] = record["losses"] if record is not None else {}
        if not self.weights or not self.weights.keys() <= losses.keys():
            return None
        return sum(weight * losses[name] for name, weight in self.weights.items())

    def final_loss(self) -> Stat | None:
        return Stat.of(self.loss(run.record()) for run in self.counted)

    def metric(self, split: str, name: str) -> Stat | None:
        """The metric on a split; of ``shown``, the split that curves are of."""
        records = [
            run.test if split == "test" else run.record(None if split == "shown" else split)
            for run in self.counted
        ]
        return Stat.of(r.get("metrics", {}).get(name) for r in records if r is not None)

    def angle(self, task: str = ALL) -> Stat | None:
        return Stat.of(run.last_angles.get(task) for run in self.counted)

    def seconds(self) -> Stat | None:
        return Stat.of(run.seconds for run in self.counted)

    def seconds_an_epoch(self) -> float | None:
        epochs = sum(len(run.splits.get("train", {})) for run in self.runs.values())
        return sum(run.seconds for run in self.runs.values()) / epochs if epochs else None

    def loss_curves(self) -> list[dict[int, float]]:
        """Of every seed, epoch -> loss."""
        curves = [
            {epoch: self.loss(record) for epoch, record in run.splits.get(run.shown, {}).items()}
            for run in self.runs.values()
        ]
        return [{e: v for e, v in curve.items() if v is not None} for curve in curves]

    def metric_curves(self, name: str) -> list[dict[int, float]]:
        return [
            {
                epoch: float(record["metrics"][name])
                for epoch, record in run.splits.get(run.shown, {}).items()
                if name in record.get("metrics", {})
            }
            for run in self.runs.values()
        ]

    def angle_curves(self, task: str = ALL) -> list[dict[int, float]]:
        return [
            {epoch: found[task] for epoch, found in run.angles.items() if task in found}
            for run in self.runs.values()
        ]


@dataclass(slots=True)
class Board:
    """The whole comparison. better: of every metric, ``higher`` or ``lower``. folder: where it is written."""

    model: str
    folder: str
    seeds: tuple[int, ...]
    epochs: int
    better: Mapping[str, str]
    tasks: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    data: str = ""

    @property
    def metrics(self) -> list[str]:
        return list(self.better)

    @property
    def splits(self) -> list[str]:
        """The splits of the table: test and validation, or training data where there is no validation."""
        runs = [run for row in self.rows for run in row.runs.values()]
        shown = list(dict.fromkeys(run.shown for run in runs)) or ["train"]
        return [*(["test"] if any(run.test is not None for run in runs) else []), *shown]


class CompareCallback:
    """The methods that a callback of a comparison may have. The board is always the same object, up to date."""

    def on_compare(self, board: Board) -> None:
        """It begins, or goes on."""

    def on_run(self, board: Board, row: Row) -> None:
        """The training of ``row.seed`` begins or goes on."""

    def on_progress(self, board: Board, row: Row, progress: Progress) -> None:
        """About ten times a second."""

    def on_epoch(self, board: Board, row: Row, info: EpochInfo) -> None: ...

    def on_state(self, board: Board, row: Row) -> None:
        """A training has ended: well, by diverging, or by a signal."""

    def on_warning(self, board: Board, row: Row, diagnostic: Diagnostic) -> None: ...


__all__ = ["ALL", "Board", "CompareCallback", "History", "Row", "Stat", "State"]
