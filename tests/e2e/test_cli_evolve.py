"""`r2d2c evolve` as a process: a search in a terminal, one that is stopped by Ctrl-C, and what it refuses."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.command_line import r2d2c

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
ONE = {"OMP_NUM_THREADS": "1"}
EVOLVE = ("evolve", "sums.yaml", "--population", "3", "--generations", "5", "--out", "search")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = random.Random(1)
    rows = [[draw.gauss(0, 1) for _ in range(3)] for _ in range(60)]
    lines = [f"{a:.3f},{b:.3f},{c:.3f},{'yes' if a * b > 0 else 'no'}" for a, b, c in rows]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,y", *lines, ""]))
    (tmp_path / "sums.yaml").write_text(SPEC)
    return tmp_path


def test_a_search_is_stopped_and_goes_on_to_the_same_end(folder: Path) -> None:
    whole = r2d2c(*EVOLVE[:-1], "whole", "--format", "json", cwd=folder, env=ONE)
    assert whole.returncode == 0, whole.stderr
    wanted = json.loads(whole.stdout)
    assert len(wanted["candidates"]) == 16 and len(wanted["best"]) == 3
    assert wanted["test"].keys() == {"ensemble", "best"}

    command = [sys.executable, "-u", "-m", "r2d2c", *EVOLVE]
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **ONE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("generation 0"):
                process.send_signal(signal.SIGINT)
                break
        said = process.stderr.read()
        assert process.wait(60) == 130
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
