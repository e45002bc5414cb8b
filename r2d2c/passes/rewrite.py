"""Rules that change inference as well: they rewrite the typed graph before anything else looks at it."""

from __future__ import annotations

from collections.abc import Mapping

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.guard import ask
from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph
from r2d2c.ops.record import Op
from r2d2c.passes.credit import active_losses
from r2d2c.passes.legality import check_after


def rewrite(graph: Graph, ops: Mapping[str, Op], rules: Mapping[str, CreditRule], sink: Sink) -> Graph:
    """The graph after the `rewrite` of every rule that some link names and that can stand there."""
    if any(link.credit.rule not in rules for link in graph.links):
        return graph  # `verify` says so
    for rule in rules.values():
        links = [link for link in graph.links if link.credit.rule == rule.name]
        if rule.rewrite is None or not links:
            continue
        before = len(sink.diagnostics)
        if rule.check is not None:
            active = active_losses(graph, rules)
            for link in links:
                ask(rule, [link], "check", LinkCheck(graph, link, rule, ops, rules, active, sink))
        if not any(found.severity == "error" for found in sink.diagnostics[before:]):
            graph = check_after(ask(rule, links, "rewrite", graph, links, ops), ops, "typed")
    return graph
