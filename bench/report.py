"""What a run found: `results.json`, and a table in the README."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from bench.table import Benchmark

BEGIN, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `results.json`. Numbers are None where a benchmark failed, ``held`` where it has no target."""

    name: str
    ours: float | None
    theirs: float | None
    ratio: float | None
    target: float | None
    held: bool | None
    unit: str = "s"


def row(benchmark: Benchmark, ours: float, theirs: float, unit: str) -> Row:
    ratio, target = ours / theirs, benchmark.target
    held = None if target is None else ratio <= target
    return Row(benchmark.name, ours, theirs, ratio, target, held, unit)


def failed(benchmark: Benchmark) -> Row:
    return Row(benchmark.name, None, None, None, benchmark.target, False)


def shown(value: float | None, unit: str) -> str:
    """A number of seconds or bytes for reading."""
    if value is None:
        return "failed"
    steps = (
        (("B", 1.0), ("kB", 1e3), ("MB", 1e6)) if unit == "B" else (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0))
    )
    name, scale = next((s for s in reversed(steps) if value >= s[1]), steps[0])
    digits = max(0, 2 - math.floor(math.log10(value / scale))) if value > 0 else 0
    return f"{value / scale:.{digits}f} {name}"


def ratio(found: Row) -> str:
    return (
        "failed"
        if found.ratio is None
        else f"{found.ratio:.2f}"
        if found.ratio >= 0.1
        else f"{found.ratio:.4f}"
    )


def verdict(found: Row) -> str:
    return {True: "held", False: "missed", None: "reported"}[found.held]


def write_json(rows: list[Row], path: Path) -> None:
    path.write_text(json.dumps([asdict(found) for found in rows], indent=2) + "\n", "utf-8")


def table(rows: list[Row], against: dict[str, str], device: str) -> str:
    """The Markdown table, with what it was measured on: nothing that names a machine."""
    lines = [
        f"torch {version('torch')}, one thread, {device}, {date.today().isoformat()}. "
        "Medians of interleaved repetitions; a ratio below 1 is in our favour.",
        "",
        "| | against | ours | theirs | ratio | target | |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for found in rows:
        ours, theirs = shown(found.ours, found.unit), shown(found.theirs, found.unit)
        target = "" if found.target is None else f"≤ {found.target:g}"
        cells = (found.name, against[found.name], ours, theirs, ratio(found), target, verdict(found))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(text: str, path: Path) -> None:
    """Put the table between the markers of a file, or at its end."""
    before = path.read_text("utf-8") if path.is_file() else "# Benchmarks\n"
    if BEGIN in before and END in before:
        head, _, rest = before.partition(BEGIN)
        tail = rest.partition(END)[2]
    else:
        head, tail = f"{before.rstrip()}\n\n", "\n"
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", "utf-8")
