"""How one training of a sweep is done: in this process or in one of several. What comes out depends on the job alone."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.driver import Checked
from r2d2c.plugins import collect
from r2d2c.source import Source
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.load import Request, check_text
from r2d2c.train.run import Run, open_run
from r2d2c.train.settings import Monitor
from r2d2c.train.sweep_board import Outcome
from r2d2c.train.sweep_space import settings_of

if TYPE_CHECKING:
    from r2d2c.train.events import EpochInfo, Start, StepInfo

# What ends one training, and not the sweep: a loss that is no number, and ops whose worth is none.
FATAL = {"E536", "E571"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sweep is, and of what. text: of the spec, with settings; origin: its folder."""

    folder: Path
    name: str
    text: str
    origin: Path
    settings: tuple[str, ...]
    monitor: Monitor
    data: Any = None
    plugins: tuple[Any, ...] = ()
    device: str | None = None
    threads: int | None = None
    backend: str = "eager"
    limit_batches: int | None = None

    def run(self, number: int, seed: int) -> Path:
        return self.folder / "trials" / str(number) / f"seed-{seed}"

    def check(self, more: tuple[str, ...]) -> Checked:
        """The spec with a setting. Raises `CompileError`."""
        found = collect(self.plugins)
        source, settings = Source(self.name, self.text), (*self.settings, *more)
        request = Request(self.data, trusted=True, plugins=self.plugins)
        return check_text(source, self.origin, settings, found.ops, found.rules, request)


@dataclass(frozen=True, slots=True)
class Job:
    """One training: a setting, by its number and values, and a seed."""

    number: int
    values: dict[str, str] = field(hash=False)
    seed: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a training says while it runs."""

    kind: Literal["epoch", "warning"]
    epoch: int = 0
    value: float = 0.0
    diagnostic: Diagnostic | None = None


Tell = Callable[[Job, Said], bool]
"""Tells what happens; the answer is whether the training is to be given up."""


class PrunedError(Exception):
    """A training that is given up, as it does not look as if it would become good."""


class _Watch:
    """The callback of one training."""

    def __init__(self, place: Place, job: Job, tell: Tell, stop: Callable[[], bool], ask: bool) -> None:
        self.place, self.job, self.tell, self.stop = place, job, tell, stop
        self.epochs, self.told = 0, False
        if ask:
            self.on_step = self._on_step

    def on_start(self, start: Start) -> None:
        self.epochs = start.epochs
        if self.stop():
            raise Interrupted(Path(start.folder), start.epoch, start.batch)

    def _on_step(self, step: StepInfo) -> None:
        if not self.told and self.stop():
            # As if it had come from outside: the trainer finishes the batch, saves and stops.
            self.told = True
            signal.raise_signal(signal.SIGTERM)

    def on_epoch(self, info: EpochInfo) -> None:
        value = monitored(self.place.monitor, info.validation or info.train)
        if self.tell(self.job, Said("epoch", info.epoch, value)) and info.epoch < self.epochs:
            raise PrunedError

    def on_warning(self, diagnostic: Diagnostic) -> None:
        self.tell(self.job, Said("warning", diagnostic=diagnostic))


def monitored(monitor: Monitor, record: Any) -> float:
    """What a monitor says of a line of ``metrics.jsonl``."""
    return float(record["loss"] if monitor.kind == "total" else record[monitor.kind][monitor.name])


def train_one(
    place: Place, job: Job, tell: Tell, stop: Callable[[], bool], ask: bool = False
) -> Outcome | None:
    """Train one, or go on with it; None if it was stopped, having saved. ask: look at ``stop`` after every batch."""
    from r2d2c.train.api import train

    path = place.run(job.number, job.seed)
    common: dict[str, Any] = {"callbacks": [_Watch(place, job, tell, stop, ask)], "plugins": place.plugins}
    common |= {"device": place.device, "threads": place.threads}
    try:
        run = _whole(path, place.plugins)
        if run is None:
            if path.exists():
                shutil.rmtree(path)  # one that was stopped before it had saved anything
            try:
                # With its seed: what is drawn may be impossible with this one alone.
                checked = place.check((*settings_of(job.values), f"train.seed={job.seed}"))
            except CompileError as error:
                return Outcome("refused", reasons=_texts(error))
            more: dict[str, Any] = {"backend": place.backend, "limit_batches": place.limit_batches}
            run = train(checked, data=place.data, out=path, seed=job.seed, **more, **common)
        elif not run.files.load().state["finished"]:
            given = None if isinstance(place.data, str) else place.data
            run = train(resume=path, data=given, **common)
    except Interrupted:
        return None
    except PrunedError:
        return _told(place, path, "pruned")
    except CompileError as error:
        if not any(diagnostic.code in FATAL for diagnostic in error.diagnostics):
            raise
        return _told(place, path, "failed", _texts(error))
    return _measured(place, run)


def _texts(error: CompileError) -> tuple[str, ...]:
    return tuple(f"{d.code}: {d.message}" for d in error.diagnostics if d.severity == "error")


def _whole(path: Path, plugins: tuple[Any, ...]) -> Run | None:
    """A run that can be gone on with; None if there is none yet."""
    if not (path / "lock.json").exists():
        return None
    run = open_run(path, plugins=plugins)
    return run if run.files.has("last") else None


def _measured(place: Place, run: Run) -> Outcome:
    """What the run folder says of a training that is finished: of the epoch that its checkpoint is of."""
    from r2d2c.train.compare_board import History

    history = History.read(run)
    splits = {}
    for split in (*history.splits, "test"):
        record = history.test if split == "test" else history.record(split)
        if record is not None:
            splits[split] = {"loss": float(record["loss"]), **record.get("metrics", {})}
    record = history.record()
    value = None if record is None else monitored(place.monitor, record)
    epoch = history.epoch if record is None else int(record["epoch"])
    if value is None or not math.isfinite(value):
        what = f"`{place.monitor.name}` is no number after epoch {epoch}"
        return Outcome("failed", None, epoch, history.seconds, reasons=(what,))
    return Outcome("done", value, epoch, history.seconds, splits)


def _told(
    place: Place, path: Path, state: Literal["failed", "pruned"], reasons: tuple[str, ...] = ()
) -> Outcome:
    """What there is of a training that ended before its end; of one that was pruned, only its metrics stay."""
    records = open_run(path, plugins=place.plugins).metrics
    split = "validation" if any(record.get("split") == "validation" for record in records) else "train"
    shown = [record for record in records if record.get("split") == split]
    if state == "pruned":
        for checkpoint in (path / "checkpoints").iterdir():
            checkpoint.unlink()
    return Outcome(
        state,
        monitored(place.monitor, shown[-1]) if shown else None,
        int(shown[-1]["epoch"]) if shown else 0,
        sum(record.get("seconds") or 0.0 for record in records),
        reasons=reasons,
    )


__all__ = ["Job", "Place", "Said", "Tell", "monitored", "train_one"]
