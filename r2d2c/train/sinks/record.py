"""`SinkRecord`: a place that a training is logged to, and what it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from r2d2c.train.atomic import write_atomic

FILE = "logs.json"
Record = Mapping[str, Any]
"""A line of ``metrics.jsonl``."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A training that begins, or goes on after the lines ``records``. settings: what a person compares runs by."""

    folder: Path
    model: str
    spec: str
    settings: Mapping[str, str | int | float]
    records: Sequence[Record] = ()

    def noted(self, name: str) -> dict[str, Any]:
        """What `note` wrote for a sink the last time."""
        try:
            found = json.loads((self.folder / FILE).read_bytes()).get(name, {})
        except (OSError, ValueError, AttributeError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep something for the time that the run goes on: the id that a service knows it by."""
        try:
            every = json.loads((self.folder / FILE).read_bytes())
        except (OSError, ValueError):
            every = {}
        every[name] = dict(values)
        write_atomic(self.folder / FILE, (json.dumps(every, indent=2) + "\n").encode())


class Log(Protocol):
    """An open log. It may raise anything: the training then goes on without it (W625)."""

    def write(self, records: Sequence[Record]) -> None:
        """Some new lines of ``metrics.jsonl``."""

    def close(self, finished: bool) -> None:
        """finished: whether the training came to its end; otherwise it was stopped, and may go on."""


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """name: after `--log`. library: the module that has to be there, None if ours does it; package: as pip knows it."""

    name: str
    doc: str
    open: Callable[[Beginning], Log]
    library: str | None = None
    package: str | None = None


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a line by name: ``loss/encode/train``, ``accuracy(logits, y)/validation``, ``lr`` …"""
    split = str(record.get("split", "train"))
    found: dict[str, Any] = {f"loss/{split}": record.get("loss")}
    if len(record.get("losses", {})) > 1:
        found |= {f"loss/{name}/{split}": value for name, value in record["losses"].items()}
    found |= {f"{name}/{split}": value for name, value in record.get("metrics", {}).items()}
    found |= {f"spread/{name}": value for name, value in record.get("spread", {}).items()}
    found |= {f"ops/{name}": value for name, value in record.get("ops", {}).items()}
    rate = record.get("lr")
    found |= (
        {f"lr/{name}": value for name, value in rate.items()} if isinstance(rate, Mapping) else {"lr": rate}
    )
    found["samples per second"] = record.get("rate")
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def step_of(record: Record) -> int:
    """Epochs that were done: the horizontal axis everywhere."""
    return int(record.get("epoch", 0))
