"""`until`: adaptive computation time against a loop that takes one sample after the other, in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from r2d2c.model import Model
from tests.unit.loop_oracle import Params, batch, compare, compiled, near, spec

LOOP = """
think(data):
  until: UNTIL
  max: MAX
  carry:
    c: f32[B, S] = learned
    k: f32[B] = zeros
  body: |
    c = tanh(linear(data, S, name=read) + linear(c, S, name=back))
    k = k + 0.3 * sigmoid(data[:, 0])
    p = sigmoid(linear(c, 1, name=halt))[:, 0]
    o = linear(c, S, name=say) * step
    n = argmax(c, axis=1)
"""


class Alone:
    """The loop for single samples: what each gives, as Graves (2016) has it."""

    def __init__(self, most: int, epsilon: float = 0.01, rule: Callable[..., Any] | None = None) -> None:
        self.most, self.epsilon, self.rule = most, epsilon, rule

    def __call__(self, p: Params, x: Tensor) -> dict[str, Any]:
        c, k = p["think.c.initial"], x.new_zeros(())
        total, weights, cs, os = x.new_zeros(()), [], [], []
        for n in range(1, self.most + 1):
            c = torch.tanh(p.linear("think.read", x) + p.linear("think.back", c))
            k = k + 0.3 * torch.sigmoid(x[0])
            h = torch.sigmoid(p.linear("think.halt", c))[0] if "think.halt.weight" in p else x.new_zeros(())
            cs.append(c)
            os.append(p.linear("think.say", c) * n if "think.say.weight" in p else c)
            halts = bool(self.rule(c, k, n)) if self.rule else bool(total + h >= 1 - self.epsilon)
            if halts or n == self.most:
                break
            weights.append(h)
            total = total + h
        remainder = x.new_ones(()) if self.rule else 1 - total
        if self.rule:
            weights = [x.new_zeros(())] * (n - 1)
        weights = [*weights, remainder]
        return {
            "c": cs[-1],
            "o": os[-1],
            "mean": sum(w * o for w, o in zip(weights, os, strict=True)),
            "mean_c": sum(w * c for w, c in zip(weights, cs, strict=True)),
            "steps": torch.stack(cs + [cs[-1]] * (self.most - n)),
            "count": n,
            "ponder": n + remainder,
        }

    def batch(self, p: Params, x: Tensor) -> dict[str, Any]:
        each = [self(p, row) for row in x]
        return {
            name: torch.tensor([e[name] for e in each])
            if name == "count"
            else torch.stack([e[name] for e in each])
            for name in each[0]
        }


def think(
    until: str, most: int, said: str, distance: str = "mse(out, y)", more: str = "", options: str = ""
) -> Model:
    loop = LOOP.replace("UNTIL", until).replace("MAX", str(most)) + options
    return compiled(spec(loop, f"r = think(x)\n{said}", distance, more=more))


SAID = [
    ("out = r.c", lambda g: g["c"]),
    ("out = r.o", lambda g: g["o"]),
    ("out = r.o.mean", lambda g: g["mean"]),
    ("out = r.c.mean * unsqueeze(r.ponder, 1)", lambda g: g["mean_c"] * g["ponder"][:, None]),
    ("out = mean(r.c.steps, axes=1) + 0 * r.c", lambda g: g["steps"].mean(1)),
    ("out = r.c * unsqueeze(r.count, 1)", lambda g: g["c"] * g["count"][:, None]),
    ("out = r.o.mean * unsqueeze(r.ponder, 1) + r.c + max(r.c.steps, axes=1)",
     lambda g: g["mean"] * g["ponder"][:, None] + g["c"] + g["steps"].amax(1)),
]  # fmt: skip


@pytest.mark.parametrize("recompute", ["", "  recompute: true\n"])
@pytest.mark.parametrize("most", [1, 2, 9])
@pytest.mark.parametrize(("said", "of"), SAID)
def test_probabilities_against_samples_alone(said: str, of: Any, most: int, recompute: str) -> None:
    model = think("p", most, said, options=recompute)
    alone = Alone(most)
    given = batch(size=12)
    compare(model, lambda p, g, _: of(alone.batch(p, g["x"])), given)
    if most == 9:
        p = Params(dict(model.named_parameters()))
        assert len(set(alone.batch(p, given["x"])["count"].tolist())) > 1, "samples halt at different steps"


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 0.7, 0.99])
def test_epsilon(epsilon: float) -> None:
    model = think("p", 6, "out = r.o.mean", options=f"  epsilon: {epsilon}\n")
    compare(model, lambda p, g, _: Alone(6, epsilon).batch(p, g["x"])["mean"], batch(size=12))
    p = Params(dict(model.named_parameters()))
    counts = Alone(6, epsilon).batch(p, batch(size=12)["x"])["count"]
    sooner = Alone(6, 0.99).batch(p, batch(size=12)["x"])["count"]
    assert (counts >= sooner).all() and (epsilon > 0.5 or counts.sum() > sooner.sum())


@pytest.mark.parametrize(("said", "of"), SAID)
def test_a_bool(said: str, of: Any) -> None:
    model = think("k > 0.5", 5, said)
    alone = Alone(5, rule=lambda c, k, n: k > 0.5)
    given = batch(size=12)
    compare(model, lambda p, g, _: of(alone.batch(p, g["x"])), given)
    p = Params(dict(model.named_parameters()))
    counts = alone.batch(p, given["x"])["count"].tolist()
    assert len(set(counts)) > 2 and 5 in counts


def test_the_ponder_cost_is_a_loss() -> None:
    more = "losses:\n  cost:\n    value: mean(fit.r.ponder)\n    weight: 0.1"
    model = think("p", 8, "out = r.o.mean", more=more)
    given = batch(size=12)
    p = Params({n: v.detach().clone().requires_grad_() for n, v in model.named_parameters()})
    found = Alone(8).batch(p, given["x"])
    cost = found["ponder"].mean()
    (F.mse_loss(found["mean"], given["y"]) + 0.1 * cost).backward()
    step = model.learn(**given)
    near(step.losses["cost"], cost, "the cost")
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        near(parameter.grad, p[name].grad, name)  # type: ignore[arg-type]
    wired = model.wiring()["cost"]
    assert wired["think.halt.weight"] == wired["think.back.weight"] == "gradient"
    assert "think.say.weight" not in wired or wired["think.say.weight"] is None


def test_a_cost_that_all_samples_pay_at_once_has_a_gradient_of_zero() -> None:
    """All halt at the first step, where the remainder is 1 whatever the probability."""
    more = "losses:\n  cost:\n    value: mean(fit.r.ponder)"
    model = think("p", 8, "out = r.c", more=more, options="  epsilon: 0.999999\n")
    step = model.learn(**batch())
    assert step.losses["cost"] == 2
    gradient = dict(model.named_parameters())["think.halt.weight"].grad
    assert gradient is not None and not gradient.any()


def test_a_sample_that_has_halted_keeps_its_values_to_the_last_bit() -> None:
    """Its last value is that of its last step, and of every step behind that."""
    model = think(
        "k > 0.5", 7, "h = r.c\nout = r.c.steps", "mse(mean(out, axes=1), y) + mean(h) + mean(r.count)"
    )
    x = batch(size=16)["x"]
    p = Params(dict(model.named_parameters()))
    counts = Alone(7, rule=lambda c, k, n: k > 0.5).batch(p, x)["count"]
    out = model(x=x)["out"]
    for row, count in zip(out, counts.tolist(), strict=True):
        assert all(torch.equal(row[count - 1], later) for later in row[count:])
        assert count == 1 or not torch.equal(row[count - 2], row[count - 1])


def test_a_batch_is_its_samples_alone() -> None:
    model = think("p", 9, "out = r.o.mean * unsqueeze(r.ponder, 1) + r.c")
    x = batch(size=12)["x"]
    whole = model(x=x)["out"]
    near(whole, torch.cat([model(x=row[None])["out"] for row in x]), "the samples alone")
    near(whole.flip(0), model(x=x.flip(0))["out"], "in another order")
    assert model(x=x[:0])["out"].shape == (0, 4)


def test_what_would_have_come_after_a_sample_has_halted_reaches_nothing() -> None:
    """sqrt of what is left of a budget: NaN, with a NaN gradient, for the samples that have none left."""
    loop = """
think(data, budget):
  until: budget - step < 1
  max: 6
  carry:
    c: f32[B, S] = zeros
  body: |
    left = sqrt(budget - step)
    c = tanh(linear(data, S, name=read) + linear(c, S, name=back)) * unsqueeze(left, 1)
"""
    model = compiled(spec(loop, "r = think(x, b)\nout = r.c", inputs="x: f32[B, D]\nb: f32[B]"))
    given = {**batch(), "b": torch.tensor([1.5, 4.5, 2.5, 6.5, 1.25, 3.5], dtype=torch.float64)}

    def body(p: Params, given: dict[str, Tensor], _: int) -> Tensor:
        rows = []
        for x, b in zip(given["x"], given["b"], strict=True):
            c = x.new_zeros(4)
            for n in range(1, 7):
                c = torch.tanh(p.linear("think.read", x) + p.linear("think.back", c)) * torch.sqrt(b - n)
                if b - n < 1:
                    break
            rows.append(c)
        return torch.stack(rows)

    compare(model, body, given)


def test_samples_on_another_axis_sizes_and_what_is_the_same_for_all() -> None:
    """Inputs with the batch second, a step that asks for the batch's size, and parameters of each step."""
    loop = """
think(seq, data):
  until: p
  max: 5
  carry:
    c: f32[B, S] = learned
  parameters: per_step
  body: |
    u = mean(seq, axes=0)
    e = expand(unsqueeze(data[0:1, :1] * 0, 0), (1, B, S))
    c = tanh(linear(u, S, name=read) + linear(c, S, name=back)) + e[0]
    p = sigmoid(linear(c, 1, name=halt))[:, 0]
"""
    text = spec(
        loop, "r = think(transpose(x, 0, 1), mean(x, axes=1))\nout = r.c.mean", inputs="x: f32[B, T, D]"
    )
    model = compiled(text)

    def body(p: Params, given: dict[str, Tensor], _: int) -> Tensor:
        rows = []
        for x in given["x"].mean(1):
            c, total, mean = p["think.c.initial"], x.new_zeros(()), x.new_zeros(4)
            for n in range(5):
                c = torch.tanh(p.linear("think.read", x, n) + p.linear("think.back", c, n))
                h = torch.sigmoid(p.linear("think.halt", c, n))[0]
                if total + h >= 0.99 or n == 4:
                    mean = mean + (1 - total) * c
                    break
                mean, total = mean + h * c, total + h
            rows.append(mean)
        return torch.stack(rows)

    compare(model, body, batch(3, size=12))


@pytest.mark.parametrize("rule", ["local", "truncate(2)"])
def test_the_credit_of_a_carry_where_samples_halt(rule: str) -> None:
    """truncate(k): the first k steps learn together, then the next k."""
    loop = (
        LOOP.replace("UNTIL", "p")
        .replace("MAX", "6")
        .replace("c: f32[B, S] = learned", f"c:\n      value: f32[B, S] = learned\n      credit: {rule}")
    )
    model = compiled(spec(loop, "r = think(x)\nout = r.o.mean"))

    def body(p: Params, given: dict[str, Tensor], _: int) -> Tensor:
        rows = []
        for x in given["x"]:
            c, total, mean = p["think.c.initial"], x.new_zeros(()), x.new_zeros(4)
            for n in range(6):
                if n and (rule == "local" or n % 2 == 0):
                    c = c.detach()
                c = torch.tanh(p.linear("think.read", x) + p.linear("think.back", c))
                h = torch.sigmoid(p.linear("think.halt", c))[0]
                o = p.linear("think.say", c) * (n + 1)
                if total + h >= 0.99 or n == 5:
                    mean = mean + (1 - total) * o
                    break
                mean, total = mean + h * o, total + h
            rows.append(mean)
        return torch.stack(rows)

    compare(model, body, batch(size=12))


def test_a_loop_that_halts_in_a_loop() -> None:
    loops = (
        LOOP.replace("UNTIL", "k > 0.5")
        .replace("MAX", "4")
        .replace("= learned", "= linear(data, S, name=begin)")
    )
    loops += """
outer(data):
  repeat: 2
  carry:
    z: f32[B, D] = data
  body: |
    t = think(z)
    z = z + linear(t.c, D, name=mix)
    o = t.c
"""
    model = compiled(spec(loops, "r = outer(x)\nout = r.o"))

    def body(p: Params, given: dict[str, Tensor], _: int) -> Tensor:
        rows = []
        for z in given["x"]:
            for _ in range(2):
                c, k = p.linear("think.begin", z), z.new_zeros(())
                for _ in range(4):
                    c = torch.tanh(p.linear("think.read", z) + p.linear("think.back", c))
                    k = k + 0.3 * torch.sigmoid(z[0])
                    if k > 0.5:
                        break
                z = z + p.linear("outer.mix", c)
            rows.append(c)
        return torch.stack(rows)

    compare(model, body, batch(size=12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = compiled(
        spec(
            LOOP.replace("UNTIL", "p").replace("MAX", "4"),
            "r = think(x)\nout = r.o.mean * unsqueeze(r.ponder, 1)",
        ),
        dtype=dtype,
    )
    step = model.learn(**{name: value.to(dtype) for name, value in batch().items()})
    assert step.outputs["out"].dtype == dtype
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
