"""Specs with one loop, and the same loop written by hand in PyTorch: outputs and every gradient must agree.

`compare` runs a learning pass in float64 and holds it against a function of the parameters, the batch and the number
of steps. What it differentiates is the spec's one loss.
"""

from __future__ import annotations

from collections.abc import Callable
from textwrap import indent
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import r2d2c
from r2d2c.model import Model

Body = Callable[["Params", dict[str, Tensor], int], Tensor]
SPEC = """\
r2d2c: 1
dims: {{D: 5, S: 4, depth: 1..8 = 3}}
inputs:
{inputs}
targets:
  y: f32[B, 4]
loops:
{loops}
tasks:
  fit:
    behavior: |
{behavior}
    distance: {distance}
{more}
outputs:
  out: fit.out
"""


class Params(dict[str, Tensor]):
    """The parameters of a model by name, as leaves of the hand-written function."""

    def linear(self, name: str, x: Tensor, at: int | None = None) -> Tensor:
        weight, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        return F.linear(x, weight, bias) if at is None else F.linear(x, weight[at], bias[at])


def spec(
    loops: str,
    behavior: str = "r = refine(x)\nout = r.z",
    distance: str = "mse(out, y)",
    inputs: str = "x: f32[B, D]",
    more: str = "",
) -> str:
    return SPEC.format(
        inputs=indent(inputs, "  "),
        loops=indent(loops.strip("\n"), "  "),
        behavior=indent(behavior.strip("\n"), "      "),
        distance=distance,
        more=more,
    )


def compiled(text: str, backend: str = "eager", dtype: torch.dtype = torch.float64) -> Model:
    """The model in float64, with parameters of which none is zero."""
    model = r2d2c.compile(r2d2c.loads(text), backend=backend).to(dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn.to(dtype))
    return model


def batch(length: int | None = None, size: int = 6, axis: int = 1) -> dict[str, Tensor]:
    """x (of ``length`` steps along ``axis``) and y."""
    generator = torch.Generator().manual_seed(3)
    shape = [size, 5]
    if length is not None:
        shape.insert(axis, length)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {"x": x, "y": torch.randn((size, 4), generator=generator, dtype=torch.float64)}


def compare(
    model: Model,
    body: Body,
    given: dict[str, Tensor],
    depth: int | None = None,
    loss: Callable[[Tensor, dict[str, Tensor]], Tensor] | None = None,
    **more: Any,
) -> Params:
    """Assert that output, loss and gradients are those of ``body``; its parameters with their gradients."""
    arguments = {**more, **({} if depth is None else {"depth": depth})}
    p = Params({name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()})
    out = body(p, given, 3 if depth is None else depth)
    wanted = (F.mse_loss(out, given["y"])) if loss is None else loss(out, given)
    wanted.backward()
    inputs = {
        name: value
        for name, value in given.items()
        if name in {port.name for port in model.graph.body.inputs}
    }
    step = model.learn(**inputs, **arguments)
    used = {k: v for k, v in inputs.items() if k not in model.graph.targets}
    near(model(**used, **arguments)["out"], out, "the output when it is used")
    near(step.outputs["out"], out, "the output while it learns")
    near(step.losses["fit"], wanted, "the loss")
    for name, parameter in model.named_parameters():
        gradient = p[name].grad
        mine = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        near(
            mine, gradient if gradient is not None else torch.zeros_like(parameter), f"the gradient of {name}"
        )
        parameter.grad = None
    return p


def near(mine: Tensor, theirs: Tensor, what: str) -> None:
    assert mine.shape == theirs.shape, f"{what}: {mine.shape} and {theirs.shape}"
    assert mine.dtype == theirs.dtype, f"{what}: {mine.dtype} and {theirs.dtype}"
    error = float((mine - theirs).detach().abs().max()) if mine.numel() else 0.0
    assert error <= 1e-12, f"{what}: {error:g} apart"
