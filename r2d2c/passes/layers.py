"""`Rewire`: the moment at which credit rules change ops, on the flat graph.

`feedback` lets layers pass their gradient through another matrix; `hebbian` makes them plastic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from r2d2c.credit.guard import ask
from r2d2c.credit.record import CreditRule
from r2d2c.graph import USES, Graph, Link, Node, Port, Region, Value
from r2d2c.loops import Given, loop_of, stacked
from r2d2c.ops.record import Op
from r2d2c.passes.building import GraphBuilder, in_order
from r2d2c.passes.edges import FlatLayers


class Rewire(GraphBuilder):
    """The pass. ``owners``: the task in whose behavior a node stands."""

    def __init__(
        self, graph: Graph, rules: Mapping[str, CreditRule], ops: Mapping[str, Op], owners: Mapping[str, str]
    ) -> None:
        super().__init__(graph, ops)
        self.rules, self.owners = rules, owners
        self.steps = graph.steps
        self.flat: dict[str, Node] = {node.id: node for node in graph.body.nodes}

    def run(self) -> Graph:
        graph, main = self.graph, self.graph.body
        acting = [
            (rule, tuple(link for link in graph.links if link.credit.rule == rule.name))
            for rule in self.rules.values()
            if rule.layers is not None and any(link.credit.rule == rule.name for link in graph.links)
        ]
        if not acting:
            return graph
        for rule, links in acting:
            layers = FlatLayers(self, rule, rule.name, rule.name, links[0].origin, self, links)
            ask(rule, links, "layers", layers)
        nodes = tuple(in_order([*self.flat.values(), *self.nodes]))
        region = Region(main.name, main.kind, main.inputs, main.outputs, nodes, main.origin)
        return graph.with_(
            regions={**self.steps, main.name: region},
            types=self.types,
            storage=self.storage,
            losses=self.losses,
        )

    def behavior(self, task: str) -> list[Node]:
        """The nodes of a task's behavior, those of further calls of it too."""
        return [node for node in self.flat.values() if self.owners.get(node.id.partition("@")[0]) == task]

    def between(self, link: Link) -> list[Node]:
        """The nodes of the upper task that a link's value reaches."""
        reached = {link.source.node}
        for node in self.flat.values():
            if node.op in ("stop", "leaf") and node.inputs[0] == link.source:
                reached.add(node.id)
        found = []
        for node in self.behavior(link.target):
            if any(v is not None and v.node in reached for v in node.inputs):
                reached.add(node.id)
                found.append(node)
        return found

    def parameter(self, value: Value | None) -> str | None:
        """The name of the storage that a value reads, if it is a parameter: one that is frozen is none."""
        node = self.flat.get(value.node) if value is not None else None
        name = node.attrs["storage"] if node is not None and node.op == "param" else None
        return name if name is not None and self.storage[name].kind == "param" else None

    def step(self, loop: Node) -> Region:
        """The step of a loop."""
        return self.steps[loop.attrs["region"]]

    def at_steps(self, loop: Node, value: Value) -> Value:
        """A value of a loop's step at every step: one more thing that the loop gives."""
        step, node = self.step(loop), self.flat[loop.id]
        port = next((k for k, out in enumerate(step.outputs) if out.value == value), None)
        if port is None:
            port = len(step.outputs)
            outputs = (*step.outputs, Port(value.node, value))
            self.steps[step.name] = dataclasses.replace(step, outputs=outputs)
        described, given = loop_of(node), Given("steps", port)
        if given in described.gives:
            return Value(node.id, described.gives.index(given))
        result = Value(node.id, len(described.gives))
        more = dataclasses.replace(described, gives=(*described.gives, given))
        attrs = {**node.attrs, "loop": more}
        outputs_of = (*node.outputs, f"{value.node}.steps")
        self.flat[node.id] = Node(node.id, "loop", node.inputs, attrs, outputs_of, node.origin)
        self.types[result] = stacked(self.types[value], described.trips)
        return result

    def replace(self, node: Node, op: str, more: Sequence[Value]) -> None:
        """Put another op in a node's place, with the same inputs and more."""
        known = self.ops[op]
        names = {arg.name for arg in known.attributes}
        attrs = {key: value for key, value in node.attrs.items() if key in names}
        inputs = (*node.inputs, *more)
        self.flat[node.id] = Node(node.id, op, inputs, attrs, node.outputs, node.origin)


def owners_of(graph: Graph) -> dict[str, str]:
    """The task in whose behavior every node stands, from a graph that still has regions."""
    found: dict[str, str] = {}
    for task in graph.tasks.values():
        todo = [task.behavior]
        while todo:
            for node in graph.regions[todo.pop()].nodes:
                found[node.id] = task.name
                if node.op in USES:
                    todo.append(node.attrs["region"])
    return found
