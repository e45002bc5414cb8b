"""Every credit rule with every option against the rule written by hand (credit_rules.py), in float64."""

from __future__ import annotations

import pytest
import torch

from r2d2c.lower.init import Rng
from tests.unit.credit_energies import alternate, equilibrium, predictive, predictive_fixed
from tests.unit.credit_oracle import (
    NETS,
    Net,
    Params,
    assert_same,
    batch_of,
    gradients,
    learned,
    params_of,
)
from tests.unit.credit_rules import Backprop, Direct, Feedback, Local, Synthetic, Target

SHAPES = ["chain", "dag", "conv"]
ENDS = {"chain": ["d"], "dag": ["d", "e"], "conv": ["d"], "sequence": ["d"]}
LAYERS = {
    "chain": {"a": ["a.h.linear"], "b": ["b.h.linear"], "c": ["c.h.linear", "c.two"], "d": ["d.logits.linear"]},
    "dag": {
        "a": ["a.h.linear"], "b": ["b.h.linear"], "c": ["c.h.linear"], "d": ["d.logits.linear"], "e": ["e.out.linear"],
    },
    "conv": {"a": ["a.h.conv2d"], "b": ["b.h.conv2d"], "c": ["c.h.linear"], "d": ["d.logits.linear"]},
    "sequence": {"a": ["a.h.linear"], "b": ["b.h.linear"], "c": ["c.h.linear"], "d": ["d.out.linear"]},
}  # fmt: skip


def check(net: Net, credit: str, rule, links: str = "") -> None:
    model = net.model(credit, links)
    batch = batch_of(model)
    p = params_of(model)
    made = rule(p) if callable(rule) else rule
    assert_same(gradients(model, batch), learned(net, p, batch, made))


@pytest.mark.parametrize("shape", NETS)
def test_backprop_and_local(shape):
    check(NETS[shape], "backprop", Backprop())
    net = NETS[shape]
    model = net.model("local")
    p, batch = params_of(model), batch_of(model)
    assert_same(gradients(model, batch), learned(net, p, batch, Local()))


@pytest.mark.parametrize("variant", ["random", "sign", "uniform_sign"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("shape", NETS)
def test_feedback(shape, own, variant):
    uppers = [task for task in NETS[shape].tasks if task != "a"]

    def rule(p: Params) -> Feedback:
        return Feedback(variant, p, LAYERS[shape], ["a", *uppers] if own else uppers)

    check(NETS[shape], f"feedback(variant={variant}, own={str(own).lower()})", rule)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("shape", NETS)
def test_direct(shape, scale):
    check(
        NETS[shape],
        f"direct(scale={scale})",
        Direct(outputs=ENDS[shape], scale=scale, along=shape == "sequence"),
    )


@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_synthetic(shape, labels, bootstrap):
    more = "labels=y, " if labels else ""
    credit = f"synthetic({more}bootstrap={str(bootstrap).lower()})"
    check(NETS[shape], credit, Synthetic(labels=labels, bootstrap=bootstrap))


@pytest.mark.parametrize("difference", [True, False])
@pytest.mark.parametrize("step", [0.5, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_target(shape, step, difference):
    credit = f"target(step={step}, noise=0, difference={str(difference).lower()})"
    check(NETS[shape], credit, Target(step=step, difference=difference))


@pytest.mark.parametrize("shape", SHAPES)
def test_target_with_noise(shape):
    net = NETS[shape]
    model = net.model("target(noise=0.3)")
    batch, p = batch_of(model), params_of(model)
    noise, h = {}, net.values(p, batch)
    for u, v in net.links:
        several = len([1 for w, _ in net.links if w == u]) > 1
        place = f"{u}.target.{v}" if several else f"{u}.target"
        generator = Rng(0, 0).generator(f"{place}.noisy", torch.device("cpu"))
        noise[u, v] = 0.3 * torch.randn(h[u].shape, generator=generator, dtype=torch.float64)
    assert_same(gradients(model, batch), learned(net, p, batch, Target(noise=noise)))


ENERGIES = [
    (f"predictive(steps={steps}, step={step})", lambda *a, s=steps, t=step: predictive(*a, s, t))
    for steps, step in ((1, 0.5), (2, 0.3), (4, 0.5))
]
ENERGIES += [
    (
        f"predictive(steps={steps}, step={step}, fixed=true)",
        lambda *a, s=steps, t=step: predictive_fixed(*a, s, t),
    )
    for steps, step in ((1, 1.0), (2, 0.3), (4, 1.0))
]
ENERGIES += [
    (
        f"equilibrium(steps={steps}, step=0.4, nudge={nudge}, symmetric={str(both).lower()})",
        lambda *a, s=steps, n=nudge, b=both: equilibrium(*a, s, 0.4, n, b),
    )
    for steps, nudge, both in ((1, 0.1, True), (3, 0.2, False), (3, -0.5, True))
]
ENERGIES += [
    (f"alternate(steps={steps}, step={step})", lambda *a, s=steps, t=step: alternate(*a, s, t))
    for steps, step in ((1, 0.1), (3, 0.2))
]


@pytest.mark.parametrize(("credit", "rule"), ENERGIES, ids=[credit for credit, _ in ENERGIES])
@pytest.mark.parametrize("shape", NETS)
def test_rules_with_an_energy(shape, credit, rule):
    model = NETS[shape].model(credit)
    batch = batch_of(model)
    assert_same(gradients(model, batch), rule(NETS[shape], params_of(model), batch))
