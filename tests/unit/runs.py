"""What tests of trainings share: small tables, runs that are stopped, and runs that are compared bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from r2d2c.train.checkpoint import load_checkpoint

TIMES = {"seconds", "rate"}


def write_table(
    path: Path,
    columns: str,
    count: int,
    label: Callable[[Sequence[float]], str],
    draw: random.Random | None = None,
) -> None:
    """A csv file of normal numbers, rounded to three digits, with a column for each letter and the class ``y``."""
    draw = draw or random.Random(0)
    lines = [",".join([*columns, "y"])]
    for _ in range(count):
        values = [round(draw.gauss(0, 1), 3) for _ in columns]
        lines.append(",".join([*map(str, values), label(values)]))
    path.write_text("\n".join([*lines, ""]))


def three_classes(values: Sequence[float]) -> str:
    """A class that no linear function of the first three columns gives."""
    return f"c{int(values[0] * values[1] > 0) + int(values[2] > 0.5)}"


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: parameters, statistics, optimizers, random states, growth, and metrics but for times."""
    assert rows(a) == rows(b)
    one, two = (load_checkpoint(run / "checkpoints" / "last.safetensors") for run in (a, b))
    for mine, theirs in ((one.model, two.model), (one.rng.tensors, two.rng.tensors)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name
    assert one.optimizers.keys() == two.optimizers.keys() != set()
    for key, packed in one.optimizers.items():
        other = two.optimizers[key]
        assert packed.scalars == other.scalars and packed.tensors.keys() == other.tensors.keys()
        for name, tensor in packed.tensors.items():
            assert torch.equal(tensor, other.tensors[name]), name
    assert {**one.state, "seconds": 0} == {**two.state, "seconds": 0}
    logs = [run / "mutations.jsonl" for run in (a, b)]
    assert logs[0].exists() == logs[1].exists()
    assert not logs[0].exists() or logs[0].read_bytes() == logs[1].read_bytes()


class StopAt:
    """Ctrl-C after a batch of an epoch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = epoch, batch

    def on_step(self, step: Any) -> None:
        if (step.epoch, step.batch) == self.at:
            os.kill(os.getpid(), signal.SIGINT)
