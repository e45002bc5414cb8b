"""What to say when a text is not YAML: the exact place, and the remedy for what specs get wrong most."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from r2d2c.diagnostics import Fix, Sink
from r2d2c.source import Source, Span
from r2d2c.syntax.files import UNPRINTABLE

FLOW_NOTE = "inside {…} and […], `[`, `]`, `{`, `}`, `,` and ` #` mean something of their own to YAML"
WRITE_BLOCK = "give the expression a line of its own (`key: expression`), or put it in quotes"
_LITERAL = "put the expression in quotes, or on the lines below after `key: |`"

BRACKETS = {"(": ")", "[": "]", "{": "}"}

# Where a key was written without the space that must follow its colon.
_GLUED = re.compile(r"^[ \t]*(?:- )?(?:[^\s:#'\"\[\]{},]+: +)?([A-Za-z_][\w.]*):(?=[^\s:])")


def report_missing_space(source: Source, colon: int, sink: Sink) -> None:
    """`key:value` is one word to YAML."""
    place = Span(source, colon, colon + 1)
    line = source.line(place.line)
    key = re.split(r"[\s{,\[]", line[: place.column - 1])[-1]
    sink.report(
        "E013",
        place,
        "a space is missing after this colon",
        f"write `{key}: …`" if key else "",
        notes=["without it YAML reads key and value as one text"],
        fix=Fix("add a space after the colon", place, ": "),
    )


def balanced_end(text: str, start: int) -> int | None:
    """Where the brackets that open after ``start`` are closed again, on the same line, else None."""
    stack: list[str] = []
    opened = False
    stop = text.find("\n", start)
    stop = len(text) if stop < 0 else stop
    for at in range(start, stop):
        character = text[at]
        if character in BRACKETS:
            stack.append(BRACKETS[character])
            opened = True
        elif stack and character == stack[-1]:
            stack.pop()
            if opened and not stack:
                return at + 1
        elif not stack and character in ",]}":
            return None
    return None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the events came before the error: offsets, open {…} and […], and the last event.

    ``last_kind`` is ``plain``, a scalar's style, ``flow``, ``block`` or ``alias``.
    """

    offset: int
    flows: tuple[int, ...]
    last_start: int
    last_end: int
    last_kind: str


def report_yaml_error(source: Source, error: Exception, at: Progress, sink: Sink) -> None:
    """Turn an exception of PyYAML into a diagnostic."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        _report_character(source, at, sink)
        return
    problem = str(getattr(error, "problem", "") or "")
    context = str(getattr(error, "context", "") or "")
    place = min(mark.index + at.offset, len(source.text))
    begun = getattr(error, "context_mark", None)
    start = begun.index + at.offset if begun is not None else place
    _Report(source, sink, at, problem, context, place, start).run()


def _report_character(source: Source, at: Progress, sink: Sink) -> None:
    found = UNPRINTABLE.search(source.text, at.offset)
    if found is None:
        sink.report("E025", None, f"`{source.name}` contains a character that YAML does not allow")
        return
    number = ord(found[0])
    code = "E006" if number == 0 else "E025"
    message = f"the character U+{number:04X} cannot stand in a spec"
    if number == 0:
        message = f"`{source.name}` is a binary file: it has a NUL byte here"
    sink.report(code, Span(source, found.start(), found.end()), message)


class _Report:
    def __init__(
        self, source: Source, sink: Sink, at: Progress, problem: str, context: str, place: int, start: int
    ) -> None:
        self.source, self.sink, self.at = source, sink, at
        self.problem, self.context, self.place, self.start = problem, context, place, start
        self.text = source.text

    def run(self) -> None:
        for rule in (
            self._tab,
            self._after_value,
            self._flow,
            self._glued,
            self._quotes,
            self._value_start,
            self._structure,
        ):
            if rule():
                return
        where = f" {self.context}" if self.context else ""
        self._say("E010", self.place, self.place + 1, f"this is not YAML: {self.problem}{where}")

    def _say(self, code: str, start: int, end: int, message: str, label: str = "", **more: Any) -> bool:
        # The end of the text has no character; the last one stands for it.
        start = min(start, max(len(self.text.rstrip()) - 1, 0))
        self.sink.report(code, Span(self.source, start, max(end, start + 1)), message, label, **more)
        return True

    def _line(self, offset: int) -> tuple[int, str]:
        """Start and text of the line that holds an offset."""
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", offset)
        return start, self.text[start : len(self.text) if end < 0 else end].rstrip("\r")

    def _tab(self) -> bool:
        start, line = self._line(self.place)
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" not in indent or not ("\t" in self.problem or self.text[self.place : self.place + 1] == "\t"):
            return False
        tab = start + indent.index("\t")
        return self._say(
            "E012",
            tab,
            start + len(indent),
            "a tab cannot indent a line of YAML",
            "indent with spaces",
            fix="replace each tab by two spaces",
        )

    def _flow(self) -> bool:
        """The error is inside {…} or […]: an expression there, a comment, or a bracket left open."""
        if not self.at.flows:
            return False
        outer = self.at.flows[-1]
        character = self.text[outer]
        closing = "}" if character == "{" else "]"
        shown = f"{character}…{closing}"
        opened = [(Span(self.source, outer, outer + 1), f"YAML's own `{character}` opens here")]
        here = self.text[self.place : self.place + 1]
        if here in ("[", "{", "@", "`", "%", "|", ">", "*", "&", "!", "'", '"') and here:
            start, end = self._expression_around(self.place)
            return self._say(
                "E011",
                start,
                end,
                f"an expression inside {shown} is cut into pieces by YAML",
                f"to YAML, `{here}` has a meaning of its own here",
                also=opened,
                notes=[FLOW_NOTE],
                fix=WRITE_BLOCK,
            )
        comment = re.compile(r"[ \t](#[^\n]*)").search(self.text, outer, self.place)
        if comment is not None and self.text.find(closing, comment.start(), comment.end()) >= 0:
            return self._say(
                "E011",
                comment.start(1),
                comment.end(),
                f"` #` starts a comment, so YAML does not see the `{closing}` after it",
                "this is a comment to YAML",
                also=opened,
                notes=[FLOW_NOTE],
                fix=WRITE_BLOCK,
            )
        end = self.at.last_end
        label = f"expected `,` or `{closing}` after this"
        start = self.at.last_start if self.at.last_start > outer else outer
        if start == outer:
            end, label, opened = outer + 1, "opened here", []
        if "\n" in self.text[start:end]:
            # An open bracket swallows the lines below it; the first is where it should have been closed.
            end = self.text.index("\n", start)
        return self._say("E010", start, end, f"this {shown} is not closed", label, also=opened)

    def _expression_around(self, place: int) -> tuple[int, int]:
        start = self.at.last_start if self.at.last_end == place else place
        return start, balanced_end(self.text, start) or place + 1

    def _after_value(self) -> bool:
        """`[a, b] |> concat` and `'a' == b`: the value ended before the line did."""
        line_start, line = self._line(self.place)
        kind, end = self.at.last_kind, self.at.last_end
        if kind not in ("flow", "'", '"') or not line_start <= end <= self.place:
            return False
        rest = self.text[end : line_start + len(line)].strip()
        if not rest or rest[0] in ",]}:" or self.text[end : self.place].strip(" |>"):
            return False
        first = self.text[self.at.last_start]
        what = (
            "a list of its own" if first == "[" else "a map of its own" if first == "{" else "a quoted text"
        )
        code = "E011" if kind == "flow" else "E010"
        message = f"a value that starts with `{first}` is {what} to YAML, which ends at its {_closing(first)}"
        return self._say(
            code,
            self.at.last_start,
            end,
            message,
            "YAML ends the value here",
            fix=f"put all of the value in {_other_quotes(first)}, or on the lines below after `key: |`",
        )

    def _glued(self) -> bool:
        """`D:64`, seen as a line without any colon, or as a text that goes on over several lines."""
        for offset in (self.start, self.at.last_start, self.place):
            line_start, line = self._line(offset)
            found = _GLUED.match(line)
            if found is None or ("'" in line or '"' in line):
                continue
            if "could not find expected ':'" in self.problem or "mapping values" in self.problem:
                report_missing_space(self.source, line_start + found.end() - 1, self.sink)
                return True
        return False

    def _quotes(self) -> bool:
        if "quoted scalar" not in self.context:
            return False
        quote = self.text[self.start : self.start + 1]
        if "escape" in self.problem:
            message = "in double quotes, `\\` starts an escape, and this one is none"
            # libyaml points at the backslash, PyYAML's own scanner behind it.
            start = self.place if self.text[self.place] == "\\" else self.place - 1
            return self._say("E010", start, start + 2, message, fix="use single quotes")
        return self._say(
            "E010", self.start, self.start + 1, f"this {quote} is never closed", "the quotes open here"
        )

    def _value_start(self) -> bool:
        """A value whose first character means something to YAML."""
        character = self.text[self.start : self.start + 1]
        meanings = {
            "|": "`|` starts a block of text on the lines below",
            ">": "`>` starts a folded text on the lines below",
            "*": "`*` starts an alias",
            "&": "`&` starts an anchor",
            "%": "`%` starts a directive",
            "!": "`!` starts a tag",
            "@": "`@` is reserved",
            "`": "a backtick is reserved",
        }
        if character in meanings and "mapping values" not in self.problem:
            label = f"to YAML, {meanings[character]}"
            line_start, line = self._line(self.start)
            what = "value" if line[: self.start - line_start].strip() else "line"
            shown = "a backtick" if character == "`" else f"`{character}`"
            message = f"a {what} cannot start with {shown}"
            return self._say("E010", self.start, self.start + 1, message, label, fix=_LITERAL)
        if "sequence entries are not allowed" in self.problem:
            message = "a list cannot start on the line of its key"
            label = "to YAML, `- ` starts an item of a list"
            return self._say("E010", self.place, self.place + 1, message, label, fix=_LITERAL)
        return False

    def _structure(self) -> bool:
        """Indentation, missing colons and second colons."""
        line_start, line = self._line(self.place)
        first = line_start + len(line) - len(line.lstrip())
        if "mapping values are not allowed" in self.problem:
            if "\n" in self.text[self.at.last_start : self.place] or self.at.last_start < line_start:
                value = self.text[self.at.last_start : self.at.last_end]
                above = Span(self.source, self.at.last_start, self.at.last_end)
                return self._say(
                    "E010",
                    first,
                    self.place + 1,
                    "this key is indented deeper than the line before it, which already has a value",
                    also=[(above, "the value")] if value and "\n" not in value else [],
                    fix="indent it like the other keys of its map",
                )
            return self._say(
                "E010",
                self.place,
                self.place + 1,
                "a second `: ` cannot stand in the same value",
                "to YAML, this makes the text before it a key",
                fix=_LITERAL,
            )
        if "could not find expected ':'" in self.problem:
            start, text = self._line(self.start)
            return self._say(
                "E010",
                self.start,
                start + len(text.rstrip()),
                "this line is neither `key: value` nor part of the value before it",
                "a `:` is missing",
                fix="a value that goes on is indented deeper than its key",
            )
        if re.search("expected (?:key|'-' indicator|<block end>)", self.problem):
            dash = line[first - line_start :].startswith("- ")
            message = (
                "a list item stands where a key is expected"
                if dash
                else "this line's indentation fits no line above it"
            )
            end = line_start + len(line.rstrip())
            return self._say("E010", first, end, message, fix="indent it like the lines it belongs to")
        if "document start" in self.problem:
            end = line_start + len(line)
            if re.search(r"^\.\.\.", self.text[:line_start], re.MULTILINE):
                return self._say("E017", first, end, "the document ended before this line")
            message = "this line belongs to nothing above it"
            return self._say("E010", first, end, message, fix="all sections start in the same column")
        if "node content" in self.problem:
            here = self.text[self.place : self.place + 1]
            message = f"`{here}` cannot stand here" if here.strip() else "a value is missing here"
            return self._say("E010", self.place, self.place + 1, message, fix=_LITERAL)
        return False


def _closing(first: str) -> str:
    return {"[": "`]`", "{": "`}`"}.get(first, "second quote")


def _other_quotes(first: str) -> str:
    return "double quotes" if first == "'" else "single quotes" if first == '"' else "quotes"
