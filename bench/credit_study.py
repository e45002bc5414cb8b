"""A study on Fashion-MNIST: every credit rule on the same network, 784-256×4-10.

    python -m bench.credit_study [--epochs 10] [--seeds 3] [--only NAME …] [--validation]

Trains the specs of `specs/credit/` on the 60,000 images of Debian's package `dataset-fashion-mnist`, batches of 128, and
writes `bench/credit_study.json` and the tables in `specs/credit/README.md` and `README.md`. Rows that the JSON has already are not run
again, unless they are named with `--only`. With `--validation` the last tenth of the training images is held out and
measured instead of the test images: this is how rates and variants were chosen; nothing is written.
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

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "credit_study.json"
TABLE = ROOT / "specs" / "credit" / "README.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- credit study -->\n", "<!-- end -->"
MARK = "<!-- written by `python -m bench.credit_study` -->"
DATA = ("dims.D=784",)
ACCURACY = "accuracy(logits, y)"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table. within: how many points below backprop the issue allows; None for floors."""

    name: str
    spec: str
    within: float | None
    settings: tuple[str, ...] = ("dims.H=256",)
    credit: str | None = None

    @property
    def command(self) -> str:
        sets = " ".join(f"--set {setting}" for setting in (*DATA, *self.settings))
        credit = f" --credit '{self.credit}'" if self.credit else ""
        return f"r2d2c train {self.spec}{credit} --data fashion_mnist --epochs 10 {sets}"


LOCAL, WIDE = "specs/credit/local.yaml", ("dims.H=256",)
# Other ways to teach the representatives of local.yaml.
OWN = ("tasks.t1.teach=t1", "tasks.t2.teach=t2")
HEADS = ("tasks.t1.teach=says1", "tasks.t2.teach=says2")
FAST = ("train.rates.t1.r=0.1", "train.rates.t2.r=0.1")

ROWS: tuple[Row, ...] = (
    Row("linear classifier", "specs/baselines/linear.yaml", None, ()),
    Row("random hidden layers, read-out trained", "specs/credit/direct.yaml", None, credit="local"),
    Row("backprop", "specs/credit/backprop.yaml", 0.0),
    Row("local classifier heads", "specs/credit/local_heads.yaml", 1.0),
    Row("similarity matching heads", "specs/credit/similarity.yaml", None),
    Row("direct", "specs/credit/direct.yaml", 1.25),
    Row("feedback", "specs/credit/feedback.yaml", 2.0),
    Row("feedback, sign", "specs/credit/feedback.yaml", 2.0, credit="feedback(variant=sign)"),
    Row("feedback, uniform sign", "specs/credit/feedback.yaml", 2.0, credit="feedback(variant=uniform_sign)"),
    Row("synthetic, labels", "specs/credit/synthetic.yaml", 2.0),
    Row("synthetic, no labels", "specs/credit/synthetic.yaml", 6.0, credit="synthetic(bootstrap=false)"),
    Row("target", "specs/credit/target.yaml", 2.0),
    Row("alternate", "specs/credit/alternate.yaml", 1.5),
    Row("predictive", "specs/credit/predictive.yaml", None),
    Row("equilibrium", "specs/credit/equilibrium.yaml", None),
    Row("goodness, classifier", "specs/credit/goodness.yaml", 5.0),
    Row("goodness, per label", "specs/credit/goodness.yaml", 5.0, credit="goodness(infer=labels)"),
    Row("hebbian, read-out trained", "specs/credit/hebbian.yaml", 8.0),
    Row("local, learned representative, feeds the behavior", "specs/credit/local.yaml", 3.5),
    Row("local, learned by its own loss alone", LOCAL, None, (*WIDE, *OWN)),
    Row("local, learned by its own loss alone, 10 × the rate", LOCAL, None, (*WIDE, *OWN, *FAST)),
    Row("local, learned by own loss and heads, 10 × the rate", LOCAL, None, (*WIDE, *FAST)),
    Row("local, learned by heads alone, 10 × the rate", LOCAL, None, (*WIDE, *HEADS, *FAST)),
    Row("local, frozen random representative", "specs/credit/local_frozen.yaml", None),
    Row("local, feeds the representative", "specs/credit/local_feed.yaml", 5.0),
)


def train(row: Row, seed: int, epochs: int, threads: int, validation: bool) -> dict[str, Any]:
    """One training; the accuracy on the test images, or with ``validation`` on held-out training images."""
    more = ("train.split=0.1",) if validation else ()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = r2d2c.train(
            ROOT / row.spec,
            data="fashion_mnist",
            out=Path(folder) / "run",
            epochs=epochs,
            seed=seed,
            settings=(*DATA, *row.settings, *more),
            credit=row.credit,
            threads=threads,
        )
        measured = (
            [record for record in run.metrics if record["split"] == "validation"][-1]
            if validation
            else run.test
        )
        assert measured is not None
        return {
            "accuracy": measured["metrics"][ACCURACY],
            "seconds": sum(record.get("seconds") or 0.0 for record in run.metrics),
            "whole": time.perf_counter() - start,
            "parameters": sum(p.numel() for p in run.model.parameters()),
        }


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


def table(found: dict[str, Any]) -> str:
    """The Markdown table of all rows that have been run."""
    done = {
        row.name: [r["accuracy"] for r in found[row.name]["seeds"].values()]
        for row in ROWS
        if row.name in found
    }
    top = statistics.mean(done["backprop"]) if "backprop" in done else float("nan")
    lines = [
        MARK,
        "",
        "| rule | spec | test accuracy, % | below backprop, points | allowed | seconds an epoch |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in ROWS:
        if row.name not in done:
            continue
        values, entry = done[row.name], found[row.name]
        mean = statistics.mean(values)
        spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
        seconds = statistics.mean(r["seconds"] for r in entry["seeds"].values()) / entry["epochs"]
        allowed = "" if not row.within else f"{row.within:g}"
        spec = (
            f"[{Path(row.spec).name}]({'' if 'credit' in row.spec else '../baselines/'}{Path(row.spec).name})"
        )
        credit = f", `--credit '{row.credit}'`" if row.credit else ""
        below = f"{100 * (top - mean):.2f}"
        lines.append(
            f"| {row.name} | {spec}{credit} | {100 * mean:.2f}{spread} | {below} | {allowed} | {seconds:.1f} |"
        )
    return "\n".join([*lines, ""])


def short_table(found: dict[str, Any]) -> str:
    """The table of the project's README."""
    done = {
        row.name: [r["accuracy"] for r in found[row.name]["seeds"].values()]
        for row in ROWS
        if row.name in found
    }
    lines = ["| rule | test accuracy, % |", "| --- | ---: |"]
    shown = [row for row in ROWS if row.name in done and ", learned by" not in row.name]
    lines += [f"| {row.name} | {100 * statistics.mean(done[row.name]):.1f} |" for row in shown]
    return "\n".join([*lines, ""])


def write(found: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if TABLE.exists() and MARK in TABLE.read_text("utf-8"):
        before = TABLE.read_text("utf-8").partition(MARK)[0]
        TABLE.write_text(before + table(found), "utf-8")
    text = README.read_text("utf-8")
    if BEGIN in text:
        before, _, rest = text.partition(BEGIN)
        README.write_text(
            before + BEGIN + "\n" + short_table(found) + "\n" + END + rest.partition(END)[2], "utf-8"
        )


def main() -> None:
    """Run the rows that are missing, or those that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--validation", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = load()
    for row in ROWS:
        if (options.only and row.name not in options.only) or not (ROOT / row.spec).exists():
            continue
        before = found.get(row.name, {}).get("seeds", {})
        seeds: dict[str, Any] = {} if options.only or options.validation else dict(before)
        for seed in range(options.seeds):
            if str(seed) in seeds:
                continue
            result = train(row, seed, options.epochs, options.threads, options.validation)
            seeds[str(seed)] = result
            print(f"{row.name}, seed {seed}: {result['accuracy']:.4f} in {result['whole']:.0f} s", flush=True)
            if not options.validation:
                found[row.name] = {"epochs": options.epochs, "command": row.command, "seeds": seeds}
                write(found)
    print(table(found))


if __name__ == "__main__":
    main()
