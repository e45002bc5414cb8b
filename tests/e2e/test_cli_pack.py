"""`pack`, and every command that takes an archive in place of a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from r2d2c.cli.main import main

TWO = Path(__file__).parents[2] / "specs" / "tasks" / "two_tasks.yaml"


def test_pack_and_all_that_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, expect: int = 0) -> str:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert (code, "Traceback" in err) == (expect, False), err
        return out if expect == 0 else err

    run("train", TWO, "-o", "one", "--epochs", 2, "--limit-batches", 2, "--quiet", "--threads", 1)
    said = run("pack", "one")
    assert said.startswith("wrote one.r2d2c: 7 files, ")
    assert "E624" in run("pack", "one", expect=1)
    run("pack", "one", "--force")
    run("pack", "one", "-o", "two.r2d2c")
    assert (tmp_path / "one.r2d2c").read_bytes() == (tmp_path / "two.r2d2c").read_bytes()
    for path in ("one", "one.r2d2c"):
        shown = run("inspect", path)
        assert shown.startswith("two_tasks: 2 of 2 epochs")
        assert "checkpoints/last.safetensors" in shown and "accuracy(logits, y)" in shown
    found = json.loads(run("inspect", "one.r2d2c", "--format", "json"))
    assert (found["model"], found["epoch"], found["finished"], len(found["metrics"])) == (
        "two_tasks",
        2,
        True,
        3,
    )
    assert json.loads(run("eval", "one.r2d2c", "--format", "json")) == json.loads(
        run("eval", "one", "--format", "json")
    )
    assert run("predict", "one.r2d2c") == run("predict", "one")
    assert run("graph", "one.r2d2c") == run("graph", "one")
    run("export", "one.r2d2c", "-o", "one.onnx")
    run("export", "one", "-o", "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert "as it was trained" in run("eval", "one.r2d2c", "--set", "dims.H=8", expect=2)
    assert "run folder: runs/one-001" in run("train", "--resume", "one.r2d2c", "--epochs", 3, "--threads", 1)
    assert (tmp_path / "runs" / "one-001" / "metrics.jsonl").read_text().count("\n") == 5
    run("train", "--resume", "one.r2d2c", "--epochs", 3, "--out", "mine", "--quiet", "--threads", 1)
    assert "as it was started" in run("train", "--resume", "one", "--out", "mine", expect=2)
    assert "two_tasks: " in run("train", TWO, "--from", "one.r2d2c", "-o", "begun", "--epochs", 0)
    assert "`one.r2d2c` is the archive of a run, not a spec" in run("train", "one.r2d2c", expect=1)
    assert "it is a run: `r2d2c train --resume one` goes on with it" in run("train", "one", expect=1)
    for command in ("predict", "replay", "pack"):
        assert "spec.yaml is a file, and no run" in run(command, "one/spec.yaml", expect=1)
        assert "did you mean `runs/one-001`?" in run(command, "runs/one-01", expect=1)
    assert "there are runs in it, as `runs/one-001`" in run("eval", "runs", expect=1)
    assert "did you mean `runs/one-001`?" in run("eval", "runs/one-01", expect=1)
    assert "one/spec.yaml is no Python file" in run("train", TWO, "--plugin", "one/spec.yaml", expect=1)
    (tmp_path / "bad.r2d2c").write_text("no archive")
    for command in ("eval", "predict", "inspect", "graph"):
        assert "error[E620]: cannot open bad.r2d2c" in run(command, "bad.r2d2c", expect=1)
    assert "E620" in run("train", "--resume", "bad.r2d2c", expect=1)
    assert not (tmp_path / "runs" / "bad-001").exists()
    assert "E523" in run("pack", "nothing", expect=1)
