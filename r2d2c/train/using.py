"""`evaluate` and `predict`: what a run, a model or a spec says of data. All raise `CompileError`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import Graph
from r2d2c.sizes import Given, Number, check_sizes
from r2d2c.train.device import find_device
from r2d2c.train.load import Loaded, Request, check_for_training, load_data
from r2d2c.train.pack import is_run, opened
from r2d2c.train.precision import prepare
from r2d2c.train.refuse import refuse
from r2d2c.train.run import Origin, Run, Which, open_run
from r2d2c.train.settings import Settings, measured, read_settings

if TYPE_CHECKING:
    from r2d2c.model import Model
    from r2d2c.train.measure import Measurement
    from r2d2c.train.predict import Predictions


def settings_of(checked: Checked) -> Settings:
    """The settings of a checked spec. Raises `CompileError`."""
    sink = Sink()
    found = read_settings(checked, sink)
    sink.stop_on_errors()
    assert found is not None
    return found


def load_of(
    run: Run,
    checked: Checked,
    data: Any,
    wanted: Settings | None,
    *,
    targets: bool = True,
    whole: bool = False,
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
    classes = origin.classes if data is not None and targets else None
    folder = (run.folder / origin.folder).resolve()
    scaling = origin.scaling if data is not None else None
    # The words of an archive are a stranger's.
    trusted = data is not None or not origin.packed
    request = Request(chosen, folder, trusted, run.plugins, whole, classes, scaling)
    share = wanted.split if wanted is not None else None
    return load_data(checked, request, default=default, span=span, split=share, targets=targets)


def evaluate(
    what: Run | Model | Checked | str | Path,
    data: Any = None,
    split: str | None = None,
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

    split: train, validation, test or all; by default test. Data given here that is not the run's own, has no splits of
        its own and is not told to be split (``?test=0.2``) is measured whole, as the split ``all``.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "device": device, "batch_size": batch_size}
    return evaluate_each(what, [sizes or {}], data, split, plugins=plugins, settings=settings, **options)[0]


def evaluate_each(
    what: Run | Model | Checked | str | Path,
    each: Sequence[Mapping[str, Any]],
    data: Any = None,
    split: str | None = None,
    *,
    checkpoint: Which | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    plugins: Iterable[Any] = (),
    settings: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """As `evaluate`, with each of some sizes of the model's arguments."""
    from r2d2c.train.measure import measure, weighted

    new = split in (None, "all")
    model, loaded, wanted, which = _prepare(what, data, checkpoint, device, plugins, settings, new=new)
    splits = loaded.bound.splits
    split = split or ("all" if loaded.whole else "test")
    chosen = list(splits) if split == "all" else [split]
    if split != "all" and split not in splits:
        _no_split(loaded, split)
    size = batch_size or (wanted.batch_size if wanted else 128)
    sink = Sink()
    metrics = measured(model.graph.metrics, sink)
    numbers = [_checked_sizes(model.graph, sizes, sink) for sizes in each]
    sink.stop_on_errors()
    results: list[dict[str, Any]] = []
    for sizes in numbers:
        batches = chain.from_iterable(splits[name].loader(size).epoch(0) for name in chosen)
        found: Measurement = measure(model, batches, metrics, sizes=sizes)
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


def _is_own(data: Any, own: str | None, folder: Path) -> bool:
    """Whether data that is named is ``own``, as seen from a folder, with whatever options."""
    if not isinstance(data, str | Path) or own is None:
        return False
    (name, place), (own_name, own_place) = _source(str(data)), _source(own)
    return name == own_name and (place == own_place or _real(place) == _real(folder / own_place))


def _real(place: str | Path) -> str | None:
    """Where a path leads; what cannot be one is refused when it is opened."""
    try:
        return os.path.realpath(os.path.expanduser(place))  # noqa: PTH111
    except ValueError:
        return None


def _source(text: str) -> tuple[str, str]:
    """The name of a source and its argument without options."""
    head, _, argument = text.strip().partition(":")
    return head.partition("?")[0], argument.rpartition("?")[0] or argument


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
    whole: bool = False,
    new: bool = False,
) -> tuple[Model, Loaded, Settings | None, str | None]:
    """The model and data of a run, a model or a spec.

    whole: data without splits of its own is not split. new: it is not if it is other data than the run's or the spec's.
    """
    from r2d2c.model import Model

    if isinstance(what, str | Path) and is_run(what):
        what = open_run(what, plugins=plugins)
    if isinstance(what, Run):
        if settings:
            refuse("E548", "a run is used as it was trained: no setting of its spec can be changed")
        wanted = settings_of(what.spec)
        which = checkpoint or what.which
        own = (
            (what.origin.data, Path())
            if what.origin.data
            else (wanted.data, what.folder / what.origin.folder)
        )
        whole = whole or (new and data is not None and not _is_own(data, *own))
        loaded = load_of(
            what, what.spec, data, wanted if data is None else None, targets=targets, whole=whole
        )
        model = what.load(which)
        prepare(model, wanted.precision)
    else:
        request = Request(data, plugins=tuple(plugins), whole=whole)
        given = isinstance(what, Model)
        checked = what.spec if given else check_for_training(what, settings, tuple(plugins), request)
        wanted, which = settings_of(checked), None
        if new and data is not None and not _is_own(data, wanted.data, checked.folder):
            request = replace(request, whole=True)
        model = what if given else Model(checked)
        loaded = load_data(checked, request, default=wanted.data, span=wanted.data_span, targets=targets)
    if device is not None or not isinstance(what, Model):
        model = model.to(find_device(device))
    place = next((t.device for t in (*model.parameters(), *model.buffers())), find_device(None))
    bound = loaded.bound.to(place)
    return model, replace(loaded, bound=bound), wanted, which


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

    split: train, validation, test or all; by default all of data given here, and test of the run's own. A file that is
        given here for all of it is not split: its rows come in their own order, as the split ``all``.
    sizes: of the model's arguments, such as ``{"depth": 5}``.
    """
    from r2d2c.train.predict import run_model

    whole = data is not None and split in (None, "all")
    model, loaded, wanted, _ = _prepare(
        what, data, checkpoint, device, plugins, (), targets=False, whole=whole
    )
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
    if origin is None and isinstance(what, str | Path) and is_run(what):
        origin = Origin.read(opened(what))
    classes = origin.classes if origin is not None and origin.classes is not None else loaded.classes
    size = wanted.batch_size if wanted is not None else 128
    shown = {"train": "all"} if loaded.whole else {}
    parts = ((shown.get(name, name), splits[name].loader(size).epoch(0)) for name in chosen)
    return run_model(model, parts, classes, numbers)
