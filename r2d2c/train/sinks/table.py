"""All built-in sinks, and those that plug-ins bring in `SINKS`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from r2d2c.plugins import installed, load_file
from r2d2c.train.refuse import refuse
from r2d2c.train.sinks import mlflow, tensorboard, wandb
from r2d2c.train.sinks.record import SinkRecord

SINKS: tuple[SinkRecord, ...] = (tensorboard.RECORD, wandb.RECORD, mlflow.RECORD)


def find_sinks(
    wanted: Sequence[str | SinkRecord], events: bool, plugins: Iterable[Any]
) -> tuple[SinkRecord, ...]:
    """What to log to: ``wanted`` by name (E623), and TensorBoard's events; their libraries are there (E622)."""
    named = [one for one in wanted if isinstance(one, str)]
    known = {record.name: record for record in SINKS}
    if any(name not in known for name in named):
        known |= {record.name: record for record in _plugged(plugins)}
    found = {tensorboard.RECORD.name: tensorboard.RECORD} if events else {}
    for one in wanted:
        if isinstance(one, str):
            if one not in known:
                close = get_close_matches(one, known, 1)
                fix = f"write --log {close[0]}" if close else None
                refuse("E623", f"there is no log `{one}`", notes=[f"there are: {', '.join(known)}"], fix=fix)
            one = known[one]
        found[one.name] = one
    for record in found.values():
        if record.library is not None:
            _load(record.name, record.library, record.package or record.library)
    return tuple(found.values())


def _load(name: str, library: str, package: str) -> None:
    try:
        import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            _broken(name, library, error)
        refuse("E622", f"--log {name} needs the library {library}", fix=f"install it: pip install {package}")
    except Exception as error:  # a library that is there may fail in any way
        _broken(name, library, error)


def _broken(name: str, library: str, error: Exception) -> None:
    refuse(
        "E622",
        f"--log {name} needs the library {library}, which does not load: {type(error).__name__}: {error}",
        fix=f"try: python -c 'import {library}'",
    )


def _plugged(plugins: Iterable[Any]) -> Iterable[SinkRecord]:
    for plugin in [*installed(), *plugins]:
        if isinstance(plugin, SinkRecord):
            yield plugin
            continue
        if isinstance(plugin, (str, Path)):
            plugin = sys.modules.get(f"r2d2c_plugin_{Path(plugin).stem}") or load_file(Path(plugin))
        yield from getattr(plugin, "SINKS", ())
