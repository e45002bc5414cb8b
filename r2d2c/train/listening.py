"""Who listens to a training: the callbacks that were given, and those that `train` adds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from r2d2c.train.sinks import Feed, find_sinks
from r2d2c.train.summary import line


class _Lines:
    """``quiet=False``: a line for each epoch."""

    def on_epoch(self, info: Any) -> None:
        record = info.validation or info.train
        print(f"epoch {info.epoch}: {record['split']} {line(record)}")

    def on_warning(self, diagnostic: Any) -> None:
        print(diagnostic)


def all_callbacks(
    callbacks: Iterable[Any],
    angles: bool,
    quiet: bool,
    resume: str | Path | None,
    log: Sequence[Any] = (),
    events: bool = True,
    plugins: Iterable[Any] = (),
) -> list[Any]:
    """All callbacks. A run that had its angles measured has them measured when it goes on.

    log: what to log to, by name or as records; events: whether TensorBoard's are written.
    """
    listening = [*callbacks, *([] if quiet else [_Lines()])]
    if log or events:
        listening.append(Feed(find_sinks(log, events, plugins)))
    if angles or (resume is not None and (Path(resume) / "angles.csv").is_file()):
        from r2d2c.train.angles import Angles

        if not any(isinstance(callback, Angles) for callback in listening):
            listening.insert(0, Angles())
    return listening
