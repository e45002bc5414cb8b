"""The credit `goodness` over tasks that contain loops, against forward-forward with loops written by hand."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import indent

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from r2d2c.model import Model
from r2d2c.prove import prove
from tests.unit.test_credit_goodness import THETA, C, K, batch_for, compiled, gradients, normal, written

SPEC = """r2d2c: 1
model: layers
dims: {D: 12, H: 6, C: 4}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
credit: CREDIT
loops:
  think(data):
LOOP
tasks:
  a:
    behavior: |
      r = think(x)
      h = GIVES
  b:
    behavior: h = a.h |> linear(H) |> tanh
  out:
    behavior: logits = linear(b.h, C)
    distance: cross_entropy(logits, y)
outputs:
  logits: out.logits
"""
REPEAT = """
repeat: 3
carry:
  c: f32[B, H] = learned
body: c = tanh(linear(data, H, name=read) + linear(c, H, name=back))
"""
# Sizes with the batch in them: of positive and negative samples as one batch there are 2*B, fewer once some halt.
HALT = """
until: p
max: 4
epsilon: 0.3
carry:
  c: f32[B, H] = learned
body: |
  twice = expand(unsqueeze(c, 1), (B, 2, H)) |> reshape((B*2, H)) |> linear(H, name=rows)
  own = expand(full((1, H), 0.3), (B, H))
  c = tanh(linear(data, H, name=read) + mean(reshape(twice, (B, 2, H)), axes=1) + own)
  p = sigmoid(data[:, 7] + linear(c, 1, name=halt)[:, 0])
"""
Layer = Callable[[Model, Tensor], Tensor]


def linear(model: Model, name: str, x: Tensor) -> Tensor:
    return F.linear(x, model.get_parameter(f"{name}.weight"), model.get_parameter(f"{name}.bias"))


def repeated(model: Model, x: Tensor) -> Tensor:
    c = model.get_parameter("think.c.initial")
    for _ in range(3):
        c = torch.tanh(linear(model, "think.read", x) + linear(model, "think.back", c))
    return c.square()


def halted(model: Model, x: Tensor) -> Tensor:
    """Adaptive computation time, sample by sample: the mean with the halting weights."""
    rows, counts = [], []
    for row in x:
        c, total, mean = model.get_parameter("think.c.initial"), x.new_zeros(()), x.new_zeros(6)
        for n in range(4):
            c = torch.tanh(linear(model, "think.read", row) + linear(model, "think.rows", c) + 0.3)
            p = torch.sigmoid(row[7] + linear(model, "think.halt", c)[0])
            if total + p >= 0.7 or n == 3:
                rows.append(mean + (1 - total) * c)
                counts.append(n)
                break
            mean, total = mean + p * c, total + p
    assert len(set(counts)) > 1, "samples halt at different steps"
    return torch.stack(rows).square()


CASES: dict[str, tuple[str, str, Layer]] = {
    "repeat": (REPEAT, "r.c ^ 2", repeated),
    "until": (HALT, "r.c.mean ^ 2", halted),
}


def model_of(case: str, credit: str, recompute: bool) -> Model:
    loop, gives, _ = CASES[case]
    loop += f"recompute: {str(recompute).lower()}\n"
    text = SPEC.replace("LOOP", indent(loop.strip("\n"), "    ")).replace("GIVES", gives)
    model: Model = compiled(credit, text)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("split", ["false", "true"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_forward_forward_by_hand(case: str, split: str, recompute: bool) -> None:
    model = model_of(case, f"goodness(split={split})", recompute)
    layer = CASES[case][2]
    batch = batch_for(model, 10)
    x, y = batch["x"], batch["y"]
    wrong = model.trace(**batch).values["goodness.streams.wrong"]
    model.zero_grad()
    step = model.learn(**batch)
    found = gradients(model)
    model.zero_grad()

    def labelled(rows: slice, labels: Tensor) -> Tensor:
        return written(x[rows], F.one_hot(labels[rows], C).to(x.dtype))  # type: ignore[no-any-return,no-untyped-call]

    first, last = (slice(0, 5), slice(5, 10)) if split == "true" else (slice(None), slice(None))
    plus, minus = labelled(first, y), labelled(last, wrong)
    neutral = written(x, torch.full((10, C), 1 / C, dtype=x.dtype))  # type: ignore[no-untyped-call]
    wanted: dict[str, Tensor] = {}
    for name, of in (("a", layer), ("b", lambda m, h: torch.tanh(linear(m, "b.h.linear", h)))):
        # All samples of both streams in one batch, so that the oracle sees some halt and others go on.
        both = of(model, torch.cat([plus, minus]))
        plus, minus = both[: len(plus)], both[len(plus) :]
        costs = [
            F.softplus(K * (THETA - plus.square().mean(1))),
            F.softplus(K * (minus.square().mean(1) - THETA)),
        ]
        wanted[f"{name}.goodness"] = 2 * torch.cat(costs).mean()
        plus, minus = (normal(v).detach() for v in (plus, minus))  # type: ignore[no-untyped-call]
        neutral = normal(of(model, neutral)).detach()  # type: ignore[no-untyped-call]
    wanted["out"] = F.cross_entropy(linear(model, "out.logits.linear", neutral), y)
    sum(wanted.values(), x.new_zeros(())).backward()
    for name, value in wanted.items():
        torch.testing.assert_close(step.losses[name], value.detach(), rtol=1e-9, atol=1e-12)
    by_hand = gradients(model)
    assert found.keys() == by_hand.keys()
    for name, gradient in by_hand.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model(x=x)["logits"], linear(model, "out.logits.linear", neutral))


@pytest.mark.parametrize("case", CASES)
def test_every_label_is_tried_on_a_loop(case: str) -> None:
    model = model_of(case, "goodness(infer=labels)", False)
    layer = CASES[case][2]
    x = batch_for(model, 10)["x"]
    found = model(x=x)["logits"]
    for label in range(C):
        h = written(x, F.one_hot(torch.full((10,), label), C).to(x.dtype))  # type: ignore[no-untyped-call]
        h = torch.tanh(linear(model, "b.h.linear", normal(layer(model, h))))  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found[:, label], h.square().mean(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_loop_learns_from_its_own_goodness_alone(case: str) -> None:
    model = model_of(case, "goodness", False)
    wired = {
        loss: {name.partition(".")[0] for name, edge in row.items() if edge}
        for loss, row in model.wiring().items()
    }
    assert wired == {"out": {"out"}, "a.goodness": {"think"}, "b.goodness": {"b"}}
    assert prove(model).ok
