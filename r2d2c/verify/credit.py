"""The credit of links: rules that exist, and `feed`."""

from __future__ import annotations

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.guard import ask
from r2d2c.diagnostics import suggest
from r2d2c.graph import Link, Node, Value
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


def check_gradients(c: Context) -> None:
    """Gradients that a rule takes, where none comes: a `stop` stands in between, or an op without a gradient."""
    done: set[tuple[Value, Value]] = set()
    for node in c.training.body.nodes:
        if node.op == "vjp":
            outputs = [value for value in node.inputs[: node.attrs["outputs"]] if value is not None]
            wrt = node.inputs[len(outputs) : len(outputs) + node.attrs["wrt"]]
            reached = c.reach.cone(outputs).nodes
            lost = [v for v in wrt if v is not None and v.node not in reached]
            lost += [v for v in wrt if v is not None and not all(map(c.reach.needs_gradient, outputs))]
        elif node.op == "gradient":
            link = next((k for k in c.training.links if k.source == _behind(c, node.inputs[0])), None)
            lost = [v for v in node.inputs if v is not None and v not in c.sent and link is not None]
        else:
            continue
        for value in lost[:1]:
            source = _behind(c, value)
            if source is None or (source, Value(str(node.origin))) in done:
                continue
            done.add((source, Value(str(node.origin))))
            _report_lost(c, node, source)


def _behind(c: Context, value: Value | None) -> Value | None:
    """What a leaf, or a leaf of values that a rule moves, stands for."""
    while value is not None and c.nodes[value.node].op in ("leaf", "stop"):
        value = c.nodes[value.node].inputs[0]
    return value


def _report_lost(c: Context, node: Node, source: Value) -> None:
    links = list(zip(c.graph.links, c.training.links, strict=True))
    link = next((mine for mine, flat in links if flat.source == source), None)
    link = link or next((k for k in c.graph.links if node.origin in (k.origin, k.credit.origin)), None)
    rule = link.credit.rule if link is not None else "of this rule"
    to = (
        f"`{link.source_task}.{c.graph.regions[link.source.node].outputs[link.source.port].name}`"
        if link
        else "it"
    )
    above = f" from `{link.target}`" if link is not None else ""
    c.sink.report(
        "E498",
        (link.credit.origin or link.origin if link is not None else None) or node.origin,
        f"the credit `{rule}` takes a gradient at {to}, and none comes back{above}",
        also=[(n.origin, f"no gradient passes `{n.op}`") for n in _cuts_at(c, source)],
        fix="let the gradient through, or give the link the credit `local`",
    )


def _cuts_at(c: Context, source: Value) -> list[Node]:
    """The ops of the tasks above that end the gradients of what they read."""
    opaque = {name for name, op in c.ops.items() if "no_gradient" in op.traits} | {"stop"}
    written = {n.id for region in c.graph.regions.values() for n in region.nodes}
    reached, found = {source}, []
    for node in c.training.body.nodes:
        if not reached.isdisjoint(node.inputs):
            if node.op in opaque and node.id in written:
                found.append(node)
            else:
                reached.update(Value(node.id, port) for port in range(len(node.outputs)))
    return found[:3]
