"""A study on Fashion-MNIST: an MLP and a conv net end to end, and the four-task chain, whose tasks learn locally.

    python -m bench.fashion [--epochs 5] [--seeds 3]

Trains the ready specs on all 60,000 images of Debian's package `dataset-fashion-mnist` and writes
`bench/fashion.md`.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

import r2d2c

ROOT = Path(__file__).parents[1]
WIDE = ("dims.D=784", "dims.H=256")
SPECS = {
    "MLP, end to end": ("specs/baselines/mlp.yaml", "backprop", WIDE),
    "conv net, end to end": ("specs/baselines/conv.yaml", "backprop", ("dims.S=28", "dims.W=8")),
    "four-task chain": ("specs/tasks/four_task_chain.yaml", "local", WIDE),
}
ACCURACY = "accuracy(logits, y)"


def main() -> None:
    """Train every spec with every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "bench" / "fashion.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    command = f"python -m bench.fashion --epochs {options.epochs} --seeds {options.seeds}"
    machine = f"{options.threads} thread, torch {torch.__version__}, {platform.machine()}"
    lines = [
        "# Fashion-MNIST",
        "",
        f"60,000 training and 10,000 test images, {options.epochs} epochs, the batches and the optimizer of the spec. There",
        "is no validation split, so nothing was chosen by the test images, which were measured once, after the last epoch.",
        "",
        f"`{command}`, {machine}. Times are of a machine that did other work too.",
        "",
        "| spec | with | credit | parameters | seed | test accuracy | seconds of training |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for title, (spec, credit, settings) in SPECS.items():
        found: list[float] = []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                run = r2d2c.train(
                    ROOT / spec,
                    data="fashion_mnist",
                    out=Path(folder) / "run",
                    epochs=options.epochs,
                    seed=seed,
                    settings=settings,
                    threads=options.threads,
                )
                assert run.test is not None
                accuracy = run.test["metrics"][ACCURACY]
                seconds = sum(record.get("seconds", 0.0) for record in run.metrics)
                size = sum(p.numel() for p in run.model.parameters())
                whole = time.perf_counter() - start
            found.append(accuracy)
            print(f"{title}, seed {seed}: {accuracy:.4f} in {whole:.0f} s", flush=True)
            link = f"[{title}](../{spec})"
            shown = ", ".join(f"`{text}`" for text in settings)
            lines.append(
                f"| {link} | {shown} | {credit} | {size:,} | {seed} | {accuracy:.4f} | {seconds:.0f} |"
            )
        spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
        lines.append(f"| **{title}** | | | | mean | **{statistics.mean(found):.4f}**{spread} | |")
    options.out.write_text("\n".join([*lines, ""]), "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
