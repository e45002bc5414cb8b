"""Losses over the steps and the widths of loops against PyTorch written by hand: values and all gradients to 1e-12."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.distillation_oracle import LOSSES, Run, Wanted, batch, ce, check, kl, mean, spec
from tests.unit.loop_oracle import Params, compiled

# -- steps

DISTANCES: dict[str, Callable[[Tensor, Tensor, Any], Tensor]] = {
    "mse(think.r.logits.steps, stop(think.r.logits))": lambda a, t, given: F.mse_loss(a, t),
    "kl(think.r.logits.steps, stop(think.out))": lambda a, t, given: kl(a, t),
    "l1(think.r.logits.steps, stop(think.r.logits))": lambda a, t, given: F.l1_loss(a, t),
    "cross_entropy(think.r.logits.steps, y)": lambda a, t, given: ce(a, given),
    "mean((think.r.logits.steps - stop(think.r.logits))^2 * step)": lambda a, t, given: (
        F.mse_loss(a, t) * given["step"]
    ),
}


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("value", DISTANCES)
def test_a_loss_over_the_steps_from_one_on(value: str, first: int) -> None:
    model = compiled(spec(f'anytime: {{value: "{value}", steps: {first}..depth, weight: 0.3}}'))

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        logits = Run(p, given["x"], depth).logits
        last = logits[-1].detach()
        steps = range(first, depth + 1)
        each = (DISTANCES[value](logits[k - 1], last, {**given, "step": k}) for k in steps)
        return {"think": (ce(logits[-1], given), 1), "anytime": (mean(each), 0.3)}

    for depth in range(first, 7):
        check(model, by_hand, depth)


def test_a_depth_without_any_of_the_steps_adds_nothing() -> None:
    """Neither NaN nor an error: at depth 1 a loss from step 3 on is 0, and so is its gradient."""
    for weight in ("0.3", "0.3 * step / depth"):
        model = compiled(
            spec(
                f"late: {{value: 'mse(think.r.z.steps, stop(think.r.z))', steps: 3..depth, weight: {weight}}}"
            )
        )
        for depth in (1, 2):
            check(model, lambda p, given, n: {
                "think": (ce(Run(p, given["x"], n).logits[-1], given), 1), "late": (0.0, 0.3),
            }, depth)  # fmt: skip


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "0.3 * step / depth": lambda k, n: 0.3 * k / n,
    "1 / (depth - step + 1)": lambda k, n: 1 / (n - k + 1),
    "2 / depth": lambda k, n: 2 / n,
    "exp(-step / 3)": lambda k, n: float(torch.exp(torch.tensor(-k / 3, dtype=torch.float64))),
}


@pytest.mark.parametrize("weight", SCHEDULES)
def test_a_weight_that_is_a_schedule(weight: str) -> None:
    loss = f'anytime: {{value: "mse(think.r.z.steps, stop(think.r.z))", steps: 2..depth, weight: "{weight}"}}'
    model = compiled(spec(loss))

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        run = Run(p, given["x"], depth)
        each = (
            SCHEDULES[weight](k, depth) * F.mse_loss(run.z[k - 1], run.z[-1].detach())
            for k in range(2, depth + 1)
        )
        return {"think": (ce(run.logits[-1], given), 1), "anytime": (mean(each), 1)}

    for depth in (2, 3, 6):
        check(model, by_hand, depth)


def test_steps_of_a_loop_with_a_fixed_number() -> None:
    losses = """
some: {value: "mse(think.r.z.steps, stop(think.r.z))", steps: 2..3, weight: 0.3 * step / 4}
all: {value: "cross_entropy(think.r.logits.steps, y)", steps: 1..4}
"""
    model = compiled(spec(losses).replace("repeat: depth", "repeat: 4").replace(", depth: 1..6 = 4", ""))

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        run = Run(p, given["x"], depth)
        some = (0.3 * k / 4 * F.mse_loss(run.z[k - 1], run.z[-1].detach()) for k in (2, 3))
        every = (ce(logits, given) for logits in run.logits)
        return {"think": (ce(run.logits[-1], given), 1), "some": (mean(some), 1), "all": (mean(every), 1)}

    check(model, by_hand)


def test_steps_over_a_sequence() -> None:
    text = spec('anytime: {value: "mse(think.r.z.steps, x)", steps: 1..T, weight: step / T}')
    text = text.replace("repeat: depth", "over: T\n    each: {xt: data}").replace(", depth: 1..6 = 4", "")
    text = text.replace("f32[B, D]", "f32[B, T, D]").replace("linear(data, S)", "linear(xt, S)")
    text = text.replace("think.r.z.steps, x)", "think.r.z.steps, t)").replace(
        "y: i64[B]", "y: i64[B]\n  t: f32[B, S]"
    )
    model = compiled(text)
    for length in (1, 2, 5):
        x, t = torch.randn(6, length, 5).double(), torch.randn(6, 8).double()

        def by_hand(p: Params, given: dict[str, Any], depth: int, length: int = length) -> Wanted:
            c, z = p["refine.c.initial"].expand(6, 8), torch.zeros(6, 8).double()
            each = []
            for k in range(length):
                c = torch.tanh(p.linear("refine.v.linear", given["x"][:, k]) + p.linear("refine.c.linear", c))
                z = z + p.linear("refine.z.linear", c)
                each.append((k + 1) / length * F.mse_loss(z, given["t"]))
            out = p.linear("refine.logits.linear", z)
            return {"think": (ce(out, given), 1), "anytime": (mean(iter(each)), 1)}

        check(model, by_hand, x=x, t=t)


def test_steps_of_what_has_no_batch() -> None:
    """A number a step, and a carry that is the same for all samples: their axis of steps is the first."""
    text = spec("""
energy: {value: think.r.e.steps, steps: 2..depth}
shared: {value: "mse(think.r.s.steps, stop(think.r.s))", steps: 3..depth}
""").replace("z: f32[B, S] = zeros", "z: f32[B, S] = zeros\n      s: f32[S] = learned")
    text = text.replace(
        "logits = linear(z, C)", "s = tanh(linear(s, S))\n      e = mean(z^2)\n      logits = linear(z, C)"
    )
    model = compiled(text)

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        run, s, shared = Run(p, given["x"], depth), p["refine.s.initial"], []
        for _ in range(depth):
            s = torch.tanh(p.linear("refine.s.linear", s))
            shared.append(s)
        energy = mean((run.z[k - 1] ** 2).mean() for k in range(2, depth + 1))
        pulled = mean(F.mse_loss(shared[k - 1], s.detach()) for k in range(3, depth + 1))
        return {"think": (ce(run.logits[-1], given), 1), "energy": (energy, 1), "shared": (pulled, 1)}

    for depth in (3, 6):
        check(model, by_hand, depth)


def test_a_head_is_one_for_all_steps_and_widths() -> None:
    losses = """
seen:
  body: |
    goal = tanh(linear(x, 2))
    h = tanh(linear(think.r.c.steps.widths, 4))
    p = linear(h, 2)
  value: mse(p, goal)
  steps: 2..depth
inline: {value: "cross_entropy(linear(think.r.z.widths, C, bias=false), y)"}
"""
    model = compiled(spec(losses))
    heads = [n for n, _ in model.named_parameters() if n.startswith(("seen", "inline"))]
    assert heads == [
        *(f"seen.{layer}.linear.{part}" for layer in ("goal", "h", "p") for part in ("weight", "bias")),
        "inline.linear.weight",
    ]

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        x = given["x"]
        run, goal = Run(p, x, depth), torch.tanh(p.linear("seen.goal.linear", x))
        narrow = {w: Run(p, x, depth, w) for w in (0.25, 0.5)}
        seen = []
        for width, values in narrow.items():
            n = round(8 * width)
            for c in values.c[1:]:
                h = torch.tanh(F.linear(c, p["seen.h.linear.weight"][:, :n], p["seen.h.linear.bias"]))
                seen.append(F.mse_loss(p.linear("seen.p.linear", h), goal))
        inline = (ce(F.linear(n.z[-1], p["inline.linear.weight"]), given) for n in narrow.values())
        return {
            "think": (ce(run.logits[-1], given), 1),
            "seen": (mean(iter(seen)), 1),
            "inline": (mean(inline), 1),
        }

    for depth in (2, 5):
        check(model, by_hand, depth)


# -- widths


def test_widths_and_both_together() -> None:
    model = compiled(spec(LOSSES))

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        run, last = Run(p, given["x"], depth), None
        narrow = [Run(p, given["x"], depth, w) for w in (0.25, 0.5)]
        last = run.logits[-1].detach()
        early = mean(F.mse_loss(logits, last) for logits in run.logits[1:])
        both = mean(0.1 * k / depth * kl(n.logits[k - 1], last) for n in narrow for k in range(1, depth + 1))
        return {
            "think": (ce(run.logits[-1], given), 1),
            "early": (early, 0.3),
            "narrow": (mean(ce(n.logits[-1], given) for n in narrow), 0.5),
            "both": (both, 1),
        }

    for depth in (2, 4, 6):
        check(model, by_hand, depth)


def test_a_weight_by_the_width() -> None:
    model = compiled(
        spec('narrow: {value: "mse(think.r.z.widths, stop(think.r.z))", weight: 1 / (1 - width)}')
    )

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        run = Run(p, given["x"], depth)
        each = (
            F.mse_loss(Run(p, given["x"], depth, w).z[-1], run.z[-1].detach()) / (1 - w) for w in (0.25, 0.5)
        )
        return {"think": (ce(run.logits[-1], given), 1), "narrow": (mean(each), 1)}

    check(model, by_hand)


def test_two_loops_with_widths_and_one_that_is_called_twice() -> None:
    text = spec("""
narrow: {value: "mse(think.a.z.widths, stop(think.a.z)) + mse(think.b.z.widths, think.a.z.widths)"}
over: {value: "mse(think.b.z.steps.widths, stop(think.d.z))", steps: 2..depth}
""")
    loop = text[text.index("  refine(data):") : text.index("tasks:")]
    text = text.replace("tasks:", loop.replace("refine", "again") + "tasks:", 1)
    text = text.replace(
        "r = refine(x)", "a = refine(x)\n      b = refine(tanh(x))\n      d = again(a.z)"
    ).replace("r.logits", "d.logits")
    model = compiled(text)

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        x = given["x"]

        def runs(width: float) -> tuple[Run, Run]:
            return Run(p, x, depth, width), Run(p, torch.tanh(x), depth, width)

        (a, _), narrow = runs(1.0), [runs(w) for w in (0.25, 0.5)]
        d = Run(p, a.z[-1], depth, name="again")
        return {
            "think": (ce(d.logits[-1], given), 1),
            "narrow": (
                mean(F.mse_loss(m.z[-1], a.z[-1].detach()) + F.mse_loss(n.z[-1], m.z[-1]) for m, n in narrow),
                1,
            ),
            "over": (mean(F.mse_loss(z, d.z[-1].detach()) for _, n in narrow for z in n.z[1:]), 1),
        }

    for depth in (2, 4):
        check(model, by_hand, depth)


BEHIND = {
    "refine.c.initial": lambda n: (slice(n, None),),
    "refine.v.linear.weight": lambda n: (slice(n, None),),
    "refine.v.linear.bias": lambda n: (slice(n, None),),
    "refine.c.linear.weight": lambda n: (slice(n, None),),
    "refine.c.linear.bias": lambda n: (slice(n, None),),
    "refine.z.linear.weight": lambda n: (slice(None), slice(n, None)),
}  # fmt: skip


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_nothing_depends_on_what_lies_behind_the_width(width: float) -> None:
    """To the last bit: neither the result nor, of a loss at this width alone, a gradient."""
    model = compiled(
        spec("narrow: {value: 'cross_entropy(think.r.logits.widths, y)'}")
        .replace("[1/4, 1/2, 1]", f"[{width}, 1]")
        .replace("    distance: cross_entropy(out, y)\n", ""),
        dtype=torch.float32,
    )
    given = {"x": batch()["x"].float(), "y": batch()["y"]}
    before = {d: model(x=given["x"], depth=d, width=width)["logits"] for d in (1, 4, 6)}
    full = model(x=given["x"])["logits"]
    losses = model.losses(**given)
    n = round(8 * width)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in BEHIND:
                parameter[BEHIND[name](n)].normal_(0, 3)
        model.get_parameter("refine.c.linear.weight")[:n, n:].normal_(0, 3)
    for depth, logits in before.items():
        assert torch.equal(model(x=given["x"], depth=depth, width=width)["logits"], logits)
    assert torch.equal(model.losses(**given)["narrow"], losses["narrow"])
    assert not torch.equal(model(x=given["x"])["logits"], full)
    model.learn(**given)
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and bool((gradient != 0).any()), name
        if name in BEHIND:
            assert bool((gradient[BEHIND[name](n)] == 0).all()), name
    columns = model.get_parameter("refine.c.linear.weight").grad
    assert columns is not None and bool((columns[:, n:] == 0).all()) and bool((columns[:n, :n] != 0).all())


def test_the_model_runs_as_the_loss_ran_it() -> None:
    """The loss at one width, and the model when it is used at that width, are the same to the last bit."""
    text = spec("narrow: {value: 'cross_entropy(think.r.logits.widths, y)'}").replace(
        "[1/4, 1/2, 1]", "[1/4, 1]"
    )
    model, given = compiled(text, dtype=torch.float32), batch()
    x = given["x"].float()
    for depth in range(1, 7):
        logits = model(x=x, depth=depth, width=0.25)["logits"]
        assert torch.equal(model.losses(x=x, y=given["y"], depth=depth)["narrow"], ce(logits, given))
    with pytest.raises(ValueError, match=r"`width` is 0.3, the spec says 0.25, 1"):
        model(x=x, width=0.3)
