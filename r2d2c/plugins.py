"""Plug-ins: ops and credit rules of the user's own, from installed packages, ``--plugin FILE.py`` or Python.

A plug-in is a module (or any object) with `OPS`, a tuple of `Op` records or of nn.Module classes wrapped by
`r2d2c.ops.module_op`, `OP_KINDS`, what the ops of op graphs may be, `CREDIT_RULES`, and `DATA_SOURCES`, which
`r2d2c.train.data.plugged` finds. A spec never names one: what a spec may use is decided by who runs it.
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
from r2d2c.opkinds import OpKind, problem
from r2d2c.ops.record import Op

GROUP = "r2d2c.plugins"


@dataclass(frozen=True, slots=True)
class Found:
    """What plug-ins bring. ops: those of specs, and kinds of op graphs."""

    ops: tuple[Op | OpKind, ...] = ()
    rules: tuple[CreditRule, ...] = ()


def load_file(path: Path) -> Any:
    """The module of ``--plugin FILE.py``. Raises `CompileError` if it cannot be imported."""
    sink = Sink()
    if not path.is_file():
        sink.report("E250", None, f"there is no plug-in file {path}")
        sink.stop_on_errors()
    if path.suffix != ".py":
        sink.report("E250", None, f"the plug-in {path} is no Python file", fix="its name ends in .py")
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
    """The records of plug-ins: modules, objects with `OPS`/`OP_KINDS`/`CREDIT_RULES`, paths, or records themselves.

    Raises `CompileError` for a file that does not load (E250), and a kind that cannot be (E254).
    """
    ops: list[Op] = []
    kinds: list[OpKind] = []
    rules: list[CreditRule] = []
    for plugin in [*installed(), *plugins]:
        if isinstance(plugin, (str, Path)):
            plugin = load_file(Path(plugin))
        if isinstance(plugin, Op):
            ops.append(plugin)
        elif isinstance(plugin, OpKind):
            kinds.append(plugin)
        elif isinstance(plugin, CreditRule):
            rules.append(plugin)
        else:
            ops += getattr(plugin, "OPS", ())
            kinds += getattr(plugin, "OP_KINDS", ())
            rules += getattr(plugin, "CREDIT_RULES", ())
    return Found((*ops, *_checked(kinds)), tuple(rules))


def _checked(kinds: Iterable[OpKind]) -> tuple[OpKind, ...]:
    """Each once. A plug-in that is installed and named, too, brings nothing new."""
    sink = Sink()
    found: dict[str, OpKind] = {}
    for kind in kinds:
        wrong = problem(kind)
        if wrong is None and found.setdefault(kind.name, kind) != kind:
            wrong = f"two plug-ins bring a kind `{kind.name}`, and they are not the same"
        if wrong is not None:
            sink.report("E254", None, f"a plug-in cannot be used: {wrong}")
    sink.stop_on_errors()
    return tuple(found.values())
