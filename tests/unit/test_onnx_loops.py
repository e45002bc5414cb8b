"""Loops in ONNX: one file at every depth and every length, held against PyTorch."""

from __future__ import annotations

import itertools
import re
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
from r2d2c.backends.onnx.runtime import open_session, run, serialize
from r2d2c.backends.onnx.verify import check_model
from r2d2c.diagnostics import CompileError
from r2d2c.ops.record import Arg, Op

REFINE = """\
r2d2c: 1
model: refine
dims: {D: 6, S: 12, C: 4, depth: 1..8 = 3}
inputs:
  x: f32[B, D]
loops:
  refine(data):
    repeat: depth
    carry:
      c: f32[B, S] = learned(normal(1))
      z: f32[B, S] = zeros
    body: |
      v = linear(data, S)
      c = tanh(v + linear(c, S))
      z = z + linear(c, S) * step
      logits = z |> linear(C)
tasks:
  think:
    behavior: |
      r = refine(x |> linear(10))
      out, every, path = r.logits, r.logits.steps, r.z.steps
outputs:
  logits: think.out
  every: think.every
  path: think.path
"""

OVER = """\
r2d2c: 1
model: rnn
inputs:
  x: f32[B, T, 5]
loops:
  read(x, start):
    over: T
    each: {xt: x}
    carry:
      h: f32[B, 8] = start
      n: f32[] = 0
    body: |
      h = tanh(linear(xt, 8) + linear(h, 8))
      n = n + 1
      top = max(h, -1)
tasks:
  t:
    behavior: |
      r = read(x, linear(x[:, 0], 8))
      h, all, top, n = r.h, r.h.steps, r.top.steps, r.n.steps
outputs: {h: t.h, all: t.all, top: t.top, n: t.n}
"""

HALT = """\
r2d2c: 1
model: halt
inputs:
  x: f32[B, 5]
loops:
  think(x):
    until: p
    max: 9
    carry:
      h: f32[B, 8] = zeros
    body: |
      h = tanh(linear(x, 8) + linear(h, 8))
      p = sigmoid(linear(h, 1))[:, 0]
      pick = h[:, 0] * step
tasks:
  t:
    behavior: |
      r = think(x)
      h, pick, all, mean, count, ponder = r.h, r.pick, r.h.steps, r.h.mean, r.count, r.ponder
outputs: {h: t.h, pick: t.pick, all: t.all, mean: t.mean, count: t.count, ponder: t.ponder}
"""

NESTED = """\
r2d2c: 1
model: nested
dims: {depth: 1..6 = 2}
inputs:
  x: f32[B, T, 5]
loops:
  inner(a, h0):
    repeat: depth
    carry:
      h: f32[B, 8] = h0
    body: |
      h = tanh(linear(h, 8) + a)
      size = mean(h * h, -1)
  outer(x):
    over: T
    each: {xt: x}
    carry:
      h: f32[B, 8] = zeros
    body: |
      a = linear(xt, 8)
      r = inner(a, h)
      h = r.h
      sizes = r.size.steps
tasks:
  t:
    behavior: |
      r = outer(x)
      h, sizes, last = r.h, r.sizes.steps, r.sizes
outputs: {h: t.h, sizes: t.sizes, last: t.last}
"""


def compiled(text: str, **options: Any) -> r2d2c.Model:
    torch.manual_seed(0)
    return r2d2c.compile(r2d2c.loads(text, name="loops.yaml", **options))


class File:
    """A model and one file of it, run beside each other."""

    def __init__(self, model: r2d2c.Model) -> None:
        self.model = model
        self.built = build(model)
        self.data = serialize(self.built, model.spec.name)
        check_model(self.data, model)
        self.session = open_session(self.data, model)

    def same(self, tolerance: float = 1e-4, **given: Any) -> dict[str, torch.Tensor]:
        """What both give, which has to be the same in dtype, shape and value."""
        with torch.no_grad():
            expected = self.model(**given)
        got = run(self.session, self.built, given)
        assert got.keys() == expected.keys()
        for name, found in expected.items():
            tensor = torch.as_tensor(found)
            assert got[name].dtype == tensor.dtype, name
            scale = max(1.0, float(tensor.double().abs().max()))
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=tolerance * scale, msg=name)
        return got


def x(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# -- how often


def test_one_file_at_every_depth() -> None:
    file = File(compiled(REFINE))
    seen = []
    for depth in range(1, 9):
        got = file.same(x=x(5, 6), depth=depth)
        assert got["every"].shape == (5, depth, 4) and got["path"].shape == (5, depth, 12)
        torch.testing.assert_close(got["every"][:, -1], got["logits"])
        seen.append(got["logits"])
    # A file that ignored its argument would give the same at every depth.
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.pairwise(seen))


def test_the_depth_may_be_left_out() -> None:
    file = File(compiled(REFINE))
    usual = run(file.session, file.built, {"x": x(5, 6)})
    assert usual["every"].shape[1] == 3
    torch.testing.assert_close(usual["logits"], file.same(x=x(5, 6), depth=3)["logits"])
    assert [i.name for i in file.session.get_inputs()] == ["x"]
    assert [i.name for i in file.session.get_overridable_initializers()] == ["depth"]


@pytest.mark.parametrize("length", [1, 5, 50, 500])
def test_one_file_at_every_length(length: int) -> None:
    file = File(compiled(OVER))
    got = file.same(x=x(3, length, 5))
    assert got["all"].shape == (3, length, 8) and got["top"].shape == (3, length)
    assert got["n"].tolist() == list(range(1, length + 1))


def test_nothing_is_unrolled() -> None:
    model = onnx.load_from_string(File(compiled(OVER)).data)
    counts = [node.op_type for node in model.graph.node]
    assert counts.count("Scan") == 1 and "Loop" not in counts and "Tanh" not in counts
    (loop,) = [node for node in model.graph.node if node.op_type == "Scan"]
    body = loop.attribute[0].g
    assert [node.op_type for node in body.node].count("Tanh") == 1
    assert [v.name for v in model.graph.input] == ["x"]


def test_a_fixed_number_of_steps_is_no_input() -> None:
    file = File(compiled(REFINE.replace("depth: 1..8 = 3", "").replace("repeat: depth", "repeat: 4")))
    assert file.same(x=x(2, 6))["every"].shape == (2, 4, 4)
    assert not file.built.arguments and len(file.session.get_overridable_initializers()) == 0


def test_the_steps_of_an_expression_of_dims() -> None:
    text = OVER.replace("x: f32[B, T, 5]", "x: f32[B, T, 5]\n  y: f32[B, T+1, 5]").replace(
        "over: T", "over: T+1"
    )
    text = text.replace("read(x, linear(x[:, 0], 8))", "read(y, linear(x[:, 0], 8))")
    file = File(compiled(text))
    for length in (1, 6):
        assert file.same(x=x(2, length, 5), y=x(2, length + 1, 5))["all"].shape == (2, length + 1, 8)


# -- halting


@pytest.mark.parametrize("batch", [1, 7, 33])
def test_halting_by_probability(batch: int) -> None:
    file = File(compiled(HALT))
    got = file.same(x=x(batch, 5) * 3)
    count = got["count"]
    assert got["all"].shape == (batch, 9, 8) and count.dtype == torch.int64
    for sample, steps in enumerate(count.tolist()):
        # A sample that has halted keeps its values to the last bit.
        assert (got["all"][sample, steps - 1 :] == got["h"][sample]).all()
        assert got["pick"][sample] == got["h"][sample, 0] * steps
    if batch > 7:
        assert len(set(count.tolist())) > 1


@pytest.mark.parametrize("bias", [-20.0, 20.0])
def test_halting_at_the_first_and_at_the_last_step(bias: float) -> None:
    model = compiled(HALT.replace("linear(h, 1))", f"linear(h, 1) + {bias})"))
    got = File(model).same(x=x(4, 5))
    assert got["count"].tolist() == [1 if bias > 0 else 9] * 4


def test_halting_by_bools() -> None:
    text = HALT.replace("sigmoid(linear(h, 1))[:, 0]", "max(h, -1) > 0.9").replace(
        "linear(h, 8)", "2 * linear(h, 8)"
    )
    got = File(compiled(text)).same(x=x(40, 5) * 1.5)
    assert len(set(got["count"].tolist())) > 2


def test_halting_within_an_argument_and_within_a_loop() -> None:
    text = NESTED.replace("    repeat: depth\n", "    until: size > 0.1\n    max: depth\n")
    file = File(compiled(text))
    for depth in (1, 3, 6):
        file.same(x=x(7, 4, 5), depth=depth)
    shown = str(onnx.load_from_string(file.data))
    assert shown.count('op_type: "Loop"') == shown.count('op_type: "Scan"') == 1


# -- what loops are made of


def test_a_loop_in_a_loop() -> None:
    file = File(compiled(NESTED))
    for depth, length in [(1, 1), (2, 5), (6, 9)]:
        got = file.same(x=x(3, length, 5), depth=depth)
        assert got["sizes"].shape == (3, length, depth) and got["last"].shape == (3, depth)


def test_a_loop_that_is_called_twice() -> None:
    text = REFINE.replace(
        "      out, every", "      q = refine(r.z |> linear(10))\n      out, every"
    ).replace("= r.logits, r.logits.steps, r.z.steps", "= q.logits, r.logits.steps, q.z.steps")
    file = File(compiled(text))
    for depth in (1, 4):
        file.same(x=x(3, 6), depth=depth)
    names = re.findall(r'op_type: "Loop"', str(onnx.load_from_string(file.data)))
    assert len(names) == 2
    assert file.built.parameters == sum(p.numel() for p in file.model.parameters())


def test_parameters_of_each_step() -> None:
    file = File(compiled(REFINE.replace("    body: |", "    parameters: per_step\n    body: |")))
    for depth in (1, 3, 8):
        file.same(x=x(5, 6), depth=depth)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        run(file.session, file.built, {"x": x(5, 6), "depth": 9})


def test_narrow_carries() -> None:
    text = REFINE.replace(
        "    body: |", "    widths: {c: [1/4, 1/3, 1/2, 1], z: [1/4, 1/3, 1/2, 1]}\n    body: |"
    )
    file = File(compiled(text))
    for width, kept in [(0.25, 3), (1 / 3, 4), (0.5, 6), (1.0, 12)]:
        for depth in (1, 5):
            path = file.same(x=x(5, 6), depth=depth, width=width)["path"]
            assert int((path.abs().amax((0, 1)) > 0).sum()) == kept
    torch.testing.assert_close(
        run(file.session, file.built, {"x": x(5, 6)})["path"], file.same(x=x(5, 6), width=1.0)["path"]
    )


def test_a_loop_without_carries() -> None:
    text = OVER.replace("    carry:\n      h: f32[B, 8] = start\n      n: f32[] = 0\n", "")
    text = text.replace("tanh(linear(xt, 8) + linear(h, 8))", "tanh(linear(xt, 8) + start)")
    text = text.replace("n = n + 1", "n = 2.5")
    got = File(compiled(text)).same(x=x(3, 6, 5))
    assert got["n"].tolist() == [2.5] * 6


def test_what_passes_through_a_step() -> None:
    """Values that a step does not make itself: what it reads from around it, a carry as it was, a number."""
    text = OVER.replace(
        "      n = n + 1\n",
        "      n = n + 1\n      was = n\n      from = start\n      seven = 7\n      also = h\n",
    )
    text = text.replace(
        "r.top.steps, r.n.steps",
        "r.top.steps, r.n.steps\n      a, b, c, d = r.from, r.seven, r.also.steps, r.was",
    )
    text = text.replace("n: t.n}", "n: t.n, a: t.a, b: t.b, c: t.c, d: t.d}")
    file = File(compiled(text))
    got = file.same(x=x(3, 6, 5))
    assert float(got["b"]) == 7 and float(got["d"]) == 6
    assert (got["c"] == got["all"]).all()


@pytest.mark.parametrize("text", [REFINE, OVER, HALT, NESTED], ids=["repeat", "over", "until", "nested"])
def test_in_float64(text: str) -> None:
    model = compiled(text).double()
    inputs = model._inference_graph.types[model._inference_graph.body.inputs[0].value].dims[1:]
    sizes = [size if isinstance(size, int) else 6 for size in inputs]
    File(model).same(1e-12, x=x(4, *sizes, dtype=torch.float64))


# -- the file


def test_export_verifies_depths_widths_and_lengths(tmp_path: Path) -> None:
    text = NESTED.replace("h0\n    body", "h0\n    widths: {h: [1/2, 1]}\n    body")
    report = r2d2c.export(compiled(text), tmp_path / "m.onnx")
    assert {s["depth"] for s in report.sizes} == {1, 2, 6} and {s["width"] for s in report.sizes} == {
        0.5,
        1.0,
    }
    assert len({s["T"] for s in report.sizes}) == 3
    assert {"depth": 2, "width": 1.0}.items() <= report.sizes[-1].items()
    assert max(report.max_difference.values()) < 1e-5
    assert "depth=6" in report.text() and "width=0.5" in report.text()
    assert report.nodes == inspect_model(tmp_path / "m.onnx").nodes


def test_a_wrong_loop_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the usual number of steps whatever it is asked for."""
    from r2d2c.backends.onnx.context import OnnxContext

    size = OnnxContext.size
    monkeypatch.setattr(OnnxContext, "size", lambda o, dim: size(o, 3 if str(dim) == "depth" else dim))
    with pytest.raises(CompileError) as caught:
        r2d2c.export(compiled(REFINE), tmp_path / "m.onnx")
    assert {d.code for d in caught.value.diagnostics} == {"E601"}
    assert "depth=" in caught.value.diagnostics[0].message and not list(tmp_path.iterdir())


def test_two_exports_are_the_same_bytes() -> None:
    for text in (REFINE, HALT, NESTED):
        assert File(compiled(text)).data == File(compiled(text)).data


def test_names_and_lines_inside_a_step() -> None:
    graph = onnx.load_from_string(File(compiled(NESTED)).data).graph
    names, values = [], []

    def walk(graph: onnx.GraphProto, around: list[str]) -> None:
        values.extend([v.name for v in graph.input] + [o for n in graph.node for o in n.output])
        for node in graph.node:
            names.append(node.name)
            props = {entry.key: entry.value for entry in node.metadata_props}
            assert node.name == "size/depth" or props["r2d2c.source"].startswith("loops.yaml:")
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g, [*around, props["r2d2c.value"]])

    walk(graph, [])
    assert len(set(names)) == len(names) and len(set(values)) == len(values)
    assert {"outer/loop", "inner/loop", "inner.h.tanh", "outer.a.linear"} <= set(names)
    assert {"inner.h", "inner.size", "outer.a"} <= set(values)


def test_inspect_shows_loops(tmp_path: Path) -> None:
    text = NESTED.replace("h0\n    body", "h0\n    widths: {h: [1/2, 1]}\n    body")
    model = compiled(text)
    r2d2c.export(model, tmp_path / "m.onnx")
    found = inspect_model(tmp_path / "m.onnx")
    assert found.defaults == {"depth": 2, "width": 1}
    assert found.loops.keys() == {"outer", "inner"} and found.loops["inner"]["Tanh"] == 1
    assert found.loops["outer"]["Loop"] == 1 and found.ops["Loop"] == found.ops["Scan"] == 1
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert "depth: i64[] = 2" in found.text() and "width: f32[] = 1" in found.text()
    assert re.search(r"inner: .*Tanh 1.* in a step", found.text())


def test_the_onnx_backend_takes_arguments() -> None:
    model = compiled(REFINE)
    ours = r2d2c.compile(model.spec, backend="onnx")
    ours.load_state_dict(model.state_dict())
    for depth in (1, 8):
        torch.testing.assert_close(
            ours(x=x(2, 6), depth=depth), model(x=x(2, 6), depth=depth), rtol=0, atol=1e-5
        )
    assert ours(x=x(2, 6))["every"].shape == (2, 3, 4)
    with pytest.raises(ValueError, match="depth"):
        ours(x=x(2, 6), depth=9)


def test_an_output_that_is_named_like_an_argument(tmp_path: Path) -> None:
    report = r2d2c.export(
        compiled(REFINE.replace("  logits: think.out", "  depth: think.out")), tmp_path / "m.onnx"
    )
    assert report.outputs["depth"] == "depth_out"
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (got,) = session.run(["depth_out"], {"x": np.zeros((2, 6), np.float32), "depth": np.asarray(4)})
    assert got.shape == (2, 4)


# -- ops without a form


def plug_in(name: str, lower: Any) -> Op:
    return Op(name, "One of a plug-in.", (Arg("x"),), lambda s, a: a.x, lower)


def test_torch_writes_an_op_inside_a_step() -> None:
    op = plug_in("swirl", lambda b, a: b("torch.sin", b("torch.mul", a.x, 3.0)))
    model = compiled(REFINE.replace("tanh(v", "swirl(v"), plugins=[op])
    file = File(model)
    for depth in (1, 7):
        file.same(x=x(3, 6), depth=depth)
    assert '"Sin"' in str(onnx.load_from_string(file.data))


def test_a_dtype_that_an_op_inside_a_step_lacks(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        r2d2c.export(compiled(NESTED.replace("tanh", "sin")).bfloat16(), tmp_path / "m.onnx")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E612" and "`Sin` for bfloat16, which `inner.h.sin` needs" in diagnostic.message
    assert diagnostic.span is not None and diagnostic.span.text.startswith("sin(")


def test_an_op_that_nobody_can_write_is_refused_inside_a_step(tmp_path: Path) -> None:
    op = plug_in("lone", lambda b, a: b("torch.special.bessel_j0", a.x))
    model = compiled(REFINE.replace("tanh(v", "lone(v"), plugins=[op])
    with pytest.raises(CompileError) as caught:
        r2d2c.export(model, tmp_path / "m.onnx")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E606" and diagnostic.span is not None and diagnostic.span.line == 14
    assert not list(tmp_path.iterdir())
