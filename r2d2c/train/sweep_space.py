"""`--over KEY=VALUES`: what a sweep varies. Nothing here imports torch or Optuna.

credit=backprop,direct                          values, with commas between
dims.H=16..256:log                              a range; `:log`, or `:8` for steps of 8
train.optimizer=adam(lr={1e-4..1e-1:log})       a hole in a text, with values or a range in braces
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite, prod
from typing import Any, TypeAlias

from r2d2c.diagnostics import Sink
from r2d2c.source import Source, Span
from r2d2c.syntax.override import with_credit

CREDIT, SPEC = "credit", "spec"
MOST = 10_000  # settings of a grid
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*(?::\s*(log|{_NUMBER}))?\s*")
_EXAMPLE = "for example `--over dims.H=64,128` or `--over dims.H=16..256:log`"


@dataclass(frozen=True, slots=True)
class Choices:
    """Values as `--set` takes them."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """From low to high, both included. whole: integers only. step: None draws any number in between."""

    low: float
    high: float
    whole: bool
    log: bool = False
    step: float | None = None

    def points(self) -> tuple[str, ...] | None:
        """All numbers of the range; None if they cannot be counted."""
        step = self.step if self.step is not None else 1.0 if self.whole and not self.log else None
        if step is None:
            return None
        count = int((self.high - self.low) / step + 1e-9) + 1
        return tuple(number(self.low + k * step, self.whole) for k in range(min(count, MOST + 1)))


Hole: TypeAlias = Choices | Range


def number(value: float, whole: bool) -> str:
    """A number as it is set: what a table shows is what was trained."""
    return str(round(value)) if whole else f"{value:.6g}"


@dataclass(frozen=True, slots=True)
class Axis:
    """One `--over`: a key, and its value as texts and holes. ``text`` is as it was given."""

    key: str
    parts: tuple[str | Hole, ...]
    text: str
    span: Span

    def holes(self) -> dict[str, Hole]:
        """The holes by their names: that of the key, with a number if there are several."""
        found = [part for part in self.parts if not isinstance(part, str)]
        return {self.key if len(found) == 1 else f"{self.key}#{k}": hole for k, hole in enumerate(found, 1)}

    def value(self, drawn: Mapping[str, str]) -> str:
        """The whole value, from those of the holes."""
        values = iter(drawn[name] for name in self.holes())
        return "".join(part if isinstance(part, str) else next(values) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Space:
    axes: tuple[Axis, ...]

    def holes(self) -> dict[str, Hole]:
        return {name: hole for axis in self.axes for name, hole in axis.holes().items()}

    def values(self, drawn: Mapping[str, str]) -> dict[str, str]:
        """What every key is set to."""
        return {axis.key: axis.value(drawn) for axis in self.axes}

    def grid(self) -> Iterator[dict[str, str]]:
        """Every combination, the first `--over` slowest. Call `check_grid` before."""
        holes = self.holes()
        for drawn in product(*(points(hole) or () for hole in holes.values())):
            yield dict(zip(holes, drawn, strict=True))

    def check_grid(self, sink: Sink) -> None:
        """E641 where a range has no end of numbers, or the grid too many."""
        for axis in self.axes:
            if any(points(hole) is None for hole in axis.holes().values()):
                sink.report(
                    "E641",
                    axis.span,
                    f"`{axis.key}` takes any number of a range, which no grid can try",
                    fix="write values, a step as `0.1..0.5:0.1`, or draw them: --sampler tpe --trials 30",
                )
        counts = [len(points(hole) or ()) for hole in self.holes().values()]
        if not sink.diagnostics and prod(counts) > MOST:
            sink.report(
                "E641",
                self.axes[0].span,
                f"the grid has more than {MOST:,} settings",
                notes=[f"{axis.text}" for axis in self.axes],
                fix="fewer values, or draw some: --sampler random --trials 50",
            )


def points(hole: Hole) -> tuple[str, ...] | None:
    return hole.values if isinstance(hole, Choices) else hole.points()


def settings_of(values: Mapping[str, str]) -> tuple[str, ...]:
    """What a setting changes in the spec, as ``settings`` of `r2d2c.load` has it."""
    credit = values.get(CREDIT)
    given = [f"{key}={value}" for key, value in values.items() if key != CREDIT]
    return with_credit(given, None if credit in (None, SPEC) else credit)


# -- reading
def read_space(over: Sequence[str] | Mapping[str, Any], sink: Sink) -> Space | None:
    """The space of `--over` texts, or of a mapping from Python; None after E640 for every mistake."""
    texts = list(over) if not isinstance(over, Mapping) else [_text(key, v) for key, v in over.items()]
    before = len(sink.diagnostics)
    axes: dict[str, Axis] = {}
    for text in texts:
        axis = _read(text, sink)
        if axis is not None and axis.key in axes:
            sink.report(
                "E640", axis.span, f"`{axis.key}` is swept twice", also=[(axes[axis.key].span, "here")]
            )
        elif axis is not None:
            axes[axis.key] = axis
    if not texts:
        sink.report("E640", None, "nothing says what the sweep is over", fix=_EXAMPLE)
    return Space(tuple(axes.values())) if len(sink.diagnostics) == before else None


def _text(key: str, values: Any) -> str:
    """An entry of a Python mapping as a text of `--over`. A text is one already; a list has single values."""
    if isinstance(values, str):
        return f"{key}={values}"
    listed = list(values) if not isinstance(values, int | float) else [values]
    return f"{key}={','.join(_one(value) for value in listed)}"


def _one(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    return value if len(_split(value)) == 1 and not _RANGE.fullmatch(value) else json.dumps(value)


def _read(text: str, sink: Sink) -> Axis | None:
    source = Source(f"--over {text}", text)
    key, equals, rest = text.partition("=")
    key, span = key.strip(), Span(source, 0, max(len(text), 1))
    if not (equals and key and rest.strip()):
        sink.report("E640", span, "expected `KEY=VALUES`", fix=_EXAMPLE)
        return None
    if key in ("train.seed", "seed"):
        sink.report("E640", span, "a sweep has seeds of its own", fix="write `--seeds 5`")
        return None
    at = len(text) - len(rest)
    holes = list(_holes(rest))
    parts: list[str | Hole] = []
    if holes:
        end = 0
        for start, stop in holes:
            hole = _hole(rest[start + 1 : stop - 1], Span(source, at + start + 1, at + stop - 1), sink)
            if hole is None:
                return None
            parts += [rest[end:start], hole]
            end = stop
        parts = [part for part in (*parts, rest[end:]) if part]
    else:
        hole = _hole(rest, Span(source, at, len(text)), sink)
        if hole is None:
            return None
        parts = [hole]
    return Axis(key, tuple(parts), text, span)


def _hole(text: str, span: Span, sink: Sink) -> Hole | None:
    found = _RANGE.fullmatch(text)
    if found is None:
        values = [value.strip() for value in _split(text)]
        if not all(values):
            sink.report("E640", span, "a value is missing between two commas", fix=_EXAMPLE)
            return None
        twice = next((value for k, value in enumerate(values) if value in values[:k]), None)
        if twice is not None:
            sink.report("E640", span, f"`{twice}` is there twice")
            return None
        return Choices(tuple(values))
    low, high, how = float(found[1]), float(found[2]), found[3]
    whole = all(re.fullmatch(r"[+-]?\d+", found[k]) for k in (1, 2))
    log, step = how == "log", float(how) if how not in (None, "log") else None
    whole = whole and (step is None or step == round(step))
    wrong = (
        "is empty: its end is not above its beginning"
        if not (isfinite(low) and isfinite(high) and low < high)
        else "cannot be `:log`: it must begin above 0"
        if log and low <= 0
        else "has a step that is not above 0"
        if step is not None and not step > 0
        else ""
    )
    if wrong:
        sink.report("E640", span, f"the range `{text.strip()}` {wrong}", fix="for example `1e-4..1e-1:log`")
        return None
    return Range(low, high, whole, log, step)


def _split(text: str) -> list[str]:
    """The parts between commas that are in no brackets and no quotes."""
    parts, start, depth = [], 0, 0
    for at, character in _outside_quotes(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _holes(text: str) -> Iterator[tuple[int, int]]:
    """Where braces with values or a range begin and end; those of a YAML map are none."""
    start = -1
    for at, character in _outside_quotes(text):
        if character == "{":
            start = at
        elif character == "}" and start >= 0:
            inner = text[start + 1 : at]
            if (_RANGE.fullmatch(inner) or len(_split(inner)) > 1) and not re.search(r":\s", inner):
                yield start, at + 1
            start = -1


def _outside_quotes(text: str) -> Iterator[tuple[int, str]]:
    quote = ""
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            yield at, character


__all__ = [
    "CREDIT",
    "SPEC",
    "Axis",
    "Choices",
    "Hole",
    "Range",
    "Space",
    "number",
    "read_space",
    "settings_of",
]
