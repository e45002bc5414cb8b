"""Spike-timing plasticity: isolated pairs, all pairs of random spikes, and layers that drive spiking neurons."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import r2d2c
from r2d2c.model import Model

# A neuron spikes where it is driven; what comes in by its synapses is too little for that.
SPEC = """
r2d2c: 1
dims: {I: 3, O: 2}
inputs: {x: "f32[B, T, I]", drive: "f32[B, T, O]"}
targets: {y: "f32[B, T, 1]"}
loops:
  cells(x, drive):
    over: T
    each: {xt: x, dt: drive}
    carry:
      v: f32[B, O] = zeros
    body: |
      v, z = lif(v, 0.5 * linear(xt, O, bias=false, name=synapse) + dt, decay=0)
tasks:
  net:
    behavior: |
      r = cells(x, drive)
      z = r.z.steps
  read:
    behavior: out = linear(net.z, 1)
    distance: mse(out, y)
links:
  net.z -> read: {credit: "hebbian(variant=stdp, plus=0.8, minus=0.5, tau_plus=4, tau_minus=7OPTIONS)"}
outputs: {out: read.out}
"""
PLUS, MINUS, TAU_PLUS, TAU_MINUS = 0.8, 0.5, 4.0, 7.0


def model_of(options: str = "") -> Model:
    model = r2d2c.compile(r2d2c.loads(SPEC.replace("OPTIONS", options)), backend="eager").double()
    with torch.no_grad():
        dict(model.named_parameters())["cells.synapse.weight"].mul_(1e-3)
    return model


def change(model: Model, pre: Tensor, post: Tensor) -> Tensor:
    """How the weight is to change after ``pre`` [B, T, I] and ``post`` [B, T, O]."""
    weight = dict(model.named_parameters())["cells.synapse.weight"]
    weight.grad = None
    step = model.learn(x=pre, drive=2 * post, y=torch.zeros(*pre.shape[:2], 1, dtype=torch.float64))
    assert step.outputs["out"].shape == (*pre.shape[:2], 1)
    return -weight.grad


def pair(before: int | None, after: int | None, steps: int = 30) -> tuple[Tensor, Tensor]:
    pre, post = torch.zeros(1, steps, 3).double(), torch.zeros(1, steps, 2).double()
    if before is not None:
        pre[0, before, 1] = 1
    if after is not None:
        post[0, after, 0] = 1
    return pre, post


@pytest.mark.parametrize("apart", [0, 1, 2, 5, 12, 20])
def test_post_after_pre_strengthens(apart: int) -> None:
    found = change(model_of(), *pair(6, 6 + apart))
    assert float(found[0, 1]) == pytest.approx(PLUS * math.exp(-apart / TAU_PLUS), abs=1e-6)
    found[0, 1] = 0
    assert not found.any()


@pytest.mark.parametrize("apart", [1, 2, 5, 12, 20])
def test_post_before_pre_weakens(apart: int) -> None:
    found = change(model_of(), *pair(6 + apart, 6))
    assert float(found[0, 1]) == pytest.approx(-MINUS * math.exp(-apart / TAU_MINUS), abs=1e-6)
    found[0, 1] = 0
    assert not found.any()


def test_a_spike_alone_changes_nothing() -> None:
    assert not change(model_of(), *pair(4, None)).any()
    assert not change(model_of(), *pair(None, 4)).any()


def by_pairs(pre: Tensor, post: Tensor) -> Tensor:
    """The mean over samples of the sum over all pairs of spikes."""
    total = torch.zeros(post.shape[2], pre.shape[2], dtype=torch.float64)
    for b, t, i in pre.nonzero().tolist():
        for other, s, o in post.nonzero().tolist():
            if other == b and s >= t:
                total[o, i] += PLUS * math.exp((t - s) / TAU_PLUS)
            elif other == b:
                total[o, i] -= MINUS * math.exp((s - t) / TAU_MINUS)
    return total / len(pre)


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_all_pairs_of_random_spikes(rate: float) -> None:
    generator = torch.Generator().manual_seed(5)
    pre, post = ((torch.rand(4, 25, n, generator=generator) < 0.2).double() for n in (3, 2))
    found = change(model_of(f", rate={rate}"), pre, post)
    torch.testing.assert_close(found, rate * by_pairs(pre, post), rtol=0, atol=1e-10)


def test_recurrent_synapses_change_too_and_the_rest_of_the_model_learns_as_ever() -> None:
    text = SPEC.replace("v: f32[B, O] = zeros", "v: f32[B, O] = zeros\n      z: f32[B, O] = zeros")
    text = text.replace("name=synapse)", "name=synapse) + linear(z, O, bias=false, name=back)").replace(
        "OPTIONS", ""
    )
    model = r2d2c.compile(r2d2c.loads(text), backend="eager").double()
    p = dict(model.named_parameters())
    with torch.no_grad():
        for name in ("cells.synapse.weight", "cells.back.weight"):
            p[name].mul_(1e-3)
    generator = torch.Generator().manual_seed(5)
    pre, post = ((torch.rand(4, 25, n, generator=generator) < 0.2).double() for n in (3, 2))
    y = torch.randn(4, 25, 1, generator=generator).double()
    model.learn(x=pre, drive=2 * post, y=y)
    seen = torch.cat(
        [torch.zeros_like(post[:, :1]), post[:, :-1]], 1
    )  # a spike comes in one step after it is made
    torch.testing.assert_close(-p["cells.back.weight"].grad, by_pairs(seen, post), rtol=0, atol=1e-10)
    out = torch.nn.functional.linear(post, p["read.out.linear.weight"], p["read.out.linear.bias"])
    (wanted,) = torch.autograd.grad(((out - y) ** 2).mean(), [p["read.out.linear.weight"]])
    torch.testing.assert_close(p["read.out.linear.weight"].grad, wanted, rtol=0, atol=1e-12)


def test_training_lets_causal_synapses_grow() -> None:
    model = model_of()
    weight = dict(model.named_parameters())["cells.synapse.weight"]
    before = weight.detach().clone()
    pre, post = pair(6, 9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    change(model, pre, post)
    optimizer.step()
    assert float(weight.detach()[0, 1] - before[0, 1]) == pytest.approx(
        0.1 * PLUS * math.exp(-3 / TAU_PLUS), abs=1e-9
    )
