"""`Spec`: a document whose expressions are parsed. The last stage that is only text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from r2d2c.diagnostics import Sink
from r2d2c.source import Source, Span
from r2d2c.syntax.ast import LinkKey, Signature, Syntax, TypeSyntax
from r2d2c.syntax.expressions import (
    Parser,
    parse_body,
    parse_expression,
    parse_link,
    parse_signature,
    parse_type,
)
from r2d2c.syntax.lexer import Region
from r2d2c.syntax.sections import Document
from r2d2c.syntax.yaml_tree import YScalar, yaml_comment_after

OP_GRAPH_OPTIONS = ("start", "normalise", "places")
GROW_SIZES = ("add", "prune", "split", "merge", "depth", "epochs", "settle")
GROW_OPTIONS = ("every", *GROW_SIZES, "by", "below", "prefer", "reach", "wire")
GROW_FLAGS = ("whole", "compensate", "refit")
HYPERNET_OPTIONS = ("mode", "hidden", "act", "rank", "base", "chunks", "normalise")


@dataclass(slots=True)
class TaskSyntax:
    name: str
    span: Span
    behavior: Syntax | None
    representative: Syntax | None = None
    distance: Syntax | None = None
    teach: Syntax | None = None
    weight: Syntax | None = None
    keep_own: bool = False


@dataclass(slots=True)
class LossSyntax:
    """A further loss. ``steps``: the first and the last step of a loop at which it is taken."""

    name: str
    span: Span
    value: Syntax | None
    body: Syntax | None = None
    weight: Syntax | None = None
    steps: tuple[Syntax, Syntax] | None = None


@dataclass(slots=True)
class CarrySyntax:
    """A carried value: ``f32[B, S] = learned``."""

    name: str
    span: Span
    type: TypeSyntax
    initial: Syntax
    credit: Syntax | None = None


@dataclass(slots=True)
class LoopSyntax:
    """A loop. Exactly one of ``repeat``, ``over`` and ``until`` should be there."""

    signature: Signature
    span: Span
    body: Syntax
    repeat: Syntax | None = None
    over: Syntax | None = None
    until: Syntax | None = None
    maximum: Syntax | None = None
    epsilon: Syntax | None = None
    each: list[Named] = field(default_factory=list)
    carry: list[CarrySyntax] = field(default_factory=list)
    widths: list[Named] = field(default_factory=list)
    per_step: bool = False
    recompute: bool = False
    stateful: bool = False


@dataclass(slots=True)
class MemorySyntax:
    """A memory store. The values of ``fields`` are types."""

    name: str
    span: Span
    slots: Syntax
    fields: list[Named]
    replace: Syntax | None = None
    when: Syntax | None = None
    each_slot: Syntax | None = None
    credit: Syntax | None = None
    shared: bool = False


@dataclass(slots=True)
class OpGraphSyntax:
    """An op graph. ``options``: what has one expression, by key; ``grow`` the same of its growth, None without.

    flags: those keys of its growth that say yes or no, and say yes. frozen: the names of ops that stay.
    """

    name: str
    span: Span
    capacity: Syntax
    ops: list[Syntax]
    nodes: list[Named]
    options: dict[str, Syntax] = field(default_factory=dict)
    grow: dict[str, Syntax] | None = None
    flags: frozenset[str] = frozenset()
    frozen: tuple[Syntax, ...] = ()


@dataclass(slots=True)
class HypernetSyntax:
    """A hypernet: what it makes, and its options by name."""

    name: str
    span: Span
    makes: Syntax
    options: dict[str, Syntax] = field(default_factory=dict)


@dataclass(slots=True)
class LinkSyntax:
    key: LinkKey
    span: Span
    credit: Syntax | None = None
    feed: Syntax | None = None


@dataclass(slots=True)
class BlockSyntax:
    signature: Signature
    body: Syntax
    span: Span


@dataclass(slots=True)
class Named:
    """A name with its expression (or type) and the span of the name."""

    name: str
    span: Span
    syntax: Any


@dataclass(slots=True)
class Spec:
    """Everything a spec says, parsed. ``override``: the credit of every link, of ``--credit``."""

    source: Source
    document: Document
    name: str
    dims: list[Named] = field(default_factory=list)
    inputs: list[Named] = field(default_factory=list)
    targets: list[Named] = field(default_factory=list)
    places: list[Named] = field(default_factory=list)
    blocks: list[BlockSyntax] = field(default_factory=list)
    hypernets: list[HypernetSyntax] = field(default_factory=list)
    memories: list[MemorySyntax] = field(default_factory=list)
    op_graphs: list[OpGraphSyntax] = field(default_factory=list)
    loops: list[LoopSyntax] = field(default_factory=list)
    tasks: list[TaskSyntax] = field(default_factory=list)
    losses: list[LossSyntax] = field(default_factory=list)
    links: list[LinkSyntax] = field(default_factory=list)
    outputs: list[Named] = field(default_factory=list)
    metrics: list[Syntax] = field(default_factory=list)
    credit: Syntax | None = None
    override: Syntax | None = None
    imports: list[tuple[str, Span]] = field(default_factory=list)


def parse_scalar(scalar: YScalar | None, parser: Parser, sink: Sink) -> Any:
    """Parse what a scalar holds, with spans in the file. None if it is absent or does not parse."""
    if scalar is None:
        return None
    if scalar.has_escapes:
        sink.report(
            "E109", scalar.span, "an expression cannot have YAML escapes", fix="write it as a block, with `|`"
        )
        return None
    before = len(sink.diagnostics)
    parsed = parser(_region(scalar), sink)
    comment = yaml_comment_after(scalar)
    if parsed is None and comment is not None and len(sink.diagnostics) > before:
        sink.report("N110", comment, "YAML ended the expression here: ` #` starts a comment")
    return parsed


def _region(scalar: YScalar) -> Region:
    return Region(scalar.span.source, scalar.content.start, scalar.expression_text())


def _parse_two(
    scalar: YScalar, mark: str, parsers: tuple[Parser, Parser], sink: Sink, wanted: str
) -> tuple[Any, Any] | None:
    """The two parts of ``left MARK right``. None after a diagnostic."""
    whole = _region(scalar)
    left, found, right = whole.text.partition(mark)
    if not found or not left.strip() or not right.strip():
        sink.report("E161", scalar.span, f"expected two parts with `{mark}` in between, as in {wanted}")
        return None
    first = parsers[0](Region(whole.source, whole.start, left), sink)
    second = parsers[1](Region(whole.source, whole.start + len(left) + len(mark), right), sink)
    return None if first is None or second is None else (first, second)


def _parse_loops(document: Document, sink: Sink) -> list[LoopSyntax]:
    def expression(scalar: YScalar | None) -> Syntax | None:
        return parse_scalar(scalar, parse_expression, sink)  # type: ignore[no-any-return]

    loops = []
    for loop in document.loops:
        signature = parse_scalar(loop.key, parse_signature, sink)
        body = parse_scalar(loop.body, parse_body, sink)
        each = [Named(n, loop.key_of("each", n), expression(s)) for n, s in loop.each.items()]
        carry = []
        for name, model in loop.carry.items():
            parts = _parse_two(model.value, "=", (parse_type, parse_expression), sink, "`f32[B, S] = zeros`")
            if parts is not None:
                span = loop.key_of("carry", name)
                carry.append(CarrySyntax(name, span, *parts, expression(model.credit)))
        widths = [
            Named(name, loop.key_of("widths", name), [expression(s) for s in listed])
            for name, listed in loop.widths.items()
        ]
        if signature is None or body is None:
            continue
        loops.append(
            LoopSyntax(
                signature,
                loop.key.span,
                body,
                expression(loop.repeat),
                expression(loop.over),
                expression(loop.until),
                expression(loop.max),
                expression(loop.epsilon),
                [entry for entry in each if entry.syntax is not None],
                carry,
                widths,
                loop.parameters == "per_step",
                loop.recompute,
                loop.stateful,
            )
        )
    return loops


def _parse_hypernets(document: Document, sink: Sink) -> list[HypernetSyntax]:
    hypernets = []
    for net in document.hypernets:
        makes = parse_scalar(net.makes, parse_expression, sink)
        options = _options(net, HYPERNET_OPTIONS, sink)
        if makes is not None:
            hypernets.append(HypernetSyntax(net.name, net.key.span, makes, options))
    return hypernets


def _parse_field(region: Region, sink: Sink) -> TypeSyntax | None:
    """The type of what a slot holds: one number needs no brackets, ``f32``."""
    text = region.text.strip()
    return (
        TypeSyntax(text, (), Syntax(region.source, [])) if text.isidentifier() else parse_type(region, sink)
    )


def _parse_memories(document: Document, sink: Sink) -> list[MemorySyntax]:
    def expression(scalar: YScalar | None) -> Syntax | None:
        return parse_scalar(scalar, parse_expression, sink)  # type: ignore[no-any-return]

    memories = []
    for memory in document.memories:
        slots = expression(memory.slots)
        fields = [
            Named(name, memory.key_of(name), parse_scalar(type_, _parse_field, sink))
            for name, type_ in memory.fields.items()
        ]
        each_slot = parse_scalar(memory.each_slot, parse_body, sink)
        rules = expression(memory.replace), expression(memory.when)
        credit = expression(memory.credit)
        if slots is None or any(entry.syntax is None for entry in fields):
            continue
        span = memory.key.span
        memories.append(
            MemorySyntax(memory.name, span, slots, fields, *rules, each_slot, credit, memory.shared)
        )
    return memories


def _options(record: Any, names: tuple[str, ...], sink: Sink) -> dict[str, Syntax]:
    """The expressions that are there, by key."""
    found = {name: parse_scalar(getattr(record, name), parse_expression, sink) for name in names}
    return {name: syntax for name, syntax in found.items() if syntax is not None}


def _parse_op_graphs(document: Document, sink: Sink) -> list[OpGraphSyntax]:
    found = []
    for graph in document.op_graphs:
        capacity = parse_scalar(graph.capacity, parse_expression, sink)
        ops = [parse_scalar(scalar, parse_expression, sink) for scalar in graph.ops]
        nodes = [
            Named(name, graph.key_of(name), parse_scalar(scalar, parse_expression, sink))
            for name, scalar in graph.nodes.items()
        ]
        grow = None if graph.grow is None else _options(graph.grow, GROW_OPTIONS, sink)
        options = _options(graph, OP_GRAPH_OPTIONS, sink)
        if capacity is None or None in ops or any(entry.syntax is None for entry in nodes):
            continue
        flags = frozenset(flag for flag in GROW_FLAGS if graph.grow is not None and getattr(graph.grow, flag))
        held = () if graph.grow is None else graph.grow.frozen or ()
        frozen = tuple(syntax for name in held if (syntax := parse_scalar(name, parse_expression, sink)))
        found.append(
            OpGraphSyntax(graph.name, graph.key.span, capacity, ops, nodes, options, grow, flags, frozen)
        )
    return found


def parse_blocks(document: Document, sink: Sink) -> list[BlockSyntax]:
    """The blocks of a document; those of an import are parsed with this too."""
    blocks = []
    for block in document.blocks:
        signature = parse_scalar(block.key, parse_signature, sink)
        body = parse_scalar(block.body, parse_body, sink)
        if signature is not None and body is not None:
            blocks.append(BlockSyntax(signature, body, block.key.span))
    return blocks


def parse_spec(document: Document, sink: Sink) -> Spec:
    """Parse every expression of a document. Mistakes go to the sink; what failed is None or missing."""
    spec = Spec(document.span.source, document, document.model or "model")

    def many(entries: Any, key: str, parser: Parser) -> list[Named]:
        parsed = [Named(e.name, e.key.span, parse_scalar(getattr(e, key), parser, sink)) for e in entries]
        return [entry for entry in parsed if entry.syntax is not None]

    def expression(scalar: YScalar | None) -> Syntax | None:
        return parse_scalar(scalar, parse_expression, sink)  # type: ignore[no-any-return]

    def body(scalar: YScalar | None) -> Syntax | None:
        return parse_scalar(scalar, parse_body, sink)  # type: ignore[no-any-return]

    spec.imports = [(entry.value, entry.span) for entry in document.imports]
    for dim in document.dims:
        value = expression(dim.value) if isinstance(dim.value, YScalar) else dim.value
        spec.dims.append(Named(dim.name, dim.key.span, value))
    spec.inputs = many(document.inputs, "value", parse_type)
    spec.targets = many(document.targets, "value", parse_type)
    spec.places = many(document.places, "value", parse_expression)
    spec.blocks = parse_blocks(document, sink)
    spec.hypernets = _parse_hypernets(document, sink)
    spec.memories = _parse_memories(document, sink)
    spec.op_graphs = _parse_op_graphs(document, sink)
    spec.loops = _parse_loops(document, sink)
    for task in document.tasks:
        spec.tasks.append(
            TaskSyntax(
                task.name,
                task.key.span,
                body(task.behavior),
                body(task.representative),
                expression(task.distance),
                expression(task.teach),
                expression(task.weight),
                task.keep == "own",
            )
        )
    for loss in document.losses:
        both = (parse_expression, parse_expression)
        steps = None if loss.steps is None else _parse_two(loss.steps, "..", both, sink, "`2..depth`")
        value, weight = expression(loss.value), expression(loss.weight)
        spec.losses.append(LossSyntax(loss.name, loss.key.span, value, body(loss.body), weight, steps))
    for link in document.links:
        key = parse_scalar(link.key, parse_link, sink)
        if key is not None:
            spec.links.append(LinkSyntax(key, link.key.span, expression(link.credit), expression(link.feed)))
    spec.outputs = many(document.outputs, "value", parse_expression)
    spec.credit = expression(document.credit)
    if document.train is not None:
        metrics = [expression(metric) for metric in document.train.metrics]
        spec.metrics = [metric for metric in metrics if metric is not None]
    return spec
