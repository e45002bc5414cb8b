"""`Diagnostic` and `Sink`.

A stage reports to a sink and carries on, so that a user sees all her mistakes of that stage at once;
the driver calls `Sink.stop_on_errors` at its end.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from r2d2c.diagnostics.catalog import CATALOG
from r2d2c.source import Span

Severity = Literal["error", "warning", "note"]
_SEVERITY: dict[str, Severity] = {"E": "error", "W": "warning", "N": "note"}


@dataclass(frozen=True, slots=True)
class Label:
    """A marked place. The first label of a diagnostic is where it happened; others say what it disagrees with."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Fix:
    """A remedy in words, and optionally the text that would replace a span."""

    text: str
    span: Span | None = None
    replacement: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnostic:
    code: str
    severity: Severity
    message: str
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    fix: Fix | None = None

    @property
    def span(self) -> Span | None:
        return self.labels[0].span if self.labels else None

    def __str__(self) -> str:
        where = f"{self.span}: " if self.span else ""
        return f"{where}{self.severity}[{self.code}]: {self.message}"


class CompileError(Exception):
    """The user's spec, data or model is at fault; `diagnostics` says how."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        from r2d2c.diagnostics.render import render_text

        return "\n\n".join(render_text(d) for d in self.diagnostics)


def suggest(name: str, known: Iterable[str]) -> Fix | None:
    """The nearest known name, as a fix, when one is near enough to be what was meant."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return Fix(f"did you mean `{near[0]}`?", replacement=near[0]) if near else None


class Sink:
    """Collects diagnostics. Warnings can be made errors (``-W error``) or allowed where they stand."""

    def __init__(self, *, warnings_are_errors: bool = False) -> None:
        self.diagnostics: list[Diagnostic] = []
        self.warnings_are_errors = warnings_are_errors
        self._seen: set[tuple[object, ...]] = set()

    def report(
        self,
        code: str,
        span: Span | None,
        message: str,
        label: str = "",
        *,
        also: Iterable[tuple[Span | None, str]] = (),
        notes: Iterable[str] = (),
        fix: Fix | str | None = None,
    ) -> None:
        """Report ``code`` at ``span``. ``also`` are the further places that take part in the mistake.

        A warning is dropped if its line, or the line above, says ``# r2d2c: allow(CODE)``. The same
        diagnostic at the same place is reported once (a block used twice has its mistakes once).
        """
        if code not in CATALOG:
            raise KeyError(f"diagnostic {code} is not in the catalog")
        severity = _SEVERITY[code[0]]
        if severity != "error" and span is not None and _allowed(code, span):
            return
        key = (code, message, span and (span.source.name, span.start, span.end))
        if key in self._seen:
            return
        self._seen.add(key)
        if severity == "warning" and self.warnings_are_errors:
            severity = "error"
        labels = [Label(span, label)] if span is not None else []
        labels += [Label(place, text) for place, text in also if place is not None]
        if isinstance(fix, str):
            fix = Fix(fix)
        if fix is not None and fix.span is None and fix.replacement is not None:
            fix = replace(fix, span=span)
        self.diagnostics.append(Diagnostic(code, severity, message, tuple(labels), tuple(notes), fix))

    @property
    def failed(self) -> bool:
        return any(d.severity == "error" for d in self.diagnostics)

    def stop_on_errors(self) -> None:
        """Raise `CompileError` with everything seen so far if any of it is an error."""
        if self.failed:
            raise CompileError(self.diagnostics)


def _allowed(code: str, span: Span) -> bool:
    line = span.line
    marker = f"r2d2c: allow({code})"
    above = span.source.line(line - 1).strip()
    return marker in span.source.line(line) or (above.startswith("#") and marker in above)
