"""`train`: the call behind the command of the same name, next to those of `using`. All raise `CompileError`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.driver import Checked
from r2d2c.syntax.override import with_credit
from r2d2c.train.augmentation import check_augment
from r2d2c.train.device import set_threads
from r2d2c.train.distributed.start import check_out, find_team, place_here, run_to_go_on, unpack_once
from r2d2c.train.distributed.team import rank_here, restarted
from r2d2c.train.events import Callbacks
from r2d2c.train.finish import summarize_run
from r2d2c.train.listening import all_callbacks
from r2d2c.train.load import Request, check_for_training, data_text, load_data
from r2d2c.train.pack import is_archive
from r2d2c.train.refuse import refuse
from r2d2c.train.resolved import resolved_text
from r2d2c.train.run import Origin, Run, next_folder, open_run, seen_from
from r2d2c.train.run_folder import Lock, RunFolder
from r2d2c.train.settings import overrides
from r2d2c.train.start import find_start
from r2d2c.train.using import evaluate, evaluate_each, load_of, predict, settings_of

if TYPE_CHECKING:
    pass

__all__ = ["Run", "evaluate", "evaluate_each", "open_run", "predict", "train"]


def train(
    spec: Checked | str | Path | None = None,
    *,
    data: Any = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    optimizer: str | None = None,
    schedule: str | None = None,
    split: float | None = None,
    chunk: int | None = None,
    workers: int | None = None,
    sizes: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    credit: str | None = None,
    plugins: Iterable[Any] = (),
    callbacks: Iterable[Any] = (),
    resume: str | Path | None = None,
    start: Run | str | Path | None = None,
    rename: Sequence[str] | Mapping[str, str] = (),
    device: str | None = None,
    threads: int | None = None,
    backend: str = "eager",
    limit_batches: int | None = None,
    checkpoint_every: float = 120.0,
    angles: bool = False,
    log: Sequence[Any] = (),
    tensorboard: bool = True,
    parallel: str | None = None,
    shard_optimizer: bool = False,
    quiet: bool = True,
) -> Run:
    """Train a spec into a new run folder, or go on with a run (``resume``).

    data: a source such as ``"digits"``, a `Dataset`, an iterable of batches (or a function that gives one), or a mapping
    of these by split; what the spec names if None. chunk: how many steps of a sequence are learned at once; the model's
    state goes on to the next. sizes: of the model's arguments, such as ``{"depth": 3}``, or ``{"depth": "1..4"}`` for
    another one in every batch. settings, credit: see `r2d2c.load`. out: the run's folder, ``runs/NAME-NNN`` if None.
    callbacks: objects with methods of `r2d2c.train.events.Callback`. start: a run or checkpoint to begin with, by name;
    rename: what is called otherwise there, ``{"old": "new"}`` (docs/transplant.md). angles: write the angles to
    backprop's gradient (see `r2d2c.train.angles`). log: where else to log, ``["wandb"]``, ``["mlflow"]`` or records; tensorboard: write
    its events. parallel, shard_optimizer: what several processes do that ``torchrun``
    starts (docs/training.md): ``data`` shares batches, ``tasks`` groups of tasks. Ctrl-C finishes the batch, saves, and raises `KeyboardInterrupt`.
    """
    plugins = tuple(plugins)
    if resume is not None and is_archive(resume):
        resume, out = unpack_once(Path(resume), out, device), None
    listening = all_callbacks(callbacks, angles, quiet, resume, log, tensorboard, plugins)
    changed = overrides(
        epochs=epochs, batch_size=batch_size, seed=seed, optimizer=optimizer, schedule=schedule, split=split
    )
    changed += overrides(chunk=chunk, workers=workers)
    changed += overrides(**{f"sizes.{name}": value for name, value in (sizes or {}).items()})
    shared = (parallel, shard_optimizer)
    if resume is not None:
        given = [batch_size, seed, optimizer, schedule, split, chunk, credit, limit_batches, out, start]
        if spec is not None or settings or sizes or any(value is not None for value in given):
            refuse(
                "E548", "a run is resumed as it was started: nothing but epochs, data and device can be given"
            )
        return _resume(
            Path(resume),
            tuple(plugins),
            data,
            epochs,
            device,
            threads,
            listening,
            checkpoint_every,
            shared,
            restarted(),
            workers,
        )
    if spec is None:
        raise TypeError("train() needs a spec, or resume=")
    request = Request(data, plugins=tuple(plugins))
    path = Path(out) if out is not None else None
    check_out(path)
    if (again := run_to_go_on(path, device)) is not None:
        return _resume(
            again,
            tuple(plugins),
            data,
            None,
            device,
            threads,
            listening,
            checkpoint_every,
            shared,
            True,
            workers,
        )
    if path is not None and not rank_here() and path.exists() and (not path.is_dir() or any(path.iterdir())):
        RunFolder.create(path, spec="", lock=Lock.of("", seed=0, threads=0, device=""))  # refuses
    text = data_text(request)
    named = overrides(data=text) if text is not None else []
    checked = check_for_training(
        spec, [*changed, *named, *with_credit(settings, credit)], tuple(plugins), request
    )
    for diagnostic in checked.diagnostics:
        if diagnostic.severity == "warning":
            Callbacks(listening)("on_warning", diagnostic)
    wanted, extra = settings_of(checked), tuple(plugins) or (*checked.ops.extra, *checked.rules)
    begun = find_start(start, rename, extra) if start is not None else None
    loaded = load_data(checked, request, default=wanted.data, span=wanted.data_span, split=wanted.split)
    check_augment(loaded.bound, wanted.augment)
    team, place, count = find_team(*shared, device), place_here(device), set_threads(threads)
    from r2d2c.model import Model
    from r2d2c.train.loop import Limits, Trainer

    model = Model(checked, backend).to(place)
    go_on = None if begun is None else begun.plan(model)
    made = path is None
    path = team.decide(path or (next_folder(checked.name) if team.first else Path()))
    resolved = resolved_text(checked)
    try:
        lock = Lock.of(resolved, seed=wanted.seed, threads=count, device=str(place))
        folder = RunFolder.create(path, spec=resolved, lock=lock) if team.first else RunFolder(path)
        origin = Origin(
            spec=checked.spec.source.name.rpartition("/")[2],
            folder=seen_from(checked.folder, path),
            data=text,
            python_data=data is not None and text is None,
            backend=backend,
            limit_batches=limit_batches,
            classes=loaded.classes,
            scaling=loaded.bound.scaling,
            shapes=loaded.bound.shapes,
        )
        if team.first:
            origin.write(path)
        team.wait()
        limits = Limits(limit_batches, checkpoint_every)
        bound = loaded.bound.to(place)
        trainer = Trainer(model, wanted, bound, folder, callbacks=listening, limits=limits, team=team)
        if go_on is not None:
            go_on(trainer)
    except BaseException:
        if made and team.first:
            with suppress(OSError):
                RunFolder(path).remove()
        raise
    run = Run(path, extra)
    trainer.run()
    summarize_run(run, wanted, loaded, str(place), team)
    return run


def _resume(
    path: Path,
    plugins: tuple[Any, ...],
    data: Any,
    epochs: int | None,
    device: str | None,
    threads: int | None,
    callbacks: list[Any],
    checkpoint_every: float,
    shared: tuple[str | None, bool] = (None, False),
    again: bool = False,
    workers: int | None = None,
) -> Run:
    """again: whether it is `torchrun` that starts it again, which has nothing left to do for a finished run."""
    run = open_run(path, plugins=plugins)
    checkpoint = run.files.load()
    total = epochs if epochs is not None else int(checkpoint.state["epochs"])
    early = checkpoint.state.get("stopped") is not None and total == checkpoint.state["epochs"]
    if checkpoint.state["epoch"] > total or (
        checkpoint.state["finished"] and (checkpoint.state["epoch"] >= total or early)
    ):
        if again:
            return run
        refuse(
            "E548",
            f"the run {path} is finished: it has {checkpoint.state['epoch']} of {total} epochs"
            + (", and stopped early" if early else ""),
            fix=f"train it further with --epochs {max(total, checkpoint.state['epoch']) + 10}",
        )
    checked = run.check(overrides(epochs=total, workers=workers))
    wanted = settings_of(checked)
    lock = run.files.lock
    team, place = find_team(*shared, device or lock.device), place_here(device or lock.device)
    count = set_threads(threads)
    from r2d2c.model import Model
    from r2d2c.train.loop import Limits, Trainer

    loaded = load_of(run, checked, data, wanted)
    model = Model(checked, run.origin.backend).to(place)
    limits = Limits(run.origin.limit_batches, checkpoint_every)
    bound = loaded.bound.to(place)
    trainer = Trainer(model, wanted, bound, run.files, callbacks=callbacks, limits=limits, team=team)
    now = Lock.of(run.files.spec, seed=wanted.seed, threads=count, device=str(place))
    run.files.check_surroundings(now, trainer.sink)
    trainer.run(checkpoint)
    run = Run(path, plugins)
    summarize_run(run, wanted, loaded, str(place), team)
    return run
