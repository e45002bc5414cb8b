"""Points that are drawn, trained with a seed other than the spec's: whether they are wired is seen with that seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import r2d2c
from r2d2c.diagnostics import CompileError

# By `r2d2c check --set train.seed=N`: seeds 0, 1 and 3 leave one point of `b` alone, 2 and 4 leave both.
SPEC = """\
r2d2c: 1
model: far
inputs: {x: "f32[B, 64]"}
targets: {y: "i64[B]"}
places:
  a: random(64, size=8)
  b: random(2, size=8)
tasks:
  see:
    behavior: |
      h = wired(x, a, b, distance < 1)
      logits = linear(h, 10)
    distance: cross_entropy(logits, y)
outputs: {logits: see.logits}
train: {data: digits, epochs: 1, batch_size: 64}
"""
NOTE = "so it cannot be trained with the seed 2"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "far.yaml"
    path.write_text(SPEC)
    return path


def codes(spec: Path, seed: int) -> list[str]:
    try:
        found = r2d2c.load(spec, settings=[f"train.seed={seed}"]).diagnostics
    except CompileError as error:
        found = error.diagnostics
    return [d.code for d in found if d.code in ("E363", "W364")]


def test_a_training_is_checked_with_its_own_seed(spec: Path, tmp_path: Path) -> None:
    assert [codes(spec, seed) for seed in range(4)] == [["W364"], ["W364"], ["E363"], ["W364"]]
    with pytest.raises(CompileError, match="E363"):
        r2d2c.train(spec, seed=2, out=tmp_path / "run", limit_batches=1)
    assert not (tmp_path / "run").exists()
    told: list[str] = []

    class Hearing:
        def on_warning(self, diagnostic: Any) -> None:
            told.append(diagnostic.code)

    run = r2d2c.train(spec, seed=3, out=tmp_path / "run", limit_batches=1, callbacks=[Hearing()])
    assert "W364" in told and run.spec.graph.seed == 3


def test_no_seed_of_a_comparison_or_a_sweep_is_found_wrong_late(spec: Path, tmp_path: Path) -> None:
    calls: list[Any] = [
        lambda: r2d2c.compare(spec, "backprop,local", seeds=3, out=tmp_path / "out", limit_batches=1),
        lambda: r2d2c.sweep(
            spec, {"train.batch_size": [32, 64]}, seeds=3, out=tmp_path / "out", limit_batches=1
        ),
    ]
    for call in calls:
        with pytest.raises(CompileError) as caught:
            call()
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.code == "E363" and diagnostic.notes[-1] == NOTE
        assert not (tmp_path / "out").exists()


def test_a_setting_that_one_seed_makes_impossible_is_refused(spec: Path, tmp_path: Path) -> None:
    """The first setting is sound with all seeds; of the second the third seed is not, and the sweep goes on."""
    over = {"places.b": ["random(64, size=8)", "random(2, size=8)"], "train.batch_size": [32]}
    settings = ["places.b=random(64, size=8)"]
    found = r2d2c.sweep(spec, over, seeds=3, out=tmp_path / "out", limit_batches=1, settings=settings)
    good, bad = found.rows
    assert (good["state"], good["seeds"]) == ("done", 3)
    assert (bad["state"], bad["seeds"]) == ("refused", 2) and bad["why"][0].startswith("E363")
