"""The syntax tree of expressions: a flat arena in evaluation order.

Every node comes after the nodes it is made of, so whatever walks an expression is a loop over a list. An
expression of 5,000 chained operators is a list of 10,000 nodes, and no recursion ever runs over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from r2d2c.source import Source, Span

Kind = Literal[
    "name",
    "number",
    "string",
    "bool",
    "tuple",
    "unary",
    "binary",
    "attribute",
    "call",
    "index",
    "slice",
    "ellipsis",
]


@dataclass(slots=True, eq=False)
class Expr:
    """One node. ``args`` are indices into the arena.

    value: the name, number, string, operator or attribute; for a call whose function is a plain name, None.
    args: the operands; for a call the function first; for a slice start, stop and step (-1 where absent).
    keywords: of a call, ``(name, index)``.
    """

    kind: Kind
    start: int
    end: int
    value: object = None
    args: tuple[int, ...] = ()
    keywords: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True, eq=False)
class Statement:
    """``targets = expr``, ``return expr`` (`returns`), or a bare expression (no targets).

    ``first`` to ``root`` are the arena indices of its expression, ``root`` its value.
    """

    targets: tuple[tuple[str, int, int], ...]
    first: int
    root: int
    start: int
    end: int
    returns: bool = False


@dataclass(slots=True, eq=False)
class Syntax:
    """A parsed text: the arena, and for a body its statements, for an expression its root."""

    source: Source
    nodes: list[Expr]
    statements: tuple[Statement, ...] = ()
    root: int = -1

    def span(self, index: int) -> Span:
        node = self.nodes[index]
        return Span(self.source, node.start, node.end)

    def dotted(self, index: int) -> str | None:
        """``a.b.c`` if the node is a name or a chain of attributes, else None."""
        parts: list[str] = []
        node = self.nodes[index]
        while node.kind == "attribute":
            parts.append(str(node.value))
            node = self.nodes[node.args[0]]
        if node.kind != "name":
            return None
        parts.append(str(node.value))
        return ".".join(reversed(parts))


@dataclass(slots=True, eq=False)
class Signature:
    """``residual(x, width, rate=0.1)``: parameter names with the arena index of their default, or -1."""

    name: str
    parameters: tuple[tuple[str, int], ...]
    syntax: Syntax


@dataclass(slots=True, eq=False)
class LinkKey:
    """``encode.h -> classify``."""

    source: str
    target: str


@dataclass(slots=True, eq=False)
class TypeSyntax:
    """``f32[B, D]``: the dtype's name and the arena indices of the dims."""

    dtype: str
    dims: tuple[int, ...]
    syntax: Syntax
