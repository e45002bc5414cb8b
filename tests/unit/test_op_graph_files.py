"""What is written of op graphs: ONNX with the names of ops, the plan, graphs as text; and data for them."""

from __future__ import annotations

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
from r2d2c.cli.main import main
from r2d2c.diagnostics import CompileError
from r2d2c.emit import emit_python
from r2d2c.ops.op_graph import TABLE
from r2d2c.ops.op_graph_rows import topology_of
from r2d2c.ops.registry import Ops, builtin
from r2d2c.printer import print_graph
from r2d2c.train.data import open_data
from tests.unit.op_graph_oracle import (
    HEAD,
    SHOWN,
    TASK,
    TWO,
    WRITTEN,
    batch,
    by_hand,
    model_of,
    random,
    start_of,
)

# -- what is written


@pytest.mark.parametrize(
    "text", [WRITTEN + SHOWN, random(normalise="batch") + SHOWN, random(normalise="layer") + SHOWN]
)
def test_the_onnx_file_matches_and_its_nodes_have_the_names_of_ops(text: str, tmp_path: Path) -> None:
    model = model_of(text)
    for seed in range(3):
        model.learn(**batch(seed=seed))
    r2d2c.export(model, tmp_path / "m.onnx")  # verified against PyTorch
    names = {node.name for node in onnx.load(tmp_path / "m.onnx").graph.node}
    start = start_of(model)
    rows = {name: getattr(model.layer, name).numpy() for name in TABLE}
    ops = set(topology_of(rows, 4, start.names).rows)
    assert len(ops) >= 4
    assert {f"layer/{op}" for op in ops} <= names


@pytest.mark.parametrize("normalise", ["none", "batch"])
def test_the_onnx_file_of_a_grown_op_graph(normalise: str, tmp_path: Path) -> None:
    """After rounds of a training: what they added is in the file under its name, and what they pruned is not."""
    grow = "    grow: {every: epochs(1), add: 5, prune: 3}\n"
    train = "train:\n  data: random?samples=64\n  epochs: 5\n  batch_size: 16\n  optimizer: adam(lr=0.01)\n"
    spec = tmp_path / "spec.yaml"
    text = HEAD.lstrip() + random(normalise=normalise).strip("\n") + "\n" + grow + TASK.lstrip("\n") + train
    spec.write_text(text, "utf-8")
    run = r2d2c.train(spec, out=tmp_path / "run")
    lines = (tmp_path / "run" / "mutations.jsonl").read_text("utf-8").splitlines()
    steps = [step for line in lines[1:] for step in json.loads(line)["do"]]
    named = {word: {step["name"] for step in steps if step["do"] == word} for word in ("add", "prune")}
    model = run.load("last")
    r2d2c.export(model, tmp_path / "m.onnx")
    file = onnx.load(tmp_path / "m.onnx")
    ops = set(topology_of({name: getattr(model.layer, name).numpy() for name in TABLE}, 4, ()).rows)
    assert named["add"] - named["prune"] <= ops and len(ops & named["add"]) >= 5
    assert named["prune"] and not named["prune"] & ops
    assert {node.name for node in file.graph.node if node.name.startswith("layer/n")} >= {
        f"layer/{op}" for op in ops
    }
    assert not {node.name for node in file.graph.node} & {f"layer/{op}" for op in named["prune"]}
    given = batch(size=9, seed=4)["x"]
    (found,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(["out"], {"x": given.numpy()})
    weight, bias = (model.get_parameter(f"fit.out.linear.{part}") for part in ("weight", "bias"))
    wanted = torch.nn.functional.linear(by_hand(model, "layer", given), weight, bias)
    torch.testing.assert_close(torch.from_numpy(found), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_the_onnx_file_of_a_loop_with_an_op_graph(tmp_path: Path) -> None:
    loop = "loops:\n  think(data):\n    repeat: 3\n    carry:\n      z: f32[B, 4] = zeros\n"
    loop += "    body: |\n      z = tanh(linear(layer(z + data), 4))\n"
    model = model_of(random() + loop + TASK.replace("columns = layer(x)", "columns = think(x)"))
    report = r2d2c.export(model, tmp_path / "m.onnx")
    assert max(report.max_difference.values()) < 1e-4


@pytest.mark.parametrize(
    "text",
    [
        WRITTEN + SHOWN,
        random(normalise="batch") + TASK,
        random(normalise="layer") + TASK,
        random("second") + random() + TWO,
    ],
)
def test_the_python_file_computes_and_learns_the_same(text: str) -> None:
    model = model_of(text.replace("CREDIT", "direct")).double()
    scope: dict[str, Any] = {}
    exec(compile(emit_python(model), "emitted.py", "exec"), scope)
    other = next(
        c for c in scope.values() if isinstance(c, type) and issubclass(c, torch.nn.Module)
    )().double()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, msg=name)
    other.load_state_dict(model.state_dict())
    for seed in range(2):
        given = batch(seed=seed, dtype=torch.float64)
        step, (losses, _) = model.learn(**given), other.learn(*given.values())
        for name, loss in step.losses.items():
            torch.testing.assert_close(losses[name], loss)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad, msg=name)
    outputs = other(given["x"])
    for name, output in model(x=given["x"]).items():
        torch.testing.assert_close(outputs[name], output)


def test_an_op_of_the_spec_may_have_the_name_of_a_kind_and_be_written_in_any_order() -> None:
    model = model_of(
        "  layer:\n    capacity: 3\n    nodes:\n      b: relu(add)\n      add: add(x[0], x[1])\n" + SHOWN
    )
    assert start_of(model).names == ("add", "b")


# -- what is shown


def test_the_plan_names_the_ops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(HEAD.lstrip() + (WRITTEN + SHOWN).lstrip("\n"), "utf-8")
    assert main(["plan", str(spec)]) == 0
    shown = capsys.readouterr().out
    assert "op graph layer: 4 of at most 6 ops on 4 columns" in shown
    assert re.search(r"^shifted +product \+ p\(0\.5\)$", shown, re.MULTILINE)
    assert main(["plan", str(spec), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["op_graphs"][0]["ops"]["product"] == "x[0] * x[1]"
    # The table is no parameter: 6 rows of 3 numbers, and the linear.
    assert sum(owner["number"] for owner in found["parameters"]) == 6 * 3 + 2 * 10 + 2


def test_a_graph_as_text_says_how_it_begins_and_no_path() -> None:
    grow = "    grow: {every: epochs(1), add: 2}\n"
    model = model_of(random().rstrip("\n") + "\n" + grow + TASK)
    text = print_graph(model.graph, model.spec.ops)
    assert "start: layer, 16 random ops of at most 24" in text
    assert "Span(" not in text


def test_the_op_is_not_one_that_a_spec_may_call() -> None:
    assert "op_graph" not in builtin() and "op_graph" in Ops()
    with pytest.raises(CompileError) as caught:
        model_of(random() + TASK.replace("linear(columns, 2)", "op_graph(columns)"))
    assert [d.code for d in caught.value.diagnostics] == ["E207"]


# -- data


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("wine", (178, 13), 3), ("breast_cancer", (569, 30), 2), ("diabetes", (442, 10), 0)],
)
def test_tables_and_their_folds(name: str, shape: tuple[int, int], classes: int) -> None:
    found = open_data(name)
    assert found.test is not None
    x, y = (found.train.columns[part].array for part in "xy")
    assert (len(found.train) + len(found.test), x.shape[1]) == shape
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-4)
    if classes:
        assert (
            set(y.tolist()) == set(range(classes)) and len(found.train.columns["y"].classes or ()) == classes
        )
    else:
        assert y.shape[1:] == (1,) and abs(float(y.mean())) < 1e-5
    # Every sample is in one fold's test alone, and every fold has its share of the classes.
    tests = [open_data(f"{name}?folds=4&fold={fold}").test for fold in range(1, 5)]
    assert sum(len(test) for test in tests if test) == shape[0]
    if classes:
        counts = np.array([np.bincount(test.columns["y"].array, minlength=classes) for test in tests if test])
        assert (np.ptp(counts, axis=0) <= 1).all()


def test_a_formula_is_computed_as_it_is_written() -> None:
    found = open_data("formula:x0*x1 + sin(x2) - maximum(x0, 0.5)**2?samples=20&inputs=4")
    x, y = (found.train.columns[part].array.astype(float) for part in "xy")
    assert x.shape == (20, 4) and abs(x).max() <= 2
    wanted = x[:, 0] * x[:, 1] + np.sin(x[:, 2]) - np.maximum(x[:, 0], 0.5) ** 2
    np.testing.assert_allclose(y[:, 0], wanted, atol=1e-5)
    noisy = open_data("formula:x0?noise=0.5&samples=4000")
    assert noisy.test is not None
    spread = [part.columns["y"].array - part.columns["x"].array for part in (noisy.train, noisy.test)]
    assert 0.45 < spread[0].std() < 0.55 and spread[1].std() == 0


@pytest.mark.parametrize(
    "text",
    [
        "formula:", "formula:x0 +", "formula:y0", "formula:__import__('os')", "formula:sin(x0, x1)", "formula:x0 < x1",
        "formula:sqrt(x0)", "formula:x3?inputs=2", "formula:x0?noise=nan", "formula:x9999999", "formula:" + "(" * 600,
        "formula:x0.real", "wine:3", "wine?folds=3", "wine?fold=6", "wine?fold=0", "wine?folds=1&fold=1",
    ],
)  # fmt: skip
def test_bad_arguments_of_data_are_refused(text: str) -> None:
    with pytest.raises(CompileError) as caught:
        open_data(text)
    assert [d.code for d in caught.value.diagnostics] == ["E502"]
