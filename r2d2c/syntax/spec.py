"""`Spec`: a document whose expressions are parsed. The last stage that is only text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from r2d2c.diagnostics import Sink
from r2d2c.source import Source, Span
from r2d2c.syntax.ast import LinkKey, Signature, Syntax
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
    name: str
    span: Span
    value: Syntax | None
    body: Syntax | None = None
    weight: Syntax | None = None


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
    blocks: list[BlockSyntax] = field(default_factory=list)
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
    parsed = parser(Region(scalar.span.source, scalar.content.start, scalar.expression_text()), sink)
    comment = yaml_comment_after(scalar)
    if parsed is None and comment is not None and len(sink.diagnostics) > before:
        sink.report("N110", comment, "YAML ended the expression here: ` #` starts a comment")
    return parsed


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
    spec.blocks = parse_blocks(document, sink)
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
        spec.losses.append(
            LossSyntax(
                loss.name, loss.key.span, expression(loss.value), body(loss.body), expression(loss.weight)
            )
        )
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
