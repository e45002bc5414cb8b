"""What a model that goes on from another one steps with: the optimizer's state, for every optimizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from r2d2c.diagnostics import Sink
from r2d2c.driver import check_source
from r2d2c.model import Model
from r2d2c.source import Source
from r2d2c.train.checkpoint import Checkpoint
from r2d2c.train.chunks import learn_batch
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.settings import read_settings
from r2d2c.train.stepper import Stepper
from r2d2c.train.transplant import transplant
from r2d2c.train.transplant_report import Report

SPEC = """\
r2d2c: 1
model: small
dims: {{H: {hidden}, W: {wide}}}
inputs: {{x: "f32[B, 1, 6, 6]"}}
targets: {{y: "i64[B]"}}
tasks:
  c:
    behavior: |
      h = x |> conv2d(W, 3) |> batch_norm |> relu |> flatten
      logits = h |> linear(H) |> tanh |> linear(3)
    distance: cross_entropy(logits, y)
outputs: {{logits: c.logits}}
train:
  data: digits
  {train}
"""
pytestmark = pytest.mark.usefixtures("one_thread")
EVERY = [
    *(record.name for record in OPTIMIZERS if not record.matrices_only),
    "sgd(lr=0.1, momentum=0.9)",
    "rmsprop(momentum=0.5, centered=true)",
    "adamw(amsgrad=true)",
]
TRAIN = {name: f"optimizer: {name}" for name in EVERY} | {
    "muon": "optimizer: adamw\n  optimizers: {matrices: muon(lr=0.01), c.h.conv2d: adafactor}",
}


def batch(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {
        "x": torch.randn(16, 1, 6, 6, generator=generator),
        "y": torch.randint(0, 3, (16,), generator=generator),
    }


def made(train: str, hidden: int = 5, wide: int = 4) -> tuple[Model, Stepper]:
    model = Model(check_source(Source("spec.yaml", SPEC.format(hidden=hidden, wide=wide, train=train))))
    settings = read_settings(model.spec, Sink())
    assert settings is not None
    stepper = Stepper(
        {n: p for n, p in model.named_parameters() if p.requires_grad},
        model._training_graph.visits,
        settings.record,
        settings.optimizer,
        others=settings.others,
    )
    stepper.zero_grad()
    return model, stepper


def learned(train: str, batches: int = 4, **sizes: int) -> tuple[Model, Stepper]:
    model, stepper = made(train, **sizes)
    for number in range(batches):
        learn_batch(model, stepper, batch(number), {}, None)
    return model, stepper


def moved(old: Model, first: Stepper, new: Model, second: Stepper) -> Report:
    was = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    report = transplant(new, second, old.spec, Checkpoint(was, first.pack()))
    second.zero_grad()
    return report


def state_of(stepper: Stepper, name: str) -> dict[str, Any]:
    found = stepper.state_of(name)
    assert found is not None
    return dict(found[0])


@pytest.mark.parametrize("name", TRAIN)
def test_the_next_step_of_the_same_model_is_that_of_the_run(name: str) -> None:
    """Where nothing is wider, the step after a transplant is the run's own one, bit for bit, and so is the next."""
    train = TRAIN[name]
    old, first = learned(train)
    start = {key: tensor.clone() for key, tensor in old.state_dict().items()}
    new, second = made(train)
    report = moved(old, first, new, second)
    if name != "sgd":  # which has no state
        trained = {n for n, _ in old.named_parameters()}
        assert {entry.state for entry in report.entries if entry.name in trained} == {"kept"}
    stateless, third = made(train)
    stateless.load_state_dict(start)
    for number in (7, 8):
        for model, stepper in ((old, first), (new, second), (stateless, third)):
            learn_batch(model, stepper, batch(number), {}, None)
        assert differing(old, new) == []
    # The state does matter.
    assert bool(differing(old, stateless)) == (name != "sgd")


def differing(one: Model, other: Model) -> list[str]:
    theirs = other.state_dict()
    return [name for name, tensor in one.state_dict().items() if not torch.equal(tensor, theirs[name])]


def estimate(state: dict[str, Any]) -> torch.Tensor:
    """Adafactor's second moments (Shazeer & Stern 2018, algorithm 4, line 8) of all entries."""
    row, column = state["row_var"].double(), state["col_var"].double()
    found: torch.Tensor = row @ column / row.mean(-2, keepdim=True)
    return found


def test_adafactor_has_the_old_moments_of_old_entries_and_their_means_for_new_ones() -> None:
    train = "optimizer: adafactor"
    old, first = learned(train)
    new, second = made(train, hidden=9, wide=7)
    report = moved(old, first, new, second)
    states = {entry.name: entry.state for entry in report.entries}
    assert report.optimizer == "adafactor, the state of 8 parameters goes on"
    assert states["c.h.conv2d.weight"] == "padded" and states["c.logits.linear_2.bias"] == "kept"
    assert {states[n] for n, _ in new.named_parameters()} == {"padded", "kept"}
    for name, parameter in old.named_parameters():
        was, now = state_of(first, name), state_of(second, name)
        assert float(was["step"]) == float(now["step"]) == 4
        there = [torch.arange(size) for size in parameter.shape]
        if name == "c.logits.linear.weight":  # of the conv's channels, 16 places each
            there[1] = torch.arange(4 * 16)
        places = torch.meshgrid(*there, indexing="ij")
        if "variance" in was:
            assert torch.equal(now["variance"][places], was["variance"])
            rest = now["variance"][len(parameter) :]
            assert torch.allclose(rest, was["variance"].mean().expand_as(rest), rtol=1e-6)
            continue
        wanted = estimate(was)
        assert torch.allclose(estimate(now)[places], wanted, rtol=1e-6, atol=0) and (wanted > 0).all()
    was, now = (state_of(stepper, "c.logits.linear_2.weight") for stepper in (first, second))
    assert torch.allclose(
        estimate(now)[:, 5:], estimate(was).mean(1, keepdim=True).expand(3, 4), rtol=1e-6, atol=0
    )
    # It goes on from there.
    learn_batch(new, second, batch(9), {}, None)
    assert all(torch.isfinite(parameter).all() for parameter in new.parameters())


def test_muon_has_the_old_momentum_of_old_entries_and_none_for_new_ones() -> None:
    old, first = learned(TRAIN["muon"])
    new, second = made(TRAIN["muon"], hidden=9)
    moved(old, first, new, second)
    name = "c.logits.linear_2.weight"
    was, now = (state_of(stepper, name)["momentum_buffer"] for stepper in (first, second))
    wanted = torch.zeros(3, 9)
    wanted[:, :5] = was
    assert torch.equal(now, wanted) and was.abs().min() > 0
    # One step by hand: torch's Muon over that matrix alone, with the same momentum.
    weight = torch.nn.Parameter(new.get_parameter(name).detach().clone())
    rival = torch.optim.Muon([weight], lr=0.01)
    rival.state[weight]["momentum_buffer"] = wanted.clone()
    twin = copy.deepcopy(new)
    twin.learn(**batch(9))
    weight.grad = twin.get_parameter(name).grad
    rival.step()
    learn_batch(new, second, batch(9), {}, None)
    assert torch.allclose(new.get_parameter(name), weight, rtol=0, atol=1e-7)
