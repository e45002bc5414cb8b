"""Data sources that plug-ins bring: `DATA_SOURCES`, a tuple of `DataSource` records."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2d2c.diagnostics import CompileError
from r2d2c.plugins import installed, load_file
from r2d2c.train.data.dataset import Dataset
from r2d2c.train.data.source import DataContext, DataSource
from r2d2c.train.refuse import refuse


def plugged_sources(plugins: Iterable[Any], built_in: Iterable[str]) -> tuple[DataSource, ...]:
    """The sources of plug-ins: modules, objects with `DATA_SOURCES`, paths, or records themselves.

    E592 for what is no record, or has a name that is taken. What one raises is the user's own mistake (E593).
    """
    taken, found = set(built_in), dict[str, DataSource]()
    for plugin in [*installed(), *plugins]:
        for source in _sources(plugin):
            wrong = None
            if not isinstance(source, DataSource):
                wrong = f"`DATA_SOURCES` has {type(source).__name__}, not a record `DataSource`"
            elif not re.fullmatch(r"[a-z_][a-z0-9_]*", source.name):
                wrong = f"`{source.name}` cannot be the name of a data source: small letters, digits and `_`"
            elif source.name in taken:
                wrong = f"the data source `{source.name}` is built in"
            elif found.get(source.name, source) != source:
                wrong = f"two plug-ins bring a data source `{source.name}`, and they are not the same"
            if wrong is not None:
                refuse("E592", f"a plug-in cannot be used: {wrong}")
            found[source.name] = source
    return tuple(_guarded(source) for source in found.values())


def _sources(plugin: Any) -> Iterable[Any]:
    if isinstance(plugin, DataSource):
        return (plugin,)
    if isinstance(plugin, (str, Path)):
        known = sys.modules.get(f"r2d2c_plugin_{Path(plugin).stem}")
        same = known is not None and Path(str(known.__file__)).resolve() == Path(plugin).resolve()
        plugin = known if same else load_file(Path(plugin))
    found: Iterable[Any] = getattr(plugin, "DATA_SOURCES", ())
    return found


def _guarded(source: DataSource) -> DataSource:
    def guarded(argument: str, context: DataContext) -> Dataset:
        try:
            dataset = source.open(argument, context)
        except (CompileError, KeyboardInterrupt):
            raise
        except Exception as error:  # the user's own code may raise anything
            message = f"the data source `{source.name}` of a plug-in raised {type(error).__name__}: {error}"
            refuse("E593", message, context.span, notes=[_place(error)])
        if not isinstance(dataset, Dataset):
            message = f"the data source `{source.name}` of a plug-in gave {type(dataset).__name__}"
            refuse("E593", message, context.span, fix="return an r2d2c.train.data.Dataset")
        if not len(dataset.train):
            refuse("E506", f"the data source `{source.name}` of a plug-in gave no samples", context.span)
        return dataset

    return replace(source, open=guarded)


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
