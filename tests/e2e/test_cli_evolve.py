"""`r2d2c evolve` as a process: a search in a terminal, one that is stopped by Ctrl-C, and what it refuses."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.command_line import ONE, interrupted, r2d2c, write_products

SPEC = """\
r2d2c: 1
model: sums
inputs: {x: "f32[B, 3]"}
targets: {y: "i64[B]"}
op_graphs:
  layer:
    ops: [add, mul, gauss]
    capacity: 9
    start: 3
tasks:
  classify:
    behavior: logits = linear(layer(x), 2)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train:
  data: csv:data.csv?target=y
  batch_size: 16
  split: 0.3
  optimizer: adam(lr=0.05)
  metrics: ["accuracy(logits, y)"]
"""
EVOLVE = ("evolve", "sums.yaml", "--population", "3", "--generations", "5", "--out", "search")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_products(tmp_path)
    (tmp_path / "sums.yaml").write_text(SPEC)
    return tmp_path


def test_a_search_is_stopped_and_goes_on_to_the_same_end(folder: Path) -> None:
    whole = r2d2c(*EVOLVE[:-1], "whole", "--format", "json", cwd=folder, env=ONE)
    assert whole.returncode == 0, whole.stderr
    wanted = json.loads(whole.stdout)
    assert len(wanted["candidates"]) == 16 and len(wanted["best"]) == 3
    assert wanted["test"].keys() == {"ensemble", "best"}

    said = interrupted(*EVOLVE, cwd=folder, at="generation 0: best")
    assert "Go on with the same command and --out search" in said
    with sqlite3.connect(folder / "search" / "evolve.db") as store:
        states = [state for (state,) in store.execute("SELECT state FROM candidate")]
    store.close()
    assert "done" in states and states.count("done") < 16

    done = r2d2c(*EVOLVE, "--workers", "2", "--format", "json", cwd=folder, env=ONE)
    assert done.returncode == 0, done.stderr
    assert "goes on: " in done.stderr
    found = json.loads(done.stdout)
    assert {**found, "folder": ""} == {**wanted, "folder": ""}

    best = found["best"][0]
    measured = r2d2c("eval", f"search/candidates/{best}", "--format", "json", cwd=folder, env=ONE)
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["metrics"] == found["test"]["best"]


def test_a_search_says_what_it_found(folder: Path) -> None:
    done = r2d2c(*EVOLVE, cwd=folder, env=ONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "sums: 5 generations of 3 candidates, 1 epoch each, by accuracy(logits, y) (higher)\nfolder: search\n"
    )
    assert [
        line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("generation ")
    ] == [f"generation {number}" for number in range(6)]
    assert "the ops of layer that count most in candidate" in done.stdout
    assert "the mean of 3 candidates" in done.stdout

    other = r2d2c(*EVOLVE, "--seed", "5", cwd=folder, env=ONE)
    assert other.returncode == 1 and "E575" in other.stderr and "another seed" in other.stderr
