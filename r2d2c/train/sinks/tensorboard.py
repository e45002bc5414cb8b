"""TensorBoard events, in the run's folder: ``tensorboard --logdir runs`` shows all runs beside each other.

The file is written from ``metrics.jsonl`` when a run goes on, so that it has each epoch once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from r2d2c.train.sinks.record import Beginning, Log, Record, SinkRecord, scalars, step_of

FILE = "events.out.tfevents.r2d2c"  # TensorBoard looks for the middle part


class _Events:
    """Times are seconds of training since the run was made: the same run has the same events, but for how long it took."""

    def __init__(self, beginning: Beginning) -> None:
        self._event: Any = import_module("tensorboardX.proto.event_pb2").Event
        self._summary: Any = import_module("tensorboardX.proto.summary_pb2").Summary
        self._path: Path = beginning.folder / FILE
        self._time = (beginning.folder / "lock.json").stat().st_mtime
        self._crc: Any = import_module("tensorboardX.record_writer").masked_crc32c
        self._file = self._path.open("wb")
        self._put(self._event(wall_time=self._time, file_version="brain.Event:2"))
        self.write(beginning.records)

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            self._time += record.get("seconds") or 0.0
            values = [
                self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record).items()
            ]
            self._put(
                self._event(wall_time=self._time, step=step_of(record), summary=self._summary(value=values))
            )
        self._file.flush()

    def _put(self, event: Any) -> None:
        """A record of the format: its length, the checksum of that, the event, and its checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        for part in (length, data):
            self._file.write(part + struct.pack("<I", self._crc(part)))

    def close(self, finished: bool) -> None:
        self._file.close()


def _open(beginning: Beginning) -> Log:
    return _Events(beginning)


RECORD = SinkRecord(
    "tensorboard", "TensorBoard events in the run's folder; on unless --no-tensorboard", _open
)
