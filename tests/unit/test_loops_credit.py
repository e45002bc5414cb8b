"""What comes back through a loop: credit of carries and of links, against hand-written loops; random ops; recompute."""

from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import r2d2c
from r2d2c.lower import recompute as recomputing
from tests.unit.loop_oracle import Params, batch, compare, compiled, spec

TWO = """
refine(data):
  repeat: depth
  carry:
    c:
      value: f32[B, S] = learned
      credit: FIRST
    z:
      value: f32[B, S] = learned
      credit: SECOND
  body: |
    c = tanh(linear(data, S, name=read) + linear(c, S, name=back))
    z = tanh(z * 0.5 + linear(c, S, name=mix))
"""


def kept(rule: str, number: int, steps: int) -> bool:
    """Whether the gradient crosses the edge into step ``number``."""
    if rule == "local":
        return number == 0
    if rule == "backprop":
        return True
    every = int(rule.removeprefix("truncate(").removesuffix(")"))
    return number == 0 or (steps - number) % every != 0


def two(
    p: Params, given: dict[str, Tensor], steps: int, first: str, second: str
) -> list[tuple[Tensor, Tensor]]:
    c, z = p["refine.c.initial"].expand(6, 4), p["refine.z.initial"].expand(6, 4)
    found = []
    for n in range(steps):
        c = c if kept(first, n, steps) else c.detach()
        z = z if kept(second, n, steps) else z.detach()
        c = torch.tanh(p.linear("refine.read", given["x"]) + p.linear("refine.back", c))
        z = torch.tanh(z * 0.5 + p.linear("refine.mix", c))
        found.append((c, z))
    return found


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("local", "backprop"),
        ("backprop", "local"),
        ("local", "local"),
        ("truncate(1)", "backprop"),
        ("truncate(2)", "truncate(2)"),
        ("truncate(3)", "local"),
        ("backprop", "truncate(3)"),
    ],
)
def test_the_credit_of_carries(first: str, second: str, recompute: bool) -> None:
    loop = TWO.replace("FIRST", first).replace("SECOND", second) + f"  recompute: {str(recompute).lower()}\n"
    model = compiled(spec(loop))
    for depth in range(1, 8):
        compare(model, lambda p, g, n: two(p, g, n, first, second)[-1][1], batch(), depth)


def test_the_last_k_steps_learn() -> None:
    """truncate(k): the last k steps send back to each other, and the first value learns if there are no more than k."""
    loop = TWO.replace("FIRST", "truncate(3)").replace("SECOND", "truncate(3)")
    model = compiled(spec(loop))
    for depth in range(1, 9):
        model.learn(**batch(), depth=depth)
        gradient = dict(model.named_parameters())["refine.c.initial"].grad
        reached = gradient is not None and bool(gradient.abs().max() > 1e-9)
        assert reached == (depth <= 3), depth
        model.zero_grad()


STEPS = """
refine(data):
  repeat: depth
  carry:
    c: f32[B, S] = learned
  body: |
    c = tanh(linear(data, S, name=read) + linear(c, S, name=back))
    p = linear(c, S, name=say)
    n = sum(p, axes=-1)
"""


def steps(p: Params, given: dict[str, Tensor], depth: int) -> tuple[Tensor, Tensor]:
    c = p["refine.c.initial"].expand(6, 4)
    cs, ps = [], []
    for _ in range(depth):
        c = torch.tanh(p.linear("refine.read", given["x"]) + p.linear("refine.back", c))
        cs.append(c)
        ps.append(p.linear("refine.say", c))
    return torch.stack(cs, 1), torch.stack(ps, 1)


@pytest.mark.parametrize(
    ("said", "by_hand"),
    [
        ("out = r.c", lambda c, p: c[:, -1]),
        ("out = r.p", lambda c, p: p[:, -1]),
        ("out = mean(r.c.steps, axes=1)", lambda c, p: c.mean(1)),
        ("out = max(r.p.steps, axes=1) + r.p", lambda c, p: p.amax(1) + p[:, -1]),
        (
            "out = mean(r.c.steps * unsqueeze(r.n.steps, 2), axes=1)",
            lambda c, p: (c * p.sum(-1)[:, :, None]).mean(1),
        ),
        (
            "out = sum(r.p.steps * unsqueeze(stop(r.c), 1), axes=1)",
            lambda c, p: (p * c[:, -1:].detach()).sum(1),
        ),
        ("out = stop(r.c) + r.p", lambda c, p: c[:, -1].detach() + p[:, -1]),
    ],
)
def test_values_of_every_step(said: str, by_hand: Any) -> None:
    model = compiled(spec(STEPS, f"r = refine(x)\n{said}"))
    for depth in (1, 2, 5):
        compare(model, lambda p, g, n: by_hand(*steps(p, g, n)), batch(), depth)


def test_a_stop_in_the_body() -> None:
    loop = STEPS.replace("linear(c, S, name=back)", "linear(stop(c), S, name=back)")
    model = compiled(spec(loop, "r = refine(x)\nout = r.p + mean(r.c.steps, axes=1)"))

    def body(p: Params, given: dict[str, Tensor], depth: int) -> Tensor:
        c = p["refine.c.initial"].expand(6, 4)
        every = []
        for _ in range(depth):
            c = torch.tanh(p.linear("refine.read", given["x"]) + p.linear("refine.back", c.detach()))
            every.append(c)
        return p.linear("refine.say", c) + torch.stack(every, 1).mean(1)

    for depth in (1, 4):
        compare(model, body, batch(), depth)


@pytest.mark.parametrize("recompute", ["", "  recompute: true\n"])
def test_a_value_that_swaps_its_place_at_every_step(recompute: str) -> None:
    """What the last value depends on differs between even and odd depths: wiring and gradients know both."""
    loop = """
refine(data):
  repeat: depth
  carry:
    a: f32[B, S] = learned
    b: f32[B, S] = linear(data, S)
  body: |
    t = a
    a = b
    b = t * 0.5
"""
    text = spec(loop + recompute, "r = refine(x)\nout = r.a").replace("depth: 1..8", "depth: 2..4")
    model = compiled(text)
    for depth in (2, 3, 4):

        def body(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
            a, b = p["refine.a.initial"].expand(6, 4), p.linear("refine.b.linear", given["x"])
            for _ in range(steps):
                a, b = b, a * 0.5
            return a

        compare(model, body, batch(), depth)
    wired = model.wiring()["fit"]
    assert wired["refine.a.initial"] == wired["refine.b.linear.weight"] == "gradient"


# -- losses on a loop's values


def test_losses_on_a_loops_values() -> None:
    more = """losses:
  anytime:
    value: mse(fit.r.p.steps, stop(fit.r.p.steps[:, -1:]) + 0 * fit.r.p.steps)
    weight: 0.3
  small: {value: "mean(square(fit.r.c))"}
"""
    model = compiled(spec(STEPS, "r = refine(x)\nout = r.p", more=more))
    for depth in (2, 5):
        p = Params({n: v.detach().clone().requires_grad_() for n, v in model.named_parameters()})
        given = batch()
        c, ps = steps(p, given, depth)
        last = ps[:, -1]
        own = F.mse_loss(last, given["y"])
        anytime = F.mse_loss(ps, last.detach()[:, None].expand_as(ps))
        small = c[:, -1].square().mean()
        (own + 0.3 * anytime + small).backward()
        step = model.learn(**given, depth=depth)
        for name, wanted in {"fit": own, "anytime": anytime, "small": small}.items():
            assert torch.allclose(step.losses[name], wanted, atol=1e-12), name
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, p[name].grad, atol=1e-12), name  # type: ignore[arg-type]
            parameter.grad = None


# -- random ops

RANDOM = """
refine(data):
  repeat: depth
  carry:
    z: f32[B, S] = zeros
  recompute: RECOMPUTE
  body: |
    n = noise(dropout(linear(data, S), 0.5))
    z = tanh(z + n)
"""


def test_random_ops_differ_between_steps_and_repeat_with_the_seed() -> None:
    loop = RANDOM.replace("RECOMPUTE", "false").replace("linear(data, S)", "1 + 0 * linear(data, S)")
    text = spec(loop, "r = refine(x)\nout = r.n.steps", "mse(mean(out, axes=1), y)")
    runs = [compiled(text).learn(**batch(), depth=4).outputs["out"] for _ in range(2)]
    assert torch.equal(runs[0], runs[1])
    drawn = runs[0].unbind(1)
    assert len(drawn) == 4
    for number, one in enumerate(drawn):
        assert all(not torch.isclose(one, other).any() for other in drawn[:number])
    model = compiled(text)
    model.learn(**batch(), depth=4)
    assert not torch.equal(model.learn(**batch(), depth=4).outputs["out"], runs[0]), "another pass draws anew"
    assert torch.equal(model(x=batch()["x"], depth=2)["out"], torch.ones(6, 2, 4, dtype=torch.float64))


def test_random_ops_of_an_inner_loop_and_of_a_second_call() -> None:
    """Every step of every run of a loop draws its own numbers."""
    loop = """
inner(v):
  repeat: 2
  carry:
    h: f32[B, S] = zeros
  body: |
    n = noise(0 * v)
    h = h + n
outer(data):
  repeat: depth
  carry:
    z: f32[B, S] = zeros
  body: |
    i = inner(linear(data, S))
    j = inner(linear(data, S))
    n = concat(i.n.steps, j.n.steps, axis=1)
    z = z + i.h
"""
    model = compiled(spec(loop, "r = outer(x)\nout = r.n.steps", "mse(mean(out, axes=(1, 2)), y)"))
    out = model.learn(**batch(), depth=3).outputs["out"]
    assert out.shape == (6, 3, 4, 4)
    drawn = out.flatten(1, 2).unbind(1)
    for number, one in enumerate(drawn):
        assert all(not torch.isclose(one, other).any() for other in drawn[:number])


def test_recompute_is_the_same_to_the_last_bit() -> None:
    grads = []
    for again in ("false", "true"):
        model = compiled(spec(RANDOM.replace("RECOMPUTE", again), "r = refine(x)\nout = r.z"))
        model.learn(**batch(), depth=5)
        model.learn(**batch(), depth=3)
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in grads[0].items():
        assert gradient is not None and torch.equal(gradient, grads[1][name]), name


def test_recompute_frees_what_a_step_gives_again_before_its_gradients() -> None:
    given: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def step(x: Tensor) -> tuple[Tensor]:
        h = x.sin()
        if h.requires_grad:
            h.register_hook(lambda _: alive.append(given[-1]() is not None))
        y = h + 1
        given.append(weakref.ref(y))
        return (y,)

    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    (y,) = recomputing.recompute(step, x)
    y.square().sum().backward()
    assert len(given) == 2 and alive == [False]
    torch.testing.assert_close(x.grad, 2 * (x.sin() + 1) * x.cos())


# -- the model as torch has it


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = compiled(spec(STEPS, "r = refine(x)\nout = r.p"), dtype=dtype)
    given = {name: value.to(dtype) for name, value in batch().items()}
    step = model.learn(**given, depth=3)
    assert step.outputs["out"].dtype == dtype and model(x=given["x"], depth=2)["out"].dtype == dtype
    assert all(p.grad is not None and p.grad.dtype == dtype for p in model.parameters())


def test_a_copy_a_pickle_and_a_state_dict() -> None:
    model = compiled(spec(STEPS, "r = refine(x)\nout = r.p"))
    given = batch()
    model.learn(**given, depth=2)
    wanted = model(x=given["x"], depth=4)["out"]
    fresh = r2d2c.compile(model.spec).double()
    fresh.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        assert torch.equal(other(x=given["x"], depth=4)["out"], wanted)
        assert all(
            mine is not theirs for mine, theirs in zip(model.parameters(), other.parameters(), strict=True)
        )
        other.learn(**given, depth=3)


def test_inductor() -> None:
    loop = TWO.replace("FIRST", "backprop").replace("SECOND", "local") + "  recompute: true\n"
    model = compiled(spec(loop), backend="inductor")
    for depth in (1, 3):
        compare(model, lambda p, g, n: two(p, g, n, "backprop", "local")[-1][1], batch(), depth)
