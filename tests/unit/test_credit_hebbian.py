"""Plastic layers: the textbook updates sample by sample, Oja's fixed point, and BCM's threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import r2d2c
from tests.unit.credit_oracle import (
    CHAIN,
    CONV,
    DAG,
    NETS,
    SEQUENCE,
    assert_same,
    batch_of,
    gradients,
    learned,
    params_of,
)
from tests.unit.credit_rules import Local, plastic

VARIANTS = ["oja", "hebb", "bcm"]


def rows_of(net, p, batch):
    """x and y of every layer of tasks below links: [samples and places, numbers]."""
    h, found = net.values(p, batch), {}
    x = {u: h[reads[0]] for u, (reads, _) in net.tasks.items()}
    for name in (name for name in p.tensors if name.endswith(".weight")):
        layer, task = name.removesuffix(".weight"), name.split(".")[0]
        if task not in {u for u, _ in net.links}:
            continue
        given = torch.cat([h[u] for u in net.tasks[task][0]], -1) if len(net.tasks[task][0]) > 1 else x[task]
        weight, bias = p.tensors[name].detach(), p.tensors[f"{layer}.bias"].detach()
        if weight.dim() == 4:
            geometry = {"padding": 1} if task == "a" else {"stride": 2}
            y = F.conv2d(given, weight, bias, **geometry).movedim(1, -1).flatten(0, -2)
            seen = F.unfold(given, 3, **geometry).movedim(1, -1).flatten(0, -2)
            found[layer] = seen, weight.flatten(1), y, weight.shape
            continue
        if layer == "c.two":
            given = torch.tanh(p.linear("c.h.linear", given))
        if net is CONV and task == "c":
            given = given.flatten(1)
        given = given.flatten(0, -2)
        found[layer] = given, weight, F.linear(given, weight, bias), weight.shape
    return found


@pytest.mark.parametrize("rate", [1.0, 0.25])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("net", [CHAIN, DAG, CONV, SEQUENCE], ids=list(NETS))
def test_updates_are_the_textbooks(net, variant, rate):
    model = net.model(f"hebbian(variant={variant}, rate={rate})")
    p, batch = params_of(model), batch_of(model)
    wanted = learned(net, p, batch, Local())
    for u in {u for u, _ in net.links} - {"b" if net is DAG else ""}:
        assert not any(name.startswith(f"{u}.") for name in wanted)  # no loss
    for layer, (x, weight, y, shape) in rows_of(net, p, batch).items():
        threshold = torch.ones(len(weight), dtype=torch.float64)
        change = rate * plastic(variant, x, weight, y, threshold).reshape(shape)
        name = f"{layer}.weight"
        wanted[name] = wanted[name] + change if name in wanted else change
    assert_same(gradients(model, batch), wanted)
    if variant == "bcm":
        for layer, (_, _, y, _) in rows_of(net, p, batch).items():
            after = 0.99 + 0.01 * (y**2).mean(0)
            torch.testing.assert_close(model.get_buffer(f"{layer}.threshold"), after)


UNITS = """
r2d2c: 1
inputs:
  x: f32[B, 6]
targets:
  y: i64[B]
credit: hebbian
tasks:
  a:
    behavior: h = linear(x, K, bias=false)
  b:
    behavior: logits = linear(a.h, 2)
    distance: cross_entropy(logits, y)
outputs:
  logits: b.logits
"""


@pytest.mark.parametrize("units", [1, 3])
def test_oja_finds_the_principal_components(units):
    """One unit comes to the first one (Oja, 1982), several to the subspace of as many (Oja, 1989)."""
    generator = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    scales = torch.tensor([3.0, 2.0, 1.5, 0.5, 0.3, 0.1], dtype=torch.float64)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64) * scales @ turn.T
    model = r2d2c.compile(r2d2c.loads(UNITS.replace("K", str(units)))).double()
    weight, y = model.get_parameter("a.h.linear.weight"), torch.zeros(200, dtype=torch.int64)
    for _ in range(1500):
        gradients(model, {"x": x, "y": y})
        with torch.no_grad():
            weight.sub_(0.03 * weight.grad)
    values, vectors = np.linalg.eigh((x.T @ x / 200).numpy())
    top = torch.from_numpy(vectors[:, np.argsort(values)[::-1][:units]].copy())
    torch.testing.assert_close(weight @ weight.T, torch.eye(units, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(weight.T @ weight, top @ top.T, rtol=0, atol=1e-6)


def test_bcm_keeps_its_threshold():
    """θ ← 0.99 θ + 0.01 mean y², and the change uses the new one (Bienenstock, Cooper and Munro, 1982)."""
    model = r2d2c.compile(
        r2d2c.loads(UNITS.replace("K", "2").replace("hebbian", "hebbian(variant=bcm)"))
    ).double()
    theta = torch.ones(2, dtype=torch.float64)
    for seed in range(3):
        batch, p = batch_of(model, seed), params_of(model)
        weight = p.tensors["a.h.linear.weight"].detach()
        y = batch["x"] @ weight.T
        wanted = plastic("bcm", batch["x"], weight, y, theta)
        theta = 0.99 * theta + 0.01 * (y**2).mean(0)
        torch.testing.assert_close(
            gradients(model, batch)["a.h.linear.weight"], wanted, rtol=1e-10, atol=1e-12
        )
        torch.testing.assert_close(model.get_buffer("a.h.linear.threshold"), theta)
