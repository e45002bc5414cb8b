"""Machines that share a sweep by a database, some of which die: what they had is taken by the others, and never twice."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from r2d2c.cli.sweep_progress import Lines
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.train import sweep_beat, sweep_study
from r2d2c.train.sweep import Sweep, sweep
from r2d2c.train.sweep_beat import TakenError, once
from r2d2c.train.sweep_board import Board, Outcome, Setting
from r2d2c.train.sweep_space import read_space
from r2d2c.train.sweep_study import Asked, Store
from tests.unit.sweep_specs import OVER, told, write_sums

BEAT, GRACE = 1, 4  # seconds; the database counts whole ones
# A machine that is switched off in the middle of its second setting, when some epochs are saved.
DYING = """\
import os, signal, sys
from r2d2c.train import sweep_beat
from r2d2c.train.sweep import sweep

sweep_beat.BEAT, sweep_beat.GRACE = 1, 4
WHEN = sys.argv[3]

class Dying:
    def on_training(self, board, setting, seed, outcome):
        if WHEN == "late" and setting.number == 1 and seed == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch(self, board, setting, seed, epoch, value):
        if WHEN == "within" and setting.number == 1 and seed == 1 and epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

over = {"credit": ["backprop", "local"], "dims.H": [2, 5]}
sweep("sums.yaml", over, seeds=2, threads=1, storage=sys.argv[1], out=sys.argv[2], callbacks=[Dying()])
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Machines that count as dead after some seconds."""
    monkeypatch.setattr(sweep_beat, "BEAT", BEAT)
    monkeypatch.setattr(sweep_beat, "GRACE", GRACE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("machines"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Sweep:
    return sweep(folder / "sums.yaml", OVER, seeds=2, out=folder / "whole", threads=1)


def states(path: Path) -> list[str]:
    """Of the trials in a database, by their numbers."""
    with sqlite3.connect(path) as store:
        found = [state for (state,) in store.execute("SELECT state FROM trials ORDER BY number")]
    store.close()
    return found


class Left:
    """Hears which settings were given out again."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.trained: list[tuple[int, int]] = []

    def on_left(self, board: Board, setting: Setting) -> None:
        self.numbers.append(setting.number)

    def on_training(self, board: Board, setting: Setting, seed: int, outcome: Outcome) -> None:
        self.trained.append((setting.number, seed))


@pytest.mark.parametrize("when", ["late", "within"])
def test_what_a_killed_machine_had_is_taken_by_another(
    folder: Path, whole: Sweep, tmp_path: Path, when: str
) -> None:
    """It is killed with SIGKILL, and its seeds that had ended are not trained again. The table is that of one machine."""
    (folder / "dying.py").write_text(DYING)
    database, url = tmp_path / "shared.db", f"sqlite:///{tmp_path}/shared.db"
    command = [sys.executable, "dying.py", url, str(tmp_path / "dead"), when]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as dead:
        assert dead.stderr is not None
        said = dead.stderr.read()
        assert dead.wait(60) == -signal.SIGKILL, said
    assert states(database) == ["COMPLETE", "RUNNING", "WAITING", "WAITING"]
    common: dict[str, Any] = {"seeds": 2, "threads": 1, "storage": url}
    heard, until = Left(), time.monotonic() + 60
    while True:
        found = sweep(folder / "sums.yaml", OVER, out=tmp_path / "other", callbacks=[heard], **common)
        if not found.board.count("elsewhere") or time.monotonic() > until:
            break
        time.sleep(0.5)
    assert told(found) == told(whole)
    assert heard.numbers == [1] and (1, 1) in heard.trained and (1, 0) not in heard.trained
    assert states(database) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert (tmp_path / "other" / "trials" / "1" / "seed-1").is_dir(), "a setting keeps its number"

    again = Left()
    back = sweep(folder / "sums.yaml", OVER, out=tmp_path / "dead", callbacks=[again], **common)
    assert told(back) == told(whole) and not again.trained, "the machine comes back, and all is done"


def test_a_machine_that_comes_back_goes_on_exactly(folder: Path, whole: Sweep, tmp_path: Path) -> None:
    """However late, as long as nobody has taken what it had: from its checkpoints."""
    (folder / "dying.py").write_text(DYING)
    url = f"sqlite:///{tmp_path}/shared.db"
    command = [sys.executable, "dying.py", url, str(tmp_path / "dead"), "within"]
    assert subprocess.run(command, cwd=folder, check=False).returncode == -signal.SIGKILL
    checkpoint = tmp_path / "dead" / "trials" / "1" / "seed-1" / "checkpoints" / "last.safetensors"
    assert checkpoint.is_file()
    time.sleep(GRACE + 1.5)
    heard = Left()
    seen: list[int] = []

    class Epochs(Left):
        def on_epoch(self, board: Board, setting: Setting, seed: int, epoch: int, value: float) -> None:
            if (setting.number, seed) == (1, 1):
                seen.append(epoch)

    found = sweep(
        folder / "sums.yaml",
        OVER,
        seeds=2,
        threads=1,
        storage=url,
        out=tmp_path / "dead",
        callbacks=[heard, Epochs()],
    )
    assert told(found) == told(whole) and not heard.numbers
    assert seen == [2], "its first epoch is not trained again"


def test_what_is_alive_is_left_alone(folder: Path, tmp_path: Path) -> None:
    """A training longer than the grace period, whose machine is there: nobody takes it."""
    url = f"sqlite:///{tmp_path}/shared.db"
    seen: list[int] = []
    over = {"dims.H": [2, 3]}

    class Looking:
        """Looks as another machine would, after a long epoch."""

        def on_epoch(self, board: Board, setting: Setting, seed: int, epoch: int, value: float) -> None:
            if (setting.number, epoch) == (0, 1):
                time.sleep(GRACE + 2)
                other = sweep(folder / "sums.yaml", over, seeds=1, storage=url, out=tmp_path / "other")
                seen.extend(row["setting"] for row in other.rows if row["state"] == "elsewhere")

    mine = sweep(
        folder / "sums.yaml", over, seeds=1, storage=url, out=tmp_path / "mine", callbacks=[Looking()]
    )
    assert seen == [0] and [row["state"] for row in mine.rows] == ["done", "done"]
    assert states(tmp_path / "shared.db") == ["COMPLETE", "COMPLETE"]


def test_a_machine_that_slept_gives_up_what_another_has_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that was closed: it finds its setting taken, stops training it, and ends with the same table."""
    asleep: list[tuple[str, str]] = []

    def beat(storage: Any, study: int, owner: tuple[str, str]) -> None:
        """The heart of the first machine stands still as long as it sleeps."""
        asleep.extend([] if asleep else [owner])
        if owner != asleep[0]:
            once(storage, study, owner)

    monkeypatch.setattr(sweep_beat, "once", beat)
    monkeypatch.setattr(sweep_study, "once", beat)
    url = f"sqlite:///{tmp_path}/shared.db"
    over = {"dims.H": [2, 3]}
    tables: list[Any] = []
    heard, said = Left(), StringIO()

    class Sleeping(Left):
        def on_epoch(self, board: Board, setting: Setting, seed: int, epoch: int, value: float) -> None:
            if not tables:
                silence(tmp_path / "shared.db")
                found = sweep(
                    folder / "sums.yaml",
                    over,
                    seeds=2,
                    storage=url,
                    out=tmp_path / "other",
                    callbacks=[heard, Lines(said)],
                )
                tables.append(told(found))

    sleeping = Sleeping()
    mine = sweep(
        folder / "sums.yaml", over, seeds=2, storage=url, out=tmp_path / "mine", callbacks=[sleeping]
    )
    assert heard.numbers == [0] and heard.trained == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert told(mine) == tables[0] and not sleeping.trained
    assert "setting 0: its machine gave no sign any more, so it is given out again\n" in said.getvalue()
    assert {row["state"] for row in mine.rows} == {"done"}


def test_a_database_that_is_lost_on_the_way(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"

    class Losing:
        def on_epoch(self, board: Board, setting: Setting, seed: int, epoch: int, value: float) -> None:
            with sqlite3.connect(tmp_path / "shared.db") as store:
                store.execute("DROP TABLE IF EXISTS trial_user_attributes")
            store.close()

    with pytest.raises(CompileError) as caught:
        sweep(folder / "sums.yaml", OVER, storage=url, out=tmp_path / "out", callbacks=[Losing()])
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E643" and "trial_user_attributes" in diagnostic.notes[0]


def asked(*texts: str, sampler: str = "grid") -> Asked:
    space = read_space(texts, Sink())
    assert space is not None
    return Asked("sums", "", space, (0,), sampler)


def silence(path: Path) -> None:
    """All hearts of a database stood still an hour ago."""
    with sqlite3.connect(path) as store:
        store.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
    store.close()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    url = f"sqlite:///{tmp_path}/shared.db"
    one, other = (Store(tmp_path, asked("dims.H=1,2"), name, "lower", url) for name in ("one", "other"))
    one.add_grid()
    yield one, other
    one.close()
    other.close()


def test_a_machine_that_was_thought_dead_leaves_it_to_the_other(
    stores: tuple[Store, Store], tmp_path: Path
) -> None:
    one, other = stores
    mine = one.claim(0)
    assert mine is not None
    one.report(mine, 1, 0.5)
    one.note(mine, 0, Outcome("done", 0.5, 1))
    assert other.revive() == [] and not one.lost(mine)
    silence(tmp_path / "shared.db")
    assert other.revive() == [0] and other.revive() == [] and one.revive() == []
    assert one.lost(mine)
    taken = other.claim(0)
    assert taken is not None and one.claim(0) is None
    assert taken.number == 0 and taken.seeds == mine.seeds | {0: Outcome("done", 0.5, 1)}
    for write in (
        lambda: one.report(mine, 2, 0.4),
        lambda: one.note(mine, 1, Outcome("done", 0.4)),
        lambda: one.end(mine),
    ):
        with pytest.raises(TakenError):
            write()
    taken.state = "done"
    other.end(taken)
    assert one.settings()[0].state == "done" and sorted(one.settings()) == [0, 1]


def test_the_hearts_of_a_machine_that_is_back_beat_first(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, other = stores
    assert one.claim(0) is not None
    silence(tmp_path / "shared.db")
    once(one.storage, one.study._study_id, ("owner", "one"))
    assert other.revive() == []
    known = one.settings()[0]
    assert known.state == "waiting" and one.claim(0) is not None


def test_of_two_that_repeat_a_trial_the_earlier_counts(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, other = stores
    assert one.claim(0) is not None
    silence(tmp_path / "shared.db")
    assert other.revive() == [0]
    failed = other.storage.get_all_trials(other.study._study_id)[0]
    sweep_beat.repeat(one.study, failed, failed.user_attrs)
    assert sorted(one.settings()) == [0, 1] == sorted(other.settings())
    assert other.claim(0) is not None and one.claim(0) is None


def test_a_machine_that_dies_between_failing_a_trial_and_its_repetition(
    stores: tuple[Store, Store], tmp_path: Path
) -> None:
    one, other = stores
    assert one.claim(0) is not None
    silence(tmp_path / "shared.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r2d2c.train.sweep_study.repeat", lambda *_: None)
        other.revive()
    assert other.settings()[0].state == "elsewhere" and other.claim(0) is None
    assert other.revive() == [0] and other.claim(0) is not None


def test_a_setting_that_ends_every_machine_is_given_up(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, other = stores
    for _ in range(sweep_beat.RETRIES + 1):
        assert one.claim(0) is not None
        silence(tmp_path / "shared.db")
        other.revive()
    found = other.settings()[0]
    assert found.state == "failed" and found.reasons == (
        "each of 4 machines that began with it gave no sign any more",
    )
    assert one.claim(0) is None and one.claim(1) is not None


def test_no_machine_takes_its_own_settings_from_itself(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, other = stores
    mine = one.claim(0)
    assert mine is not None
    silence(tmp_path / "shared.db")
    assert one.revive() == [] and not one.lost(mine) and other.revive() == []


def test_two_that_put_down_the_grid_at_once(stores: tuple[Store, Store], tmp_path: Path) -> None:
    other = stores[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other, "_trials", lambda: [])  # what it saw before the first had begun
        other.add_grid()
    assert len(states(tmp_path / "shared.db")) == 4
    assert [setting.values for setting in other.settings().values()] == [{"dims.H": "1"}, {"dims.H": "2"}]


def test_what_was_drawn_keeps_its_numbers(tmp_path: Path) -> None:
    """A setting of ranges is given out again as it was drawn, and counts once."""
    url = f"sqlite:///{tmp_path}/shared.db"
    wanted = asked("train.split=0.1..0.9", sampler="random")
    one, other = (Store(tmp_path, wanted, name, "lower", url) for name in ("one", "other"))
    drawn = one.draw()
    silence(tmp_path / "shared.db")
    assert other.revive() == [drawn.number]
    (known,) = other.settings().values()
    assert known.state == "waiting" and known.values == drawn.values
    assert other.claim(drawn.number) is not None
    new = other.draw()
    assert new.number != drawn.number and new.values != drawn.values
    one.close()
    other.close()
