"""Sweeps: what `--over` says, settings and trials, means and intervals, sweeps that go on, pruning, several processes."""

from __future__ import annotations

import csv
import os
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.sweep import Sweep, sweep
from r2d2c.train.sweep_board import Board, Interval, Outcome, Setting, student_t
from r2d2c.train.sweep_space import Choices, Range, read_space, settings_of
from r2d2c.train.sweep_study import Asked, Store, claimed
from tests.unit.sweep_specs import OVER, told, write_sums

LABEL = "accuracy(logits, y)"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Sweep:
    """A grid in one go, in this process."""
    return sweep(folder / "sums.yaml", OVER, seeds=2, out=folder / "whole", threads=1)


def read(*texts: str) -> Any:
    sink = Sink()
    space = read_space(texts, sink)
    assert space is not None, sink.diagnostics
    return space


def refused(*texts: str) -> list[str]:
    sink = Sink()
    assert read_space(texts, sink) is None
    return [f"{d.code} {d.message}" for d in sink.diagnostics]


# -- what `--over` says
def test_values_are_cut_at_commas_that_nothing_surrounds() -> None:
    space = read("credit=backprop,target(step=0.3, noise=0.1),spec", "train.metrics=[a(x, y)],['b, c']")
    assert space.holes() == {
        "credit": Choices(("backprop", "target(step=0.3, noise=0.1)", "spec")),
        "train.metrics": Choices(("[a(x, y)]", "['b, c']")),
    }


def test_ranges() -> None:
    holes = read(
        "a=1..4", "b=1e-4..1e-1:log", "c=0.1..0.5:0.2", "d=16..256:16", 'e="1..4"', "f=1..9:log"
    ).holes()
    assert holes["a"] == Range(1, 4, True) and holes["a"].points() == ("1", "2", "3", "4")
    assert holes["b"] == Range(1e-4, 1e-1, False, log=True) and holes["b"].points() is None
    assert holes["c"].points() == ("0.1", "0.3", "0.5")
    assert holes["d"].points()[-1] == "256" and len(holes["d"].points()) == 16
    assert holes["e"] == Choices(('"1..4"',)), "a text in quotes is a value"
    assert holes["f"] == Range(1, 9, True, log=True) and holes["f"].points() is None


def test_holes_in_a_text() -> None:
    space = read("train.optimizer=adam(lr={0.1,0.01}, beta1={0.5..0.9:0.4})")
    assert list(space.holes()) == ["train.optimizer#1", "train.optimizer#2"]
    grid = [space.values(drawn)["train.optimizer"] for drawn in space.grid()]
    assert grid == [f"adam(lr={lr}, beta1={b})" for lr in ("0.1", "0.01") for b in ("0.5", "0.9")]
    maps = read("train.rates={a: 1, b: 2},{a: 3}").holes()
    assert maps["train.rates"] == Choices(("{a: 1, b: 2}", "{a: 3}")), "a map is no hole"


def test_what_a_setting_changes() -> None:
    assert settings_of({"credit": "direct", "dims.H": "4"}) == ("dims.H=4", "--credit direct")
    assert settings_of({"credit": "spec", "dims.H": "4"}) == ("dims.H=4",)


def test_python_values_are_what_the_command_line_says() -> None:
    sink = Sink()
    given = {"dims.H": [2, 3], "train.split": 0.5, "train.sizes.n": ["1..4"], "credit": "backprop,direct"}
    space = read_space(given, sink)
    assert space is not None and not sink.diagnostics
    assert [axis.text for axis in space.axes] == [
        "dims.H=2,3",
        "train.split=0.5",
        'train.sizes.n="1..4"',
        "credit=backprop,direct",
    ]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("dims.H",), "expected `KEY=VALUES`"),
        (("dims.H=",), "expected `KEY=VALUES`"),
        (("dims.H=1,,2",), "missing between two commas"),
        (("dims.H=1,2,1",), "`1` is there twice"),
        (("dims.H=4..2",), "end is not above its beginning"),
        (("dims.H=0..2:log",), "must begin above 0"),
        (("dims.H=0..2:0",), "step that is not above 0"),
        (("dims.H=1,2", "dims.H=3"), "swept twice"),
        (("train.seed=1,2",), "seeds of its own"),
        ((), "nothing says what"),
    ],
)
def test_mistakes_of_over(texts: tuple[str, ...], said: str) -> None:
    (message,) = refused(*texts)
    assert message.startswith("E640") and said in message


@pytest.mark.parametrize(
    ("texts", "said"),
    [(("train.split=0.1..0.2",), "any number of a range"), (("a=1..200", "b=1..200"), "more than 10,000")],
)
def test_a_grid_that_cannot_be_tried(folder: Path, texts: tuple[str, ...], said: str) -> None:
    with pytest.raises(CompileError) as caught:
        sweep(folder / "sums.yaml", texts, out=folder / "never")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E641" and said in diagnostic.message
    assert not (folder / "never").exists()


# -- numbers
@pytest.mark.parametrize("share", [0.9, 0.975, 0.995])
def test_the_quantiles_of_students_t(share: float) -> None:
    for freedom in (1, 2, 3, 4, 7, 19, 99, 1000):
        assert student_t(share, freedom) == pytest.approx(scipy.stats.t.ppf(share, freedom), rel=1e-10)


def test_the_interval_is_scipys() -> None:
    values = [0.91, 0.87, 0.93, 0.9, 0.95]
    found = Interval.of([*values, None])
    assert found is not None and found.half is not None
    low, high = scipy.stats.t.interval(
        0.95, len(values) - 1, loc=statistics.fmean(values), scale=scipy.stats.sem(values)
    )
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-10)
    assert Interval.of([]) is None and Interval.of([0.5]) == Interval(0.5, None, (0.5,))


def test_what_comes_after_a_bad_seed_does_not_count() -> None:
    """Of several processes one may have ended a later seed already; the table is that of one process."""
    seeds = {2: Outcome("done", 0.9), 0: Outcome("done", 0.5), 1: Outcome("failed", reasons=("E536: x",))}
    setting = Setting(0, {"dims.H": "2"}, "failed", seeds)
    assert setting.bad() == (1, seeds[1]) and setting.done == [seeds[0]]
    assert setting.value() == Interval(0.5, None, (0.5,))


# -- sweeps
def test_every_training_is_one_of_train(folder: Path, whole: Sweep, tmp_path: Path) -> None:
    assert len(whole.rows) == 4 and {row["state"] for row in whole.rows} == {"done"}
    for row in whole.rows:
        credit, width = row["values"]["credit"], row["values"]["dims.H"]
        runs = [
            r2d2c.train(
                folder / "sums.yaml",
                seed=seed,
                settings=[f"dims.H={width}"],
                credit=credit,
                threads=1,
                out=tmp_path / f"{row['setting']}-{seed}",
            )
            for seed in (0, 1)
        ]
        best = []
        for seed, run in enumerate(runs):
            mine = whole.run(row["setting"], seed)
            for name, tensor in run.model.state_dict().items():
                assert torch.equal(tensor, mine.model.state_dict()[name])
            best.append(max(r["metrics"][LABEL] for r in run.metrics if r["split"] == "validation"))
        assert row["value"]["values"] == best and row["value"]["mean"] == pytest.approx(sum(best) / 2)
        tests = [run.test["metrics"][LABEL] for run in runs if run.test is not None]
        assert row["test"][LABEL]["values"] == tests
        half = row["value"]["high"] - row["value"]["mean"]
        assert half == pytest.approx(scipy.stats.t.ppf(0.975, 1) * statistics.stdev(best) / 2**0.5)


def test_the_best_is_first(whole: Sweep) -> None:
    means = [row["value"]["mean"] for row in whole.rows]
    assert means == sorted(means, reverse=True) and whole.board.better == "higher"
    assert whole.best is not None and whole.best.number == whole.rows[0]["setting"]


def test_the_files(whole: Sweep, tmp_path: Path) -> None:
    with (whole.folder / "table.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [int(line["setting"]) for line in lines] == [row["setting"] for row in whole.rows]
    assert float(lines[0][f"validation {LABEL} mean"]) == whole.rows[0]["value"]["mean"]
    epochs = [int(o.epoch) for o in whole.board.settings[whole.rows[0]["setting"]].done]
    assert float(lines[0]["epoch mean"]) == statistics.fmean(epochs) and set(epochs) <= {1, 2}
    assert float(lines[0][f"test {LABEL} high"]) == whole.rows[0]["test"][LABEL]["high"]
    text = (whole.folder / "table.md").read_text()
    assert text.count("\n| ") == 6 and "| `local` | `5` |" in text
    assert (whole.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    whole.to_csv(tmp_path / "copy.csv")
    assert (tmp_path / "copy.csv").read_bytes() == (whole.folder / "table.csv").read_bytes()


class Stopping:
    """Stops a sweep as Ctrl-C does, after some epochs."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_epoch(self, board: Board, setting: Setting, seed: int, epoch: int, value: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_sweep_that_was_stopped_goes_on_to_the_same_end(folder: Path, whole: Sweep) -> None:
    """With several processes: see tests/e2e/test_cli_sweep.py."""
    common: dict[str, Any] = {"seeds": 2, "out": folder / "stopped", "threads": 1}
    with pytest.raises(Interrupted) as caught:
        sweep(folder / "sums.yaml", OVER, callbacks=[Stopping(5)], **common)
    assert caught.value.run == folder / "stopped"
    heard: list[int] = []

    class Hearing:
        def on_training(self, board: Board, setting: Setting, seed: int, outcome: Outcome) -> None:
            heard.append(setting.number)

    found = sweep(folder / "sums.yaml", OVER, callbacks=[Hearing()], **common)
    assert told(found) == told(whole) and 0 < len(heard) < 8
    again = sweep(folder / "sums.yaml", OVER, callbacks=[Hearing()], **common)
    assert told(again) == told(whole) and len(heard) < 8, "nothing is left to be trained"


def test_a_loss_that_is_no_number_is_listed(folder: Path) -> None:
    over = {"train.optimizer": "sgd(lr={0.1,1e38})"}
    found = sweep(folder / "sums.yaml", over, seeds=2, out=folder / "failed")
    good, bad = found.rows
    assert (good["state"], bad["state"]) == ("done", "failed")
    assert bad["values"] == {"train.optimizer": "sgd(lr=1e38)"} and bad["value"] is None
    assert "E536" in bad["why"][0]
    text = (found.folder / "table.md").read_text()
    assert "failed with seed 0: E536" in text and "failed" in (found.folder / "table.csv").read_text()
    assert found.best is not None and found.best.number == good["setting"]


def test_settings_that_the_spec_cannot_have(folder: Path) -> None:
    over = {"dims.H": ["3", "no_number"]}
    with pytest.raises(CompileError) as caught:
        sweep(folder / "sums.yaml", over, out=folder / "refused")
    assert any(
        "so `dims.H=no_number` cannot be trained" in note
        for d in caught.value.diagnostics
        for note in d.notes
    )
    assert not (folder / "refused").exists()
    found = sweep(folder / "sums.yaml", over, seeds=1, out=folder / "refused", skip_refused=True)
    assert [row["state"] for row in found.rows] == ["done", "refused"]
    assert found.rows[1]["why"][0].startswith("E")


def test_what_is_drawn_goes_on_and_grows(folder: Path) -> None:
    over = ["train.optimizer=sgd(lr={1e-3..1:log})", "dims.H=2..9"]
    common: dict[str, Any] = {"seeds": 1, "epochs": 1, "sampler": "tpe"}
    whole = sweep(folder / "sums.yaml", over, trials=11, out=folder / "tpe", **common)
    sweep(folder / "sums.yaml", over, trials=5, out=folder / "tpe-2", **common)
    found = sweep(folder / "sums.yaml", over, trials=11, out=folder / "tpe-2", **common)
    assert len(found.rows) == 11 and told(found) == told(whole)
    rates = [float(row["values"]["train.optimizer"][7:-1]) for row in found.rows]
    assert len(set(rates)) == 11 and all(1e-3 <= rate <= 1 for rate in rates)
    assert {int(row["values"]["dims.H"]) for row in found.rows} <= set(range(2, 10))
    for row in found.rows:  # what the table says is what was trained
        spec = found.run(row["setting"], 0).spec
        assert spec.graph.dims["H"] == int(row["values"]["dims.H"])
        assert f"sgd(lr={row['values']['train.optimizer'][7:-1]})" in spec.spec.source.text


def test_pruning_gives_up_what_falls_behind(folder: Path) -> None:
    over = {"train.optimizer": [f"sgd(lr={rate})" for rate in (0.3, 0.2, 0.25, 1e-7)]}
    common: dict[str, Any] = {"seeds": 2, "epochs": 3, "settings": ["train.monitor=loss"]}
    found = sweep(folder / "sums.yaml", over, prune="median", out=folder / "pruned", **common)
    (bad,) = [row for row in found.rows if row["state"] == "pruned"]
    assert bad["values"]["train.optimizer"] == "sgd(lr=1e-07)" and found.rows[-1] is not bad["values"]
    run = found.run(bad["setting"], 0)
    assert 1 <= len(run.metrics) < 6 and not any(run.files.checkpoints.iterdir())
    assert not (found.folder / "trials" / str(bad["setting"]) / "seed-1").exists()


def test_another_sweep_in_the_folder(folder: Path, whole: Sweep) -> None:
    changed: list[tuple[Any, dict[str, Any], str]] = [
        ({**OVER, "dims.H": [2, 6]}, {}, "--over"),
        (OVER, {"seeds": 3}, "list of seeds"),
        (OVER, {"epochs": 3}, "spec"),
        (OVER, {"prune": "median"}, "pruning"),
    ]
    for over, more, said in changed:
        with pytest.raises(CompileError) as caught:
            sweep(folder / "sums.yaml", over, **{"seeds": 2, "out": whole.folder, **more})
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.code == "E642" and f"has another {said}" in diagnostic.message
        assert said != "--over" or diagnostic.notes == (
            "--over: credit=backprop,local dims.H=2,5, now credit=backprop,local dims.H=2,6",
        )
    asked = Asked("sums", "", read("dims.H=1,2"), (0,))
    with claimed(folder, asked), pytest.raises(CompileError) as caught, claimed(folder, asked):
        pass
    assert caught.value.diagnostics[0].code == "E642" and "in use" in caught.value.diagnostics[0].message
    (folder / "sweep.json").unlink()


def test_a_folder_with_other_things_in_it(folder: Path) -> None:
    with pytest.raises(CompileError) as caught:
        sweep(folder / "sums.yaml", OVER, out=folder)
    assert caught.value.diagnostics[0].code == "E522"


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://nobody@127.0.0.1/none", "sqlite:////no/such/folder/x.db"]
)
def test_a_database_that_cannot_be_used(folder: Path, tmp_path: Path, url: str) -> None:
    with pytest.raises(CompileError) as caught:
        sweep(folder / "sums.yaml", OVER, storage=url, out=tmp_path / "out")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E643" and diagnostic.notes


def test_two_machines_share_one_sweep(folder: Path, whole: Sweep, tmp_path: Path) -> None:
    """Each takes what the other has not taken, and both have the whole table."""
    url = f"sqlite:///{tmp_path}/shared.db"
    common: dict[str, Any] = {"seeds": 2, "threads": 1}
    with pytest.raises(Interrupted):
        sweep(
            folder / "sums.yaml", OVER, storage=url, out=tmp_path / "one", callbacks=[Stopping(6)], **common
        )
    other = sweep(folder / "sums.yaml", OVER, storage=url, out=tmp_path / "other", **common)
    states = [row["state"] for row in other.rows]
    assert states.count("elsewhere") == 1 and states.count("done") == 3
    one = sweep(folder / "sums.yaml", OVER, storage=url, out=tmp_path / "one", **common)
    assert told(one) == told(whole)
    mine = {path.name for path in (tmp_path / "one" / "trials").iterdir()}
    theirs = {path.name for path in (tmp_path / "other" / "trials").iterdir()}
    assert mine | theirs == {"0", "1", "2", "3"} and not mine & theirs


def test_a_trial_is_given_out_once(tmp_path: Path) -> None:
    asked, url = Asked("sums", "", read("dims.H=1,2"), (0,)), f"sqlite:///{tmp_path}/shared.db"
    one, other = (Store(tmp_path, asked, name, "lower", url) for name in ("one", "other"))
    one.add_grid()
    other.add_grid()
    assert [s.values for s in other.settings().values()] == [{"dims.H": "1"}, {"dims.H": "2"}]
    assert one.claim(0) is not None and other.claim(0) is None and other.claim(1) is not None
    assert one.settings()[1].state == "elsewhere"
    one.close()
    other.close()


@pytest.mark.parametrize(
    "wrong",
    [{"sampler": "tpe"}, {"trials": 3}, {"sampler": "best"}, {"seeds": 0}, {"workers": 0}, {"prune": "no"}],
)
def test_wrong_calls(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        sweep(folder / "sums.yaml", OVER, **wrong)
