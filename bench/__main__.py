"""``python -m bench``: run the table, print ratios as they come, write `results.json` and the README."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import report
from bench.table import BENCHMARKS, Benchmark

HERE = Path(__file__).parent

# One thread. And memory that is freed stays with the process: otherwise who pays the system for fresh pages,
# ours or theirs, is chance, and up to half of a step.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="benchmarks or groups with NAME in their name"
    )
    parser.add_argument(
        "--quick", action="store_true", help="only try that everything runs: the times mean nothing"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, help="where to write; a partial run writes nowhere else"
    )
    parser.add_argument(
        "--update", action="store_true", help="with --only: replace these rows of the committed results"
    )
    parser.add_argument("--list", action="store_true", help="print the names")
    return parser.parse_args(given)


def _chosen(options: argparse.Namespace) -> list[Benchmark]:
    rows = [benchmark for benchmark in BENCHMARKS if options.device in benchmark.devices]
    if options.only:
        rows = [b for b in rows if any(part in b.name or part == b.group for part in options.only)]
    return rows


def _run(group: str, names: list[str], options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """What a group's process says, line by line."""
    code = ["-m", "bench.worker", group, options.device, str(int(options.quick)), json.dumps(names)]
    environment = {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(
        [sys.executable, *code], stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE.parent
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"name"'):
                yield json.loads(line)


def main(given: Sequence[str] | None = None) -> int:
    options = _arguments(given)
    chosen = _chosen(options)
    if options.list or not chosen:
        print("\n".join(f"{benchmark.group:10} {benchmark.name}" for benchmark in chosen or BENCHMARKS))
        return 0 if chosen else 2
    began = time.perf_counter()
    found: dict[str, report.Row] = {}
    for group in dict.fromkeys(benchmark.group for benchmark in chosen):
        mine = {benchmark.name: benchmark for benchmark in chosen if benchmark.group == group}
        for said in _run(group, list(mine), options):
            row = _row(mine[str(said["name"])], said)
            found[row.name] = row
            target = "" if row.target is None else f"≤ {row.target:g}"
            print(f"{row.name:52} {report.ratio(row):>7} {target:>7}  {report.verdict(row)}", flush=True)
    rows = [found.get(benchmark.name) or report.failed(benchmark) for benchmark in chosen]
    missed = sum(row.held is False for row in rows)
    print(f"{len(rows)} benchmarks in {time.perf_counter() - began:.0f} s, {missed} missed")
    _write(rows, options)
    return 0 if all(row.ratio is not None for row in rows) else 1


def _row(benchmark: Benchmark, said: dict[str, object]) -> report.Row:
    ours, theirs = said.get("ours"), said.get("theirs")
    if not isinstance(ours, float) or not isinstance(theirs, float):
        return report.failed(benchmark)
    return report.row(benchmark, ours, theirs, str(said["unit"]))


def _write(rows: list[report.Row], options: argparse.Namespace) -> None:
    folder: Path | None = options.output
    if folder is None:
        if options.quick or (options.only and not options.update):
            return
        folder = HERE
        if options.only:
            kept = {
                r["name"]: report.Row(**r) for r in json.loads((HERE / "results.json").read_text("utf-8"))
            }
            kept.update({row.name: row for row in rows})
            rows = [kept[b.name] for b in BENCHMARKS if b.name in kept]
    folder.mkdir(parents=True, exist_ok=True)
    report.write_json(rows, folder / "results.json")
    against = {benchmark.name: benchmark.against for benchmark in BENCHMARKS}
    report.write_table(report.table(rows, against, options.device), folder / "README.md")


if __name__ == "__main__":
    sys.exit(main())
