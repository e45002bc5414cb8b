"""Where a training is logged: TensorBoard's events, and stand-ins with the calls of wandb and mlflow."""

from __future__ import annotations

import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.train.sinks import SINKS, Beginning, SinkRecord, scalars
from r2d2c.train.sinks.mlflow import _name

TWO = Path(__file__).parents[2] / "specs" / "tasks" / "two_tasks.yaml"
QUICK: dict[str, Any] = {"epochs": 2, "limit_batches": 2, "threads": 1}


def events(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Steps and values, read by the format's own description: length, its checksum, bytes, their checksum."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    (path,) = run.glob("*tfevents*")
    raw, found = path.read_bytes(), []
    while raw:
        (length,) = struct.unpack("<Q", raw[:8])
        body, mark = raw[12 : 12 + length], struct.unpack("<I", raw[12 + length : 16 + length])[0]
        check = crc32c(body)
        assert mark == (((check >> 15) | (check << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        event = Event.FromString(body)
        if event.summary.value:
            found.append((event.step, {value.tag: value.simple_value for value in event.summary.value}))
        else:
            assert event.file_version == "brain.Event:2"
        raw = raw[16 + length :]
    return found


def test_events_are_the_numbers_of_the_metrics(tmp_path: Path) -> None:
    run = r2d2c.train(TWO, out=tmp_path / "run", **QUICK)
    lines = run.metrics
    found = events(run.folder)
    assert [step for step, _ in found] == [record["epoch"] for record in lines] == [1, 2, 2]
    for (_, values), record in zip(found, lines, strict=True):
        split = record["split"]
        for name, loss in record["losses"].items():
            assert values[f"loss/{name}/{split}"] == pytest.approx(loss)
        for name, value in record.get("metrics", {}).items():
            assert values[f"{name}/{split}"] == pytest.approx(value)
    assert found[0][1]["lr"] == pytest.approx(lines[0]["lr"])
    off = r2d2c.train(TWO, out=tmp_path / "off", tensorboard=False, **QUICK)
    assert not list(off.folder.glob("*tfevents*"))


class Stop:
    """Stops in the second epoch."""

    def on_step(self, step: Any) -> None:
        if step.epoch == 1:
            raise RuntimeError("stopped")


def test_a_run_that_goes_on_has_each_epoch_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        r2d2c.train(TWO, out=tmp_path / "run", callbacks=[Stop()], **QUICK)
    assert [step for step, _ in events(tmp_path / "run")] == [1]
    r2d2c.train(resume=tmp_path / "run", threads=1)
    whole = r2d2c.train(TWO, out=tmp_path / "whole", **QUICK)
    again = [
        (step, {k: v for k, v in values.items() if "second" not in k})
        for step, values in events(tmp_path / "run")
    ]
    once = [
        (step, {k: v for k, v in values.items() if "second" not in k})
        for step, values in events(whole.folder)
    ]
    assert again == once


def test_numbers_of_a_line() -> None:
    record = {
        "epoch": 3,
        "split": "train",
        "loss": 1.5,
        "losses": {"a": 1, "b": 0.5},
        "ops": {"a.g": 7},
        "lr": {"a": 0.1, "b": 0.2},
        "rate": None,
        "spread": {"a.r": 0.4},
    }
    assert scalars(record) == {
        "loss/train": 1.5,
        "loss/a/train": 1.0,
        "loss/b/train": 0.5,
        "ops/a.g": 7.0,
        "spread/a.r": 0.4,
        "lr/a": 0.1,
        "lr/b": 0.2,
    }
    assert scalars({"split": "test", "loss": 2.0, "losses": {"a": 2.0}}) == {"loss/test": 2.0}


class Wandb(types.ModuleType):
    """`wandb.init(...)` gives a run with `log` and `finish`; the keywords are those of the package."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.fail_at = fail_at

    def init(
        self,
        *,
        project: str | None = None,
        name: str | None = None,
        id: str | None = None,
        resume: str | None = None,
        dir: str | None = None,
        config: dict[str, Any] | None = None,
        reinit: str | None = None,
    ) -> Any:
        made: dict[str, Any] = {"project": project, "name": name, "id": id, "resume": resume, "dir": dir}
        made |= {"config": config, "rows": [], "exit": None}
        self.runs.append(made)
        outer = self

        class Run:
            def log(self, data: dict[str, Any], step: int | None = None) -> None:
                if outer.fail_at is not None and len(made["rows"]) >= outer.fail_at:
                    raise ConnectionError("no network")
                made["rows"].append((step, data))

            def finish(self, exit_code: int | None = None) -> None:
                made["exit"] = exit_code

        return Run()


class Mlflow(types.ModuleType):
    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, dict[str, Any]] = {}
        self.active: list[str] = []
        self.experiment = ""

    def set_experiment(self, name: str) -> None:
        self.experiment = name

    def active_run(self) -> Any:
        return self.active[-1] if self.active else None

    def start_run(self, run_id: str | None = None, run_name: str | None = None, nested: bool = False) -> Any:
        assert nested == bool(self.active)
        key = run_id or f"id{len(self.runs)}"
        self.runs.setdefault(key, {"name": run_name, "rows": [], "params": {}, "files": [], "status": None})
        self.active.append(key)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=key))

    def log_params(self, params: dict[str, Any]) -> None:
        self.runs[self.active[-1]]["params"] |= params

    def log_text(self, text: str, artifact_file: str) -> None:
        self.runs[self.active[-1]]["files"].append(artifact_file)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.runs[self.active[-1]]["rows"].append((step, metrics))

    def log_artifact(self, local_path: str) -> None:
        self.runs[self.active[-1]]["files"].append(Path(local_path).name)

    def end_run(self, status: str = "FINISHED") -> None:
        self.runs[self.active.pop()]["status"] = status


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wandb]:
    stand_in = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    yield stand_in


def test_wandb(tmp_path: Path, wandb: Wandb) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        r2d2c.train(TWO, out=tmp_path / "run", callbacks=[Stop()], log=["wandb"], **QUICK)
    assert wandb.runs[0]["exit"] == 1
    r2d2c.train(resume=tmp_path / "run", log=["wandb"], threads=1)
    first, second = wandb.runs
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["resume"]) == ("two_tasks", "run", "allow")
    assert first["config"]["epochs"] == 2
    assert first["config"]["spec"] == (tmp_path / "run" / "spec.yaml").read_text()
    assert [step for step, _ in first["rows"] + second["rows"]] == [1, 2, 2]
    assert set(second["rows"][1][1]) >= {"loss/encode/test", "loss/classify/test"}
    assert second["exit"] == 0


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    with pytest.raises(RuntimeError, match="stopped"):
        r2d2c.train(TWO, out=tmp_path / "run", callbacks=[Stop()], log=["mlflow"], **QUICK)
    assert stand_in.runs["id0"]["status"] == "KILLED"
    r2d2c.train(resume=tmp_path / "run", log=["mlflow"], threads=1)
    (run,) = stand_in.runs.values()
    assert stand_in.experiment == "two_tasks"
    assert run["name"] == "run"
    assert [step for step, _ in run["rows"]] == [1, 2, 2]
    assert run["params"]["batch_size"] > 0
    assert run["status"] == "FINISHED"
    assert run["files"] == ["spec.yaml", "curves.png"]
    names = {name for _, row in run["rows"] for name in row}
    assert "accuracy_logits_y/test" in {_name(name) for name in names} == names


def test_a_library_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(CompileError) as caught:
        r2d2c.train(TWO, out=tmp_path / "run", log=["wandb"], **QUICK)
    (found,) = caught.value.diagnostics
    assert found.code == "E622"
    assert found.message.startswith("--log wandb needs the library wandb")
    assert found.fix is not None and "wandb" in found.fix.text
    assert not (tmp_path / "run").exists()
    with pytest.raises(CompileError) as caught:
        r2d2c.train(TWO, out=tmp_path / "run", log=["wadnb"], **QUICK)
    (found,) = caught.value.diagnostics
    assert (found.code, found.fix and found.fix.text) == ("E623", "write --log wandb")


def test_a_service_that_fails_does_not_stop_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Wandb(fail_at=1))
    told: list[Any] = []

    class Listen:
        def on_warning(self, diagnostic: Any) -> None:
            told.append(diagnostic)

    run = r2d2c.train(TWO, out=tmp_path / "run", log=["wandb"], callbacks=[Listen()], **QUICK)
    assert run.test is not None
    (found,) = [one for one in told if one.code == "W625"]
    assert found.message == "the log wandb stopped: ConnectionError: no network"


def test_a_plug_in_brings_one(tmp_path: Path) -> None:
    rows: list[Any] = []

    class Mine:
        def write(self, records: Any) -> None:
            rows.extend(records)

        def close(self, finished: bool) -> None:
            rows.append(finished)

    def open_mine(beginning: Beginning) -> Mine:
        rows.append(beginning.settings["optimizer"])
        return Mine()

    record = SinkRecord("mine", "a list", open_mine)
    plugin = types.SimpleNamespace(SINKS=(record,))
    run = r2d2c.train(TWO, out=tmp_path / "run", log=["mine"], plugins=[plugin], **QUICK)
    assert rows[1:-1] == run.metrics
    assert rows[-1] is True
    assert {one.name for one in SINKS} == {"tensorboard", "wandb", "mlflow"}
