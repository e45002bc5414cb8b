"""Reads formulas of named quantities, such as what an op is worth, or which points are wired."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from r2d2c.diagnostics import Sink, suggest
from r2d2c.formulas import FUNCTIONS, OPERATORS, PREFIXES, Formula

if TYPE_CHECKING:
    from r2d2c.syntax.ast import Syntax

SIGNS = {*(("unary", sign) for sign in PREFIXES), *(("binary", sign) for sign in OPERATORS)}


def read_formula(
    sink: Sink,
    syntax: Syntax,
    names: Iterable[str],
    *,
    code: str,
    what: str,
    quantity: str,
    root: int | None = None,
) -> Formula | None:
    """The formula of an expression, or of the part of it at `root`; None after a diagnostic.

    names: the quantities that it may read. code: of the diagnostics. what: what the formula is, for messages: "`by` of
    `layer`". quantity: what the names are: "score of an op", with the plural "scores".
    """
    known = list(names)
    end = syntax.root if root is None else root
    wanted = _below(syntax, end)
    found: dict[int, Formula | None] = {}
    callees = {syntax.nodes[index].args[0] for index in wanted if syntax.nodes[index].kind == "call"}
    plural = f"the {quantity.split(' ', 1)[0]}s are {_shown(known)}"
    for index in sorted(wanted):
        node = syntax.nodes[index]
        args = [found[place] for place in node.args if place >= 0]
        made: Formula | None = None
        message = fix = None
        if node.kind == "number" and isinstance(node.value, int | float):
            made = float(node.value)
        elif node.kind == "name" and index in callees:
            made = str(node.value)
            if made not in FUNCTIONS:
                message = f"{what} calls `{made}`"
                fix = suggest(made, FUNCTIONS) or f"it may call {_shown(FUNCTIONS)}"
        elif node.kind == "name":
            made = str(node.value)
            if made not in known:
                message = f"{what} reads `{made}`, which is no {quantity}"
                fix = suggest(made, known) or plural
        elif node.kind == "unary" and node.value == "-":
            made = ("-", 0.0, *args)
        elif node.kind == "unary" and node.value == "+":
            made = args[0]
        elif (node.kind, node.value) in SIGNS:
            made = (node.value, *args)
        elif node.kind == "call" and not node.keywords:
            made = (args[0], *args[1:])
            if args[0] in FUNCTIONS and len(args) - 1 != FUNCTIONS[str(args[0])][1]:
                takes = _plural(FUNCTIONS[str(args[0])][1])
                message = f"`{args[0]}` takes {takes}, and {what} gives it {len(args) - 1}"
        else:
            shown = syntax.span(index).text
            message = f"{what} is a formula of {quantity.split(' ', 1)[0]}s, and this is `{shown}`"
            fix = plural
        if message is not None:
            sink.report(code, syntax.span(index), message, fix=fix)
            return None
        found[index] = made
    return found[end]


def _below(syntax: Syntax, root: int) -> set[int]:
    """The indices of an expression's parts, itself included."""
    found: set[int] = set()
    front = [root]
    while front:
        index = front.pop()
        if index >= 0 and index not in found:
            found.add(index)
            front += syntax.nodes[index].args
            front += [place for _, place in syntax.nodes[index].keywords]
    return found


def _plural(count: int) -> str:
    return f"{count} argument" + "s" * (count != 1)


def _shown(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
