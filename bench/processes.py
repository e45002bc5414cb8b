"""A chain of tasks in two processes, each with half of them, against one process: seconds of an epoch by the clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import Result, Setting

ROOT = Path(__file__).parents[1]


def chain(tasks: int, width: int) -> str:
    """A spec: tasks in a chain, each with a local loss on the labels."""
    lines = [
        "r2d2c: 1",
        "model: chain",
        f"dims: {{H: {width}, C: 10}}",
        "imports: [std/heads]",
        "inputs: {x: 'f32[B, H]'}",
        "targets: {y: 'i64[B]'}",
        "credit: local",
        "tasks:",
    ]
    before = "x"
    for number in range(1, tasks + 1):
        lines += [
            f"  t{number}:",
            f"    behavior: h = {before} |> linear(H) |> relu",
            "    distance: local_error(h, y, C)",
        ]
        before = f"t{number}.h"
    lines += [
        "outputs:",
        f"  h: t{tasks}.h",
        "train:",
        "  data: random",
        "  batch_size: 256",
        "  optimizer: sgd(lr=0.01)",
    ]
    return "\n".join(lines) + "\n"


def seconds(spec: Path, out: Path, epochs: int, several: bool) -> float:
    """Of the fastest epoch but the first."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if several else []
    kind = ["--parallel", "tasks"] if several else []
    command = [sys.executable, *torchrun, "-m", "r2d2c", "train", str(spec), "-q", "--threads", "1"]
    command += ["--epochs", str(epochs), "--data", "random?samples=8192", "-o", str(out), *kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    times = [row["seconds"] for row in rows if row["split"] == "train"]
    return float(min(times[1:] or times))


def tasks(setting: Setting, tasks: int = 8, width: int = 512, rounds: int = 2) -> Result:
    """Two processes on two cores against one on one. The fastest epoch of some runs in turn."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "chain.yaml"
        spec.write_text(chain(tasks, width), "utf-8")
        for number in range(1 if setting.quick else rounds):
            epochs = 2 if setting.quick else 4
            theirs.append(seconds(spec, Path(folder) / f"one{number}", epochs, several=False))
            ours.append(seconds(spec, Path(folder) / f"two{number}", epochs, several=True))
    return Result(min(ours), min(theirs))
