"""What became of everything when a model went on from another one: as a table, and as JSON in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from r2d2c.train.atomic import write_atomic

FILE = "transplant.json"
What = Literal["kept", "widened", "moved", "new", "gone"]
# What differs by no more than this, as a share of the largest value of the output, is rounding of f32.
ROUNDING = 3e-6


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor. kept: as it was, to the last bit; widened: with old entries in it; moved: the table of an op graph.

    before, now: its shape. state: what became of the optimizer's state of it.
    """

    name: str
    what: What
    before: tuple[int, ...] | None = None
    now: tuple[int, ...] | None = None
    state: str = ""

    @property
    def shape(self) -> str:
        if self.what in ("widened", "moved") and self.before is not None and self.now is not None:
            pairs = zip(self.before, self.now, strict=True)
            return "×".join(str(a) if a == b else f"({a} → {b})" for a, b in pairs)
        found = self.now if self.now is not None else self.before
        return "×".join(map(str, found or ())) or "1"


@dataclass(frozen=True, slots=True)
class Compared:
    """An output of both models on the same samples. difference: the most, scale: the largest value there is.

    why: where it differs, the ops that make one number of old and new units. skipped: why it was not compared.
    """

    name: str
    samples: int = 0
    difference: float = 0.0
    scale: float = 0.0
    why: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def same(self) -> bool:
        return not self.skipped and self.difference <= ROUNDING * max(self.scale, 1.0)

    def __str__(self) -> str:
        if self.skipped:
            return f"not compared: {self.skipped}"
        if self.difference == 0:
            return "the same to the last bit"
        if self.same:
            return f"the same to {self.difference:.0e}"
        why = "; ".join(self.why)
        return f"differs by {self.difference:.2g}" + (f": {why}" if why else "")


@dataclass(frozen=True, slots=True)
class Report:
    """What `transplant` did. source: the run or checkpoint; optimizer: what became of the optimizer's state."""

    source: str
    entries: tuple[Entry, ...]
    optimizer: str
    outputs: tuple[Compared, ...] = field(default=())

    def of(self, what: What) -> list[Entry]:
        return [entry for entry in self.entries if entry.what == what]

    @property
    def differing(self) -> list[Compared]:
        """The outputs that are not what they were."""
        return [found for found in self.outputs if not found.skipped and not found.same]

    def rows(self, *, kept: bool = True) -> list[tuple[str, str, str, str]]:
        """``name, what, shape, optimizer``. kept: with those that stayed as they were, last."""
        order = ("widened", "moved", "new", "gone", "kept")
        entries = sorted(self.entries, key=lambda entry: order.index(entry.what))
        return [(e.name, e.what, e.shape, e.state) for e in entries if kept or e.what != "kept"]

    def counts(self) -> str:
        """``12 kept, 3 widened, 2 new``."""
        kinds: Sequence[What] = ("kept", "widened", "moved", "new", "gone")
        found = [(len(self.of(kind)), kind) for kind in kinds]
        return ", ".join(f"{count} {kind}" for count, kind in found if count)

    def lines(self) -> list[str]:
        """The report without its table."""
        return [
            f"started from {self.source}: {self.counts()}",
            f"optimizer: {self.optimizer}",
            *(f"output {found.name}: {found}" for found in self.outputs),
        ]

    def write(self, folder: Path) -> None:
        """Into the run's folder, as ``transplant.json``."""
        data = {
            "source": self.source,
            "optimizer": self.optimizer,
            "outputs": [{**asdict(found), "verdict": str(found)} for found in self.outputs],
            "tensors": [asdict(entry) for entry in self.entries],
        }
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        write_atomic(folder / FILE, text.encode())


def read_report(folder: Path) -> Report | None:
    """The report in a run's folder; None of a run that started anew."""
    try:
        data = json.loads((folder / FILE).read_bytes())
        outputs = [{k: v for k, v in one.items() if k != "verdict"} for one in data["outputs"]]
        return Report(
            str(data["source"]),
            tuple(Entry(**{k: _tuple(v) for k, v in one.items()}) for one in data["tensors"]),
            str(data["optimizer"]),
            tuple(Compared(**{k: _tuple(v) for k, v in one.items()}) for one in outputs),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_facts(folder: Path) -> dict[str, str]:
    """What the summary of a run says of where it started from; nothing of one that started anew."""
    report = read_report(folder)
    if report is None:
        return {}
    outputs = {f"output {found.name} at the start": str(found) for found in report.outputs}
    return {"started from": f"{report.source} ({report.counts()})", **outputs}
