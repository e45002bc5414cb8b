"""Losses that train nothing, and parameters that nothing trains."""

from __future__ import annotations

import math
from collections.abc import Iterable

from r2d2c.credit.options import options
from r2d2c.graph import Link, Loss, Node, Value
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.verify.context import Context, listed


def check_weights(c: Context) -> None:
    weights: dict[str, Syntax | None] = {task.name: task.weight for task in c.spec.tasks}
    weights |= {loss.name: loss.weight for loss in c.spec.losses}
    for name, loss in c.graph.losses.items():
        syntax = weights.get(name)
        if syntax is None:
            continue
        span, weight = syntax.span(syntax.root), loss.weight
        if not math.isfinite(weight):
            c.sink.report(
                "W443", span, f"the weight of the loss `{name}` is {weight}: every gradient will be too"
            )
        elif weight < 0:
            c.sink.report(
                "W443",
                span,
                f"the weight of the loss `{name}` is negative: training makes it as large as it can",
            )
        elif weight == 0:
            c.sink.report(
                "W443",
                span,
                f"the weight of the loss `{name}` is 0: it trains nothing",
                fix="remove the loss, or its weight",
            )


def check_losses(c: Context) -> None:
    """Losses from which no gradient reaches a parameter."""
    for name, loss in c.losses.items():
        if not _trains(c, name):
            _report_loss(c, name, loss)


def _trains(c: Context, name: str) -> bool:
    cone, loss = c.cones[name], c.losses[name]
    return (
        bool(cone.params)
        or loss.rule is not None  # what it should train, or need not, is the rule's to know
        or not c.reach.cone(loss.evaluations).leaves.isdisjoint(c.asked)
        or any(p.leaf in cone.leaves and p.cone.params and name in p.teachers for p in c.pupils)
    )


def _report_loss(c: Context, name: str, loss: Loss) -> None:
    origin = c.graph.losses[name].origin if name in c.graph.losses else loss.origin
    blockers = cuts(c, [loss.value])
    opaque = [node for node in blockers if node.op not in ("stop", "leaf")]
    if opaque:
        shown = listed(dict.fromkeys(node.op for node in opaque))
        c.sink.report(
            "E441",
            origin,
            f"no gradient passes {shown}, so the loss `{name}` trains nothing",
            also=_places(opaque, "no gradient passes here"),
            fix="use what is differentiable instead: `softmax` for `argmax`, a difference for a comparison",
        )
        return
    notes = []
    stops = [node for node in blockers if node.op == "stop" and link_at(c, node) is None]
    links = [link for link in (link_at(c, node) for node in blockers) if link is not None]
    if links:
        rules = listed(dict.fromkeys(link.credit.rule for link in links))
        notes.append(
            f"the credit {rules} of {listed(dict.fromkeys(link.name for link in links))} ends every gradient of it"
        )
    elif stops:
        notes.append("a `stop` cuts every gradient of it")
    elif not any(row.kind == "param" for row in c.graph.storage.values()):
        notes.append("the model has no parameters that could learn")
    c.sink.report(
        "W442",
        origin,
        f"the loss `{name}` reaches no parameter, so it trains nothing",
        also=_places(stops, "no gradient passes here"),
        notes=notes,
        fix="compute it from values with parameters, or remove it",
    )


def cuts(c: Context, values: Iterable[Value]) -> list[Node]:
    """The nodes behind values where a gradient ends although something that learns is behind them."""
    found: list[Node] = []
    seen: set[str] = set()
    stack = [value.node for value in values]
    while stack:
        node = c.nodes[stack.pop()]
        if node.id in seen:
            continue
        seen.add(node.id)
        inputs = [value for value in node.inputs if value is not None]
        ends = not c.reach.needs_gradient(Value(node.id)) or (node.op == "leaf" and node.attrs.get("cut"))
        if ends and any(c.reach.needs_gradient(v) for v in inputs):
            found.append(node)
        else:
            stack.extend(value.node for value in inputs)
    return sorted(found, key=lambda node: (node.origin.start if node.origin else 0, node.id))


def link_at(c: Context, node: Node) -> Link | None:
    """The link where a `stop` or a `leaf` stands, if it is there because of the link's credit."""
    if node.op not in ("stop", "leaf") or not any(node.id == other.id for other in c.attached.body.nodes):
        return None
    return next((link for link in c.training.links if link.source == node.inputs[0]), None)


def _places(nodes: Iterable[Node], text: str) -> list[tuple[Span | None, str]]:
    """One label a place; a block used twice has its stops once."""
    found = {
        (n.origin.source.name, n.origin.start, n.origin.end): n.origin for n in nodes if n.origin is not None
    }
    return [(span, text) for span in found.values()]


# -- parameters


def check_parameters(c: Context) -> None:
    excused = _excused(c)
    plastic = {name.partition(".")[0] for name in c.plastic}
    places: dict[str, list[str]] = {}
    beside: dict[str, list[str]] = {}
    for node in c.training.body.nodes:
        if node.op != "param" or node.id not in c.live:
            continue
        name = node.attrs["storage"]
        if c.training.storage[name].kind != "param" or name in c.trained or name in excused:
            continue
        if name.partition(".")[0] in plastic:
            beside.setdefault(name.partition(".")[0], []).append(name)
        else:
            places.setdefault(name.rpartition(".")[0], []).append(name.rpartition(".")[2])
    for place, names in places.items():
        _report_place(c, place, names)
    for task, names in beside.items():
        _report_beside(c, task, names)


def _report_beside(c: Context, task: str, names: list[str]) -> None:
    """Parameters of a task whose layers are plastic, that are no weights of such layers."""
    place, _, last = names[0].rpartition(".")
    maker = c.nodes.get(place)
    link = next((k for k in c.graph.links if k.source_task == task and c.rules[k.credit.rule].layers), None)
    rule = link.credit.rule if link is not None else "hebbian"
    kinds = listed(dict.fromkeys(name.rpartition(".")[2] for name in names))
    many = "its" if len(names) == 1 else f"{len(names)} others, its"
    c.sink.report(
        "W497",
        maker.origin if maker is not None else c.training.storage[names[0]].origin,
        f"the credit `{rule}` changes the weights of the layers of `{task}` alone, and nothing trains {many} {kinds}",
        also=[(link.credit.origin or link.origin, f"the credit `{rule}`")] if link is not None else [],
        fix="write `bias=false`"
        if last == "bias"
        else f"`keep: own` with a distance of `{task}` would train them",
    )


def _excused(c: Context) -> set[str]:
    """Parameters behind a loss that trains nothing: that is one mistake, and reported there."""
    ends = [loss.value for name, loss in c.losses.items() if not _trains(c, name)]
    return {c.nodes[id_].attrs["storage"] for id_ in c.behind(ends) if c.nodes[id_].op == "param"}


def _report_place(c: Context, place: str, names: list[str]) -> None:
    row = c.training.storage[f"{place}.{names[0]}"]
    if row.init.kind == "places":
        message = f"the points of `{place}` are learned, and no loss moves them"
        c.sink.report("W440", row.origin, message, fix="give them a `wiring_cost`, or leave `learned` out")
        return
    maker = c.nodes.get(place)
    span = maker.origin if maker is not None else row.origin
    task = place.partition(".")[0]
    ends = _ends(c, {f"{place}.{name}" for name in names})
    also: list[tuple[Span | None, str]] = []
    notes: list[str] = []
    fix = "give it a loss, or say that it is meant: `frozen=true`"
    for node in ends:
        link = link_at(c, node)
        if node.op == "leaf" and not node.attrs.get("cut"):
            notes.append(f"no loss that `teach` of `{task}` names reaches it")
            fix = f"leave out `teach`, or name losses that read the representative of `{task}`"
        elif link is not None:
            rule = link.credit.rule
            notes.append(f"the credit `{rule}` lets nothing back from `{link.target}`")
            also.append((link.origin or link.credit.origin, f"this link's credit is `{rule}`"))
            fix = f"give `{task}` a distance, or the link another credit, such as `backprop`"
            if any(option.name == "steps" for option in options(c.rules[rule])):
                # Values settle all at once, from the forward pass: what is above a link passes it one step later.
                notes[-1] = (
                    f"the credit `{rule}` brings back what is above by one link a step, and there are too few `steps`"
                )
                fix = "give it as many `steps` as there are links up to the loss"
        else:
            also.append((node.origin, f"no gradient passes `{node.op}`"))
    if task in c.dropped:
        rule = next(link.credit.rule for link in c.graph.links if link.source_task == task)
        notes.append(f"the distance of `{task}` is dropped by the credit `{rule}`; `keep: own` keeps it")
    elif not ends:
        notes.append("what it computes reaches outputs only")
    has = f"its {names[0]} is" if len(names) == 1 else f"its {' and '.join(names)} are"
    unique = list({(s.start, t): (s, t) for s, t in also if s is not None}.values())
    c.sink.report(
        "W440",
        span,
        f"no loss reaches `{place}`: {has} never trained",
        also=unique,
        notes=dict.fromkeys(notes),
        fix=fix,
    )


def _ends(c: Context, names: set[str]) -> list[Node]:
    """Where the gradients on the way from losses to some parameters end."""
    readers: dict[str, list[Node]] = {}
    for node in c.training.body.nodes:
        for value in node.inputs:
            if value is not None:
                readers.setdefault(value.node, []).append(node)
    stack = [n.id for n in c.training.body.nodes if n.op == "param" and n.attrs["storage"] in names]
    seen: set[str] = set()
    found: list[Node] = []
    while stack:
        id_ = stack.pop()
        for node in readers.get(id_, ()):
            if node.id in seen or node.id not in c.live:
                continue
            seen.add(node.id)
            if c.reach.needs_gradient(Value(node.id)) and node.op != "leaf":
                stack.append(node.id)
            else:
                found.append(node)
    return found
