"""Training that goes on from the run of another spec: wider layers, new tasks, op graphs that grow on."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.driver import Checked, check_source
from r2d2c.model import Model
from r2d2c.ops.op_graph import TABLE
from r2d2c.ops.op_graph_rows import topology_of
from r2d2c.sampling import random_batch
from r2d2c.source import Source
from r2d2c.train.checkpoint import Checkpoint, load_checkpoint, packed_state
from r2d2c.train.chunks import learn_batch
from r2d2c.train.growth_log import differences
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.replay import replay
from r2d2c.train.settings import read_settings
from r2d2c.train.stepper import Stepper
from r2d2c.train.transplant import apply, plan_transplant, transplant
from r2d2c.train.transplant_check import compare
from r2d2c.train.transplant_report import Report
from tests.unit.runs import three_classes, write_table

TIGHT = 1e-12


pytestmark = pytest.mark.usefixtures("one_thread")


def written(body: str, dims: str, x: str = "f32[B, D]", more: str = "", train: str = "data: digits") -> str:
    lines = "\n".join(f"      {line}" for line in body.strip().splitlines())
    return f"""\
r2d2c: 1
model: small
dims: {{{dims}}}
inputs: {{x: "{x}"}}
targets: {{y: "i64[B]"}}
{more}tasks:
  c:
    behavior: |
{lines}
    distance: cross_entropy(logits, y)
outputs: {{logits: c.logits}}
train:
  {train}
"""


def check(text: str) -> Checked:
    return check_source(Source("spec.yaml", text))


def shaken(text: str) -> Model:
    """A model in f64 whose biases are not zero either, and whose statistics are not those of the start."""
    model = Model(check(text)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in model.named_buffers():
            if name.endswith(("mean", "var", "variance")):
                buffer.add_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return model


def moved(before: str, now: str, **names: str) -> tuple[Model, Model, Report]:
    old, new = shaken(before), Model(check(now)).double()
    report = transplant(new, None, old.spec, Checkpoint(old.state_dict()), names=names)
    return old, new, report


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def assert_same(old: Model, new: Model, x: torch.Tensor, narrow: Any = None, name: str = "logits") -> None:
    with torch.no_grad():
        one, other = old(x=x if narrow is None else narrow(x))[name], new(x=x)[name]
    assert (one - other[..., : one.shape[-1]]).abs().max() <= TIGHT * max(1.0, float(one.abs().max()))


# -- the function stays


MLP = """
h = x |> linear(H) |> relu |> linear(H) |> batch_norm |> tanh
logits = linear(h, C)"""
JOINED = """
a = linear(x, H) |> relu
b = linear(x, G) |> relu
logits = linear(concat(a, b, x), C)"""
CONV = """
h = x |> conv2d(H, 3, same=true) |> batch_norm |> relu |> conv2d(G, 3) |> relu |> max_pool2d(2) |> flatten
logits = linear(h, C)"""
GATES = """
g = linear(x, 3*H)
h = tanh(g[:, :H]) * sigmoid(g[:, H:2*H]) + g[:, 2*H:]
u, v = split(linear(h, 2*H), 2)
w = glu(linear(u * v, 2*H))
logits = linear(w, C)"""
HEADS = """
q = linear(x, H*G) |> reshape((B, H, G))
k = rearrange(linear(x, H*G), "b (h e) -> b e h", h=H)
z = q + transpose(k, 1, 2)
logits = linear(flatten(z), C)"""
MIDDLE = """
a = linear(x, H)
b = linear(x, G)
s = stack(a, a + 1, axis=1) |> sum(1)
m = matmul(unsqueeze(concat(b, s, b), 1), learned((2*G + H, 5)))
logits = linear(einsum("bij,jk->bik", m, learned((5, H)))[:, 0], C)"""
BILINEAR = """
a = linear(x, H)
logits = bilinear(a, x, C, name=pair) + prelu(linear(a, C, bias=false))"""


@pytest.mark.parametrize(
    ("body", "before", "now", "shape"),
    [
        (MLP, "D: 4, H: 5, C: 3", "D: 4, H: 8, C: 3", (4,)),
        (JOINED, "D: 4, H: 5, G: 2, C: 3", "D: 4, H: 8, G: 3, C: 3", (4,)),
        (CONV, "H: 3, G: 2, C: 3", "H: 4, G: 5, C: 3", (1, 8, 8)),
        (GATES, "D: 4, H: 5, C: 3", "D: 4, H: 8, C: 3", (4,)),
        (HEADS, "D: 4, H: 2, G: 3, C: 3", "D: 4, H: 3, G: 5, C: 3", (4,)),
        (MIDDLE, "D: 4, H: 3, G: 2, C: 3", "D: 4, H: 6, G: 4, C: 3", (4,)),
        (BILINEAR, "D: 4, H: 3, C: 3", "D: 4, H: 7, C: 3", (4,)),
    ],
)
def test_a_wider_model_computes_the_same(body: str, before: str, now: str, shape: tuple[int, ...]) -> None:
    x = "f32[B, 1, 8, 8]" if body == CONV else "f32[B, D]"
    old, new, report = moved(written(body, before, x), written(body, now, x))
    assert_same(old, new, draw(6, *shape))
    assert {entry.what for entry in report.entries} == {"kept", "widened"}


def test_without_the_zeros_it_would_not() -> None:
    """What the tests above hold: the weights of new inputs, as a new model has them, change old outputs."""
    old, new, _ = moved(written(MLP, "D: 4, H: 5, C: 3"), written(MLP, "D: 4, H: 8, C: 3"))
    fresh = Model(new.spec).double()
    with torch.no_grad():
        new.get_parameter("c.logits.linear.weight")[:, 5:] = fresh.get_parameter("c.logits.linear.weight")[
            :, 5:
        ]
        assert (old(x=draw(6, 4))["logits"] - new(x=draw(6, 4))["logits"]).abs().max() > 1e-2


def test_where_the_columns_of_a_concat_are() -> None:
    """By hand: a, b and x lie at 0, 5 and 7 of 11 columns, then at 0, 8 and 11 of 17; x has two more at its end."""
    old, new, _ = moved(written(JOINED, "D: 4, H: 5, G: 2, C: 3"), written(JOINED, "D: 6, H: 8, G: 3, C: 3"))
    was, now = (model.get_parameter("c.logits.linear.weight") for model in (old, new))
    places = [0, 1, 2, 3, 4, 8, 9, 11, 12, 13, 14]
    assert now.shape == (3, 17) and torch.equal(now[:, places], was)
    assert (now[:, sorted({*range(17)} - {*places})] == 0).all()
    first, fresh = (
        new.get_parameter("c.a.linear.weight"),
        Model(new.spec).double().get_parameter("c.a.linear.weight"),
    )
    assert torch.equal(first[:5, :4], old.get_parameter("c.a.linear.weight"))
    assert (first[:5, 4:] == 0).all() and torch.equal(first[5:], fresh[5:])
    assert_same(old, new, draw(6, 6), lambda x: x[:, :4])


def test_more_classes_and_new_inputs_of_a_concat() -> None:
    more = JOINED.replace("concat(a, b, x)", "concat(a, sin(a), b, x)")
    old, new, _ = moved(written(JOINED, "D: 4, H: 5, G: 2, C: 3"), written(more, "D: 4, H: 5, G: 2, C: 6"))
    now = new.get_parameter("c.logits.linear.weight")
    assert torch.equal(now[:3, [*range(5), *range(10, 16)]], old.get_parameter("c.logits.linear.weight"))
    assert (now[:3, 5:10] == 0).all() and (now[3:] != 0).all()
    assert_same(old, new, draw(6, 4))


def test_more_tokens() -> None:
    body = "h = embedding(x, V, H) |> mean(1)\nlogits = linear(h, C)"
    before, now = (written(body, f"V: {v}, H: {h}, C: 3", "i64[B, 7]") for v, h in ((5, 4), (9, 6)))
    old, new, _ = moved(before, now)
    tokens = torch.randint(0, 5, (6, 7), generator=torch.Generator().manual_seed(0))
    assert_same(old, new, tokens)
    # Tokens that the run did not know are shown to neither model.
    plan = plan_transplant(new, old.spec, Checkpoint(old.state_dict()), {})
    (found,) = compare(plan, new, {"x": torch.arange(63).reshape(9, 7) % 9})
    assert found.same and found.samples == 9
    weight = new.get_parameter("c.h.embedding.weight")
    assert torch.equal(weight[:5, :4], old.get_parameter("c.h.embedding.weight")) and (weight != 0).all()


def test_shared_weights_are_zero_where_an_old_unit_reads_a_new_one() -> None:
    body = "e = linear(x, H, name=in)\nlogits = linear(tanh(linear(tanh(e), H, name=again)), C)"
    body = body.replace("name=again", "name=again, weight=shared") + "\n"
    body = "shared = learned((H, H))\n" + body
    old, new, report = moved(written(body, "D: 4, H: 3, C: 2"), written(body, "D: 4, H: 5, C: 2"))
    assert_same(old, new, draw(6, 4))
    shared = next(entry.name for entry in report.entries if "learned" in entry.name or "shared" in entry.name)
    value = new.get_parameter(shared)
    assert (value[:3, 3:] == 0).all() and (value[3:] != 0).all()


RECURRENT = """\
r2d2c: 1
model: read
dims: {dims}
inputs: {{x: "f32[B, T, D]"}}
targets: {{y: "i64[B]"}}
loops:
  read(text):
    over: T
    each: {{token: text}}
    carry: {{h: "f32[B, H + G] = zeros"}}
    body: |
      new = linear(concat(token, h), 2*(H + G))
      gate, new = split(new, 2)
      low = linear(sigmoid(gate) * tanh(new), G)
      h = concat(relu(linear(h, H)), low)
tasks:
  c:
    behavior: |
      r = read(x)
      logits = linear(r.h, 3)
    distance: cross_entropy(logits, y)
outputs: {{logits: c.logits}}
train: {{data: digits}}
"""


def test_a_carry_that_is_a_concat() -> None:
    """The first state is zeros, and says nothing of where old units are; the next one does."""
    before, now = (RECURRENT.format(dims=f"{{D: 2, H: {h}, G: {g}}}") for h, g in ((3, 2), (5, 4)))
    old, new, _ = moved(before, now)
    x = draw(4, 6, 2)
    assert_same(old, new, x)
    weight = new.get_parameter("c.logits.linear.weight")
    assert torch.equal(weight[:, [0, 1, 2, 5, 6]], old.get_parameter("c.logits.linear.weight"))


def test_more_slots_of_a_memory() -> None:
    """What writes no more than the old slots is read as before, in a memory with more of them."""
    text = (Path(__file__).parents[2] / "specs/memory/remember.yaml").read_text()
    assert "K: 8" in text
    folder = Path(__file__).parents[2] / "specs/memory"
    old = Model(check_source(Source("old.yaml", text), folder=folder)).double()
    new = Model(check_source(Source("new.yaml", text.replace("K: 8", "K: 11")), folder=folder)).double()
    report = transplant(new, None, old.spec, Checkpoint(old.state_dict()))
    assert [entry.shape for entry in report.of("widened")] == ["10×(256 → 352)"]
    tokens = torch.randint(0, 8, (5, 8), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        one, other = old(x=tokens)["logits"], new(x=tokens)["logits"]
        assert (one - other).abs().max() <= TIGHT
        longer = torch.randint(0, 8, (5, 20), generator=torch.Generator().manual_seed(2))
        plan = plan_transplant(new, old.spec, Checkpoint(old.state_dict()), {})
        (found,) = compare(plan, new, {"x": longer})
    if not found.same:
        assert "keeps 11 samples where it kept 8" in str(found)


def test_more_concepts_of_a_shared_memory() -> None:
    more = """\
memories:
  concepts:
    slots: K
    fields: {key: "f32[S]", meaning: "f32[S]"}
    shared: true
"""
    body = """
q = linear(x, S)
logits = linear(relu(q @ transpose(concepts.key, 0, 1)) @ concepts.meaning, C) + linear(flatten(concepts.key, 0), C)"""
    texts = [written(body, f"D: 4, K: {k}, S: {s}, C: 3", more=more) for k, s in ((5, 4), (7, 6))]
    old, new, report = moved(*texts)
    assert_same(old, new, draw(6, 4))
    assert {"concepts.key", "concepts.meaning"} <= {entry.name for entry in report.of("widened")}


@pytest.mark.parametrize(
    ("file", "before", "now", "widened"),
    [
        ("memory/gru.yaml", "S: 96", "S: 102", 6),  # three gates in one weight
        ("memory/lstm.yaml", "S: 96", "S: 102", 5),
        ("memory/stacked.yaml", "S: 96", "S: 102", 12),
        ("r2d2/digits.yaml", "V: 16", "V: 24", 5),  # a hypernet's weights
        ("baselines/conv.yaml", "W: 16", "W: 24", 19),
        ("credit/feedback.yaml", "H: 64", "H: 80", 13),  # with the fixed matrices of the credit rule
        ("growth/digits.yaml", "D: 64", "D: 80", 1),
    ],
)
def test_ready_specs(file: str, before: str, now: str, widened: int) -> None:
    path = Path(__file__).parents[2] / "specs" / file
    text = path.read_text("utf-8")
    assert before in text
    old, new = (
        Model(check_source(Source(file, t), folder=path.parent)).double()
        for t in (text, text.replace(before, now))
    )
    plan = plan_transplant(new, old.spec, Checkpoint(old.state_dict()), {})
    report = apply(plan, new, None, "it")
    assert len(report.of("widened")) == widened
    outputs = compare(plan, new, random_batch(new.graph, 1, dtype=torch.float64))
    assert outputs and all(found.difference <= TIGHT * max(1, found.scale) for found in outputs)


def test_a_norm_over_a_wider_axis_is_told() -> None:
    body = "h = x |> linear(H) |> layer_norm |> relu\nlogits = linear(h, C)"
    old, new = (
        shaken(written(body, "D: 4, H: 5, C: 3")),
        Model(check(written(body, "D: 4, H: 8, C: 3"))).double(),
    )
    plan = plan_transplant(new, old.spec, Checkpoint(old.state_dict()), {})
    apply(plan, new, None, "it")
    (found,) = compare(plan, new, {"x": draw(6, 4)})
    with torch.no_grad():
        apart = float((old(x=draw(6, 4))["logits"] - new(x=draw(6, 4))["logits"]).abs().max())
    assert found.difference == pytest.approx(apart) and apart > 0.01
    assert str(found).endswith("`layer_norm` (c.h.layer_norm) mixes old and new units") and not found.same


# -- what learns afterwards


def stepper_of(model: Model) -> Stepper:
    settings = read_settings(model.spec, Sink())
    assert settings is not None
    return Stepper(
        {n: p for n, p in model.named_parameters() if p.requires_grad},
        model._training_graph.visits,
        settings.record,
        settings.optimizer,
        rates=settings.rates,
    )


def batch(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {
        "x": torch.randn(16, 4, generator=generator, dtype=torch.float64),
        "y": torch.randint(0, 3, (16,), generator=generator),
    }


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd(lr=0.1, momentum=0.9)",
        "adamw(amsgrad=true)",
        # A step of muon and adafactor depends on the whole matrix: see test_transplant_state.
        *(record.name for record in OPTIMIZERS if not record.matrices_only and record.name != "adafactor"),
    ],
)
def test_old_units_learn_on_as_if_nothing_had_happened(optimizer: str) -> None:
    """New units read nothing the old ones are changed by: in the next step the old model is still inside, exactly."""
    body = "h = x |> linear(H) |> tanh\nlogits = linear(h, C)"
    texts = [
        written(body, f"D: 4, H: {h}, C: 3", train=f"data: digits\n  optimizer: {optimizer}") for h in (5, 8)
    ]
    old, new = shaken(texts[0]), Model(check(texts[1])).double()
    first = stepper_of(old)
    first.zero_grad()
    for number in range(4):
        learn_batch(old, first, batch(number), {}, None)
    second = stepper_of(new)
    report = transplant(new, second, old.spec, Checkpoint(dict(old.state_dict()), first.pack()))
    assert {entry.state for entry in report.entries} == (
        {"new"} if optimizer == "sgd" else {"kept", "padded"}
    )
    second.zero_grad()
    for model, stepper in ((old, first), (new, second)):
        learn_batch(model, stepper, batch(9), {}, None)
    for name, was in old.named_parameters():
        now = new.get_parameter(name)
        assert (now[tuple(slice(size) for size in was.shape)] - was).abs().max() <= 1e-12, name


def test_the_state_of_the_optimizer_by_hand() -> None:
    body = "h = x |> linear(H) |> tanh\nlogits = linear(concat(h, x), C)"
    texts = [
        written(body, f"D: 4, H: {h}, C: 3", train="data: digits\n  optimizer: adam(lr=0.01)") for h in (2, 3)
    ]
    old, new = shaken(texts[0]), Model(check(texts[1])).double()
    first, second = stepper_of(old), stepper_of(new)
    first.zero_grad()
    for number in range(3):
        learn_batch(old, first, batch(number), {}, None)
    transplant(new, second, old.spec, Checkpoint(dict(old.state_dict()), first.pack()))
    name = "c.logits.linear.weight"
    was, now = first.state_of(name), second.state_of(name)
    assert was is not None and now is not None
    for key in ("exp_avg", "exp_avg_sq"):
        wanted = torch.zeros(3, 7, dtype=torch.float64)
        wanted[:, [0, 1, 3, 4, 5, 6]] = was[0][key]
        assert torch.equal(now[0][key], wanted) and (was[0][key] != 0).any()
    assert float(now[0]["step"]) == float(was[0]["step"]) == 3


def test_new_units_have_something_to_learn() -> None:
    body = "h = x |> linear(H) |> tanh |> linear(H) |> tanh\nlogits = linear(h, C)"
    _, new, _ = moved(written(body, "D: 4, H: 5, C: 3"), written(body, "D: 4, H: 8, C: 3"))
    for parameter in new.parameters():
        parameter.grad = None
    new.learn(**batch(0))
    # At once the weights that read new units; after a step of these, the new units themselves.
    grad = new.get_parameter("c.logits.linear.weight").grad
    assert grad is not None and (grad[:, 5:] != 0).all()
    with torch.no_grad():
        for parameter in new.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
                parameter.grad = None
    new.learn(**batch(1))
    for name in ("c.h.linear.weight", "c.h.linear_2.weight"):
        grad = new.get_parameter(name).grad
        assert grad is not None and (grad[5:].abs().sum(1) > 0).all()


def test_another_optimizer_begins_anew() -> None:
    body = "logits = linear(x, C)"
    texts = [
        written(body, "D: 4, C: 3", train=f"data: digits\n  optimizer: {o}") for o in ("adam", "sgd(lr=0.1)")
    ]
    old, new = shaken(texts[0]), Model(check(texts[1])).double()
    first, second = stepper_of(old), stepper_of(new)
    first.zero_grad()
    learn_batch(old, first, batch(0), {}, None)
    report = transplant(new, second, old.spec, Checkpoint(dict(old.state_dict()), first.pack()))
    assert report.optimizer == "new: the run had adam, the spec has sgd"
    assert second.state_of("c.logits.linear.weight") is None
    momentum = check(texts[1].replace("lr=0.1", "lr=0.1, momentum=0.9"))
    report = transplant(
        Model(momentum).double(), stepper_of(Model(momentum)), check(texts[1]), Checkpoint(new.state_dict())
    )
    assert report.optimizer == "new: the spec's sgd is another one, by momentum"


# -- what is refused


def refused(before: str, now: str, *codes: str, names: dict[str, str] | None = None) -> str:
    old, new = shaken(before), Model(check(now)).double()
    kept = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    with pytest.raises(CompileError) as caught:
        transplant(new, None, old.spec, Checkpoint(old.state_dict()), names=names)
    assert [d.code for d in caught.value.diagnostics] == list(codes)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in new.state_dict().items())
    return str(caught.value)


def test_less_room_is_refused() -> None:
    text = refused(written(MLP, "D: 4, H: 5, C: 3"), written(MLP, "D: 4, H: 4, C: 2"), "E581")
    assert "`c.logits.linear.bias` is [3] in the run and only [2] in the spec" in text
    flat, pairs = "logits = linear(x, C, name=one)", "logits = bilinear(x, x, C, name=one)"
    text = refused(written(flat, "D: 4, C: 3"), written(pairs, "D: 4, C: 3"), "E581")
    assert "`c.one.weight` is float64[3, 4] in the run and float64[3, 4, 4] in the spec" in text


def test_a_smaller_input_is_refused_though_the_weights_would_fit() -> None:
    """x loses two columns and z gets two: the weight keeps its shape, and its columns would be others' columns."""
    text = written("logits = linear(concat(x, z), C)", "D: {d}, E: {e}, C: 3").replace(
        "{x:", '{z: "f32[B, E]", x:'
    )
    before, now = (text.replace("{d}", str(d)).replace("{e}", str(e)) for d, e in ((4, 2), (2, 4)))
    assert "`x` is f32[B, D=4] in the run and f32[B, D=2] in the spec" in refused(before, now, "E581")


def test_outputs_that_cannot_be_compared_say_why() -> None:
    before = written("logits = linear(x, C)", "D: 4, C: 3").replace("{x:", '{z: "f32[B, 1]", x:')
    before = before.replace("linear(x, C)", "linear(x, C) + z")
    for now, why in (
        (before.replace('z: "f32[B, 1]", ', "").replace(" + z", ""), "the run's model reads `z`"),
        (before.replace("f32[B, 1]", "i64[B, 1]"), "`z` is f32[B, 1] in the run and i64[B, 1] in the spec"),
    ):
        old, new = shaken(before), Model(check(now)).double()
        plan = plan_transplant(new, old.spec, Checkpoint(old.state_dict()), {})
        (found,) = compare(plan, new, {"x": draw(6, 4), "z": torch.ones(6, 1, dtype=torch.int64)})
        assert found.skipped.startswith(why) and not found.same and str(found).startswith("not compared: ")


def test_longer_sequences_than_the_run_allowed() -> None:
    body = "logits = linear(mean(x, 1), C)"
    before = written(body, "D: 4, L: 2..5, C: 3", "f32[B, L, D]")
    old, new = shaken(before), Model(check(before.replace("2..5", "2..9"))).double()
    plan = plan_transplant(new, old.spec, Checkpoint(old.state_dict()), {})
    (found,) = compare(plan, new, {"x": draw(6, 8, 4)})
    assert "does not take these samples" in found.skipped
    apply(plan, new, None, "it")
    (found,) = compare(plan, new, {"x": draw(6, 4, 4)})
    assert found.difference == 0


@pytest.mark.parametrize(
    ("body", "before", "now", "x", "name"),
    [
        # A larger image: the flat entries are pixels that no rule can name.
        ("logits = linear(flatten(avg_pool2d(x, 2)), C)", "S: 4, C: 3", "S: 8, C: 3", "f32[B, 1, S, S]", "logits.linear"),
        ("logits = linear(flatten(conv2d(x, 2, S)), C)", "S: 3, C: 3", "S: 5, C: 3", "f32[B, 1, 8, 8]", "conv2d"),
        ("logits = linear(flatten(conv2d(conv2d(x, S, 1), S, 1, groups=2)), C)", "S: 4, C: 3", "S: 8, C: 3", "f32[B, 1, 2, 2]", "conv2d_2"),
        # Two slices that overlap: neither is the whole, and the second one begins elsewhere.
        ("h = linear(x, 4*S)\nlogits = linear(h[:, S:3*S], C)", "S: 2, C: 3", "S: 3, C: 3", "f32[B, 4]", "logits.linear"),
    ],
)  # fmt: skip
def test_what_nobody_can_widen_is_refused(body: str, before: str, now: str, x: str, name: str) -> None:
    old, new = shaken(written(body, before, x)), Model(check(written(body, now, x))).double()
    with pytest.raises(CompileError) as caught:
        transplant(new, None, old.spec, Checkpoint(old.state_dict()))
    assert {d.code for d in caught.value.diagnostics} <= {"E581", "E582"}
    assert f"{name}.weight" in str(caught.value)


def test_names() -> None:
    before = written("logits = linear(x, C)", "D: 4, C: 3")
    now = before.replace("  c:\n", "  again:\n").replace("c.logits", "again.logits")
    assert "nothing of the run is in the spec" in refused(before, now, "E585")
    old, new, report = moved(before, now, again="c")
    assert {entry.name: entry.what for entry in report.entries} == {
        "again.logits.linear.weight": "kept",
        "again.logits.linear.bias": "kept",
    }
    assert_same(old, new, draw(6, 4))
    assert "the run has no parameter `b`" in refused(before, now, "E586", "E585", names={"again": "b"})
    with pytest.raises(CompileError, match=r"E586.*`again` renames nothing"):
        r2d2c.train(check(now), start="nowhere", rename=["again"])
    with pytest.raises(CompileError, match=r"E586.*two names become `a`"):
        r2d2c.train(check(now), start="nowhere", rename=["c=a", "d=a"])


# -- op graphs and whole runs


GROWING = """\
r2d2c: 1
model: growing
dims: {D: 4, C: 3}
inputs: {x: "f32[B, D]"}
targets: {y: "i64[B]"}
op_graphs:
  layer:
    ops: [add, mul, gauss, sin, gated]
    capacity: 14
    start: 6
    nodes:
      o0: x[0] * x[1]
      o1: o0 + p
    normalise: batch
    grow:
      every: epochs(1)
      add: 3
      prune: 2
tasks:
  classify:
    behavior: |
      columns = layer(x)
      logits = linear(columns, C)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train:
  data: csv:data.csv?target=y
  epochs: 4
  batch_size: 16
  optimizer: adam(lr=0.01)
"""
SECOND = """\
  second:
    behavior: |
      sign = linear(tanh(linear(columns, 5)), 2)
    distance: cross_entropy(sign, y // 2)
"""


def two_tasks(text: str = GROWING) -> str:
    """Another read-out of the same columns, and room for more ops."""
    more = text.replace(
        "outputs: {logits: classify.logits}", SECOND.replace("(columns,", "(classify.columns,")
    )
    more = more.replace("train:\n", "outputs: {logits: classify.logits, sign: second.sign}\ntrain:\n")
    return more.replace("capacity: 14", "capacity: 22")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("transplant")
    rng = random.Random(0)
    write_table(made / "data.csv", "abcd", 70, three_classes, rng)
    write_table(made / "wide.csv", "abcdef", 70, three_classes, rng)
    (made / "spec.yaml").write_text(GROWING)
    r2d2c.train(made / "spec.yaml", out=made / "first")
    return made


def go_on(folder: Path, name: str, text: str, **more: Any) -> Any:
    (folder / f"{name}.yaml").write_text(text)
    return r2d2c.train(folder / f"{name}.yaml", out=folder / name, start=folder / "first", **more)


def table_of(tensors: Any, inputs: int) -> Any:
    rows = {part: tensors[f"layer.{part}"].numpy() for part in TABLE}
    return topology_of(rows, inputs, ("o0", "o1"))


def test_an_op_graph_with_more_inputs_and_room(folder: Path) -> None:
    run = r2d2c.open_run(folder / "first")
    text = (
        GROWING.replace("D: 4", "D: 6")
        .replace("capacity: 14", "capacity: 20")
        .replace("linear(columns", "linear(concat(x, columns)")
    )
    before = GROWING.replace("linear(columns", "linear(concat(x, columns)")
    old = shaken(before)
    old.load_state_dict(
        {n: t for n, t in run.model.double().state_dict().items() if "logits" not in n}, strict=False
    )
    new = Model(check(text)).double()
    report = transplant(new, None, old.spec, Checkpoint(dict(old.state_dict())))
    x = draw(9, 6)
    assert_same(old, new, x, lambda x: x[:, :4])
    was, now = table_of(old.state_dict(), 4), table_of(new.state_dict(), 6)
    assert was.rows == now.rows and was.next == now.next and now.capacity == 20
    # By hand: columns of inputs stay, those of nodes come two later, numbers of their own are -1.
    assert np.array_equal(now.args[:14], np.where(was.args >= 4, was.args + 2, was.args))
    assert (now.kind[14:] == -1).all() and (new.get_parameter("layer.numbers")[14:] == 0).all()
    assert {e.name: e.shape for e in report.of("widened")}["classify.logits.linear.weight"] == "3×(22 → 32)"
    # The columns of the read-out: x, its new ones, x again, its new ones, the nodes' and the new room.
    weight = new.get_parameter("classify.logits.linear.weight")
    places = [*range(4), *range(6, 10), *range(12, 26)]
    assert torch.equal(weight[:, places], old.get_parameter("classify.logits.linear.weight"))


def test_inputs_in_the_middle_of_what_an_op_graph_reads() -> None:
    body = "a = linear(x, H)\nlogits = linear(layer(concat(a, x)), C)"
    more = "op_graphs:\n  layer: {ops: [mul, add], capacity: 8, start: 6}\n"
    texts = [written(body, f"D: 3, H: {h}, C: 2", more=more) for h in (2, 5)]
    old, new, _ = moved(*texts)
    assert_same(old, new, draw(9, 3))
    was, now = (model.get_buffer("layer.args") for model in (old, new))
    table = torch.tensor([0, 1, 5, 6, 7, *range(8, 16), -1])
    assert torch.equal(now, table[was]) and (was >= 2).any()


def test_growth_goes_on_and_the_log_is_exact(folder: Path) -> None:
    first = load_checkpoint(folder / "first/checkpoints/last.safetensors")
    began: dict[str, Any] = {}

    class Look:
        def on_start(self, start: Any) -> None:
            began.update(load_checkpoint(folder / "grown/checkpoints/last.safetensors").model)

    run = go_on(folder, "grown", two_tasks(), callbacks=[Look()])
    was, now = table_of(first.model, 4), table_of(began, 4)
    assert was.rows == now.rows and now.next == was.next
    head = json.loads((folder / "grown/mutations.jsonl").read_text().splitlines()[0])
    assert {row[1] for row in head["began"]["nodes"]} == set(was.rows)
    found = replay(run)["layer"]
    assert found.differences == () and found.rounds == 3
    new = set(found.topology.rows) - set(was.rows)
    assert new and all(int(name[1:]) >= was.next for name in new)
    # Three rounds had been: ages go on.
    rounds = first.state["growth"]["counts"]["layer"]["rounds"]
    assert rounds == 3
    for name, row in was.rows.items():
        assert now.born[now.rows[name]] == was.born[row] - rounds
    report = json.loads((folder / "grown/transplant.json").read_text())
    assert [(one["name"], one["verdict"]) for one in report["outputs"]] == [
        ("logits", "the same to the last bit")
    ]
    kinds = {entry["name"]: entry["what"] for entry in report["tensors"]}
    assert (
        kinds["classify.logits.linear.bias"] == "kept" and kinds["classify.logits.linear.weight"] == "widened"
    )
    assert kinds["second.sign.linear.weight"] == "new" and kinds["layer.kind"] == "moved"
    assert report["optimizer"].startswith("adam, the state of 3 parameters goes on")
    assert (
        "started from: " in run.summary
        and "output logits at the start: the same to the last bit" in run.summary
    )
    # The optimizer's state of what went on, as the run had it.
    theirs = {k: v for p in first.optimizers.values() for k, v in packed_state(p).items()}
    assert set(theirs) == {"layer.numbers", "classify.logits.linear.weight", "classify.logits.linear.bias"}


def test_a_run_that_was_started_so_goes_on_exactly_without_the_old_one(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(folder, work, ignore=shutil.ignore_patterns("grown*", "whole*"))
    text = two_tasks()
    go_on(work, "whole", text)

    class Signal:
        def on_step(self, step: Any) -> None:
            if (step.epoch, step.batch) == (1, 2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        go_on(work, "parts", text, callbacks=[Signal()])
    shutil.rmtree(work / "first")
    r2d2c.train(resume=work / "parts")
    one, other = (
        load_checkpoint(work / name / "checkpoints/last.safetensors") for name in ("whole", "parts")
    )
    assert one.model.keys() == other.model.keys()
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)
    for key, packed in one.optimizers.items():
        assert all(torch.equal(t, other.optimizers[key].tensors[n]) for n, t in packed.tensors.items())
    logs = [(work / name / "mutations.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1] and logs[0].count(b"\n") == 4


def test_a_new_task_leaves_old_outputs_as_they_are_to_the_bit(folder: Path) -> None:
    run = r2d2c.open_run(folder / "first")
    text = two_tasks().replace("capacity: 22", "capacity: 14")
    new = Model(check(text))
    report = transplant(new, None, run.spec, run.files.load("last"))
    x = draw(32, 4).float()
    with torch.no_grad():
        assert torch.equal(run.load("last")(x=x)["logits"], new(x=x)["logits"])
    assert {entry.what for entry in report.entries} == {"kept", "moved", "new"} or {"kept", "new"}
    assert not report.of("widened") and len(report.of("new")) == 4


def test_a_task_frozen_by_its_name(folder: Path) -> None:
    """`rates` with 0: the old task stays to the bit, the new one learns."""
    text = two_tasks().replace("    grow:\n      every: epochs(1)\n      add: 3\n      prune: 2\n", "")
    text = text.replace("    normalise: batch\n", "").replace("capacity: 22", "capacity: 14")
    text += "  rates: {classify: 0, layer: 0}\n"
    run = go_on(folder, "frozen", text)
    first = load_checkpoint(folder / "first/checkpoints/last.safetensors").model
    last = run.files.load("last").model
    for name in ("layer.numbers", "classify.logits.linear.weight", "classify.logits.linear.bias"):
        assert torch.equal(first[name], last[name])
    fresh = Model(run.spec).state_dict()
    assert not torch.equal(last["second.sign.linear.weight"], fresh["second.sign.linear.weight"])


def test_other_ops_of_its_own_are_refused(folder: Path) -> None:
    run = r2d2c.open_run(folder / "first")
    text = GROWING.replace("      o1: o0 + p\n", "      o1: o0 + p\n      o2: sin(o0)\n")
    with pytest.raises(CompileError) as caught:
        transplant(Model(check(text)), None, run.spec, run.files.load("last"))
    assert [d.code for d in caught.value.diagnostics] == ["E584"]
    assert "`o0`, `o1` in the run, `o0`, `o1`, `o2` in the spec" in str(caught.value)


def test_fewer_columns_and_more_room_are_refused() -> None:
    """The read-out would keep its shape, and its columns would be those of other ops."""
    body = "logits = linear(layer(x), C)"
    more = "op_graphs:\n  layer: {ops: [mul, add], capacity: 8, start: 3}\n"
    before, now = (
        written(body, f"D: {d}, C: 2", more=more.replace("8", str(k))) for d, k in ((5, 8), (3, 10))
    )
    text = refused(before, now, "E582", "E581")
    assert "the op graph `layer` cannot go on: it reads 3 columns, and 5 in the run" in text
    less = before.replace("capacity: 8", "capacity: 4")
    assert "room for 4 ops, and for 8 in the run" in refused(before, less, "E582", "E581")


def test_what_a_run_cannot_start_from(folder: Path, tmp_path: Path) -> None:
    spec = folder / "spec.yaml"
    with pytest.raises(CompileError, match="E523"):
        r2d2c.train(spec, start=tmp_path / "nothing", out=tmp_path / "a")
    alone = tmp_path / "elsewhere" / "last.safetensors"
    alone.parent.mkdir()
    shutil.copy(folder / "first/checkpoints/last.safetensors", alone)
    with pytest.raises(CompileError, match="E583"):
        r2d2c.train(spec, start=alone, out=tmp_path / "a")
    shutil.copytree(folder / "first", tmp_path / "broken")
    file = tmp_path / "broken/checkpoints/last.safetensors"
    file.write_bytes(file.read_bytes()[:-8] + b"12345678")
    with pytest.raises(CompileError, match="E520"):
        r2d2c.train(spec, start=tmp_path / "broken", out=tmp_path / "a")
    with pytest.raises(CompileError, match="E548"):
        r2d2c.train(resume=folder / "first", start=folder / "first")
    with pytest.raises(CompileError, match="E581"):
        r2d2c.train(
            spec, start=folder / "first", out=tmp_path / "a", settings=["op_graphs.layer.capacity=12"]
        )
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_file_and_a_warning(folder: Path) -> None:
    """A layer norm that is new between old layers: not the same function, and a warning says so."""
    text = GROWING.replace("linear(columns, C)", "linear(columns, C) |> layer_norm")
    (folder / "normed.yaml").write_text(text)
    heard: list[str] = []

    class Hear:
        def on_warning(self, diagnostic: Any) -> None:
            heard.append(diagnostic.code)

    file = folder / "first/checkpoints/last.safetensors"
    r2d2c.train(folder / "normed.yaml", out=folder / "normed", start=file, epochs=0, callbacks=[Hear()])
    assert heard == ["W587"]
    report = json.loads((folder / "normed/transplant.json").read_text())
    assert report["outputs"][0]["verdict"].startswith("differs by ")
    assert report["source"] == str(file)


def test_data_from_python_is_not_read_for_the_comparison(folder: Path) -> None:
    """A stream is not asked for more batches than without ``start``: the models are compared on random samples instead."""
    run = r2d2c.open_run(folder / "first")
    batches = [{"x": draw(8, 4).float(), "y": torch.zeros(8, dtype=torch.int64)} for _ in range(3)]
    asked: list[int] = []

    def made() -> Iterator[dict[str, torch.Tensor]]:
        asked.append(1)
        return iter(batches)

    r2d2c.train(run.spec, data=made, out=folder / "plain", epochs=1)
    before = len(asked)
    found = r2d2c.train(run.spec, data=made, start=run, out=folder / "stream", epochs=1)
    assert len(asked) == 2 * before
    report = json.loads((folder / "stream/transplant.json").read_text())
    assert report["outputs"][0]["verdict"] == "the same to the last bit"
    assert found.metrics[0]["samples"] == 24


def test_differences_of_topologies_are_none_after_a_plain_move(folder: Path) -> None:
    run = r2d2c.open_run(folder / "first")
    new = Model(check(GROWING))
    transplant(new, None, run.spec, run.files.load("last"))
    was, now = table_of(run.load("last").state_dict(), 4), table_of(new.state_dict(), 4)
    assert [line for line in differences(was, now) if "came in round" not in line] == []


def test_the_specs_of_the_page() -> None:
    """The worked example of docs/transplant.md, without its training."""
    root = Path(__file__).parents[2]
    page = (root / "docs/transplant.md").read_text("utf-8")
    blocks = dict(re.findall(r"<!-- (\w+) -->\n```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    old = shaken((root / "specs/growth/tabular.yaml").read_text("utf-8"))
    frozen = blocks["second"].replace("train:\n", blocks["frozen"])
    for text in (blocks["second"], frozen):
        new = Model(check(text)).double()
        report = transplant(new, stepper_of(new), old.spec, Checkpoint(old.state_dict()))
        assert_same(old, new, draw(6, 13))
        assert report.counts() == "2 kept, 4 widened, 4 moved, 2 new"
    assert {group.factor for group in stepper_of(new).groups} == {0.0, 1.0}
