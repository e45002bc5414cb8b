"""Diagnostics as text for people, with the source lines marked, and as JSON for programs."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from r2d2c.diagnostics.core import Diagnostic, Label
from r2d2c.source import Source, Span

MAX_CELLS = 100
_BEFORE = 30  # how much of a long line is shown before the mark
_TAB = 4
_HUGE = 10_000

_RESET, _BOLD, _BLUE = "\x1b[0m", "\x1b[1m", "\x1b[1;34m"
_COLORS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "note": "\x1b[1;36m"}


def render_text(diagnostic: Diagnostic, color: bool = False) -> str:
    """One diagnostic as the lines of text that a person reads, without a line break at the end."""
    return _Renderer(diagnostic, color).run()


def render_json(diagnostics: Iterable[Diagnostic]) -> list[dict[str, Any]]:
    """Diagnostics as plain data; lines and columns are 1-based, the end column is exclusive."""
    return [_as_json(d) for d in diagnostics]


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """``2 errors, 1 warning``."""
    counts = dict.fromkeys(("error", "warning", "note"), 0)
    for diagnostic in diagnostics:
        counts[diagnostic.severity] += 1
    parts = [f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items() if n]
    return ", ".join(parts) or "no problems"


def _as_json(d: Diagnostic) -> dict[str, Any]:
    fix = None
    if d.fix is not None:
        place = _place(d.fix.span) if d.fix.span and d.fix.replacement is not None else None
        fix = {"text": d.fix.text, "replacement": d.fix.replacement, "at": place}
    return {
        "code": d.code,
        "severity": d.severity,
        "message": d.message,
        **_place(d.span),
        "labels": [{**_place(label.span), "text": label.text} for label in d.labels],
        "notes": list(d.notes),
        "fix": fix,
    }


def _place(span: Span | None) -> dict[str, Any]:
    if span is None:
        return dict.fromkeys(("file", "line", "column", "end_line", "end_column"))
    (line, column), (end_line, end_column) = (span.source.position(at) for at in (span.start, span.end))
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    }


@dataclass(slots=True)
class _Mark:
    """A marked part of one line, in characters from 0; ``text`` is its label."""

    start: int
    end: int
    text: str
    primary: bool


def _shown(text: str) -> str:
    """Text without the characters that command a terminal or turn its direction; a spec may hold them."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class _Renderer:
    def __init__(self, diagnostic: Diagnostic, color: bool) -> None:
        self.d, self.color = diagnostic, color
        self.tint = _COLORS[diagnostic.severity]
        lines = [label.span.source.position(at)[0] for label in diagnostic.labels for at in _ends(label.span)]
        self.width = len(str(max(lines))) if lines else 0
        self.out: list[str] = []

    def run(self) -> str:
        d = self.d
        head = self._paint(f"{d.severity}[{d.code}]", self.tint)
        self.out.append(head + self._paint(f": {_text(d.message)}", _BOLD))
        for index, (source, labels) in enumerate(_by_source(d.labels)):
            self._snippet(source, labels, first=index == 0)
        footers = [("note", note) for note in d.notes]
        if d.fix is not None:
            footers.append(("help", d.fix.text))
        if footers and d.labels:
            self.out.append(self._gutter())
        for word, text in footers:
            self._footer(word, text)
        return "\n".join(line.rstrip() for line in self.out)

    def _paint(self, text: str, code: str) -> str:
        return f"{code}{text}{_RESET}" if self.color and text else text

    def _gutter(self, number: int | None = None) -> str:
        shown = "" if number is None else str(number)
        return self._paint(f"{shown:>{self.width}} |", _BLUE)

    def _footer(self, word: str, text: str) -> None:
        lead = f"{'':{self.width}} = {word}: "
        head = f"{'':{self.width}} {self._paint('=', _BLUE)} {self._paint(word, _BOLD)}: "
        first, *more = _text(text).split("\n")
        self.out.append(head + first)
        self.out.extend(" " * len(lead) + line for line in more)

    # -- the lines of one file
    def _snippet(self, source: Source, labels: Sequence[Label], first: bool) -> None:
        arrow = "-->" if first else ":::"
        where = f"{'':{self.width}}{self._paint(arrow, _BLUE)} {_shown(str(labels[0].span))}"
        self.out += [where, self._gutter()]
        marks = _marks(labels, self.d.labels[0])
        previous = None
        for number in sorted(marks):
            if previous is not None and number == previous + 2:
                self._line(source, previous + 1, [])
            elif previous is not None and number > previous + 1:
                self.out.append(self._paint("...", _BLUE))
            self._line(source, number, marks[number])
            previous = number

    def _line(self, source: Source, number: int, marks: list[_Mark]) -> None:
        text, offset = source.line(number), 0
        if len(text) > _HUGE and marks:
            # Laying out a line of megabytes takes long; only what is near the first mark can be shown.
            offset = max(0, min(mark.start for mark in marks) - _HUGE // 2)
            text = text[offset : offset + _HUGE]
            near = (_Mark(m.start - offset, min(m.end - offset, len(text)), m.text, m.primary) for m in marks)
            marks = [mark for mark in near if mark.start < len(text)]
        row = _Row(text)
        if row.fits or len(marks) < 2:
            self._row(row, number, marks)
            return
        # Marks that are too far apart on a long line get a row each.
        for group in _near(row, marks):
            self._row(row, number, group)

    def _row(self, row: _Row, number: int, marks: list[_Mark]) -> None:
        row.window(min((mark.start for mark in marks), default=0))
        self.out.append(f"{self._gutter(number)} {row.text}")
        if not marks:
            return
        cells = [(row.cell(mark.start), row.cell(mark.end), mark) for mark in marks]
        placed = [(start, max(end, start + 1), mark) for start, end, mark in cells]
        self._mark_lines(sorted(placed, key=lambda item: item[:2]))

    def _mark_lines(self, placed: list[tuple[int, int, _Mark]]) -> None:
        """The line of `^^^` and `---`, and the labels beside and below it."""
        end = max(stop for _, stop, _ in placed)
        line = [" "] * end
        # Shorter marks are drawn over longer ones, so that both can be seen.
        for start, stop, mark in sorted(placed, key=lambda item: item[0] - item[1]):
            line[start:stop] = ["^" if mark.primary else "-"] * (stop - start)
        tints = {"^": self.tint, "-": _BLUE}
        runs = ("".join(group) for _, group in groupby(line))
        painted = "".join(run if run[0] == " " else self._paint(run, tints[run[0]]) for run in runs)
        labelled = [item for item in placed if item[2].text]
        beside = ""
        if labelled and (last := max(labelled, key=lambda item: item[1]))[1] == end:
            labelled.remove(last)
            beside = " " + self._said(last[2])
        self.out.append(f"{self._gutter()} {painted}{beside}")
        if labelled:
            self.out.append(f"{self._gutter()} {self._stems(labelled)}")
        while labelled:
            start, _, mark = labelled.pop()
            stems = self._stems([item for item in labelled if item[0] < start], start)
            self.out.append(f"{self._gutter()} {stems}{self._said(mark)}")

    def _said(self, mark: _Mark) -> str:
        return self._paint(_text(mark.text).replace("\n", " "), self._tint(mark))

    def _tint(self, mark: _Mark) -> str:
        return self.tint if mark.primary else _BLUE

    def _stems(self, items: list[tuple[int, int, _Mark]], width: int = 0) -> str:
        """A `|` under the start of every mark whose label is still to come."""
        line, at = "", 0
        for start, _, mark in items:
            if start >= at:
                line += " " * (start - at) + self._paint("|", self._tint(mark))
                at = start + 1
        return line + " " * (width - at)


class _Row:
    """A source line as terminal cells, of which a window is shown."""

    def __init__(self, line: str) -> None:
        self.characters: list[str] = []
        self.offsets = [0]
        for character in line:
            shown = " " * (_TAB - self.offsets[-1] % _TAB) if character == "\t" else _shown(character)
            cells = len(shown) if character == "\t" else _cells(shown)
            self.characters.append(shown)
            self.offsets.append(self.offsets[-1] + cells)
        self.fits = self.offsets[-1] <= MAX_CELLS
        self.text = "".join(self.characters)
        self.first, self.last, self.shift = 0, len(self.characters), 0

    def window(self, focus: int) -> None:
        """Show the part around a character, if the line is too long to be shown whole."""
        if self.fits:
            return
        offsets = self.offsets
        focus = min(focus, len(self.characters))
        begin = max(0, min(offsets[focus] - _BEFORE, offsets[-1] - MAX_CELLS))
        self.first = next(i for i, offset in enumerate(offsets) if offset >= begin)
        self.last = len(self.characters)
        while offsets[self.last] - offsets[self.first] > MAX_CELLS:
            self.last -= 1
        before = "…" if self.first else ""
        after = "…" if self.last < len(self.characters) else ""
        self.shift = len(before) - offsets[self.first]
        self.text = before + "".join(self.characters[self.first : self.last]) + after

    def cell(self, character: int) -> int:
        """The cell of a character in the window; its edge if the character is outside."""
        return self.offsets[max(self.first, min(character, self.last))] + self.shift


def _near(row: _Row, marks: list[_Mark]) -> list[list[_Mark]]:
    """The marks in groups that fit into one window each."""
    groups: list[list[_Mark]] = []
    for mark in sorted(marks, key=lambda m: m.start):
        start = groups[-1][0].start if groups else 0
        if (
            groups
            and row.offsets[min(mark.end, len(row.characters))] - row.offsets[start] < MAX_CELLS - _BEFORE
        ):
            groups[-1].append(mark)
        else:
            groups.append([mark])
    return groups


def _text(text: str) -> str:
    return "\n".join(_shown(line) for line in text.split("\n"))


def _ends(span: Span) -> tuple[int, int]:
    """The first and last character of a span, without line breaks at its end."""
    text = span.source.text
    end = span.end
    while end > span.start + 1 and text[end - 1 : end] in ("\n", "\r"):
        end -= 1
    return span.start, max(span.start, end - 1)


def _by_source(labels: Sequence[Label]) -> list[tuple[Source, list[Label]]]:
    groups: list[tuple[Source, list[Label]]] = []
    for label in labels:
        group = next((found for source, found in groups if source is label.span.source), None)
        if group is None:
            groups.append((label.span.source, [label]))
        else:
            group.append(label)
    return groups


def _marks(labels: Sequence[Label], primary: Label) -> dict[int, list[_Mark]]:
    """The marks of every line. Of a span over several lines, the first and the last line are marked."""
    marks: dict[int, list[_Mark]] = {}
    for label in labels:
        source, is_primary = label.span.source, label is primary
        first, last = _ends(label.span)
        (line, column), (end_line, end_column) = source.position(first), source.position(last)
        if line == end_line:
            end = end_column if label.span.end > label.span.start else column
            marks.setdefault(line, []).append(_Mark(column - 1, end, label.text, is_primary))
            continue
        length = len(source.line(line))
        text = source.line(end_line)
        indent = len(text) - len(text.lstrip())
        marks.setdefault(line, []).append(_Mark(column - 1, max(length, column), "from here …", is_primary))
        said = f"… to here: {label.text}" if label.text else "… to here"
        marks.setdefault(end_line, []).append(
            _Mark(min(indent, end_column - 1), end_column, said, is_primary)
        )
    return marks
