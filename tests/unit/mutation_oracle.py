"""An op graph with names, and its evaluation a node at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from r2d2c.mutate import Add
from r2d2c.mutate_checks import build
from r2d2c.opgraph import OP_KINDS, Topology

FORMULAS: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": max,
    "min": min,
    "sin": math.sin,
    "tanh": math.tanh,
    "relu": lambda a: max(a, 0.0),
    "gauss": lambda a, b: math.exp(-((a - b) ** 2)),
    "gated": lambda a, b: a / (1 + math.exp(-b)),
    "multiply_add": lambda a, b, c: a * b + c,
}
NODES = [
    Add("total", "add", ("x0", "x1")),
    Add("n0", "mul", ("total", 0.5)),
    Add("wave", "sin", ("n0",)),
    Add("n1", "gauss", ("x2", "n0")),
    Add("gate", "gated", ("wave", "n1")),
    Add("side", "multiply_add", ("x1", -0.75, "x2")),
]


def make(capacity: int = 10) -> tuple[Topology, torch.Tensor]:
    topology, numbers = build(3, capacity, NODES)
    return topology, torch.tensor(numbers)


def node_value(topology: Topology, numbers: torch.Tensor, name: str, x: list[float]) -> float:
    row = topology.rows[name]
    kind = OP_KINDS[topology.kind[row]]
    args = []
    for place in range(kind.arity):
        column = int(topology.args[row, place])
        if column < 0:
            args.append(float(numbers[row, place]))
        elif column < topology.inputs:
            args.append(x[column])
        else:
            other = topology.names[column - topology.inputs]
            assert other is not None
            args.append(node_value(topology, numbers, other, x))
    return FORMULAS[kind.name](*args)


def outputs(
    topology: Topology, numbers: torch.Tensor, readout: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """The read-out of an op graph, a node and a row at a time."""
    found = []
    for row in x.tolist():
        values = [*row, *[0.0] * topology.capacity]
        for name, at in topology.rows.items():
            values[topology.inputs + at] = node_value(topology, numbers, name, row)
        found.append(readout.double() @ torch.tensor(values, dtype=torch.float64))
    return torch.stack(found)


def weights(topology: Topology, seed: int = 0) -> torch.Tensor:
    """A read-out of two outputs, zero for free rows."""
    random = torch.Generator().manual_seed(seed)
    readout = torch.randn(2, topology.columns, generator=random, dtype=torch.float64)
    readout[:, topology.inputs :][:, torch.from_numpy(~topology.live)] = 0
    return readout


def some_x(count: int = 5, inputs: int = 3) -> torch.Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
