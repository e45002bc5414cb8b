"""Why `feedback` and `hebbian`, the rules that change layers, cannot stand on a link."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.checks import can_have_delta, comes_back, listed, name_of, nodes_in
from r2d2c.credit.options import options_of
from r2d2c.credit.stdp import TIMES, synapses
from r2d2c.graph import Graph, Link, Node, Value, storage_read
from r2d2c.loops import loop_of
from r2d2c.ops.feedback import PLAIN

FEEDBACK: Mapping[str, str] = {plain: feedback for feedback, plain in PLAIN.items()}
PLASTIC = ("linear", "conv1d", "conv2d", "conv3d")

# -- feedback


def check_feedback(c: LinkCheck) -> None:
    if not can_have_delta(c, per_sample=False):
        return
    flat = c.flat
    params = {node.id: node.attrs["storage"] for node in flat.body.nodes if node.op == "param"}
    fixed = {id_ for id_, name in params.items() if c.graph.storage[name].kind != "param"}
    layers = [
        n for n in _layers_above(c, flat, c.link) if n.inputs[1] is None or n.inputs[1].node not in fixed
    ]
    inside = _loops_above(c, flat, c.link)
    if c.option("own"):
        inside += _layers_in_loops(c, c.link.source_task, FEEDBACK)
    _not_in_a_loop(c, inside)
    if not layers and not inside and not c.option("own"):
        c.report(
            "W494",
            f"no linear or convolution layer of `{c.link.target}` that learns reads `{c.name}`: here `feedback` is `backprop`",
            also=[(c.target.origin, f"`{c.link.target}`")],
            fix=f"let `{c.link.target}` have a layer, or give the link the credit `backprop`",
        )
    for node in layers:
        weight = node.inputs[1]
        if weight is None or weight.node not in params:
            c.report(
                "E495",
                f"the weight of this `{node.op}` is computed, and `feedback` puts a fixed B in the place of one that is learned",
                "the layer",
                span=node.origin,
                also=[(c.link.credit.origin or c.link.origin, f"`{c.link.name}` has the credit `feedback`")],
                fix="give the layer a weight of its own, or the link another credit",
            )
    _unmixed(c, flat, layers)


def _unmixed(c: LinkCheck, flat: Graph, layers: list[Node]) -> None:
    """Layers that another link's gradient goes through as well: it would be led by the same B."""
    ids = {node.id for node in layers}
    for other in c.graph.links:
        if other.target != c.link.target or other.source == c.link.source or not comes_back(c, other):
            continue
        same = other.credit.rule == c.rule.name
        order = c.graph.links.index(other) < c.graph.links.index(c.link)
        if same and (order or options_of(c.rule, other.credit)["variant"] == c.option("variant")):
            continue  # said once, at the first of them
        shared = [node for node in _layers_above(c, flat, other) if node.id in ids]
        if shared and same:
            c.report(
                "E495",
                f"`{c.link.name}` and `{other.name}` go through one layer, which can have one B only: their credits are "
                f"`{c.link.credit}` and `{other.credit}`",
                also=[
                    (shared[0].origin, "this layer"),
                    (other.credit.origin or other.origin, "the other credit"),
                ],
                fix="give both the same `variant`, or each a layer of its own",
            )
            return
        if shared:
            name = f"{other.source_task}.{name_of(c.graph, other.source)}"
            c.report(
                "E495",
                f"`{c.name}` and `{name}` go through one layer, and what comes back to `{name}` by `{other.credit.rule}` would "
                "pass the B of `feedback` too",
                also=[
                    (shared[0].origin, "this layer"),
                    (
                        other.credit.origin or other.origin,
                        f"`{other.name}` has the credit `{other.credit.rule}`",
                    ),
                ],
                fix="give both links the credit `feedback`, or each a layer of its own",
            )
            return


def _above(c: LinkCheck, flat: Graph, link: Link) -> Iterator[tuple[Node, set[Value]]]:
    """The nodes of the upper task that a link's value reaches, each with what is reached, in the flat typed graph."""
    value = next(k.source for k, of in zip(flat.links, c.graph.links, strict=True) if of == link)
    own = {node.id for node in nodes_in(c.graph, c.graph.regions[link.target])}
    reached = {value}
    for node in flat.body.nodes:
        if node.id.partition("@")[0] in own and not reached.isdisjoint(node.inputs):
            reached.update(Value(node.id, port) for port in range(len(node.outputs)))
            yield node, reached


def _layers_above(c: LinkCheck, flat: Graph, link: Link) -> list[Node]:
    """The layers that a link's value reaches."""
    return [
        node for node, reached in _above(c, flat, link) if node.op in FEEDBACK and node.inputs[0] in reached
    ]


def _loops_above(c: LinkCheck, flat: Graph, link: Link) -> list[Node]:
    """The layers inside of loops that a link's value reaches."""
    found: list[Node] = []
    for node, reached in _above(c, flat, link):
        if node.op == "loop":
            found += _reached_in_step(flat, node, [v in reached for v in node.inputs])
    return found


def _reached_in_step(flat: Graph, loop: Node, given: list[bool]) -> list[Node]:
    """The layers of a loop's step that some of its inputs reach, by whatever number of steps."""
    step = flat.regions[loop.attrs["region"]]
    reached = {port.value for port, is_given in zip(step.inputs, given, strict=True) if is_given}
    before: set[Value] = set()
    found: dict[str, Node] = {}
    while reached != before:
        before = set(reached)
        for node in step.nodes:
            if node.op != "port" and not reached.isdisjoint(node.inputs):
                reached.update(Value(node.id, port) for port in range(len(node.outputs)))
                if node.op in FEEDBACK and node.inputs[0] in reached:
                    found[node.id] = node
                elif node.op == "loop":
                    inner = _reached_in_step(flat, node, [v in reached for v in node.inputs])
                    found |= {n.id: n for n in inner}
        for carried, port in zip(step.inputs[: len(loop_of(loop).carries)], step.outputs, strict=False):
            if port.value in reached:
                reached.add(carried.value)
    return list(found.values())


def _layers_in_loops(c: LinkCheck, task: str, ops: Iterable[str]) -> list[Node]:
    """The layers of a task's behavior that stand in loops."""
    loops = [node for node in nodes_in(c.graph, c.graph.regions[task]) if node.op == "loop"]
    inside = [n for loop in loops for n in nodes_in(c.graph, c.graph.regions[loop.attrs["region"]])]
    return list({node.id: node for node in inside if node.op in ops}.values())


def _not_in_a_loop(c: LinkCheck, layers: list[Node]) -> None:
    """A layer in a loop runs at every step, and the rules that change layers know of one run."""
    if layers:
        ops = listed(dict.fromkeys(node.op for node in layers))
        c.report(
            "E488",
            f"the credit `{c.rule.name}` changes layers, and cannot change those inside of a loop: here {ops}",
            also=[(node.origin, "a layer in a loop") for node in layers],
            fix="give the link another credit: `backprop`, `direct` or `target`",
        )


# -- hebbian


def check_hebbian(c: LinkCheck) -> None:
    """Once for a task, at its first link."""
    task = c.link.source_task
    if next(link for link in c.links if link.source_task == task) != c.link:
        return
    by_times = c.option("variant") == "stdp"
    for name in _by_times(c, task) if by_times else list(_by_activity(c, task)):
        _unshared(c, task, name)
    for link in c.links:
        if link.source_task == task and options_of(c.rule, link.credit) != options_of(c.rule, c.link.credit):
            c.report(
                "E498",
                f"the layers of `{task}` can change in one way only: its links say `{c.link.credit}` and `{link.credit}`",
                span=link.credit.origin or link.origin,
                also=[(c.link.credit.origin, "the first one")],
                fix="give both the same options",
            )
            return


def _by_times(c: LinkCheck, task: str) -> list[str]:
    """The weights that change by the times of spikes."""
    flat, found = c.flat, list[str]()
    own = {node.id for node in nodes_in(c.graph, c.graph.regions[task])}
    params = {n.id: n.attrs["storage"] for n in flat.body.nodes if n.op == "param"}
    for loop in flat.body.nodes:
        if loop.op != "loop" or loop.id.partition("@")[0] not in own:
            continue
        step = flat.regions[loop.attrs["region"]]
        given = dict(zip((port.value for port in step.inputs), loop.inputs, strict=True))
        for each in synapses(step):
            weight = given.get(each.weight)
            name = params.get(weight.node) if weight is not None else None
            if name is not None and c.graph.storage[name].kind == "param":
                found.append(name)
    if not found:
        c.report(
            "E565",
            f"nothing in `{task}` can change by the times of spikes: no `linear` in a loop of its own drives a `lif`",
            also=[(c.source.origin, f"`{task}`")],
            fix="let a loop have `v, z = lif(v, linear(xt, H))`, or choose another variant",
        )
    return list(dict.fromkeys(found))


def _by_activity(c: LinkCheck, task: str) -> dict[str, Node]:
    """The weights that change with the activity of their layers."""
    if given := [name for name, _ in c.link.credit.args if name in TIMES]:
        c.report(
            "E566",
            f"`{given[0]}` is for plasticity by the times of spikes, and the variant is `{c.option('variant')}`",
            fix="say `variant=stdp`, or leave it out",
        )
    layers, plastic = _plastic_layers(c, task)
    inside = _layers_in_loops(c, task, PLASTIC)
    _not_in_a_loop(c, inside)
    if not plastic and not inside:
        frozen = "its weights are frozen, or computed"
        why = frozen if layers else "it has no linear or convolution layer"
        c.report(
            "E496",
            f"nothing in `{task}` can be plastic under the credit `hebbian`: {why}",
            also=[(layers[0].origin if layers else c.source.origin, f"`{task}`")],
            fix=f"give `{task}` a `linear` or `conv2d` with a weight of its own, or the link another credit",
        )
    return plastic


def _plastic_layers(c: LinkCheck, task: str) -> tuple[list[Node], dict[str, Node]]:
    """The layers of a task, and the weights of its own that can change, with their layers.

    The weight of a layer in a block comes from a `param` of the same region; as an argument of the block from elsewhere.
    """
    flat, own = c.flat, {node.id for node in nodes_in(c.graph, c.graph.regions[task])}
    params = {n.id: n.attrs["storage"] for n in flat.body.nodes if n.op == "param"}
    layers = [n for n in flat.body.nodes if n.op in PLASTIC and n.id.partition("@")[0] in own]
    found: dict[str, Node] = {}
    for node in layers:
        name = params.get(node.inputs[1].node) if node.inputs[1] is not None else None
        if name is not None and c.graph.storage[name].kind == "param":
            found.setdefault(name, node)
    return layers, found


def _unshared(c: LinkCheck, task: str, name: str) -> None:
    """A plastic weight that another task learns by gradient."""
    mine = {link.source_task for link in c.links}
    for other in c.graph.tasks:
        if other in mine or name not in storage_read(c.graph, other):
            continue
        c.report(
            "E496",
            f"`{name}` would be plastic in `{task}`, and `{other}` reads it too and learns by gradient",
            also=[(c.graph.tasks[other].origin, f"`{other}`"), (c.graph.storage[name].origin, "the weight")],
            fix=f"give `{other}` a weight of its own, or a link from it the credit `hebbian`",
        )
        return


__all__ = ["check_feedback", "check_hebbian"]
