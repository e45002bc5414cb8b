"""Models with credit rules: early updates, emitted Python, backends, copies, checkpoints, ONNX, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch

import r2d2c
from r2d2c.model import Model
from r2d2c.train import groups as stepping
from r2d2c.train.calls import Call
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.stepper import Stepper
from tests.specs.test_ready_specs import agrees_with_emitted_python
from tests.unit.credit_oracle import CHAIN, CONV, DAG, assert_same, batch_of, gradients

RULES = [
    "feedback",
    "feedback(variant=sign, own=true)",
    "feedback(variant=uniform_sign)",
    "direct",
    "synthetic",
    "synthetic(labels=y, every=2)",
    "synthetic(bootstrap=false)",
    "target",
    "alternate(steps=2)",
    "predictive(steps=3)",
    "predictive(fixed=true, step=1, steps=3)",
    "equilibrium(steps=2)",
    "equilibrium(steps=2, symmetric=false)",
    "hebbian",
    "hebbian(variant=bcm)",
]
SHAPES = {"chain": CHAIN, "dag": DAG, "conv": CONV}
ADAM = next(record for record in OPTIMIZERS if record.name == "adam")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("credit", RULES)
def test_updates_between_visits_are_one_update_at_the_end(credit, shape, monkeypatch):
    """`visits` is `learn`, and the early optimizer steps of training change nothing, bit for bit."""
    monkeypatch.setattr(stepping, "GROUP", 1)
    early, late = (SHAPES[shape].model(credit) for _ in range(2))
    visits = early._training_graph.visits
    finished = [name for visit in visits for name in visit.finished]
    assert len(finished) == len(set(finished))
    p, others = dict(early.named_parameters()), dict(late.named_parameters())
    stepper = Stepper(p, visits, ADAM, Call("adam", {"lr": 0.05}))
    assert len(stepper.groups) == len([visit for visit in visits if visit.finished])
    last = Stepper(others, visits, ADAM, Call("adam", {"lr": 0.05}), early=False)
    for step in range(4):
        batch, shown = batch_of(early, step), {}
        for number, visit in enumerate(early.visits(**batch)):
            shown |= visit.losses
            stepper.after(number)
        losses = late.learn(**batch).losses
        last.after(len(visits) - 1)
        assert shown.keys() == losses.keys()
        assert all(torch.equal(shown[name], losses[name]) for name in losses)
    for name, parameter in p.items():
        assert torch.equal(parameter, others[name]), name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("credit", RULES)
def test_emitted_python_agrees(credit, shape):
    model = r2d2c.compile(r2d2c.loads(SHAPES[shape].text.replace("CREDIT", credit).replace("LINKS", "")))
    batch = {name: t.float() if t.is_floating_point() else t for name, t in batch_of(model).items()}
    agrees_with_emitted_python(model, batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "credits", [("feedback", "synthetic(labels=y)", "feedback"), ("direct", "target", "backprop")]
)
def test_inductor_agrees(credits):
    links = "".join(
        f'  {u}.h -> {v}: {{credit: "{c}"}}\n' for u, v, c in zip("abc", "bcd", credits, strict=True)
    )
    text = CHAIN.text.replace("CREDIT", "backprop").replace("LINKS", f"links:\n{links}")
    eager, compiled = (r2d2c.compile(r2d2c.loads(text), backend=b).double() for b in ("eager", "inductor"))
    for step in range(2):
        batch = batch_of(eager, step)
        wanted = {name: g for name, g in gradients(eager, batch).items() if g is not None}
        assert_same(gradients(compiled, batch), wanted, 1e-10)


@pytest.mark.parametrize("credit", RULES)
def test_copies_and_state_dicts(credit, tmp_path):
    model = DAG.model(credit)
    batch = batch_of(model)
    gradients(model, batch)  # statistics and the step have moved on
    twin, other = copy.deepcopy(model), DAG.model(credit, seed=9)
    other.load_state_dict(model.state_dict())
    other._step = model._step
    wanted = {name: g.clone() for name, g in gradients(model, batch).items() if g is not None}
    assert_same(gradients(twin, batch), wanted, 1e-14)
    if "target" not in credit:  # the noise comes from the seed
        assert_same(gradients(other, batch), wanted, 1e-14)
    single = r2d2c.compile(r2d2c.loads(DAG.text.replace("CREDIT", credit).replace("LINKS", "")))
    single.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    assert all(t.dtype == torch.float32 for t in single.state_dict().values())
    for name, tensor in single.double().state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-6, atol=1e-7)


def fixed(model: Model) -> dict[str, torch.Tensor]:
    return dict(model.named_buffers())


@pytest.mark.parametrize("credit", ["feedback", "feedback(variant=sign)", "direct"])
def test_b_depends_on_the_seed_and_its_name_alone(credit):
    one, same, other = CHAIN.model(credit), CHAIN.model(credit, seed=0), CHAIN.model(credit, seed=1)
    assert fixed(one)
    for name, tensor in fixed(one).items():
        assert torch.equal(tensor, fixed(same)[name]), name
        assert not torch.equal(tensor, fixed(other)[name]), name
    before = {name: tensor.clone() for name, tensor in fixed(one).items()}
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    for step in range(3):
        gradients(one, batch_of(one, step))
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in fixed(one).items())  # never trained
    # An ablation keeps the B of what stays: other credit below, a task without a link, a wider net beside it.
    rule = credit.partition("(")[0]
    links = f'links:\n  a.h -> b: {{credit: local}}\n  b.h -> c: {{credit: "{credit}"}}'
    ablated = CHAIN.model("backprop", links)
    kept = fixed(ablated)
    assert kept and kept.keys() < fixed(one).keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.items()), rule


@pytest.mark.parametrize("credit", RULES)
def test_a_trained_model_is_exported(credit, tmp_path):
    """Nothing of the rule is in the file; `export` runs it against the model."""
    model = r2d2c.compile(r2d2c.loads(CONV.text.replace("CREDIT", credit).replace("LINKS", "")))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(2):
        batch = {n: t.float() if t.is_floating_point() else t for n, t in batch_of(model, step).items()}
        optimizer.zero_grad()
        model.learn(**batch)
        optimizer.step()
    report = r2d2c.export(model, tmp_path / "m.onnx")
    assert report.path.is_file()


NORMS = """
r2d2c: 1
inputs:
  x: f32[B, 5]
targets:
  y: i64[B]
credit: CREDIT
tasks:
  a:
    behavior: h = x |> linear(4) |> batch_norm |> tanh
  b:
    behavior: h = a.h |> linear(4) |> batch_norm |> tanh
  c:
    behavior: logits = b.h |> linear(3) |> batch_norm
    distance: cross_entropy(logits, y)
outputs:
  logits: c.logits
"""


@pytest.mark.parametrize("credit", [c for c in RULES if "own" not in c])
def test_running_statistics_are_those_of_the_forward_pass(credit):
    """Also where a rule runs a behavior again with other values."""
    model, plain = (
        r2d2c.compile(r2d2c.loads(NORMS.replace("CREDIT", c))).double() for c in (credit, "backprop")
    )
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if n in plain.state_dict()})
    batch = batch_of(model)
    gradients(model, batch), gradients(plain, batch)
    running = dict(plain.named_buffers())
    assert running
    for name, tensor in running.items():
        torch.testing.assert_close(dict(model.named_buffers())[name], tensor, rtol=1e-12, atol=1e-14)
