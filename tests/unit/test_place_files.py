"""What is written of places: Python, ONNX, pictures and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.spatial.distance import cdist

import r2d2c
from r2d2c.cli.main import main
from r2d2c.draw_places import placed_values, wires_of
from r2d2c.emit import emit_python
from tests.unit.test_places import LARGE, LARGE_BODY, by_masks, grid, model_of

ROOT = Path(__file__).parents[2]

DEEP = """
a: grid(4, 4)
b: grid(4, 4, z=1)
c: learned(ball(6, radius=3, z=2))
"""
DEEP_BODY = """
h = x |> wired(a, b, distance < 1.5, init=kaiming) |> relu
y = h |> wired(b, c, distance < 3)
"""
DEEP_COST = "short: {value: 'wiring_cost(see.y.wired.weight, b, c)', weight: 0.1}"


def test_emitted_python_is_the_same_model() -> None:
    model = model_of(DEEP, DEEP_BODY, losses=DEEP_COST)
    text = emit_python(model)
    assert "import r2d2c" not in text
    scope: dict[str, Any] = {}
    exec(compile(text, "emitted.py", "exec"), scope)
    other = scope["Placed"]()
    theirs = dict(other.state_dict())
    assert list(theirs) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    x = torch.randn(5, 16)
    torch.testing.assert_close(other(x)["y"], model(x=x)["y"])
    model.learn(x=x)
    other.learn(x)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(dict(other.named_parameters())[name].grad, parameter.grad)


def test_an_onnx_file_has_the_wires(tmp_path: Path) -> None:
    model = model_of(DEEP, DEEP_BODY, losses=DEEP_COST)
    r2d2c.export(model, tmp_path / "placed.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "placed.onnx")
    for size in (1, 5):
        x = torch.randn(size, 16)
        (found,) = session.run(["y"], {"x": x.numpy()})
        np.testing.assert_allclose(found, model(x=x)["y"].detach().numpy(), atol=1e-5)


def test_units_keep_their_places_through_ops_of_single_numbers() -> None:
    body = """
    h = x * 2 |> wired(a, b, distance < 1.5) |> relu |> layer_norm
    g = linear(h, 16)
    y = h + 1 |> wired(b, c, distance < 3)
    """
    checked = model_of(DEEP, body, "y g").spec
    region = checked.graph.regions["see"]
    named = {port.value: port.name for port in region.outputs}
    places = {node.node: name for node, name in placed_values(checked.graph).items()}
    assert {named[v]: places.get(v.node) for v in named} == {"y": "c", "g": None}
    assert places["see.h.layer_norm"] == places["see.h.relu"] == places["see.y.add"] == "b"
    assert places["see.h.mul"] == "a" and "see.g.linear" not in places
    near = cdist(grid(4, 4, z=1), grid(4, 4)) < 1.5
    wires = list(wires_of(checked.graph))
    assert (wires[0].layer, wires[0].weight) == ("see.h.wired", "see.h.wired.weight")
    assert (wires[0].source, wires[0].target, wires[0].where) == ("a", "b", "distance < 1.5")
    assert wires[0].count == near.sum() and len(wires) == 2


@pytest.mark.parametrize("stage", ["tasks", "inference", "training"])
def test_the_graph_as_json(stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, out = str(ROOT / "specs" / "growth" / "placed.yaml"), tmp_path / "placed.json"
    assert main(["graph", spec, "--stage", stage, "-o", str(out)]) == 0
    assert main(["graph", spec, "--stage", stage, "--as", "json"]) == 0
    text = out.read_text("utf-8")
    assert capsys.readouterr().out == text
    found = json.loads(text)
    assert (found["r2d2c"], found["model"], found["stage"]) == (1, "growth_placed", stage)
    ids = {node["id"] for node in found["nodes"]}
    assert len(ids) == len(found["nodes"])
    assert all(edge["from"] in ids and edge["to"] in ids for edge in found["edges"])
    sets = {each["name"]: each for each in found["places"]}
    assert list(sets) == ["retina", "middle", "top"]
    np.testing.assert_allclose(sets["retina"]["points"], grid(8, 8))
    assert {node["place"] for node in found["nodes"]} == {None, "retina", "middle", "top"}
    assert [(each["source"], each["target"]) for each in found["wires"]] == [
        ("retina", "middle"),
        ("middle", "top"),
    ]
    if stage == "tasks":
        assert {node["id"]: node["place"] for node in found["nodes"]}["see.h"] == "middle"


def test_links_of_the_graph_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(ROOT / "specs" / "growth" / "digits.yaml"), "--as", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["links"] == [
        {"from": "see", "value": "see.h", "to": "classify", "credit": "local", "feed": None}
    ]
    assert [task["name"] for task in found["tasks"]] == ["see", "classify"]
    assert found["places"] == [] and found["wires"] == []


def test_a_layer_with_few_wires_is_written_out(tmp_path: Path) -> None:
    model = model_of(LARGE, LARGE_BODY, width=256)
    x = torch.randn(5, 256)
    torch.testing.assert_close(model(x=x)["y"], by_masks(model, x))
    r2d2c.export(model, tmp_path / "large.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "large.onnx")
    (found,) = session.run(["y"], {"x": x.numpy()})
    np.testing.assert_allclose(found, by_masks(model, x).detach().numpy(), atol=1e-5)
    scope: dict[str, Any] = {}
    exec(compile(emit_python(model), "emitted.py", "exec"), scope)
    other = scope["Placed"]()
    assert list(other.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    model.learn(x=x)
    other.learn(x)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(dict(other.named_parameters())[name].grad, parameter.grad)
    wide = model_of(LARGE, LARGE_BODY, width=256).bfloat16()
    torch.testing.assert_close(wide(x=x.bfloat16())["y"].float(), by_masks(model, x), rtol=0.1, atol=0.1)
