"""Spacing of expressions, by their tokens alone, so that also what does not parse can be laid out."""

from __future__ import annotations

import re
from typing import NamedTuple

from r2d2c.syntax.sections import RANGE

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+)|(?P<newline>\n)|(?P<comment>\#[^\n]*)
    |(?P<string>'[^'\n]*'|"[^"\n]*")
    |(?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<tight>[*/@^]|//)(?!/)
    |(?P<wide>\|>|->|==|!=|<=|>=|<|>)
    |(?P<sign>[+-])|(?P<equal>=)|(?P<dot>\.\.\.|\.)|(?P<comma>,)|(?P<colon>:)
    |(?P<open>[(\[])|(?P<close>[)\]])""",
    re.VERBOSE | re.ASCII,
)
_WORDS = ("and", "or", "not", "return")


class Token(NamedTuple):
    """A token; ``space`` is the blank text before it."""

    kind: str
    text: str
    space: str


def tokens(text: str) -> list[Token] | None:
    """The tokens of an expression, with line breaks and comments; None if some text is no token."""
    found: list[Token] = []
    at, space = 0, ""
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        at = match.end()
        kind = str(match.lastgroup)
        if kind == "space":
            space = match[0].replace("\r", "")
            continue
        # `//` is two characters of the same kind; the alternation took one of them.
        if kind == "tight" and match[0] == "/" and text[at : at + 1] == "/":
            at += 1
            found.append(Token(kind, "//", space))
        else:
            found.append(Token("word" if match[0] in _WORDS else kind, match[0], space))
        space = ""
    return found


def meaning(text: str, literal: bool) -> list[str] | None:
    """What must not change: all tokens and comments, and in a literal block where statements end."""
    found = tokens(text)
    if found is None:
        return None
    said: list[str] = []
    depth = 0
    for token in found:
        depth += (token.kind == "open") - (token.kind == "close")
        if token.kind != "newline":
            said.append(token.text.rstrip())
        elif literal and depth <= 0 and said and said[-1] != "\n":
            said.append("\n")
    return said[:-1] if said and said[-1] == "\n" else said


def format_expression(text: str, literal: bool = False) -> str:
    """The text with its spaces normalised; line breaks, and what stands before them on a line, are kept.

    One space around `=`, `|>`, `->`, comparisons, words, `+` and `-`, and after commas; none inside brackets
    and around the `=` of an argument. `2*H` and `2 * H` are both fine, `2* H` is not.
    """
    found = tokens(text)
    if found is None:
        return text
    out: list[str] = []
    brackets: list[str] = []
    previous: Token | None = None
    fresh, tight = True, False
    for index, token in enumerate(found):
        if token.kind == "newline":
            out.append("\n")
            # In a literal block a line break outside brackets ends the statement.
            previous = None if literal and not brackets else previous
            fresh = True
            continue
        if token.kind == "comment":
            out.append(token.space if fresh or len(token.space) > 1 else "  ")
            out.append(token.text.rstrip())
            continue
        if token.kind == "tight":
            after = found[index + 1] if index + 1 < len(found) else None
            tight = (
                _is_operand(previous) and _is_operand(after) and not (token.space or (after and after.space))
            )
        elif token.kind == "sign" and _is_unary(previous):
            token = token._replace(kind="unary")
        if fresh:
            out.append(token.space)
        elif previous is None or _spaced(previous, token, brackets, tight):
            out.append(" ")
        out.append(token.text)
        if token.kind == "open":
            brackets.append(token.text)
        elif token.kind == "close" and brackets:
            brackets.pop()
        previous, fresh = token, False
    laid_out = "".join(out)
    # What does not parse (`1 .5`, `. ...`) could become other tokens when its spaces go.
    return laid_out if _texts(tokens(laid_out)) == _texts(found) else text


def _texts(found: list[Token] | None) -> list[str]:
    return [token.text.rstrip() for token in found or ()]


def _is_operand(token: Token | None) -> bool:
    """Whether a token stands beside an operator as (part of) what it works on."""
    return token is not None and token.kind in ("name", "number", "string", "open", "close", "sign", "unary")


def _is_unary(previous: Token | None) -> bool:
    """Whether a sign that follows this token is part of a number, not an operator."""
    if previous is None:
        return True
    return previous.kind in ("tight", "wide", "sign", "unary", "equal", "comma", "colon", "open", "word")


def _spaced(previous: Token, token: Token, brackets: list[str], tight: bool) -> bool:
    """Whether a space stands between two tokens of a line."""
    if token.kind in ("comma", "close"):
        return False
    if token.kind in ("dot", "colon"):
        return previous.kind == "comma"
    if previous.kind in ("open", "dot", "unary", "colon"):
        return previous.text == "..."
    if "tight" in (token.kind, previous.kind):
        return not tight
    if "equal" in (token.kind, previous.kind):
        return not (brackets and brackets[-1] == "(")
    if token.kind == "open":
        return previous.kind not in ("name", "close", "string")
    return True


def is_range(text: str, path: tuple[str, ...]) -> bool:
    """``1..8 = 3``, or the steps of a loss, ``2..depth``."""
    return bool(RANGE.fullmatch(text)) or (path[0] == "losses" and path[-1] == "steps" and ".." in text)


def parts_of_range(text: str) -> list[str]:
    """Its first number, its last, and the usual one if there is one."""
    first, _, rest = text.partition("..")
    return [part.strip() for part in (first, *rest.split("="))]


def formatted(text: str, path: tuple[str, ...]) -> str:
    """An expression, or a range of two."""
    if not is_range(text, path):
        return format_expression(text)
    first, last, *usual = map(format_expression, parts_of_range(text))
    return " = ".join([f"{first}..{last}", *usual])
