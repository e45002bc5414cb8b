"""Op graphs: what a spec says of one, and its use, ``columns = layer(x)``.

Its ops are data, not nodes of the graph: what the spec writes of them is how the table of the op `op_graph` begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.formulas import reads
from r2d2c.graph import Init, Value
from r2d2c.ops.op_graph import OP_GRAPH, PLACE, STATISTICS, Start, Written
from r2d2c.resolve.growth import read_growing
from r2d2c.resolve.op_graph_nodes import Nodes
from r2d2c.resolve.region import RESERVED, RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, kind_of
from r2d2c.types import Dim

if TYPE_CHECKING:
    from r2d2c.growth import Growing
    from r2d2c.places import Placing
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.resolve.program import Program
    from r2d2c.source import Span
    from r2d2c.syntax.ast import Expr, Syntax
    from r2d2c.syntax.spec import OpGraphSyntax

NORMALISE = ("none", "batch", "layer")
# Of what is counted: more rows would not fit.
MOST = 10_000_000
# Of ops that are compared with each other, all of them: of twice as many these are 8 GB, and 8 times the work a round.
MOST_COMPARED = 16_384


def call_op_graph(evaluator: Evaluator, index: int, node: Expr, name: str) -> Any:
    """The node of an op graph where it is used; `FAILED` after a diagnostic."""
    program, span = evaluator.program, evaluator.span(index)
    syntax = program.op_graphs[name]
    x = _argument(evaluator, index, node, syntax)
    if x is FAILED or name in program.failed:
        return FAILED
    refused = _refusal(evaluator, syntax)
    if refused is not None:
        message, fix, also = refused
        evaluator.sink.report("E347", span, message, also=also, fix=fix)
        return FAILED
    program.op_graph_uses[name] = span
    if name in RESERVED:
        message = f"`{name}` cannot name what has parameters: it is an attribute of every torch module"
        evaluator.sink.report("E216", syntax.span, message, fix="use another name")
        return FAILED
    read = Reader(program, syntax).read()
    if read is None:
        program.failed.add(name)
        return FAILED
    start, normalise, growing = read
    region = evaluator.region
    id_ = region.fresh(name)
    made = {arg.name: arg for arg in OP_GRAPH.args[1:]}
    inputs: list[Value | None] = [x]
    for part in made:
        if (part in STATISTICS and normalise != "batch") or (part == PLACE and start.places is None):
            inputs.append(None)
            continue
        kind = "frozen" if part != "numbers" or region.frozen else "param"
        inputs.append(region.make_storage(f"{id_}.{part}", kind, Init("default"), syntax.span))
    attrs = {"start": start, "normalise": normalise, "growing": growing}
    shown = evaluator.target if index == evaluator.root and evaluator.target else OP_GRAPH.outputs[0]
    outputs = (shown, *OP_GRAPH.outputs[1:]) if normalise == "batch" else (shown,)
    return region.add(id_, OP_GRAPH.name, tuple(inputs), attrs, outputs, span)


def _argument(evaluator: Evaluator, index: int, node: Expr, syntax: OpGraphSyntax) -> Any:
    given = [*((None, i) for i in node.args[1:]), *node.keywords]
    if len(given) != 1 or given[0][0] not in (None, "x"):
        message = f"the op graph `{syntax.name}` takes one value, its columns [B, D]"
        also: list[tuple[Span | None, str]] = [(syntax.span, "the op graph")]
        evaluator.sink.report(
            "E347", evaluator.span(index), message, also=also, fix=f"write `{syntax.name}(x)`"
        )
        return FAILED
    return evaluator.as_value(evaluator.placed(given[0][1]))


def _refusal(
    evaluator: Evaluator, syntax: OpGraphSyntax
) -> tuple[str, str | None, list[tuple[Span | None, str]]] | None:
    """Why an op graph cannot be used here."""
    program, region, name = evaluator.program, evaluator.region, syntax.name
    also: list[tuple[Span | None, str]]
    if name in program.op_graph_uses:
        also = [(program.op_graph_uses[name], "the first use"), (syntax.span, "the op graph")]
        message = f"the op graph `{name}` is used twice, and it has one table of ops"
        return (
            message,
            f"use its value again, or give the second use an op graph of its own: `{name}_2`",
            also,
        )
    also = [(syntax.span, "the op graph")]
    if region.generator is not None:
        message = f"the op graph `{name}` is inside of what a hypernet makes, and its ops are the same for all samples"
        return message, "use it outside of the block that the hypernet makes", also
    loops = [b for b in region.active_blocks if b in program.loops]
    option = syntax.options.get("normalise")
    if loops and option is not None and option.nodes[option.root].value == "batch":
        message = f"the ops of `{name}` are normalised over the batch, and inside of the loop `{loops[-1]}` every step has others"
        return message, "leave `normalise` out, or use it outside of the loop", also
    stacked = [b for b in loops if program.loops[b].per_step]
    if stacked:
        message = f"the loop `{stacked[-1]}` has parameters for every step, and the op graph `{name}` has one table of ops"
        return message, "leave `parameters: per_step` out, or use it outside of the loop", also
    return None


class Reader:
    """Reads one op graph of the spec. Mistakes go to the sink."""

    def __init__(self, program: Program, syntax: OpGraphSyntax) -> None:
        self.program, self.sink, self.syntax, self.good = program, program.sink, syntax, True

    def read(self) -> tuple[Start, str, Growing | None] | None:
        """How it begins, how it is normalised, and how it grows; None after a diagnostic."""
        before = len(self.sink.diagnostics)
        syntax = self.syntax
        kinds = self._kinds()
        capacity = self._size("capacity", syntax.capacity, 1)
        start = self._size("start", syntax.options.get("start"), 0)
        depth = self._size("depth", (syntax.grow or {}).get("depth"), 1) or None
        normalise = self._normalise()
        nodes: tuple[Written, ...] = Nodes(self.sink, syntax, self.program.ops.kinds).read()
        self._room(capacity, start, kinds, nodes)
        if normalise == "layer" and len(syntax.nodes) + start == 1:
            option = syntax.options["normalise"]
            message = f"`{syntax.name}` has one op, and normalised over all ops it would always be 0"
            self.sink.report("E349", option.span(option.root), message, fix="write `normalise: batch`")
        growing = read_growing(self, len(syntax.nodes) + start, depth)
        self._compared(capacity, growing)
        places = self._places()
        if any(d.severity == "error" for d in self.sink.diagnostics[before:]) or isinstance(places, Failed):
            return None
        wire = growing.wire if growing is not None else None
        reach = growing.reach if growing is not None and growing.prefer == "near" else None
        begins = Start(syntax.name, capacity, kinds, nodes, start, depth, places, wire, reach)
        return begins, normalise, growing

    def _places(self) -> Placing | Failed | None:
        """Where its input columns are; None where they have no places."""
        syntax = self.syntax.options.get("places")
        if syntax is None:
            return None
        root, span = syntax.nodes[syntax.root], syntax.span(syntax.root)
        name, known = span.text, self.program.placings
        if root.kind == "name" and name in known:
            return known[name] or FAILED
        message = f"`places` of `{self.syntax.name}` is the name of a set of places, not `{name}`"
        fix = suggest(name, known) or "make it in the section `places`: `retina: grid(8, 8)`"
        self.sink.report("E355", span, message, fix=fix)
        return FAILED

    def _kinds(self) -> tuple[str, ...]:
        """The kinds of `ops`, without those that are not known."""
        found: list[str] = []
        for syntax in self.syntax.ops:
            root = syntax.nodes[syntax.root]
            name = str(root.value) if root.kind == "name" else ""
            span = syntax.span(syntax.root)
            if name not in self.program.ops.kinds:
                report_kind(self.sink, span, span.text, self.program.ops.kinds)
            elif name in found:
                self.sink.report("E341", span, f"the kind `{name}` is there twice", fix="remove one of them")
            else:
                found.append(name)
        return tuple(found)

    def _size(self, key: str, syntax: Syntax | None, least: int) -> int:
        """A number of the spec; 0 where it is not there, or after a diagnostic."""
        from r2d2c.resolve.evaluate import Evaluator

        if syntax is None:
            return 0
        scratch = RegionBuilder(self.program, "dims", "model", "dims")
        result: Any = Evaluator(scratch, syntax).expression(syntax.root)
        span = syntax.span(syntax.root)
        if isinstance(result, int) and not isinstance(result, bool):
            if least <= result <= MOST:
                return int(result)
            if result > MOST:
                message = f"`{key}` of `{self.syntax.name}` is {MOST:,} at most, not {int(result):,}"
                self.sink.report("E345", span, message)
                return 0
            self.sink.report(
                "E345", span, f"`{key}` of `{self.syntax.name}` is {least} or more, not {int(result)}"
            )
        elif not isinstance(result, Failed):
            what = f"{result}, known only when the model runs" if isinstance(result, Dim) else kind_of(result)
            message = f"`{key}` of `{self.syntax.name}` is a number, not {what}"
            self.sink.report("E345", span, message, fix=f"write a number: `{key}: 16`")
        return 0

    def _normalise(self) -> str:
        syntax = self.syntax.options.get("normalise")
        if syntax is None:
            return "none"
        root = syntax.nodes[syntax.root]
        name = str(root.value) if root.kind == "name" else ""
        if name == "layer" and self.syntax.grow is not None:
            message = f"`{self.syntax.name}` grows, and is normalised over its ops: a new op would change the columns of all others"
            self.sink.report("E349", syntax.span(syntax.root), message, fix="write `normalise: batch`")
        if name in NORMALISE:
            return name
        span = syntax.span(syntax.root)
        message = f"`normalise` of an op graph is `batch`, `layer` or `none`, not `{span.text}`"
        self.sink.report("E349", span, message, fix=suggest(name, NORMALISE))
        return "none"

    def _compared(self, capacity: int, growing: Growing | None) -> None:
        """Whether what its growth compares with each other is not too much."""
        if growing is None or capacity <= MOST_COMPARED:
            return
        name, written = self.syntax.name, (self.syntax.grow or {}).get("by")
        also: list[tuple[Span | None, str]] = []
        if growing.compensate:
            key, way = "compensate", "leave `compensate` out"
        elif written is not None and "saliency" in reads(growing.by):
            key, way = "saliency", "use another score: `by: effect`"
            also = [(written.span(written.root), "by this ops are pruned")]
        else:
            return
        span = self.syntax.capacity.span(self.syntax.capacity.root)
        message = f"`{key}` compares each op of `{name}` with all others, and its capacity is {capacity:,}"
        fix = f"{way}, or lower `capacity` to {MOST_COMPARED:,}"
        self.sink.report("E345", span, message, also=also, fix=fix)

    def _room(self, capacity: int, start: int, kinds: tuple[str, ...], nodes: tuple[Written, ...]) -> None:
        """Whether what is there at first has a row, and random ops have a kind."""
        syntax = self.syntax
        count = len(syntax.nodes) + start
        if capacity and count > capacity:
            span = syntax.capacity.span(syntax.capacity.root)
            written = f"{len(syntax.nodes)} written and {start} random ones"
            message = f"`{syntax.name}` has room for {capacity} ops, and begins with {count}: {written}"
            self.sink.report(
                "E345", span, message, fix=f"make it `{count}` at least, and more where it grows"
            )
        grown = "add" in (syntax.grow or {})
        if not syntax.ops and (start or grown):
            key = "start" if start else "add"
            options = syntax.options if start else syntax.grow or {}
            span = options[key].span(options[key].root)
            message = f"`{key}` of `{syntax.name}` makes random ops, and `ops` does not say of which kinds"
            self.sink.report("E349", span, message, fix="name some: `ops: [add, mul, gauss]`")


def report_kind(sink: Any, span: Span, name: str, known: Iterable[str]) -> None:
    known = list(known)
    shown = ", ".join(f"`{kind}`" for kind in known)
    sink.report(
        "E341",
        span,
        f"`{name}` is no kind of op that an op graph has",
        fix=suggest(name, known),
        notes=[f"it has {shown}"],
    )


__all__ = ["Reader", "call_op_graph", "report_kind"]
