"""The ONNX backend: what is in a file, what is refused, and what `inspect` says."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import r2d2c
from r2d2c.backends.onnx import values as values_module
from r2d2c.backends.onnx import verify as verify_module
from r2d2c.backends.onnx.build import build
from r2d2c.backends.onnx.inspect import inspect_model
from r2d2c.backends.onnx.runtime import serialize
from r2d2c.diagnostics import CompileError
from r2d2c.diagnostics.catalog import CATALOG
from r2d2c.ops.record import Arg, Op

SPEC = """\
r2d2c: 1
model: many
doc: Most of what an export must get right.
dims: {D: 8, H: 8}
inputs:
  x: f32[B, T, D]
  ids: i64[B]
targets:
  y: f32[B, H]
tasks:
  encode:
    behavior: |
      h = x |> linear(2*H) |> relu |> linear(H) |> dropout
      g = h + sqrt(T) * x
      p = linear(g, H, name=first)
      s = linear(p, H, weight=first.weight)
    representative: r = y |> linear(H) |> tanh
    distance: mse(mean(s, 1), r)
  classify:
    behavior: |
      values, places = topk(encode.s, 2)
      logits = mean(encode.s * T, 1) + embedding(ids, 10, H)
    distance: mse(logits, y)
links:
  encode.s -> classify: {credit: local}
outputs:
  x: classify.logits
  logits: classify.logits
  places: classify.places
  same: ids
  number: 2.5
"""


def compiled(text: str, **options: Any) -> r2d2c.Model:
    return r2d2c.compile(r2d2c.loads(text, name="/home/someone/secret/many.yaml", **options))


def one_task(behavior: str, inputs: str = "x: f32[B, 4]") -> str:
    return f"r2d2c: 1\nmodel: small\ninputs:\n  {inputs}\ntasks:\n  t:\n    behavior: h = {behavior}\noutputs:\n  h: t.h\n"


@pytest.fixture(scope="module")
def many() -> r2d2c.Model:
    return compiled(SPEC)


@pytest.fixture(scope="module")
def exported(many: r2d2c.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "many.onnx"
    r2d2c.export(many, path)
    return path


def refused(code: str, model: r2d2c.Model, path: Path, **options: Any) -> str:
    """The message of the one diagnostic; nothing may be written."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(CompileError) as caught:
        r2d2c.export(model, path, **options)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code and code in CATALOG
    assert (path.read_bytes() if path.is_file() else None) == before
    assert not list(path.parent.glob(".*partial"))
    return diagnostic.message


# -- what is in the file


def test_the_report(many: r2d2c.Model, tmp_path: Path) -> None:
    report = r2d2c.export(many, tmp_path / "m.onnx")
    assert report.opset == 20 and report.batch_sizes == (1, 2, 7)
    assert [sizes["T"] for sizes in report.sizes] == [12, 7, 17] and not report.skipped
    assert report.bytes == (tmp_path / "m.onnx").stat().st_size
    assert report.max_difference.keys() == {"x", "logits", "places", "same", "number"}
    assert max(report.max_difference.values()) < 1e-5
    assert report.nodes == len(onnx.load(tmp_path / "m.onnx").graph.node)
    assert json.loads(json.dumps(report.json()))["outputs"]["x"] == "x_out"
    assert "verified against PyTorch at B=1, T=12; B=2, T=7" in report.text()


def test_every_node_carries_its_name_its_line_and_its_task(exported: Path) -> None:
    graph = onnx.load(exported).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {
        "encode.h.linear",
        "encode.h.relu",
        "encode.h.linear_2",
        "encode.first",
        "classify.values.topk",
    } <= set(names)
    lines = SPEC.splitlines()
    for node in graph.node:
        props = {entry.key: entry.value for entry in node.metadata_props}
        file, _, line = props["r2d2c.source"].partition(":")
        assert file == "many.yaml"
        assert props["r2d2c.value"].rpartition(".")[2] in lines[int(line) - 1]
        task = node.name.partition(".")[0]
        assert props.get("r2d2c.task") == (task if task in ("encode", "classify") else None) or "/" in task


def test_values_have_the_names_of_the_spec(exported: Path) -> None:
    graph = onnx.load(exported).graph
    made = {output for node in graph.node for output in node.output}
    assert {"encode.h.relu", "encode.h.linear_2", "encode.g", "encode.p", "encode.s"} <= made
    assert [value.name for value in graph.input] == ["x", "ids"]
    assert [value.name for value in graph.output] == ["x_out", "logits", "places", "same", "number"]
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["B", "T", 8]


def test_the_model_carries_its_spec_and_nothing_of_the_machine(exported: Path) -> None:
    model = onnx.load(exported)
    assert (model.producer_name, model.producer_version) == ("r2d2c", r2d2c.__version__)
    assert model.doc_string == "Most of what an export must get right."
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props["r2d2c.spec"] == "many" and json.loads(props["r2d2c.tasks"]) == ["encode", "classify"]
    data = exported.read_bytes()
    for text in ("/home", "secret", str(Path.cwd()), "site-packages", ".py"):
        assert text.encode() not in data


def test_shared_parameters_are_stored_once_and_training_parts_not_at_all(
    exported: Path, many: r2d2c.Model
) -> None:
    names = [tensor.name for tensor in onnx.load(exported).graph.initializer]
    assert len(set(names)) == len(names) and names.count("encode.first.weight") == 1
    stored = {name for name in names if not name.startswith("const/")}
    assert stored == set(many._inference_graph.storage)
    assert not any(".r." in name for name in names) and any(".r." in name for name in many.state_dict())
    constants = [name for name in names if name.startswith("const/")]
    assert not any("~" in name for name in constants)


def test_the_onnx_backend_runs_it(many: r2d2c.Model) -> None:
    other = r2d2c.compile(many.spec, backend="onnx")
    other.load_state_dict(many.state_dict())
    batch = {"x": torch.randn(3, 5, 8), "ids": torch.randint(0, 10, (3,))}
    for _ in range(2):
        expected, got = many(**batch), other(**batch)
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-5)
        with torch.no_grad():  # it must see new parameters
            for model in (many, other):
                model.get_parameter("encode.h.linear.weight").mul_(1.5)
    with pytest.raises(TypeError, match="`ids` is missing"):
        other(x=batch["x"])
    with pytest.raises(TypeError, match="inference only"):
        other.learn(**batch, y=torch.randn(3, 8))


def test_a_region_used_twice_and_ops_of_one_name_stay_apart(tmp_path: Path) -> None:
    r2d2c.export(compiled(one_task("x |> relu |> relu |> tanh |> relu")), tmp_path / "m.onnx")
    names = [node.name for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert names == ["t.h.relu", "t.h.relu_2", "t.h.tanh", "t.h.relu_3"]


def test_sizes_that_pytorch_refuses_are_said(tmp_path: Path) -> None:
    text = one_task("reshape(x, (-1, 14, 4))", "x: f32[B, 4]")
    report = r2d2c.export(compiled(text), tmp_path / "m.onnx", batch_sizes=(14, 3))
    assert report.skipped == ({"B": 3},) and report.batch_sizes == (14,)
    assert report.text().endswith("not compared at B=3: PyTorch itself fails there")


def test_sizes_that_only_the_run_knows(tmp_path: Path) -> None:
    body = """|
      c = rearrange(x, "b t d -> b d t") |> conv1d(4, kernel=3, stride=2)
      n = c * (T // 2) + full(((T - 3) // 2 + 1,), 0.5)
      k = zeros((T % 4 + 1, 2*T*B - 1))
      h = mean(n) + sum(k) + mean(arange(T) * (B + T))"""
    text = one_task(body, "x: f32[B, T, 6]").replace("h = |", "|")
    report = r2d2c.export(compiled(text), tmp_path / "m.onnx")
    assert len(report.sizes) == 3 and report.max_difference["h"] < 1e-5


# -- refusals


def test_a_difference_above_the_tolerance_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = compiled(one_task("linear(x, 3)"))

    def worse(*args: Any) -> dict[str, torch.Tensor]:
        found = real(*args)
        return {name: out + 0.01 * (len(out) == 7) for name, out in found.items()}

    real = verify_module.run
    monkeypatch.setattr(verify_module, "run", worse)
    message = refused("E601", model, tmp_path / "m.onnx")
    assert re.fullmatch(
        r"the output `h` of the ONNX model differs from PyTorch's by 0\.0\d+ of its scale at B=7; at most 0\.0001 is allowed",
        message,
    )
    assert r2d2c.export(model, tmp_path / "m.onnx", tolerance=0.1).nodes == 1


def test_a_wrong_onnx_form_is_caught(tmp_path: Path) -> None:
    wrong = Op("double", "Wrong.", (Arg("x"),), lambda s, a: a.x, lambda b, a: b("torch.mul", a.x, 2), "Neg")
    model = compiled(one_task("double(x)"), plugins=[wrong])
    assert "the output `h`" in refused("E601", model, tmp_path / "m.onnx")
    badly_typed = Op("count", "Wrong.", (Arg("x"),), lambda s, a: a.x, lambda b, a: a.x, "Shape")
    model = compiled(one_task("count(x)"), plugins=[badly_typed])
    assert "is not valid" in refused("E603", model, tmp_path / "m.onnx")


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    model = compiled(one_task("relu(x)"))
    path = tmp_path / "m.onnx"
    path.write_text("mine")
    assert refused("E602", model, path) == f"{path} exists"
    r2d2c.export(model, path, overwrite=True)
    assert inspect_model(path).nodes == 1


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    model = compiled(one_task("relu(x)"))
    assert "is a folder" in refused("E609", model, tmp_path)
    assert "there is no folder" in refused("E609", model, tmp_path / "no" / "m.onnx")


def test_a_dtype_that_onnx_or_its_runtime_lacks(tmp_path: Path) -> None:
    model = compiled(one_task("sin(x)")).bfloat16()
    message = refused("E612", model, tmp_path / "m.onnx")
    assert message == "ONNX opset 20 has no `Sin` for bfloat16, which `t.h.sin` needs"
    model = compiled(one_task("tanh(x)")).bfloat16()
    message = refused("E604", model, tmp_path / "m.onnx")
    assert message == "ONNX Runtime has no `Tanh` for bfloat16, which `t.h.tanh` needs"


def test_a_model_that_runs_at_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picky = Op(
        "picky",
        "Fails.",
        (Arg("x"),),
        lambda s, a: a.x,
        lambda b, a: b.method("view_as", a.x, b("torch.zeros", 1)),
    )
    model = compiled(one_task("picky(x)"), plugins=[picky])

    def stub(o: Any, node: Any, signature: Any, graph: Any, model: Any, inputs: list[Any]) -> tuple[Any, ...]:
        return (o("Identity", inputs[0]),)

    monkeypatch.setattr(values_module, "ask_torch", stub)
    assert refused("E608", model, tmp_path / "m.onnx").endswith("none of the sizes tried: B=1; B=2; B=7")


def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    model = compiled(one_task("linear(x, 3)"))
    built = build(model)
    object.__setattr__(built, "storage_bytes", 3 * 2**30)
    with pytest.raises(CompileError, match=r"E607.*3\.0 GiB"):
        serialize(built, "small")


# -- ops without ONNX form

WAVE = Op("wave", "A plug-in's.", (Arg("x"),), lambda s, a: a.x, lambda b, a: b("torch.hypot", a.x, a.x))
SPREAD = Op(
    "spread",
    "A plug-in's, with two outputs.",
    (Arg("x"), Arg("y")),
    lambda s, a: (a.x, a.x),
    lambda b, a: (b("torch.special.log_ndtr", b("torch.add", a.x, a.y)), b("torch.add", a.x, a.y, alpha=3)),
    outputs=("left", "right"),
)


def test_an_op_without_onnx_form_is_asked_of_torch(tmp_path: Path) -> None:
    text = one_task("wave(x)").replace(
        "h = wave(x)", "|\n      a, b = spread(linear(x, 4), x)\n      h = tanh(a) + b"
    )
    model = compiled(text, plugins=[SPREAD])
    report = r2d2c.export(model, tmp_path / "m.onnx")
    assert report.batch_sizes == (1, 2, 7)
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    spliced = [node for node in nodes if node.name.startswith("t.a.spread")]
    assert len(spliced) >= 2
    for node in spliced:
        props = {entry.key: entry.value for entry in node.metadata_props}
        assert props == {"r2d2c.value": "t.a", "r2d2c.source": "many.yaml:8", "r2d2c.task": "t"}
    assert b"site-packages" not in (tmp_path / "m.onnx").read_bytes()


def test_an_op_that_torch_cannot_export(tmp_path: Path) -> None:
    model = compiled(one_task("wave(x)"), plugins=[WAVE])
    message = refused("E606", model, tmp_path / "m.onnx")
    assert message.startswith("the op `wave` has no ONNX form, and torch.onnx.export cannot write it: ")
    assert "hypot" in message


def test_without_onnxscript_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "r2d2c.backends.onnx.fallback.find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    model = compiled(one_task("wave(x)"), plugins=[WAVE])
    message = refused("E605", model, tmp_path / "m.onnx")
    assert message == "the op `wave` has no ONNX form, and torch.onnx.export needs onnxscript to write it"


def test_the_file_runs_without_us(exported: Path, many: r2d2c.Model) -> None:
    session = onnxruntime.InferenceSession(exported)
    results = session.run(None, {"x": np.zeros((4, 3, 8), np.float32), "ids": np.zeros(4, np.int64)})
    assert results[0].shape == (4, 8)
