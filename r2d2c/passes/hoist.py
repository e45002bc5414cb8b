"""What is the same at every step of a loop is computed once, before it.

A factored hypernet multiplies the data with a matrix that does not depend on the context: x·V is the same at every step
of a loop that the data goes into, and in every call of it, at whatever width. Such nodes move out of the step, and calls
that would compute the same share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from r2d2c.graph import Graph, Node, Port, Region, Value
from r2d2c.loops import Loop, loop_of, one_axis
from r2d2c.ops.record import Op
from r2d2c.passes.trim import trim_loops
from r2d2c.types import DimLike


@dataclass(frozen=True, slots=True)
class _Moved:
    """The step of a loop without the ``nodes`` that left it, and the values of those that it now reads as ports."""

    before: Region
    after: Region
    nodes: tuple[Node, ...]
    values: tuple[Value, ...]


def hoist(graph: Graph, ops: Mapping[str, Op]) -> Graph:
    """A flat graph whose loops compute at every step only what differs between steps."""
    if not graph.steps:
        return graph
    hoister = _Hoister(graph, ops)
    main = graph.body
    nodes = hoister.region(main)
    steps = {name: moved.after for name, moved in hoister.steps.items()}
    region = replace(main, nodes=tuple(nodes))
    found = graph.with_(regions={**graph.steps, **steps, main.name: region}, types=hoister.types)
    links = [value for link in graph.links for value in (link.source, link.feed) if value is not None]
    return trim_loops(found, links)


class _Hoister:
    def __init__(self, graph: Graph, ops: Mapping[str, Op]) -> None:
        self.graph = graph
        self.types = dict(graph.types)
        self.steps: dict[str, _Moved] = {}
        self.used: set[str] = set()
        # A draw is another one at every step, and a running statistic is updated at every step.
        self.fixed = {
            name
            for name, op in ops.items()
            if "random" in op.traits or any(output.startswith("new_") for output in op.outputs)
        }
        self.ops = ops

    def region(self, region: Region) -> list[Node]:
        """The nodes of a region, with those that its loops no longer need at every step before each loop."""
        found: list[Node] = []
        made: dict[tuple[str, tuple[Value | None, ...]], str] = {}
        for node in region.nodes:
            found.append(self._loop(node, found, made) if node.op == "loop" else node)
        return found

    def _loop(
        self, node: Node, found: list[Node], made: dict[tuple[str, tuple[Value | None, ...]], str]
    ) -> Node:
        moved = self._step(node.attrs["region"], loop_of(node))
        given = {
            port.value: value
            for port, value in zip(moved.before.inputs, node.inputs, strict=True)
            if value is not None
        }
        for each in moved.nodes:
            inputs = tuple(None if v is None else given.get(v, v) for v in each.inputs)
            key = (each.id, inputs)
            if key not in made:
                id_ = each.id if each.id not in self.used else f"{each.id}@{node.id}"
                self.used.add(id_)
                made[key] = id_
                found.append(replace(each, id=id_, inputs=inputs))
            for port in range(len(each.outputs)):
                old, new = Value(each.id, port), Value(made[key], port)
                given[old] = new
                if old in self.types:
                    self.types[new] = self.types[old]
        return replace(node, inputs=(*node.inputs, *(given[value] for value in moved.values)))

    def _step(self, name: str, loop: Loop) -> _Moved:
        if name in self.steps:
            return self.steps[name]
        before = self.graph.regions[name]
        # Inner loops first: what leaves them may leave this one as well.
        nodes = self.region(before)
        same = {port.value.node for port in before.inputs[len(loop.carries) + loop.sequences :]}
        free = {node.id for node in nodes if node.op in ("constant", "size")}
        samples = self._samples(before, loop)
        leaving: list[Node] = []
        for node in nodes:
            read = [value.node for value in node.inputs if value is not None]
            known = node.op in self.ops and node.op not in self.fixed
            fixed = any(id_ in same for id_ in read) and all(id_ in same or id_ in free for id_ in read)
            if known and fixed and self._stays_apart(node, samples):
                same.add(node.id)
                leaving.append(node)
        gone = {node.id for node in leaving}
        copies = {n.id: replace(n, id=f"{n.id}:{name}") for n in nodes if n.id in free}
        outside, ports = self._apart(before, nodes, leaving, gone, copies)
        after = self._without(before, nodes, gone, ports)
        self.steps[name] = _Moved(before, after, tuple(outside), tuple(ports))
        return self.steps[name]

    def _samples(self, step: Region, loop: Loop) -> DimLike:
        """The dim that counts the samples of a loop, where they halt; else 0."""
        says = self.types.get(step.outputs[loop.halt.port].value) if loop.halt is not None else None
        return says.dims[0] if says is not None and says.dims else 0

    def _stays_apart(self, node: Node, samples: DimLike) -> bool:
        """Whether a step can read what the node makes for those samples alone that have not halted."""
        if isinstance(samples, int):
            return True
        types = (self.types.get(Value(node.id, port)) for port in range(len(node.outputs)))
        return all(type_ is None or one_axis(type_, samples) for type_ in types)

    def _apart(
        self,
        before: Region,
        nodes: list[Node],
        leaving: list[Node],
        gone: set[str],
        copies: Mapping[str, Node],
    ) -> tuple[list[Node], dict[Value, Value]]:
        """The nodes that leave, with the numbers that they read, and a port for each of their values that stays read."""
        outside: dict[str, Node] = {}
        for node in leaving:
            for value in node.inputs:
                if value is not None and value.node in copies:
                    copy = copies[value.node]
                    outside[copy.id] = copy
                    self.types[Value(copy.id)] = self.types[value]
            inputs = tuple(
                None if v is None else Value(copies[v.node].id) if v.node in copies else v
                for v in node.inputs
            )
            outside[node.id] = replace(node, inputs=inputs)
        read = [v for node in nodes if node.id not in gone for v in node.inputs if v is not None]
        read += [port.value for port in before.outputs]
        ports = {}
        for value in dict.fromkeys(v for v in read if v.node in gone):
            port = Value(f"{before.name}/{value.node}.{value.port}")
            ports[value] = port
            self.types[port] = self.types[value]
        return list(outside.values()), ports

    @staticmethod
    def _without(before: Region, nodes: list[Node], gone: set[str], ports: dict[Value, Value]) -> Region:
        def to(value: Value) -> Value:
            return ports.get(value, value)

        made = [
            Node(port.node, "port", (), {"name": value.node}, (value.node,)) for value, port in ports.items()
        ]
        left = [
            replace(node, inputs=tuple(None if v is None else to(v) for v in node.inputs))
            for node in nodes
            if node.id not in gone
        ]
        inputs = (*before.inputs, *(Port(value.node, port) for value, port in ports.items()))
        outputs = tuple(port._replace(value=to(port.value)) for port in before.outputs)
        return replace(before, inputs=inputs, outputs=outputs, nodes=(*made, *left))
