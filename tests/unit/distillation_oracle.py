"""A loop with widths, and losses over its steps and widths by hand: `check` holds a model's losses and gradients to them.

Every hand-written loss is a function of `Run`s, which take a loop at any width by slices of the coordinates: what lies
behind the width is not there at all, where r2d2c has zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from textwrap import indent
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from r2d2c.model import Model
from tests.unit.loop_oracle import Params, near

SPEC = """\
r2d2c: 1
dims: {{D: 5, S: 8, C: 3, depth: 1..6 = 4}}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
loops:
  refine(data):
    repeat: depth
    carry:
      c: f32[B, S] = learned
      z: f32[B, S] = zeros
    widths:
      c: [1/4, 1/2, 1]
    body: |
      v = linear(data, S)
      c = tanh(v + linear(c, S))
      z = z + linear(c, S)
      logits = linear(z, C)
tasks:
  think:
    behavior: |
      r = refine(x)
      out = r.logits
    distance: cross_entropy(out, y)
losses:
{losses}
outputs:
  logits: think.out
"""
WIDTHS = "    widths:\n      c: [1/4, 1/2, 1]\n"
LOSSES = """
early: {value: "mse(think.r.logits.steps, stop(think.r.logits))", steps: 2..depth, weight: 0.3}
narrow: {value: "cross_entropy(think.r.logits.widths, y)", weight: 0.5}
both: {value: "kl(think.r.logits.steps.widths, stop(think.out))", steps: 1..depth, weight: 0.1 * step / depth}
"""
# A weighted loss as it is reported, and the weight with which it counts.
Wanted = dict[str, tuple[Any, float]]


def spec(losses: str, text: str = SPEC) -> str:
    return text.format(losses=indent(losses.strip("\n"), "  "))


def batch(size: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((size, 5), generator=generator, dtype=torch.float64)
    return {"x": x, "y": torch.randint(0, 3, (size,), generator=generator)}


class Run:
    """A run of `refine` by hand: its values at every step."""

    def __init__(self, p: Params, x: Tensor, depth: int, width: float = 1.0, name: str = "refine") -> None:
        n = round(8 * width)
        c, z = p[f"{name}.c.initial"][:n].expand(len(x), n), x.new_zeros(len(x), 8)
        weight, bias = p[f"{name}.c.linear.weight"], p[f"{name}.c.linear.bias"]
        self.c, self.z, self.logits = list[Tensor](), list[Tensor](), list[Tensor]()
        for _ in range(depth):
            v = p.linear(f"{name}.v.linear", x)[:, :n]
            c = torch.tanh(v + F.linear(c, weight[:n, :n], bias[:n]))
            z = z + F.linear(c, p[f"{name}.z.linear.weight"][:, :n], p[f"{name}.z.linear.bias"])
            self.c.append(c)
            self.z.append(z)
            self.logits.append(p.linear(f"{name}.logits.linear", z))


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    p = F.softmax(teacher, -1)
    return (p * (F.log_softmax(teacher, -1) - F.log_softmax(student, -1))).sum(-1).mean()


def check(
    model: Model, by_hand: Callable[[Params, Any, int], Wanted], depth: int = 4, **given: Any
) -> Params:
    """Assert that all losses, and the gradients of their weighted sum, are those that are written by hand."""
    p = Params({name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()})
    tensors = {**batch(), **{k: v for k, v in given.items() if isinstance(v, Tensor)}}
    numbers = {k: v for k, v in given.items() if not isinstance(v, Tensor)}
    if "depth" in model.graph.arguments:
        numbers["depth"] = depth
    wanted = by_hand(p, tensors, depth)
    total = sum(weight * value for value, weight in wanted.values())
    assert isinstance(total, Tensor)
    total.backward()
    losses = model.losses(**tensors, **numbers)
    step = model.learn(**tensors, **numbers)
    assert step.losses.keys() == losses.keys() == wanted.keys()
    for name, (value, _) in wanted.items():
        theirs = torch.as_tensor(value, dtype=torch.float64)
        near(losses[name], theirs, f"the loss {name}")
        near(step.losses[name], theirs, f"the loss {name} while it learns")
    for name, parameter in model.named_parameters():
        theirs = p[name].grad if p[name].grad is not None else torch.zeros_like(parameter)
        mine = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        assert theirs is not None
        near(mine, theirs, f"the gradient of {name}")
        parameter.grad = None
    return p


def mean(values: Iterator[Tensor]) -> Tensor:
    found = list(values)
    return sum(found[1:], found[0]) / len(found)


def ce(logits: Tensor, given: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(logits, given["y"])
