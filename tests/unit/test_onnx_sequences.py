"""Sequences in ONNX: a Scan, the state as inputs and outputs, and the file of one step, held against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import r2d2c
from r2d2c.backends.onnx.build import build
from r2d2c.backends.onnx.inspect import inspect_model
from r2d2c.backends.onnx.runtime import run, serialize
from r2d2c.backends.onnx.verify import check_model
from r2d2c.cli.commands.export import command
from r2d2c.diagnostics import CompileError

RNN = """\
r2d2c: 1
model: rnn
inputs:
  x: f32[B, T, 5]
  gain: f32[B, 5]
  mask: bool[B, T]
loops:
  read(x, gain, mask):
    over: T
    each: {xt: x, live: mask}
    stateful: true
    carry:
      h: f32[B, 8] = learned(normal(1))
      n: i64[B] = zeros
    body: |
      new = tanh(linear(xt * gain, 8) + linear(h, 8))
      h = where(reshape(live, (B, 1)), new, h)
      n = where(live, n + 1, n)
      big = new > 0.2
tasks:
  t:
    behavior: |
      r = read(x, gain, mask)
      h, all, n, big = r.h, r.h.steps, r.n.steps, r.big
      y = linear(all, 3) + 1
outputs: {h: t.h, y: t.y, n: t.n, big: t.big, x: t.all}
"""

STACK = """\
r2d2c: 1
model: stack
inputs:
  x: f32[B, T, 5]
loops:
  low(x):
    over: T
    each: {xt: x}
    stateful: true
    carry: {h: "f32[B, 8] = zeros"}
    body: h = tanh(linear(xt, 8) + linear(h, 8))
  deep(a, h0):
    repeat: 3
    carry: {g: "f32[B, 8] = h0"}
    body: g = tanh(linear(g, 8) + a)
  high(x):
    over: T
    each: {xt: x}
    stateful: true
    carry: {h: "f32[B, 8] = ones"}
    body: h = deep(linear(xt, 8), h).g
tasks:
  one: {behavior: "h = low(x).h.steps |> linear(6)"}
  two: {behavior: "y = high(one.h).h.steps"}
outputs: {y: two.y, h: one.h}
"""

PRODUCTS = """
    behavior: |
      y = high(one.h).h.steps
      z = matmul(y, transpose(y))"""

MEAN = RNN.replace("y = linear(all, 3) + 1", "y = mean(all, axes=1)")


def compiled(text: str, **options: Any) -> r2d2c.Model:
    torch.manual_seed(0)
    return r2d2c.compile(r2d2c.loads(text, name="sequences.yaml", **options))


def written(model: r2d2c.Model, step: bool = False) -> tuple[Any, bytes]:
    built = build(model, step)
    data = serialize(built, model.spec.name)
    check_model(data, model)
    return built, data


def session_of(data: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def batch(size: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(size, length, 5, generator=generator),
        "gain": torch.randn(size, 5, generator=generator),
        "mask": torch.rand(size, length, generator=generator) < 0.7,
    }


def named(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))


def close(got: np.ndarray, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == tuple(expected.shape)
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=0, atol=tolerance)


def by_hand(model: r2d2c.Model, given: dict[str, torch.Tensor], h: torch.Tensor, n: torch.Tensor) -> Any:
    """The model RNN as plain PyTorch, from a state on."""
    weights = dict(model.named_parameters())
    w, b, u, c, _, out, bias = _parameters(weights)
    every, counts = [], []
    for t in range(given["x"].shape[1]):
        new = torch.tanh((given["x"][:, t] * given["gain"]) @ w.T + b + h @ u.T + c)
        live = given["mask"][:, t]
        h, n = torch.where(live[:, None], new, h), n + live
        every.append(h)
        counts.append(n)
    whole = torch.stack(every, 1)
    return {
        "h": h,
        "y": whole @ out.T + bias + 1,
        "n": torch.stack(counts, 1),
        "big": new > 0.2,
        "x_out": whole,
    }


def _parameters(weights: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    square = [p for p in weights.values() if p.shape == (8, 8)]
    wide = [p for p in weights.values() if p.shape == (8, 5)]
    (out,), (bias,) = ([p for p in weights.values() if p.shape == s] for s in ((3, 8), (3,)))
    biases = [p for n, p in weights.items() if p.shape == (8,) and n.endswith("bias")]
    (start,) = (p for n, p in weights.items() if p.shape == (8,) and not n.endswith("bias"))
    return wide[0], biases[0], square[0], biases[1], start, out, bias


# -- a Scan


def test_a_loop_over_a_sequence_is_a_scan() -> None:
    _, data = written(compiled(RNN))
    ops = [node.op_type for node in onnx.load_from_string(data).graph.node]
    assert ops.count("Scan") == 1 and "Loop" not in ops and "Tanh" not in ops


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 30])
def test_a_sequence_along_any_axis(axis: int, length: int) -> None:
    text = """\
r2d2c: 1
model: cumulative
inputs:
  x: f32[B, 4, T]
  w: f32[T]
loops:
  add(x, w):
    over: T
    each: {xt: x, wt: w}
    carry:
      c: f32[B, 4] = zeros
      total: f32[] = 0
    body: |
      c = c + xt * wt
      total = total + wt
tasks:
  t:
    behavior: |
      r = add(x, w)
      all, totals, last = r.c.steps, r.total.steps, r.c
outputs: {all: t.all, totals: t.totals, last: t.last}
"""
    shape = (3, 4, length) if axis == 2 else (3, length, 4)
    text = text if axis == 2 else text.replace("[B, 4, T]", "[B, T, 4]")
    _, data = written(compiled(text))
    assert b"Scan" in data
    x, w = torch.randn(shape), torch.randn(length)
    got = named(session_of(data), {"x": x.numpy(), "w": w.numpy()})
    weighted = x * (w if axis == 2 else w[:, None])
    expected = weighted.cumsum(axis).movedim(axis, 1)
    close(got["all"], expected)
    close(got["last"], expected[:, -1])
    close(got["totals"], w.cumsum(0))


def test_a_loop_over_a_length_alone_is_a_loop() -> None:
    """Nothing that a Scan could go along: the body reads no element."""
    text = """\
r2d2c: 1
model: powers
inputs:
  x: f32[B, T]
loops:
  power(x):
    over: T
    each: {unread: x}
    carry: {c: "f32[B] = ones"}
    body: c = c * 1.1
tasks:
  t: {behavior: "c = power(x).c.steps"}
outputs: {c: t.c}
"""
    built, data = written(compiled(text))
    got = run(session_of(data), built, {"x": torch.zeros(2, 9)})["c"]
    close(got.numpy(), 1.1 ** torch.arange(1, 10).expand(2, 9))


# -- the state of a whole sequence


def test_the_state_goes_in_and_out() -> None:
    model = compiled(RNN)
    _, data = written(model)
    session = session_of(data)
    assert {"state.read.h", "state.read.n", "reset"} <= {i.name for i in session.get_inputs()}
    assert {"state.read.h.next", "state.read.n.next"} <= {o.name for o in session.get_outputs()}
    first, second = batch(3, 6), batch(3, 4, seed=1)
    state = {"state.read.h": np.full((3, 8), np.nan, np.float32), "state.read.n": np.full(3, 99, np.int64)}
    feed = {name: v.numpy() for name, v in first.items()}
    got = named(session, feed | state | {"reset": np.ones(3, bool)})
    start = _parameters(dict(model.named_parameters()))[4].detach()
    expected = by_hand(model, first, start.expand(3, 8), torch.zeros(3, dtype=torch.int64))
    for name, value in expected.items():
        close(got[name], value)
    # Two samples go on, the third starts anew.
    state = {name.removesuffix(".next"): value for name, value in got.items() if name.startswith("state.")}
    feed = {name: v.numpy() for name, v in second.items()}
    reset = np.array([False, False, True])
    got = named(session, feed | state | {"reset": reset})
    h, n = expected["h"].clone(), expected["n"][:, -1].clone()
    h[2], n[2] = start, 0
    expected = by_hand(model, second, h, n)
    for name, value in expected.items():
        close(got[name], value)
    close(got["state.read.h.next"], expected["h"])
    close(got["state.read.n.next"], expected["n"][:, -1])


def test_export_tells_of_the_state(tmp_path: Path) -> None:
    report = r2d2c.export(compiled(RNN), tmp_path / "m.onnx")
    assert report.states == {"state.read.h": "state.read.h.next", "state.read.n": "state.read.n.next"}
    assert (
        report.outputs == {"h": "h", "y": "y", "n": "n", "big": "big", "x": "x_out"} and report.step is None
    )
    assert report.max_difference.keys() == {"h", "y", "n", "big", "x", *report.states.values()}
    assert "state: state.read.h, state.read.n\n" in report.text() and "`reset` is true" in report.text()
    found = inspect_model(tmp_path / "m.onnx")
    assert found.state == {
        "read.h": ("state.read.h", "state.read.h.next"),
        "read.n": ("state.read.n", "state.read.n.next"),
    }
    assert found.reset == "reset" and found.step is None
    assert "read.h: state.read.h -> state.read.h.next" in found.text()


def test_a_state_that_is_frozen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose samples all start anew gives the right outputs of a first run, and is refused all the same."""
    from r2d2c.backends.onnx import verify

    compared = verify.run
    monkeypatch.setattr(
        verify, "run", lambda s, b, given: compared(s, b, {**given, "reset": torch.ones_like(given["reset"])})
    )
    with pytest.raises(CompileError) as caught:
        r2d2c.export(compiled(RNN), tmp_path / "m.onnx")
    assert {d.code for d in caught.value.diagnostics} == {"E601"} and not list(tmp_path.iterdir())


def test_the_onnx_backend_keeps_the_state() -> None:
    model = compiled(RNN)
    ours = r2d2c.compile(model.spec, backend="onnx")
    ours.load_state_dict(model.state_dict())
    whole, parts = batch(3, 10), []
    state = None
    for piece in (slice(0, 4), slice(4, 10)):
        given = {"x": whole["x"][:, piece], "gain": whole["gain"], "mask": whole["mask"][:, piece]}
        found = ours(**given) if state is None else ours(**given, state=state)
        state = found["state"]
        parts.append(found["y"])
    assert state is not None and state.keys() == {"read.h", "read.n"}
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(parts, 1), model(**whole)["y"], rtol=0, atol=1e-5)


# -- one step


def steps_of(data: bytes, given: dict[str, torch.Tensor], size: int) -> list[dict[str, np.ndarray]]:
    """Every output of every step, one step after another."""
    session = session_of(data)
    shapes = {i.name: i for i in session.get_inputs()}
    state = {
        name: np.zeros([size, *i.shape[1:]], np.int64 if "int64" in i.type else np.float32)
        for name, i in shapes.items()
        if name.startswith("state.")
    }
    found = []
    for t in range(given["x"].shape[1]):
        feed = {
            name: (v[:, t] if name in ("x", "mask") else v).contiguous().numpy() for name, v in given.items()
        }
        got = named(session, feed | state | {"reset": np.full(size, t == 0)})
        state = {name: got[f"{name}.next"] for name in state}
        found.append(got)
    return found


@pytest.mark.parametrize("text", [RNN, STACK], ids=["rnn", "stack"])
def test_steps_by_hand_are_the_whole_sequence(text: str) -> None:
    model = compiled(text)
    _, data = written(model, step=True)
    graph = onnx.load_from_string(data).graph
    assert "Scan" not in [node.op_type for node in graph.node]
    given = {name: v for name, v in batch(4, 9).items() if name == "x" or text is RNN}
    with torch.no_grad():
        expected = model(**given)
    found = steps_of(data, given, 4)
    for name in ("y", "n", "x") if text is RNN else ("y", "h"):
        of = "x_out" if name == "x" else name
        close(np.stack([step[of] for step in found], 1), expected[name])
    if text is RNN:
        close(found[-1]["h"], expected["h"])
    for name, value in expected["state"].items():
        close(found[-1][f"state.{name}.next"], value)


def test_export_of_one_step(tmp_path: Path) -> None:
    report = r2d2c.export(compiled(STACK), tmp_path / "m.onnx", step=True)
    assert report.step == "T" and max(report.max_difference.values()) < 1e-5
    assert {sizes["T"] for sizes in report.sizes} == {7, 12, 17} and "no axis of T" in report.text()
    found = inspect_model(tmp_path / "m.onnx")
    assert found.step == "T" and [str(t) for t in found.inputs if t.name == "x"] == ["f32[B, 5]"]
    assert list(found.loops) == ["deep"] and found.state.keys() == {"low.h", "high.h"}


def test_one_step_in_float64() -> None:
    model = compiled(RNN).double()
    built, data = written(model, step=True)
    from r2d2c.backends.onnx.verify import verify

    seen = verify(model, built, data, 1e-12, (1, 3))
    assert max(difference for difference, _ in seen.differences.values()) < 1e-12


def test_what_looks_at_several_elements_is_no_one_step(tmp_path: Path) -> None:
    model = compiled(MEAN)
    r2d2c.export(model, tmp_path / "whole.onnx")
    with pytest.raises(CompileError) as caught:
        r2d2c.export(model, tmp_path / "step.onnx", step=True)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E615" and "`y` of one step after another" in diagnostic.message
    assert [p.name for p in tmp_path.iterdir()] == ["whole.onnx"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STACK.replace("    stateful: true\n", ""), "`stack` has no state"),
        (STACK.replace("    stateful: true\n", "", 1), "the loop `low` goes over T as well"),
        ("r2d2c: 1\nmodel: m\ninputs: {x: 'f32[B, 4]'}\ntasks: {t: {behavior: h = x |> linear(2)}}\noutputs: {h: t.h}\n",
         "`m` has no state"),
        (STACK.replace("inputs:", "dims: {N: 6}\ninputs:").replace("T]", "N]").replace("T,", "N,").replace("over: T", "over: N"),
         "takes N=6 steps, always"),
        (STACK.replace("y: two.y", "y: two.z").replace('{behavior: "y = high(one.h).h.steps"}', PRODUCTS),
         "has no one axis of T"),
    ],
    ids=["none", "other", "no loop", "fixed", "twice"],
)  # fmt: skip
def test_no_one_step(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        r2d2c.export(compiled(text), tmp_path / "m.onnx", step=True)
    first = caught.value.diagnostics[0]
    assert first.code == "E614" and said in first.message and first.span is not None
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text(RNN)
    command(tmp_path / "spec.yaml", tmp_path / "m.onnx", step=True)
    assert "one step" in capsys.readouterr().out
    assert inspect_model(tmp_path / "m.onnx").step == "T"


# -- memories

MACHINE = """\
r2d2c: 1
model: machine
dims: {K: 3, S: 6, V: 5}
inputs:
  x: f32[B, T, V]
memories:
  m:
    slots: K
    fields: {state: "f32[S]", token: "f32[V]", surprise: f32}
    when: surprise > replaced.surprise
    each_slot: rep = tanh(linear(concat(state, token), S))
loops:
  read(x):
    over: T
    each: {xt: x}
    stateful: true
    carry:
      last: f32[B, S] = zeros
      guess: f32[B, V] = zeros
    body: |
      m = write(m, state=last, token=xt, surprise=sum(abs(guess - xt), -1))
      last = stop(m.newest.rep)
      out = linear(flatten(m.rep), V)
      guess = stop(softmax(out))
tasks:
  t:
    behavior: |
      r = read(x)
      out, ages = r.out.steps, r.m.age
outputs: {out: t.out, ages: t.ages}
"""
NEVER = 2**30


def machine(model: r2d2c.Model, x: torch.Tensor) -> tuple[torch.Tensor, list[list[int]]]:
    """MACHINE by hand, one sample after another, with lists of slots."""
    (w,) = (p for p in model.parameters() if p.shape == (6, 11))
    (b,) = (p for p in model.parameters() if p.shape == (6,))
    (v,) = (p for p in model.parameters() if p.shape == (5, 18))
    (c,) = (p for p in model.parameters() if p.shape == (5,))
    every, all_ages = [], []
    for sequence in x:
        states, tokens = [torch.zeros(6)] * 3, [torch.zeros(5)] * 3
        surprises, ages = [-np.inf] * 3, [NEVER] * 3
        last, guess = torch.zeros(6), torch.zeros(5)
        for t, token in enumerate(sequence):
            surprise = float((guess - token).abs().sum()) if t else 0.0
            k = int(np.argmin(surprises))
            ages = [age + (age < NEVER) for age in ages]
            if surprise > surprises[k]:
                states[k], tokens[k], surprises[k], ages[k] = last, token, surprise, 0
            reps = [torch.tanh(w @ torch.cat(pair) + b) for pair in zip(states, tokens, strict=True)]
            last = reps[int(np.argmin(ages))]
            out = v @ torch.cat(reps) + c
            guess = out.softmax(0)
            every.append(out)
        all_ages.append(ages)
    return torch.stack(every).reshape(*x.shape[:2], 5), all_ages


def test_a_memory_as_a_scan_and_as_steps(tmp_path: Path) -> None:
    model = compiled(MACHINE)
    x = torch.softmax(2 * torch.randn(4, 25, 5, generator=torch.Generator().manual_seed(3)), -1)
    with torch.no_grad():
        expected, ages = machine(model, x)
    _, data = written(model)
    assert {"state.read.m.age", "state.read.m.state"} <= {i.name for i in session_of(data).get_inputs()}
    state = {
        i.name: np.full([4, *i.shape[1:]], 7, np.int64 if "int64" in i.type else np.float32)
        for i in session_of(data).get_inputs()
        if i.name.startswith("state.")
    }
    got = named(session_of(data), {"x": x.numpy(), "reset": np.ones(4, bool)} | state)
    close(got["out"], expected)
    assert got["ages"].tolist() == ages
    _, data = written(model, step=True)
    found = steps_of(data, {"x": x}, 4)
    close(np.stack([step["out"] for step in found], 1), expected)
    assert found[-1]["ages"].tolist() == ages
    for step in (False, True):
        r2d2c.export(model, tmp_path / f"{step}.onnx", step=step)


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": 3}', '{"a": ["b"]}', "{", "null"])
def test_a_damaged_note_of_the_state_is_no_state(tmp_path: Path, text: str) -> None:
    model = onnx.load_from_string(written(compiled(RNN))[1])
    for entry in model.metadata_props:
        if entry.key == "r2d2c.state":
            entry.value = text
    onnx.save(model, tmp_path / "m.onnx")
    found = inspect_model(tmp_path / "m.onnx")
    assert found.state == {} and found.reset == "reset"
