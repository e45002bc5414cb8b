"""A study on Fashion-MNIST: the R2D2 model of `specs/r2d2/`, at every depth and width, and its ablations.

    python -m bench.r2d2_study [--epochs 5] [--seeds 3] [--only NAME …]

Trains the specs on the 60,000 images of Debian's package `dataset-fashion-mnist` on one thread, evaluates each trained
model at depth 1…8 and at every width without training it again, and writes `bench/r2d2_study.json`, the tables in
`specs/r2d2/README.md` and the figure `bench/r2d2_study.svg`. A row "in the same time" trains for as many epochs as take the
processor as long as the complete model's. Rows that the JSON has already are not run again, unless `--only` names them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import r2d2c
from r2d2c.train.api import evaluate_each

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "r2d2_study.json"
FOLDER = ROOT / "specs" / "r2d2"
MARK = "<!-- written by `python -m bench.r2d2_study` -->"
ACCURACY = "accuracy(logits, y)"
DEPTHS = tuple(range(1, 9))
WIDTHS = (0.25, 0.5, 1.0)
COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table. same_time: as many epochs as take as long as the complete model."""

    name: str
    spec: str
    same_time: bool = False


ROWS: tuple[Row, ...] = (
    Row(COMPLETE, "fashion.yaml"),
    Row("static weights", "no_hypernet.yaml"),
    Row("static weights, in the same time", "no_hypernet.yaml", True),
    Row("no distillation", "no_distillation.yaml"),
    Row("no distillation, in the same time", "no_distillation.yaml", True),
    Row("no inverse", "no_inverse.yaml"),
)


def train(row: Row, seed: int, epochs: int) -> dict[str, Any]:
    """One training, and the test accuracy at every depth and width."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        run = r2d2c.train(
            FOLDER / row.spec,
            data="fashion_mnist",
            out=Path(folder) / "run",
            epochs=epochs,
            seed=seed,
            threads=1,
        )
        seconds = time.process_time() - start
        widths = WIDTHS if "width" in run.model.graph.arguments else (1.0,)
        each = [
            {"depth": depth} | ({"width": width} if len(widths) > 1 else {})
            for width in widths
            for depth in DEPTHS
        ]
        rows = iter(evaluate_each(run, each, batch_size=1000))
        found = {f"{width:g}": [next(rows)["metrics"][ACCURACY] for _ in DEPTHS] for width in widths}
        return {
            "epochs": epochs,
            "seconds": seconds,
            "accuracy": found,
            "parameters": sum(p.numel() for p in run.model.parameters()),
        }


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


def _mean(entry: dict[str, Any], width: str, depth: int) -> tuple[float, float]:
    """Mean and standard deviation over the seeds, in %."""
    values = [100 * seed["accuracy"][width][depth - 1] for seed in entry["seeds"].values()]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def tables(found: dict[str, Any]) -> str:
    """The Markdown tables of what has been run."""
    lines = [MARK, ""]
    if COMPLETE in found:
        entry = found[COMPLETE]
        count = len(entry["seeds"])
        lines += [
            f"Test accuracy in % of the complete model, trained once, at depths 2 to 5, and evaluated at every depth and width; mean of {count} seeds:",
            "",
            f"| width | {' | '.join(f'depth {d}' for d in DEPTHS)} |",
            f"| --- |{' ---: |' * len(DEPTHS)}",
        ]
        for width in reversed(list(next(iter(entry["seeds"].values()))["accuracy"])):
            cells = [f"{_mean(entry, width, depth)[0]:.2f}" for depth in DEPTHS]
            lines.append(f"| {width} | {' | '.join(cells)} |")
        lines += ["", "![accuracy by depth and width](../../bench/r2d2_study.svg)", ""]
    lines += [
        "| model | spec | epochs | processor seconds | depth 1 | depth 3 | depth 8 | best | parameters |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in ROWS:
        if row.name not in found:
            continue
        entry = found[row.name]
        seeds = list(entry["seeds"].values())
        means = [_mean(entry, "1", depth) for depth in DEPTHS]
        best = max(range(len(means)), key=lambda k: means[k][0])
        cells = [f"{means[d - 1][0]:.2f} ± {means[d - 1][1]:.2f}" for d in (1, 3, 8)]
        seconds = statistics.mean(seed["seconds"] for seed in seeds)
        epochs = statistics.mean(seed["epochs"] for seed in seeds)
        lines.append(
            f"| {row.name} | [{row.spec}]({row.spec}) | {epochs:g} | {seconds:.0f} | {' | '.join(cells)} "
            f"| {means[best][0]:.2f} (depth {best + 1}) | {seeds[0]['parameters']:,} |"
        )
    return "\n".join([*lines, ""])


def figure(found: dict[str, Any]) -> None:
    """Accuracy over depth, a line for each width and each ablation."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "r2d2c"
    plot, axes = plt.subplots(figsize=(7, 4.2))
    widths = list(next(iter(found[COMPLETE]["seeds"].values()))["accuracy"])
    for width, colour in zip(widths, ("#9ecae1", "#4292c6", "#08306b"), strict=False):
        means = [_mean(found[COMPLETE], width, depth) for depth in DEPTHS]
        axes.errorbar(
            DEPTHS,
            [m for m, _ in means],
            [s for _, s in means],
            color=colour,
            marker="o",
            capsize=2,
            label=f"complete, width {width}",
        )
    for name, colour in (("static weights", "#d95f02"), ("no distillation", "#7570b3")):
        if name in found:
            means = [_mean(found[name], "1", depth)[0] for depth in DEPTHS]
            axes.plot(DEPTHS, means, color=colour, marker="s", ms=4, ls="--", label=name)
    axes.set_xlabel("depth at which the trained model runs (trained at 2 to 5)")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    plot.tight_layout()
    plot.savefig(ROOT / "bench" / "r2d2_study.svg", metadata={"Date": None})
    plt.close(plot)


def write(found: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    readme = FOLDER / "README.md"
    if readme.exists() and MARK in readme.read_text("utf-8"):
        before = readme.read_text("utf-8").partition(MARK)[0]
        readme.write_text(before + tables(found), "utf-8")
    if COMPLETE in found:
        figure(found)


def epochs_of(row: Row, found: dict[str, Any], epochs: int) -> int:
    """How many epochs a row trains."""
    if not row.same_time:
        return epochs
    alone = next(r.name for r in ROWS if r.spec == row.spec and not r.same_time)
    times = [
        statistics.mean(s["seconds"] / s["epochs"] for s in found[name]["seeds"].values())
        for name in (COMPLETE, alone)
    ]
    return max(epochs, round(epochs * times[0] / times[1]))


def main() -> None:
    """Run the rows that are missing, or those that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = load()
    for row in ROWS:
        if options.only and row.name not in options.only:
            continue
        seeds: dict[str, Any] = {} if options.only else dict(found.get(row.name, {}).get("seeds", {}))
        for seed in range(options.seeds):
            if str(seed) in seeds:
                continue
            result = train(row, seed, epochs_of(row, found, options.epochs))
            seeds[str(seed)] = result
            print(
                f"{row.name}, seed {seed}: {result['accuracy']['1']} in {result['seconds']:.0f} s", flush=True
            )
            # Another process may have run other rows meanwhile.
            found = {**load(), row.name: {"spec": row.spec, "seeds": seeds}}
            write(found)
    write(found)
    print(tables(found))


if __name__ == "__main__":
    main()
