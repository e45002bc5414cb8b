"""`compare` of several credit rules, against the trainings one after the other."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import r2d2c
from bench.measure import Result, Setting, interleaved
from bench.specs import CLASSES, head

RULES = ("backprop", "local", "feedback", "direct", "synthetic", "target")


def chain(width: int) -> str:
    """Four layers with tanh and a read-out, a task each: specs/credit/ at another width."""
    tasks = [
        f"  t{k}:\n    behavior: h = {f't{k - 1}.h' if k else 'x'} |> linear(D) |> tanh\n" for k in range(4)
    ]
    top = f"  out:\n    behavior: logits = linear(t3.h, {CLASSES})\n    distance: cross_entropy(logits, y)\n"
    train = "train:\n  optimizer: adam(lr=1e-4)\n  metrics:\n    - accuracy(logits, y)\n"
    return (
        head("chain", {"D": width}) + f"tasks:\n{''.join(tasks)}{top}outputs:\n  logits: out.logits\n{train}"
    )


def six_rules(setting: Setting, width: int, batches: int, epochs: int) -> Result:
    """`r2d2c.compare` (angles, table and figure included) against `r2d2c.train` of every rule."""
    count = 4 if setting.quick else batches
    checked = r2d2c.loads(chain(width))
    data = f"random?samples={128 * count}"
    common = {"data": data, "epochs": epochs, "device": setting.device, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as place:
        numbers = iter(range(10**6))

        def ours() -> None:
            r2d2c.compare(checked, RULES, seeds=1, out=Path(place, f"ours-{next(numbers)}"), **common)

        def theirs() -> None:
            folder = Path(place, f"theirs-{next(numbers)}")
            for rule in RULES:
                r2d2c.train(checked, credit=rule, out=folder / rule, **common)

        return interleaved(ours, theirs, setting, least=3)
