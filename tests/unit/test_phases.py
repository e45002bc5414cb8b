"""Loops in phases, and memories by entries, give what the loop gives as it is defined."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import linear

import r2d2c
from r2d2c.lower import builder, phase_run, phases
from r2d2c.lower.phase_run import Phases
from r2d2c.model import Model

LENGTHS = (1, 2, 7, 64, 65, 200)
HEAD = """
r2d2c: 1
dims: {S: 5, V: 4, K: 3}
inputs:
  x: f32[B, T, V]
targets:
  y: i64[B, T]
"""
TAIL = """
    distance: mean(cross_entropy(reshape(out, (-1, V)), reshape(y, -1)))
outputs:
  out: t.out
"""
PLAIN = f"""{HEAD}
loops:
  read(x, z):
    over: T
    each: {{xt: x}}
    carry:
      h: {{value: "f32[B, S] = learned", credit: local}}
      g: f32[B, S] = zeros
      n: i64[B] = 0
    body: |
      h = tanh(linear(xt + z, S) + linear(h, S) + g)
      v = linear(h * sigmoid(g), V) * (1 + reshape(n, (B, 1)) / T)
      g = stop(tanh(linear(h, S)) + g * 0.5)
      n = n + 1
tasks:
  t:
    behavior: |
      e = linear(x, V)
      r = read(e, e[:, 0])
      out = r.v.steps + mean(r.h) + mean(r.n) + mean(r.g)
{TAIL}"""
# A memory made of ops, and what the fields that are read besides `each_slot` need.
BY_HAND = f"""{HEAD}
loops:
  read(x):
    over: T
    each: {{xt: x}}
    carry:
      state: {{value: "f32[B, K, S] = zeros", credit: local}}
      token: {{value: "f32[B, K, V] = zeros", credit: local}}
      surprise: {{value: "f32[B, K] = zeros", credit: local}}
      age: {{value: "i64[B, K] = full((B, K), 1073741824, dtype=i64)", credit: local}}
      last: f32[B, S] = zeros
      pred: f32[B, V] = zeros
    body: |
      s = stop(1 - sum(pred * xt, axes=1))
      i = slot_to_replace(surprise, age)
      w = s > read_slot(surprise, i)
      state = write_slot(state, i, stop(last), when=w)
      token = write_slot(token, i, stop(xt), when=w)
      surprise = write_slot(surprise, i, s, when=w)
      age = advance_age(age, i, when=w)
      both = concat(slots_as_samples(state), slots_as_samples(token), axis=1)
      rep = samples_as_slots(tanh(linear(both, S)), K)
      last = stop(read_slot(rep, newest_slot(age)))
      last = last + stop(mean(tanh(state), axes=1))
      out = linear(concat(flatten(rep), cast(age < 100, f32), axis=1), V) + linear(xt, V)
      pred = stop(softmax(out))
tasks:
  t:
    behavior: |
      r = read(softmax(linear(x, V)))
      out = r.out.steps
{TAIL}"""
MEMORY = f"""{HEAD}
memories:
  m:
    slots: K
    fields: {{state: "f32[S]", token: "f32[V]", surprise: f32}}
    RULES
    each_slot: |
      EACH
loops:
  read(x):
    over: T
    each: {{xt: x}}
    stateful: true
    carry:
      last: f32[B, S] = zeros
      pred: f32[B, V] = zeros
    body: |
      m = write(m, state=last, token=xt, surprise=missed(pred, xt))
      last = stop(m.newest.rep)
      out = READ
      pred = stop(softmax(out))
tasks:
  t:
    behavior: |
      r = read(softmax(linear(x, V)))
      out = OUT
{TAIL}"""
ROW = "rep = tanh(linear(concat(state, token), S))"
ALL = "linear(concat(flatten(m.rep), flatten(bits(m.age, 5)), xt), V)"
STEPS = "r.out.steps"


def memory(
    rules: str = "",
    each: str = ROW,
    read: str = ALL,
    out: str = STEPS,
    before: str = "",
    after: str = "",
    other: str = "",
) -> str:
    """A spec with a memory. before, after: statements around the write. other: a second memory."""
    text = MEMORY.replace("    RULES\n", f"    {rules}\n" if rules else "")
    text = text.replace(
        "      m = write", f"      {before}\n      m = write" if before else "      m = write"
    )
    text = text.replace(
        "      out = READ", f"      {after}\n      out = READ" if after else "      out = READ"
    )
    text = text.replace("EACH", each.replace("\n", "\n      ")).replace("READ", read).replace("OUT", out)
    return text.replace("loops:", f"{other}loops:")


WHEN = "when: surprise > replaced.surprise"
SPECS = {
    "carries that are cut": PLAIN,
    "a memory of ops": BY_HAND,
    "a memory": memory(),
    "written when it surprises": memory(WHEN),
    "first in, first out": memory("replace: oldest", read="linear(flatten(m.rep), V, bias=false)"),
    "the surprise of a slot is read": memory(read="linear(flatten(m.rep), V) + mean(m.surprise)"),
    "the surprises before are read": memory(
        before="before = m.surprise", read="linear(concat(flatten(m.rep), before), V)"
    ),
    "a sequence of tokens and of several values": memory(
        each="rep = tanh(linear(concat(token, state, token * 2), S))",
        before="steps = m.count + 1",
        read="linear(concat(xt * xt, flatten(m.rep)), V) / reshape(steps, (B, 1))",
    ),
    "decay": memory("replace: argmin(surprise * 0.9 ^ age)"),
    "representations that read ages": memory(
        each="rep = tanh(linear(concat(state, token, bits(age, 3)), S))", read="linear(flatten(m.rep), V)"
    ),
    "several layers, fields and one slot": memory(
        WHEN,
        "h = relu(linear(concat(state, token), 7))\nrep = tanh(linear(h, S)) + state",
        "linear(concat(mean(m.state, axes=1), m.oldest.rep, flatten(m.rep), m.surprise, last), V)"
        " + linear(flatten(m.h), V)",
    ),
    "attention": memory(
        read="linear(attend_slots(linear(xt, S), m.rep, m.rep, m.written), V) + linear(m.newest.state, V)"
    ),
    "before the write": memory(before="q = linear(flatten(m.rep), V)", read="linear(flatten(m.rep), V) + q"),
    "two memories": memory(
        read="linear(concat(flatten(m.rep), flatten(l.rep), last), V)",
        after="l = write(l, low=m.newest.rep * 2, n=m.count)",
        other="  l:\n    slots: 2\n    fields: {low: 'f32[S]', n: i64}\n    each_slot: rep = relu(linear(low, 6))\n",
    ),
    "no slot is kept between steps": memory(
        "replace: oldest", read="linear(flatten(by_age(m.rep, m.age)), V)"
    ).replace("softmax(out)", "softmax(linear(last, V))"),
    "the last step": memory(out="expand(reshape(linear(r.out, V), (B, 1, V)), (B, T, V))"),
}


@pytest.fixture(autouse=True)
def both_ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(phase_run, "PIECE", 64)
    yield
    phase_run.ENABLED = True


def batch(length: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    x = 3 * torch.randn(3, length, 4, generator=generator, dtype=torch.float64)
    return {"x": x.to(dtype), "y": torch.randint(0, 4, (3, length), generator=generator)}


def flat(results: dict[str, object], name: str = "") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for key, value in results.items():
        if isinstance(value, dict):
            found |= flat(value, f"{name}{key}.")
        else:
            assert isinstance(value, torch.Tensor)
            found[f"{name}{key}"] = value
    return found


def everything(model: Model, length: int, dtype: torch.dtype, enabled: bool) -> dict[str, torch.Tensor]:
    """What a model gives and learns: outputs, states, and gradients of parameters and of inputs."""
    phase_run.ENABLED = enabled
    given = batch(length, dtype)
    model.zero_grad()
    step = model.learn(**given)  # type: ignore[arg-type]
    found = {f"{name}.grad": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    found |= flat(dict(step.outputs), "learn.")
    x = given["x"].clone().requires_grad_()
    outputs = model(x=x)
    weights = torch.linspace(-1, 1, outputs["out"].numel(), dtype=dtype).reshape(outputs["out"].shape)
    (outputs["out"] * weights).sum().backward()
    if x.grad is not None:
        found["x.grad"] = x.grad
    with torch.no_grad():
        return found | flat(dict(outputs)) | flat(dict(model(x=given["x"])), "quiet.")


def same(
    mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor], rtol: float, atol: float, shown: str = ""
) -> None:
    assert mine.keys() == other.keys(), shown
    for name, value in mine.items():
        torch.testing.assert_close(
            value, other[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{shown} {n}: {m}"
        )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS)
def test_phases_give_what_the_loop_gives(text: str, length: int) -> None:
    model = r2d2c.compile(r2d2c.loads(text)).double()
    mine, plain = (everything(model, length, torch.float64, way) for way in (True, False))
    same(mine, plain, 1e-11, 1e-12)


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS)
def test_they_do_in_single_precision(text: str) -> None:
    model = r2d2c.compile(r2d2c.loads(text))
    mine, plain = (everything(model, 65, torch.float32, way) for way in (True, False))
    same(mine, plain, 1e-5, 1e-6)


def planned(text: str, monkeypatch: pytest.MonkeyPatch) -> list[Phases | None]:
    """How the loops of a spec run when it learns."""
    found = []
    make = phases.plan

    def plan(*args: object) -> Phases | None:
        found.append(make(*args))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(builder, "plan", plan)
    model = r2d2c.compile(r2d2c.loads(text))
    model.learn(**batch(3, torch.float32))  # type: ignore[arg-type]
    return found


def test_what_no_step_reads_is_not_kept_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = planned(memory(), monkeypatch)
    assert made is not None
    (store,) = made.stores.memories
    # Behind `last` and `pred`: the state and the token, and the surprise, which is read in place.
    assert sorted(store.unread) == [2, 3, 4]
    assert len(made.stores.readouts) == 1  # `flatten(m.rep)` in a layer


def test_what_does_not_depend_on_the_steps_before_is_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (made,) = planned(memory(), monkeypatch)
    assert made is not None
    tidy = made.carries.tidy
    assert list(tidy.counters.values()) == [1]  # `m.count`
    (ahead,) = (node for node in tidy.ahead.graph.nodes if node.op == "output")
    # The layers' parts of the token, whether this is the first write, and how many there were.
    assert len(ahead.args[0]) == 4
    assert not any(node.target in (torch.cat, linear) for node in tidy.part.graph.nodes)


COUPLED = {
    "a mean over the batch": ("v = linear(h", "v = linear(h - mean(h, axes=0)"),
    "a carry that gradients go over": ("credit: local", "credit: backprop"),
    "a cut every few steps": ("credit: local", "credit: truncate(3)"),
    "draws": ("v = linear(h", "v = linear(dropout(h)"),
    "a recomputed step": ("    over: T\n", "    over: T\n    recompute: true\n"),
    "samples that are numbered": ("(1 + reshape(n, (B, 1)) / T)", "cast(reshape(arange(B), (B, 1)), f32)"),
    "the number of samples": ("(1 + reshape(n, (B, 1)) / T)", "(1 + 1 / B)"),
}


@pytest.mark.parametrize("change", COUPLED.values(), ids=COUPLED)
def test_a_loop_that_couples_steps_or_samples_runs_as_it_is(
    change: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert change[0] in PLAIN
    assert planned(PLAIN, monkeypatch) != [None]
    assert set(planned(PLAIN.replace(*change), monkeypatch)) == {None}


@pytest.mark.parametrize("name", ["a memory", "written when it surprises", "two memories"])
def test_a_state_that_is_passed_on_continues_the_sequence(name: str) -> None:
    model = r2d2c.compile(r2d2c.loads(SPECS[name])).double()
    x = batch(130, torch.float64)["x"]
    for quiet in (torch.no_grad, torch.enable_grad):
        with quiet():
            whole = model(x=x)
            first = model(x=x[:, :70])
            second = model(x=x[:, 70:], state=first["state"])
        torch.testing.assert_close(
            torch.cat([first["out"], second["out"]], 1), whole["out"], rtol=1e-11, atol=1e-12
        )
        same(flat(dict(second["state"])), flat(dict(whole["state"])), 1e-11, 1e-12)


def nodes_behind(value: torch.Tensor) -> int:
    """How many nodes autograd has recorded for a value."""
    seen = set()
    stack = [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(after for after, _ in node.next_functions)
    return len(seen)


def test_what_autograd_records_does_not_grow_with_the_steps() -> None:
    model = r2d2c.compile(r2d2c.loads(memory()))
    counts = [nodes_behind(model(x=batch(n, torch.float32)["x"])["out"]) for n in (8, 64)]
    assert counts[0] == counts[1]
    phase_run.ENABLED = False
    assert nodes_behind(model(x=batch(64, torch.float32)["x"])["out"]) > 5 * counts[0]


def test_gradients_of_gradients_are_those_of_the_loop() -> None:
    model = r2d2c.compile(r2d2c.loads(memory(WHEN))).double()
    x = batch(9, torch.float64)["x"]
    parameters = list(model.parameters())
    found = []
    for enabled in (True, False):
        phase_run.ENABLED = enabled
        out = model(x=x)["out"]
        first = torch.autograd.grad(out.square().sum(), parameters, create_graph=True, allow_unused=True)
        second = torch.autograd.grad(
            sum(g.square().sum() for g in first if g is not None), parameters, allow_unused=True
        )
        found.append({str(k): g for k, g in enumerate([*first, *second]) if g is not None})
    same(*found, 1e-10, 1e-10)


def test_values_of_steps_are_watched_as_they_are() -> None:
    model = r2d2c.compile(r2d2c.loads(memory()))
    seen = model.trace(**batch(3, torch.float32))
    assert {"read.out@1", "read.pred.softmax@3", "m.rep@2"} <= set(seen.values)


@pytest.mark.parametrize("name", ["carries that are cut", "written when it surprises"])
def test_transforms_of_functions_see_the_loop_as_it_is(name: str) -> None:
    model = r2d2c.compile(r2d2c.loads(SPECS[name])).double()
    x = batch(5, torch.float64)["x"]
    found = []
    for enabled in (True, False):
        phase_run.ENABLED = enabled
        _, tangent = torch.func.jvp(lambda x: model(x=x)["out"], (x,), (torch.ones_like(x),))
        each = torch.func.vmap(lambda x: model(x=x[None])["out"][0])(x)
        grad = torch.func.grad(lambda x: model(x=x)["out"].square().sum())(x)
        found.append({"tangent": tangent, "each": each, "grad": grad})
    same(*found, 0.0, 0.0)
