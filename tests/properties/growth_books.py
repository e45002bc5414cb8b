"""A training with an op graph that grows, and books of it by the names of its nodes; for `test_growth_training`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.model import Model
from r2d2c.mutate import Mutation, Prune, mutate
from r2d2c.mutate_checks import downstream
from r2d2c.mutations import Add, from_json
from r2d2c.opgraph import Topology
from r2d2c.train.calls import Call
from r2d2c.train.data import open_data
from r2d2c.train.growth import Growth, op_graphs
from r2d2c.train.growth_scores import Watch
from r2d2c.train.optimizers import OptimizerRecord
from r2d2c.train.run_folder import RunFolder
from r2d2c.train.stepper import Stepper
from r2d2c.train.weights import load_weights

COLUMNS, CAPACITY, DEPTH, BATCH = 49, 36, 7, 64
SPEC = f"""\
r2d2c: 1
model: growing
inputs: {{x: "f32[B, {COLUMNS}]"}}
targets: {{y: "i64[B]"}}
op_graphs:
  layer:
    ops: [add, sub, mul, max, gauss, sin, relu, gated, multiply_add]
    capacity: {CAPACITY}
    start: 10
    nodes:
      o0: x[10] * x[24]
      o1: o0 + p
    normalise: batch
    grow: {{every: epochs(1), add: 3, prune: 2, by: BY, depth: {DEPTH}}}
tasks:
  classify:
    behavior: |
      columns = layer(x)
      logits = linear(columns, 10)
    distance: cross_entropy(logits, y)
  restore:
    behavior: restored = linear(classify.columns, {COLUMNS})
    distance: mse(restored, x)
outputs: {{logits: classify.logits, restored: restore.restored}}
"""
SCORES = ("effect", "magnitude", "taylor", "taylor + 0.1 * effect / (1 + age)")
NAME = "layer"
NUMBERS, MEAN, VARIANCE = f"{NAME}.numbers", f"{NAME}.mean", f"{NAME}.variance"
READERS = ("classify.logits.linear.weight", "restore.restored.linear.weight")


@cache
def features() -> tuple[Tensor, Tensor]:
    """f32[1024, 49], of mean 0 and deviation 1, and i64[1024]."""
    try:
        table, size, pool, stride = open_data("fashion_mnist").train, 28, 4, 4
    except CompileError:
        table, size, pool, stride = open_data("digits").train, 8, 2, 1
    assert table is not None
    images = torch.as_tensor(np.asarray(table.columns["x"].array[:1024], np.float32)).view(-1, 1, size, size)
    x = torch.nn.functional.avg_pool2d(images, pool, stride).flatten(1)
    assert x.shape[1] == COLUMNS
    y = torch.as_tensor(np.asarray(table.columns["y"].array[:1024], np.int64))
    return (x - x.mean(0)) / (x.std(0) + 1e-3), y


@cache
def checked(by: str) -> Any:
    return r2d2c.loads(SPEC.replace("BY", json.dumps(by)))


@dataclass
class Node:
    """What belongs to one name: its entries in all that has some per node, its op, what it reads, and its birth."""

    rows: dict[str, Tensor]
    reads: tuple[object, ...]
    born: int


@cache
def checked_growing(by: str) -> Any:
    """How the op graph grows by a score, as the spec says it."""
    return op_graphs(Model(checked(by)))[NAME].growing


class Books:
    """What there is in a training, and how it is compared. nodes, kept: as they were after the last rule."""

    most = 0  # mutations in one example
    folder: Path
    record: OptimizerRecord
    run_folder: RunFolder
    model: Model
    twin: Model
    stepper: Stepper
    growth: Growth
    nodes: dict[str, Node]
    kept: dict[str, Tensor]
    before_tables: dict[str, Tensor]
    used: set[str]
    idle: list[str]  # new nodes whose columns were the same for all samples
    mutations: int
    adds: int
    learned: int

    def build(self) -> tuple[Model, Stepper, Growth]:
        model = Model(checked("effect"))
        visits = model._training_graph.visits
        stepper = Stepper(dict(model.named_parameters()), visits, self.record, Call("adam", {"lr": 0.01}))
        return model, stepper, Growth(model, stepper, self.run_folder)

    # -- what there is
    @property
    def topology(self) -> Topology:
        return self.growth.topology(NAME)

    def tensors(self) -> dict[str, Tensor]:
        """All that has an entry per node, with the nodes along the first axis."""
        parameters = dict(self.model.named_parameters())
        found: dict[str, Tensor] = {name: self.model.get_buffer(name) for name in (MEAN, VARIANCE)}
        for name in (NUMBERS, *READERS):
            state = self.stepper.state_of(name)
            assert state is not None
            moments = {f"{name} {key}": state[0][key] for key in ("exp_avg", "exp_avg_sq")}
            for key, tensor in {name: parameters[name].detach(), **moments}.items():
                found[key] = tensor if name == NUMBERS else tensor[:, COLUMNS:].t()
        return found

    def rest(self) -> dict[str, Tensor]:
        """What no mutation has to do with: biases, what reads inputs, and Adam's counters."""
        found = {name: p.detach() for name, p in self.model.named_parameters() if name.endswith("bias")}
        found |= {name: self.model.get_parameter(name).detach()[:, :COLUMNS] for name in READERS}
        for name in (NUMBERS, *READERS):
            state = self.stepper.state_of(name)
            assert state is not None
            found[f"{name} step"] = state[0]["step"]
            if name != NUMBERS:
                found[f"{name} exp_avg"] = state[0]["exp_avg"][:, :COLUMNS]
        return {name: tensor.clone() for name, tensor in found.items()}

    def reads(self, topology: Topology, row: int) -> tuple[object, ...]:
        """The op, and its arguments: names of nodes, numbers of inputs."""
        named = [
            topology.names[column - COLUMNS] if column >= COLUMNS else column
            for column in topology.args[row].tolist()
        ]
        return int(topology.kind[row]), *named

    def snapshot(self) -> dict[str, Node]:
        entries, topology = self.tensors(), self.topology
        return {
            name: Node(
                {key: tensor[row].clone() for key, tensor in entries.items()},
                self.reads(topology, row),
                int(topology.born[row]),
            )
            for name, row in topology.rows.items()
        }

    def batch(self, number: int, size: int = BATCH) -> dict[str, Tensor]:
        x, y = features()
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))[:size]
        return {"x": x[rows], "y": y[rows]}

    def outputs(self, model: Model | None = None) -> dict[str, Tensor]:
        with torch.no_grad():
            found: dict[str, Tensor] = (model or self.model)(x=self.batch(-1, 16)["x"])
        return {name: tensor.clone() for name, tensor in found.items()}

    def pick(self, number: int) -> str:
        rows = self.topology.rows
        return sorted(rows)[number % len(rows)]

    @property
    def next_at(self) -> int:
        return self.growth.counts[NAME].rounds + 1

    # -- how
    def mutated(self, *steps: Mutation) -> dict[str, Node]:
        """Make mutations as a search does, and write them down; the nodes as they were."""
        at, before = self.next_at, self.snapshot()
        done = mutate(self.topology, steps, at=at)
        self.growth.apply(NAME, done)
        self.growth.log.append(NAME, at, steps, done.topology, epoch=0, step=self.learned)
        self.growth.lines += 1
        self.growth.counts[NAME].rounds = at
        self.note(len(steps))
        return before

    def note(self, count: int) -> None:
        self.mutations += count
        Books.most = max(Books.most, self.mutations)
        kept = self.rest()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in self.kept.items())
        self.nodes, self.kept = self.snapshot(), kept

    def last_steps(self) -> list[Mutation]:
        return [from_json(step) for step in json.loads(self.growth.log.lines()[-1])["do"]]

    def gone(self, topology: Topology, steps: list[Prune]) -> set[str]:
        """The names that go: those that are pruned, and with `dependents` what reads them."""
        asked = [topology.rows[step.name] for step in steps]
        if not any(step.dependents for step in steps):
            return {step.name for step in steps}
        return {str(topology.names[row]) for row in downstream(topology.args, COLUMNS, asked)}

    def without(self, topology: Topology, gone: set[str]) -> dict[str, Tensor]:
        """The outputs of the model as it was, with the columns of these nodes zero in both read-outs."""
        load_weights(self.twin, self.model.state_dict())
        for part in ("kind", "args", "number", "born", "next"):
            self.twin.get_buffer(f"{NAME}.{part}").copy_(self.before_tables[part])
        with torch.no_grad():
            for name in (NUMBERS, MEAN, VARIANCE):
                where = self.twin.state_dict()[name]
                for node, old in self.nodes.items():
                    where[topology.rows[node]] = old.rows[name]
            for name in READERS:
                weight = self.twin.get_parameter(name)
                for node, old in self.nodes.items():
                    kept = torch.zeros_like(old.rows[name]) if node in gone else old.rows[name]
                    weight[:, COLUMNS + topology.rows[node]] = kept
        return self.outputs(self.twin)

    def compare(
        self, before: dict[str, Node], new: set[str], but: str = "", moved: dict[str, str] | None = None
    ) -> None:
        """Survivors have, under their names, the bits that they had, and read what they read.

        but: a node whose rows may be others. moved: what is read in place of what, where readers were moved.
        """
        after = self.snapshot()
        assert after.keys() - before.keys() == new and not new & self.used
        self.used |= new
        for name in before.keys() & after.keys():
            old, now = before[name], after[name]
            found = tuple(moved.get(str(read), read) for read in old.reads) if moved else old.reads
            assert now.reads in (old.reads, found) and now.born == old.born, name
            for key, value in old.rows.items() if name != but else ():
                assert torch.equal(now.rows[key], value), (name, key)

    def check_new(self, step: Add) -> None:
        """A new node: its numbers as said, everything else as at the beginning."""
        own = [0.0 if isinstance(arg, str) else arg for arg in step.args]
        for key, value in self.snapshot()[step.name].rows.items():
            fresh = torch.full_like(value, float(key == VARIANCE))
            wanted = torch.tensor([*own, *[0.0] * (3 - len(own))]) if key == NUMBERS else fresh
            assert torch.equal(value, wanted), (step.name, key)

    def check_gradients(self, names: list[str]) -> None:
        """Where a new node's column varies, it learns at the next step: its column of the read-outs has a gradient."""
        load_weights(self.twin, self.model.state_dict())
        given = self.batch(self.learned + 1)
        columns = Watch(self.twin, self.growth.graphs[NAME]).look([given], slopes=True).columns
        self.twin.zero_grad()
        load_weights(self.twin, self.model.state_dict())
        self.twin.learn(**given)
        rows = self.topology.rows
        for name in names:
            column = COLUMNS + rows[name]
            if float(columns[:, column].std()) < 1e-3:
                self.idle.append(name)
                continue
            for reader in READERS:
                grad = self.twin.get_parameter(reader).grad
                assert grad is not None and bool((grad[:, column] != 0).any()), (name, reader)
        self.adds += len(names)
