"""`feedback` and `direct` beside a published implementation: the same weights in, the same gradients out.

The oracle is biotorch 0.0.16 (``pip install --no-deps biotorch==0.0.16``: its layers need only torch). It is skipped where
that is not installed.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.unit.credit_oracle import CHAIN, CONV, assert_same, batch_of, gradients

fa = pytest.importorskip("biotorch.layers.fa_constructor")
dfa = pytest.importorskip("biotorch.layers.dfa")

TYPES = {"random": "fa", "sign": "frsf", "uniform_sign": "usf"}


def config(type_: str) -> dict:
    return {"type": type_, "options": {"constrain_weights": False, "gradient_clip": False, "init": "xavier"}}


def fill(layer, model, name: str, prefix: dict):
    """Give a layer of biotorch's the weights, and the fixed matrix, of one of ours."""
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(model.get_parameter(f"{name}.weight"))
        layer.bias.copy_(model.get_parameter(f"{name}.bias"))
        if (fixed := prefix.get(name)) is not None:
            layer.weight_backward.copy_(fixed)
    prefix[f"{name} layer"] = layer
    return layer


def collected(made: dict) -> dict[str, torch.Tensor]:
    found = {}
    for key, layer in made.items():
        if key.endswith(" layer"):
            name = key.removesuffix(" layer")
            found |= {f"{name}.weight": layer.weight.grad, f"{name}.bias": layer.bias.grad}
    return found


@pytest.mark.parametrize("variant", TYPES)
def test_feedback_of_a_linear_net(variant):
    model = CHAIN.model(f"feedback(variant={variant})")
    batch, buffers = batch_of(model), dict(model.named_buffers())
    made = {name.removesuffix(".feedback"): buffer for name, buffer in buffers.items()}
    h = batch["x"]
    for name in ("a.h.linear", "b.h.linear", "c.h.linear", "c.two", "d.logits.linear"):
        weight = model.get_parameter(f"{name}.weight")
        layer = fill(
            fa.Linear(weight.shape[1], weight.shape[0], True, config(TYPES[variant])), model, name, made
        )
        if variant == "uniform_sign":
            # Theirs is the deviation of Xavier's distribution, ours the weight's present mean size.
            assert layer.scaling_factor == pytest.approx(math.sqrt(2 / sum(weight.shape)))
            layer.scaling_factor = weight.detach().abs().mean()
        h = layer(h)
        h = h if name.startswith("d.") else torch.tanh(h)
    (1.5 * F.cross_entropy(h, batch["y"])).backward()
    assert_same(gradients(model, batch), collected(made), 1e-12)


@pytest.mark.parametrize("variant", ["random", "sign"])
def test_feedback_of_a_convolutional_net(variant):
    model = CONV.model(f"feedback(variant={variant})")
    batch, buffers = batch_of(model), dict(model.named_buffers())
    # Their convolution takes the magnitudes when it is made.
    made = {
        name.removesuffix(".feedback"): b.abs() if variant == "sign" else b for name, b in buffers.items()
    }
    settings = config(TYPES[variant])
    a = fill(fa.Conv2d(2, 3, 3, 1, 1, 1, 1, True, "zeros", settings), model, "a.h.conv2d", made)
    b = fill(fa.Conv2d(3, 4, 3, 2, 0, 1, 1, True, "zeros", settings), model, "b.h.conv2d", made)
    c = fill(fa.Linear(16, 5, True, settings), model, "c.h.linear", made)
    d = fill(fa.Linear(5, 3, True, settings), model, "d.logits.linear", made)
    h = torch.tanh(b(torch.tanh(a(batch["x"])))).flatten(1)
    F.cross_entropy(d(torch.tanh(c(h))), batch["y"]).backward()
    assert_same(gradients(model, batch), collected(made), 1e-12)


@pytest.mark.filterwarnings("ignore")  # it uses a kind of hook that torch calls old
def test_direct_of_a_linear_net():
    """Their B stands at the input of a layer, ours at the value of the task below: layers that open a task have one."""
    model = CHAIN.model("direct")
    batch = batch_of(model)
    opens = {"b.h.linear": "a", "c.h.linear": "b", "d.logits.linear": "c"}
    made = {name: model.get_buffer(f"{task}.direct.B") for name, task in opens.items()}
    h = batch["x"]
    for name in ("a.h.linear", "b.h.linear", "c.h.linear", "c.two", "d.logits.linear"):
        weight = model.get_parameter(f"{name}.weight")
        sizes = (weight.shape[1], weight.shape[0])
        layer = dfa.Linear(*sizes, 3, True, config("dfa")) if name in opens else torch.nn.Linear(*sizes)
        h = fill(layer, model, name, made)(h)
        h = h if name.startswith("d.") else torch.tanh(h)
    error = torch.autograd.grad(1.5 * F.cross_entropy(h, batch["y"]), h, retain_graph=True)[0]
    for key, layer in made.items():
        if key.endswith(" layer"):
            layer.loss_gradient = error
    h.backward(error)
    assert_same(gradients(model, batch), collected(made), 1e-12)
