"""The credit of links: rules that exist, and `feed`."""

from __future__ import annotations

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.guard import ask
from r2d2c.diagnostics import suggest
from r2d2c.graph import Link
from r2d2c.passes.credit import active_losses
from r2d2c.source import Span
from r2d2c.verify.context import Context, listed


def check_default(c: Context) -> None:
    """The rule of `credit:`, also where no link takes it."""
    syntax = c.spec.override or c.spec.credit
    if syntax is None:
        return
    root = syntax.nodes[syntax.root]
    name = syntax.nodes[root.args[0]].value if root.kind == "call" else root.value
    if name not in c.rules:
        _unknown(c, str(name), syntax.span(syntax.root))


def check_links(c: Context) -> None:
    for link in c.graph.links:
        rule = c.rules.get(link.credit.rule)
        if rule is None:
            _unknown(c, link.credit.rule, link.credit.origin)
            continue
        if link.feed is not None:
            _feed(c, link)
    if not c.sink.failed:
        _let_rules_check(c)


def _let_rules_check(c: Context) -> None:
    """Every rule says why it cannot stand on a link, before anything is attached."""
    active = active_losses(c.graph, c.rules)
    for link in c.graph.links:
        rule = c.rules[link.credit.rule]
        if rule.check is not None:
            ask(rule, [link], "check", LinkCheck(c.graph, link, rule, c.ops, c.rules, active, c.sink))


def _unknown(c: Context, name: str, span: Span | None) -> None:
    notes = [f"the rules are {listed(c.rules)}"]
    c.sink.report("E430", span, f"there is no credit rule `{name}`", notes=notes, fix=suggest(name, c.rules))


def _feed(c: Context, link: Link) -> None:
    entry, rule = c.link_syntax(link.origin), c.rules[link.credit.rule]
    if entry is None or entry.feed is None:
        return
    span = entry.feed.span(entry.feed.root)
    if not rule.takes_feed:
        taking = " or ".join(f"`{name}`" for name, other in c.rules.items() if other.takes_feed)
        c.sink.report(
            "E432",
            span,
            f"`feed` goes with the credit {taking}, not with `{rule.name}`",
            f"`{link.source_task}` would learn nothing from `{link.target}`",
            also=[(link.credit.origin, f"this link's credit is `{rule.name}`")],
            fix=f"write `{{credit: local, feed: {span.text}}}`, or remove `feed`",
        )
    elif link.feed_task != link.source_task:
        own, fed = link.source_task, f"`{span.text}` is a representative of `{link.feed_task}`"
        name = c.representative_name(own)
        fix = f"feed `{name}`" if name else f"`{own}` has no representative: remove `feed`"
        c.sink.report("E433", span, f"this link comes from `{own}`, and {fed}", fix=fix)
