"""Why a rule cannot stand on a link: the questions that several rules ask before anything is attached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.options import options_of
from r2d2c.credit.parts import numel
from r2d2c.credit.record import CreditRule
from r2d2c.graph import USES, Graph, Link, Node, Region, Value, spelled
from r2d2c.source import Span
from r2d2c.types import Dim, TensorType

BATCH = "B"
# Credits under which nothing above a link sends a gradient back over it.
_KEEPS_OUT = ("local",)


def has_batch(type_: TensorType) -> bool:
    """Whether the first axis is the batch."""
    first = type_.dims[0] if type_.dims else None
    return isinstance(first, Dim) and BATCH in first.symbols()


def unknown_sizes(type_: TensorType) -> list[str]:
    """The dims of a sample that are known only when the model runs, or that are still to be inferred."""
    names = [s for dim in type_.dims[1:] if isinstance(dim, Dim) for s in sorted(dim.symbols())]
    return [name.removeprefix("?") for name in dict.fromkeys(names)]


def can_have_delta(c: LinkCheck, per_sample: bool = True) -> bool:
    """Whether the link's value, and every sample of it if it must, can have a δ; reports why not."""
    rule, type_ = c.rule.name, c.type
    if not type_.floating:
        c.report(
            "E490",
            f"`{c.name}` is {type_}: nothing can be learned through integers, so the credit `{rule}` has no δ there",
            also=place_of(c),
            fix=f"`credit: local` for `{c.link.name}`, or send on floats, such as `softmax` in place of `argmax`",
        )
    elif per_sample and not has_batch(type_):
        c.report(
            "E490",
            f"`{c.name}` is {type_}: the credit `{rule}` needs a value for every sample, with the batch first",
            also=place_of(c),
            fix=f"`credit: backprop` or `local` for `{c.link.name}`",
        )
    else:
        return True
    return False


def is_sized(c: LinkCheck, why: str, fix: str) -> bool:
    """Whether the size of a sample at the link is known; reports why it has to be."""
    if numel(c.type) is not None:
        return True
    names = listed(unknown_sizes(c.type))
    c.report(
        "E490",
        f"`{c.name}` is {c.type}: {names} is known only when the model runs, and {why}",
        also=place_of(c),
        fix=fix,
    )
    return False


def place_of(c: LinkCheck, text: str = "") -> list[tuple[Span | None, str]]:
    """Where the link's value is made."""
    made = c.source.outputs[c.link.source.port].value.node
    origin = next((node.origin for node in c.source.nodes if node.id == made), None)
    return [(origin, text or f"`{c.name}`")]


def listed(names: Iterable[str]) -> str:
    """`` `a`, `b` and `c` ``."""
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def gives(graph: Graph, task: str) -> list[tuple[str, TensorType]]:
    """What a task's behavior gives."""
    return [(port.name, graph.types[port.value]) for port in graph.regions[task].outputs]


def same_options(c: LinkCheck, links: Sequence[Link]) -> bool:
    """Whether links that are one network agree on their options."""
    for link in links[1:]:
        mine, other = options_of(c.rule, links[0].credit), options_of(c.rule, link.credit)
        name = next((name for name in mine if mine[name] != other[name]), None)
        if name is not None:
            c.report(
                "E498",
                f"`{name}` is {spelled(other[name])} here, and {spelled(mine[name])} for `{links[0].name}`: all links "
                f"with the credit `{c.rule.name}` settle together",
                span=link.credit.origin or link.origin,
                also=[(links[0].credit.origin, "the first of them")],
                fix=f"give them the same `{name}`, or write the credit once, as the spec's `credit:`",
            )
            return False
    return True


def has_loss_above(c: LinkCheck, links: Sequence[Link], sent: bool = False) -> bool:
    """Whether some loss is computed from the links' values, as the rules with an energy see it.

    They follow values through tasks and links with a gradient, not past a link that stops it. With ``sent``, another
    rule that sends a δ to a task above is as good as a loss.
    """
    graph, own = c.graph, {link.source for link in links}
    reached, calls = set(own), [node for node in graph.body.nodes if node.op == "call"]
    stops = {(k.target, k.port): k for k in graph.links if not passes(c, k) and k.source not in own}
    owners = {
        loss.value.node for name, loss in graph.losses.items() if name in c.active and loss.rule is None
    }
    for node in calls:
        seen = [v for k, v in enumerate(node.inputs) if v in reached and (node.id, k) not in stops]
        if node.id in owners and any(v in reached for v in node.inputs):
            return True
        if seen and node.id in graph.tasks:
            reached |= {Value(node.id, port) for port in range(len(node.outputs))}
    if sent and any(k.source in reached - own and _sends(c.rules[k.credit.rule]) for k in graph.links):
        return True
    names = [f"{link.source_task}.{name_of(graph, link.source)}" for link in links]
    c.report(
        "E498",
        f"no loss is computed from {listed(dict.fromkeys(names))}, so the credit `{c.rule.name}` has nothing to learn from",
        also=[(k.credit.origin or k.origin, f"`{k.credit.rule}` ends it here") for k in stops.values()],
        fix="give a task above a distance, with `backprop` or this rule on the links up to it",
    )
    return False


def _sends(rule: CreditRule) -> bool:
    return rule.signal is not None or rule.finish is not None


def name_of(graph: Graph, value: Value) -> str:
    """The name of a task's value."""
    return graph.regions[value.node].outputs[value.port].name


def passes(c: LinkCheck, link: Link) -> bool:
    """Whether a gradient of the task above comes back over a link as it is: `backprop`, and rules that change ops."""
    rule = c.rules[link.credit.rule]
    return (
        rule.attach is not None
        and rule.finish is None
        and rule.signal is None
        and rule.name not in _KEEPS_OUT
    )


def comes_back(c: LinkCheck, link: Link) -> bool:
    """Whether a gradient of the task above arrives at a link's value at all, whatever the rule makes of it."""
    rule = c.rules[link.credit.rule]
    return rule.attach is not None and rule.name not in _KEEPS_OUT


def nodes_in(graph: Graph, region: Region) -> list[Node]:
    """The nodes of a region and of the blocks it calls."""
    found, stack, seen = [], [region.name], set[str]()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in graph.regions[name].nodes:
            found.append(node)
            if node.op in USES:
                stack.append(node.attrs["region"])
    return found


def warn_of_runs(c: LinkCheck, tasks: Iterable[str]) -> None:
    """Warn of ops that draw random numbers where behaviors run again: a rule takes all runs for one function.

    Running statistics are those of the first run (see `passes.updates`).
    """
    for task in tasks:
        nodes = [
            node
            for node in nodes_in(c.graph, c.graph.regions[task])
            if node.op in c.ops and "random" in c.ops[node.op].traits
        ]
        if nodes:
            names = listed(ops_of(nodes))
            c.report(
                "W499",
                f"the credit `{c.rule.name}` runs `{task}` again with other values, and {names} gives something else then",
                "it draws other numbers in every run",
                span=nodes[0].origin,
                also=[(c.link.credit.origin or c.link.origin, f"the credit `{c.rule.name}`")],
                fix=f"leave {names} to tasks below the first link of this credit",
            )


def ops_of(nodes: Iterable[Node]) -> list[str]:
    return list(dict.fromkeys(node.op for node in nodes))


def tasks_above(c: LinkCheck, links: Sequence[Link]) -> list[str]:
    """The tasks that depend on links' values, lower ones first."""
    reached = {link.source_task for link in links}
    found = []
    order = [node.id for node in c.graph.body.nodes if node.id in c.graph.tasks]
    own = {(k.target, k.port) for k in links}
    for task in order:
        if any(
            k.target == task and ((k.target, k.port) in own or (k.source_task in found and passes(c, k)))
            for k in c.graph.links
            if k.source_task in reached or k.source_task in found
        ):
            found.append(task)
    return found


__all__ = [
    "can_have_delta",
    "comes_back",
    "gives",
    "has_batch",
    "has_loss_above",
    "is_sized",
    "listed",
    "name_of",
    "nodes_in",
    "passes",
    "place_of",
    "same_options",
    "tasks_above",
    "unknown_sizes",
    "warn_of_runs",
]
