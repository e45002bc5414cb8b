"""`r2d2c train --from` as a process: a run that goes on as another model."""

import json
from pathlib import Path

import pytest

from tests.e2e.command_line import ONE, r2d2c, write_products

SPEC = """\
r2d2c: 1
model: sums
dims: {H: 5}
inputs: {x: "f32[B, 3]"}
targets: {y: "i64[B]"}
op_graphs:
  layer:
    ops: [add, mul, gauss]
    capacity: 9
    start: 3
    grow: {every: epochs(1), add: 1}
tasks:
  classify:
    behavior: logits = linear(concat(tanh(linear(x, H)), layer(x)), 2)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train: {data: "csv:data.csv?target=y", epochs: 3, batch_size: 16, optimizer: adam(lr=0.05)}
"""
SECOND = """\
  again:
    behavior: guess = linear(tanh(linear(x, 4)), 2)
    distance: cross_entropy(guess, y)
outputs: {logits: classify.logits, guess: again.guess}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_products(tmp_path, 40)
    (tmp_path / "first.yaml").write_text(SPEC)
    more = SPEC.replace("outputs: {logits: classify.logits}\n", SECOND).replace("H: 5", "H: 8")
    (tmp_path / "second.yaml").write_text(more.replace("capacity: 9", "capacity: 16"))
    return tmp_path


def test_a_run_goes_on_as_another_model(folder: Path) -> None:
    done = r2d2c("train", "first.yaml", "-o", "a", "-q", cwd=folder, env=ONE)
    assert (done.returncode, done.stderr) == (0, "")
    done = r2d2c("train", "second.yaml", "--from", "a", "-o", "b", cwd=folder, env=ONE)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "classify.logits.linear_2.weight widened 2×(17 → 27) padded" in shown
    assert "again.guess.linear.weight new 4×3 new" in shown
    assert "layer.kind moved (9 → 16)" in shown and "started from a: 2 kept, 8 widened" not in shown
    assert "output logits: the same to " in shown
    assert "the state of 5 parameters goes on" in shown
    summary = (folder / "b/summary.txt").read_text()
    assert "started from: a (" in summary and "output logits at the start: the same to " in summary
    report = json.loads((folder / "b/transplant.json").read_text())
    assert {one["what"] for one in report["tensors"]} == {"kept", "widened", "moved", "new"}

    # The log goes on from what the first run grew, and the run needs that one no more.
    done = r2d2c("replay", "b", cwd=folder, env=ONE)
    assert done.returncode == 0 and done.stdout.startswith("layer: 7 ops after 2 rounds of growth\n")
    assert done.stdout.endswith("this is the op graph of the last checkpoint\n")
    (folder / "a").rename(folder / "away")
    done = r2d2c("train", "--resume", "b", "--epochs", "4", "-q", cwd=folder, env=ONE)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_refused(folder: Path) -> None:
    done = r2d2c("train", "second.yaml", "--from", "a", "-o", "b", cwd=folder, env=ONE)
    assert done.returncode == 1 and "E523" in done.stderr and not (folder / "b").exists()
    done = r2d2c("train", "--resume", "a", "--from", "b", cwd=folder, env=ONE)
    assert done.returncode == 2 and "--from" in done.stderr
    done = r2d2c("train", "second.yaml", "--rename", "a=b", cwd=folder, env=ONE)
    assert done.returncode == 2 and "--rename" in done.stderr
    assert (
        r2d2c("train", "second.yaml", "-o", "b", "-q", "--epochs", "0", cwd=folder, env=ONE).returncode == 0
    )
    done = r2d2c("train", "first.yaml", "--from", "b", "-o", "c", cwd=folder, env=ONE)
    assert done.returncode == 1 and "E581" in done.stderr and not (folder / "c").exists()
    assert (
        "`classify.logits.linear_2.weight` is [2, 27] in the run and only [2, 17] in the spec" in done.stderr
    )
    done = r2d2c(
        "train",
        "first.yaml",
        "--from",
        "b/checkpoints/last.safetensors",
        "--rename",
        "x",
        cwd=folder,
        env=ONE,
    )
    assert done.returncode == 1 and "E586" in done.stderr
