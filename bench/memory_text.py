"""A study on a real text, the King James Bible: bits per character, with equal parameters and equal time.

    python -m bench.memory_text [--text FILE] [--seconds 60] [--only NAME …] [--seeds 0 1 2]

Trains specs of `specs/memory/` on the characters of the text, which Debian's package `bible-kjv` has and prints by
``bible -l80 gen1:1-rev22:21``, or of another. Before every training a short one measures how long a batch takes the
processor; then as many are trained as take ``--seconds``, and the learning rate falls to 0 over them. Writes
`bench/memory_text.json` and `bench/memory_text.md`. What the JSON has already is not run again, unless ``--only`` names it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import r2d2c
from r2d2c.train.data.source import DataContext
from r2d2c.train.data.sources import open_data

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "specs" / "memory"
RESULTS, TABLE = (ROOT / "bench" / f"memory_text.{end}" for end in ("json", "md"))
# Characters of a sample, and batches of the training that measures the time of one.
LENGTH, PILOT = 1024, 8
LOSS = "predict"
PROMPT, TEMPERATURE = "And the LORD said", 0.7
# What the table says, once it is there.
REMARKS = """\
The LSTM, the segments and the FIFO control cannot be told apart: their means differ by less than seeds do. The memory
machine that keeps what surprised is behind its own control: the last eight characters tell more about the next one than
eight surprising ones do. The segments read half as many characters in the time. Surprise pays where what matters is rare
and long ago, as in [memory_study.md](memory_study.md), not in spelling.

What the control shows is that no backpropagation through time is needed for this: no gradient of it goes from one step to
another. A minute is short, and the models are small; with more time more context pays, and the order may change.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table. sizes: dims that are not as in the spec, so that all rows have as many parameters.

    batch: samples of a batch. data: more options of the text. settings: others.
    """

    name: str
    spec: str
    rate: float
    sizes: dict[str, int] = field(default_factory=dict)
    batch: int = 32
    data: str = ""
    settings: tuple[str, ...] = ()

    def source(self, text: Path) -> str:
        return f"text:{text}?length={LENGTH}{self.data}"


ROWS: tuple[Row, ...] = (
    Row("memory machine", "token_machine.yaml", 6e-3),
    Row("FIFO control", "fifo.yaml", 6e-3),
    Row("LSTM, backpropagation through 64 steps", "lstm.yaml", 2e-2, {"S": 101}),
    Row("cached segments", "segments.yaml", 6e-3, {}, 8, "&segment=64", ("train.chunk=1",)),
)


class Clock:
    """A callback: processor seconds from the start of a training to its last batch, and those of the first."""

    seconds = first = 0.0
    batches = 0

    def on_start(self, start: Any) -> None:
        self.began = time.process_time()

    def on_step(self, step: Any) -> None:
        self.seconds, self.batches = time.process_time() - self.began, self.batches + 1
        self.first = self.first or self.seconds

    @property
    def each(self) -> float:
        """Seconds of a batch; the first one is slower."""
        return (self.seconds - self.first) / (self.batches - 1)


def trained(row: Row, text: Path, seed: int, batches: int, out: Path) -> tuple[r2d2c.Run, Clock]:
    """A training of about so many batches."""
    train = open_data(row.source(text), DataContext(trusted=True)).train
    assert train is not None
    classes = train.columns["y"].classes
    assert classes is not None
    epochs = math.ceil(batches * row.batch / len(train))
    sizes = {"V": len(classes), **row.sizes}
    clock = Clock()
    run = r2d2c.train(
        FOLDER / row.spec,
        data=row.source(text),
        out=out,
        epochs=epochs,
        limit_batches=round(batches / epochs),
        batch_size=row.batch,
        optimizer=f"adam(lr={row.rate})",
        schedule="cosine",
        seed=seed,
        threads=1,
        settings=(*(f"dims.{name}={size}" for name, size in sizes.items()), *row.settings),
        callbacks=[clock],
    )
    return run, clock


def measured(row: Row, text: Path, seed: int, seconds: float) -> dict[str, Any]:
    """One training of so many processor seconds, and its bits per character on the test part."""
    with tempfile.TemporaryDirectory() as folder:
        _, pilot = trained(row, text, seed, PILOT, Path(folder) / "pilot")
        batches = max(PILOT, round(seconds / pilot.each))
        run, clock = trained(row, text, seed, batches, Path(folder) / "run")
        assert run.test is not None
        sample: str | list[int] = ""
        if not row.data:
            sample = r2d2c.generate(run, PROMPT, length=200, temperature=TEMPERATURE, seed=seed)
        return {
            "bits": run.test["losses"][LOSS] / math.log(2),
            "seconds": clock.seconds,
            "characters": clock.batches * row.batch * LENGTH,
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "sample": str(sample),
        }


HEAD = """\
# A real text: bits per character

Written by `python -m bench.memory_text`: specs of [specs/memory](../specs/memory/README.md) learn the characters of the
King James Bible, 90 % of it, with {parameters} parameters each, for {seconds:.0f} seconds of one processor, and are
measured on the last 5 % in windows of {length:,} characters, before which they know nothing. All update after 64
characters of every window of a batch, 32 windows (8 for the segments, which need more updates), and go on with their
state; Adam, a rate that falls along a cosine. Rates are the best of 3e-3, 6e-3, 1e-2 and 2e-2 in trainings of 20
seconds, and then of whole trainings of one seed.
"""


def table(found: dict[str, Any]) -> str:
    """The table of what has been run, the best first, and what it says."""
    rows = [row for row in ROWS if row.name in found]
    mean = {row.name: statistics.mean(r["bits"] for r in found[row.name].values()) for row in rows}
    runs = [run for row in rows for run in found[row.name].values()]
    counts = [run["parameters"] for run in runs]
    head = HEAD.format(
        parameters=f"{min(counts):,} to {max(counts):,}",
        seconds=statistics.mean(run["seconds"] for run in runs),
        length=LENGTH,
    )
    lines = [
        head,
        "| model | spec | rate | bits per character | seeds | parameters | seconds | million characters read |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda row: mean[row.name]):
        entry = list(found[row.name].values())
        bits = [run["bits"] for run in entry]
        spread = statistics.stdev(bits) if len(bits) > 1 else 0.0
        lines.append(
            f"| {row.name} | [{row.spec}](../specs/memory/{row.spec}) | {row.rate:g} | {mean[row.name]:.3f} ± {spread:.3f} "
            f"| {len(bits)} | {entry[0]['parameters']:,} | {statistics.mean(r['seconds'] for r in entry):.0f} "
            f"| {statistics.mean(r['characters'] for r in entry) / 1e6:.1f} |"
        )
    lines.append("")
    for row in rows:
        sample = next(iter(found[row.name].values()))["sample"]
        if sample:
            shown = (PROMPT + sample).splitlines()
            said = [f"    {part}" for line in shown for part in textwrap.wrap(line, 110)]
            lines += [f"{row.name}, after “{PROMPT}”, at the temperature {TEMPERATURE}:", "", *said, ""]
    return "\n".join([*lines, REMARKS])


def the_bible(folder: Path) -> Path:
    """The text of Debian's `bible-kjv`, in a file."""
    done = subprocess.run(["bible", "-l80", "gen1:1-rev22:21"], check=True, capture_output=True)
    path = folder / "bible.txt"
    path.write_bytes(done.stdout)
    return path


def main() -> None:
    """Run the trainings that are missing, or the rows that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="another text, or the same in a file")
    parser.add_argument("--seconds", type=float, default=60, help="of the processor, a training")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        text = options.text.resolve() if options.text else the_bible(Path(folder))
        for seed in options.seeds:
            for row in ROWS:
                if options.only and row.name not in options.only:
                    continue
                if not options.only and str(seed) in load().get(row.name, {}):
                    continue
                result = measured(row, text, seed, options.seconds)
                print(f"{row.name}, seed {seed}: {result['bits']:.4f} bits per character", flush=True)
                # Another process may have run other rows meanwhile.
                found = load()
                found.setdefault(row.name, {})[str(seed)] = result
                RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    TABLE.write_text(table(load()), "utf-8")
    print(table(load()))


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


if __name__ == "__main__":
    main()
