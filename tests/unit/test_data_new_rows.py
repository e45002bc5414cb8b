"""Other data for a model than it was trained on: which rows of it are measured, and how its columns are scaled."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.train.data import Column, Dataset, Table, open_data
from tests.unit.data_files import CLI

SPEC = """
r2d2c: 1
model: line
inputs: {x: "f32[B, 2]"}
targets: {y: "f32[B, 1]"}
tasks:
  t:
    behavior: out = linear(x, 1)
    distance: mse(out, y)
outputs: {out: t.out, seen: x * 1}
train: {data: "csv:line.csv", epochs: 1, batch_size: 8, metrics: ["mse(out, y)"]}
"""


def table(count: int, seed: int) -> tuple[np.ndarray, str]:
    rows = np.random.default_rng(seed).normal(3, 2, (count, 3))
    return rows, "\n".join(["a,b,y", *(",".join(map(str, row)) for row in rows.tolist())]) + "\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "line.csv").write_text(table(50, 0)[1])
    (tmp_path / "new.csv").write_text(table(30, 1)[1])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measured(run: Any, data: Any = None, split: str | None = None) -> tuple[str, int]:
    found = r2d2c.evaluate(run, data, split)
    return found["split"], found["samples"]


def test_all_rows_of_new_data_are_measured(folder: Path) -> None:
    run = r2d2c.train("spec.yaml", out=folder / "run", threads=1)
    rows, _ = table(30, 1)
    found = r2d2c.evaluate(run, "csv:new.csv")
    assert (found["split"], found["samples"]) == ("all", 30)
    with torch.no_grad():
        out = run.model(x=torch.tensor(rows[:, :2], dtype=torch.float32))["out"]
    assert found["loss"] == pytest.approx(((out.numpy()[:, 0] - rows[:, 2]) ** 2).mean(), rel=1e-5)
    assert measured(run, "csv:new.csv", "all") == ("all", 30)
    assert measured(run, "csv:new.csv?test=0") == ("all", 30)
    assert measured(run, "csv:new.csv?test=0.1") == ("test", 3), "who asks for a split gets it"
    assert measured(run, "csv:new.csv?seed=4") == ("test", 6)
    assert measured(run, "csv:new.csv", "test") == ("test", 6)
    assert measured(run, "csv:new.csv", "train") == ("train", 24)
    np.savez("new.npz", x=rows[:, :2], y=rows[:, 2:])
    np.savez(
        "split.npz", train_x=rows[:20, :2], train_y=rows[:20, 2:], test_x=rows[20:, :2], test_y=rows[20:, 2:]
    )
    assert measured(run, "npz:new.npz") == ("all", 30)
    assert measured(run, "npz:split.npz") == ("test", 10)
    assert measured(run, "npz:split.npz", "all") == ("all", 30)


def test_the_own_data_of_a_run_keeps_its_test_split(folder: Path) -> None:
    named = r2d2c.train("spec.yaml", out=folder / "named", threads=1)
    told = r2d2c.train("spec.yaml", data="csv:line.csv?test=0.1", out=folder / "told", threads=1)
    (folder / "link.csv").symlink_to(folder / "line.csv")
    shutil.copy("line.csv", "copy.csv")
    for run, own in ((named, 10), (told, 5)):
        assert measured(run) == ("test", own)
        assert measured(run, split="all") == ("all", 50)
        for text in ("csv:line.csv", f"csv:{folder}/line.csv", "csv:./line.csv?target=y", "csv:link.csv"):
            assert measured(run, text) == ("test", 10), text
        assert measured(run, "csv:line.csv?test=0.1") == ("test", 5)
        assert measured(run, "csv:copy.csv") == ("all", 50)
        with pytest.raises(CompileError, match=r"E539"):
            r2d2c.evaluate(run, "csv:line.csv?test=0")


@pytest.mark.parametrize("place", ["~no such user/a.csv", "loop.csv", "a\0b.csv", "", "line.csv/x"])
def test_paths_that_lead_nowhere(folder: Path, place: str) -> None:
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    with pytest.raises(CompileError, match=r"E50[23]"):
        r2d2c.evaluate("spec.yaml", f"csv:{place}")


def test_a_spec_and_a_model_are_measured_like_a_run(folder: Path) -> None:
    model = r2d2c.Model(r2d2c.load("spec.yaml"))
    for what in ("spec.yaml", model, r2d2c.load("spec.yaml")):
        assert measured(what) == ("test", 10)
        assert measured(what, "csv:line.csv") == ("test", 10)
        assert measured(what, "csv:new.csv") == ("all", 30)


def test_data_from_python(folder: Path) -> None:
    run = r2d2c.train("spec.yaml", out=folder / "run", threads=1)
    rows = table(30, 1)[0].astype(np.float32)
    batches = [{"x": rows[k : k + 10, :2], "y": rows[k : k + 10, 2:]} for k in (0, 10, 20)]
    assert measured(run, batches) == ("all", 30)
    assert measured(run, {"train": batches, "test": batches[:1]}) == ("test", 10)
    assert measured(run, {"train": batches, "test": batches[:1]}, "all") == ("all", 40)
    assert measured(run, Dataset("mine", Table({"x": Column(rows[:, :2]), "y": Column(rows[:, 2:])}))) == (
        "all",
        30,
    )


def test_the_command_says_what_it_measured(folder: Path) -> None:
    def command(*arguments: str, expect: int = 0) -> str:
        line = [sys.executable, "-m", "r2d2c", *arguments]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == expect, done.stderr
        return done.stdout or done.stderr

    command("train", "spec.yaml", "--out", "run", "-q")
    assert command("eval", "run").startswith("line, last checkpoint: csv:line.csv, test, 10 samples\n")
    found = command("eval", "run", "--data", "csv:new.csv")
    assert found.startswith("line, last checkpoint: csv:new.csv, all rows, 30 samples\n")
    assert found.split("\n")[2].split() == ["all"]
    found = command("eval", "run", "--data", "csv:new.csv", "--split", "test")
    assert found.startswith("line, last checkpoint: csv:new.csv, test, 6 samples\n")
    found = json.loads(command("eval", "run", "--data", "csv:new.csv", "--format", "json"))
    assert (found["split"], found["samples"], found["data"]) == ("all", 30, "csv:new.csv")
    assert "E539" in command("eval", "run", "--data", "csv:new.csv", "--split", "validation", expect=1)


@pytest.mark.parametrize("columns", [None, "[b, a]"])
def test_new_data_is_scaled_as_the_training_data_was(folder: Path, columns: str | None) -> None:
    settings = [f"train.columns.x={columns}"] if columns else []
    run = r2d2c.train(
        "spec.yaml",
        data="csv:line.csv?scale=standard&test=0",
        out=folder / "run",
        threads=1,
        settings=settings,
    )
    rows, new = table(50, 0)[0][:, :2], table(30, 1)[0]
    wanted = (new[:, :2] - rows.mean(0)) / rows.std(0)
    wanted = wanted[:, ::-1] if columns else wanted
    np.testing.assert_allclose(r2d2c.predict(run, "csv:new.csv")["seen"], wanted, rtol=1e-4, atol=1e-5)
    assert r2d2c.evaluate(run, "csv:new.csv")["samples"] == 30
    # Without the target the last feature stands where a target would.
    Path("bare.csv").write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b, _ in new.tolist()))
    if columns:
        np.testing.assert_allclose(r2d2c.predict(run, "csv:bare.csv")["seen"], wanted, rtol=1e-4, atol=1e-5)


def test_a_scale_that_does_not_fit(folder: Path) -> None:
    options = {"data": "csv:line.csv?scale=standard", "threads": 1, "settings": ["train.columns.x=[b, a]"]}
    run = r2d2c.train("spec.yaml", out=folder / "run", **options)
    Path("text.csv").write_text("a,b,y\n" + "1,low,2\n2,high,3\n" * 5)
    message = r"E595.*column `b` of text\.csv is of classes, and was f64\[N\] as it was scaled in training"
    with pytest.raises(CompileError, match=message):
        r2d2c.predict(run, "csv:text.csv")


def test_a_column_called_x_is_scaled_by_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,z,w\n" + "".join(f"{k},{k * k},{k % 2}\n" for k in range(10)))
    found = open_data(f"csv:{tmp_path}/a.csv?scale=standard&test=0", CLI)
    wanted = np.stack([np.arange(10.0), np.arange(10.0) ** 2], 1)
    np.testing.assert_allclose(found.train["x"], (wanted - wanted.mean(0)) / wanted.std(0))
