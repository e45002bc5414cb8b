"""Credit rules that are backprop, or a known direction, if what they are given is right: to 1e-6 or better in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import r2d2c
from tests.unit.credit_oracle import CHAIN, NETS, assert_same, batch_of, gradients, learned, params_of
from tests.unit.credit_rules import Backprop

LINEAR = """
r2d2c: 1
dims: {H: 4}
inputs:
  x: f32[B, H]
targets:
  z: f32[B, H]
credit: CREDIT
blocks:
  guess(h, z):
    body: return concat(h, z) |> linear(H)
tasks:
  a:
    behavior: h = x |> linear(H) |> tanh
  b:
    behavior: h = linear(a.h, H)
  c:
    behavior: h = linear(b.h, H)
  d:
    behavior: out = linear(c.h, H)
    distance: mse(out, z)
outputs:
  out: d.out
"""


def linear_net(credit: str):
    """A net that is linear above the first value, with well-conditioned weights."""
    model = r2d2c.compile(r2d2c.loads(LINEAR.replace("CREDIT", credit))).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
            if name.endswith("linear.weight") and p.shape == (4, 4):
                p.add_(torch.eye(4))
    return model


def weights(model) -> dict[str, torch.Tensor]:
    names = {"a": "a.h", "b": "b.h", "c": "c.h", "d": "d.out"}
    return {task: model.get_parameter(f"{name}.linear.weight").detach() for task, name in names.items()}


def backprop(model, batch):
    """Backprop's gradients of the layers, from a model of the same spec with the same weights."""
    other = linear_net("backprop")
    other.load_state_dict(
        {name: tensor for name, tensor in model.state_dict().items() if name in other.state_dict()}
    )
    return {name: g for name, g in gradients(other, batch).items() if g is not None}


@pytest.mark.parametrize("own", ["false", "true"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_feedback_through_the_weights_is_backprop(net, own):
    model = net.model(f"feedback(own={own})")
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            assert name.endswith(".feedback")
            buffer.copy_(model.get_parameter(name.replace(".feedback", ".weight")))
    batch = batch_of(model)
    assert_same(gradients(model, batch), learned(net, params_of(model), batch, Backprop()), 1e-12)


@pytest.mark.parametrize("bootstrap", ["true", "false"])
def test_a_synthetic_gradient_that_is_true_is_backprop(bootstrap):
    """Above b all is linear and the loss is square, so δ is a linear function of h and the target: S can be it."""
    model = linear_net(f"synthetic(labels=z, predictor=guess, bootstrap={bootstrap})")
    w = weights(model)
    bias = {task: model.get_parameter(f"{name}.linear.bias").detach() for task, name in
            (("b", "b.h"), ("c", "c.h"), ("d", "d.out"))}  # fmt: skip
    predictors = sorted(
        n for n, _ in model.named_parameters() if n not in dict(linear_net("backprop").named_parameters())
    )
    above = {"a": ["b", "c", "d"], "b": ["c", "d"], "c": ["d"]}
    with torch.no_grad():
        for task, tasks in above.items():
            jacobian, offset = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
            for name in tasks:
                jacobian, offset = w[name] @ jacobian, w[name] @ offset + bias[name]
            weight, shift = (n for n in reversed(predictors) if n.startswith(f"{task}."))
            # δ = 2/n Jᵀ(J h + o − z)
            model.get_parameter(weight).copy_(0.5 * torch.cat([jacobian.T @ jacobian, -jacobian.T], 1))
            model.get_parameter(shift).copy_(0.5 * jacobian.T @ offset)
    batch = batch_of(model)
    found, wanted = gradients(model, batch), backprop(model, batch)
    assert_same({n: g for n, g in found.items() if n not in predictors}, wanted, 1e-10)
    for name in predictors:  # and S has nothing more to learn
        torch.testing.assert_close(found[name], torch.zeros_like(found[name]), rtol=0, atol=1e-12)


def test_direct_with_the_true_jacobians_is_backprop_in_a_linear_net():
    model = linear_net("direct")
    w = weights(model)
    with torch.no_grad():
        model.get_buffer("c.direct.B").copy_(w["d"])
        model.get_buffer("b.direct.B").copy_(w["d"] @ w["c"])
        model.get_buffer("a.direct.B").copy_(w["d"] @ w["c"] @ w["b"])
    batch = batch_of(model)
    assert_same(gradients(model, batch), backprop(model, batch), 1e-10)


@pytest.mark.parametrize("step", [0.5, 0.02])
def test_target_with_exact_inverses_is_gauss_newton(step):
    """t − h = −η (JᵀJ)⁻¹Jᵀ·B e, with J = ∂out/∂h and e = ∂L/∂out: the Gauss-Newton step of a square loss."""
    model = linear_net(f"target(step={step}, noise=0)")
    w, size = weights(model), 5
    with torch.no_grad():
        for lower, upper in pairwise("abcd"):
            model.get_parameter(f"{lower}.target.inverse.weight").copy_(torch.linalg.inv(w[upper]))
    batch = batch_of(model)
    found = gradients(model, batch)
    values = {name: batch["x"] if name == "x" else None for name in "x"}
    for task, name in (("a", "a.h"), ("b", "b.h"), ("c", "c.h"), ("d", "d.out")):
        before = values[{"a": "x", "b": "a", "c": "b", "d": "c"}[task]]
        made = F.linear(before, w[task], model.get_parameter(f"{name}.linear.bias").detach())
        values[task] = torch.tanh(made) if task == "a" else made
    error = 2 * (values["d"] - batch["z"]) / values["d"].numel()
    jacobian = torch.eye(4, dtype=torch.float64)
    for upper, task in (("d", "c"), ("c", "b"), ("b", "a")):
        jacobian = jacobian @ w[upper]
        newton = error @ torch.linalg.solve(jacobian.T @ jacobian, jacobian.T).T * step * size
        slope = 1 - values["a"] ** 2 if task == "a" else 1.0
        below = values[{"a": "x", "b": "a", "c": "b"}[task]]
        wanted = (newton * slope / size).T @ below
        torch.testing.assert_close(found[f"{task}.h.linear.weight"], wanted, rtol=1e-8, atol=1e-10)


def test_local_with_one_task_is_backprop():
    text = """
r2d2c: 1
inputs:
  x: f32[B, 5]
targets:
  y: i64[B]
credit: CREDIT
tasks:
  all:
    behavior: logits = x |> linear(4) |> tanh |> linear(6) |> tanh |> linear(3)
    distance: cross_entropy(logits, y)
outputs:
  logits: all.logits
"""
    models = [r2d2c.compile(r2d2c.loads(text.replace("CREDIT", c))).double() for c in ("local", "backprop")]
    batch = batch_of(models[0])
    local, whole = (gradients(model, batch) for model in models)
    p = dict(models[0].named_parameters())
    layers = [name.removesuffix(".weight") for name in p if name.endswith(".weight")]
    value = batch["x"]
    for k, layer in enumerate(layers):
        value = F.linear(value if k == 0 else torch.tanh(value), p[f"{layer}.weight"], p[f"{layer}.bias"])
    wanted = dict(
        zip(p, torch.autograd.grad(F.cross_entropy(value, batch["y"]), list(p.values())), strict=True)
    )
    assert_same(local, wanted, 1e-12)
    assert_same(whole, wanted, 1e-12)


@pytest.mark.parametrize("steps", [3, 5])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_predictive_coding_with_fixed_predictions_is_backprop(net, steps):
    """Step 1 and as many steps as links on the longest way; more change nothing (Millidge et al., 2020)."""
    model = net.model(f"predictive(fixed=true, step=1, steps={steps})")
    batch = batch_of(model)
    assert_same(gradients(model, batch), learned(net, params_of(model), batch, Backprop()), 1e-10)


def distance(net, nudge: float, symmetric: str) -> tuple[float, float]:
    """How far equilibrium propagation is from backprop, relatively; and the cosine between them.

    With small weights, so that the values settle soon: E's curvature is at most (1 + ‖J‖)².
    """
    model = net.model(f"equilibrium(steps=40, step=0.6, nudge={nudge}, symmetric={symmetric})")
    batch = batch_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    found, wanted = gradients(model, batch), learned(net, params_of(model), batch, Backprop())
    assert {n for n, g in found.items() if g is not None} == set(wanted)
    mine, true = (torch.cat([g[n].flatten() for n in wanted]) for g in (found, wanted))
    return float((mine - true).norm() / true.norm()), float(F.cosine_similarity(mine, true, 0))


def test_equilibrium_propagation_comes_to_backprop_as_the_nudge_goes_to_zero():
    one = [distance(CHAIN, nudge, "false") for nudge in (2e-2, 1e-2, 5e-3)]
    both = [distance(CHAIN, nudge, "true") for nudge in (2e-2, 1e-2, 5e-3)]
    assert one[-1][0] < 1e-2
    for (large, _), (small, _) in pairwise(one):
        assert large / small == pytest.approx(2, rel=0.1)  # O(β)
    for (large, _), (small, _) in pairwise(both):
        assert large / small == pytest.approx(4, rel=0.1)  # O(β²)
    error, cosine = distance(CHAIN, 1e-4, "true")
    assert error < 1e-8
    assert cosine > 1 - 1e-12
