"""Specs with op graphs for tests, and what their columns are: an op at a time, in hand-written PyTorch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

import r2d2c
from r2d2c.graph import walk
from r2d2c.model import Model
from r2d2c.opgraph import OP_KINDS
from r2d2c.ops.op_graph import Start

HEAD = """
r2d2c: 1
inputs:
  x: f32[B, 4]
targets:
  y: f32[B, 2]
op_graphs:
"""
WRITTEN = """
  layer:
    capacity: 6
    nodes:
      last: gauss(product, x[2])
      product: x[0] * x[1]
      shifted: product + p(0.5)
      gate: gated(x[3], shifted)
"""
RANDOM = """
  {name}:
    ops: [add, mul, gauss, sin, gated, max, multiply_add]
    capacity: 24
    start: 16
    normalise: {normalise}
"""
TASK = """
tasks:
  fit:
    behavior: |
      columns = layer(x)
      out = linear(columns, 2)
    distance: mse(out, y)
outputs:
  out: fit.out
"""
SHOWN = TASK + "  columns: fit.columns\n"
TWO = """
tasks:
  below:
    behavior: |
      columns = layer(x)
      h = tanh(linear(columns, 5))
    distance: mse(linear(h, 2), y)
    keep: own
  above:
    behavior: |
      out = linear(second(below.h), 2)
    distance: mse(out, y)
links:
  below.h -> above: {credit: CREDIT}
outputs:
  out: above.out
"""


def random(name: str = "layer", normalise: str = "none") -> str:
    return RANDOM.format(name=name, normalise=normalise)


def checked(text: str, **options: Any) -> Any:
    return r2d2c.loads(HEAD.lstrip() + text.lstrip("\n"), name="spec.yaml", **options)


def model_of(text: str, **options: Any) -> Any:
    return r2d2c.compile(checked(text, **options))


def batch(size: int = 7, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(size, width, generator=generator, dtype=dtype)
        for name, width in (("x", 4), ("y", 2))
    }


TORCH: dict[str, Any] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum, "sin": torch.sin,
    "gauss": lambda a, b: torch.exp(-((a - b) ** 2)), "gated": lambda a, b: a * torch.sigmoid(b), "relu": torch.relu,
    "multiply_add": lambda a, b, c: a * b + c, "identity": lambda a: a,
}  # fmt: skip


def by_hand(model: Model, name: str, x: torch.Tensor, training: bool = False) -> torch.Tensor:
    """The columns of an op graph, an op at a time, from the buffers; the arguments of an op may stand in any row."""
    part = getattr(model, name)
    kinds, args = part.kind.tolist(), part.args.tolist()
    columns: dict[int, torch.Tensor] = {place: x[:, place] for place in range(x.shape[1])}
    waiting = [row for row, kind in enumerate(kinds) if kind >= 0]
    while waiting:
        row = waiting.pop(0)
        kind = OP_KINDS[kinds[row]]
        reads = args[row][: kind.arity]
        if any(place >= 0 and place not in columns for place in reads):
            waiting.append(row)
            continue
        given = [part.numbers[row, k].expand(len(x)) if p < 0 else columns[p] for k, p in enumerate(reads)]
        value = TORCH[kind.name](*given)
        if hasattr(part, "mean"):
            mean, variance = (s[row : row + 1].clone() for s in (part.mean, part.variance))
            value = F.batch_norm(value[:, None], mean, variance, training=training)[:, 0]
        columns[x.shape[1] + row] = value
    zero = torch.zeros_like(x[:, 0])
    return torch.stack([columns.get(place, zero) for place in range(x.shape[1] + len(kinds))], 1)


def start_of(model: Model) -> Start:
    found: Start = next(node.attrs["start"] for _, node in walk(model.graph) if node.op == "op_graph")
    return found
