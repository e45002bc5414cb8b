"""`refuse`: stop at a mistake that nothing after it can be checked without."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from r2d2c.diagnostics import CompileError, Fix, Sink
from r2d2c.source import Span


def refuse(
    code: str,
    message: str,
    span: Span | None = None,
    *,
    label: str = "",
    also: Iterable[tuple[Span | None, str]] = (),
    notes: Iterable[str] = (),
    fix: Fix | str | None = None,
) -> NoReturn:
    """Raise `CompileError` with one diagnostic; ``span`` is the place in the spec that asked for it."""
    sink = Sink()
    sink.report(code, span, message, label, also=also, notes=notes, fix=fix)
    raise CompileError(sink.diagnostics)
