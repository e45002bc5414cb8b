"""`Model` as an nn.Module: what torch's users expect of one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import r2d2c
from r2d2c.emit import emit_python
from r2d2c.lower.init import initial
from r2d2c.model import Model
from r2d2c.sampling import random_batch
from r2d2c.seeds import seed_of

SPEC = """
r2d2c: 1
model: small
dims: {D: 6, C: 4}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  t1:
    behavior: h = x |> linear(8) |> batch_norm |> relu |> dropout(0.3)
    representative: r = one_hot(y, C) |> noise(0.1) |> linear(8) |> tanh
    distance: mse(h, r)
  t2:
    behavior: logits = t1.h |> linear(C, name=out)
    distance: cross_entropy(logits, y)
    weight: 2
links:
  t1.h -> t2: {credit: local, feed: t1.r}
outputs:
  logits: t2.logits
  p: softmax(t2.logits)
"""


@pytest.fixture
def model() -> Model:
    return r2d2c.compile(r2d2c.loads(SPEC))


def batch_of(model: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    return random_batch(model.graph, seed=seed, sizes={"B": 16})


def test_parameters_are_named_by_place(model):
    assert [name for name, _ in model.named_parameters()] == [
        "t1.h.linear.weight", "t1.h.linear.bias", "t1.h.batch_norm.weight", "t1.h.batch_norm.bias",
        "t1.r.linear.weight", "t1.r.linear.bias", "t2.out.weight", "t2.out.bias",
    ]  # fmt: skip
    assert [name for name, _ in model.named_buffers()] == ["t1.h.batch_norm.mean", "t1.h.batch_norm.var"]


def test_first_numbers_depend_on_seed_and_name_only(model):
    same = r2d2c.compile(r2d2c.loads(SPEC.replace("t2.logits)\n", "t2.logits)\n  h: t1.h\n")))
    other = r2d2c.compile(r2d2c.loads(SPEC, seed=1))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(same.named_parameters())[name]), name
        if "linear" in name or "out" in name:
            assert not torch.equal(parameter, dict(other.named_parameters())[name]), name
    row = model.graph.storage["t2.out.weight"]
    bound = 1 / 8**0.5  # torch's default for linear: uniform in ±1/√fan_in
    assert initial(row, 0).abs().max() <= bound and initial(row, 0).abs().max() > 0.8 * bound
    assert seed_of(0, "a") != seed_of(0, "b") != seed_of(1, "b")


def test_state_dict_round_trip(model):
    other = r2d2c.compile(r2d2c.loads(SPEC, seed=5))
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(model(x=x)["logits"], other(x=x)["logits"])


def test_copies_have_parameters_of_their_own(model):
    x = torch.randn(3, 6)
    before = model(x=x)["logits"]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x=x)["logits"], before)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert torch.equal(model(x=x)["logits"], before)
        assert not torch.equal(other(x=x)["logits"], before)


def test_functional_call_swaps_parameters(model):
    x = torch.randn(3, 6)
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    result = torch.func.functional_call(model, zeros, (), {"x": x})
    assert torch.equal(result["logits"], torch.zeros(3, 4))
    assert not torch.equal(model(x=x)["logits"], torch.zeros(3, 4))


def test_double_and_back(model):
    model = model.double()
    batch = random_batch(model.graph, sizes={"B": 8}, dtype=torch.float64)
    assert model(x=batch["x"])["logits"].dtype == torch.float64
    assert model.learn(**batch).losses["t1"].dtype == torch.float64
    model = model.float()
    assert model(x=batch["x"].float())["logits"].dtype == torch.float32


def test_dropout_and_noise_come_from_seed_node_and_step(model):
    other = r2d2c.compile(r2d2c.loads(SPEC))
    batch = batch_of(model)
    first, second = model.learn(**batch), model.learn(**batch)
    assert not torch.equal(first.losses["t1"], second.losses["t1"])
    assert torch.equal(other.learn(**batch).losses["t1"], first.losses["t1"])
    assert torch.equal(other.learn(**batch).losses["t1"], second.losses["t1"])
    assert torch.equal(model.losses(**batch)["t1"], model.losses(**batch)["t1"])


def test_running_statistics_follow_nn_batch_norm(model):
    reference = torch.nn.BatchNorm1d(8)
    for seed in range(3):
        batch = batch_of(model, seed)
        p = dict(model.named_parameters())
        reference.train()(
            torch.nn.functional.linear(batch["x"], p["t1.h.linear.weight"], p["t1.h.linear.bias"])
        )
        model.learn(**batch)
        model.losses(**batch)  # does not touch them
    buffers = dict(model.named_buffers())
    torch.testing.assert_close(buffers["t1.h.batch_norm.mean"], reference.running_mean)
    torch.testing.assert_close(buffers["t1.h.batch_norm.var"], reference.running_var)


def test_one_sample_alone_gives_the_same(model):
    batch = batch_of(model)
    model.learn(**batch)
    whole = model(x=batch["x"])["logits"]
    for n in range(4):
        torch.testing.assert_close(model(x=batch["x"][n : n + 1])["logits"][0], whole[n])


def test_graphs_are_graph_modules_that_run(model):
    batch = batch_of(model)
    inference = model.graphs["inference"]
    assert torch.equal(inference(batch["x"])["logits"], model(x=batch["x"])["logits"])
    training = model.graphs["training"]
    assert "autograd.backward" in training.code
    for node in [*inference.graph.nodes, *training.graph.nodes]:
        if node.op != "output" and node.name != "rng":
            assert node.stack_trace and 'File "<spec>", line ' in node.stack_trace, node.name


def test_emitted_python_needs_only_torch_and_agrees(model):
    text = emit_python(model)
    assert "r2d2c" not in text.split('"""')[2]
    scope: dict[str, object] = {}
    exec(compile(text, "emitted.py", "exec"), scope)
    other = scope["Small"]()  # type: ignore[operator]
    assert [n for n, _ in other.named_parameters()] != []
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(other.named_parameters())[name]), name
    for seed in range(2):
        batch = batch_of(model, seed)
        step, (losses, outputs) = model.learn(**batch), other.learn(batch["x"], batch["y"])
        for name, loss in step.losses.items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(outputs["logits"], step.outputs["logits"], rtol=1e-6, atol=1e-6)
        for name, loss in model.losses(**batch).items():
            torch.testing.assert_close(other.losses(batch["x"], batch["y"])[name], loss, rtol=1e-6, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            dict(other.named_parameters())[name].grad, parameter.grad, rtol=1e-6, atol=1e-6
        )
    x = batch["x"]
    torch.testing.assert_close(other(x)["p"], model(x=x)["p"], rtol=1e-6, atol=1e-6)


def test_frozen_at_run_time_is_explained(model):
    dict(model.named_parameters())["t2.out.weight"].requires_grad_(False)
    with pytest.raises(TypeError, match=r"t2.out.weight has requires_grad=False.*frozen=true"):
        model.learn(**batch_of(model))


def test_breakpoints_stop_where_they_are_set(model, monkeypatch):
    stops: list[str] = []
    monkeypatch.setattr("builtins.breakpoint", lambda: stops.append("here"))
    model.trace(breakpoints=("t1.h",), **batch_of(model))
    assert stops == ["here"]
    with pytest.raises(KeyError, match=r"no value `t1\.nope`"):
        model.trace(breakpoints=("t1.nope",), **batch_of(model))


def test_reserved_names_are_the_attributes_of_a_model(model):
    from r2d2c.resolve.region import RESERVED

    plain = torch.nn.Module()
    attributes = {n for n in [*dir(Model), *vars(plain)] if not n.startswith("_")}
    assert attributes <= RESERVED
    with pytest.raises(r2d2c.CompileError, match="E216"):
        r2d2c.loads(SPEC.replace("t1", "train"))


@pytest.mark.slow
def test_inductor_agrees_in_use_and_in_learning(model):
    compiled = r2d2c.compile(model.spec, backend="inductor")
    for seed in range(2):
        batch = batch_of(model, seed)
        torch.testing.assert_close(compiled(x=batch["x"])["logits"], model(x=batch["x"])["logits"])
        mine, theirs = model.learn(**batch), compiled.learn(**batch)
        torch.testing.assert_close(theirs.losses, mine.losses)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(dict(compiled.named_parameters())[name].grad, parameter.grad)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(dict(compiled.named_buffers())[name], buffer)


def test_ranges_of_dims_are_held():
    text = """
r2d2c: 1
dims: {depth: 1..8}
inputs:
  x: f32[B, depth, 4]
tasks:
  t:
    behavior: h = mean(x, 1) |> linear(2)
    distance: mean(h^2)
outputs:
  h: t.h
"""
    model = r2d2c.compile(r2d2c.loads(text))
    assert model(x=torch.zeros(2, 8, 4))["h"].shape == (2, 2)
    for run in (model, model.learn, model.losses):
        with pytest.raises(ValueError, match=r"`x` has depth=9, the spec says 1..8"):
            run(x=torch.zeros(2, 9, 4))
