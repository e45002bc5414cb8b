"""Rules that change inference as well: they rewrite the typed graph before anything else looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.guard import ask
from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import Sink
from r2d2c.graph import Credit, Graph
from r2d2c.ops.record import Op
from r2d2c.passes.credit import active_losses
from r2d2c.passes.legality import check_after


def spare_integers(graph: Graph, everywhere: bool) -> Graph:
    """The graph with `local` on links of masks and integers that stand beside floating ones, where no entry says more.

    A rule for every link (``credit:``, ``--credit``) is meant for those that can carry a signal; a mask cannot. Of a
    task that sends on nothing else the rule has no place to act, and its checks say so.
    everywhere: what entries of `links:` say counts as little, since the command line has overruled it.
    """
    floating = {link: graph.types[link.source].floating for link in graph.links if link.source in graph.types}
    senders = {link.source_task for link, found in floating.items() if found}
    links = tuple(
        replace(link, credit=Credit("local", (), link.credit.origin))
        if not floating.get(link, True)
        and link.source_task in senders
        and link.feed is None
        and (everywhere or link.origin is None)
        else link
        for link in graph.links
    )
    return graph.with_(links=links)


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
