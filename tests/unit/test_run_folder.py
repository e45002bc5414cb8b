"""Run folders: made once, opened again, cut back to a checkpoint; and their curves."""

import json
import math
from pathlib import Path

import pytest
import torch

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.train.checkpoint import Checkpoint
from r2d2c.train.curves import collect, draw_curves
from r2d2c.train.run_folder import Lock, RunFolder

SPEC = "r2d2c: 1\n# é\n"
LOCK = Lock.of(SPEC, seed=3, threads=1, device="cpu")


def make(path: Path) -> RunFolder:
    return RunFolder.create(path, spec=SPEC, lock=LOCK)


def refused(path: Path, create: bool = False) -> str:
    with pytest.raises(CompileError) as caught:
        make(path) if create else RunFolder.open(path)
    (diagnostic,) = caught.value.diagnostics
    return f"{diagnostic.code}: {diagnostic.message}"


def test_create_and_open(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "one")
    run = RunFolder.open(tmp_path / "runs" / "one")
    assert run.spec == SPEC
    assert run.lock == LOCK
    assert set(run.lock.versions) == {"python", "torch", "numpy", "r2d2c"}
    assert str(tmp_path) not in (run.path / "lock.json").read_text()
    assert not run.has()
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one"
    make(path)
    with pytest.raises(CompileError) as caught:
        make(path)
    (diagnostic,) = caught.value.diagnostics
    assert str(diagnostic) == f"error[E522]: the run folder {path} is not empty"
    assert diagnostic.fix is not None
    assert diagnostic.fix.text == f"choose another with --out, or go on with this run: --resume {path}"
    (tmp_path / "file").write_text("x")
    assert refused(tmp_path / "file", create=True) == f"E522: the run folder {tmp_path}/file is a file"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    assert refused(tmp_path / "other", create=True) == f"E522: the run folder {tmp_path}/other is not empty"
    assert [entry.name for entry in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_what_is_not_a_run(tmp_path: Path) -> None:
    assert refused(tmp_path / "no") == f"E523: there is no run folder {tmp_path}/no"
    assert refused(tmp_path) == (
        f"E523: {tmp_path} is not a run folder: it has no spec.yaml, lock.json, metrics.jsonl, checkpoints/"
    )
    path = tmp_path / "one"
    make(path)
    (path / "lock.json").write_text("{")
    assert refused(path).startswith(f"E523: cannot read {path}/lock.json of the run: ")
    (path / "lock.json").write_text('{"a": 1}')
    assert refused(path).startswith(f"E523: cannot read {path}/lock.json of the run: ")
    path = tmp_path / "two"
    make(path)
    (path / "spec.yaml").write_text(SPEC + "x: 1\n")
    assert refused(path) == f"E523: {path}/spec.yaml was changed after the run was started"


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    records = [{"epoch": n, "losses": {"a": n / 10, "b": math.nan}} for n in range(5)]
    run.append(*records[:2])
    run.append(*records[2:])
    assert all(json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())
    assert "NaN" not in (run.path / "metrics.jsonl").read_text(), "which is no JSON"
    back = run.metrics()
    assert [r["epoch"] for r in back] == [0, 1, 2, 3, 4]
    assert math.isnan(back[0]["losses"]["b"])
    sink = Sink()
    assert run.keep_metrics(3, sink) == 3
    assert [r["epoch"] for r in run.metrics()] == [0, 1, 2]
    assert not sink.diagnostics
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 3')  # a power cut
    assert len(run.metrics()) == 3
    assert run.keep_metrics(4, sink) == 3
    (diagnostic,) = sink.diagnostics
    assert str(diagnostic) == (
        f"warning[W524]: {run.path}/metrics.jsonl has 3 sound lines, the checkpoint knows 4"
    )
    run.append({"epoch": 3})
    assert len(run.metrics()) == 4


def test_checkpoints(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    with pytest.raises(CompileError):
        run.load()
    run.save(Checkpoint({"w": torch.tensor([1.0])}, state={"epoch": 1}), best=True)
    run.save(Checkpoint({"w": torch.tensor([2.0])}, state={"epoch": 2, "best": math.inf}))
    again = RunFolder.open(run.path)
    assert again.load().state == {"epoch": 2, "best": math.inf}
    assert again.load("best").model["w"].item() == 1
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["best.safetensors", "last.safetensors"]
    (run.checkpoints / ".last.safetensors.1.0.partial").write_bytes(b"half")
    RunFolder.open(run.path)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["best.safetensors", "last.safetensors"]


def test_other_surroundings_are_a_warning(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    sink = Sink()
    run.check_surroundings(LOCK, sink)
    assert not sink.diagnostics
    run.check_surroundings(Lock.of(SPEC, seed=3, threads=4, device="cuda"), sink)
    (diagnostic,) = sink.diagnostics
    assert str(diagnostic) == f"warning[W525]: {run.path} was started in other surroundings"
    assert diagnostic.notes == ("threads: 1, now 4", "device: cpu, now cuda")


def test_summary_and_curves(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    run.write_summary("accuracy 0.97")
    assert (run.path / "summary.txt").read_text() == "accuracy 0.97\n"
    assert run.draw_curves() is None
    for epoch in range(1, 4):
        run.append(
            {"epoch": epoch, "split": "train", "losses": {"a": 1 / epoch, "_b$x": math.nan}},
            {
                "epoch": epoch,
                "split": "test",
                "losses": {"a": 2 / epoch},
                "metrics": {"accuracy": 0.3 * epoch},
            },
            {"event": "resumed"},
        )
    path = run.draw_curves()
    assert path is not None
    first = path.read_bytes()
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    run.draw_curves()
    assert path.read_bytes() == first, "the same run gives the same picture"
    assert collect(run.metrics(), "losses")["a", "test"] == ([1.0, 2.0, 3.0], [2.0, 1.0, 2 / 3])


def test_a_thousand_tasks_and_a_single_epoch_are_drawn(tmp_path: Path) -> None:
    losses = {f"task_{n}": 1.0 + n for n in range(1000)}
    assert draw_curves([{"epoch": 1, "losses": losses}], tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size < 200_000
