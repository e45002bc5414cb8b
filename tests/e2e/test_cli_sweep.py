"""`r2d2c sweep` as a process: a sweep in two processes that is stopped by Ctrl-C, and what it says."""

import csv
import json
from pathlib import Path

import pytest

from tests.e2e.command_line import ONE, interrupted, r2d2c, write_products

SPEC = """\
r2d2c: 1
model: sums
dims: {H: 4}
inputs: {x: "f32[B, 3]"}
targets: {y: "i64[B]"}
tasks:
  classify:
    behavior: logits = x |> linear(H) |> relu |> linear(2)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train:
  data: csv:data.csv?target=y
  batch_size: 16
  epochs: 3
  split: 0.3
  optimizer: sgd(lr=0.1)
  metrics: ["accuracy(logits, y)"]
"""
OVER = (
    "--over",
    "dims.H=2,5",
    "--over",
    "train.optimizer=sgd(lr={0.3,1e38})",
    "--seeds",
    "2",
    "--threads",
    "1",
)
SWEEP = ("sweep", "sums.yaml", *OVER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_products(tmp_path)
    (tmp_path / "sums.yaml").write_text(SPEC)
    return tmp_path


def table(folder: Path) -> list[dict[str, str]]:
    """``table.csv`` without times."""
    with (folder / "table.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in lines]


def test_a_sweep_is_stopped_and_goes_on_to_the_same_end(folder: Path) -> None:
    whole = r2d2c(*SWEEP, "--out", "whole", cwd=folder, env=ONE)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.startswith(
        "sums: 4 settings, 2 seeds, 3 epochs each, by accuracy(logits, y) (higher)\nfolder: whole\n"
    )
    assert "failed with seed 0: E536" in whole.stdout and "95% confidence interval" in whole.stdout
    assert "whole/  table.csv  table.md  sweep.png  sweep.db  trials/" in whole.stdout
    wanted = table(folder / "whole")
    assert [row["state"] for row in wanted] == ["done", "done", "failed", "failed"]
    assert f"r2d2c eval whole/trials/{wanted[0]['setting']}/seed-0" in whole.stdout

    said = interrupted(
        *SWEEP, "--out", "stopped", "--workers", "2", cwd=folder, at="setting ", everybody=True
    )
    assert said.strip().endswith("Go on with the same command and --out stopped")

    done = r2d2c(*SWEEP, "--out", "stopped", "--format", "json", cwd=folder, env=ONE)
    assert done.returncode == 0, done.stderr
    assert "goes on: " in done.stderr and table(folder / "stopped") == wanted
    found = json.loads(done.stdout)
    assert found["best"] == int(wanted[0]["setting"])
    assert [row["seeds"] for row in found["settings"]] == [2, 2, 0, 0]
    assert (folder / "stopped" / "sweep.png").stat().st_size > 1000


def test_nothing_is_done(folder: Path) -> None:
    """All settings failed: the table says so, and so does the exit code."""
    over = ("--over", "train.optimizer=sgd(lr=1e38)", "--seeds", "1")
    done = r2d2c("sweep", "sums.yaml", *over, "--out", "sweep", cwd=folder, env=ONE)
    assert done.returncode == 1 and "failed with seed 0: E536" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "say what varies"),
        (("--over", "dims.H=1,2", "--trials", "3"), 2, "a grid has as many settings"),
        (("--over", "dims.H=1,2", "--sampler", "tpe"), 2, "needs to know how many"),
        (("--over", "dims.H"), 1, "E640"),
        (("--over", "train.split=0.1..0.2"), 1, "E641"),
        (("--over", "dims.H=2,tall"), 1, "so `dims.H=tall` cannot be trained"),
    ],
)
def test_wrong_usage(folder: Path, options: tuple[str, ...], code: int, said: str) -> None:
    done = r2d2c("sweep", "sums.yaml", *options, cwd=folder, env=ONE)
    assert done.returncode == code and said in " ".join(done.stderr.split()), done.stderr
    assert not (folder / "runs").exists()
