"""A training that is stopped by a signal at a random batch and goes on equals one that was not, bit for bit."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.interrupt import Interrupted

SPECS = Path(__file__).parents[2] / "specs"
BATCHES = 6  # of an epoch
# One of each kind of state that a training has: of optimizers, statistics, rules, loops, streams and op graphs; and
# what of a training's settings may meet in one. What stands behind a colon tells cases of one spec apart.
CHOSEN: dict[str, dict[str, Any]] = {
    "baselines/conv": {"optimizer": "adamw(lr=1e-3)", "schedule": "warmup(epochs=1) |> cosine"},
    "credit/synthetic": {},
    "credit/target": {"optimizer": "sgd(lr=0.05, momentum=0.9)"},
    "growth/digits": {"settings": ["train.batch_size=32"]},
    "loops/parity_act": {},
    "memory/two_symbols": {},
    "memory/gru": {"chunk": 100, "batch_size": 8},
    "r2d2/digits": {},
    "baselines/mlp: few bits, workers, patience": {
        "data": "digits",
        "settings": [
            "train.precision=bf16",
            "train.workers=1",
            "train.augment.x=jitter(by=0.1) |> noise(std=0.05)",
            "train.split=0.2",
            "train.schedule=warmup(epochs=1) |> plateau(patience=0, threshold=0.9)",
            "train.early_stop=2",
        ],
    },
    "credit/hebbian": {},
    "credit/equilibrium": {},
    "growth/digits: accumulated": {
        "settings": [
            "train.batch_size=32",
            "train.accumulate=4",
            "train.split=0.1",
            "op_graphs.pixels.grow={every: steps(3), add: 6, prune: 4, split: 1, merge: 2, compensate: true}",
        ]
    },
    "growth/placed": {},
    "memory/lstm: adafactor in parts": {
        "chunk": 40,
        "batch_size": 8,
        "settings": ["train.optimizer=adafactor", "train.accumulate=2", "train.clip=1"],
    },
    "tasks/four_task_chain: muon": {
        "settings": [
            "train.optimizer=asgd",
            "train.optimizers.matrices=muon(lr=0.01)",
            "train.schedule=cosine_restarts(every=1)",
        ],
    },
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
    spec = SPECS / f"{name.partition(':')[0]}.yaml"
    given = {"epochs": 3, "limit_batches": BATCHES, "threads": 1, **CHOSEN[name]}
    r2d2c.train(spec, out=tmp_path / "whole", **given)
    stops = sorted(chance.sample(range(1, 3 * BATCHES), 2))
    with pytest.raises(Interrupted) as caught:
        stop = StopAt(stops[0], signal.SIGTERM)
        r2d2c.train(spec, out=tmp_path / "cut", callbacks=[stop], **given)
    assert (caught.value.run, signal.getsignal(signal.SIGTERM)) == (tmp_path / "cut", signal.SIG_DFL)
    with pytest.raises(Interrupted):
        stop = StopAt(stops[1] - stops[0], signal.SIGINT)
        r2d2c.train(resume=tmp_path / "cut", threads=1, callbacks=[stop])
    r2d2c.train(resume=tmp_path / "cut", threads=1)
    assert_same(tmp_path / "whole", tmp_path / "cut")


class Stream:
    """Batches from Python, the same ones in every epoch, without a length."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(5)
        for _ in range(BATCHES):
            yield {
                "x": torch.rand(16, 64, generator=generator),
                "y": torch.randint(0, 10, (16,), generator=generator),
            }


@pytest.mark.parametrize("stop", [2, 8, 12])
def test_batches_from_python_are_passed_over_to_where_it_was(tmp_path: Path, stop: int) -> None:
    spec, settings = SPECS / "growth" / "digits.yaml", ["train.accumulate=2"]
    given: dict[str, Any] = {"epochs": 3, "threads": 1, "settings": settings}
    r2d2c.train(spec, data=Stream(), out=tmp_path / "whole", **given)
    with pytest.raises(Interrupted):
        callbacks = [StopAt(stop, signal.SIGTERM)]
        r2d2c.train(spec, data=Stream(), out=tmp_path / "cut", callbacks=callbacks, **given)
    r2d2c.train(resume=tmp_path / "cut", data=Stream(), threads=1)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def assert_same(whole: Path, cut: Path) -> None:
    """Two runs have the same parameters, buffers, optimizers' state and records, but for the time they took."""
    one, two = (load_checkpoint(run / "checkpoints" / "last.safetensors") for run in (whole, cut))
    assert {**one.state, "seconds": 0} == {**two.state, "seconds": 0}
    assert one.model.keys() == two.model.keys()
    assert [n for n in one.model if bits(one.model[n]) != bits(two.model[n])] == []
    for key, packed in one.optimizers.items():
        others = two.optimizers[key].tensors
        assert packed.scalars == two.optimizers[key].scalars and packed.tensors.keys() == others.keys()
        assert [n for n, tensor in packed.tensors.items() if bits(tensor) != bits(others[n])] == []
    times = ("seconds", "rate")
    lines = [
        [{k: v for k, v in record.items() if k not in times} for record in r2d2c.open_run(run).metrics]
        for run in (whole, cut)
    ]
    assert lines[0] == lines[1]
