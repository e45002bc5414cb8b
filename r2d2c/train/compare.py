"""`compare`: one spec trained under several credit rules, with the same first weights, data order and noise.

compare.json  spec.yaml          what was asked for, to go on from
RULE/seed-N/                     a run folder for every training
table.csv  table.md  angles.csv  curves.svg  curves.png
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.driver import Checked
from r2d2c.train.compare_board import Board, CompareCallback, History, Row
from r2d2c.train.compare_plan import (
    FILE,
    SPEC,
    Competitor,
    Plan,
    check_seeds,
    competitors,
    refused,
    settings_of,
    shared_losses,
    sizes,
    split_credits,
    under,
)
from r2d2c.train.events import Callbacks
from r2d2c.train.interrupt import Interrupted, catching
from r2d2c.train.load import Request, check_for_training, data_text
from r2d2c.train.refuse import refuse
from r2d2c.train.resolved import resolved_text
from r2d2c.train.run import Run, next_folder, open_run, seen_from
from r2d2c.train.settings import overrides

if TYPE_CHECKING:
    from r2d2c.model import Model
    from r2d2c.train.events import EpochInfo, Progress, Start
    from r2d2c.train.interrupt import Request as Stop

DIVERGED = "E536"  # what a training is refused with when a loss is no longer a number


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison that has run. ``table``: what ``table.csv`` says, a mapping for every rule."""

    folder: Path
    board: Board = field(repr=False)

    @property
    def table(self) -> list[dict[str, Any]]:
        from r2d2c.train.compare_report import rows

        return rows(self.board)

    def _repr_html_(self) -> str:
        from r2d2c.train.notebook import comparison_html

        return comparison_html(self)

    def run(self, rule: str, seed: int) -> Run:
        """The run of a rule, as it was written, and a seed."""
        (found,) = [c for c in Plan.read(self.folder).competitors if c.label == rule]
        return open_run(self.folder / found.folder / f"seed-{seed}")


def compare(
    spec: Checked | str | Path | None = None,
    credits: str | Sequence[str] = (),
    *,
    seeds: int | Sequence[int] = 3,
    data: Any = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    settings: Sequence[str] = (),
    plugins: Iterable[Any] = (),
    callbacks: Iterable[Any] = (),
    resume: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    backend: str = "eager",
    limit_batches: int | None = None,
    angles: bool = True,
    skip_refused: bool = False,
) -> Comparison:
    """Train a spec under several credit rules, every one with every seed, into one folder; or go on (``resume``).

    credits: ``["backprop", "target(step=0.3)"]``, or one text with commas; ``spec`` is what the spec itself says.
    seeds: how many, from the spec's own on, or which. angles: measure those to backprop. skip_refused: go on
    without the rules that cannot apply; otherwise their diagnostics are raised before anything trains.
    callbacks: objects with methods of `r2d2c.train.compare_board.CompareCallback`. The rest is as in `r2d2c.train`.
    Ctrl-C finishes the batch, saves, writes what there is, and raises `KeyboardInterrupt`.
    """
    listening, found = Callbacks(callbacks, CompareCallback), tuple(plugins)
    if resume is not None:
        if spec is not None or credits or settings or any(v is not None for v in (out, epochs, batch_size)):
            refuse(
                "E548", "a comparison is resumed as it was started: nothing but data and device can be given"
            )
        job = _resumed(Path(resume), data, found, device, threads)
    else:
        if spec is None:
            raise TypeError("compare() needs a spec, or resume=")
        changed = [*overrides(epochs=epochs, batch_size=batch_size), *settings]
        limits = Limits(device, threads, backend, limit_batches, angles)
        job = _started(spec, split_credits(credits), seeds, data, out, changed, found, limits, skip_refused)
    return _Comparing(job, listening).run()


@dataclass(frozen=True, slots=True)
class Limits:
    """What is the same for every training, and no part of the spec."""

    device: str | None
    threads: int | None
    backend: str
    limit_batches: int | None
    angles: bool


@dataclass(slots=True)
class _Job:
    folder: Path
    plan: Plan
    checked: dict[str, Checked]
    backprop: Checked | None
    data: Any
    plugins: tuple[Any, ...]
    errors: dict[str, tuple[Diagnostic, ...]]
    made: bool = False


def _started(
    spec: Checked | str | Path,
    credits: Sequence[str],
    seeds: int | Sequence[int],
    data: Any,
    out: str | Path | None,
    settings: Sequence[str],
    plugins: tuple[Any, ...],
    limits: Limits,
    skip_refused: bool,
) -> _Job:
    path = Path(out) if out is not None else None
    if path is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is a file"
        known = path.is_dir() and (path / FILE).exists()
        also = f", or go on with this comparison: --resume {path}" if known else ""
        refuse("E522", f"the folder {path} {what}", fix=f"choose another with --out{also}")
    request = Request(data, trusted=True, plugins=plugins)
    text = data_text(request)
    named = overrides(data=text) if text is not None else []
    check = partial(check_for_training, plugins=plugins, request=request)
    found, errors = under(lambda more: check(spec, [*settings, *named, *more]), competitors(credits))
    refused(errors, found, skip_refused)
    first = next(iter(found.values()))
    if isinstance(seeds, int):
        seeds = range(first.graph.seed, first.graph.seed + seeds)
    check_seeds(first, seeds, plugins, request)
    if path is None:
        path = next_folder(f"compare-{first.name}")
        made = True
    else:
        made = not path.exists()
    plan = Plan(
        competitors=competitors(credits),
        seeds=tuple(dict.fromkeys(seeds)),
        spec=first.spec.source.name.rpartition("/")[2],
        folder=seen_from(first.folder, path),
        data=text,
        python_data=data is not None and text is None,
        backend=limits.backend,
        device=limits.device,
        threads=limits.threads,
        limit_batches=limits.limit_batches,
        angles=limits.angles,
    )
    path.mkdir(parents=True, exist_ok=True)
    base = replace(first, settings=tuple(s for s in first.settings if not s.startswith("--credit")))
    plan.write(path, resolved_text(base))
    backprop, _ = under(
        lambda more: check_for_training(base, more, plugins, request), [Competitor.of("backprop")]
    )
    return _Job(path, plan, found, backprop.get("backprop"), data, plugins, errors, made)


def _resumed(
    path: Path, data: Any, plugins: tuple[Any, ...], device: str | None, threads: int | None
) -> _Job:
    plan = Plan.read(path)
    if data is None and plan.python_data:
        refuse(
            "E545", f"the comparison {path} was of data from Python", fix="give it again: data=…, or --data"
        )
    plan = replace(plan, device=device or plan.device, threads=threads or plan.threads)
    wanted = [*plan.competitors, Competitor("", "", "backprop")]
    found, errors = under(lambda more: plan.check(path, more, plugins), wanted)
    backprop, _ = found.pop("", None), errors.pop("", None)
    refused(errors, found, True)
    chosen = data if data is not None else plan.data
    return _Job(path, plan, found, backprop, chosen, plugins, errors)


class _Comparing:
    """One comparison. It is also the callback of each of its trainings."""

    def __init__(self, job: _Job, listening: Callbacks) -> None:
        self.job, self.tell = job, listening
        self.board = _board(job)
        self.row = Row("")
        self.references: dict[int, Model] = {}
        self.stop: Stop | None = None
        self.said: set[str] = set()

    def run(self) -> Comparison:
        from r2d2c.train.compare_report import write_all

        job, board = self.job, self.board
        trained = [(seed, row) for seed in board.seeds for row in board.rows if row.state != "refused"]
        folders = {c.label: job.folder / c.folder for c in job.plan.competitors}
        try:
            for seed, row in trained:
                run = _whole(folders[row.label] / f"seed-{seed}", job.plugins)
                if run is not None:
                    row.runs[seed] = History.read(run)
            self.tell("on_compare", board)
            # A signal between two trainings, or while one is compiled, waits here for the next batch.
            with catching() as self.stop:
                for seed, row in trained:
                    if row.state != "diverged" and not (seed in row.runs and row.runs[seed].finished):
                        self._train(row, seed, folders[row.label] / f"seed-{seed}")
        except Interrupted:
            self.row.state = "stopped"
            self.tell("on_state", board, self.row)
            write_all(board, job.folder)
            raise Interrupted(job.folder, 0, 0) from None
        except Exception:
            if job.made and not any(run.splits for row in board.rows for run in row.runs.values()):
                with suppress(OSError):
                    shutil.rmtree(job.folder)
            raise
        for row in board.rows:
            row.state = "done" if row.state in ("waiting", "running") else row.state
        write_all(board, job.folder)
        return Comparison(job.folder, board)

    def _train(self, row: Row, seed: int, path: Path) -> None:
        from r2d2c.train.angles import Angles
        from r2d2c.train.api import train

        job, plan = self.job, self.job.plan
        self.row, row.state, row.seed = row, "running", seed
        self.history = row.runs.setdefault(seed, History())
        watching: list[Any] = [self]
        if plan.angles and job.backprop is not None:
            measuring = Angles(job.backprop, self.references)
            self.history.angles = measuring.history
            watching = [measuring, self]
        common: dict[str, Any] = {"callbacks": watching, "device": plan.device, "threads": plan.threads}
        common |= {"plugins": job.plugins}
        self.tell("on_run", self.board, row)
        try:
            if _whole(path, job.plugins) is not None:
                given = job.data if plan.python_data else None
                run = train(resume=path, data=given, **common)
            else:
                if path.exists():
                    shutil.rmtree(path)  # one that was stopped before it had saved anything
                run = train(
                    job.checked[row.label],
                    data=job.data,
                    out=path,
                    seed=seed,
                    backend=plan.backend,
                    limit_batches=plan.limit_batches,
                    **common,
                )
        except CompileError as error:
            if not any(diagnostic.code == DIVERGED for diagnostic in error.diagnostics):
                raise
            row.state, row.reasons = "diverged", error.diagnostics
            self.tell("on_state", self.board, row)
            return
        row.runs[seed] = History.read(run)
        left = [other for other in self.board.seeds if other not in row.runs]
        row.state = "waiting" if left else "done"
        self.tell("on_state", self.board, row)

    # -- as a callback of a training
    def on_start(self, start: Start) -> None:
        self.board.epochs, self.board.data = start.epochs, start.data
        if self.stop is not None and self.stop.stop:
            raise Interrupted(Path(start.folder), start.epoch, start.batch)

    def on_progress(self, progress: Progress) -> None:
        self.tell("on_progress", self.board, self.row, progress)

    def on_epoch(self, info: EpochInfo) -> None:
        for record in (info.train, info.validation):
            if record is not None:
                self.history.add(record)
        self.tell("on_epoch", self.board, self.row, info)

    def on_warning(self, diagnostic: Diagnostic) -> None:
        # Most are about the spec: every rule and every seed would say them again.
        text = f"{diagnostic.code} {diagnostic.message}"
        if text not in self.said:
            self.said.add(text)
            self.tell("on_warning", self.board, self.row, diagnostic)


def _whole(path: Path, plugins: tuple[Any, ...]) -> Run | None:
    """A run that can be gone on with; None if there is none yet."""
    if not (path / "lock.json").exists():
        return None
    run = open_run(path, plugins=plugins)
    return run if run.files.has("last") else None


def _board(job: _Job) -> Board:
    from r2d2c.credit.registry import rules

    first = next(iter(job.checked.values()))
    wanted = settings_of(first)
    board = Board(
        model=first.name,
        folder=str(job.folder),
        seeds=job.plan.seeds,
        epochs=wanted.epochs,
        better={m.label: m.metric.better for m in wanted.metrics},
        tasks=tuple(first.graph.tasks),
        data="batches from Python" if job.plan.python_data else job.plan.data or wanted.data or "",
    )
    known = rules(first.rules)
    shared = shared_losses(job.checked.values() if job.backprop is None else [job.backprop])
    seen: dict[str, int] = {}
    for competitor in job.plan.competitors:
        checked = job.checked.get(competitor.label)
        if checked is None:
            reasons = job.errors.get(competitor.label, ())
            board.rows.append(Row(competitor.label, state="refused", reasons=reasons))
            continue
        used = [known[link.credit.rule] for link in checked.graph.links]
        rewrites = any(rule.rewrite is not None for rule in used)
        colour = used[0].colour if used and competitor.label != SPEC else "#000000"
        added, trained = sizes(checked, job.backprop or checked)
        seen[colour] = seen.get(colour, -1) + 1
        board.rows.append(
            Row(competitor.label, colour, seen[colour], None if rewrites else shared, added, trained)
        )
    return board


__all__ = ["Comparison", "compare", "split_credits"]
