"""A training that is stopped by a signal at a random batch and goes on equals one that was not, bit for bit."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.interrupt import Interrupted

SPECS = Path(__file__).parents[2] / "specs"
BATCHES = 6  # of an epoch
# One of each kind of state that a training has: of optimizers, statistics, rules, loops, streams and op graphs.
CHOSEN: dict[str, dict[str, Any]] = {
    "baselines/conv": {"optimizer": "adamw(lr=1e-3)", "schedule": "warmup(epochs=1) |> cosine"},
    "credit/synthetic": {},
    "credit/target": {"optimizer": "sgd(lr=0.05, momentum=0.9)"},
    "growth/digits": {"settings": ["train.batch_size=32"]},
    "loops/parity_act": {},
    "memory/two_symbols": {},
    "memory/gru": {"chunk": 100, "batch_size": 8},
    "r2d2/digits": {},
}


class StopAt:
    """Sends this process a signal after so many batches."""

    def __init__(self, batch: int, number: signal.Signals) -> None:
        self.left, self.number = batch, number

    def on_step(self, step: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("name", CHOSEN)
def test_a_stop_at_a_random_batch_changes_nothing(name: str, tmp_path: Path) -> None:
    chance = random.Random(f"stop {name}")
    given = {"epochs": 3, "limit_batches": BATCHES, "threads": 1, **CHOSEN[name]}
    r2d2c.train(SPECS / f"{name}.yaml", out=tmp_path / "whole", **given)
    stops = sorted(chance.sample(range(1, 3 * BATCHES), 2))
    with pytest.raises(Interrupted) as caught:
        stop = StopAt(stops[0], signal.SIGTERM)
        r2d2c.train(SPECS / f"{name}.yaml", out=tmp_path / "cut", callbacks=[stop], **given)
    assert (caught.value.run, signal.getsignal(signal.SIGTERM)) == (tmp_path / "cut", signal.SIG_DFL)
    with pytest.raises(Interrupted):
        stop = StopAt(stops[1] - stops[0], signal.SIGINT)
        r2d2c.train(resume=tmp_path / "cut", threads=1, callbacks=[stop])
    r2d2c.train(resume=tmp_path / "cut", threads=1)
    one, two = (
        load_checkpoint(tmp_path / run / "checkpoints" / "last.safetensors") for run in ("whole", "cut")
    )
    assert {**one.state, "seconds": 0} == {**two.state, "seconds": 0}
    assert one.model.keys() == two.model.keys()
    assert [n for n in one.model if bits(one.model[n]) != bits(two.model[n])] == []
    for key, packed in one.optimizers.items():
        others = two.optimizers[key].tensors
        assert [n for n, tensor in packed.tensors.items() if bits(tensor) != bits(others[n])] == []
    times = ("seconds", "rate")
    lines = [
        [
            {k: v for k, v in record.items() if k not in times}
            for record in r2d2c.open_run(tmp_path / run).metrics
        ]
        for run in ("whole", "cut")
    ]
    assert lines[0] == lines[1]
