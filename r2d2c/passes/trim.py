"""Loops give, and carry, what is read and nothing else.

When a spec is resolved a loop gives every value of its body, at its last step and at every step. Here the outputs that
nothing reads go, then the carries that nothing needs, and the nodes and inputs of the step that were only for those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.loops import Given, Loop, loop_of


def trim_loops(graph: Graph, wanted: Iterable[Value] = ()) -> Graph:
    """A flat graph whose loops give what its nodes read, or ``wanted`` names besides outputs and losses."""
    if not any(node.op == "loop" for node in graph.body.nodes):
        return graph
    main = graph.body
    read = {port.value for port in main.outputs} | set(wanted)
    for loss in graph.losses.values():
        read.update(loss.evaluations)
    trimmer = _Trimmer(graph)
    nodes, moved = trimmer.nodes(main.nodes, read, False)

    def to(value: Value) -> Value:
        return moved.get(value, value)

    region = replace(
        main, nodes=tuple(nodes), outputs=tuple(p._replace(value=to(p.value)) for p in main.outputs)
    )
    losses = {name: loss.mapped(to) for name, loss in graph.losses.items()}
    links = tuple(replace(k, source=to(k.source), feed=k.feed and to(k.feed)) for k in graph.links)
    tasks = {
        name: replace(t, representative_value=t.representative_value and to(t.representative_value))
        for name, t in graph.tasks.items()
    }
    return graph.with_(
        regions={**trimmer.steps, main.name: region},
        types=trimmer.types,
        losses=losses,
        links=links,
        tasks=tasks,
    )


class _Trimmer:
    """``steps`` are the trimmed steps that are left; loops of the same step are trimmed alike."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.types = dict(graph.types)
        self.steps: dict[str, Region] = {}

    def nodes(
        self, nodes: Sequence[Node], read: set[Value], prune: bool
    ) -> tuple[list[Node], dict[Value, Value]]:
        """The nodes with their loops trimmed, and where the loops' values have moved.

        prune: leave out what does not lead to ``read``; else every node counts as needed.
        """
        read = set(read)
        needed = {value.node for value in read}
        kept: list[Node] = []
        for node in reversed(nodes):
            if prune and node.id not in needed and node.op != "port":
                continue
            kept.append(node)
            values = [value for value in node.inputs if value is not None]
            read.update(values)
            needed.update(value.node for value in values)
        kept.reverse()
        moved: dict[Value, Value] = {}
        given: dict[str, set[Given]] = {}
        for node in kept:
            if node.op == "loop":
                gives = loop_of(node).gives
                wanted = {g for port, g in enumerate(gives) if Value(node.id, port) in read}
                given.setdefault(node.attrs["region"], set()).update(wanted)
        done = [
            self._loop(node, given[node.attrs["region"]], moved) if node.op == "loop" else node
            for node in kept
        ]
        if not moved:
            return done, moved
        for position, node in enumerate(done):
            inputs = tuple(None if v is None else moved.get(v, v) for v in node.inputs)
            if inputs != node.inputs:
                done[position] = replace(node, inputs=inputs)
        return done, moved

    def _loop(self, node: Node, given: set[Given], moved: dict[Value, Value]) -> Node:
        loop, step = loop_of(node), self.graph.regions[node.attrs["region"]]
        ports, inputs = _needed(loop, step, given)
        if not given:  # nothing reads it, but something may still be measured by it
            given = {loop.gives[0]} if loop.gives else set()
            ports, inputs = _needed(loop, step, given)
        carries = [k for k in range(len(loop.carries)) if k in ports]
        order = sorted(ports)
        place = {port: number for number, port in enumerate(order)}
        gives = [(number, g) for number, g in enumerate(loop.gives) if g in given]
        first, sequences = len(loop.carries), range(len(loop.carries), len(loop.carries) + loop.sequences)
        left = [k for k in range(len(step.inputs)) if (k in carries if k < first else k in inputs)]
        trimmed = replace(
            loop,
            carries=tuple(loop.carries[k] for k in carries),
            sequences=sum(k in sequences for k in left),
            gives=tuple(Given(g.kind, place[g.port]) for _, g in gives),
            halt=None if loop.halt is None else replace(loop.halt, port=place[loop.halt.port]),
            memories=tuple(
                store.moved(place) for store in loop.memories if any(k in place for _, k in store.fields)
            ),
        )
        if step.name not in self.steps:
            self.steps[step.name] = self._step(step, [step.outputs[k].value for k in order], order, left)
        before = {k: self.types.get(Value(node.id, k)) for k, _ in gives}
        for number, (old, _) in enumerate(gives):
            moved[Value(node.id, old)] = Value(node.id, number)
            type_ = before[old]
            if type_ is not None:
                self.types[Value(node.id, number)] = type_
        return replace(
            node,
            inputs=tuple(node.inputs[k] for k in left),
            outputs=tuple(node.outputs[old] for old, _ in gives),
            attrs={**node.attrs, "loop": trimmed},
        )

    def _step(self, step: Region, wanted: list[Value], order: list[int], left: list[int]) -> Region:
        nodes, moved = self.nodes(step.nodes, set(wanted), True)
        ports = {step.inputs[k].value.node for k in left}
        return replace(
            step,
            inputs=tuple(step.inputs[k] for k in left),
            outputs=tuple(
                step.outputs[k]._replace(value=moved.get(step.outputs[k].value, step.outputs[k].value))
                for k in order
            ),
            nodes=tuple(node for node in nodes if node.op != "port" or node.id in ports),
        )


def _needed(loop: Loop, step: Region, given: set[Given]) -> tuple[set[int], set[int]]:
    """The outputs and the inputs of a step that some of the loop's outputs need, by position."""
    made = {node.id: node for node in step.nodes}
    position = {port.value.node: k for k, port in enumerate(step.inputs)}
    outputs = {g.port for g in given}
    if loop.halt is not None:
        outputs.add(loop.halt.port)
    inputs: set[int] = set()
    seen: set[str] = set()
    todo = sorted(outputs)
    while todo:
        stack = [step.outputs[todo.pop()].value.node]
        while stack:
            id_ = stack.pop()
            if id_ in seen:
                continue
            seen.add(id_)
            if id_ in position:
                inputs.add(position[id_])
            stack.extend(v.node for v in made[id_].inputs if v is not None)
        for carried in inputs & set(range(len(loop.carries))):
            if carried not in outputs:
                outputs.add(carried)
                todo.append(carried)
    inputs |= outputs & set(range(len(loop.carries)))
    return outputs, inputs
