"""Loops in tasks between which credit rules stand: the rules written by hand, over hand-written loops, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from r2d2c import CompileError, compile, loads
from tests.unit.credit_energies import alternate, equilibrium, predictive
from tests.unit.credit_oracle import (
    Net,
    Params,
    Sender,
    assert_same,
    batch_of,
    gradients,
    learned,
    params_of,
)
from tests.unit.credit_rules import Backprop, Direct, Feedback, Local, Synthetic, Target

SPEC = """
r2d2c: 1
dims: {D: 5, H: 4, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
credit: CREDIT
loops:
  first(data):
    repeat: 3
    carry:
      c: f32[B, H] = learned
    body: |
      c = tanh(linear(data, H, name=read) + linear(c, H, name=back))
  second(data):
    repeat: 2
    carry:
      c: f32[B, H] = linear(data, H, name=begin)
    body: |
      c = tanh(linear(data, H, name=read) + linear(c, H, name=back))
tasks:
  a:
    behavior: |
      r = first(x)
      h = 2 * r.c
  b:
    behavior: h = a.h |> linear(6) |> tanh
  c:
    behavior: |
      r = second(b.h)
      h = r.c
  d:
    behavior: logits = linear(c.h, C)
    distance: cross_entropy(logits, y)
    weight: 1.5
outputs:
  logits: d.logits
"""


def first(p: Params, x: Tensor) -> Tensor:
    c = p.tensors["first.c.initial"].expand(len(x), 4)
    for _ in range(3):
        c = torch.tanh(p.linear("first.read", x) + p.linear("first.back", c))
    return 2 * c


def second(p: Params, x: Tensor) -> Tensor:
    c = p.linear("second.begin", x)
    for _ in range(2):
        c = torch.tanh(p.linear("second.read", x) + p.linear("second.back", c))
    return c


NET = Net(
    SPEC,
    {
        "a": (("x",), first),
        "b": (("a",), lambda p, a: torch.tanh(p.linear("b.h.linear", a))),
        "c": (("b",), second),
        "d": (("c",), lambda p, c: p.linear("d.logits.linear", c)),
    },
    {"d": (1.5, "d", lambda v, t: F.cross_entropy(v["d"], t["y"]))},
)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("credit", "rule"),
    [
        ("backprop", Backprop()),
        ("local", Local()),
        ("direct", Direct(outputs=["d"], scale=1.0)),
        ("synthetic(bootstrap=false)", Synthetic(labels=False, bootstrap=False)),
        ("synthetic(labels=y)", Synthetic(labels=True, bootstrap=True)),
        ("target(noise=0, step=0.4)", Target(step=0.4, difference=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rules_with_a_delta(credit: str, rule: Sender, recompute: bool) -> None:
    net = NET
    if recompute:
        text = SPEC.replace("    body: |", "    recompute: true\n    body: |")
        net = Net(text, NET.tasks, NET.losses)
    model = net.model(credit)
    batch, p = batch_of(model), params_of(model)
    assert_same(gradients(model, batch), learned(net, p, batch, rule))


@pytest.mark.parametrize("credit", ["predictive", "equilibrium", "alternate"])
def test_rules_with_an_energy(credit: str) -> None:
    by_hand = {
        "predictive": ("predictive(steps=2, step=0.3)", lambda *a: predictive(*a, 2, 0.3)),
        "equilibrium": (
            "equilibrium(steps=2, step=0.4, nudge=0.1, symmetric=true)",
            lambda *a: equilibrium(*a, 2, 0.4, 0.1, True),
        ),
        "alternate": ("alternate(steps=2, step=0.2)", lambda *a: alternate(*a, 2, 0.2)),
    }
    text, rule = by_hand[credit]
    model = NET.model(text)
    batch = batch_of(model)
    assert_same(gradients(model, batch), rule(NET, params_of(model), batch))


def test_feedback_between_tasks_whose_layers_are_in_no_loop() -> None:
    links = "links:\n  b.h -> c: {credit: backprop}\n"
    net = Net(SPEC.replace("outputs:\n", "LINKS\noutputs:\n"), NET.tasks, NET.losses)
    model = net.model("feedback", links)
    batch, p = batch_of(model), params_of(model)
    layers = {"b": ["b.h.linear"], "d": ["d.logits.linear"]}
    rules = dict.fromkeys(net.links, Feedback("random", p, layers, ["b", "d"]))
    assert_same(gradients(model, batch), learned(net, p, batch, rules))


@pytest.mark.parametrize("credit", ["feedback", "feedback(own=true)", "hebbian"])
def test_rules_that_change_layers_say_that_they_cannot_in_a_loop(credit: str) -> None:
    with pytest.raises(CompileError) as error:
        loads(SPEC.replace("CREDIT", credit))
    assert {d.code for d in error.value.diagnostics} == {"E488"}


LATE = """
r2d2c: 1
dims: {D: 5, S: 4, depth: 1..8 = 3}
inputs:
  x: f32[B, D]
targets:
  y: f32[B, S]
credit: CREDIT
loops:
  top(data):
    repeat: depth
    carry:
      c: f32[B, S] = learned
      z: f32[B, S] = zeros
    body: |
      z = 0.5 * z + c
      c = tanh(linear(data, S))
tasks:
  low:
    behavior: h = tanh(linear(x, 6))
  up:
    behavior: |
      r = top(low.h)
      out = r.z
    distance: mse(out, y)
outputs:
  out: up.out
"""


@pytest.mark.parametrize(
    "credit", ["backprop", "local", "direct", "synthetic", "target", "alternate", "predictive", "equilibrium"]
)
def test_what_the_first_step_does_not_reach_gets_a_gradient_of_zero(credit: str) -> None:
    """At depth 1 nothing of the data comes through, and the graph of the backward is the same for every depth."""
    model = compile(loads(LATE.replace("CREDIT", credit)))
    batch = {"x": torch.randn(6, 5), "y": torch.randn(6, 4)}
    deep = dict(model.named_parameters())["top.c.linear.weight"]
    start = dict(model.named_parameters())["top.c.initial"]
    for depth in (1, 3):
        model.zero_grad()
        model.learn(**batch, depth=depth)
        assert deep.grad is not None and bool(deep.grad.any()) == (depth > 1)
        assert start.grad is not None and start.grad.any()
    plain = compile(loads(LATE.replace("CREDIT", "backprop").replace("= learned", "= zeros")))
    plain.learn(**batch, depth=1)
    assert all(p.grad is not None and not p.grad.any() for p in plain.parameters())
