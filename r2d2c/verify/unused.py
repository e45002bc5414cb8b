"""What a spec makes and never uses: values, inputs, targets, dims, blocks, tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from r2d2c.credit.options import options
from r2d2c.graph import Node, Region, Value
from r2d2c.source import Span
from r2d2c.syntax.ast import Statement, Syntax
from r2d2c.syntax.spec import LoopSyntax, MemorySyntax, OpGraphSyntax, Spec
from r2d2c.verify.context import Context


def check_tasks(c: Context) -> None:
    """Tasks that reach neither an output nor a loss that trains."""
    for name in _dead_tasks(c):
        notes = []
        if name in c.dropped:
            notes.append(
                f"its own distance is dropped by the credit of its link; `keep: own` in `{name}` keeps it"
            )
        c.sink.report(
            "W453",
            c.graph.tasks[name].origin,
            f"the task `{name}` reaches neither an output nor a loss, so it does nothing",
            notes=notes,
            fix="read one of its values, give it a distance, or remove it",
        )


def _dead_tasks(c: Context) -> list[str]:
    live = {node.id for node in c.attached.body.nodes}
    return [name for name, task in c.graph.tasks.items() if task.behavior not in live]


def check_ports(c: Context) -> None:
    read = {value for node in c.graph.body.nodes for value in node.inputs}
    read |= {port.value for port in c.graph.body.outputs}
    named = set(_named_by_credit(c))
    spans = {node.id: node.origin for node in c.graph.body.nodes}
    for port in c.graph.body.inputs:
        if port.value not in read and port.name not in named:
            what = "target" if port.name in c.graph.targets else "input"
            c.sink.report(
                "W451",
                spans[port.value.node],
                f"the {what} `{port.name}` is never read",
                fix="read it, or remove it",
            )


def _named_by_credit(c: Context) -> Iterator[str]:
    """The ports that options of credit rules name."""
    for link in c.graph.links:
        ports = {o.name for o in options(c.rules[link.credit.rule]) if o.kind in ("target", "input")}
        yield from (str(value) for name, value in link.credit.args if name in ports)


# -- values


def check_values(c: Context) -> None:
    """Names that a statement gives and nothing reads."""
    dead = set(_dead_tasks(c))
    for region, syntax in c.bodies():
        if region.name.removesuffix(".representative") in dead:
            continue
        read = {value for node in region.nodes for value in node.inputs} | {
            port.value for port in region.outputs
        }
        unread = [n for n in region.nodes if (n.id, 0) not in read or len(n.outputs) > 1]
        makers = {
            (n.origin.start, n.origin.end): n
            for n in unread
            if n.origin is not None and n.origin.source is syntax.source and n.op != "port"
        }
        if not makers:
            continue
        for statement in syntax.statements:
            for (name, start, end), values in _made(statement, syntax, makers):
                if values and not name.startswith("_") and not any(value in read for value in values):
                    span = Span(syntax.source, start, end)
                    fix = f"remove it, or call it `_{name}` if that is meant"
                    c.sink.report("W450", span, f"the value `{name}` is never read{_where(region)}", fix=fix)


def _where(region: Region) -> str:
    if region.kind == "behavior":
        return ": not here, not by a task and not by an output"
    if region.kind == "representative":
        return ": no distance, no link and no other representative takes it"
    return ""


def _made(
    statement: Statement, syntax: Syntax, makers: dict[tuple[int, int], Node]
) -> Iterator[tuple[tuple[str, int, int], list[Value]]]:
    """The targets of a statement with the values they name, where these are the work of the statement."""
    root = syntax.nodes[statement.root]
    single = len(statement.targets) == 1
    for number, target in enumerate(statement.targets):
        parts = root.kind == "tuple"
        node = syntax.nodes[root.args[number]] if parts and not single else root
        maker = makers.get((node.start, node.end))
        if maker is None:
            continue
        if single or parts:
            yield target, [Value(maker.id, port) for port in range(max(1, len(maker.outputs)))]
        else:
            yield target, [Value(maker.id, number)]


# -- dims and blocks


def check_names(c: Context) -> None:
    """By the names that are written anywhere: a dim or a block that is not written is not used."""
    spec = c.spec
    written = {node.value for syntax in _syntaxes(spec) for node in syntax.nodes if node.kind == "name"}
    for dim in spec.dims:
        if dim.name not in written:
            c.sink.report("W452", dim.span, f"the dim `{dim.name}` is never used", fix="use it, or remove it")
    for block in spec.blocks:
        if block.signature.name not in written:
            c.sink.report(
                "W452",
                block.span,
                f"the block `{block.signature.name}` is never used",
                fix="use it, or remove it",
            )
    for net in spec.hypernets:
        if net.name not in written:
            message = f"the hypernet `{net.name}` is never used"
            c.sink.report("W452", net.span, message, fix="use it, or remove it")
    for memory in spec.memories:
        if memory.name not in written:
            message = f"the memory `{memory.name}` is never used"
            c.sink.report("W452", memory.span, message, fix="use it, or remove it")
    for graph in spec.op_graphs:
        if graph.name not in written:
            message = f"the op graph `{graph.name}` is never used"
            c.sink.report("W452", graph.span, message, fix="use it, or remove it")
    for places in spec.places:
        if places.name not in written:
            message = f"the places `{places.name}` are never used"
            c.sink.report("W452", places.span, message, fix="use them, or remove them")
    _parameters(c)


def _parameters(c: Context) -> None:
    for block in c.spec.blocks:
        written = {
            node.value for node in (*block.body.nodes, *block.signature.syntax.nodes) if node.kind == "name"
        }
        for name, _ in block.signature.parameters:
            if name not in written and not name.startswith("_"):
                message = f"the block `{block.signature.name}` never uses its parameter `{name}`"
                c.sink.report("W452", block.span, message, fix=f"use it, or call it `_{name}`")


def _syntaxes(spec: Spec) -> Iterator[Syntax]:
    found: list[Iterable[Syntax | None]] = [
        [dim.syntax for dim in spec.dims if isinstance(dim.syntax, Syntax)],
        [port.syntax.syntax for port in (*spec.inputs, *spec.targets)],
        [entry.syntax for entry in spec.places],
        [syntax for block in spec.blocks for syntax in (block.signature.syntax, block.body)],
        [syntax for loop in spec.loops for syntax in _in_loop(loop)],
        [syntax for net in spec.hypernets for syntax in (net.makes, *net.options.values())],
        [syntax for memory in spec.memories for syntax in _in_memory(memory)],
        [syntax for graph in spec.op_graphs for syntax in _in_op_graph(graph)],
        [s for t in spec.tasks for s in (t.behavior, t.representative, t.distance, t.teach, t.weight)],
        [syntax for loss in spec.losses for syntax in (loss.value, loss.body, loss.weight)],
        [syntax for loss in spec.losses for syntax in loss.steps or ()],
        [syntax for link in spec.links for syntax in (link.credit, link.feed)],
        [output.syntax for output in spec.outputs],
        [*spec.metrics, spec.credit, spec.override],
    ]
    for group in found:
        for syntax in group:
            if syntax is not None:
                yield syntax


def _in_memory(memory: MemorySyntax) -> Iterator[Syntax | None]:
    yield from (memory.slots, memory.replace, memory.when, memory.each_slot)
    for entry in memory.fields:
        yield entry.syntax.syntax


def _in_op_graph(graph: OpGraphSyntax) -> Iterator[Syntax | None]:
    # Not its ops: their names are their own, and `add` is no block there.
    yield from (graph.capacity, *graph.options.values(), *(graph.grow or {}).values())


def _in_loop(loop: LoopSyntax) -> Iterator[Syntax | None]:
    yield from (loop.signature.syntax, loop.body, loop.repeat, loop.over, loop.until, loop.maximum)
    for entry in loop.each:
        yield entry.syntax
    for carry in loop.carry:
        yield from (carry.type.syntax, carry.initial)
