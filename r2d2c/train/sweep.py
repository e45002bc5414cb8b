"""`sweep`: one spec trained with many settings, each with several seeds, and a table of what they give.

sweep.json  spec.yaml            what was asked for, to go on from
sweep.db                         the settings and what became of them, an Optuna study
trials/N/seed-S/                 a run folder for every training
table.csv  table.md  sweep.png
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.train import sweep_beat
from r2d2c.train.compare_plan import check_seeds
from r2d2c.train.events import Callbacks
from r2d2c.train.interrupt import Interrupted, Request, catching
from r2d2c.train.load import Request as Wanted
from r2d2c.train.load import data_text
from r2d2c.train.resolved import resolved_text
from r2d2c.train.run import Run, open_run
from r2d2c.train.settings import overrides
from r2d2c.train.sweep_beat import TakenError
from r2d2c.train.sweep_board import Board, Outcome, Setting, SweepCallback
from r2d2c.train.sweep_database import reachable
from r2d2c.train.sweep_plan import base, check_arguments, folder_of, planned, refused, training_of
from r2d2c.train.sweep_space import read_space
from r2d2c.train.sweep_study import GRID, Asked, Store, claimed
from r2d2c.train.sweep_worker import Job, Place, Said, train_one


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that is over. ``board`` has all that is known of it."""

    folder: Path
    board: Board = field(repr=False)
    plugins: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table as data, a mapping for every setting, the best first; what is not done comes last."""
        from r2d2c.train.sweep_report import rows

        return rows(self.board)

    @property
    def best(self) -> Setting | None:
        """The setting with the best mean of the monitored value; None if none is done."""
        first = next(iter(self.board.ranked()), None)
        return first if first is not None and first.state == "done" else None

    def run(self, setting: Setting | int, seed: int) -> Run:
        """The run of a setting, or of its number, with a seed."""
        number = setting if isinstance(setting, int) else setting.number
        return open_run(self.folder / "trials" / str(number) / f"seed-{seed}", plugins=self.plugins)

    def to_csv(self, path: str | Path) -> None:
        """Write the table: a row for every setting, a column for every number."""
        from r2d2c.train.sweep_report import csv_bytes

        Path(path).write_bytes(csv_bytes(self.board))

    def _repr_html_(self) -> str:
        from r2d2c.train.notebook import sweep_html

        return sweep_html(self)


def sweep(
    spec: Checked | str | Path,
    over: Mapping[str, Any] | Sequence[str],
    *,
    seeds: int | Sequence[int] = 3,
    sampler: str = GRID,
    trials: int | None = None,
    prune: str = "none",
    epochs: int | None = None,
    batch_size: int | None = None,
    data: Any = None,
    out: str | Path | None = None,
    storage: str | None = None,
    workers: int = 1,
    skip_refused: bool = False,
    settings: Sequence[str] = (),
    plugins: Iterable[Any] = (),
    callbacks: Iterable[Any] = (),
    device: str | None = None,
    threads: int | None = None,
    backend: str = "eager",
    limit_batches: int | None = None,
) -> Sweep:
    """Train a spec with every combination of settings, each with every seed; a folder ``out`` with a sweep goes on.

    over: ``{"credit": ["backprop", "direct"], "dims.H": "16..256:log"}``: a list of values, or a text as `--over`
    has it. seeds: how many, from the spec's own on, or which. sampler: ``grid`` for all, or ``tpe`` or ``random``
    with ``trials`` settings that it draws. prune: ``median`` or ``halving`` gives settings up by their first seed's
    epochs. storage: the URL of a database, by which several machines share one sweep. workers: processes; what each
    training gives is the same whatever their number, if ``threads`` is given. skip_refused: go on without the settings
    that the spec cannot have. callbacks: objects with methods of `r2d2c.train.sweep_board.SweepCallback`.
    A training whose loss is no longer a number makes its setting failed, which is listed; the others go on.
    Ctrl-C finishes the batches, saves, writes what there is, and raises `KeyboardInterrupt`. A script that asks for
    several workers needs ``if __name__ == "__main__":`` around the call.
    """
    found, listening = tuple(plugins), Callbacks(callbacks, SweepCallback)
    check_arguments(sampler, trials, prune, seeds, workers, data, found)
    sink = Sink()
    space = read_space(over, sink)
    if space is not None and sampler == GRID:
        space.check_grid(sink)
    sink.stop_on_errors()
    assert space is not None
    request = Wanted(data, trusted=True, plugins=found)
    named = overrides(epochs=epochs, batch_size=batch_size, data=data_text(request))
    checked, all_settings = base(spec, [*named, *settings], space, found, request)
    job = planned(checked, request, all_settings)
    job = replace(job, plugins=found, device=device, backend=backend, limit_batches=limit_batches)
    job = replace(
        job, threads=threads or max(1, (os.cpu_count() or 1) // workers) if workers > 1 else threads
    )
    if isinstance(seeds, int):
        seeds = range(checked.graph.seed, checked.graph.seed + seeds)
    check_seeds(checked, seeds, found, request)
    asked = Asked(
        checked.name,
        resolved_text(checked),
        space,
        tuple(sorted(set(seeds))),
        sampler,
        prune,
        data_text(request) if data is None or data_text(request) else "of Python",
    )
    unfit = refused(job, space, skip_refused) if sampler == GRID else {}
    folder, made = folder_of(checked, out)
    job = replace(job, folder=folder)
    try:
        return _run(job, asked, checked, trials, workers, storage, listening, unfit)
    except Exception:
        if made and not (folder / "trials").exists():
            with suppress(OSError):
                shutil.rmtree(folder)
        raise


def _run(
    job: Place,
    asked: Asked,
    checked: Checked,
    trials: int | None,
    workers: int,
    storage: str | None,
    listening: Callbacks,
    unfit: Mapping[str, tuple[str, ...]],
) -> Sweep:
    folder = job.folder
    with claimed(folder, asked, storage) as owner:
        store = Store(folder, asked, owner, job.monitor.better, storage)
        try:
            board = _board(checked, job, asked, trials, workers)
            for diagnostic in checked.diagnostics:
                if diagnostic.severity == "warning":
                    listening("on_warning", board, diagnostic)
            with reachable(store.shared):
                _Sweeping(job, asked, board, store, listening, unfit).run()
        finally:
            store.close()
    return Sweep(folder, board, job.plugins)


def _board(checked: Checked, place: Place, asked: Asked, trials: int | None, workers: int) -> Board:
    wanted = training_of(checked)
    total = trials if trials is not None else sum(1 for _ in asked.space.grid())
    return Board(
        model=checked.name,
        folder=str(place.folder),
        data="batches from Python" if asked.data == "of Python" else asked.data or wanted.data or "",
        space=asked.space,
        seeds=asked.seeds,
        epochs=wanted.epochs,
        monitor=place.monitor.name,
        better=place.monitor.better,
        split="train",
        metrics=tuple(m.label for m in wanted.metrics),
        total=total,
        workers=workers,
    )


class _Sweeping:
    """One sweep while it runs: gives out trainings, setting by setting, and notes down what becomes of them."""

    def __init__(
        self,
        place: Place,
        asked: Asked,
        board: Board,
        store: Store,
        tell: Callbacks,
        unfit: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.place, self.asked, self.board, self.store, self.tell = place, asked, board, store, tell
        self.unfit = unfit
        self.queue: deque[Job] = deque()
        self.active: set[tuple[int, int]] = set()  # settings and seeds that are being trained
        self.request = Request()
        self.said: set[str] = set()
        self.looked = -math.inf  # when others were last looked for that share the database

    def run(self) -> None:
        from r2d2c.train.sweep_report import write_all

        board, store = self.board, self.store
        if self.asked.sampler == GRID:
            store.add_grid()
        board.settings = store.settings()
        self._find_split()
        self.tell("on_sweep", board)
        try:
            # A signal between two trainings waits here for the next batch.
            with catching() as self.request, store.alive():
                self._train()
        except Interrupted:
            self.request.stop = True
        finally:
            # Other machines may have made more in the meantime.
            board.settings = store.settings()
            self._find_split()
            write_all(board, self.place.folder)
        if self.request.stop:
            raise Interrupted(self.place.folder, 0, 0)

    def _train(self) -> None:
        self._look_around()
        todo = sum(setting.state == "waiting" for setting in self.board.settings.values())
        todo += 0 if self.asked.sampler == GRID else self.board.total - len(self.board.settings)
        count = min(self.board.workers, todo * len(self.board.seeds))
        if count > 1:
            from r2d2c.train.sweep_pool import Pool

            pool = Pool(self.place, count)
            try:
                pool.run(self.following, self.hear, self.ended, self.request)
            finally:
                pool.close()
            return
        while not self.request.stop and (job := self.following()) is not None:
            outcome = train_one(self.place, job, self.hear, lambda: self.request.stop)
            if outcome is None:
                self.request.stop = True
            else:
                self.ended(job, outcome)

    def following(self) -> Job | None:
        """The next training; None if there is none to begin at this moment."""
        while not self.queue:
            setting = self._claimed()
            if setting is None:
                return None
            reasons = self.unfit.get(setting.label())
            if reasons is not None:
                setting.state, setting.reasons = "refused", reasons
                with suppress(TakenError):
                    self.store.end(setting)
                continue
            setting.state = "running"
            left = [seed for seed in self.board.seeds if seed not in setting.seeds]
            self.queue.extend(Job(setting.number, dict(setting.values), seed) for seed in left)
            with suppress(TakenError):
                self._end_if_over(setting)  # one that was stopped between its last seed and its end
        job = self.queue.popleft()
        self.active.add((job.number, job.seed))
        return job

    def _claimed(self) -> Setting | None:
        board = self.board
        self._look_around()
        for number, known in sorted(board.settings.items()):
            if known.state == "waiting":
                setting = self.store.claim(number)
                if setting is None:
                    known.state = "elsewhere"  # at the end it is looked at again
                    continue
                board.settings[number] = setting
                return setting
        if self.asked.sampler == GRID:
            return None
        self._refresh()
        if len(board.settings) >= board.total:
            return None
        setting = self.store.draw()
        board.settings[setting.number] = setting
        return setting

    def _look_around(self) -> None:
        """Now and then: what other machines have done, and what they have left."""
        if self.store.shared and time.monotonic() - self.looked >= sweep_beat.BEAT / 2:
            self.looked = time.monotonic()
            again = self.store.revive()
            self._refresh()
            for number in again:
                if number in self.board.settings:
                    self.tell("on_left", self.board, self.board.settings[number])

    def _refresh(self) -> None:
        if self.store.shared:
            busy = {job.number for job in self.queue} | {number for number, _ in self.active}
            mine = {n: s for n, s in self.board.settings.items() if n in busy}
            self.board.settings = self.store.settings() | mine

    def hear(self, job: Job, said: Said) -> bool:
        """What a training says; whether it is to be given up."""
        if said.diagnostic is not None:
            text = f"{said.diagnostic.code} {said.diagnostic.message}"
            if text not in self.said:  # most are about the spec: every training would say them again
                self.said.add(text)
                self.tell("on_warning", self.board, said.diagnostic)
            return False
        setting = self.board.settings[job.number]
        self.tell("on_epoch", self.board, setting, job.seed, said.epoch, said.value)
        judged = job.seed == self.board.seeds[0] and said.epoch < self.board.epochs
        try:
            if judged and setting.state == "running" and self.store.report(setting, said.epoch, said.value):
                setting.state = "pruned"
        except TakenError:
            self._hand_over(setting)
        if setting.state == "running" and self.store.lost(setting):
            self._hand_over(setting)
        bad = setting.bad()
        return setting.state in ("pruned", "elsewhere") or (bad is not None and bad[0] < job.seed)

    def _hand_over(self, setting: Setting) -> None:
        """Leave a setting to the machine that has taken it since."""
        setting.state = "elsewhere"
        self.queue = deque(job for job in self.queue if job.number != setting.number)

    def ended(self, job: Job, outcome: Outcome) -> None:
        setting = self.board.settings[job.number]
        self.active.discard((job.number, job.seed))
        if setting.state == "elsewhere":
            return
        try:
            self.store.note(setting, job.seed, outcome)
            setting.seeds[job.seed] = outcome
            self._find_split()
            self.tell("on_training", self.board, setting, job.seed, outcome)
            self._end_if_over(setting)
        except TakenError:
            self._hand_over(setting)

    def _end_if_over(self, setting: Setting) -> None:
        """Put down the end of a setting, once all of its seeds have ended, or those up to a bad one."""
        bad = setting.bad()
        if bad is not None:  # the later seeds would change nothing
            self.queue = deque(job for job in self.queue if job.number != setting.number or job.seed < bad[0])
        left = [job for job in self.queue if job.number == setting.number]
        if left or any(number == setting.number for number, _ in self.active):
            return
        if bad is not None:
            setting.state, setting.reasons = bad[1].state, bad[1].reasons
        else:
            setting.state = "done"
        self.store.end(setting)

    def _find_split(self) -> None:
        found = (o for setting in self.board.settings.values() for o in setting.done)
        if any("validation" in outcome.splits for outcome in found):
            self.board.split = "validation"


__all__ = ["Sweep", "SweepCallback", "sweep"]
