"""The ops that a spec writes of an op graph: ``o1: o0 * p``, one op each, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from r2d2c.diagnostics import Sink, suggest
from r2d2c.ops.op_graph import Written
from r2d2c.source import Span

if TYPE_CHECKING:
    from r2d2c.opkinds import OpKind
    from r2d2c.syntax.ast import Syntax
    from r2d2c.syntax.spec import Named, OpGraphSyntax

INPUT, NUMBER = "x", "p"
LARGEST = 3e38
OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
# The names of inputs and of what grows.
_TAKEN = re.compile(r"[xn](0|[1-9][0-9]*)")
_BAD = object()


class Nodes:
    """Reads the written ops of one op graph. Mistakes go to the sink."""

    def __init__(self, sink: Sink, graph: OpGraphSyntax, kinds: Mapping[str, OpKind]) -> None:
        self.sink, self.graph, self.kinds = sink, graph, kinds
        self.spans = {entry.name: entry.span for entry in graph.nodes}

    def read(self) -> tuple[Written, ...]:
        """In an order in which they can be computed; what is wrong is left out, after a diagnostic."""
        found = []
        for entry in self.graph.nodes:
            self._name(entry)
            node = self._node(entry)
            if node is not None:
                found.append(node)
        return self._ordered(found)

    def _name(self, entry: Named) -> None:
        name = entry.name
        if name in (INPUT, NUMBER) or _TAKEN.fullmatch(name):
            what = {
                INPUT: "the columns that the op graph reads are `x`",
                NUMBER: "`p` is a number of an op's own",
            }.get(
                name,
                "`x0`, `x1`, … are the columns that it reads"
                if name[0] == "x"
                else "ops that grow get such names",
            )
            self.sink.report(
                "E346", entry.span, f"no op can be called `{name}`: {what}", fix="use another name"
            )

    def _node(self, entry: Named) -> Written | None:
        from r2d2c.mutate_checks import is_constant
        from r2d2c.mutations import Add
        from r2d2c.resolve.op_graphs import report_kind

        syntax: Syntax = entry.syntax
        root = syntax.nodes[syntax.root]
        span = syntax.span(syntax.root)
        if root.kind == "binary" and root.value in OPERATORS:
            kind, places = OPERATORS[str(root.value)], root.args
        elif root.kind == "call" and syntax.nodes[root.args[0]].kind == "name" and not root.keywords:
            kind, places = str(syntax.nodes[root.args[0]].value), root.args[1:]
            if kind not in self.kinds and kind != NUMBER:
                report_kind(self.sink, syntax.span(root.args[0]), kind, self.kinds)
                return None
        else:
            kind, places = NUMBER, ()
        if kind == NUMBER:
            known = ", ".join(f"`{sign}`" for sign in OPERATORS)
            message = (
                f"`{entry.name}` is one op: {known}, or a kind with its arguments, and this is `{span.text}`"
            )
            fix = f"write `identity({span.text})`" if root.kind in ("name", "index") else None
            self.sink.report("E340", span, message, fix=fix)
            return None
        args = [self._argument(entry.name, syntax, place) for place in places]
        arity = self.kinds[kind].arity
        if len(args) != arity:
            takes = f"{arity} argument" + "s" * (arity != 1)
            message = f"`{kind}` has {takes}, and `{entry.name}` gives it {len(args)}"
            doc = self.kinds[kind].doc
            self.sink.report("E342", span, message, notes=[f"{kind} is {doc}"] if doc else [])
            return None
        if _BAD in args:
            return None
        given: tuple[str | float | None, ...] = tuple(args)  # type: ignore[arg-type]
        if not any(isinstance(arg, str) for arg in given):
            message = f"`{entry.name}` reads no column and no op: it would be the same for every sample"
            self.sink.report("E340", span, message, fix="let one argument be a column: `x[0]`")
            return None
        if is_constant(Add(entry.name, kind, tuple(0.7 if arg is None else arg for arg in given))):
            message = f"`{entry.name}` is the same for every sample: `{span.text}`"
            columns = all(isinstance(arg, str) for arg in given)
            fix = "let it read other columns" if columns else "start its number elsewhere"
            self.sink.report("E340", span, message, fix=fix)
            return None
        return Written(entry.name, kind, given, entry.span)

    def _argument(self, name: str, syntax: Syntax, index: int) -> object:
        """`x3`, the name of an op, None or a float for a number of its own; `_BAD` after a diagnostic."""
        node, span = syntax.nodes[index], syntax.span(index)
        if node.kind == "index" and len(node.args) == 2:
            base, item = (syntax.nodes[i] for i in node.args)
            if (
                base.kind == "name"
                and base.value == INPUT
                and item.kind == "number"
                and isinstance(item.value, int)
            ):
                return f"{INPUT}{int(item.value)}"
        if node.kind == "name":
            if node.value == NUMBER:
                return None
            if node.value in self.spans:
                return str(node.value)
            return self._unknown(span, str(node.value))
        if node.kind == "call" and len(node.args) == 2 and not node.keywords:
            function, start = syntax.nodes[node.args[0]], _number(syntax, node.args[1])
            if function.kind == "name" and function.value == NUMBER and start is not None:
                if abs(start) <= LARGEST:
                    return start
                message = f"a number starts at {LARGEST:g} at most, and `{span.text}` is more than f32 holds"
                self.sink.report("E340", span, message)
                return _BAD
        number = _number(syntax, index)
        if number is not None:
            message = f"numbers of an op graph are trained, and `{span.text}` is a constant"
            self.sink.report("E340", span, message, fix=f"write `p({span.text})`: it starts there")
        elif node.kind == "index":
            message = f"an argument is a column `x[0]`, `x[1]`, …, and this is `{span.text}`"
            self.sink.report("E343", span, message)
        else:
            message = f"an argument of an op is a column, another op or `p`, and this is `{span.text}`"
            fix = f"give it a name of its own, `{self._fresh(name)}: {span.text}`"
            self.sink.report("E340", span, message, fix=fix)
        return _BAD

    def _fresh(self, name: str) -> str:
        return next(f"{name}{letter}" for letter in "abcdefgh" if f"{name}{letter}" not in self.spans)

    def _unknown(self, span: Span, name: str) -> object:
        if name == INPUT:
            self.sink.report("E343", span, "`x` is all columns, and an op reads one", fix="name one: `x[0]`")
        else:
            message = f"`{name}` is no op of `{self.graph.name}`, and no column of its `x`"
            self.sink.report("E343", span, message, fix=suggest(name, list(self.spans)))
        return _BAD

    def _ordered(self, nodes: list[Written]) -> tuple[Written, ...]:
        """Each after what it reads. What reads itself is reported."""
        known = {node.name: node for node in nodes}
        waits = {node.name: [a for a in node.args if isinstance(a, str) and a in known] for node in nodes}
        done: dict[str, Written] = {}
        for first in known:
            path = [first]
            while path:
                open_ = [name for name in waits[path[-1]] if name not in done]
                if not open_:
                    done.setdefault(path[-1], known[path[-1]])
                    path.pop()
                elif open_[0] in path:
                    chain = [*path[path.index(open_[0]) :], open_[0]]
                    self._cycle(chain)
                    return ()
                else:
                    path.append(open_[0])
        return tuple(done.values())

    def _cycle(self, chain: list[str]) -> None:
        shown = " → ".join(f"`{name}`" for name in chain)
        message = f"`{chain[0]}` reads itself: {shown}" if len(chain) > 2 else f"`{chain[0]}` reads itself"
        also: list[tuple[Span | None, str]] = [(self.spans[name], f"`{name}`") for name in chain[1:-1]]
        fix = "let one of them read a column instead" if len(chain) > 2 else "let it read a column instead"
        self.sink.report("E344", self.spans[chain[0]], message, also=also, fix=fix)


def _number(syntax: Syntax, index: int) -> float | None:
    """A number that is written, with its sign."""
    node = syntax.nodes[index]
    if node.kind == "unary" and node.value in ("-", "+"):
        inner = _number(syntax, node.args[0])
        return None if inner is None else -inner if node.value == "-" else inner
    return float(node.value) if node.kind == "number" and isinstance(node.value, (int, float)) else None
