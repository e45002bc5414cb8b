"""`Feed`: the callback that tells open logs what a training writes into ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from r2d2c.train.sinks.record import Beginning, Log, Record, SinkRecord
from r2d2c.train.summary import optimizer_facts

if TYPE_CHECKING:
    from r2d2c.train.events import EpochInfo, Start
    from r2d2c.train.loop import Trainer


class Feed:
    """Opens sinks when a training starts, and closes them however it ends. One that fails is left out (W625)."""

    def __init__(self, sinks: Sequence[SinkRecord]) -> None:
        self._sinks = tuple(sinks)
        self._open: dict[str, Log] = {}
        self._trainer: Trainer | None = None

    def on_ready(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_start(self, start: Start) -> None:
        trainer = self._trainer
        assert trainer is not None
        if not trainer.team.first:
            return  # of several processes one writes
        files, settings = trainer.run_folder, trainer.settings
        shown: dict[str, str | int | float] = {
            "data": start.data,
            "epochs": start.epochs,
            "batch_size": settings.batch_size,
            "optimizer": str(settings.optimizer),
            **{key: str(fact) for key, fact in optimizer_facts(settings).items()},
            "seed": settings.seed,
            "device": start.device,
            "parameters": start.parameters,
        }
        records = [record for record in files.metrics() if "split" in record]
        beginning = Beginning(files.path, start.model, files.spec, shown, records)
        for sink in self._sinks:
            self._try(sink.name, partial(self._begin, sink, beginning))

    def _begin(self, sink: SinkRecord, beginning: Beginning) -> None:
        self._open[sink.name] = sink.open(beginning)

    def on_epoch(self, epoch: EpochInfo) -> None:
        self._write([epoch.train, *([] if epoch.validation is None else [epoch.validation])])

    def on_end(self, test: Mapping[str, Any] | None) -> None:
        if test is not None:
            self._write([test])

    def on_close(self, finished: bool) -> None:
        for name, log in list(self._open.items()):
            self._try(name, partial(log.close, finished))
        self._open.clear()

    def _write(self, records: Sequence[Record]) -> None:
        for name, log in list(self._open.items()):
            self._try(name, partial(log.write, records))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a service does, the training goes on
            broken = self._open.pop(name, None)
            if broken is not None:
                with suppress(Exception):
                    broken.close(False)
            assert self._trainer is not None
            message = f"the log {name} stopped: {type(error).__name__}: {error}"
            self._trainer.sink.report("W625", None, message)
