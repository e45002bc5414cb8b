"""The settings of a sweep as trials of an Optuna study: in SQLite in its folder, or in a database for many machines.

A trial is a setting with all its seeds. What became of each seed is an attribute of the trial, so that every machine
that shares the database can make the whole table.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from r2d2c.seeds import seed_of
from r2d2c.train import sweep_beat
from r2d2c.train.atomic import write_atomic
from r2d2c.train.refuse import refuse
from r2d2c.train.sweep_beat import TakenError, attempts, beating, first, latest, once, repeat
from r2d2c.train.sweep_board import Outcome, Setting
from r2d2c.train.sweep_database import open_database, quiet, unreachable
from r2d2c.train.sweep_space import Choices, Hole, Range, Space, number

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

FILE, DATABASE, LOCK = "sweep.json", "sweep.db", "sweep.lock"
_WORDS = {
    "data": "source of data",
    "prune": "pruning",
    "space": "--over",
    "seeds": "list of seeds",
    "storage": "database",
}
_GIVEN_UP = "each of {} machines that began with it gave no sign any more"
_VALUES, _OWNER, _SEED, _STATE, _REASONS = "values", "owner", "seed ", "state", "reasons"


def _tpe(seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


def _random(seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _never() -> BasePruner:
    from optuna.pruners import NopPruner

    return NopPruner()


def _median() -> BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=3)


def _halving() -> BasePruner:
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner()


GRID = "grid"
SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {GRID: _random, "tpe": _tpe, "random": _random}
PRUNERS: Mapping[str, Callable[[], BasePruner]] = {"none": _never, "median": _median, "halving": _halving}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a sweep is: the same in all that belongs to one study. spec: the resolved text."""

    model: str
    spec: str
    space: Space
    seeds: tuple[int, ...]
    sampler: str = GRID
    prune: str = "none"
    data: str | None = None

    def claim(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "spec": hashlib.sha256(self.spec.encode()).hexdigest(),
            "space": [axis.text for axis in self.space.axes],
            "seeds": list(self.seeds),
            "sampler": self.sampler,
            "prune": self.prune,
            "data": self.data,
        }


@contextmanager
def claimed(folder: Path, asked: Asked, url: str | None = None) -> Iterator[str]:
    """The folder for this sweep alone, while the block runs; the name of its owner. E642 if it is another's.

    url: of a shared database. It may have a password in it, so that only its hash is written.
    """
    storage = hashlib.sha256(url.encode()).hexdigest()[:12] if url is not None else None
    claim, path = {**asked.claim(), "storage": storage}, folder / FILE
    if path.exists():
        try:
            known = json.loads(path.read_bytes())
            owner = str(known.pop("owner"))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            refuse(
                "E642", f"cannot read {path} of the sweep: {error}", fix="choose another folder with --out"
            )
        wrong = [key for key in claim if known.get(key) != claim[key]]
        if wrong:
            notes = [
                f"{_WORDS.get(key, key)}: {_told(known.get(key))}, now {_told(claim[key])}"
                for key in wrong
                if key not in ("spec", "storage")
            ]
            refuse(
                "E642",
                f"the sweep in {folder} has another {_WORDS.get(wrong[0], wrong[0])}",
                notes=notes,
                fix="choose another folder with --out, or give the same command",
            )
    else:
        owner = uuid4().hex
    # An open transaction is a lock that a killed process cannot leave behind.
    lock = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)
    try:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError:
            refuse("E642", f"the folder {folder} is in use by another sweep", fix="choose another with --out")
        if not path.exists():
            text = json.dumps({**claim, "owner": owner}, indent=2, ensure_ascii=False)
            write_atomic(folder / "spec.yaml", asked.spec.encode())
            write_atomic(path, f"{text}\n".encode())
        yield owner
    finally:
        lock.close()


def _told(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


class Store:
    """The trials of one sweep. url: of a shared database; None: SQLite in the folder."""

    def __init__(self, folder: Path, asked: Asked, owner: str, better: str, url: str | None = None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.asked, self.owner, self.shared = asked, owner, url is not None
        self.storage = open_database(url or f"sqlite:///{(folder / DATABASE).resolve()}", self.shared)
        name = "sweep"
        if self.shared:  # the same command on another machine finds it, and any other does not
            text = json.dumps(asked.claim(), sort_keys=True)
            name = f"{asked.model}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.study: Study = self._reached(
            lambda: optuna.create_study(
                storage=self.storage,
                study_name=name,
                direction="maximize" if better == "higher" else "minimize",
                pruner=PRUNERS[asked.prune](),
                load_if_exists=True,
            )
        )
        self.name = name
        self.distributions = {key: _distribution(hole) for key, hole in asked.space.holes().items()}
        self.held: dict[int, int] = {}  # the trials of the settings that were taken here

    def _reached(self, call: Callable[[], Study]) -> Study:
        try:
            return call()
        except Exception as error:  # every driver of a database has exceptions of its own
            unreachable(error, self.shared)

    def close(self) -> None:
        with suppress(Exception):
            self.storage.remove_session()
            self.storage.engine.dispose()

    # -- reading
    def settings(self) -> dict[int, Setting]:
        """All settings, by the numbers of their first trials."""
        found = [self._setting(trial) for _, trial in sorted(latest(self._trials()).items())]
        settings = {setting.number: setting for setting in found if setting is not None}
        if self.asked.sampler == GRID:
            # Two machines that begin at the same moment each put down the whole grid: the earlier trial counts.
            each: dict[str, int] = {}
            for number_of, setting in settings.items():
                each.setdefault(setting.label(), number_of)
            settings = {number_of: settings[number_of] for number_of in each.values()}
        return settings

    def _trials(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study._study_id, deepcopy=False)

    def _setting(self, trial: FrozenTrial) -> Setting | None:
        from optuna.trial import TrialState

        attributes = trial.user_attrs
        if _VALUES not in attributes:
            return None
        seeds = {
            int(key.removeprefix(_SEED)): Outcome.of(value)
            for key, value in attributes.items()
            if key.startswith(_SEED)
        }
        setting = Setting(first(trial), attributes[_VALUES], seeds=seeds)
        setting.reasons = tuple(attributes.get(_REASONS, ()))
        if trial.state == TrialState.RUNNING:
            mine = not self.shared or attributes.get(_OWNER) == self.owner
            setting.state = "waiting" if mine else "elsewhere"
        elif trial.state != TrialState.WAITING:
            setting.state = attributes.get(_STATE, "elsewhere" if self.shared else "failed")
            if self.shared and _STATE not in attributes and attempts(trial) >= sweep_beat.RETRIES:
                setting.state, setting.reasons = "failed", (_GIVEN_UP.format(attempts(trial) + 1),)
        return setting

    # -- writing
    def add_grid(self) -> None:
        """Put down every setting of the grid that is not there yet, waiting."""
        import optuna
        from optuna.trial import TrialState, create_trial

        # All machines begin with the same list, so that of two that do so at once each adds the same.
        known = {json.dumps(t.user_attrs.get(_VALUES), sort_keys=True) for t in self._trials()}
        new = []
        for drawn in self.asked.space.grid():
            values = self.asked.space.values(drawn)
            if json.dumps(values, sort_keys=True) not in known:
                new.append(
                    create_trial(
                        state=TrialState.WAITING,
                        params=drawn,
                        distributions={
                            key: optuna.distributions.CategoricalDistribution(_all(hole))
                            for key, hole in self.asked.space.holes().items()
                        },
                        user_attrs={_VALUES: values},
                    )
                )
        self.study.add_trials(new)

    def claim(self, number_of: int) -> Setting | None:
        """This setting, if nobody else has taken it; one that was begun here before is taken again."""
        from optuna.trial import TrialState

        trial = latest(self._trials())[number_of]
        known = self._setting(trial)
        if known is None or known.state != "waiting":
            return None
        if self.shared:  # first, so that nothing is running that has no heart
            self.storage.record_heartbeat(trial._trial_id)
        if trial.state == TrialState.WAITING and not self.storage.set_trial_state_values(
            trial._trial_id, state=TrialState.RUNNING
        ):
            return None
        self.storage.set_trial_user_attr(trial._trial_id, _OWNER, self.owner)
        self.held[number_of] = trial._trial_id
        return self._setting(self.storage.get_trial(trial._trial_id))

    def draw(self) -> Setting:
        """A new setting, from the sampler."""
        # A sampler of its own for every draw: a sweep that goes on draws what one in a single go draws.
        count = len(self._trials())
        self.study.sampler = SAMPLERS[self.asked.sampler](
            seed_of(self.asked.seeds[0], "sweep", count) % 2**32
        )
        with quiet():
            trial = self.study.ask(self.distributions)
        holes = self.asked.space.holes()
        drawn = {key: _shown(value, holes[key]) for key, value in trial.params.items()}
        if self.shared:
            self.storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr(_OWNER, self.owner)
        trial.set_user_attr(_VALUES, self.asked.space.values(drawn))
        found = self._setting(self.storage.get_trial(trial._trial_id))
        assert found is not None
        self.held[found.number] = trial._trial_id
        return found

    def report(self, setting: Setting, epoch: int, value: float) -> bool:
        """Put down a value of the first seed; whether the setting is to be pruned. `TakenError`: as for `note`."""
        held = self.held[setting.number]
        with _ours():
            if epoch not in self.storage.get_trial(held).intermediate_values:
                self.storage.set_trial_intermediate_value(held, epoch, value)
        return self.study.pruner.prune(self.study, self.storage.get_trial(held))

    def note(self, setting: Setting, seed: int, outcome: Outcome) -> None:
        """Put down what became of one training. `TakenError`: the setting is another machine's now."""
        with _ours():
            self.storage.set_trial_user_attr(self.held[setting.number], f"{_SEED}{seed}", outcome.json())

    def end(self, setting: Setting) -> None:
        """Put down that a setting is over, as its ``state`` says. `TakenError`: as for `note`."""
        from optuna.trial import TrialState

        held, found = self.held[setting.number], setting.value()
        state = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(setting.state, TrialState.FAIL)
        values = [found.mean] if found is not None and state != TrialState.FAIL else None
        with _ours():
            self.storage.set_trial_user_attr(held, _STATE, setting.state)
            if setting.reasons:
                self.storage.set_trial_user_attr(held, _REASONS, list(setting.reasons))
            self.storage.set_trial_state_values(held, state=state, values=values)

    # -- machines that died
    @contextmanager
    def alive(self) -> Iterator[None]:
        """While the block runs, other machines see that what was taken here is being trained."""
        if not self.shared:
            yield
            return
        with beating(self.storage, self.study._study_id, (_OWNER, self.owner)):
            yield

    def lost(self, setting: Setting) -> bool:
        """Whether another machine has taken a setting that was taken here before."""
        from optuna.trial import TrialState

        return self.shared and self.storage.get_trial(self.held[setting.number]).state != TrialState.RUNNING

    def revive(self) -> list[int]:
        """Give out again what a machine had that gives no sign any more; the numbers of these settings."""
        from optuna.storages import fail_stale_trials
        from optuna.trial import TrialState

        # After a sleep the first look may come before the first beat: what is trained here is not left.
        once(self.storage, self.study._study_id, (_OWNER, self.owner))
        with quiet():
            fail_stale_trials(self.study)
        found = []
        for number_of, trial in latest(self._trials()).items():
            # What ends as it should has a word for it. A machine that failed a trial may have died before it added the
            # next, so that the trials are asked, not who failed them.
            left = trial.state == TrialState.FAIL and _STATE not in trial.user_attrs
            if left and attempts(trial) < sweep_beat.RETRIES:
                repeat(self.study, trial, {k: v for k, v in trial.user_attrs.items() if k != _OWNER})
                found.append(number_of)
        return found


@contextmanager
def _ours() -> Iterator[None]:
    """A trial that is over cannot be written to: another machine has failed it, and given it out again."""
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        yield
    except UpdateFinishedTrialError:
        raise TakenError from None


def _all(hole: Hole) -> Sequence[str]:
    found = hole.values if isinstance(hole, Choices) else hole.points()
    assert found is not None
    return found


def _distribution(hole: Hole) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(hole, Choices):
        return CategoricalDistribution(hole.values)
    if hole.whole:
        step = 1 if hole.step is None else round(hole.step)
        high = round(hole.low) + (round(hole.high) - round(hole.low)) // step * step
        return IntDistribution(round(hole.low), high, log=hole.log, step=step)
    return FloatDistribution(hole.low, hole.high, log=hole.log, step=hole.step)


def _shown(value: Any, hole: Hole) -> str:
    return number(value, hole.whole) if isinstance(hole, Range) else str(value)


__all__ = ["DATABASE", "FILE", "GRID", "PRUNERS", "SAMPLERS", "Asked", "Store", "claimed"]
