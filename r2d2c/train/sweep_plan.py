"""From the arguments of a sweep to what every training is of, with all that can be checked before one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.driver import Checked
from r2d2c.train.compare_plan import settings_of as training_of
from r2d2c.train.load import Request, check_for_training, load_data
from r2d2c.train.refuse import refuse
from r2d2c.train.run import next_folder
from r2d2c.train.settings import TOTAL, Monitor
from r2d2c.train.sweep_board import Setting
from r2d2c.train.sweep_space import Choices, Space, number, settings_of
from r2d2c.train.sweep_study import FILE, GRID, PRUNERS, SAMPLERS
from r2d2c.train.sweep_worker import Place


def check_arguments(
    sampler: str,
    trials: int | None,
    prune: str,
    seeds: int | Sequence[int],
    workers: int,
    data: Any,
    plugins: tuple[Any, ...],
) -> None:
    """`ValueError` for what no spec and no command line can bring here."""
    if sampler not in SAMPLERS or prune not in PRUNERS:
        raise ValueError(f"sampler is one of {', '.join(SAMPLERS)}; prune one of {', '.join(PRUNERS)}")
    if (sampler == GRID) != (trials is None):
        raise ValueError("trials is how many settings tpe and random draw; a grid has as many as it has")
    if (trials is not None and trials < 1) or workers < 1 or (not seeds if seeds != 0 else True):
        raise ValueError("trials, seeds and workers are at least 1")
    if workers > 1 and (
        not isinstance(data, str | None) or not all(isinstance(p, str | Path) for p in plugins)
    ):
        raise ValueError("several workers need data and plugins that have names, for other processes to open")


def base(
    spec: Checked | str | Path,
    settings: Sequence[str],
    space: Space,
    plugins: tuple[Any, ...],
    request: Request,
) -> tuple[Checked, tuple[str, ...]]:
    """The spec as the settings leave it, and all settings, those that it had included. Raises `CompileError`.

    Where the spec as it stands has mistakes that every setting mends, the first setting of the space decides.
    """
    before = spec.settings if isinstance(spec, Checked) else ()
    try:
        checked = check_for_training(spec, settings, plugins, request)
        training_of(checked)
    except CompileError as error:
        first = {key: _first(hole) for key, hole in space.holes().items()}
        try:
            checked = check_for_training(
                spec, [*settings, *settings_of(space.values(first))], plugins, request
            )
        except CompileError:
            raise error from None
    return checked, (*before, *settings)


def _first(hole: Any) -> str:
    return hole.values[0] if isinstance(hole, Choices) else number(hole.low, hole.whole)


def planned(checked: Checked, request: Request, settings: tuple[str, ...]) -> Place:
    """What every training is of, and what decides. Reads the data once, so that its mistakes are found first."""
    wanted = training_of(checked)
    loaded = load_data(checked, request, default=wanted.data, span=wanted.data_span, split=wanted.split)
    monitor = wanted.monitor
    if loaded.bound.validation is None and monitor.kind == "metrics":
        monitor = Monitor("total", TOTAL)  # what a training without validation data looks at, see `Judge`
    source = checked.spec.source
    return Place(Path(), source.name, source.text, checked.folder, settings, monitor, request.what)


def refused(place: Place, space: Space, skip: bool) -> dict[str, tuple[str, ...]]:
    """The settings of a grid that the spec cannot have, by their labels; raises unless they are to be skipped."""
    found: dict[str, tuple[str, ...]] = {}
    diagnostics: list[Diagnostic] = []
    count = 0
    for drawn in space.grid():
        setting = Setting(0, space.values(drawn))
        count += 1
        try:
            training_of(place.check(settings_of(setting.values)))
        except CompileError as error:
            errors = [d for d in error.diagnostics if d.severity == "error"]
            found[setting.label()] = tuple(f"{d.code}: {d.message}" for d in errors)
            told = {(d.code, d.message, d.span) for d in diagnostics}
            note = f"so `{setting.label()}` cannot be trained"
            diagnostics += [
                replace(d, notes=(*d.notes, note)) for d in errors if (d.code, d.message, d.span) not in told
            ]
    if found and not (skip and len(found) < count):
        raise CompileError(diagnostics)
    return found


def folder_of(checked: Checked, out: str | Path | None) -> tuple[Path, bool]:
    """The folder of a sweep, and whether it is new. E522 if something else is in it."""
    if out is None:
        return next_folder(f"sweep-{checked.name}"), True
    path = Path(out)
    if path.exists() and not (path / FILE).exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty and has no sweep" if path.is_dir() else "is a file"
        refuse("E522", f"the folder {path} {what}", fix="choose another with --out")
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    return path, made


__all__ = ["base", "check_arguments", "folder_of", "planned", "refused", "training_of"]
