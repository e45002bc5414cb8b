"""Plug-ins: ops and credit rules of the user's own, from installed packages, ``--plugin FILE.py`` or Python.

A plug-in is a module (or any object) with `OPS`, a tuple of `Op` records or of nn.Module classes wrapped by
`r2d2c.ops.module_op`, and `CREDIT_RULES`. A spec never names one: what a spec may use is decided by who runs it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.ops.record import Op

GROUP = "r2d2c.plugins"


@dataclass(frozen=True, slots=True)
class Found:
    """What plug-ins bring."""

    ops: tuple[Op, ...] = ()
    rules: tuple[CreditRule, ...] = ()


def load_file(path: Path) -> Any:
    """The module of ``--plugin FILE.py``. Raises `CompileError` if it cannot be imported."""
    sink = Sink()
    if not path.is_file():
        sink.report("E250", None, f"there is no plug-in file {path}")
        sink.stop_on_errors()
    name = f"r2d2c_plugin_{path.stem}"
    description = importlib.util.spec_from_file_location(name, path)
    assert description is not None and description.loader is not None
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module
    try:
        description.loader.exec_module(module)
    except Exception as error:  # the user's own code may raise anything
        sink.report("E250", None, f"the plug-in {path} does not load: {type(error).__name__}: {error}")
        raise CompileError(sink.diagnostics) from error
    return module


def installed() -> list[Any]:
    """The plug-ins of installed packages, by the entry point group ``r2d2c.plugins``."""
    return [point.load() for point in entry_points(group=GROUP)]


def collect(plugins: Iterable[Any]) -> Found:
    """The records of plug-ins: modules, objects with `OPS`/`CREDIT_RULES`, paths, or records themselves."""
    ops: list[Op] = []
    rules: list[CreditRule] = []
    for plugin in [*installed(), *plugins]:
        if isinstance(plugin, (str, Path)):
            plugin = load_file(Path(plugin))
        if isinstance(plugin, Op):
            ops.append(plugin)
        elif isinstance(plugin, CreditRule):
            rules.append(plugin)
        else:
            ops += getattr(plugin, "OPS", ())
            rules += getattr(plugin, "CREDIT_RULES", ())
    return Found(tuple(ops), tuple(rules))
