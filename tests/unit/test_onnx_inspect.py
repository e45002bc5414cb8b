"""`inspect_model`: our files, a stranger's, and what is no ONNX file at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import r2d2c
from r2d2c.backends.onnx.inspect import inspect_model
from r2d2c.diagnostics import CompileError
from tests.unit.test_onnx_export import SPEC, compiled


@pytest.fixture(scope="module")
def many() -> r2d2c.Model:
    return compiled(SPEC)


@pytest.fixture(scope="module")
def exported(many: r2d2c.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "many.onnx"
    r2d2c.export(many, path)
    return path


def test_inspect_one_of_ours(exported: Path, many: r2d2c.Model) -> None:
    found = inspect_model(exported)
    assert found.made_by_r2d2c and found.spec == "many" and found.tasks == ("encode", "classify")
    assert found.parameters == sum(
        t.numel() for n, t in many.state_dict().items() if n in many._inference_graph.storage
    )
    assert found.opset == {"": 20} and found.nodes == sum(found.ops.values())
    assert found.task_ops["encode"]["Relu"] == 1
    text = found.text()
    assert "x: f32[B, T, 8]" in text and "ids: i64[B]" in text and "classify: " in text and "r2d2c 0." in text
    assert json.loads(json.dumps(found.json()))["inputs"][0] == {
        "name": "x",
        "dtype": "f32",
        "dims": ["B", "T", 8],
    }


def strangers_model(location: str = "") -> onnx.ModelProto:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], np.zeros(6, np.float32))
    if location:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.DOUBLE, None)],
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Own\x1b[31m", ["w"], ["q"], domain="me"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.DOUBLE, None),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", None])],
        [weight],
    )
    return helper.make_model(graph, producer_name="somebody")


def test_inspect_a_strangers_file(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(strangers_model("../../etc/passwd").SerializeToString())
    found = inspect_model(path)
    assert not found.made_by_r2d2c and found.tasks == () and found.spec is None
    assert found.ops == {"Neg": 2, "If": 1, "me.Own\x1b[31m": 1} and found.parameters == 6
    assert found.external == ("../../etc/passwd",) and found.unsafe == found.external
    text = found.text()
    assert "\x1b" not in text and "\\x1b" in text and "leads out of the folder" in text
    assert "y: f64[n, ?]" in text and "x: f64\n" in text


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin"])
def test_external_data_is_named_and_not_opened(tmp_path: Path, location: str) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(strangers_model(location).SerializeToString())
    found = inspect_model(path)
    assert found.external == (location,) and found.unsafe == () and "(not opened)" in found.text()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"\x00\x01\x02 rubbish", "it is cut off, damaged or of another format"),
        (b"r2d2c: 1\nmodel: x\n", "it is cut off, damaged or of another format"),
        (b"PK\x03\x04" + bytes(100), "it is cut off, damaged or of another format"),
        (b"\x08\x0a", "it has no graph, no version or no opset"),
    ],
)
def test_inspect_what_is_not_onnx(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(CompileError) as caught:
        inspect_model(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E611" and diagnostic.message == f"{path} is not an ONNX file: {why}"


def test_inspect_a_file_cut_anywhere(exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(data), max(len(data) // 40, 1)):
        path.write_bytes(data[:length])
        with pytest.raises(CompileError) as caught:
            inspect_model(path)
        assert caught.value.diagnostics[0].code == "E611"


def test_inspect_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "no.onnx", tmp_path):
        with pytest.raises(CompileError) as caught:
            inspect_model(path)
        assert caught.value.diagnostics[0].code == "E610"
