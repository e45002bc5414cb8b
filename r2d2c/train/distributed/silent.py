"""What a process has that does not write: the run folder and the log of growth, read only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2d2c.diagnostics import Sink
from r2d2c.train.checkpoint import Checkpoint
from r2d2c.train.growth_log import GrowthLog
from r2d2c.train.run_folder import RunFolder


class SilentFolder(RunFolder):
    """A run folder that another process writes."""

    def append(self, *records: Mapping[str, Any]) -> None:
        pass

    def keep_metrics(self, lines: int, sink: Sink | None = None) -> int:
        return lines

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> None:
        pass

    def write_summary(self, text: str) -> None:
        pass

    def draw_curves(self) -> Path | None:
        return None

    def remove(self) -> None:
        pass


class SilentLog(GrowthLog):
    """A log of growth that another process writes."""

    def create(self, fingerprint: str, starts: Mapping[str, Any]) -> int:
        return len(starts)

    def append(self, *given: Any, **more: Any) -> None:
        pass

    def keep(self, count: int, sink: Sink) -> int:
        return count
