"""Attaching credit: every link's rule says what the upper task reads while the model learns.

The result still has calls; representatives enter losses and behaviors as `leaf`s, from which their own gradient
is taken back, and enter other representatives as `stop`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from r2d2c.credit.record import CreditRule
from r2d2c.graph import Credit, Graph, Init, Link, Loss, Node, Region, Storage, Task, Value
from r2d2c.infer import Signature
from r2d2c.ops.record import Op, Shapes
from r2d2c.ops.registry import builtin
from r2d2c.source import Span
from r2d2c.types import TensorType


def active_losses(graph: Graph, rules: Mapping[str, CreditRule]) -> dict[str, Loss]:
    """The losses that train: a task below a link whose rule is not local has its distance dropped, unless it is
    an output or says ``keep: own``."""
    behaviors_out = _output_tasks(graph)
    dropped = set()
    for link in graph.links:
        task = graph.tasks[link.source_task]
        rule = rules[link.credit.rule]
        if not rule.keeps_distance and not task.keep_own and task.name not in behaviors_out:
            dropped.add(task.name)
    return {name: loss for name, loss in graph.losses.items() if loss.owner not in dropped}


def _output_tasks(graph: Graph) -> set[str]:
    """Tasks one of whose values is an output, directly or through an output expression."""
    nodes = {node.id: node for node in graph.body.nodes}
    found = set()
    for port in graph.body.outputs:
        node = nodes[port.value.node]
        if node.id in graph.tasks:
            found.add(node.id)
        for value in node.inputs if node.id not in graph.tasks else ():
            if value is not None and value.node in graph.tasks:
                found.add(value.node)
    return found


@dataclass(slots=True)
class _Edge:
    """The `Edge` protocol over the pass below."""

    pass_: AttachCredit
    link: Link

    @property
    def credit(self) -> Credit:
        return self.link.credit

    @property
    def value(self) -> Value:
        return self.link.source

    @property
    def feed(self) -> Value | None:
        return self.pass_.leaf(self.link.feed) if self.link.feed is not None else None

    def type(self, value: Value) -> TensorType:
        return self.pass_.types[value]

    def task(self, name: str) -> Task:
        return self.pass_.graph.tasks[name]

    def node(self, op: str, *inputs: Value, name: str = "", **attrs: object) -> Value:
        return self.pass_.add(f"{self.link.target}.{name or op}", op, inputs, attrs, self.link)

    def stop(self, value: Value) -> Value:
        return self.pass_.stop(value)

    def storage(
        self, name: str, type_: TensorType, init: Init, kind: Literal["param", "frozen", "statistic"]
    ) -> Value:
        full = f"{self.link.source_task}.{name}"
        self.pass_.storage[full] = Storage(full, kind, init, self.link.target, type_, origin=self.link.origin)
        return self.pass_.add(f"%{full}", "param", (), {"storage": full}, self.link)

    def loss(self, loss: Loss) -> None:
        self.pass_.losses[loss.name] = loss


class AttachCredit:
    """The pass. `run` gives a graph of stage "training" that has no gradients yet."""

    def __init__(
        self, graph: Graph, rules: Mapping[str, CreditRule], ops: Mapping[str, Op] | None = None
    ) -> None:
        self.graph, self.rules, self.ops = graph, rules, builtin() if ops is None else ops
        self.types = dict(graph.types)
        self.storage = dict(graph.storage)
        self.losses = active_losses(graph, rules)
        self.nodes: list[Node] = []
        self.done: set[str] = set()
        # The ids of all other nodes: `stop` may stand in the spec as well.
        self.taken = {node.id for region in graph.regions.values() for node in region.nodes}
        self.leaves: dict[Value, Value] = {}
        self.stops: dict[Value, Value] = {}

    # -- adding nodes
    def add(
        self, id_: str, op: str, inputs: tuple[Value, ...], attrs: Mapping[str, Any], link: Link | None
    ) -> Value:
        name, number = id_, 2
        while name in self.done or name in self.taken:
            name, number = f"{id_}_{number}", number + 1
        self.done.add(name)
        outputs = (attrs["storage"],) if op == "param" else (id_.rpartition(".")[2],)
        operands: tuple[Value | None, ...] = inputs
        if op in self.ops:
            outputs = (*outputs, *self.ops[op].outputs[1:])
            defaults = {arg.name: arg.default for arg in self.ops[op].attributes if not arg.required}
            attrs = {**defaults, **attrs}
            operands += (None,) * (len(Signature(self.ops[op]).names) - len(inputs))
        origin = link.origin if link else self._origin(inputs[0]) if inputs else None
        node = Node(name, op, operands, attrs, outputs, origin)
        self.nodes.append(node)
        value = Value(name)
        if op == "param":
            self.types[value] = self.storage[attrs["storage"]].type  # type: ignore[assignment]
        elif op in ("stop", "leaf"):
            self.types[value] = self.types[inputs[0]]
        elif op == "constant":
            self.types[value] = TensorType("float")
        elif op in self.ops:
            types = [self.types[v] if v is not None else None for v in operands]
            result = self.ops[op].shape(Shapes(), Signature(self.ops[op]).namespace(node, types))
            for port, type_ in enumerate(result if isinstance(result, tuple) else (result,)):
                self.types[Value(name, port)] = type_
        return value

    def _origin(self, value: Value) -> Span | None:
        """Where in the spec a value of a task is made."""
        region = self.graph.regions.get(value.node)
        made = region.outputs[value.port].value.node if region is not None else None
        return next((n.origin for n in region.nodes if n.id == made), None) if region is not None else None

    def _name(self, value: Value) -> str:
        port = self._port_name(value)
        return f"{value.node.removesuffix('.representative')}.{port}"

    def _port_name(self, value: Value) -> str:
        region = self.graph.regions.get(value.node)
        return region.outputs[value.port].name if region is not None else "value"

    def stop(self, value: Value) -> Value:
        if value not in self.stops:
            self.stops[value] = self.add(f"{self._name(value)}.stop", "stop", (value,), {}, None)
        return self.stops[value]

    def leaf(self, value: Value) -> Value:
        if value not in self.leaves:
            self.leaves[value] = self.add(f"{self._name(value)}.leaf", "leaf", (value,), {}, None)
        return self.leaves[value]

    # -- the pass
    def run(self) -> Graph:
        graph, main = self.graph, self.graph.body
        waiting = {node.id: node for node in main.nodes}
        links = {(link.target, link.port): link for link in graph.links}
        order = [n.id for n in main.nodes if n.op in ("port", "constant", "param")]
        order += [loss.value.node for loss in self.losses.values()]
        order += [port.value.node for port in main.outputs]
        for id_ in order:
            self._visit(id_, waiting, links)
        tasks = {
            name: replace(
                task,
                representative=task.representative if task.representative in self.done else None,
                loss=task.loss if task.loss in self.losses else None,
            )
            for name, task in graph.tasks.items()
        }
        region = Region(main.name, main.kind, main.inputs, main.outputs, tuple(self.nodes), main.origin)
        return graph.with_(
            stage="training",
            regions={**graph.regions, main.name: region},
            types=self.types,
            storage=self.storage,
            losses=self.losses,
            tasks=tasks,
        )

    def _visit(self, root: str, waiting: Mapping[str, Node], links: Mapping[tuple[str, int], Link]) -> None:
        """Append a node after everything it needs; a loop, since chains of tasks may be long."""
        stack = [root]
        while stack:
            id_ = stack[-1]
            if id_ in self.done:
                stack.pop()
                continue
            node = waiting[id_]
            needed = [v.node for v in self._sources(node, links) if v.node not in self.done]
            if needed:
                stack.extend(reversed(needed))
                continue
            stack.pop()
            inputs = tuple(
                self._input(node, position, value, links) for position, value in enumerate(node.inputs)
            )
            self.done.add(id_)
            self.nodes.append(replace(node, inputs=inputs))

    def _sources(self, node: Node, links: Mapping[tuple[str, int], Link]) -> list[Value]:
        found = []
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            link = links.get((node.id, position))
            found.append(value)
            if link is not None and link.feed is not None and self.rules[link.credit.rule].takes_feed:
                # With `feed` the behavior below is not needed for this task to learn.
                found[-1] = link.feed
        return found

    def _input(
        self, node: Node, position: int, value: Value | None, links: Mapping[tuple[str, int], Link]
    ) -> Value | None:
        if value is None:
            return None
        link = links.get((node.id, position))
        if link is not None:
            return self.rules[link.credit.rule].attach(_Edge(self, link))
        if value.node.endswith(".representative"):
            return self.stop(value) if node.id.endswith(".representative") else self.leaf(value)
        return value
