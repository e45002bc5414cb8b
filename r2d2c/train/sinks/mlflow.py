"""MLflow: one run there for each run folder, in an experiment of the model's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from r2d2c.train.sinks.record import Beginning, Log, Record, SinkRecord, scalars, step_of


class _Mlflow:
    def __init__(self, beginning: Beginning) -> None:
        self._mlflow: Any = import_module("mlflow")
        self._beginning = beginning
        noted = beginning.noted("mlflow")
        self._mlflow.set_experiment(beginning.model)
        run = self._mlflow.start_run(
            run_id=noted.get("id"),
            run_name=None if noted else beginning.folder.resolve().name,
            nested=self._mlflow.active_run() is not None,
        )
        self._id = str(run.info.run_id)
        self._lines = int(noted.get("lines") or 0)
        if not noted:
            self._mlflow.log_params({_name(key): value for key, value in beginning.settings.items()})
            self._mlflow.log_text(beginning.spec, "spec.yaml")
        self.write(beginning.records[self._lines :])

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            values = {_name(name): value for name, value in scalars(record).items()}
            self._mlflow.log_metrics(values, step=step_of(record))
        self._lines += len(records)
        self._beginning.note("mlflow", {"id": self._id, "lines": self._lines})

    def close(self, finished: bool) -> None:
        for name in ("summary.txt", "curves.png"):
            if (self._beginning.folder / name).is_file():
                self._mlflow.log_artifact(str(self._beginning.folder / name))
        self._mlflow.end_run(status="FINISHED" if finished else "KILLED")


def _name(text: str) -> str:
    """A name as MLflow takes it: letters, digits and ``_-./``."""
    return re.sub(r"[^\w\-./]+", "_", text, flags=re.ASCII).replace("_/", "/").strip("_")


def _open(beginning: Beginning) -> Log:
    return _Mlflow(beginning)


RECORD = SinkRecord("mlflow", "MLflow", _open, library="mlflow", package="mlflow")
