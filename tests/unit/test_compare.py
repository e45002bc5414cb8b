"""`r2d2c.compare`: the list of rules, the same start for all, what is written, refusals and going on."""

from __future__ import annotations

import csv
import json
import signal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.cli.compare_progress import PlainBoard
from r2d2c.diagnostics import CompileError
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.compare import compare, split_credits
from r2d2c.train.compare_board import Board, History, Row, Stat
from r2d2c.train.compare_plan import Competitor, Plan, competitors
from r2d2c.train.compare_report import markdown, spread
from r2d2c.train.interrupt import Interrupted

SPEC = """\
r2d2c: 1
model: chain
dims: {D: 64, H: 16, C: 10}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  t1:
    behavior: h = x |> linear(H) |> tanh
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
  t2:
    behavior: logits = linear(t1.h, C)
    distance: cross_entropy(logits, y)
links:
  t1.h -> t2: {credit: local, feed: t1.r}
outputs:
  logits: t2.logits
train:
  data: digits
  epochs: 2
  optimizer: adam(lr=2e-3)
  split: 0.2
  metrics:
    - accuracy(logits, y)
"""
ACCURACY = "accuracy(logits, y)"
FILES = {"compare.json", "spec.yaml", "table.csv", "table.md", "angles.csv", "curves.svg", "curves.png"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(SPEC)
    return path


def test_commas_in_brackets_belong_to_the_rule() -> None:
    assert split_credits("backprop,target(step=0.3, noise=0.1),direct") == [
        "backprop", "target(step=0.3, noise=0.1)", "direct",
    ]  # fmt: skip
    assert split_credits(" a( b(1,2), [3,4] ) , c ") == ["a( b(1,2), [3,4] )", "c"]
    assert split_credits('a("x,y(",z),b') == ['a("x,y(",z)', "b"]
    assert split_credits(["a,b", "c", "a"]) == ["a", "b", "c"]
    # What is never closed is for the parser to point out.
    assert split_credits("a,b(1,c") == ["a", "b(1,c"]
    for text in ("", "a,,b", "a,", ",a", " , "):
        with pytest.raises(CompileError) as caught:
            split_credits(text)
        assert [d.code for d in caught.value.diagnostics] == ["E412"]


def test_folders_of_rules_are_names_and_differ() -> None:
    found = competitors(["spec", "target(step=0.3, noise=0.1)", "a(b=1)", "a(b-1)", "A_b_1", "…"])
    assert [c.folder for c in found] == [
        "spec", "target_step_0.3_noise_0.1", "a_b_1", "a_b_1-2", "A_b_1-3", "rule",
    ]  # fmt: skip
    assert [c.credit for c in found][:2] == [None, "target(step=0.3, noise=0.1)"]
    assert len(Competitor.of("x(" + "y" * 200 + ")").folder) <= 48


def test_means_and_deviations() -> None:
    assert Stat.of([]) is None and Stat.of([None]) is None
    assert Stat.of([2.0, None]) == Stat(2.0, None, (2.0,))
    found = Stat.of([1.0, 3.0])
    assert found is not None and found.mean == 2 and found.std == pytest.approx(2**0.5)
    assert spread(found) == "2.0000 ± 1.4142" and spread(None) == "–"
    assert Stat.of([1.0, float("nan")]).std is None  # type: ignore[union-attr]


def test_the_same_start_order_and_noise_for_every_rule(spec: Path, tmp_path: Path) -> None:
    seen: dict[str, list[Any]] = {}

    class Watch:
        def on_run(self, board: Board, row: Row) -> None:
            self.row = row

        def on_ready(self, trainer: Any) -> None:
            model = trainer.model
            batches = [batch["y"] for batch in trainer.loader.epoch(0)]
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            seen.setdefault(str(trainer.settings.seed), []).append((state, batches))

    import r2d2c.train.api as api

    watch, train = Watch(), api.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "train", lambda *a, callbacks, **k: train(*a, callbacks=[*callbacks, watch], **k))
        compare(spec, "backprop,spec,feedback", seeds=2, out=tmp_path / "out", callbacks=[watch])
    assert seen.keys() == {"0", "1"}
    for runs in seen.values():
        assert len(runs) == 3
        state, batches = runs[0]
        for other, others in runs[1:]:
            assert all(torch.equal(state[name], other[name]) for name in state)
            assert all(map(torch.equal, batches, others))
    assert not torch.equal(seen["0"][0][1][0], seen["1"][0][1][0])


def test_what_is_written(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = r2d2c.compare(spec, ["backprop", "spec", "feedback(variant=sign)"], seeds=(0, 7), out=out)
    folders = {"backprop", "spec", "feedback_variant_sign"}
    assert {entry.name for entry in out.iterdir()} == FILES | folders
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["rule"] for row in rows] == ["backprop", "spec", "feedback(variant=sign)"]
    for row in rows:
        tests = [found.run(row["rule"], seed).test["metrics"][ACCURACY] for seed in (0, 7)]  # type: ignore[index]
        assert float(row[f"test {ACCURACY} mean"]) == pytest.approx(sum(tests) / 2)
        assert float(row[f"test {ACCURACY} std"]) == pytest.approx(abs(tests[0] - tests[1]) / 2**0.5)
        assert row["state"] == "done" and row["seeds"] == "2" and float(row["loss mean"]) > 0
    assert [row["parameters_added"] for row in rows] == ["0", "0", "160"]
    assert [row["of_these_trained"] for row in rows] == ["0", "0", "0"]
    assert float(rows[0]["angle mean"]) == 0 and float(rows[1]["angle mean"]) > 1
    angles = list(csv.DictReader((out / "angles.csv").open()))
    assert {row["epoch"] for row in angles} == {"0", "1", "2"}
    assert {row["task"] for row in angles} == {"all", "t1", "t2"}
    last = [float(r["degrees"]) for r in angles if (r["rule"], r["epoch"], r["task"]) == ("spec", "2", "all")]
    assert float(rows[1]["angle mean"]) == pytest.approx(sum(last) / 2)
    # The loss is that of the tasks that backprop has, not what the spec's own rule adds to it.
    record = found.board.rows[1].runs[0].record()
    assert record is not None and record["losses"].keys() == {"t1", "t2"}
    assert found.board.rows[1].loss(record) == record["losses"]["t2"]
    text = (out / "table.md").read_text()
    assert "| `feedback(variant=sign)` | 0." in text and "160 fixed" in text
    assert "digits, 2 epochs, seeds 0, 7. Mean ± standard deviation over the seeds." in text
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawn = (out / "curves.svg").read_text()
    assert "#ff7f0e" in drawn  # feedback's colour
    json.dumps(found.table)
    # Every run is an ordinary one, with its own credit in it.
    assert r2d2c.evaluate(out / "feedback_variant_sign" / "seed-7")["metrics"].keys() == {ACCURACY}
    assert (
        "credit: feedback(variant=sign)"
        in (out / "feedback_variant_sign" / "seed-7" / "spec.yaml").read_text()
    )
    assert "feed: t1.r" in (out / "spec" / "seed-0" / "spec.yaml").read_text()


def test_a_run_is_that_of_train(spec: Path, tmp_path: Path) -> None:
    compare(spec, "feedback", seeds=(3,), out=tmp_path / "out", settings=["train.batch_size=64"])
    r2d2c.train(spec, credit="feedback", seed=3, out=tmp_path / "run", settings=["train.batch_size=64"])
    one, two = (
        load_checkpoint(run / "checkpoints" / "last.safetensors")
        for run in (tmp_path / "out" / "feedback" / "seed-3", tmp_path / "run")
    )
    assert one.model.keys() == two.model.keys()
    assert all(torch.equal(tensor, two.model[name]) for name, tensor in one.model.items())


def test_rules_that_cannot_apply(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(CompileError) as caught:
        compare(spec, "backprop,dirct,feedback(varant=sign)", out=out)
    assert [d.code for d in caught.value.diagnostics] == ["E430", "E431"]
    assert [d.notes[-1] for d in caught.value.diagnostics] == [
        "so `dirct` cannot be compared here",
        "so `feedback(varant=sign)` cannot be compared here",
    ]
    assert not out.exists()
    found = compare(spec, "backprop,dirct", seeds=1, out=out, skip_refused=True)
    assert [row["state"] for row in found.table] == ["done", "refused"]
    assert found.table[1]["why"][0].endswith("there is no credit rule `dirct`")
    text = (out / "table.md").read_text()
    assert "refused: E430" in text and "- `dirct` was refused: E430, there is no credit rule" in text
    with pytest.raises(CompileError) as caught:
        compare(spec, "dirct", out=tmp_path / "none", skip_refused=True)
    assert [d.code for d in caught.value.diagnostics] == ["E430"]


def test_a_mistake_of_the_spec_is_said_once(spec: Path, tmp_path: Path) -> None:
    spec.write_text(SPEC.replace("t1.h, C", "t1.g, C"))
    with pytest.raises(CompileError) as caught:
        compare(spec, "backprop,direct", out=tmp_path / "out")
    assert [d.code for d in caught.value.diagnostics] == ["E201"]
    assert "cannot be compared" not in str(caught.value)
    spec.write_text(SPEC.replace("adam(lr=2e-3)", "adm"))
    with pytest.raises(CompileError) as caught:
        compare(spec, "backprop,direct", out=tmp_path / "out")
    assert [d.code for d in caught.value.diagnostics] == ["E530"]
    assert not (tmp_path / "out").exists()


def test_folders_that_are_taken_or_none(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare(spec, "backprop", seeds=1, out=out, limit_batches=1, epochs=1)
    with pytest.raises(CompileError, match="--resume"):
        compare(spec, "backprop", out=out)
    with pytest.raises(CompileError) as caught:
        compare(resume=tmp_path)
    assert [d.code for d in caught.value.diagnostics] == ["E523"]
    with pytest.raises(CompileError) as caught:
        compare(resume=out, epochs=3)
    assert [d.code for d in caught.value.diagnostics] == ["E548"]
    (out / "compare.json").write_text("{}")
    with pytest.raises(CompileError) as caught:
        compare(resume=out)
    assert [d.code for d in caught.value.diagnostics] == ["E523"]
    with pytest.raises(CompileError) as caught:
        compare(spec, "backprop", data="csv:nowhere.csv", out=tmp_path / "gone")
    assert not (tmp_path / "gone").exists()  # nothing was kept in it


def test_a_rule_that_diverges_is_noted(spec: Path, tmp_path: Path) -> None:
    spec.write_text(
        SPEC.replace("adam(lr=2e-3)", "sgd(lr=1e30)").replace(
            "h = x |> linear(H) |> tanh", "h = linear(x, H)"
        )
    )
    told: list[str] = []

    class Watch:
        def on_state(self, board: Board, row: Row) -> None:
            told.append(f"{row.label} {row.state}")

    found = compare(spec, "backprop,spec", seeds=2, out=tmp_path / "out", callbacks=[Watch()])
    assert told == ["backprop diverged", "spec diverged"]
    assert [row["state"] for row in found.table] == ["diverged", "diverged"]
    assert "diverged with seed 0" in markdown(found.board) and "E536" in markdown(found.board)
    assert (tmp_path / "out" / "table.csv").exists()


def test_interrupted_and_resumed(spec: Path, tmp_path: Path) -> None:
    whole = compare(spec, "backprop,feedback", seeds=2, out=tmp_path / "whole")

    class Interrupt:
        def on_epoch(self, board: Board, row: Row, info: Any) -> None:
            if (row.label, row.seed, info.epoch) == ("feedback", 0, 1):
                signal.raise_signal(signal.SIGINT)

    cut = tmp_path / "cut"
    with pytest.raises(Interrupted, match="--resume"):
        compare(spec, "backprop,feedback", seeds=2, out=cut, callbacks=[Interrupt()])
    rows = list(csv.DictReader((cut / "table.csv").open()))
    assert [row["state"] for row in rows] == ["waiting", "stopped"]
    assert [row["seeds"] for row in rows] == ["1", "0"]
    assert "1 of 2 seeds" in (cut / "table.md").read_text() and (cut / "curves.png").exists()
    spec.unlink()  # the folder has all that is needed
    before = (cut / "backprop" / "seed-0" / "metrics.jsonl").read_bytes()
    trained: list[tuple[str, Any]] = []

    class Watch:
        def on_run(self, board: Board, row: Row) -> None:
            trained.append((row.label, row.seed))

    found = compare(resume=cut, callbacks=[Watch()])
    assert trained == [("feedback", 0), ("backprop", 1), ("feedback", 1)]
    assert (cut / "backprop" / "seed-0" / "metrics.jsonl").read_bytes() == before
    for mine, others in zip(found.table, whole.table, strict=True):
        assert {**mine, "seconds": 0} == {**others, "seconds": 0}
    assert (cut / "angles.csv").read_text() == (tmp_path / "whole" / "angles.csv").read_text()
    # Once more, and there is nothing to do.
    trained.clear()
    assert compare(resume=cut, callbacks=[Watch()]).table == found.table and not trained


def test_a_signal_between_two_trainings_waits_for_the_next(spec: Path, tmp_path: Path) -> None:
    class Interrupt:
        def on_run(self, board: Board, row: Row) -> None:
            if row.label == "feedback":
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        compare(spec, "backprop,feedback", seeds=1, out=tmp_path / "out", callbacks=[Interrupt()])
    plan = Plan.read(tmp_path / "out")
    assert [c.label for c in plan.competitors] == ["backprop", "feedback"]
    run = r2d2c.open_run(tmp_path / "out" / "feedback" / "seed-0")
    assert run.metrics == [] and run.files.has("last")
    assert [row["state"] for row in compare(resume=tmp_path / "out").table] == ["done", "done"]


def test_a_rule_that_stops_early_is_told(spec: Path, tmp_path: Path) -> None:
    """On a validation split, nothing gets better without steps."""
    settings, stream = ["train.early_stop=2", "train.optimizer=sgd(lr=0.0)"], StringIO()
    out = tmp_path / "out"
    options: dict[str, Any] = {"seeds": 1, "epochs": 9, "limit_batches": 1, "angles": False}
    compare(spec, "backprop", out=out, settings=settings, callbacks=[PlainBoard(stream)], **options)
    lines = [line for line in stream.getvalue().splitlines() if " epoch " in line]
    assert len(lines) == 3 and [line.endswith("  stopped early") for line in lines] == [False, False, True]


def test_data_from_python_has_to_be_given_again(spec: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 64, generator=generator)
    batches = [{"x": x[k : k + 20], "y": torch.arange(20) % 10} for k in (0, 20)]
    spec.write_text(SPEC.replace("  split: 0.2\n", ""))
    found = compare(spec, "backprop,feedback", seeds=1, data=batches, out=tmp_path / "out")
    assert found.board.splits == ["train"]
    with pytest.raises(CompileError) as caught:
        compare(resume=tmp_path / "out")
    assert [d.code for d in caught.value.diagnostics] == ["E545"]
    assert compare(resume=tmp_path / "out", data=batches).table == found.table


def test_a_history_takes_test_s_epoch() -> None:
    run = History(best=2)
    for epoch, value in ((1, 0.5), (2, 0.9), (3, 0.7)):
        run.add({"epoch": epoch, "split": "validation", "losses": {"t": 1.0}, "metrics": {"m": value}})
    run.add({"epoch": 3, "split": "test", "losses": {}, "metrics": {"m": 0.8}})
    row = Row("a", weights={"t": 2.0}, runs={0: run})
    assert row.metric("validation", "m") == Stat(0.9, None, (0.9,))
    assert row.metric("test", "m") == Stat(0.8, None, (0.8,))
    assert row.final_loss() == Stat(2.0, None, (2.0,))
    assert Row("a", weights=None, runs={0: run}).final_loss() is None
    assert Row("a", weights={"u": 1.0}, runs={0: run}).final_loss() is None
