"""The outputs and metrics of a model."""

from __future__ import annotations

from collections.abc import Callable

from r2d2c.diagnostics import Sink, suggest
from r2d2c.graph import Metric, Port, Value
from r2d2c.resolve.evaluate import Evaluator
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Placed
from r2d2c.resolve.scopes import ModelScopes
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.syntax.spec import Spec
from r2d2c.types import Named


def resolve_outputs(
    spec: Spec, scopes: ModelScopes, finish: Callable[[RegionBuilder, Span], Value]
) -> list[Port]:
    """The output ports. ``finish`` makes a region, and the call of it in the main one."""
    ports = []
    for output in spec.outputs:
        syntax: Syntax = output.syntax
        region = scopes.output(output.name)
        evaluator = Evaluator(region, syntax)
        evaluator.place = f"outputs.{output.name}"
        result = evaluator.expression(syntax.root, output.name)
        direct = scopes.direct(result)
        if direct is not None:
            ports.append(Port(output.name, direct))
            continue
        value = evaluator.as_value(Placed(result, evaluator.span(syntax.root)))
        if value is not FAILED:
            region.expose(output.name, value)
            ports.append(Port(output.name, finish(region, output.span)))
    return ports


def resolve_metric(syntax: Syntax, spec: Spec, sink: Sink) -> Metric | None:
    """A metric and what it compares; None after a diagnostic."""
    root = syntax.nodes[syntax.root]
    span = syntax.span(syntax.root)
    known = [*(o.name for o in spec.outputs), *(p.name for p in (*spec.inputs, *spec.targets))]
    if root.kind == "name":
        return Metric(str(root.value), (), (), span)
    if root.kind != "call" or syntax.nodes[root.args[0]].kind != "name":
        sink.report("E416", span, "a metric is written `accuracy(output, target)`")
        return None
    args = []
    for position in root.args[1:]:
        name = syntax.dotted(position)
        if name not in known:
            sink.report(
                "E417",
                syntax.span(position),
                f"a metric compares outputs, targets and inputs; `{syntax.span(position).text}` is none",
                fix=suggest(name or "", known),
            )
            return None
        args.append(str(name))
    options = []
    for key, position in root.keywords:
        value = syntax.nodes[position].value
        if not isinstance(value, (int, float, str)):
            sink.report("E416", syntax.span(position), f"`{key}` of a metric is a number or a name")
            return None
        options.append((key, int(value) if isinstance(value, Named) else value))
    return Metric(str(syntax.nodes[root.args[0]].value), tuple(args), tuple(options), span)
