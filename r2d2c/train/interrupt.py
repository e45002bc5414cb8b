"""Ctrl-C and SIGTERM: the first finishes the batch and saves, the second quits at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A training was stopped by a signal, after it had saved; ``run`` is the folder to resume."""

    def __init__(self, run: Path, epoch: int, batch: int) -> None:
        self.run, self.epoch, self.batch = run, epoch, batch
        super().__init__(f"stopped in epoch {epoch}, batch {batch}; resume with --resume {run}")


@dataclass(slots=True)
class Request:
    """Whether somebody asked to stop."""

    stop: bool = False


@contextmanager
def catching() -> Iterator[Request]:
    """A `Request` that signals set. Outside the main thread, where Python has no handlers, it stays unset."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.stop:
            raise KeyboardInterrupt
        request.stop = True

    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
