"""`train`, `evaluate` and `predict`: the calls behind the commands of the same names. All raise
`CompileError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import Graph
from r2d2c.sizes import Given, Number, check_sizes
from r2d2c.syntax.override import with_credit
from r2d2c.train.device import find_device, set_threads
from r2d2c.train.events import Callbacks
from r2d2c.train.load import Loaded, Request, check_for_training, data_text, load_data
from r2d2c.train.refuse import refuse
from r2d2c.train.resolved import resolved_text
from r2d2c.train.run import Origin, Run, Which, next_folder, open_run, seen_from
from r2d2c.train.run_folder import Lock, RunFolder
from r2d2c.train.settings import Settings, measured, overrides, read_settings
from r2d2c.train.summary import growth_facts, line, summarize

if TYPE_CHECKING:
    from r2d2c.model import Model
    from r2d2c.train.measure import Measurement
    from r2d2c.train.predict import Predictions

__all__ = ["Run", "evaluate", "open_run", "predict", "train"]


class _Lines:
    """``quiet=False``: a line for each epoch."""

    def on_epoch(self, info: Any) -> None:
        record = info.validation or info.train
        print(f"epoch {info.epoch}: {record['split']} {line(record)}")

    def on_warning(self, diagnostic: Any) -> None:
        print(diagnostic)


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
    sizes: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    credit: str | None = None,
    plugins: Iterable[Any] = (),
    callbacks: Iterable[Any] = (),
    resume: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    backend: str = "eager",
    limit_batches: int | None = None,
    checkpoint_every: float = 120.0,
    angles: bool = False,
    quiet: bool = True,
) -> Run:
    """Train a spec into a new run folder, or go on with a run (``resume``).

    data: a source such as ``"digits"``, a `Dataset`, an iterable of batches (or a function that gives one),
        or a
        mapping of these by split; what the spec names if None.
    chunk: how many steps of a sequence are learned at once; the model's state goes on to the next.
    sizes: of the model's arguments, such as ``{"depth": 3}`` or ``{"depth": "1..4"}`` for another one in every batch.
    settings, credit: see `r2d2c.load`. out: the run's folder, ``runs/NAME-NNN`` if None. callbacks: objects
    with methods of `r2d2c.train.events.Callback`. angles: write the angles to backprop's gradient (see
    `r2d2c.train.angles`) into ``angles.csv``. Ctrl-C finishes the batch, saves, and raises `KeyboardInterrupt`.
    """
    listening = _listening(callbacks, angles, quiet, resume)
    changed = overrides(
        epochs=epochs, batch_size=batch_size, seed=seed, optimizer=optimizer, schedule=schedule, split=split
    )
    changed += overrides(chunk=chunk)
    changed += overrides(**{f"sizes.{name}": value for name, value in (sizes or {}).items()})
    if resume is not None:
        given = [batch_size, seed, optimizer, schedule, split, chunk, credit, limit_batches, out]
        if spec is not None or settings or sizes or any(value is not None for value in given):
            refuse(
                "E548", "a run is resumed as it was started: nothing but epochs, data and device can be given"
            )
        return _resume(
            Path(resume), tuple(plugins), data, epochs, device, threads, listening, checkpoint_every
        )
    if spec is None:
        raise TypeError("train() needs a spec, or resume=")
    request = Request(data, trusted=True)
    path = Path(out) if out is not None else None
    if path is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        RunFolder.create(path, spec="", lock=Lock.of("", seed=0, threads=0, device=""))  # refuses
    text = data_text(request)
    named = overrides(data=text) if text is not None else []
    checked = check_for_training(
        spec, [*changed, *named, *with_credit(settings, credit)], tuple(plugins), request
    )
    for diagnostic in checked.diagnostics:
        if diagnostic.severity == "warning":
            Callbacks(listening)("on_warning", diagnostic)
    wanted = _settings(checked)
    loaded = load_data(checked, request, default=wanted.data, span=wanted.data_span, split=wanted.split)
    place, count = find_device(device), set_threads(threads)
    from r2d2c.model import Model
    from r2d2c.train.loop import Limits, Trainer

    model = Model(checked, backend).to(place)
    made = path is None
    path = path or next_folder(checked.name)
    resolved = resolved_text(checked)
    try:
        folder = RunFolder.create(
            path, spec=resolved, lock=Lock.of(resolved, seed=wanted.seed, threads=count, device=str(place))
        )
        Origin(
            spec=checked.spec.source.name.rpartition("/")[2],
            folder=seen_from(checked.folder, path),
            data=text,
            python_data=data is not None and text is None,
            backend=backend,
            limit_batches=limit_batches,
            classes=loaded.classes,
            shapes=loaded.bound.shapes,
        ).write(path)
        limits = Limits(limit_batches, checkpoint_every)
        bound = loaded.bound.to(place)
        trainer = Trainer(model, wanted, bound, folder, callbacks=listening, limits=limits)
    except BaseException:
        if made:
            with suppress(OSError):
                RunFolder(path).remove()
        raise
    run = Run(path, tuple(plugins) or (*checked.ops.extra, *checked.rules))
    trainer.run()
    _summarize(run, wanted, loaded, str(place))
    return run


def _listening(callbacks: Iterable[Any], angles: bool, quiet: bool, resume: str | Path | None) -> list[Any]:
    """All callbacks. A run that had its angles measured has them measured when it goes on."""
    listening = [*callbacks, *([] if quiet else [_Lines()])]
    if angles or (resume is not None and (Path(resume) / "angles.csv").is_file()):
        from r2d2c.train.angles import Angles

        if not any(isinstance(callback, Angles) for callback in listening):
            listening.insert(0, Angles())
    return listening


def _settings(checked: Checked) -> Settings:
    sink = Sink()
    found = read_settings(checked, sink)
    sink.stop_on_errors()
    assert found is not None
    return found


def _resume(
    path: Path,
    plugins: tuple[Any, ...],
    data: Any,
    epochs: int | None,
    device: str | None,
    threads: int | None,
    callbacks: list[Any],
    checkpoint_every: float,
) -> Run:
    run = open_run(path, plugins=plugins)
    checkpoint = run.files.load()
    total = epochs if epochs is not None else int(checkpoint.state["epochs"])
    if checkpoint.state["epoch"] > total or (
        checkpoint.state["finished"] and checkpoint.state["epoch"] >= total
    ):
        refuse(
            "E548",
            f"the run {path} is finished: it has {checkpoint.state['epoch']} of {total} epochs",
            fix=f"train it further with --epochs {checkpoint.state['epoch'] + 10}",
        )
    checked = run.check(overrides(epochs=total))
    wanted = _settings(checked)
    lock = run.files.lock
    place, count = find_device(device or lock.device), set_threads(threads)
    from r2d2c.model import Model
    from r2d2c.train.loop import Limits, Trainer

    loaded = _load_of(run, checked, data, wanted)
    model = Model(checked, run.origin.backend).to(place)
    limits = Limits(run.origin.limit_batches, checkpoint_every)
    trainer = Trainer(model, wanted, loaded.bound.to(place), run.files, callbacks=callbacks, limits=limits)
    now = Lock.of(run.files.spec, seed=wanted.seed, threads=count, device=str(place))
    run.files.check_surroundings(now, trainer.sink)
    trainer.run(checkpoint)
    run = Run(path, plugins)
    _summarize(run, wanted, loaded, str(place))
    return run


def _load_of(
    run: Run, checked: Checked, data: Any, wanted: Settings | None, *, targets: bool = True
) -> Loaded:
    """The data of a run, or other data for it."""
    origin = run.origin
    train_section = checked.spec.document.train
    default = train_section.data if train_section is not None else None
    span = train_section.at("data") if train_section is not None and default is not None else None
    if data is None and origin.python_data:
        refuse(
            "E545",
            f"the run {run.folder} was trained on data from Python",
            fix="give it again: data=…, or --data",
        )
    chosen = data if data is not None else origin.data
    request = Request(chosen, (run.folder / origin.folder).resolve(), trusted=True)
    share = wanted.split if wanted is not None else None
    return load_data(checked, request, default=default, span=span, split=share, targets=targets)


def _summarize(run: Run, settings: Settings, loaded: Loaded, device: str) -> None:
    records = run.metrics
    state = run.files.load().state
    best = state["best"]
    facts: dict[str, Any] = {
        "data": loaded.name,
        "epochs": settings.epochs,
        "batch size": settings.batch_size,
        "optimizer": settings.optimizer,
        "seed": settings.seed,
        "device": device,
        **growth_facts(state["growth"]["counts"]),
        "time": f"{sum(record.get('seconds') or 0 for record in records):.1f} s of training",
    }
    if best is not None:
        facts["best"] = f"epoch {best['epoch']} by {best['monitor']} ({best['value']:.6g})"
    facts["test measured on"] = (
        f"the {run.which} checkpoint" if run.test else "nothing: the data has no test split"
    )
    run.files.write_summary(summarize(run.spec.name, records, facts))


def evaluate(
    what: Run | Model | Checked | str | Path,
    data: Any = None,
    split: str = "test",
    *,
    checkpoint: Which | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    plugins: Iterable[Any] = (),
    settings: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Losses and metrics on one split: of a run (or its folder), a model, or a spec that nobody has
    trained. ``sizes``: of the model's arguments, such as ``{"depth": 5}``.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "device": device, "batch_size": batch_size}
    return evaluate_each(what, [sizes or {}], data, split, plugins=plugins, settings=settings, **options)[0]


def evaluate_each(
    what: Run | Model | Checked | str | Path,
    each: Sequence[Mapping[str, Any]],
    data: Any = None,
    split: str = "test",
    *,
    checkpoint: Which | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    plugins: Iterable[Any] = (),
    settings: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """As `evaluate`, with each of some sizes of the model's arguments."""
    from r2d2c.train.measure import measure, weighted

    model, loaded, wanted, which = _prepare(what, data, checkpoint, device, plugins, settings)
    chosen = loaded.bound.splits.get(split)
    if chosen is None:
        _no_split(loaded, split)
    loader = chosen.loader(batch_size or (wanted.batch_size if wanted else 128))
    sink = Sink()
    metrics = measured(model.graph.metrics, sink)
    numbers = [_checked_sizes(model.graph, sizes, sink) for sizes in each]
    sink.stop_on_errors()
    results: list[dict[str, Any]] = []
    for sizes in numbers:
        found: Measurement = measure(model, loader.epoch(0), metrics, sizes=sizes)
        results.append(
            {
                "model": model.spec.name,
                "checkpoint": which,
                "data": loaded.name,
                "split": split,
                **({"sizes": model._split(sizes)[1]} if model.graph.arguments else {}),
                "samples": found.samples,
                "loss": weighted(model, found.losses),
                "losses": found.losses,
                "metrics": found.metrics,
            }
        )
    return results


def _checked_sizes(graph: Graph, sizes: Mapping[str, Any] | None, sink: Sink) -> dict[str, Number]:
    return check_sizes(graph, {name: Given(str(value)) for name, value in (sizes or {}).items()}, sink)


def _no_split(loaded: Loaded, split: str) -> NoReturn:
    have = ", ".join(loaded.bound.splits)
    first = next(iter(loaded.bound.splits), "train")
    refuse(
        "E539", f"{loaded.name} has no {split} split", notes=[f"it has: {have}"], fix=f"write --split {first}"
    )


def _prepare(
    what: Any,
    data: Any,
    checkpoint: Which | None,
    device: str | None,
    plugins: Iterable[Any],
    settings: Sequence[str],
    *,
    targets: bool = True,
) -> tuple[Model, Loaded, Settings | None, str | None]:
    """The model and data of a run, a model or a spec."""
    from r2d2c.model import Model

    if isinstance(what, str | Path) and Path(what).is_dir():
        what = open_run(what, plugins=plugins)
    if isinstance(what, Run):
        if settings:
            refuse("E548", "a run is used as it was trained: no setting of its spec can be changed")
        wanted = _settings(what.spec)
        which = checkpoint or what.which
        loaded = _load_of(what, what.spec, data, wanted if data is None else None, targets=targets)
        model = what.load(which)
    else:
        request = Request(data, trusted=True)
        given = isinstance(what, Model)
        checked = what.spec if given else check_for_training(what, settings, tuple(plugins), request)
        wanted, which = _settings(checked), None
        model = what if given else Model(checked)
        loaded = load_data(checked, request, default=wanted.data, span=wanted.data_span, targets=targets)
    if device is not None or not isinstance(what, Model):
        model = model.to(find_device(device))
    place = next((t.device for t in (*model.parameters(), *model.buffers())), find_device(None))
    bound = loaded.bound.to(place)
    return model, Loaded(bound, loaded.name, loaded.diagnostics), wanted, which


def predict(
    what: Run | Model | str | Path,
    data: Any = None,
    split: str | None = None,
    *,
    checkpoint: Which | None = None,
    device: str | None = None,
    plugins: Iterable[Any] = (),
    sizes: Mapping[str, Any] | None = None,
) -> Predictions:
    """The outputs of the composed model for every sample of data, which needs no targets.

    split: train, validation, test or all; by default all of data given here, and test of the run's own.
    sizes: of the model's arguments, such as ``{"depth": 5}``.
    """
    from r2d2c.train.predict import run_model

    model, loaded, wanted, _ = _prepare(what, data, checkpoint, device, plugins, (), targets=False)
    sink = Sink()
    numbers = _checked_sizes(model.graph, sizes, sink)
    sink.stop_on_errors()
    splits = loaded.bound.splits
    split = split or ("test" if data is None and "test" in splits else "all")
    chosen = list(splits) if split == "all" else [split]
    for name in chosen:
        if name not in splits:
            _no_split(loaded, name)
    origin = what.origin if isinstance(what, Run) else None
    if origin is None and isinstance(what, str | Path) and Path(what).is_dir():
        origin = Origin.read(Path(what))
    classes = origin.classes if origin is not None and origin.classes is not None else loaded.classes
    size = wanted.batch_size if wanted is not None else 128
    parts = ((name, splits[name].loader(size).epoch(0)) for name in chosen)
    return run_model(model, parts, classes, numbers)
