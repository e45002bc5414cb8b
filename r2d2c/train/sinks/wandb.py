"""Weights & Biases: one run there for each run folder. A run that goes on is the same one there."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from r2d2c.train.sinks.record import Beginning, Log, Record, SinkRecord, scalars, step_of


class _Wandb:
    def __init__(self, beginning: Beginning) -> None:
        wandb: Any = import_module("wandb")
        noted = beginning.noted("wandb")
        self._beginning, self._id = beginning, str(noted.get("id") or uuid.uuid4().hex[:12])
        self._run = wandb.init(
            project=beginning.model,
            name=beginning.folder.resolve().name,
            id=self._id,
            resume="allow",
            dir=str(beginning.folder),
            config={**beginning.settings, "spec": beginning.spec},
            reinit="create_new",  # a sweep has several in one process
        )
        self._lines = int(noted.get("lines") or 0)
        self.write(beginning.records[self._lines :])

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            # Steps are epochs, and each split is a line of its own: they are put together by their step.
            self._run.log(scalars(record), step=step_of(record))
        self._lines += len(records)
        self._beginning.note("wandb", {"id": self._id, "lines": self._lines})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _open(beginning: Beginning) -> Log:
    return _Wandb(beginning)


RECORD = SinkRecord("wandb", "Weights & Biases", _open, library="wandb", package="wandb")
