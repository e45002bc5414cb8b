"""Settings of a machine that died: how others notice, and how each is given out once more.

Every trial that is being trained has a heartbeat in the database, by the database's own clock. One that has not beaten
for a while is failed by whoever looks first, as Optuna does it (`optuna.storages.fail_stale_trials`), and a new trial
of the same setting waits in its place. As with Optuna's `RetryHeartbeatStaleTrialCallback`, the new one says in the
system attributes ``failed_trial`` and ``retry_history`` which trials it repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

BEAT = 60  # seconds between two beats
GRACE = 300  # seconds without a beat, after which a machine counts as dead
RETRIES = 3  # times that a setting is given out again; one that ends every machine must not go round for ever
FIRST, HISTORY = "failed_trial", "retry_history"


class TakenError(Exception):
    """Another machine has this setting now, since this one gave no sign for too long."""


def first(trial: FrozenTrial) -> int:
    """The number of the first trial of a setting, which is the setting's own."""
    return int(trial.system_attrs.get(FIRST, trial.number))


def latest(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The trial that counts for every setting, by the setting's number.

    Two machines may repeat a trial at the same moment; then the earlier repetition counts, for all of them.
    """
    following: dict[int, FrozenTrial] = {}
    for trial in trials:
        history = trial.system_attrs.get(HISTORY)
        if history:
            following.setdefault(history[-1], trial)
    found = {trial.number: trial for trial in trials if FIRST not in trial.system_attrs}
    for number, trial in found.items():
        while trial.number in following:
            trial = following[trial.number]
        found[number] = trial
    return found


def attempts(trial: FrozenTrial) -> int:
    """How often the setting of a trial was begun and left before it."""
    return len(trial.system_attrs.get(HISTORY, ()))


def repeat(study: Study, trial: FrozenTrial, attributes: Mapping[str, Any]) -> None:
    """Put down a failed trial once more, waiting, with what is known of it. attributes: those of ours to keep."""
    from optuna.trial import TrialState, create_trial

    history = [*trial.system_attrs.get(HISTORY, ()), trial.number]
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=dict(trial.params),
            distributions=dict(trial.distributions),
            user_attrs=dict(attributes),
            system_attrs={**trial.system_attrs, FIRST: first(trial), HISTORY: history},
            intermediate_values=dict(trial.intermediate_values),
        )
    )


@contextmanager
def beating(storage: RDBStorage, study: int, owner: tuple[str, str]) -> Iterator[None]:
    """While the block runs, the heart of every running trial beats that has the attribute ``owner`` = (name, value)."""
    over = Event()

    def beat() -> None:
        while True:
            # A database that is away for a moment: the next beat, or who asks it next, will find out.
            with suppress(Exception):
                once(storage, study, owner)
            if over.wait(BEAT):
                break
        with suppress(Exception):
            storage.remove_session()  # of this thread

    with suppress(Exception):
        once(storage, study, owner)  # before anybody looks for what is dead
    thread = Thread(target=beat, name="r2d2c-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(BEAT)


def once(storage: RDBStorage, study: int, owner: tuple[str, str]) -> None:
    """One beat of every heart."""
    from optuna.trial import TrialState

    name, value = owner
    for trial in storage.get_all_trials(study, deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(name) == value:
            storage.record_heartbeat(trial._trial_id)


__all__ = [
    "BEAT",
    "GRACE",
    "RETRIES",
    "TakenError",
    "attempts",
    "beating",
    "first",
    "latest",
    "once",
    "repeat",
]
