"""Op graphs: a level at a time against a node at a time, against the same ops at depth 1, planning, and memory.

Random nodes as mutations make them: of eight kinds (or of all that there are), and each argument any earlier column or,
once in ten, a number of the node's own. A pass is forward and backward from a gradient of all columns, in the memory layout that a linear
read-out's backward gives it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import r2d2c
from bench.measure import Result, Setting, Work, clock, interleaved
from bench.memory import status
from r2d2c.lower.opgraph import Normalise, columns, load
from r2d2c.opgraph import ARGUMENTS, ARITY, KINDS, NUMBER, OP_KINDS, Topology, empty, plan

BATCH, INPUTS = 256, 16
EIGHT = ("add", "mul", "sub", "max", "gauss", "sin", "relu", "gated")
HAND: dict[str, Callable[..., Tensor]] = {
    "identity": lambda a: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1 + b.abs()),
    "max": torch.maximum,
    "min": torch.minimum,
    "gauss": lambda a, b: torch.exp(-(a - b).square()),
    "gated": lambda a, b: a * torch.sigmoid(b),
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "abs": torch.abs,
    "square": torch.square,
    "multiply_add": lambda a, b, c: a * b + c,
}


def grown(nodes: int, flat: bool = False, kinds: Sequence[str] = EIGHT) -> Topology:
    """Random nodes; ``flat``: the same ones, but all on the inputs."""
    draw = np.random.default_rng(0)
    kind = draw.choice([KINDS[name] for name in kinds], nodes).astype(np.int16)
    drawn, own = draw.random((2, nodes, ARGUMENTS))
    earlier = INPUTS if flat else INPUTS + np.arange(nodes)[:, None]
    args = np.where(own < 0.1, NUMBER, np.floor(drawn * earlier)).astype(np.int32)
    args[np.arange(ARGUMENTS) >= ARITY[kind][:, None]] = NUMBER
    names = tuple(f"n{number}" for number in range(nodes))
    return replace(empty(INPUTS, nodes), kind=kind, args=args, names=names, next=nodes)


def level_pass(table: Topology, device: str, normalise: Normalise = "none", batch: int = BATCH) -> Work:
    """Forward and backward of the engine."""
    program, nodes = load(plan(table), device), table.capacity
    x, numbers, mean, var = _values(nodes, device, batch)
    grad = torch.ones(INPUTS + nodes, batch, device=device).t()

    def work() -> None:
        columns(program, x, numbers, mean, var, normalise)[0].backward(grad)
        x.grad = numbers.grad = None

    return work


def node_pass(table: Topology, device: str, batch: int = BATCH) -> Work:
    """The same, a node at a time, each appended to a matrix of columns."""
    x, numbers, *_ = _values(table.capacity, device, batch)
    grad = torch.ones(batch, table.columns, device=device)
    ops = [
        (HAND[OP_KINDS[kind].name], reads[: ARITY[kind]])
        for kind, reads in zip(table.kind.tolist(), table.args.tolist(), strict=True)
    ]

    def work() -> None:
        found = x
        for row, (op, reads) in enumerate(ops):
            taken = (
                numbers[row, place].expand(batch) if column == NUMBER else found[:, column]
                for place, column in enumerate(reads)
            )
            found = torch.cat([found, op(*taken).unsqueeze(1)], 1)
        found.backward(grad)
        x.grad = numbers.grad = None

    return work


def _values(nodes: int, device: str, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, the numbers, and running statistics. What is drawn is small: products of products stay finite."""
    generator = torch.Generator().manual_seed(0)
    x, numbers = (
        torch.randn(shape, generator=generator) * 0.5 for shape in ((batch, INPUTS), (nodes, ARGUMENTS))
    )
    mean, var = torch.zeros(nodes, device=device), torch.ones(nodes, device=device)
    return x.to(device).requires_grad_(), numbers.to(device).requires_grad_(), mean, var


def naive(setting: Setting, nodes: int, batch: int = BATCH, kinds: Sequence[str] = EIGHT) -> Result:
    """Against a node at a time, which keeps nodes² / 2 × batch numbers: 13 GB at 5,000 and 256."""
    table = grown(nodes // 10 if setting.quick else nodes, kinds=kinds)
    ours, theirs = level_pass(table, setting.device, batch=batch), node_pass(table, setting.device, batch)
    return interleaved(ours, theirs, setting, least=5 if nodes <= 1000 else 1)


def depth(setting: Setting, nodes: int, normalise: Normalise = "none") -> Result:
    """Against the same ops at depth 1."""
    nodes = nodes // 10 if setting.quick else nodes
    ours, theirs = (level_pass(grown(nodes, flat), setting.device, normalise) for flat in (False, True))
    return interleaved(ours, theirs, setting)


def planning(setting: Setting, nodes: int, seconds: float) -> Result:
    """Planning and what the device needs of it, against a limit."""
    table = grown(nodes)
    times = [clock(lambda: load(plan(table), setting.device), 1, setting) for _ in range(30)]
    return Result(float(np.median(times)), seconds)


def large(setting: Setting, nodes: int, seconds: float) -> Result:
    """Planning and a first pass, once, against a limit."""
    table = grown(nodes // 10 if setting.quick else nodes)
    return Result(clock(lambda: level_pass(table, setting.device)(), 1, setting), seconds)


GROWS = """
r2d2c: 1
model: large
inputs: {x: "f32[B, 64]"}
targets: {y: "i64[B]"}
op_graphs:
  layer: {ops: [add, sub, mul, max, sin], capacity: NODES, start: NODES}
tasks:
  out:
    behavior: z = layer(x) |> linear(10)
    distance: cross_entropy(z, y)
outputs: {z: out.z}
"""


def compiled(setting: Setting, nodes: int, seconds: float) -> Result:
    """A spec of random ops: checked, lowered, planned, and its first learning pass, against a limit."""
    text = GROWS.replace("NODES", str(nodes // 10 if setting.quick else nodes))
    x = torch.rand(32, 64, device=setting.device)
    y = torch.arange(32, device=setting.device) % 10
    return Result(
        clock(lambda: r2d2c.compile(r2d2c.loads(text)).to(setting.device).learn(x=x, y=y), 1, setting),
        seconds,
    )


def memory(setting: Setting, nodes: int, limit: float, normalise: Normalise = "none") -> Result:
    """What passes add to the resident memory at their peak, parameters included, against a limit."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {f"MALLOC_{name}_THRESHOLD_": "65536" for name in ("MMAP", "TRIM")} | {
        "OMP_NUM_THREADS": "1"
    }
    command = [sys.executable, "-m", "bench.opgraph", str(nodes), normalise, setting.device]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return Result(float(json.loads(done.stdout)), limit, "B")


def peak(nodes: int, normalise: Normalise, device: str) -> int:
    """The peak of this process over what it had before the pass was made."""
    level_pass(grown(50), device, normalise)()
    table = grown(nodes)
    if device != "cpu":
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS:")
    work = level_pass(table, device, normalise)
    for _ in range(3):
        work()
    return (torch.accelerator.max_memory_allocated() if device != "cpu" else status("VmHWM:")) - before


if __name__ == "__main__":
    print(json.dumps(peak(int(sys.argv[1]), sys.argv[2], sys.argv[3])))  # type: ignore[arg-type]
