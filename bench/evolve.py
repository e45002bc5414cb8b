"""Op graphs that grow: what a mutation costs, and a search in two processes against one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

import r2d2c
from bench.measure import Result, Setting, Work, clock
from bench.opgraph import BATCH, EIGHT, INPUTS, grown
from r2d2c.lower.opgraph_call import program_of
from r2d2c.mutate import Add, Mutation, Prune, mutate
from r2d2c.opgraph import KINDS, OP_KINDS, Topology, empty
from r2d2c.ops.op_graph_rows import rows_of
from r2d2c.train.calls import Call
from r2d2c.train.chunks import learn_batch
from r2d2c.train.growth import Growth
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.stepper import Stepper

CLASSES = 10
SPARE = 8  # rows that no op has
GROWING = f"""
r2d2c: 1
model: growing
inputs: {{x: "f32[B, {INPUTS}]"}}
targets: {{y: "i64[B]"}}
op_graphs:
  layer:
    ops: [{", ".join(EIGHT)}]
    capacity: CAPACITY
    start: 1
    normalise: batch
tasks:
  classify:
    behavior: logits = linear(layer(x), {CLASSES})
    distance: cross_entropy(logits, y)
outputs: {{logits: classify.logits}}
"""
# Candidates of some seconds, so that what starts a process is a small part.
SEARCHED = f"""\
r2d2c: 1
model: searched
inputs: {{x: "f32[B, 8]"}}
targets: {{y: "f32[B, 1]"}}
op_graphs:
  layer:
    ops: [{", ".join(EIGHT)}]
    capacity: 64
    start: 32
    normalise: batch
tasks:
  fit:
    behavior: out = linear(layer(x), 1)
    distance: mse(out, y)
outputs: {{out: fit.out}}
train:
  data: "formula:x0*x1 + sin(x2)*x3?samples=SAMPLES&inputs=8"
  batch_size: 64
  split: 0.1
  optimizer: adam(lr=0.005)
  monitor: loss
"""


class Training:
    """A model with an op graph of random ops, a linear that reads it, and Adam."""

    def __init__(self, nodes: int, setting: Setting) -> None:
        text = GROWING.lstrip().replace("CAPACITY", str(nodes + SPARE))
        self.device = torch.device(setting.device)
        self.model = r2d2c.compile(r2d2c.loads(text)).to(self.device)
        record = next(record for record in OPTIMIZERS if record.name == "adam")
        parameters = dict(self.model.named_parameters())
        self.stepper = Stepper(parameters, self.model._training_graph.visits, record, Call("adam"))
        self.growth = Growth(self.model, self.stepper, cast(Any, SimpleNamespace(path=Path())))
        table = grown(nodes)
        start = empty(INPUTS, nodes + SPARE)
        kind, args = start.kind.copy(), start.args.copy()
        kind[:nodes], args[:nodes] = table.kind, table.args
        names = (*table.names, *[None] * SPARE)
        padded = replace(start, kind=kind, args=args, names=names, next=nodes)
        for name, rows in rows_of(padded, ()).items():
            self.model.get_buffer(f"layer.{name}").copy_(torch.from_numpy(rows))
        made = torch.Generator().manual_seed(0)
        with torch.no_grad():
            numbers = self.model.get_parameter("layer.numbers")
            numbers[:nodes] = torch.randn(nodes, 3, generator=made).to(self.device) * 0.5
        x = torch.randn(BATCH, INPUTS, generator=made) * 0.5
        y = torch.randint(0, CLASSES, (BATCH,), generator=made)
        self.batch = {"x": x.to(self.device), "y": y.to(self.device)}
        self.stepper.zero_grad()
        self.step()  # from here on the optimizer has a state
        self.random, self.at = np.random.default_rng(0), 0
        self.new = ""

    def step(self) -> None:
        """A training step: forward, backward, Adam."""
        learn_batch(self.model, self.stepper, self.batch, {}, None)

    def mutation(self) -> None:
        """An op more, or one less, in turn: in the model's buffers, its parameters and Adam's state, and planned anew."""
        topology = self.growth.topology("layer")
        self.at += 1
        self.growth.apply("layer", mutate(topology, [self._next(topology)], at=self.at))
        kind, args = (self.model.get_buffer(f"layer.{name}") for name in ("kind", "args"))
        program_of(kind, args, INPUTS, self.device)

    def _next(self, topology: Topology) -> Mutation:
        if self.new:
            gone, self.new = self.new, ""
            return Prune(gone)
        self.new = f"n{topology.next}"
        kind = OP_KINDS[KINDS[str(self.random.choice(EIGHT))]]
        rows = self.random.choice(np.flatnonzero(topology.live), kind.arity, replace=False)
        return Add(self.new, kind.name, tuple(str(topology.names[row]) for row in rows))


def mutation(setting: Setting, nodes: int, seconds: float) -> Result:
    """A mutation of a model in training, with the new plan, against a limit."""
    training = Training(nodes // 10 if setting.quick else nodes, setting)
    return Result(_median(training.mutation, setting, 4 if setting.quick else 60), seconds)


def recompilation(setting: Setting, nodes: int) -> Result:
    """The same against a training step of the model."""
    training = Training(nodes // 10 if setting.quick else nodes, setting)
    repeat = 4 if setting.quick else 60
    for _ in range(0 if setting.quick else 5):
        training.step()
        training.mutation()
    return Result(_median(training.mutation, setting, repeat), _median(training.step, setting, repeat))


def _median(work: Work, setting: Setting, repeat: int) -> float:
    return float(np.median([clock(work, 1, setting) for _ in range(repeat)]))


def processes(setting: Setting, workers: int, samples: int, epochs: int) -> Result:
    """A search by so many processes against one, by the clock, with what Python needs to start. Both find the same."""
    samples, size = (200, (2, 1)) if setting.quick else (samples, (16, 5))
    with tempfile.TemporaryDirectory() as made:
        spec = Path(made) / "spec.yaml"
        spec.write_text(SEARCHED.replace("SAMPLES", str(samples)), "utf-8")
        (ours, found), (theirs, wanted) = (_search(spec, count, *size, epochs) for count in (workers, 1))
    if found != wanted:
        raise AssertionError("the number of workers changes what is found")
    return Result(ours, theirs)


def _search(spec: Path, workers: int, population: int, generations: int, epochs: int) -> tuple[float, Any]:
    """Seconds, and what was found."""
    sizes = {"population": population, "generations": generations, "epochs": epochs, "workers": workers}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    out = spec.parent / f"by-{workers}"
    command = [sys.executable, "-m", "r2d2c", "evolve", str(spec), *options, "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run([*command, "--format", "json"], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    return seconds, {**json.loads(done.stdout), "folder": ""}
