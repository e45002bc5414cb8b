"""The state of a model: it goes in and comes out, and whatever is cut in two equals the whole."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import r2d2c
from r2d2c.credit.registry import rules
from r2d2c.draw import picture
from r2d2c.draw_text import to_mermaid
from r2d2c.emit import emit_python
from r2d2c.graph import Graph
from r2d2c.model import Model
from r2d2c.prove import prove
from r2d2c.train.ports import data_ports, input_names

SPEC = """\
r2d2c: 1
model: keeper
dims: {D: 6, S: 5, C: 3}
inputs:
  x: f32[B, T, D]
targets:
  y: i64[B, T]
loops:
  read(data):
    over: T
    each: {xt: data}
    stateful: true
    carry:
      h: f32[B, S] = learned
      seen: i64[B] = zeros
      odd: bool[B] = zeros
    body: |
      h = tanh(linear(xt, S) + linear(h, S))
      seen = seen + 1
      odd = not odd
      o = linear(where(reshape(odd, (B, 1)), h, h * 0.5), C) * (1 + reshape(cast(seen, "f32"), (B, 1)) * 0.1)
tasks:
  t:
    behavior: |
      r = read(x)
      out = r.o.steps
    distance: cross_entropy(out, y)
outputs:
  logits: t.out
"""
NAMES = {"read.h", "read.seen", "read.odd"}


def compiled(text: str = SPEC) -> Model:
    return Model(r2d2c.loads(text))


def data(samples: int = 4, steps: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, steps, 6, generator=generator)
    return x, torch.randint(0, 3, (samples, steps), generator=generator)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# -- what goes in and comes out


def test_a_sequence_in_two_calls_is_the_whole_one() -> None:
    model, (x, _) = compiled(), data()
    whole = model(x=x)
    first = model(x=x[:, :3])
    second = model(x=x[:, 3:], state=first["state"])
    assert torch.equal(torch.cat([first["logits"], second["logits"]], 1), whole["logits"])
    assert same(second["state"], whole["state"])
    assert whole["state"].keys() == NAMES
    assert whole["state"]["read.seen"].tolist() == [8, 8, 8, 8]
    assert not whole["state"]["read.odd"].any() and first["state"]["read.odd"].all()
    assert {k: v.dtype for k, v in whole["state"].items()} == {
        "read.h": torch.float32,
        "read.seen": torch.int64,
        "read.odd": torch.bool,
    }


def test_a_sample_that_is_reset_is_new() -> None:
    model, (x, _) = compiled(), data()
    state = model(x=x)["state"]
    reset = torch.tensor([True, False, True, False])
    mixed, new, on = model(x=x, state=state, reset=reset), model(x=x), model(x=x, state=state)
    for sample, expected in enumerate((new, on, new, on)):
        assert torch.equal(mixed["logits"][sample], expected["logits"][sample])
        assert mixed["state"]["read.seen"][sample] == expected["state"]["read.seen"][sample]
    assert not torch.allclose(new["logits"], on["logits"])


def by_hand(p: dict[str, Tensor], x: Tensor, h: Tensor, seen: int) -> tuple[Tensor, Tensor]:
    """The loop of `SPEC` in PyTorch, from a state on."""
    made = []
    for number in range(x.shape[1]):
        h = torch.tanh(
            F.linear(x[:, number], p["read.h.linear.weight"], p["read.h.linear.bias"])
            + F.linear(h, p["read.h.linear_2.weight"], p["read.h.linear_2.bias"])
        )
        seen += 1
        o = F.linear(h * (1.0 if seen % 2 else 0.5), p["read.o.linear.weight"], p["read.o.linear.bias"])
        made.append(o * (1 + seen * 0.1))
    return torch.stack(made, 1), h


def test_learning_from_a_state_on_is_that_by_hand() -> None:
    """No gradient goes into the state; where a sample is reset, its learned start has one."""
    model, (x, y) = compiled().double(), data()
    x = x.double()
    first = model.learn(x=x[:, :3], y=y[:, :3])
    model.zero_grad(set_to_none=True)
    given = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in first.state.items()}
    reset = torch.tensor([True, False, False, True])
    step = model.learn(x=x[:, 3:], y=y[:, 3:], state=given, reset=reset)
    assert given["read.h"].grad is None and not step.state["read.h"].requires_grad
    p = {name: q.detach().clone().requires_grad_() for name, q in model.named_parameters()}
    old, _ = by_hand(p, x[~reset, 3:], first.state["read.h"][~reset], 3)
    new, _ = by_hand(p, x[reset, 3:], p["read.h.initial"].expand(2, 5), 0)
    out = x.new_zeros(4, 5, 3)
    out[~reset], out[reset] = old, new
    loss = F.cross_entropy(out.flatten(0, 1), y[:, 3:].flatten())
    loss.backward()
    torch.testing.assert_close(step.losses["t"], loss.detach())
    torch.testing.assert_close(step.outputs["logits"], out.detach())
    assert step.outputs.keys() == {"logits"}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, p[name].grad, rtol=1e-9, atol=1e-11, msg=name)


def test_of_samples_that_go_on_the_start_learns_nothing() -> None:
    model, (x, y) = compiled(), data()
    model.learn(x=x, y=y, state=model(x=x)["state"])
    grad = dict(model.named_parameters())["read.h.initial"].grad
    assert grad is None or not grad.any()
    model.learn(x=x, y=y)
    grad = dict(model.named_parameters())["read.h.initial"].grad
    assert grad is not None and grad.any()


def test_losses_and_visits_take_a_state() -> None:
    model, (x, y) = compiled(), data()
    state = model(x=x)["state"]
    expected = model.learn(x=x, y=y, state=state)
    torch.testing.assert_close(model.losses(x=x, y=y, state=state), expected.losses)
    assert not torch.allclose(model.losses(x=x, y=y)["t"], expected.losses["t"])
    visits = list(model.visits(x=x, y=y, state=state))
    assert same(visits[-1].state, expected.state)
    assert not any(v.requires_grad for v in visits[-1].state.values())


TWO = SPEC.replace(
    """\
    behavior: |
      r = read(x)
      out = r.o.steps
""",
    """\
    behavior: |
      r = read(x)
      s = again(r.h.steps)
      out = r.o.steps + s.z.steps
""",
).replace(
    "tasks:",
    """\
  again(data):
    over: T
    each: {xt: data}
    stateful: true
    carry: {z: "f32[B, C] = zeros"}
    body: z = z * 0.5 + linear(xt, C)
tasks:""",
)


def test_two_loops_have_one_state() -> None:
    model, (x, _) = compiled(TWO), data()
    whole, first = model(x=x), model(x=x[:, :5])
    second = model(x=x[:, 5:], state=first["state"])
    assert whole["state"].keys() == NAMES | {"again.z"}
    torch.testing.assert_close(torch.cat([first["logits"], second["logits"]], 1), whole["logits"])
    assert same(second["state"], whole["state"])


REPEATED = """\
r2d2c: 1
dims: {D: 6}
inputs:
  x: f32[B, D]
loops:
  refine(data):
    repeat: 2
    stateful: true
    carry: {z: "f32[B, D] = ones"}
    body: z = z * 0.5 + data
tasks:
  t:
    behavior: |
      r = refine(x)
      out = linear(r.z, 2)
    distance: mean(out ^ 2)
outputs:
  out: t.out
"""


def test_a_loop_without_a_sequence_keeps_its_state_too() -> None:
    model, x = compiled(REPEATED), torch.randn(3, 6)
    one = model(x=x)
    torch.testing.assert_close(one["state"]["refine.z"], 0.25 + 1.5 * x)
    two = model(x=x, state=one["state"])
    torch.testing.assert_close(two["state"]["refine.z"], 0.25 * (0.25 + 1.5 * x) + 1.5 * x)


NARROW = REPEATED.replace('"f32[B, D] = ones"}', '"f32[B, D] = ones"}\n    widths: {z: [1/2, 1]}')


def test_a_narrow_model_reads_only_the_first_part_of_a_state() -> None:
    model, x = compiled(NARROW), torch.randn(3, 6)
    wide = model(x=x)["state"]
    narrow = {"refine.z": wide["refine.z"].clone()}
    narrow["refine.z"][:, 3:] = 7.0
    left, right = model(x=x, state=wide, width=0.5), model(x=x, state=narrow, width=0.5)
    assert torch.equal(left["out"], right["out"]) and not left["state"]["refine.z"][:, 3:].any()


# -- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {k: v[:3] for k, v in s.items()},
            "`read.h` of the state is of 3 samples, and the batch has 4",
        ),
        (lambda s: {**s, "read.h": s["read.h"].double()}, r"`read.h` of the state is torch.float64 \[4, 5\]"),
        (lambda s: {**s, "read.seen": s["read.seen"].int()}, "`read.seen` of the state is torch.int32"),
        (
            lambda s: {**s, "read.h": s["read.h"][:, :2]},
            r"is torch.float32 \[4, 2\] .* here it is torch.float32 \[4, 5\]",
        ),
        (
            lambda s: {"read.h": s["read.h"]},
            "one of another spec: it has no `read.odd`; it has no `read.seen`",
        ),
        (lambda s: {**s, "other.m": s["read.h"]}, "it has `other.m`, which this model does not keep"),
        (lambda s: {**s, "read.h": 1.0}, "`read.h` of the state is a float, not a tensor"),
        (lambda s: s["read.h"], "`state` is a Tensor, not what a call of this model gives"),
    ],
)
def test_a_state_of_another_kind_is_refused(change: Any, message: str) -> None:
    model, (x, y) = compiled(), data()
    state = change(model(x=x)["state"])
    for call in (lambda: model(x=x, state=state), lambda: model.learn(x=x, y=y, state=state)):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(TypeError, match=message):
        model.losses(x=x, y=y, state=state)


def test_what_else_is_refused() -> None:
    model, (x, _) = compiled(), data()
    state = model(x=x)["state"]
    with pytest.raises(TypeError, match="`reset` says which samples of a `state` start anew"):
        model(x=x, reset=torch.ones(4, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"`reset` is torch.float32 \[4\]"):
        model(x=x, state=state, reset=torch.ones(4))
    with pytest.raises(TypeError, match=r"`x` is missing$"):
        model(state=state)
    with pytest.raises(TypeError, match="there is no input `z`"):
        model(x=x, z=x)
    plain = Model(r2d2c.loads(SPEC.replace("    stateful: true\n", "")))
    assert plain(x=x).keys() == {"logits"} and plain.graph.hidden == frozenset()
    with pytest.raises(TypeError, match="it keeps no state, and `state` is given"):
        plain(x=x, state=state)


# -- copies, backends, other stages


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_states_as_the_model_does(make: Any) -> None:
    model, (x, y) = compiled(), data()
    state = model.learn(x=x, y=y).state
    other = make(model)
    assert torch.equal(other(x=x, state=state)["logits"], model(x=x, state=state)["logits"])


def test_torch_compile_and_bfloat16() -> None:
    model, (x, _) = compiled(), data()
    state = model(x=x)["state"]
    fast = torch.compile(model, backend="eager")
    torch.testing.assert_close(fast(x=x, state=state)["logits"], model(x=x, state=state)["logits"])
    half = compiled().to(torch.bfloat16)
    found = half(x=x.bfloat16())
    assert found["state"]["read.h"].dtype == torch.bfloat16
    half(x=x.bfloat16(), state=found["state"])
    with pytest.raises(TypeError, match=r"on cpu, and here it is torch\.bfloat16"):
        half(x=x.bfloat16(), state=state)


@pytest.mark.parametrize("text", [SPEC, TWO])
def test_the_emitted_file_takes_the_state_as_well(text: str) -> None:
    model, (x, y) = compiled(text), data()
    scope: dict[str, Any] = {}
    exec(compile(emit_python(model), "emitted.py", "exec"), scope)
    other = scope["Keeper"]()
    other.load_state_dict(model.state_dict())
    first, mine = other(x), model(x=x)
    torch.testing.assert_close(first["logits"], mine["logits"])
    state = {s.port: first[s.port] for s in model.graph.states}
    reset = torch.tensor([True, False, False, False])
    expected = model.learn(x=x, y=y, state=mine["state"], reset=reset)
    losses, outputs = other.learn(x, y, **state, reset=reset)
    torch.testing.assert_close(losses, expected.losses)
    for s in model.graph.states:
        torch.testing.assert_close(outputs[s.port], expected.state[s.name])
    torch.testing.assert_close(other.losses(x, y, **state), model.losses(x=x, y=y, state=mine["state"]))


def test_ports_by_their_own_names_are_taken_as_they_are() -> None:
    """As exported models have them."""
    model, (x, _) = compiled(), data()
    state = model(x=x)["state"]
    ports = {s.port: state[s.name] for s in model.graph.states}
    found = model(x=x, **ports, reset=torch.zeros(4, dtype=torch.bool))
    expected = model(x=x, state=state)
    assert torch.equal(found["logits"], expected["logits"]) and "state" not in found
    assert all(torch.equal(found[s.port], expected["state"][s.name]) for s in model.graph.states)


def test_no_data_is_wanted_for_the_state() -> None:
    graph: Graph = r2d2c.loads(SPEC).graph
    assert input_names(graph) == ["x"] and data_ports(graph).keys() == {"x", "y"}
    assert graph.outputs == ("logits",)
    assert graph.states[0] == ("read.h", "read_h_state")


def test_names_that_are_taken() -> None:
    text = SPEC.replace("  x: f32[B, T, D]", "  x: f32[B, T, D]\n  read_h_state: f32[B, S]")
    text = text.replace("out = r.o.steps", "out = r.o.steps + reshape(linear(read_h_state, C), (B, 1, C))")
    model, (x, _) = compiled(text), data()
    found = model(x=x, read_h_state=torch.zeros(4, 5))
    assert found["state"].keys() == NAMES
    # A parameter of the loop may be called as the state's input.
    text = SPEC.replace("read(data)", "read(reset)").replace("xt: data", "xt: reset")
    assert torch.equal(compiled(text)(x=x)["state"]["read.seen"], torch.full((4,), 8))


def test_wiring_is_proved_with_a_state() -> None:
    model = compiled(TWO)
    proof = prove(model)
    assert proof.ok and len(proof.entries) == len(dict(model.named_parameters()))


def test_trace_and_drawing() -> None:
    model, (x, y) = compiled(), data()
    state = model(x=x)["state"]
    found = model.trace(x=x, y=y, state=state)
    torch.testing.assert_close(found.losses, model.losses(x=x, y=y, state=state))
    text = to_mermaid(picture(model.graph, rules(), model.wiring()))
    assert text.count("<b>read.h, the state</b>") == 2 and "reset" not in text and "read_h_state" not in text
