"""Rules beside each other in one spec, losses of inner tasks, blocks of one's own, steps in which S does not learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import r2d2c
from tests.unit.credit_oracle import (
    CHAIN,
    CONV,
    SEQUENCE,
    Net,
    assert_same,
    batch_of,
    gradients,
    learned,
    params_of,
)
from tests.unit.credit_rules import Backprop, Direct, Feedback, Local, Synthetic, Target

B, L = Backprop(), Local()
DIRECT, SYNTHETIC, TARGET = Direct(outputs=["d"]), Synthetic(), Target()
FEEDBACK = {"c": ["c.h.linear", "c.two"], "b": ["b.h.linear"], "d": ["d.logits.linear"]}
MIXES = {
    # what the links a -> b, b -> c, c -> d do
    "target, backprop on top": ("target(noise=0)", "target(noise=0)", "backprop"),
    "backprop below target": ("backprop", "target(noise=0)", "backprop"),
    "local, direct": ("local", "direct", "direct"),
    "direct, local": ("direct", "local", "backprop"),
    "feedback, synthetic": ("feedback", "synthetic", "feedback"),
    "synthetic, feedback": ("synthetic", "feedback", "synthetic"),
    "synthetic, backprop, synthetic": ("synthetic", "backprop", "synthetic"),
    "synthetic over backprop": ("backprop", "backprop", "synthetic"),
    "target below direct": ("target(noise=0)", "direct", "backprop"),
    "target below synthetic": ("target(noise=0)", "synthetic", "backprop"),
    "target between targets of another": ("target(noise=0)", "synthetic", "target(noise=0)"),
    "synthetic below direct": ("synthetic", "direct", "direct"),
    "synthetic below target": ("synthetic", "target(noise=0)", "target(noise=0)"),
    "direct below target": ("direct", "target(noise=0)", "backprop"),
    "direct below backprop": ("direct", "backprop", "backprop"),
    "true and bootstrapped": ("synthetic(bootstrap=false)", "synthetic", "synthetic"),
    "bootstrapped and true": ("synthetic", "synthetic(bootstrap=false)", "synthetic"),
}


def rule_of(credit: str, p, upper: str):
    name, _, options = credit.partition("(")
    if name == "feedback":
        return Feedback("random", p, FEEDBACK, [upper])
    if name == "synthetic":
        return Synthetic(bootstrap="false" not in options)
    return {"backprop": B, "local": L, "direct": DIRECT, "target": TARGET}[name]


def links_of(credits) -> str:
    pairs = zip(("a", "b", "c"), ("b", "c", "d"), credits, strict=True)
    return "links:\n" + "\n".join(f'  {u}.h -> {v}: {{credit: "{c}"}}' for u, v, c in pairs)


@pytest.mark.parametrize("credits", MIXES.values(), ids=MIXES)
def test_rules_mix(credits):
    model = CHAIN.model("backprop", links_of(credits))
    p, batch = params_of(model), batch_of(model)
    rules = {
        (u, v): rule_of(c, p, v)
        for (u, v), c in zip((("a", "b"), ("b", "c"), ("c", "d")), credits, strict=True)
    }
    assert_same(gradients(model, batch), learned(CHAIN, p, batch, rules))


def test_hebbian_layers_below_backprop():
    model = CHAIN.model("backprop", links_of(("hebbian", "backprop", "backprop")))
    p, batch = params_of(model), batch_of(model)
    wanted = learned(CHAIN, p, batch, {("a", "b"): L, ("b", "c"): B, ("c", "d"): B})
    weight = p.tensors["a.h.linear.weight"].detach()
    y = F.linear(batch["x"], weight, p.tensors["a.h.linear.bias"].detach())
    wanted["a.h.linear.weight"] = -(y.T @ batch["x"] - y.T @ y @ weight) / len(y)
    assert_same(gradients(model, batch), wanted)


# -- what else a spec may say


def with_blocks(net: Net, blocks: str, credit: str) -> Net:
    return Net(
        net.text.replace("credit: CREDIT", f"blocks:\n{blocks}\ncredit: {credit}"), net.tasks, net.losses
    )


GUESS = """  guess(h, y):
    body: return concat(h, one_hot(y, C)) |> linear(6, name=in) |> tanh |> linear(4, name=out)"""
OWN = {f"{k}.linear" for k in ("a.h", "b.h", "c.h", "d.logits")} | {"c.two"}


def block_layers(model) -> list[str]:
    """The layers of predictors and inverses."""
    names = [n.removesuffix(".weight") for n, _ in model.named_parameters() if n.endswith(".weight")]
    return [name for name in names if name not in OWN]


def test_a_predictor_of_ones_own_sees_the_label():
    net = with_blocks(CHAIN, GUESS, "backprop")
    model = net.model("", 'links:\n  a.h -> b: {credit: "synthetic(labels=y, predictor=guess)"}')
    inner, outer = block_layers(model)
    p, batch = params_of(model), batch_of(model)

    def guess(run, h):
        seen = torch.cat([h, F.one_hot(run.batch["y"], 3).double()], 1)
        return run.p.linear(outer, torch.tanh(run.p.linear(inner, seen)))

    rules = {("a", "b"): Synthetic(predictor=guess), ("b", "c"): B, ("c", "d"): B}
    assert_same(gradients(model, batch), learned(net, p, batch, rules))


def test_an_inverse_of_ones_own():
    block = "  back(v):\n    body: return v |> linear(7, name=in) |> tanh |> linear(4, name=out)"
    net = with_blocks(CHAIN, block, "backprop")
    model = net.model("", 'links:\n  a.h -> b: {credit: "target(inverse=back, noise=0)"}')
    inner, outer = block_layers(model)
    p, batch = params_of(model), batch_of(model)

    def inverse(run, u, value):
        return run.p.linear(outer, torch.tanh(run.p.linear(inner, value)))

    rules = {("a", "b"): Target(inverse=inverse), ("b", "c"): B, ("c", "d"): B}
    assert_same(gradients(model, batch), learned(net, p, batch, rules))


def test_a_convolution_as_the_inverse():
    block = "  back(v):\n    body: return v |> conv_transpose2d(3, 4, stride=2)"
    net = with_blocks(CONV, block, "backprop")
    model = net.model("", 'links:\n  a.h -> b: {credit: "target(inverse=back, noise=0)"}')
    (name,) = [
        n.removesuffix(".weight") for n, _ in model.named_parameters() if "back" in n and "weight" in n
    ]
    p, batch = params_of(model), batch_of(model)

    def inverse(run, u, value):
        return F.conv_transpose2d(
            value, run.p.tensors[f"{name}.weight"], run.p.tensors[f"{name}.bias"], stride=2
        )

    rules = {("a", "b"): Target(inverse=inverse), ("b", "c"): B, ("c", "d"): B}
    assert_same(gradients(model, batch), learned(net, p, batch, rules))


def test_sequences_of_unknown_length_with_blocks_of_ones_own():
    blocks = "  guess(h):\n    body: return linear(h, 4)\n  back(v):\n    body: return linear(v, 6)"
    net = with_blocks(SEQUENCE, blocks, "backprop")
    links = 'links:\n  a.h -> b: {credit: synthetic(predictor=guess)}\n  b.h -> c: {credit: "target(inverse=back, noise=0)"}'
    model = net.model("", links)
    p, batch = params_of(model), batch_of(model)
    assert batch["x"].shape == (5, 7, 5)
    own = {f"{k}.linear" for k in ("a.h", "b.h", "c.h", "d.out")}
    extra = [n.removesuffix(".weight") for n in p.tensors if n.endswith(".weight")]
    predictor, inverse = sorted((n for n in extra if n not in own), key=lambda n: len(p.tensors[f"{n}.bias"]))
    rules = {
        ("a", "b"): Synthetic(predictor=lambda run, h: run.p.linear(predictor, h)),
        ("b", "c"): Target(inverse=lambda run, u, value: run.p.linear(inverse, value)),
        ("c", "d"): B,
    }
    assert_same(gradients(model, batch), learned(net, p, batch, rules))


def test_the_predictor_learns_in_every_third_step_only():
    model = CHAIN.model("synthetic(every=3)")
    names = [name for name, _ in model.named_parameters() if "predictor" in name]
    assert len(names) == 6
    for step in range(7):
        batch, p = batch_of(model, step), params_of(model)
        found = gradients(model, batch)
        assert_same(found, learned(CHAIN, p, batch, Synthetic(learns=step % 3 == 0)))
        assert all((found[name] is None) == (step % 3 != 0) for name in names)


def test_predictors_with_different_clocks_and_truths():
    credits = ("synthetic(every=2)", "synthetic(every=3, bootstrap=false)", "synthetic")
    model = CHAIN.model("backprop", links_of(credits))
    for step in range(6):
        batch, p = batch_of(model, step), params_of(model)
        rules = {
            ("a", "b"): Synthetic(learns=step % 2 == 0),
            ("b", "c"): Synthetic(learns=step % 3 == 0, bootstrap=False),
            ("c", "d"): SYNTHETIC,
        }
        assert_same(gradients(model, batch), learned(CHAIN, p, batch, rules))


TWO_LABELS = """
r2d2c: 1
inputs:
  x: f32[B, 5]
targets:
  y: i64[B]
  z: i64[B]
credit: synthetic(labels=z)
tasks:
  a:
    behavior: h = x |> linear(4) |> tanh
  b:
    behavior: |
      logits = linear(a.h, 3)
      more = linear(a.h, 6)
    distance: cross_entropy(logits, y) + cross_entropy(more, z)
outputs:
  logits: b.logits
"""


def test_labels_are_those_that_are_named():
    model = r2d2c.compile(r2d2c.loads(TWO_LABELS)).double()
    weight = model.get_parameter("a.synthetic.predictor.weight")
    assert weight.shape == (4, 4 + 6)
    batch = batch_of(model)
    found = gradients(model, batch)["a.synthetic.predictor.weight"]
    seen = (found[:, 4:] != 0).any(0)
    assert seen.nonzero().flatten().tolist() == sorted(set(batch["z"].tolist()))


TWO_VALUES = """
r2d2c: 1
inputs:
  x: f32[B, 5]
targets:
  y: i64[B]
credit: CREDIT
tasks:
  a:
    behavior: |
      h = x |> linear(4) |> tanh
      g = x |> linear(6) |> tanh
  b:
    behavior: h = concat(a.h, a.g) |> linear(4) |> tanh
  c:
    behavior: logits = linear(b.h, 3)
    distance: cross_entropy(logits, y)
outputs:
  logits: c.logits
"""
SPLIT = {  # the same as two tasks
    "tasks:": "tasks:",
    "      g = x": "  e:\n    behavior: |\n      g = x",
    "a.g": "e.g",
}
OFTEN = [
    "feedback",
    "direct",
    "synthetic(labels=y)",
    "target(noise=0)",
    "alternate",
    "predictive(steps=3)",
    "equilibrium",
    "hebbian",
]


@pytest.mark.parametrize("credit", OFTEN)
def test_two_values_of_a_task_are_as_two_tasks(credit):
    """Every value has a B, a predictor or an inverse of its own."""
    text = TWO_VALUES.replace("CREDIT", credit)
    split = text
    for old, new in SPLIT.items():
        split = split.replace(old, new)
    one, two = (r2d2c.compile(r2d2c.loads(t)).double() for t in (text, split))
    rule = credit.partition("(")[0]

    def renamed(name: str) -> str:
        return (
            name.replace("e.g.", "a.g.")
            .replace(f"e.{rule}.", f"a.{rule}.g.")
            .replace(f"a.{rule}.", f"a.{rule}.h.")
            .replace(f"a.{rule}.h.g.", f"a.{rule}.g.")
        )

    state = {renamed(name): tensor for name, tensor in two.state_dict().items()}
    assert state.keys() == one.state_dict().keys()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in state.values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.5)
    one.load_state_dict(state)
    batch = batch_of(one)
    wanted = {renamed(n): g for n, g in gradients(two, batch).items() if g is not None}
    assert_same(gradients(one, batch), wanted)
