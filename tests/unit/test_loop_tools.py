"""What prints, draws, counts, traces and proves graphs, for specs with loops."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import product
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.credit.registry import rules
from r2d2c.draw import Picture, picture, picture_of_nodes
from r2d2c.draw_text import to_dot, to_mermaid
from r2d2c.emit import emit_python
from r2d2c.passes.inline import inference_graph
from r2d2c.passes.training import training_graph
from r2d2c.plan import plan
from r2d2c.printer import print_graph
from r2d2c.prove import prove
from r2d2c.sampling import random_batch
from tests.unit.loop_specs import DEPTH, HALTING, NESTED, OVER, PER_STEP, SPECS, TWICE

Tensor = torch.Tensor


def sizes_of(spec: r2d2c.Checked) -> list[dict[str, float]]:
    """Every combination of the numbers that a model takes."""
    arguments = spec.graph.arguments.values()
    values = [a.allowed or range(int(a.low), int(a.high) + 1) for a in arguments]
    return [dict(zip((a.name for a in arguments), each, strict=True)) for each in product(*values)]


# -- Python


@pytest.mark.parametrize("name", SPECS)
def test_the_emitted_file_does_the_same(name: str) -> None:
    spec = r2d2c.loads(SPECS[name])
    model = r2d2c.compile(spec)
    text = emit_python(model)
    assert "import r2d2c" not in text and text.count("_step(") > 1
    scope: dict[str, Any] = {}
    exec(compile(text, "emitted.py", "exec"), scope)
    other = scope["Looped"]()
    for step, sizes in enumerate(sizes_of(spec)):
        batch = random_batch(spec.graph, seed=step)
        inputs = {"x": batch["x"]}
        mine, theirs = model(**inputs, **sizes), other(**inputs, **sizes)
        assert mine.keys() == theirs.keys()
        torch.testing.assert_close(theirs, mine)
        torch.testing.assert_close(other.losses(**batch, **sizes), model.losses(**batch, **sizes))
        model.zero_grad(set_to_none=True)
        other.zero_grad(set_to_none=True)
        learned, (losses, outputs) = model.learn(**batch, **sizes), other.learn(**batch, **sizes)
        torch.testing.assert_close(losses, learned.losses)
        torch.testing.assert_close(outputs, learned.outputs)
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found = {n: p.grad for n, p in other.named_parameters() if p.grad is not None}
        assert found.keys() == gradients.keys()
        torch.testing.assert_close(found, gradients)


def test_the_emitted_file_takes_the_usual_sizes() -> None:
    model = r2d2c.compile(r2d2c.loads(NESTED))
    text = emit_python(model)
    assert "def forward(self, x, *, depth=3, width=1.0):" in text or "width=1.0, depth=3" in text
    assert "depth, 3 where it is not given, may be 1 to 5." in text
    assert "width, 1.0 where it is not given, may be 0.4, 1." in text


def test_a_loop_that_is_used_twice_is_written_once() -> None:
    text = emit_python(r2d2c.compile(r2d2c.loads(TWICE)))
    assert text.count("def run_refine(") == 1 and text.count("def refine_step(") == 1
    # To use, for the losses and to learn, which says that a gradient may be 0.
    assert text.count(" = run_refine(") == 4 and text.count(" = run_refine_2(") == 2


# -- text


@pytest.mark.parametrize("stage", ["graph", "inference", "training"])
@pytest.mark.parametrize("name", SPECS)
def test_every_stage_is_printed_with_its_steps(name: str, stage: str) -> None:
    spec = r2d2c.loads(SPECS[name])
    made = {"graph": spec.graph, "inference": inference_graph(spec.graph)}
    graph = made.get(stage) or training_graph(spec.graph, spec.ops, rules())
    text = print_graph(graph, spec.ops)
    steps = {node.id for region in graph.steps.values() for node in region.nodes if node.op == "tanh"}
    assert steps and all(text.count(f"%{id_} = tanh(") == 1 for id_ in steps)
    assert "  carry %" in text and "  next  " in text and "(step)" not in text


def test_a_loop_says_what_it_is() -> None:
    spec = r2d2c.loads(TWICE)
    text = print_graph(inference_graph(spec.graph), spec.ops)
    assert text.count("%refine.c.tanh = tanh(") == 1 and "the same steps as region refine.step above" in text
    assert "carry %c: f32[B, 5] {credit: truncate(2)} = %refine.c.expand" in text
    assert "arguments depth = 3 of 1..5" in text
    spec = r2d2c.loads(HALTING)
    text = print_graph(inference_graph(spec.graph), spec.ops)
    assert "loop until halt, at most 5 steps, epsilon 0.1" in text and "gives logits.mean, count" in text


# -- pictures


def drawn(text: str, stage: str = "tasks") -> Picture:
    spec = r2d2c.loads(text)
    training = training_graph(spec.graph, spec.ops, rules())
    if stage == "tasks":
        return picture(spec.graph, rules(), r2d2c.compile(spec).wiring(), training)
    return picture_of_nodes(training if stage == "training" else inference_graph(spec.graph))


def carried(found: Picture) -> set[tuple[str, str]]:
    return {(a.label, found.shapes[a.end].lines[0]) for a in found.arrows if a.style == "carried"}


def test_a_loop_is_a_group_with_edges_back() -> None:
    found = drawn(DEPTH)
    (group,) = found.parents
    assert found.groups[group] == "refine: depth steps" and found.parents[group] == "t"
    inside = {shape.lines[0]: shape.lines for shape in found.shapes.values() if shape.group == group}
    assert inside.keys() == {"c", "z", "logits"}
    assert inside["c"][-1] == "its start is learned" and inside["z"][-1] == "starts as zeros"
    assert carried(found) == {("c", "c"), ("z", "z")}
    edges = {(found.shapes[a.start].lines[0], found.shapes[a.end].lines[0], a.label) for a in found.arrows}
    assert ("x", "c", "") in edges and ("logits", "out", "") in edges


def test_loops_in_loops_and_sequences() -> None:
    found = drawn(NESTED)
    titles = {found.groups[group]: parent for group, parent in found.parents.items()}
    outer = next(group for group in found.parents if found.groups[group].startswith("outer"))
    assert titles == {"outer: depth steps, recomputed": "t", "inner: 2 steps": outer}
    assert carried(found) == {("c", "c"), ("u", "u")}
    labels = {arrow.label for arrow in drawn(OVER).arrows}
    assert {"each step", "every step", "h"} <= labels
    labels = {arrow.label for arrow in drawn(HALTING).arrows}
    assert {"mean", "count", "c"} <= labels
    halts = [s for s in drawn(HALTING).shapes.values() if "says when a sample halts" in s.lines]
    assert [shape.lines[0] for shape in halts] == ["p"]


@pytest.mark.parametrize("stage", ["tasks", "inference", "training"])
@pytest.mark.parametrize("name", SPECS)
def test_the_texts_of_pictures_are_sound(name: str, stage: str) -> None:
    found = drawn(SPECS[name], stage)
    assert all(arrow.start in found.shapes and arrow.end in found.shapes for arrow in found.arrows)
    assert any(arrow.style == "carried" for arrow in found.arrows)
    mermaid = to_mermaid(found)
    assert mermaid.count("subgraph ") == len(re.findall(r"^ *end$", mermaid, re.MULTILINE))
    assert mermaid.count("subgraph g") == len(found.groups)
    dot = shutil.which("dot")
    if dot is not None:
        done = subprocess.run([dot, "-Tsvg"], input=to_dot(found), capture_output=True, text=True, check=True)
        assert done.stdout.count('class="cluster"') == len(found.groups)


# -- costs


def counted(text: str, **options: Any) -> Any:
    spec = r2d2c.loads(text)
    return plan(spec, rules(), **options)


def test_a_loop_costs_its_steps() -> None:
    # Linears twice from S to S, and from S to C, of 2·in·out each; tanh and two additions of S. That of the data is
    # the same at every step, and stands before the loop.
    dense = 2 * (2 * 5 * 5) + 2 * 5 * 3
    (usual,) = counted(DEPTH).loops
    assert (usual.name, usual.within, usual.steps, usual.recompute) == ("refine", "t", 3, False)
    assert usual.flops == dense + 5 + 5 + 5
    assert usual.stored == 4 * 32 * (5 * 5 + 3) and usual.bytes == 3 * usual.stored
    (deep,) = counted(DEPTH, sizes={"depth": 5}).loops
    assert deep.steps == 5 and deep.flops == usual.flops and deep.bytes == 5 * usual.stored
    more = counted(DEPTH, sizes={"depth": 5}).inference_flops - counted(DEPTH).inference_flops
    assert more == 2 * usual.flops
    assert counted(DEPTH, batch=8).loops[0].bytes == usual.bytes // 4
    assert counted(DEPTH).sizes["depth"] == 3


def test_recompute_stores_carries_and_one_step() -> None:
    plain = counted(NESTED.replace("recompute: true", "recompute: false"))
    again = counted(NESTED)
    whole, short = plain.loops[0], again.loops[0]
    assert [loop.name for loop in again.loops] == ["outer", "inner"] and again.loops[1].within == "outer"
    gathered = 4 * 32 * 3 * 3  # `logits.steps`
    carry = 4 * 32 * 5
    assert short.stored == carry and short.flops == whole.flops
    assert whole.bytes == 3 * whole.stored + gathered
    assert short.bytes == 3 * carry + whole.stored + gathered
    assert whole.bytes - short.bytes == plain.peak - again.peak


# -- traces


def parameters(model: r2d2c.Model) -> dict[str, Tensor]:
    return {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_a_trace_has_every_step(depth: int) -> None:
    spec = r2d2c.loads(DEPTH)
    model = r2d2c.compile(spec).double()
    batch = random_batch(spec.graph, seed=3, dtype=torch.float64)
    found = model.trace(**batch, depth=depth)
    p = parameters(model)
    linear = torch.nn.functional.linear

    def layer(value: Tensor, place: str) -> Tensor:
        return linear(value, p[f"refine.{place}.weight"], p[f"refine.{place}.bias"])

    c, z = p["refine.c.initial"].expand(5, 5), torch.zeros(5, 5, dtype=torch.float64)
    values = {"refine.c@0": c}
    for k in range(1, depth + 1):
        c = torch.tanh(layer(batch["x"], "c.linear") + layer(c, "c.linear_2"))
        z = z + layer(c, "z.linear")
        values |= {f"refine.c@{k}": c, f"refine.z@{k}": z}
        values[f"refine.logits@{k}"] = layer(z, "logits.linear")
    values["refine.logits"] = values[f"refine.logits@{depth}"]
    loss = torch.nn.functional.cross_entropy(values["refine.logits"], batch["y"])
    for name, value in values.items():
        torch.testing.assert_close(found.values[name], value.detach(), rtol=0, atol=1e-12)
    assert f"refine.c@{depth + 1}" not in found.values and "refine.c" not in found.values
    wanted = [name for name in values if name != "refine.logits" and not re.match(r"refine.logits@", name)]
    deltas = torch.autograd.grad(loss, [values[name] for name in wanted])
    for name, delta in zip(wanted, deltas, strict=True):
        torch.testing.assert_close(found.deltas[name], delta, rtol=0, atol=1e-12)


def test_a_trace_shows_where_no_gradient_comes_back() -> None:
    spec = r2d2c.loads(TWICE)
    found = r2d2c.compile(spec).trace(**random_batch(spec.graph), depth=5)
    # The last two steps of `c` learn, and of `z` the last one; what it starts as does not at this depth.
    reached = {name for name in found.deltas if re.fullmatch(r"refine\.[cz]@\d", name)}
    assert reached == {"refine.c@0", "refine.c@4", "refine.c@5", "refine.z@5"}
    assert [name for name in sorted(reached) if not found.deltas[name].any()] == ["refine.c@0"]
    assert "refine.c@t.s.refine().5" in found.values and "refine.logits@t.s.refine()" in found.values
    assert all(value.shape == found.values[name].shape for name, value in found.deltas.items())


@pytest.mark.parametrize("name", SPECS)
def test_a_trace_changes_nothing(name: str) -> None:
    spec = r2d2c.loads(SPECS[name])
    model, batch = r2d2c.compile(spec), random_batch(spec.graph)
    found = model.trace(**batch)
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(found.losses, model.learn(**batch).losses)
    inner = [each for each in found.values if each.startswith("inner.u@")]
    assert not inner or {"inner.u@1.1", "inner.u@3.2"} <= set(inner)


# -- proofs


@pytest.mark.parametrize("name", SPECS)
def test_wiring_is_proved_with_loops(name: str) -> None:
    proof = prove(r2d2c.compile(r2d2c.loads(SPECS[name])))
    assert proof.ok, [str(failure) for failure in proof.failures]
    assert any(entry.expected for entry in proof.entries)


def test_a_proof_looks_at_all_depths() -> None:
    # At the usual depth the gradient stops before the start, which a depth of 1 or 2 trains.
    model = r2d2c.compile(r2d2c.loads(TWICE))
    batch = random_batch(model.graph)
    start = dict(model.named_parameters())["refine.c.initial"]
    reached = []
    for depth in (3, 2, 1):
        model.zero_grad(set_to_none=True)
        model.learn(**batch, depth=depth)
        reached.append(start.grad is not None and bool(start.grad.any()))
    assert reached == [False, True, True]
    assert model.wiring()["t"]["refine.c.initial"] == "gradient"
    assert prove(model).ok


def test_the_plan_of_a_loop_as_json() -> None:
    loop = counted(PER_STEP).loops[0]
    assert json.loads(json.dumps({"steps": loop.steps, "bytes": loop.bytes})) == {
        "steps": 3,
        "bytes": 3 * loop.stored,
    }
