"""Parsing expressions: from a part of a source to a `Syntax` arena, with Lark's LALR(1) tables.

The callbacks run while Lark parses (no tree is built and walked afterwards) and append to the arena, so depth
of nesting costs nothing. A body that does not parse is parsed again statement by statement, to report all
mistakes and not only the first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from lark import Lark
from lark.exceptions import UnexpectedToken
from lark.lexer import Token

from r2d2c.diagnostics import Sink
from r2d2c.source import Span
from r2d2c.syntax.ast import Expr, LinkKey, Signature, Statement, Syntax, TypeSyntax
from r2d2c.syntax.lexer import ExpressionLexer, Region, UnknownCharacterError
from r2d2c.syntax.messages import describe_unexpected
from r2d2c.syntax.tables import load


class _Builder:
    """Lark callbacks, one a rule. Values on Lark's stack are tokens and indices into ``nodes``."""

    def __init__(self) -> None:
        self.nodes: list[Expr] = []
        self.first = 0

    def begin(self) -> list[Expr]:
        self.nodes = []
        self.first = 0
        return self.nodes

    def _add(self, node: Expr) -> int:
        nodes = self.nodes
        nodes.append(node)
        return len(nodes) - 1

    # -- statements
    def body(self, children: list[Any]) -> list[Statement]:
        return [child for child in children if isinstance(child, Statement)]

    def target_list(self, children: list[Any]) -> tuple[tuple[str, int, int], ...]:
        # A target is not an expression, but LALR may already have seen none of its nodes: tokens only.
        return tuple((str(token), token.start_pos, token.end_pos) for token in children)

    def _statement(
        self, targets: tuple[tuple[str, int, int], ...], start: int, root: int, returns: bool
    ) -> Statement:
        first, self.first = self.first, len(self.nodes)
        return Statement(targets, first, root, start, self.nodes[root].end, returns)

    def assign(self, children: list[Any]) -> Statement:
        targets, root = children
        return self._statement(targets, targets[0][1], root, False)

    def give_back(self, children: list[Any]) -> Statement:
        keyword, root = children
        return self._statement((), keyword.start_pos, root, True)

    def bare(self, children: list[Any]) -> Statement:
        (root,) = children
        return self._statement((), self.nodes[root].start, root, False)

    def expression(self, children: list[Any]) -> int:
        return int(children[0])

    # -- leaves
    def name(self, children: list[Any]) -> int:
        (token,) = children
        return self._add(Expr("name", token.start_pos, token.end_pos, token.value))

    def number(self, children: list[Any]) -> int:
        (token,) = children
        text = token.value
        value: object = int(text) if text.isdecimal() else float(text)
        return self._add(Expr("number", token.start_pos, token.end_pos, value))

    def string(self, children: list[Any]) -> int:
        (token,) = children
        return self._add(Expr("string", token.start_pos, token.end_pos, token.value[1:-1]))

    def true(self, children: list[Any]) -> int:
        return self._add(Expr("bool", children[0].start_pos, children[0].end_pos, True))

    def false(self, children: list[Any]) -> int:
        return self._add(Expr("bool", children[0].start_pos, children[0].end_pos, False))

    def ellipsis(self, children: list[Any]) -> int:
        return self._add(Expr("ellipsis", children[0].start_pos, children[0].end_pos))

    # -- operators
    def binary(self, children: list[Any]) -> int:
        left, operator, right = children
        nodes = self.nodes
        return self._add(Expr("binary", nodes[left].start, nodes[right].end, operator.value, (left, right)))

    def unary(self, children: list[Any]) -> int:
        operator, operand = children
        return self._add(
            Expr("unary", operator.start_pos, self.nodes[operand].end, operator.value, (operand,))
        )

    def attribute(self, children: list[Any]) -> int:
        base, name = children
        return self._add(Expr("attribute", self.nodes[base].start, name.end_pos, name.value, (base,)))

    def parenthesised(self, children: list[Any]) -> int:
        left, inner, right = children
        node = self.nodes[inner]
        # Widening the span keeps `(a + b) * c` whole in messages.
        node.start, node.end = left.start_pos, right.end_pos
        return int(inner)

    def tuple_of(self, children: list[Any]) -> int:
        return self._add(
            Expr("tuple", children[0].start_pos, children[-1].end_pos, None, tuple(children[1:-1]))
        )

    def open_tuple(self, children: list[Any]) -> int:
        nodes = self.nodes
        return self._add(
            Expr("tuple", nodes[children[0]].start, nodes[children[-1]].end, None, tuple(children))
        )

    # -- calls and indexing
    def keyword(self, children: list[Any]) -> tuple[Token, int]:
        return children[0], children[1]

    def arguments(self, children: list[Any]) -> list[Any]:
        return children

    def call(self, children: list[Any]) -> int:
        function, close = children[0], children[-1]
        positional: list[int] = [function]
        keywords: list[tuple[str, int]] = []
        for argument in children[1] if len(children) == 3 else ():
            if isinstance(argument, tuple):
                keywords.append((argument[0].value, argument[1]))
            elif keywords:
                # Remembered as a keyword without a name; the resolver reports it with its place.
                keywords.append(("", argument))
            else:
                positional.append(argument)
        return self._add(
            Expr("call", self.nodes[function].start, close.end_pos, None, tuple(positional), tuple(keywords))
        )

    def pipe(self, children: list[Any]) -> int:
        value, target = children
        nodes = self.nodes
        node = nodes[target]
        if node.kind == "call":
            # The piped value becomes the first argument; the call is the newest node, so order still holds.
            node.args = (node.args[0], value, *node.args[1:])
            node.value = "piped"
            return int(target)
        return self._add(Expr("call", node.start, node.end, "piped", (target, value)))

    def items(self, children: list[Any]) -> list[int]:
        return children

    def slice(self, children: list[Any]) -> int:
        parts = [-1, -1, -1]
        position = 0
        start, end = None, 0
        for child in children:
            if isinstance(child, Token):
                position += 1
                span = (child.start_pos, child.end_pos)
            else:
                parts[position] = child
                span = (self.nodes[child].start, self.nodes[child].end)
            start = span[0] if start is None else start
            end = span[1] or 0
        return self._add(Expr("slice", start or 0, end, None, tuple(parts)))

    def index(self, children: list[Any]) -> int:
        base, items, close = children
        return self._add(Expr("index", self.nodes[base].start, close.end_pos, None, (base, *items)))

    # -- the other start symbols
    def parameter(self, children: list[Any]) -> tuple[str, int]:
        return children[0].value, children[1] if len(children) > 1 else -1

    def signature(self, children: list[Any]) -> tuple[str, tuple[tuple[str, int], ...]]:
        return children[0].value, tuple(
            child for child in children[1:] if isinstance(child, tuple) and not isinstance(child, Token)
        )

    def dotted(self, children: list[Any]) -> str:
        return ".".join(token.value for token in children)

    def link(self, children: list[Any]) -> tuple[str, str]:
        return children[0], children[1]

    def tensor_type(self, children: list[Any]) -> tuple[Token, tuple[int, ...]]:
        return children[0], tuple(child for child in children[1:] if not isinstance(child, Token))


@cache
def _engine() -> tuple[Lark, _Builder, ExpressionLexer]:
    builder = _Builder()
    parser = load(builder)
    _tighten(parser)
    return parser, builder, ExpressionLexer(parser.parser.lexer_conf)


def _tighten(parser: Any) -> None:
    """Make Lark's tables quick to look up: it keys them by `Token`s and rules that compare in Python.

    Only the keys change, to equal ones (plain strings, and the very rules that the tables hold); half of the time
    of a long parse went into those comparisons.
    """
    machine = parser.parser.parser.parser
    callbacks, rules = machine.callbacks, {}
    for state, actions in machine.parse_table.states.items():
        machine.parse_table.states[state] = {str(token): action for token, action in actions.items()}
        for _, target in actions.values():
            if hasattr(target, "origin"):
                target.origin.name = str(target.origin.name)
                rules[target] = callbacks[target]
    callbacks.clear()
    callbacks.update(rules)


def _parse(region: Region, start: str, sink: Sink) -> tuple[Any, list[Expr]] | None:
    parser, builder, lexer = _engine()
    try:
        tokens = lexer.tokens(region)
    except UnknownCharacterError as error:
        _report_character(region, error, sink)
        return None
    nodes = builder.begin()
    if not tokens:
        blanks = len(region.text) - len(region.text.lstrip())
        first = region.start if blanks == len(region.text) else region.start + blanks
        place = Span(region.source, first, max(first + 1, region.start + len(region.text.rstrip())))
        sink.report("E101", place, "an expression is missing here")
        return None
    try:
        return parser.parse(tokens, start), nodes
    except UnexpectedToken as error:
        if start == "body":
            _parse_by_statement(region, tokens, sink)
            return None
        _report_unexpected(region, error, tokens, start, sink)
        return None


def _parse_by_statement(region: Region, tokens: list[Token], sink: Sink) -> None:
    """Report every statement's own mistake."""
    parser, builder, _ = _engine()
    for statement in _statements(region, tokens):
        builder.begin()
        try:
            parser.parse(statement, "body")
        except UnexpectedToken as error:
            _report_unexpected(region, error, statement, "body", sink)


def _statements(region: Region, tokens: list[Token]) -> list[list[Token]]:
    """The tokens of each statement. One also starts where a line does that is not indented further and begins
    like one, so that a bracket that is never closed does not swallow the statements after it."""
    found: list[list[Token]] = [[]]
    position = region.source.position
    line, margin = 0, 0
    for number, token in enumerate(tokens):
        if token.type == "NEWLINE":
            found.append([])
            continue
        here, column = position(token.start_pos or 0)
        if found[-1] and here > line and column <= margin and _begins(tokens[number : number + 2]):
            found.append([])
        if not found[-1]:
            margin = column
        line = here
        found[-1].append(token)
    return [statement for statement in found if statement]


def _begins(tokens: list[Token]) -> bool:
    kinds = [token.type for token in tokens]
    return kinds[0] == "RETURN" or kinds == ["NAME", "EQUAL"]


def _report_character(region: Region, error: UnknownCharacterError, sink: Sink) -> None:
    character = region.source.text[error.position]
    place = Span(region.source, error.position, error.position + 1)
    if character in "'\"":
        sink.report(
            "E102", place, "this string is not closed on its line", fix=f"add the closing {character}"
        )
        return
    fixes = {
        "{": "use `(…)` or `[…]`",
        "&": "write `and`",
        "|": "write `or`, or `|>` to pass a value on",
        "!": "write `not`",
    }
    sink.report(
        "E103", place, f"`{character}` is not part of the expression language", fix=fixes.get(character)
    )


_WRITTEN = {
    "tensor_type": "a type is written like `f32[B, 64]`",
    "link": "a link is written like `encode.h -> classify`",
    "signature": "the key of a block is written like `residual(x, width, rate=0.1)`",
}


def _report_unexpected(
    region: Region, error: UnexpectedToken, tokens: list[Token], start: str, sink: Sink
) -> None:
    token = error.token
    at_end = token.type == "$END"
    if at_end:
        last = tokens[-1]
        place = Span(region.source, last.end_pos or 0, (last.end_pos or 0) + 1)
    else:
        place = Span(region.source, token.start_pos, token.end_pos)
    code, message, label, fix, opening = describe_unexpected(
        token, set(error.accepts or error.expected), tokens
    )
    also = (
        [(Span(region.source, opening.start_pos or 0, opening.end_pos or 0), "opened here")]
        if opening
        else []
    )
    sink.report(code, place, message, label, also=also, fix=fix or _WRITTEN.get(start))


def parse_body(region: Region, sink: Sink) -> Syntax | None:
    """The statements of a behavior or block."""
    parsed = _parse(region, "body", sink)
    if parsed is None:
        return None
    statements, nodes = parsed
    return Syntax(region.source, nodes, tuple(statements))


def parse_expression(region: Region, sink: Sink) -> Syntax | None:
    parsed = _parse(region, "expression", sink)
    return None if parsed is None else Syntax(region.source, parsed[1], root=parsed[0])


def parse_signature(region: Region, sink: Sink) -> Signature | None:
    """The key of a block, ``residual(x, width, rate=0.1)``."""
    parsed = _parse(region, "signature", sink)
    if parsed is None:
        return None
    (name, parameters), nodes = parsed
    return Signature(name, parameters, Syntax(region.source, nodes))


def parse_link(region: Region, sink: Sink) -> LinkKey | None:
    """The key of a link, ``encode.h -> classify``."""
    parsed = _parse(region, "link", sink)
    return None if parsed is None else LinkKey(*parsed[0])


def parse_type(region: Region, sink: Sink) -> TypeSyntax | None:
    """A port's type, ``f32[B, D]``."""
    parsed = _parse(region, "tensor_type", sink)
    if parsed is None:
        return None
    (dtype, dims), nodes = parsed
    return TypeSyntax(dtype.value, dims, Syntax(region.source, nodes))


Parser = Callable[[Region, Sink], Any]
