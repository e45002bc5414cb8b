"""`Judge`: what a training is measured by. Splits, samples of the training data, and which epoch is the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import Sink
from r2d2c.train.data import BoundData, Loader
from r2d2c.train.data.bind import Split, TableSplit
from r2d2c.train.distributed.alone import Alone
from r2d2c.train.measure import Batch, Measurement, size_of, weighted
from r2d2c.train.settings import TOTAL, Monitor, Settings

if TYPE_CHECKING:
    from r2d2c.model import Model

SAMPLE = 1024  # training samples that metrics are measured on where there is no validation split


class Judge:
    """Measures one model on its data. loader: of the training data. limit: of batches of every split, None: all.

    team: the processes that measure together.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        data: BoundData,
        loader: Loader,
        limit: int | None,
        sink: Sink,
        team: Alone | None = None,
    ) -> None:
        self.model, self.settings, self.data, self.loader, self.limit = model, settings, data, loader, limit
        self.team = team or Alone()
        self.monitor = self._monitor(sink)

    def _monitor(self, sink: Sink) -> Monitor:
        """The monitor; without a validation split, the training loss."""
        wanted = self.settings.monitor
        if self.data.validation is not None or wanted.kind != "metrics":
            return wanted
        if wanted.given:
            sink.report(
                "W547",
                wanted.span,
                f"{self.data.name} has no validation split to monitor `{wanted.name}` on",
                "the training loss decides",
                fix="hold out a share of the training data: --set train.split=0.1",
            )
        return Monitor("total", TOTAL)

    def measure(self, split: Split) -> Measurement:
        batches: Iterator[Batch] = iter(
            split.loader(self.settings.batch_size, workers=self.settings.workers).epoch(0)
        )
        return self.team.measure(self.model, self._limited(batches), self.settings.metrics)

    def _limited(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            if self.limit is not None and number >= self.limit:
                return
            yield batch

    def sample(self, epoch: int) -> list[Batch]:
        """Some batches of training data, the same every time; of a stream only the epoch's first."""
        train = self.data.train
        if not isinstance(train, TableSplit):
            return [next(iter(self.loader.epoch(epoch)))]
        found: list[Batch] = []
        size = min(self.settings.batch_size, SAMPLE)
        for batch in train.loader(size, seed=self.settings.seed, shuffle=True).epoch(-1):
            found.append(batch)
            if sum(map(size_of, found)) >= SAMPLE:
                break
        return found

    def record(self, split: str, found: Measurement, epoch: int) -> dict[str, Any]:
        """A line of ``metrics.jsonl``. epoch: how many are whole."""
        return {
            "epoch": epoch,
            "split": split,
            "loss": weighted(self.model, found.losses),
            "losses": found.losses,
            "metrics": found.metrics,
            "samples": found.samples,
        }

    def value(self, record: Mapping[str, Any]) -> float:
        """What the monitor says of a record."""
        name = self.monitor.name
        value = record["loss"] if self.monitor.kind == "total" else record[self.monitor.kind][name]
        return float(value)

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far; NaN never is."""
        if value != value:
            return False
        return best is None or (value > best if self.monitor.better == "higher" else value < best)
