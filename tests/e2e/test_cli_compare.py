"""`r2d2c compare` as a process."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.command_line import _plain, r2d2c

CHAIN = """\
r2d2c: 1
model: chain
dims: {D: 64, H: 32, C: 10}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
credit: feedback
tasks:
  t1:
    behavior: h = x |> linear(H) |> tanh
  t2:
    behavior: logits = linear(t1.h, C)
    distance: cross_entropy(logits, y)
outputs:
  logits: t2.logits
train:
  data: digits
  epochs: 2
  optimizer: adam(lr=2e-3)
  metrics:
    - accuracy(logits, y)
"""
RULES = "backprop,target(step=0.3, noise=0.1),spec"
FILES = {"compare.json", "spec.yaml", "table.csv", "table.md", "angles.csv", "curves.svg", "curves.png"}


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN)
    return path


def test_three_rules_and_two_seeds(chain: Path) -> None:
    folder = chain.parent
    more = ("--seeds", "2", "--limit-batches", "4")
    done = r2d2c("compare", chain, "--credit", RULES, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:2] == ["chain: 3 rules, 2 seeds, 2 epochs each", "folder: runs/compare-chain-001"]
    shown = lines[2:14]  # every epoch of every training, seed after seed
    assert [line.split("  seed ")[0].strip() for line in shown[::2]] == 2 * [
        "backprop", "target(step=0.3, noise=0.1)", "spec",
    ]  # fmt: skip
    assert "  seed 0  epoch 1/2  loss " in shown[0] and "accuracy 0." in shown[0]
    assert "angle 0.0°" in shown[0] and shown[0].endswith(" s")
    assert "chain: digits, 2 epochs, seeds 0, 1" in lines
    table = lines[lines.index("chain: digits, 2 epochs, seeds 0, 1") + 2 :]
    assert table[0].split() == [
        "rule",
        "test",
        "accuracy",
        "train",
        "accuracy",
        "loss",
        "seconds",
        "added",
        "angle",
    ]
    assert "352" in table[2] and "320 fixed" in table[3]
    out = folder / "runs" / "compare-chain-001"
    folders = {"backprop", "target_step_0.3_noise_0.1", "spec"}
    assert {entry.name for entry in out.iterdir()} == FILES | folders
    assert {entry.name for entry in (out / "spec").iterdir()} == {"seed-0", "seed-1"}
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["rule"] for row in rows] == ["backprop", "target(step=0.3, noise=0.1)", "spec"]
    assert all(float(row["test accuracy(logits, y) mean"]) > 0 for row in rows)
    assert "<svg" in (out / "curves.svg").read_text()
    # A run is used as any other.
    run = out / "target_step_0.3_noise_0.1" / "seed-1"
    found = json.loads(r2d2c("eval", run, "--format", "json").stdout)
    assert found["samples"] == 359
    assert r2d2c("export", run, "-o", folder / "m.onnx").returncode == 0
    assert r2d2c("train", "--resume", run, "--epochs", "3").returncode == 0


def test_json_is_all_that_is_on_stdout(chain: Path) -> None:
    more = ("--seeds", "1", "--seed", "5", "--limit-batches", "2", "--epochs", "1", "--format", "json")
    done = r2d2c("compare", chain, "--credit", "backprop", "--credit", "direct", *more, cwd=chain.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["seeds"] == [5] and found["epochs"] == 1 and found["data"] == "digits"
    assert [row["rule"] for row in found["rules"]] == ["backprop", "direct"]
    first = found["rules"][0]
    assert first["angle"] == {"mean": 0.0, "std": None, "values": [0.0]}
    assert first["test"]["accuracy(logits, y)"]["std"] is None
    assert "backprop  seed 5  epoch 1/1" in done.stderr
    quiet = r2d2c("compare", chain, "--credit", "direct", *more, "--quiet", "--no-angles", cwd=chain.parent)
    assert quiet.stderr == "" and json.loads(quiet.stdout)["rules"][0]["angle"] is None


def test_rules_that_are_refused(chain: Path) -> None:
    done = r2d2c("compare", chain, "--credit", "backprop,target(stop=1)", cwd=chain.parent)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(
        "error[E431]: the credit `target` has no option `stop`\n --> --credit:1:8\n"
    )
    assert "= note: so `target(stop=1)` cannot be compared here" in done.stderr
    assert not (chain.parent / "runs").exists()
    unknown = r2d2c("compare", chain, "--credit", "backprop,dirct", cwd=chain.parent)
    assert unknown.returncode == 1
    assert "error[E430]: there is no credit rule `dirct`" in unknown.stderr
    assert "did you mean `direct`?" in unknown.stderr
    more = ("--seeds", "1", "--limit-batches", "1", "--epochs", "1", "-o", "out")
    done = r2d2c("compare", chain, "--credit", "backprop,dirct", "--skip-refused", *more, cwd=chain.parent)
    assert done.returncode == 0
    assert "dirct: refused, the others go on without it" in done.stdout
    assert "refused: E430" in done.stdout and "error[E430]" in done.stderr
    again = r2d2c("compare", chain, "--credit", "backprop", "-o", "out", cwd=chain.parent)
    assert again.returncode == 1 and "error[E522]: the folder out is not empty" in again.stderr
    assert "or go on with this comparison: --resume out" in again.stderr


def test_wrong_usage(chain: Path) -> None:
    for arguments, message in (
        ((chain,), "say which rules"),
        ((), "give a SPEC"),
        ((chain, "--resume", "x"), "--resume has the spec of the comparison"),
        (("--resume", "x", "--epochs", "3"), "as it was started"),
        ((chain, "--credit", "direct", "--seeds", "0"), "--seeds"),
        ((chain, "--credit", "direct", "--backend", "onnx"), "does not train"),
    ):
        done = r2d2c("compare", *arguments)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)
    empty = r2d2c("compare", chain, "--credit", "backprop,,direct")
    assert empty.returncode == 1 and " --> --credit:1:10\n" in empty.stderr
    open_ = r2d2c("compare", chain, "--credit", "backprop,target(step=0.3")
    assert open_.returncode == 1 and "error[E104]: this `(` is never closed" in open_.stderr
    none = r2d2c("compare", "--resume", chain.parent)
    assert none.returncode == 1 and "error[E523]" in none.stderr
    assert 'Example: r2d2c compare net.yaml --credit "backprop' in r2d2c("compare", "--help").stdout


def test_interrupt_saves_and_resume_is_exact(chain: Path) -> None:
    folder = chain.parent
    arguments = ["compare", str(chain), "--credit", "backprop,feedback", "--seeds", "2", "--epochs", "3"]
    assert r2d2c(*arguments, "--out", "whole", cwd=folder).returncode == 0
    command = [sys.executable, "-m", "r2d2c", *arguments, "--out", "cut"]
    with subprocess.Popen(
        command, cwd=folder, env=_plain(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "feedback  seed 0  epoch 1/3" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stderr.endswith("stopped and saved. Go on with:\n  r2d2c compare --resume cut\n")
    assert (folder / "cut" / "table.csv").exists()
    done = r2d2c("compare", "--resume", "cut", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "goes on: 1 of 4 trainings finished before" in done.stdout
    whole, cut = (list(csv.DictReader((folder / name / "table.csv").open())) for name in ("whole", "cut"))
    for mine, other in zip(whole, cut, strict=True):
        assert {k: v for k, v in mine.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }
