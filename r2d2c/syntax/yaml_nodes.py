"""The nodes of a YAML tree: immutable, every one with the span it was read from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from r2d2c.source import Span

Plain: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True, eq=False)
class YScalar:
    """A scalar. ``value`` is what YAML makes of it, ``content`` where its raw text stands.

    ``content`` is the span of a plain scalar; what is inside the quotes of a quoted one; for ``|`` and ``>``
    the lines of the text, from the start of the first to the end of the last, indentation included.
    ``style`` is one of ``""`` (plain), ``"'"``, ``'"'``, ``"|"`` and ``">"``.
    """

    span: Span
    value: str
    content: Span
    style: str = ""

    @property
    def has_escapes(self) -> bool:
        r"""Whether the raw text is not the value, because of ``\`` in "…" or ``''`` in '…'."""
        if self.style == '"':
            return "\\" in self.content.text
        return self.style == "'" and "''" in self.content.text

    @property
    def is_empty(self) -> bool:
        """Whether nothing is written at all (``key:``), which YAML reads as null."""
        return self.style == "" and not self.value

    def expression_text(self) -> str:
        """The raw text to parse as an expression, as long as `content`, so that offsets are spans.

        Only a literal block keeps its line breaks: in every other style YAML folds them into spaces.
        """
        text = self.content.text.replace("\r", " ")
        return text if self.style == "|" else text.replace("\n", " ")


@dataclass(frozen=True, slots=True, eq=False)
class YMap:
    """A mapping; the order of its entries is the order in the file."""

    span: Span
    entries: tuple[tuple[YScalar, YNode], ...]

    def __iter__(self) -> Iterator[tuple[YScalar, YNode]]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, name: str) -> YNode | None:
        """The value of a key, or None."""
        return next((value for key, value in self.entries if key.value == name), None)

    def key(self, name: str) -> YScalar | None:
        """The key itself, for its span, or None."""
        return next((key for key, _ in self.entries if key.value == name), None)

    def keys(self) -> tuple[str, ...]:
        """The names of all keys."""
        return tuple(key.value for key, _ in self.entries)


@dataclass(frozen=True, slots=True, eq=False)
class YSeq:
    """A sequence."""

    span: Span
    items: tuple[YNode, ...]

    def __iter__(self) -> Iterator[YNode]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


YNode: TypeAlias = YMap | YSeq | YScalar

_WORDS: dict[str, Plain] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
# More digits than any number here needs; Python refuses to convert far longer ones.
_INTEGER = re.compile(r"[-+]?[0-9]{1,400}|0x[0-9a-fA-F]{1,400}|0o[0-7]{1,400}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_BASES = {"0x": 16, "0o": 8}


def plain_value(scalar: YScalar) -> Plain:
    """What a scalar means by the core schema of YAML 1.2: ``no`` is a string, ``1e-3`` a number.

    Only plain scalars are resolved; whatever is quoted or in a block is a string.
    """
    text = scalar.value
    if scalar.style != "":
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, _BASES.get(text[:2], 10))
    return float(text) if _FLOAT.fullmatch(text) else text


_COMMENT = re.compile(r"[ \t]+(#[^\n]*)")


def yaml_comment_after(scalar: YScalar) -> Span | None:
    """The `` # …`` comment that follows a scalar on its last line, which is where YAML ended the scalar."""
    if scalar.style in ("|", ">"):
        return None
    source = scalar.span.source
    found = _COMMENT.match(source.text, scalar.span.end)
    if found is None:
        return None
    end = found.start(1) + len(found[1].rstrip())
    return Span(source, found.start(1), end)


def describe(node: YNode) -> str:
    """A node in the words of a message: ``a map``, ``a list``, ``the number 3`` …"""
    if isinstance(node, YMap):
        return "a map"
    if isinstance(node, YSeq):
        return "a list"
    if node.is_empty:
        return "nothing"
    value = plain_value(node)
    shown = node.value if len(node.value) <= 40 else node.value[:37] + "…"
    shown = shown.split("\n", 1)[0]
    if value is None or isinstance(value, bool):
        return f"`{shown}`"
    if isinstance(value, int | float):
        return f"the number {shown}"
    return f"the text `{shown}`"
