"""A study of adaptive computation time (Graves, 2016) on parity: does a sample take the steps that it needs?

    python -m bench.act_study [--only NAME]

Trains `specs/loops/parity_act.yaml` on the generated samples of the data source `parity`, with several weights of the
ponder cost, and measures on test samples, by how many elements they have, how many steps they take and how often the
answer is right. Writes `bench/act_study.json`, `bench/act_study.md` and `bench/act_study.svg`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

import r2d2c
from r2d2c.train.data.sources import open_data

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "specs" / "loops" / "parity_act.yaml"
RESULTS, TABLE, FIGURE = (ROOT / "bench" / f"act_study.{end}" for end in ("json", "md", "svg"))
# Weights of the ponder cost, and the seeds that each is trained with.
ROWS: dict[float, tuple[int, ...]] = {0.01: (0, 1, 2), 0.003: (0,), 0.0: (0,)}
HEAD = """\
# How many steps parity takes

Written by `python -m bench.act_study`. [parity_act.yaml](../specs/loops/parity_act.yaml) says whether the number of
ones is odd among 1 to 16 elements, of which it reads one a step, in 18 steps at the most. It is trained on 20,000
samples for 12 epochs, on one thread, and measured on 5,000 samples. All trainings solve it. With a ponder cost, samples
of more elements take more steps; with the weight 0.01, how near that comes to the least that is possible differs from
seed to seed: the best of three takes one and a half steps more than a sample has elements. Without, all take all.

![steps by elements](act_study.svg)
"""


def train(weight: float, seed: int) -> dict[str, Any]:
    """One training. By the number of elements of a test sample: how many steps it takes, and how often it is right."""
    test = open_data("parity").test
    assert test is not None
    with tempfile.TemporaryDirectory() as folder:
        settings = (f"losses.ponder.weight={weight}",)
        run = r2d2c.train(SPEC, out=Path(folder) / "run", seed=seed, settings=settings, threads=1)
        with torch.no_grad():
            found = run.model(x=torch.from_numpy(test["x"]))
        seconds = sum(record.get("seconds") or 0.0 for record in run.metrics)
    right = (found["logits"].argmax(1) == torch.from_numpy(test["y"])).double()
    steps, elements = found["steps"].double(), torch.from_numpy(test["n"])
    counts = sorted(set(elements.tolist()))
    return {
        "accuracy": float(right.mean()),
        "steps": float(steps.mean()),
        "by_elements": {
            str(n): [float(part[elements == n].mean()) for part in (steps, right)] for n in counts
        },
        "seconds": seconds,
    }


def table(found: dict[str, Any]) -> str:
    lines = [
        "| ponder weight | seeds | test accuracy, % | steps | with 1–4 elements | 5–8 | 9–12 | 13–16 | seconds |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for weight, seeds in found.items():
        runs = list(seeds.values())

        def mean(name: str, runs: list[dict[str, Any]] = runs) -> float:
            return statistics.mean(run[name] for run in runs)

        groups = []
        for first in (1, 5, 9, 13):
            values = [run["by_elements"][str(n)][0] for run in runs for n in range(first, first + 4)]
            groups.append(f"{statistics.mean(values):.1f}")
        lines.append(
            f"| {weight} | {len(runs)} | {100 * mean('accuracy'):.2f} | {mean('steps'):.1f} | {' | '.join(groups)} | "
            f"{mean('seconds'):.0f} |"
        )
    return "\n".join([HEAD, *lines, ""])


def draw(found: dict[str, Any]) -> None:
    """The figure: a line a training."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (weight, seeds) in enumerate(found.items()):
        for at, run in enumerate(seeds.values()):
            points = {int(n): steps for n, (steps, _) in run["by_elements"].items()}
            label = None if at else f"ponder weight {weight}"
            axes.plot(list(points), list(points.values()), color=f"C{number}", marker=".", label=label)
    axes.plot([1, 16], [1, 16], color="0.6", linestyle=":", label="as many steps as elements")
    axes.set(xlabel="elements of a sample", ylabel="steps", xlim=(0.5, 16.5), ylim=(0, 18.5))
    axes.legend(frameon=False, fontsize=8)
    # No date, no version and ids by content: the same results give the same bytes.
    with rc_context({"svg.hashsalt": "r2d2c"}):
        figure.savefig(FIGURE, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Run the trainings that are missing, or those of one weight."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=float, metavar="WEIGHT", help="train the rows of this weight anew")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for weight, seeds in ROWS.items():
        row = {} if options.only == weight else found.get(f"{weight:g}", {})
        for seed in seeds:
            if options.only not in (None, weight) or str(seed) in row:
                continue
            row[str(seed)] = train(weight, seed)
            RESULTS.write_text(json.dumps({**found, f"{weight:g}": row}, indent=1) + "\n", "utf-8")
            print(
                f"ponder weight {weight:g}, seed {seed}: accuracy {row[str(seed)]['accuracy']:.4f}",
                flush=True,
            )
        found[f"{weight:g}"] = row
    found = {name: row for name, row in found.items() if row}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    TABLE.write_text(table(found), "utf-8")
    draw(found)
    print(table(found))


if __name__ == "__main__":
    main()
