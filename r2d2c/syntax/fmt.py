"""`r2d2c fmt`: one layout for all specs, with comments kept.

The composed tree is printed anew; what stands between its nodes in the file (comments, blank lines) is
printed where it stood. Sections get the order of the language reference and take the comments above them
along. Blank lines stay where they are, one at most, but none at the start of a block. Maps are indented by 2,
lists by 2 below their key, and texts of `|` by 2; {…} and […] over several lines keep their lines.

The result is composed again, and if it did not say the same with the same comments, the text is returned as
it was: anchors, explicit indentation and other rarities are none of our business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from r2d2c.diagnostics import Sink
from r2d2c.source import Source
from r2d2c.syntax.fmt_expression import format_expression, formatted, is_range, meaning, parts_of_range
from r2d2c.syntax.sections import SECTION_NAMES
from r2d2c.syntax.yaml_nodes import YMap, YNode, YScalar, YSeq
from r2d2c.syntax.yaml_tree import compose

_SKIP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
# The values that are texts or numbers, not expressions.
_TEXT_SECTIONS = ("r2d2c", "model", "doc", "imports")
_TEXT_KEYS = ("doc", "keep")
_TEXT_OF_TRAIN = ("data", "columns", "workers", "epochs", "batch_size", "seed")
_ROUNDS = 4


def format_spec(text: str) -> str:
    """The text of a spec in our layout; the same text if it has mistakes that keep it from being read."""
    formatted = text
    for _ in range(_ROUNDS):
        again = _format_once(formatted)
        if again is None:
            return text
        if again == formatted:
            return formatted
        formatted = again
    return text


def _format_once(text: str) -> str | None:
    before = _read(text)
    if before is None:
        return None
    try:
        after_text = _Printer(before).run()
    except _Unusual:
        return None
    after = _read(after_text)
    if after is None or _said(before.tree) != _said(after.tree) or before.comments() != after.comments():
        return None
    return after_text


class _Unusual(Exception):  # noqa: N818
    """A form of YAML that the printer leaves alone."""


@dataclass(slots=True)
class _Text:
    """A spec's text and tree, and what stands between the nodes."""

    text: str
    tree: YMap

    def comments(self) -> list[str]:
        """All comments between nodes, sorted: sections may move, comments may not get lost."""
        found = []
        at = 0
        for start, end in [*_leaves(self.tree), (len(self.text), len(self.text))]:
            found += [c.rstrip() for c in _gap_comments(self.text[at:start])]
            at = max(at, end)
        return sorted(found)


def _read(text: str) -> _Text | None:
    sink = Sink()
    tree = compose(Source("fmt", text), sink)
    if tree is None or sink.failed or not tree.entries or text[tree.span.start] == "{":
        return None
    return _Text(text, tree)


def _leaves(node: YNode) -> Iterator[tuple[int, int]]:
    if isinstance(node, YScalar):
        yield node.span.start, node.span.end
    elif isinstance(node, YSeq):
        for item in node:
            yield from _leaves(item)
    else:
        for key, value in node:
            yield from _leaves(key)
            yield from _leaves(value)


def _gap_comments(gap: str) -> list[str]:
    # Brackets and dashes of YAML stand in gaps too, but never a quote or a text.
    return re.findall(r"(?:^|(?<=\s))#[^\n]*", gap)


def _said(node: YNode, path: tuple[str, ...] = ()) -> object:
    """What a tree says, without what formatting may change."""
    if isinstance(node, YScalar):
        if _is_expression(path):
            text = node.expression_text()
            if is_range(text, path):
                return [meaning(part, False) or part for part in parts_of_range(text)]
            return meaning(text, node.style == "|") or node.value
        # Blanks at the end of a line are no part of a text that anybody sees.
        return [line.rstrip() for line in node.value.rstrip().split("\n")], node.style == ""
    if isinstance(node, YSeq):
        return [_said(item, path) for item in node]
    said = [("".join(key.value.split()), _said(value, (*path, key.value))) for key, value in node]
    return sorted(said, key=lambda item: item[0]) if not path else said


def _is_expression(path: tuple[str, ...]) -> bool:
    if not path or path[0] in _TEXT_SECTIONS:
        return False
    if path[0] == "train":
        return path[:2][-1] not in _TEXT_OF_TRAIN
    return len(path) < 3 or path[-1] not in _TEXT_KEYS


@dataclass(slots=True)
class _Entry:
    """A printed entry: the lines that lead it (comments, a blank line), and its own."""

    lead: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    order: int = 0


class _Printer:
    def __init__(self, spec: _Text) -> None:
        self.text, self.tree = spec.text, spec.tree
        self.at = 0
        # Columns of the blocks being printed, and their new indentation: where a comment belongs.
        self.levels: list[tuple[int, int]] = []

    def run(self) -> str:
        entries = self._entries(self.tree, 0, ())
        head: list[str] = []
        first = _collapsed(entries[0].lead, keep_end=True)
        if "" in first:
            # A comment apart from the first key is about the file.
            cut = first.index("") + 1
            head, entries[0].lead = first[:cut], first[cut:]
        tail = self._between(len(self.text), 0, entries[-1].lines)
        entries.sort(key=lambda entry: entry.order)
        lines = head
        for entry in entries:
            lines += entry.lead + entry.lines
        return "\n".join(_collapsed([*lines, *tail])) + "\n"

    # -- what stands between nodes
    def _gap(self, until: int) -> str:
        if until < self.at:
            raise _Unusual
        gap = self.text[self.at : until]
        self.at = until
        return gap

    def _between(self, until: int, indent: int, before: list[str]) -> list[str]:
        """The comments and blank lines up to a node; comments that belong to what came before go there."""
        gap = self._gap(until)
        first, *rest = gap.split("\n")
        self._trailing(first, before)
        lead: list[str] = []
        if rest and until < len(self.text):
            rest.pop()  # the indentation of the node itself
        for line in rest:
            comment = line.strip()
            column = len(line) - len(line.lstrip())
            if comment and not comment.startswith("#"):
                if comment == "---" and not before and not self.levels[1:]:
                    continue
                raise _Unusual
            if not comment:
                lead.append("")
                continue
            deeper = [new for old, new in self.levels if old <= column]
            if before and not any(lead) and deeper and deeper[-1] > indent:
                before += [*lead, " " * deeper[-1] + comment]
                lead = []
            else:
                lead.append(" " * indent + comment)
        return lead

    def _trailing(self, rest: str, lines: list[str]) -> None:
        """A comment after a value on its line."""
        comment = rest.strip()
        if not comment:
            return
        if not comment.startswith("#") or not lines:
            raise _Unusual
        space = rest[: len(rest) - len(rest.lstrip())]
        lines[-1] += (space if len(space) > 1 and "\t" not in space else "  ") + comment

    # -- maps and lists
    def _entries(self, node: YMap, indent: int, path: tuple[str, ...]) -> list[_Entry]:
        entries: list[_Entry] = []
        before: list[str] = []
        column = _column(self.text, node.entries[0][0].span.start)
        for key, value in node:
            entry = _Entry(order=_order(key.value) if not path else 0)
            if not entries:
                entry.lead = self._first_lead(key.span.start, indent)
            else:
                entry.lead = self._between(key.span.start, indent, before)
            self.levels = [level for level in self.levels if level[0] < column] + [(column, indent)]
            entry.lines = [" " * indent + self._key(key, path)]
            self.at = key.span.end
            self._value(value, entry.lines, indent, (*path, key.value))
            entries.append(entry)
            before = entry.lines
        return entries

    def _first_lead(self, until: int, indent: int) -> list[str]:
        gap = self._gap(until)
        if "\n" not in gap and gap.strip():
            raise _Unusual
        lead = []
        for line in gap.split("\n")[:-1] if "\n" in gap else []:
            comment = line.strip()
            if comment and not comment.startswith("#") and comment != "---":
                raise _Unusual
            if comment != "---":
                lead.append(" " * indent + comment if comment else "")
        return lead

    def _key(self, key: YScalar, path: tuple[str, ...]) -> str:
        if "\n" in key.span.text:
            raise _Unusual
        if path in (("blocks",), ("loops",), ("links",)) and key.style == "":
            return format_expression(key.span.text)
        return key.span.text

    def _value(self, value: YNode, lines: list[str], indent: int, path: tuple[str, ...]) -> None:
        """Print what follows a key (or a dash) whose line is the last of ``lines``."""
        # The colon, and a comment that follows it.
        gap_end = self.text.find(":", self.at) + 1 if not self._after_dash(lines) else self.at
        if self.text[self.at : gap_end].strip(" \t") not in (":", ""):
            raise _Unusual
        if gap_end > self.at:
            lines[-1] += ":"
        self.at = gap_end
        if isinstance(value, YScalar):
            self._scalar(value, lines, indent, path)
        elif self.text[value.span.start] in "[{":
            self._flow(value, lines, indent, path)
        else:
            self._block(value, lines, indent, path)

    def _after_dash(self, lines: list[str]) -> bool:
        return lines[-1].lstrip() == "-"

    def _block(self, value: YMap | YSeq, lines: list[str], indent: int, path: tuple[str, ...]) -> None:
        stop = self.text.find("\n", self.at)
        if stop < 0 or stop > value.span.start:
            raise _Unusual
        self._trailing(self._gap(stop), lines)
        self.at = stop + 1
        if isinstance(value, YMap):
            first, *more = self._entries(value, indent + 2, path)
            lines += _collapsed(first.lead, keep_end=True) + first.lines
            for entry in more:
                lines += entry.lead + entry.lines
        else:
            self._items(value, lines, indent + 2, path)

    def _items(self, node: YSeq, lines: list[str], indent: int, path: tuple[str, ...]) -> None:
        column = _column(self.text, node.span.start)
        before: list[str] = []
        for item in node:
            dash = self._dash(item)
            lead = self._between(dash, indent, before) if before else self._first_lead(dash, indent)
            lead = lead if before else _collapsed(lead, keep_end=True)
            self.levels = [level for level in self.levels if level[0] < column] + [(column, indent)]
            self.at = dash + 1
            own = [" " * indent + "-"]
            if not isinstance(item, YScalar) and self.text[item.span.start] not in "[{":
                raise _Unusual
            self._value(item, own, indent, path)
            lines += lead + own
            before = lines

    def _dash(self, item: YNode) -> int:
        found = _SKIP.match(self.text, self.at)
        at = found.end() if found else self.at
        if self.text[at : at + 1] != "-" or at >= item.span.start:
            raise _Unusual
        return at

    # -- scalars and {…}, […]
    def _scalar(self, value: YScalar, lines: list[str], indent: int, path: tuple[str, ...]) -> None:
        if value.is_empty:
            self.at = max(self.at, value.span.end)
            return
        if self._gap(value.span.start).strip():
            raise _Unusual
        expression = _is_expression(path) and not value.has_escapes
        self.at = value.span.end
        if value.style in ("|", ">"):
            self._literal(value, lines, indent, expression)
            return
        text = value.content.text
        if expression:
            text = formatted(text, path)
        quote = value.style
        first, *more = (quote + text + quote).split("\n")
        lines[-1] += " " + first.rstrip()
        lines += [" " * (indent + 2) + line.strip() if line.strip() else "" for line in more]

    def _literal(self, value: YScalar, lines: list[str], indent: int, expression: bool) -> None:
        header_end = self.text.find("\n", value.span.start)
        header = self.text[value.span.start : header_end if header_end >= 0 else len(self.text)].rstrip()
        indicator = header.split("#")[0].strip()
        if re.search(r"[0-9+]", indicator):
            raise _Unusual
        lines[-1] += " " + indicator
        self._trailing(header[len(indicator) :], lines)
        body = value.content.text.replace("\r", "").split("\n")
        margin = min((len(line) - len(line.lstrip(" ")) for line in body if line.strip()), default=0)
        text = "\n".join(line[margin:] for line in body)
        if expression:
            text = "\n".join(_collapsed(format_expression(text, literal=value.style == "|").split("\n")))
        lines += [(" " * (indent + 2) + line).rstrip() for line in text.split("\n")]

    def _flow(self, value: YMap | YSeq, lines: list[str], indent: int, path: tuple[str, ...]) -> None:
        if self._gap(value.span.start).strip():
            raise _Unusual
        self.at = value.span.end
        raw = value.span.text
        if "\n" not in raw:
            lines[-1] += " " + self._inline(value, path)
            return
        first, *more = raw.replace("\r", "").split("\n")
        lines[-1] += " " + first.rstrip()
        for line in more:
            closing = line.strip() in ("}", "]")
            lines.append(
                " " * (indent + (0 if closing and indent else 2)) + line.strip() if line.strip() else ""
            )

    def _inline(self, node: YNode, path: tuple[str, ...]) -> str:
        if isinstance(node, YScalar):
            text = node.content.text
            if _is_expression(path) and not node.has_escapes:
                text = formatted(text, path)
            return node.style + text + node.style
        if isinstance(node, YSeq):
            return f"[{', '.join(self._inline(item, path) for item in node)}]"
        parts = []
        for key, value in node:
            shown = self._inline(value, (*path, key.value))
            parts.append(f"{self._key(key, path)}: {shown}".rstrip())
        return f"{{{', '.join(parts)}}}"


def _order(section: str) -> int:
    return SECTION_NAMES.index(section) if section in SECTION_NAMES else len(SECTION_NAMES)


def _column(text: str, at: int) -> int:
    return at - text.rfind("\n", 0, at) - 1


def _collapsed(lines: list[str], *, keep_end: bool = False) -> list[str]:
    """Without blank lines at both ends, and with one at most in between."""
    out: list[str] = []
    for line in lines:
        if line.strip() or (out and out[-1].strip()):
            out.append(line)
    while out and not out[-1].strip() and not keep_end:
        out.pop()
    return out
