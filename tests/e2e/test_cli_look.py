"""The commands that look inside a spec, and those that export it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.command_line import BROKEN, TWO_TASKS, r2d2c

EMITS = ("syntax", "graph", "inference", "training", "fx", "python")

WIRING = """\
two_tasks: which loss trains which parameters

parameters                  size   encode   classify
encode.h.*                16,576  gradient     ·
classify.logits.linear.*     650     ·      gradient
encode.r.linear.*            704  gradient  gradient

gradient: the gradient of this loss trains these parameters
·: this loss does not reach them
"""


def test_wiring() -> None:
    assert r2d2c("wiring", TWO_TASKS).stdout == WIRING


def test_wiring_proved() -> None:
    done = r2d2c("wiring", TWO_TASKS, "--prove")
    assert done.returncode == 0
    proof = "proved: 10 marked gradients moved with their losses, 6 others stayed the same to the last bit\n"
    assert done.stdout == f"{WIRING}\n{proof}"


def test_wiring_json() -> None:
    found = json.loads(r2d2c("wiring", TWO_TASKS, "--prove", "--format", "json").stdout)
    assert found["wiring"]["classify"]["encode.h.linear.weight"] is None
    assert found["wiring"]["classify"]["encode.r.linear.weight"] == "gradient"
    assert found["proof"] == {"ok": True, "entries": 16, "failures": []}
    assert found["groups"][0]["name"] == "encode.h.*"


def test_wiring_of_a_distance_that_is_dropped(tmp_path: Path) -> None:
    spec = tmp_path / "end_to_end.yaml"
    text = TWO_TASKS.read_text().replace("{credit: local, feed: encode.r}", "{credit: backprop}")
    spec.write_text(text.replace("    teach: encode + classify\n", ""))
    done = r2d2c("wiring", spec)
    assert done.returncode == 0, done.stderr
    assert (
        "The distance of `encode` is not used: encode -> classify has credit `backprop`. `keep: own` in the task "
        "would keep it.\n"
    ) in done.stdout
    assert json.loads(r2d2c("wiring", spec, "--format", "json").stdout)["dropped"].keys() == {"encode"}


def test_wiring_in_a_narrow_place() -> None:
    done = r2d2c("wiring", TWO_TASKS.parent / "four_task_chain.yaml", env={"COLUMNS": "60"})
    assert "size  1  2  3  4\n" in done.stdout
    assert "\n  4  t4\n" in done.stdout


def test_wiring_that_does_not_hold_fails() -> None:
    import contextlib
    import io
    from unittest import mock

    from r2d2c.cli.main import main
    from r2d2c.prove import Entry, Proof

    false = Proof((Entry("encode", "encode.h.linear.bias", "gradient", False),))
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch("r2d2c.prove.prove", lambda model: false),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(["wiring", str(TWO_TASKS), "--prove"])
    assert code == 1
    assert (
        "encode.h.linear.bias is marked `gradient` by encode, and its gradient did not move" in err.getvalue()
    )
    assert "NOT proved: 1 entry of 1" in err.getvalue()


def test_plan() -> None:
    done = r2d2c("plan", TWO_TASKS, "--batch", "8")
    assert done.returncode == 0
    assert "two_tasks: 2 visits in a learning pass" in done.stdout
    assert "encode.representative     704   2.8 KiB  while learning only" in done.stdout
    found = json.loads(r2d2c("plan", TWO_TASKS, "--format", "json").stdout)
    assert [visit["name"] for visit in found["visits"]] == ["encode", "classify"]
    assert sum(row["number"] for row in found["parameters"]) == 17930
    # 64 x 128, 128 x 64 and 64 x 10 products, each a multiplication and an addition; and the relu.
    assert found["inference_flops_per_sample"] == 2 * (64 * 128 + 128 * 64 + 64 * 10) + 128
    half = json.loads(r2d2c("plan", TWO_TASKS, "--batch", "16", "--format", "json").stdout)
    # All but the losses themselves grows with the batch.
    assert abs(found["peak_activation_bytes"] - 2 * half["peak_activation_bytes"]) <= 8


@pytest.mark.parametrize("emit", EMITS)
def test_compile(emit: str, tmp_path: Path) -> None:
    done = r2d2c("compile", TWO_TASKS, "--emit", emit)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert str(TWO_TASKS.parent) not in done.stdout
    assert len(done.stdout) > 300
    out = tmp_path / "out.txt"
    written = r2d2c("compile", TWO_TASKS, "--emit", emit, "-o", out)
    assert (written.stdout, written.stderr) == ("", f"wrote {out}\n")
    assert out.read_text() == done.stdout


@pytest.mark.parametrize(
    "command",
    [("wiring",), ("plan",), ("graph",), ("compile", "--emit", "syntax"), ("export", "-o", "m.onnx")],
)
def test_a_broken_spec_gives_the_same_diagnostics_everywhere(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    done = r2d2c(*command, "broken.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error[E104]" in done.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_graph_to_files(tmp_path: Path) -> None:
    mermaid = r2d2c("graph", TWO_TASKS)
    assert mermaid.stdout.startswith('---\ntitle: "two_tasks"\n---\nflowchart LR\n')
    for name, start in (("m.mmd", "---"), ("m.dot", "digraph")):
        done = r2d2c("graph", TWO_TASKS, "-o", tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"wrote {tmp_path / name}\n")
        assert (tmp_path / name).read_text().startswith(start)
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg", str(tmp_path / "m.dot"), "-o", str(tmp_path / "m.svg")], check=True)
        assert "classify loss" in (tmp_path / "m.svg").read_text()


@pytest.mark.parametrize("stage", ["inference", "training"])
def test_graph_of_a_stage(stage: str) -> None:
    done = r2d2c("graph", TWO_TASKS, "--stage", stage, "--as", "dot")
    assert "encode.h.relu" in done.stdout
    assert ("vjp(encode)" in done.stdout) == (stage == "training")


def test_data() -> None:
    listed = r2d2c("data").stdout
    assert "digits" in listed and "csv:FILE" in listed
    shown = r2d2c("data", "digits", "--samples", "2").stdout
    assert "train         1,438 samples" in shown and "64 in all" in shown
    fits = r2d2c("data", "--spec", TWO_TASKS)
    assert fits.returncode == 0
    assert "It fits the ports of two_tasks." in fits.stdout
    found = json.loads(r2d2c("data", "digits", "--samples", "1", "--format", "json").stdout)
    assert found["splits"]["test"] == 359 and len(found["samples"][0]["x"]) == 64


def test_data_at_fault() -> None:
    done = r2d2c("data", "digts")
    assert done.returncode == 1
    assert "error[E501]: there is no data source `digts`" in done.stderr
    assert "did you mean `digits`?" in done.stderr


def test_data_that_does_not_fit() -> None:
    done = r2d2c("data", "digits", "--spec", TWO_TASKS, "--set", "dims.D=63")
    assert done.returncode == 1
    assert "error[E51" in done.stderr


def test_export_and_inspect(tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    done = r2d2c("export", TWO_TASKS, "-o", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: ") and "verified against PyTorch" in done.stdout
    before = out.read_bytes()
    again = r2d2c("export", TWO_TASKS, "-o", out)
    assert again.returncode == 2
    assert "--force replaces it" in again.stderr
    assert out.read_bytes() == before
    assert r2d2c("export", TWO_TASKS, "-o", out, "--force").returncode == 0
    shown = r2d2c("inspect", out)
    assert shown.returncode == 0
    assert "x: f32[B, 64]" in shown.stdout and "logits: f32[B, 10]" in shown.stdout
    found = json.loads(r2d2c("inspect", out, "--format", "json").stdout)
    assert found["tasks"] == ["encode", "classify"]
    emitted = r2d2c("compile", TWO_TASKS, "--emit", "onnx", "-o", tmp_path / "other.onnx")
    assert emitted.returncode == 0
    assert (tmp_path / "other.onnx").exists()


def test_export_of_a_run_has_its_trained_parameters(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = r2d2c("train", TWO_TASKS, "--out", run, "--epochs", "1", "--batch-size", "256")
    assert trained.returncode == 0, trained.stderr
    done = r2d2c("export", run, "-o", tmp_path / "trained.onnx")
    assert done.returncode == 0, done.stderr
    assert "untrained" not in done.stderr
    untrained = r2d2c("export", TWO_TASKS, "-o", tmp_path / "first.onnx")
    assert "The parameters are untrained" in untrained.stderr
    assert (tmp_path / "trained.onnx").read_bytes() != (tmp_path / "first.onnx").read_bytes()


def test_inspect_what_is_no_onnx_file(tmp_path: Path) -> None:
    assert r2d2c("inspect", tmp_path / "none.onnx").returncode == 1
    done = r2d2c("inspect", TWO_TASKS)
    assert done.returncode == 1
    assert "error[E611]" in done.stderr
