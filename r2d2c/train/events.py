"""What a training tells its callbacks: objects with any of the methods of `Callback`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import Diagnostic

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.train.loop import Trainer


@dataclass(frozen=True, slots=True)
class Start:
    """A training begins (or goes on, at ``epoch`` and ``batch``). ``batches``: of one epoch, if that is
    known.
    """

    folder: str
    model: str
    data: str
    device: str
    epochs: int
    epoch: int
    batch: int
    batches: int | None
    samples: int | None
    parameters: int
    groups: int


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A learning pass is done. The losses are tensors: to look at one is to wait for the device."""

    epoch: int
    batch: int
    step: int
    losses: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Progress:
    """About ten times a second: the mean losses of the epoch so far; ``rate`` in samples a second."""

    epoch: int
    batch: int
    losses: Mapping[str, float]
    rate: float


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Why a training ends with this epoch: for ``epochs`` of them ``monitor`` was no better than its best."""

    epoch: int
    monitor: str
    epochs: int

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> EarlyStop | None:
        """From what a checkpoint says of its training; None if it went to its last epoch."""
        stopped, best = state.get("stopped"), state.get("best")
        if stopped is None or best is None or stopped >= state["epochs"]:
            return None
        return cls(stopped, best["monitor"], state["stale"])

    def __str__(self) -> str:
        many = "1 epoch" if self.epochs == 1 else f"{self.epochs:,} epochs"
        return f"stopped early after epoch {self.epoch}: {self.monitor} was no better for {many}"


@dataclass(frozen=True, slots=True)
class EpochInfo:
    """An epoch is done: its lines of ``metrics.jsonl``. ``best``: whether it is the best by the monitor so
    far. ``stop``: that it is the last one before its time, and why.
    """

    epoch: int
    train: Mapping[str, Any]
    validation: Mapping[str, Any] | None
    best: bool
    stop: EarlyStop | None = None


class Callback:
    """The methods a callback may have; a callback need not derive from this."""

    def on_ready(self, trainer: Trainer) -> None:
        """First of all: for those who look at the model and the data. They leave them as they are."""

    def on_start(self, start: Start) -> None: ...

    def on_step(self, step: StepInfo) -> None: ...

    def on_progress(self, progress: Progress) -> None: ...

    def on_epoch(self, epoch: EpochInfo) -> None: ...

    def on_warning(self, diagnostic: Diagnostic) -> None: ...

    def on_end(self, test: Mapping[str, Any] | None) -> None: ...

    def on_close(self, finished: bool) -> None:
        """Last of all, however the training ended."""


class Callbacks:
    """Many callbacks as one. ``kind``: the class that has their methods."""

    def __init__(self, callbacks: Iterable[Any], kind: type = Callback) -> None:
        listening = list(callbacks)
        self._heard = {
            name: [getattr(callback, name) for callback in listening if hasattr(callback, name)]
            for name in vars(kind)
            if name.startswith("on_")
        }

    def wants(self, name: str) -> bool:
        return bool(self._heard[name])

    def __call__(self, name: str, *events: Any) -> None:
        for method in self._heard[name]:
            method(*events)
