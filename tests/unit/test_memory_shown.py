"""Memories in pictures and in the plan: one cylinder each, and how their loops learn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import r2d2c
from r2d2c.cli.main import main
from r2d2c.credit.registry import rules
from r2d2c.draw import Picture, picture
from r2d2c.lower import builder, phases
from r2d2c.lower.phase_run import Phases
from r2d2c.plan import plan

ROOT = Path(__file__).parents[2]
SPEC = """
r2d2c: 1
model: kept
dims: {S: 5, V: 4, K: 3}
inputs:
  x: f32[B, T, V]
targets:
  y: i64[B, T]
memories:
  m:
    slots: K
    fields: {state: "f32[S]", token: "f32[V]", surprise: f32}
    each_slot: rep = tanh(linear(concat(state, token), S))
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
      out = linear(concat(flatten(m.rep), flatten(bits(m.age, 5)), flatten(m.rep)), V)
      pred = stop(softmax(out))
tasks:
  t:
    behavior: |
      r = read(softmax(linear(x, V)))
      out = r.out.steps
    distance: mean(cross_entropy(reshape(out, (-1, V)), reshape(y, -1)))
outputs:
  out: t.out
"""
WRITE = "m = write(m, state=last, token=xt, surprise=missed(pred, xt))"
FIELDS = ("state: f32[5]", "token: f32[4]", "surprise: f32", "each slot: rep f32[5]")


def changed(*pairs: tuple[str, str]) -> str:
    text = SPEC
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def drawn(text: str) -> Picture:
    spec = r2d2c.loads(text)
    found = picture(spec.graph, rules(), memories=spec.spec.memories)
    assert all(arrow.start in found.shapes and arrow.end in found.shapes for arrow in found.arrows)
    assert len({(a.start, a.end, a.style, a.label) for a in found.arrows}) == len(found.arrows)
    return found


def cylinders(found: Picture) -> dict[str, tuple[str, ...]]:
    return {s.lines[0]: s.lines[1:] for s in found.shapes.values() if s.kind == "memory"}


def edges(found: Picture, memory: str = "m") -> set[tuple[str, str, str, str]]:
    """The edges of a memory, by the names that boxes show."""
    (key,) = [s.key for s in found.shapes.values() if s.kind == "memory" and s.lines[0] == memory]
    name = {shape.key: shape.lines[0] for shape in found.shapes.values()}
    return {(name[a.start], name[a.end], a.style, a.label) for a in found.arrows if key in (a.start, a.end)}


def test_a_memory_is_one_cylinder() -> None:
    found = drawn(SPEC)
    assert cylinders(found) == {
        "m": (
            "3 slots of a sample",
            *FIELDS,
            "replaces argmin(surprise)",
            "written at every step",
            "credit over steps: local",
        )
    }
    (loop,) = found.parents
    inside = {shape.lines[0]: shape.lines for shape in found.shapes.values() if shape.group == loop}
    assert inside.keys() == {"m", "last", "out", "pred", "surprise"}
    # Neither what reading nor what writing adds is an op of the spec.
    assert inside["last"][1] == "stop" and inside["surprise"][1:] == ("missed", "f32[B]")
    assert edges(found) == {
        ("last", "m", "carried", "state"),
        ("x", "m", "data", "token, each step"),
        ("surprise", "m", "data", "surprise"),
        ("m", "last", "data", "newest.rep"),
        ("m", "out", "data", "age, rep"),
    }


def test_its_rules_are_as_the_spec_writes_them() -> None:
    rules_ = (
        "    replace: argmax(age +\n      surprise)\n    when: surprise > replaced.surprise\n    each_slot"
    )
    (lines,) = cylinders(drawn(changed(("    each_slot", rules_)))).values()
    assert lines[5:7] == ("replaces argmax(age + surprise)", "written when surprise > replaced.surprise")
    text = changed(("    each_slot", "    credit: backprop\n    each_slot"), (", surprise: f32}", "}"))
    (lines,) = cylinders(drawn(text.replace(", surprise=missed(pred, xt)", ""))).values()
    assert lines[-2:] == ("replaces oldest", "written at every step")
    graph = r2d2c.loads(SPEC).graph  # without the text
    (lines,) = cylinders(picture(graph, rules())).values()
    assert lines == ("3 slots of a sample", *FIELDS, "credit over steps: local")


def test_what_is_read_before_the_write_is_carried() -> None:
    found = drawn(
        changed((WRITE, f"q = tanh(m.rep)\n      {WRITE}"), ("flatten(bits", "flatten(q), flatten(bits"))
    )
    assert {("m", "q", "carried", "rep"), ("m", "out", "data", "age, rep")} <= edges(found)
    # What a slot has goes back into a slot.
    found = drawn(changed(("state=last", "state=m.oldest.state")))
    assert ("m", "m", "carried", "state: oldest.state") in edges(found)
    assert not any(start == "last" for start, *_ in edges(found))


def test_named_parts_two_memories_and_numbers() -> None:
    text = changed(
        (
            "      out = linear",
            "      reps = m.rep\n      l = write(l, low=m.newest.rep, n=1)\n      out = linear",
        ),
        ("flatten(bits", "flatten(reps), flatten(l.low), flatten(bits"),
        ("loops:", "  l:\n    slots: 1\n    fields: {low: 'f32[S]', n: i64}\nloops:"),
    )
    found = drawn(text)
    assert cylinders(found)["l"][:3] == ("1 slot of a sample", "low: f32[5]", "n: i64")
    assert edges(found, "l") == {("m", "l", "data", "low: newest.rep"), ("l", "out", "data", "low")}
    assert ("m", "reps", "data", "rep") in edges(found)
    assert not any(name == "out" and label != "age" for _, name, _, label in edges(found))


def test_a_loop_in_the_step_reads_the_memory() -> None:
    text = changed(
        ("  read(x):", "  think(h, reps):\n    repeat: 2\n    carry:\n      c: f32[B, S] = h\n    body: |\n"
         "      c = tanh(linear(c, S) + mean(reps, axes=1))\n  read(x):"),
        ("      out = linear", "      q = think(m.newest.rep, m.rep)\n      out = linear"),
        ("flatten(bits", "q.c, flatten(bits"),
    )  # fmt: skip
    found = drawn(text)
    assert {label for start, end, _, label in edges(found) if (start, end) == ("m", "c")} == {
        "first c: newest.rep, rep"
    }


def test_a_state_of_a_memory_is_one_box() -> None:
    found = drawn(changed(("    over: T\n", "    over: T\n    stateful: true\n")))
    state = [shape.lines for shape in found.shapes.values() if shape.lines[0].endswith("the state")]
    assert sorted(lines[0] for lines in state) == sorted(
        2 * ["read.last, the state", "read.m, the state", "read.pred, the state"]
    )
    assert {
        ("read.m, the state", "m", "data", "first"),
        ("m", "read.m, the state", "data", ""),
        ("read.last, the state", "m", "data", "first state"),
    } <= edges(found)


# -- costs

BYTES = 3 * (5 * 4 + 4 * 4 + 4 + 8) + 8
WAYS = {
    "by entries": ((), "two phases, by entries", ""),
    "a gradient goes back": (
        (("    each_slot", "    credit: backprop\n    each_slot"), ("stop(m.newest.rep)", "m.newest.rep")),
        "step by step",
        "a gradient goes from step to step over `last`",
    ),
    "recomputed": (
        (("    over: T\n", "    over: T\n    recompute: true\n"),),
        "step by step",
        "its steps are computed again for the backward",
    ),
    "drawn": ((("stop(softmax(out))", "stop(softmax(dropout(out)))"),), "step by step", "`dropout` draws random numbers"),
    "coupled": (
        (("stop(softmax(out))", "stop(softmax(out - mean(out, axes=0)))"),),
        "step by step",
        "`mean` may mix samples, or counts them",
    ),
    "only ages": (
        (
            ("    each_slot: rep = tanh(linear(concat(state, token), S))\n", ""),
            ("m.newest.rep", "m.newest.state"),
            ("linear(concat(flatten(m.rep), flatten(bits(m.age, 5)), flatten(m.rep)), V)", "linear(flatten(bits(m.age, 5)), V)"),
        ),
        "two phases",
        "no value is made of each slot by itself",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_the_plan_says_how_the_loop_of_a_memory_learns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, runs, why = WAYS[name]
    spec = r2d2c.loads(changed(*pairs))
    (row,) = plan(spec, rules()).memories
    assert (row.name, row.loop, row.slots, row.bytes) == ("m", "read", 3, BYTES)
    assert row.fields == (("state", "f32[5]"), ("token", "f32[4]"), ("surprise", "f32"))
    assert (row.runs, row.why) == (runs, why)

    # That is what the lowering does.
    made: list[Phases | None] = []
    plan_ = phases.plan

    def spy(*args: object) -> Phases | None:
        made.append(plan_(*args))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(builder, "plan", spy)
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    r2d2c.compile(spec).learn(x=x, y=torch.zeros(2, 3, dtype=torch.int64))
    (found,) = made
    assert (found is not None) == runs.startswith("two phases")
    assert (found is not None and bool(found.stores.memories)) == runs.endswith("by entries")


def test_the_plan_shows_memories_as_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kept.yaml"
    path.write_text(SPEC)
    assert main(["plan", str(path)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("m  "))
    shown = "m read 3 state f32[5], token f32[4], surprise f32 152 B two phases, by entries"
    assert " ".join(row.split()) == shown
    assert main(["plan", str(path), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memories"] == [
        {
            "name": "m",
            "loop": "read",
            "slots": 3,
            "fields": {"state": "f32[5]", "token": "f32[4]", "surprise": "f32"},
            "bytes_per_sample": BYTES,
            "runs": "two phases, by entries",
            "why": "",
        }
    ]


def test_planning_and_drawing_import_no_torch() -> None:
    script = (
        "import sys; from r2d2c.cli.main import main\n"
        "assert main(['plan', sys.argv[1]]) == main(['graph', sys.argv[1]]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    spec = ROOT / "specs" / "memory" / "two_symbols.yaml"
    done = subprocess.run([sys.executable, "-c", script, spec], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
