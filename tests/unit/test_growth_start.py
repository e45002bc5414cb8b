"""What an op has to give on the data: what is nearly always the same is neither drawn nor kept at first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import r2d2c
from r2d2c.mutations import Add
from r2d2c.opgraph import empty
from r2d2c.train.data import Column, Dataset, Table
from r2d2c.train.growth import Growth, op_graphs
from r2d2c.train.growth_scores import Seen, Watch, sound, useful

SPEC = """
r2d2c: 1
model: rare
dims: {D: 4, C: 2}
inputs: {x: "f32[B, D]"}
targets: {y: "i64[B]"}
op_graphs:
  layer:
    ops: [mul, add]
    capacity: 24
    start: 12
    nodes: {rare: "x[2] * x[3]"}
    normalise: batch
    grow: {every: epochs(1), add: 2, prune: 2, depth: 2}
tasks:
  classify:
    behavior: logits = linear(layer(x), C)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train: {epochs: 2, batch_size: 50}
"""


def rows(count: int = 500) -> np.ndarray:
    """Two columns that differ everywhere, and two that are zero but for one sample in 250."""
    random = np.random.default_rng(0)
    x = random.normal(size=(count, 4)).astype(np.float32)
    x[:, 2:] *= np.arange(count)[:, None] % 250 == 0
    return x


def test_what_is_useful() -> None:
    random = np.random.default_rng(1)
    few = np.zeros(1000)
    few[:5] = 1
    some = np.zeros(1000)
    some[:20] = 1
    spiky = 1e-4 * random.normal(size=1000)
    spiky[0] = 1
    heavy = random.normal(size=1000) * random.normal(size=1000) * random.normal(size=1000)
    broken = random.normal(size=1000)
    broken[3] = np.inf
    columns = np.stack([random.normal(size=1000), np.ones(1000), few, some, spiky, heavy, broken], 1)
    assert useful(columns).tolist() == [True, False, False, True, False, True, False]
    # Of a handful of samples none is too few.
    assert useful(np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])).tolist() == [True, False]


def test_a_new_op_is_tried_on_the_samples() -> None:
    x = rows()
    topology = empty(4, 2)
    accept = sound(Seen(np.concatenate([x, np.zeros((len(x), 2))], 1).astype(np.float64)), topology)
    assert accept(Add("n0", "mul", ("x0", "x1"))) and accept(Add("n0", "add", ("x0", "x2")))
    assert not accept(Add("n0", "mul", ("x2", "x3")))
    assert not accept(Add("n0", "mul", ("x2", "x0")))


def test_random_first_ops_without_use_are_drawn_again(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC, "utf-8")
    x = rows()
    data = Dataset("rare", Table({"x": Column(x), "y": Column((x[:, 0] > 0).astype(np.int64))}))
    fresh = r2d2c.compile(r2d2c.load(tmp_path / "spec.yaml"))
    batch = [{"x": torch.tensor(x), "y": torch.zeros(len(x), dtype=torch.int64)}]

    def dull(model: object) -> set[str]:
        graph = op_graphs(model)["layer"]
        seen = Watch(model, graph).look(batch, slopes=False)
        there = fresh_topology(model)
        wrong = there.live & ~useful(seen.columns[:, 4:])
        return {str(there.names[row]) for row in np.flatnonzero(wrong)}

    def fresh_topology(model: object) -> object:
        return Growth(model, None, _Folder(tmp_path)).topology("layer")

    assert len(dull(fresh)) > 1  # or the test shows nothing

    starts = []

    class First:
        def on_start(self, start: object) -> None:
            starts.append(fresh_topology(self.trainer.model))
            assert dull(self.trainer.model) == {"rare"}  # what the spec writes stays

        def on_ready(self, trainer: object) -> None:
            self.trainer = trainer

    run = r2d2c.train(tmp_path / "spec.yaml", data=data, out=tmp_path / "run", callbacks=[First()], threads=1)
    assert starts[0].count == 13
    # The log begins with what was drawn again, so that it tells the whole story.
    assert "rare" in starts[0].names
    from r2d2c.train.replay import replay

    assert all(not one.differences for one in replay(run.folder).values())


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
