"""A small spec on a small table, for the tests of sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r2d2c.train.sweep import Sweep
from tests.unit.runs import write_table

SPEC = """\
r2d2c: 1
model: sums
dims: {H: 4}
inputs: {x: "f32[B, 3]"}
targets: {y: "i64[B]"}
tasks:
  encode:
    behavior: h = tanh(linear(x, H))
    distance: mean(square(h)) * 0.01
  classify:
    behavior: logits = linear(encode.h, 2)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train:
  data: csv:data.csv?target=y
  batch_size: 16
  epochs: 2
  split: 0.3
  optimizer: sgd(lr=0.1)
  metrics: ["accuracy(logits, y)"]
"""
OVER = {"credit": ["backprop", "local"], "dims.H": [2, 5]}


def write_sums(folder: Path) -> Path:
    """The spec as ``sums.yaml``, and its 60 rows; gives the folder."""
    write_table(folder / "data.csv", "abc", 60, lambda v: "yes" if v[0] + 0.3 * v[2] > 0 else "no")
    (folder / "sums.yaml").write_text(SPEC)
    return folder


def told(found: Sweep) -> list[dict[str, Any]]:
    """The table without times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found.rows]
