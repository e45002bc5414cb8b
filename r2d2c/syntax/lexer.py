"""The lexer of expressions, built from the terminals of the grammar.

One compiled alternation replaces Lark's lexer because newlines need a little context: they end a statement,
except inside brackets, beside `|>`, and where nothing stands on the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lark.lexer import Lexer, LexerState, Token

from r2d2c.source import Source


class UnknownCharacterError(Exception):
    """A character that starts no token."""

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(position)


class Region:
    """The part of a source that is lexed: ``text`` has the characters of ``source`` from ``start`` on."""

    __slots__ = ("source", "start", "text")

    def __init__(self, source: Source, start: int, text: str) -> None:
        self.source, self.start, self.text = source, start, text


class ExpressionLexer(Lexer):
    """Yields Lark tokens whose ``start_pos`` and ``end_pos`` are offsets into the source."""

    __future_interface__ = 1

    def __init__(self, lexer_conf: Any) -> None:
        parts, self._keywords = [], {}
        for terminal in lexer_conf.terminals:
            pattern = terminal.pattern
            if pattern.type == "str" and pattern.value.isalpha():
                self._keywords[pattern.value] = terminal.name
            else:
                parts.append((terminal.name, pattern.to_regexp()))
        # Lark sorts terminals its own way; numbers come before the dot, longer operators before shorter.
        first = ["NUMBER", "NAME", "STRING", "PIPE", "ARROW", "ELLIPSIS", "COMPARE"]
        parts.sort(key=lambda part: first.index(part[0]) if part[0] in first else len(first))
        alternatives = "|".join(f"(?P<{name}>{regexp})" for name, regexp in parts)
        self._match = re.compile(rf"(?:[ \t\r\ufeff]+|#[^\n]*+)*+(?:{alternatives})")
        self._blank = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")

    def lex(self, lexer_state: LexerState, parser_state: Any) -> Iterator[Token]:
        """Lark's interface: our parser is given the tokens themselves, so that it can parse them by statement."""
        return iter(lexer_state.text)  # type: ignore[call-overload, no-any-return]

    def tokens(self, region: Region) -> list[Token]:
        """All tokens of a region. Raises `UnknownCharacterError`."""
        text, base, match, keywords = region.text, region.start, self._match.match, self._keywords
        out: list[Token] = []
        depth, at, end = 0, 0, len(text)
        pending: Token | None = None
        while at < end:
            found = match(text, at)
            if found is None:
                rest = self._blank.match(text, at)
                stop = rest.end() if rest else at
                if stop >= end:
                    break
                raise UnknownCharacterError(base + stop)
            kind: str = found.lastgroup  # type: ignore[assignment]
            value = found[kind]
            at = found.end()
            if kind == "NEWLINE":
                if depth == 0 and out and out[-1].type != "PIPE":
                    pending = Token(kind, value, base + at - 1, None, None, None, None, base + at)
                continue
            if kind == "NAME":
                kind = keywords.get(value, kind)
            elif kind in ("LPAR", "LSQB"):
                depth += 1
            elif kind in ("RPAR", "RSQB"):
                depth = max(0, depth - 1)
            if pending is not None:
                if kind != "PIPE":
                    out.append(pending)
                pending = None
            out.append(Token(kind, value, base + at - len(value), None, None, None, None, base + at))
        return out
