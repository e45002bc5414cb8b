"""Memories: against a store written out by hand, and what learns from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.emit import emit_python
from r2d2c.loops import NEVER, loop_of
from r2d2c.model import Model
from r2d2c.prove import prove
from tests.unit.memory_oracle import Slot, Store, bits

V, S, K, BITS = 5, 4, 3, 4
SPEC = """\
r2d2c: 1
model: remember
dims: {V: 5, S: 4, K: 3}
inputs:
  x: f32[B, T, V]
targets:
  y: i64[B, T]
memories:
  m:
    slots: K
    fields: {state: "f32[S]", token: "f32[V]", surprise: f32}
    each_slot: |
      seen = tanh(linear(state, S) + linear(token, S))
      rep = linear(seen, S)
RULES
loops:
  read(x):
    over: T
    each: {xt: x}
    carry:
      last: f32[B, S] = zeros
      pred: f32[B, V] = zeros
    body: |
      m = write(m, state=last, token=xt, surprise=missed(pred, xt))
      last = stop(m.newest.rep)
      out = linear(concat(flatten(m.rep), flatten(bits(m.age, 4))), V)
      pred = stop(softmax(out))
tasks:
  t:
    behavior: |
      r = read(x)
      out = r.out.steps
      ages = r.m.age.steps
      surprises = r.m.surprise
    distance: cross_entropy(out, y)
outputs:
  out: t.out
  ages: t.ages
  surprises: t.surprises
"""


def spec(*rules: str, text: str = SPEC) -> str:
    return text.replace("RULES\n", "".join(f"    {rule}\n" for rule in rules))


def compiled(text: str) -> Model:
    return r2d2c.compile(r2d2c.loads(text, name="memory.yaml"))


def batch(
    samples: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """Few tokens, so that some come again and again."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (samples, steps), generator=generator)
    y = torch.randint(0, V, (samples, steps), generator=generator)
    return {"x": torch.eye(V, dtype=dtype)[ids], "y": y}


def by_hand(
    model: Model,
    x: torch.Tensor,
    worth: Callable[[Slot], float],
    when: Callable[[Slot, Slot], bool] = lambda new, old: True,
    backprop: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[list[int]]]:
    """The outputs, ages and surprises of SPEC, one sample and one slot at a time."""
    p = dict(model.named_parameters())

    def rep(slot: Slot) -> torch.Tensor:
        seen = torch.tanh(
            p["m.seen.linear.weight"] @ slot["state"]
            + p["m.seen.linear.bias"]
            + p["m.seen.linear_2.weight"] @ slot["token"]
            + p["m.seen.linear_2.bias"]
        )
        return p["m.rep.linear.weight"] @ seen + p["m.rep.linear.bias"]

    outs, ages, surprises, chosen = [], [], [], []
    for sample in x:
        zeros: dict[str, Any] = {
            "state": x.new_zeros(S),
            "token": x.new_zeros(V),
            "surprise": x.new_zeros(()),
        }
        store = Store([{**zeros, "age": NEVER} for _ in range(K)], worth, when, backprop)
        last, pred = x.new_zeros(S), x.new_zeros(V)
        row, times = [], []
        for token in sample:
            store.write(state=last, token=token, surprise=1 - (pred * token).sum())
            reps = [rep(slot) for slot in store.slots]
            fresh = reps[store.newest()]
            last = fresh if backprop else fresh.detach()
            flags = [b for slot in store.slots for b in bits(slot["age"], BITS)]
            given = torch.cat([*reps, x.new_tensor(flags)])
            out = p["read.out.linear.weight"] @ given + p["read.out.linear.bias"]
            pred = torch.softmax(out, -1).detach()
            row.append(out)
            times.append([slot["age"] for slot in store.slots])
        outs.append(torch.stack(row))
        ages.append(times)
        surprises.append(torch.stack([torch.as_tensor(s["surprise"]) for s in store.slots]))
        chosen.append(store.chosen)
    return torch.stack(outs), torch.tensor(ages), torch.stack(surprises), chosen


def surprise(slot: Slot) -> float:
    return float(slot["surprise"])


def faded(slot: Slot) -> float:
    return float(slot["surprise"]) * 0.9 ** slot["age"]


CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "the least surprising, by default": ([], {"worth": surprise}),
    "argmin of an expression with age": (["replace: argmin(surprise * 0.9 ^ age)"], {"worth": faded}),
    "argmax": (["replace: argmax(surprise)"], {"worth": lambda slot: -surprise(slot)}),
    "of a vector field": (
        ["replace: argmin(sum(state ^ 2, -1))"],
        {"worth": lambda slot: float((slot["state"] ** 2).sum())},
    ),
    "the oldest": (["replace: oldest"], {"worth": lambda slot: -slot["age"]}),
    "a ring": (["replace: ring"], {"worth": lambda slot: -slot["age"]}),
    "only what surprises more": (
        ["when: surprise > replaced.surprise"],
        {"worth": surprise, "when": lambda new, old: float(new["surprise"]) > float(old["surprise"])},
    ),
    "what surprises more, or is old": (
        ["when: surprise > replaced.surprise or replaced.age > 3"],
        {
            "worth": surprise,
            "when": lambda new, old: float(new["surprise"]) > float(old["surprise"]) or old["age"] > 3,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_memory_does_what_a_store_written_by_hand_does(case: str) -> None:
    rules, oracle = CASES[case]
    model = compiled(spec(*rules)).double()
    for seed, steps in ((0, 1), (1, 2), (2, 14)):
        data = batch(3, steps, seed)
        out, ages, surprises, chosen = by_hand(model, data["x"], **oracle)
        found = model(x=data["x"])
        torch.testing.assert_close(found["out"], out, rtol=0, atol=1e-12)
        assert torch.equal(found["ages"], ages)
        torch.testing.assert_close(found["surprises"], surprises.double(), rtol=0, atol=1e-12)
        if steps > K:
            assert any(len(places) > K for places in chosen), "some slot has been replaced"
        wanted = torch.autograd.grad(
            torch.nn.functional.cross_entropy(out.reshape(-1, V), data["y"].reshape(-1)),
            list(model.parameters()),
        )
        model.zero_grad()
        model.learn(**data)
        for (name, parameter), gradient in zip(model.named_parameters(), wanted, strict=True):
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-12, msg=name)


def test_credit_backprop_lets_gradients_into_what_is_stored() -> None:
    text = spec("credit: backprop").replace("last = stop(m.newest.rep)", "last = m.newest.rep")
    model = compiled(text).double()
    data = batch(2, 9, 3)
    out, _, _, _ = by_hand(model, data["x"], surprise, backprop=True)
    loss = torch.nn.functional.cross_entropy(out.reshape(-1, V), data["y"].reshape(-1))
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    model.learn(**data)
    for (name, parameter), gradient in zip(model.named_parameters(), wanted, strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-12, msg=name)
    local = compiled(spec().replace("last = stop(m.newest.rep)", "last = m.newest.rep")).double()
    local.load_state_dict(model.state_dict())
    local.learn(**data)
    name = "m.rep.linear.weight"
    assert not torch.allclose(_gradient(local, name), _gradient(model, name), rtol=0, atol=1e-6)


def _gradient(model: Model, name: str) -> torch.Tensor:
    gradient = dict(model.named_parameters())[name].grad
    assert gradient is not None
    return gradient


# -- what is read


PARTS = """\
r2d2c: 1
model: parts
dims: {S: 2, K: 3}
inputs:
  x: f32[B, T, S]
memories:
  m:
    slots: K
    fields: {state: "f32[S]", place: i64, sure: bool}
    each_slot: |
      twice = 2 * state
      old = twice[:, 0] + age
    replace: oldest
RULES
loops:
  read(x):
    over: T
    each: {xt: x}
    carry:
      n: i64[B] = zeros
    body: |
      first = m.newest.state
      none = any(m.written, -1)
      n = n + 1
      m = write(m, state=xt, place=n, sure=xt[:, 0] > 0)
      newest = m.newest.twice
      oldest = m.oldest.state
      newest_place = m.newest.place
      oldest_age = m.oldest.age
      places = m.place
      sure = m.sure
      old = m.old
      written = m.written
      count = m.count
tasks:
  t:
    behavior: |
      r = read(x)
outputs:
  first: t.r.first.steps
  none: t.r.none.steps
  newest: t.r.newest.steps
  oldest: t.r.oldest.steps
  newest_place: t.r.newest_place.steps
  oldest_age: t.r.oldest_age.steps
  places: t.r.places.steps
  sure: t.r.sure
  old: t.r.old
  written: t.r.written.steps
  count: t.r.count.steps
"""


def test_every_part_of_a_memory() -> None:
    model = compiled(spec(text=PARTS))
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1))
    found = model(x=x)
    for step in range(5):
        kept = max(0, step - 2)
        assert torch.equal(found["first"][:, step], x[:, step - 1] if step else torch.zeros(2, 2))
        assert torch.equal(found["none"][:, step], torch.full((2,), step > 0))
        assert torch.equal(found["newest"][:, step], 2 * x[:, step])
        assert torch.equal(found["oldest"][:, step], x[:, kept])
        assert found["newest_place"][:, step].tolist() == [step + 1] * 2
        assert found["oldest_age"][:, step].tolist() == [step - kept] * 2
        assert found["written"][:, step].tolist() == [[k <= step for k in range(3)]] * 2
        assert found["count"][:, step].tolist() == [step + 1] * 2
    assert found["places"][0].tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3], [4, 2, 3], [4, 5, 3]]
    order = [3, 4, 2]
    assert torch.equal(found["sure"], x[:, order, 0] > 0)
    torch.testing.assert_close(found["old"], 2 * x[:, order, 0] + torch.tensor([1.0, 0.0, 2.0]))


def test_when_no_sample_writes_its_memory_is_empty_and_read_as_zeros() -> None:
    text = spec("when: place < 0", text=PARTS)
    found = compiled(text)(x=torch.randn(2, 4, 2))
    assert not found["written"].any() and not found["newest"].any() and not found["oldest"].any()
    assert found["count"][:, -1].tolist() == [4, 4]
    assert found["oldest_age"].unique().tolist() == [NEVER]


def test_the_first_token_is_no_surprise_and_later_ones_are() -> None:
    found = compiled(spec())(x=batch(3, 2, dtype=torch.float32)["x"])["surprises"]
    assert (found[:, 0] == 0).all() and (found[:, 1] > 0).all()


def test_two_writes_in_one_step_and_two_memories_in_one_loop() -> None:
    text = PARTS.replace("RULES\n", '  other:\n    slots: 1\n    fields: {kept: "f32[S]"}\n').replace(
        "      newest = m.newest.twice\n",
        "      m = write(m, state=-xt, place=n + 100, sure=true)\n"
        "      other = write(other, kept=flatten(m.state)[:, :2])\n"
        "      newest = other.kept[:, 0]\n",
    )
    x = torch.randn(2, 3, 2)
    found = compiled(text)(x=x)
    assert found["places"][0].tolist() == [[1, 101, 0], [102, 101, 2], [102, 3, 103]]
    assert found["count"][0].tolist() == [2, 4, 6]
    assert (
        found["sure"].tolist()
        == torch.stack([torch.ones(2).bool(), x[:, 2, 0] > 0, torch.ones(2).bool()], 1).tolist()
    )
    assert torch.equal(found["newest"], torch.stack([x[:, 0], -x[:, 1], -x[:, 1]], 1))


def test_random_replacement_takes_every_slot_and_is_seeded() -> None:
    model = compiled(spec("replace: random", text=PARTS.replace("    replace: oldest\n", "")))
    x = torch.randn(1, 200, 2)
    places = model(x=x)["places"]
    assert torch.equal(places, model(x=x)["places"])
    changed = (places[0, 1:] != places[0, :-1]).int()
    assert (changed.sum(1) == 1).all(), "one slot a step"
    shares = changed[3:].float().mean(0)
    assert (shares > 0.2).all() and (shares < 0.47).all(), shares
    following = changed[3:].argmax(1)
    assert len({tuple(pair.tolist()) for pair in torch.stack([following[:-1], following[1:]], 1)}) == 9
    losses = []
    for seed in (1, 1, 2):
        learner = r2d2c.compile(r2d2c.loads(spec("replace: random"), seed=seed))
        learner.load_state_dict(compiled(spec()).state_dict())
        losses.append(learner.learn(**batch(3, 20, dtype=torch.float32)).losses["t"].item())
    assert losses[0] == losses[1] != losses[2]


def test_a_shared_memory_is_trained_and_read_in_any_behavior() -> None:
    text = """\
r2d2c: 1
model: shared
dims: {D: 4, E: 2}
inputs:
  x: f32[B, D]
targets:
  y: f32[B, E]
memories:
  concepts:
    slots: 3
    fields: {key: "f32[D]", value: "f32[E]"}
    each_slot: seen = tanh(linear(value, E))
    shared: true
tasks:
  t:
    behavior: |
      weights = softmax(x @ transpose(concepts.key, 0, 1))
      out = weights @ concepts.seen
    distance: mse(out, y)
outputs:
  out: t.out
"""
    model = compiled(text).double()
    p = dict(model.named_parameters())
    assert {n: tuple(v.shape) for n, v in p.items()} == {
        "concepts.key": (3, 4), "concepts.value": (3, 2),
        "concepts.seen.linear.weight": (2, 2), "concepts.seen.linear.bias": (2,),
    }  # fmt: skip
    assert 0 < float(p["concepts.key"].detach().std()) < 0.1
    x, y = torch.randn(5, 4).double(), torch.randn(5, 2).double()
    seen = torch.tanh(
        p["concepts.value"] @ p["concepts.seen.linear.weight"].T + p["concepts.seen.linear.bias"]
    )
    out = torch.softmax(x @ p["concepts.key"].T, -1) @ seen
    torch.testing.assert_close(model(x=x)["out"], out, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad(((out - y) ** 2).mean(), list(p.values()))
    model.learn(x=x, y=y)
    for name, gradient in zip(p, wanted, strict=True):
        torch.testing.assert_close(_gradient(model, name), gradient, rtol=0, atol=1e-12)


# -- what learns


def test_each_slot_gets_a_gradient_and_nothing_reaches_what_was_stored() -> None:
    model = compiled(spec()).double()
    assert set(model.wiring()["t"]) == {name for name, _ in model.named_parameters()}
    assert prove(model).ok
    (node,) = [node for node in model._training_graph.body.nodes if node.op == "loop"]
    loop = loop_of(node)
    assert {c.credit for c in loop.carries if c.name.startswith("m.")} == {"local"}
    (store,) = loop.memories
    names = [c.name for c in loop.carries]
    assert [(name, names[k]) for name, k in store.fields] == [
        (f, f"m.{f}") for f in ("state", "token", "surprise")
    ]
    assert (names[store.age], names[store.count]) == ("m.age", "m.count")


NUDGED = (
    SPEC.replace("  x: f32[B, T, V]\n", "  x: f32[B, T, V]\n  nudge: f32[B, T, K, S]\n")
    .replace("  read(x):", "  read(x, nudge):")
    .replace("each: {xt: x}", "each: {xt: x, change: nudge}")
    .replace(
        "out = linear(concat(flatten(m.rep)",
        "stored = m.state\n      out = linear(concat(flatten(m.rep + change)",
    )
    .replace("read(x)\n", "read(x, nudge)\n")
    .replace(
        "      surprises = r.m.surprise\n",
        "      surprises = r.m.surprise.steps\n      stored = r.stored.steps\n",
    )
    + "  stored: t.stored\n"
)


def test_the_gradient_of_every_representation_is_there_and_that_of_every_stored_value_is_exactly_none() -> (
    None
):
    model = compiled(spec(text=NUDGED)).double()
    data = batch(3, 10)
    x = data["x"].requires_grad_()
    nudge = torch.zeros(3, 10, K, S, dtype=torch.float64, requires_grad=True)
    found = model(x=x, nudge=nudge)
    torch.nn.functional.cross_entropy(found["out"].flatten(0, 1), data["y"].flatten()).backward()
    assert nudge.grad is not None
    assert (nudge.grad.abs().sum(-1) > 0).all(), "every slot of every step, however old it is"
    assert x.grad is None, "tokens are read through the memory alone"
    assert not found["surprises"].requires_grad and not found["stored"].requires_grad
    learning = compiled(spec("credit: backprop", text=NUDGED)).double()
    found = learning(x=x, nudge=nudge)
    found["out"].sum().backward()
    assert x.grad is not None and (x.grad[:, 0].abs().sum(-1) > 0).all()


def test_a_loss_on_what_is_stored_trains_nothing_and_is_refused() -> None:
    text = spec().replace("    distance: cross_entropy(out, y)\n", "    distance: mean(surprises)\n")
    text = text.replace("targets:\n  y: i64[B, T]\n", "")
    with pytest.raises(CompileError, match=r"trains nothing|no parameter"):
        compiled(text)


def test_a_memory_is_state_of_a_stateful_loop() -> None:
    text = spec("when: surprise > replaced.surprise").replace(
        "    over: T\n", "    over: T\n    stateful: true\n"
    )
    model = compiled(text).double()
    x = batch(3, 12)["x"]
    whole = model(x=x)
    first = model(x=x[:, :5])
    second = model(x=x[:, 5:], state=first["state"])
    torch.testing.assert_close(torch.cat([first["out"], second["out"]], 1), whole["out"], rtol=0, atol=1e-12)
    assert torch.equal(torch.cat([first["ages"], second["ages"]], 1), whole["ages"])
    assert set(first["state"]) == {
        "read.last", "read.pred", "read.m.state", "read.m.token", "read.m.surprise", "read.m.age", "read.m.count",
    }  # fmt: skip


def test_a_memory_is_exported(tmp_path: Path) -> None:
    model = compiled(spec("replace: random", "when: surprise >= replaced.surprise"))
    r2d2c.export(model, tmp_path / "memory.onnx")  # verified against the model
    r2d2c.export(compiled(spec(text=PARTS)), tmp_path / "parts.onnx")


@pytest.mark.parametrize(
    "changes",
    [
        (("    over: T\n", "    over: T\n    recompute: true\n"),),
        (
            ("K: 3}", "K: 2..5 = 3}"),
            ("flatten(m.rep), flatten(bits(m.age, 4))", "sum(m.rep, 1), sum(bits(m.age, 4), 1)"),
        ),
    ],
    ids=["recompute", "slots at run time"],
)
def test_a_memory_in_other_loops_learns_as_in_a_plain_one(changes: tuple[tuple[str, str], ...]) -> None:
    """Against the same spec as it is without the option: with the same parameters, the same gradients."""
    text = plain = spec("when: surprise > replaced.surprise")
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
        if "recompute" not in after and "K:" not in after:
            plain = plain.replace(before, after)
    model, other = compiled(text).double(), compiled(plain).double()
    other.load_state_dict(model.state_dict())
    data = batch(3, 9)
    model.learn(**data)
    other.learn(**data)
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(_gradient(model, name), parameter.grad, rtol=0, atol=1e-12)


def test_a_memory_of_samples_that_halt_stops_with_them() -> None:
    text = (
        PARTS.replace(
            "    over: T\n    each: {xt: x}\n", "    until: n >= cast(x[:, 0, 0], i64)\n    max: 6\n"
        )
        .replace("xt", "x[:, 0]")
        .replace(".steps\n", "\n")
    )
    x = torch.tensor([[[2.0, 1.0]], [[5.0, -1.0]], [[9.0, 0.0]]])
    found = compiled(spec(text=text))(x=x)
    assert found["count"].tolist() == [2, 5, 6]
    assert found["places"].tolist() == [[1, 2, 0], [4, 5, 3], [4, 5, 6]]


@pytest.mark.parametrize("rule", ["when: surprise > replaced.surprise", "replace: random"])
def test_emitted_python_has_the_same_memory(rule: str) -> None:
    model = compiled(spec(rule))
    scope: dict[str, Any] = {"__name__": "emitted"}
    exec(compile(emit_python(model), "emitted.py", "exec"), scope)
    other = scope["Remember"]()
    other.load_state_dict(model.state_dict())
    data = batch(3, 9, dtype=torch.float32)
    torch.testing.assert_close(other(x=data["x"])["out"], model(x=data["x"])["out"])
