"""Inlining: one flat region out of a main region and all it calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from r2d2c.graph import Graph, Node, Port, Region, Value
from r2d2c.passes.legality import check_after
from r2d2c.types import TensorType


def flatten(graph: Graph) -> Graph:
    """The graph with its main region as one flat list of nodes.

    A region that is called twice keeps its storage; the nodes of its second copy are named ``ID@CALL``.
    """
    return _Flattener(graph).run()


class _Flattener:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.types: dict[Value, TensorType] = dict(graph.types)
        self.bounds = dict(graph.bounds)
        self.used: set[str] = set()
        self.params: dict[str, Value] = {}
        self.constants: dict[object, Value] = {}

    def run(self) -> Graph:
        graph, main = self.graph, self.graph.body
        mapping: dict[Value, Value] = {}
        self._body(main, mapping, "")
        lookup = mapping.get
        outputs = tuple(Port(port.name, lookup(port.value, port.value)) for port in main.outputs)
        losses = {name: loss.mapped(lambda v: lookup(v, v)) for name, loss in graph.losses.items()}
        links = tuple(
            replace(
                link, source=lookup(link.source, link.source), feed=link.feed and lookup(link.feed, link.feed)
            )
            for link in graph.links
        )
        region = Region(main.name, main.kind, main.inputs, outputs, tuple(self.nodes), main.origin)
        return graph.with_(
            regions={main.name: region}, losses=losses, links=links, types=self.types, bounds=self.bounds
        )

    def _body(self, region: Region, mapping: dict[Value, Value], suffix: str) -> None:
        """Append the nodes of a region. ``mapping`` gives the flat value of its values where they differ."""
        nodes, types, lookup = self.nodes, self.types, mapping.get
        for node in region.nodes:
            op = node.op
            if op == "call":
                self._call(node, mapping, suffix)
                continue
            if op == "port" and region is not self.graph.body:
                continue
            if op in ("param", "constant"):
                self._shared(node, mapping)
                continue
            inputs = tuple([lookup(v, v) if v is not None else None for v in node.inputs])
            if suffix or node.id in self.used:
                id_ = f"{node.id}{suffix}"
                for port in range(len(node.outputs)):
                    old, new = Value(node.id, port), Value(id_, port)
                    mapping[old] = new
                    if old in types:
                        types[new] = types[old]
                    if old in self.bounds:
                        self.bounds[new] = self.bounds[old]
            else:
                id_ = node.id
            self.used.add(id_)
            if id_ is node.id and inputs == node.inputs:
                nodes.append(node)
            else:
                nodes.append(Node(id_, op, inputs, node.attrs, node.outputs, node.origin))

    def _shared(self, node: Node, mapping: dict[Value, Value]) -> None:
        """One reader a storage entry, one node a number."""
        table: dict[object, Value]
        if node.op == "param":
            table, key = self.params, node.attrs["storage"]  # type: ignore[assignment]
        else:
            table, key = self.constants, (type(node.attrs["value"]), node.attrs["value"])
        found = table.get(key)
        if found is None:
            table[key] = Value(node.id)
            self.nodes.append(node)
        else:
            mapping[Value(node.id)] = found

    def _call(self, node: Node, mapping: dict[Value, Value], suffix: str) -> None:
        callee = self.graph.regions[node.attrs["region"]]
        lookup = mapping.get
        inner: dict[Value, Value] = {}
        for port, given in zip(callee.inputs, node.inputs, strict=True):
            assert given is not None
            inner[port.value] = lookup(given, given)
        again = f"{suffix}@{node.id}" if suffix or any(n.id in self.used for n in callee.nodes) else ""
        self.used.add(node.id)
        self._body(callee, inner, again)
        for position, port in enumerate(callee.outputs):
            mapping[Value(node.id, position)] = inner.get(port.value, port.value)


def prune(nodes: Iterable[Node], wanted: Iterable[Value], keep: Iterable[str] = ()) -> tuple[Node, ...]:
    """The nodes that ``wanted`` values need, in their order. Ports are kept, and nodes whose ids are in ``keep``."""
    ordered = list(nodes)
    needed = {value.node for value in wanted} | set(keep)
    kept: list[Node] = []
    for node in reversed(ordered):
        if node.id in needed or node.op == "port":
            kept.append(node)
            needed.update([value.node for value in node.inputs if value is not None])
    kept.reverse()
    return tuple(kept)


def inference_graph(graph: Graph) -> Graph:
    """The composed model: outputs and what they need; no targets, representatives or losses."""
    flat = flatten(graph.with_(links=()))
    main = flat.body
    nodes = prune(main.nodes, [port.value for port in main.outputs])
    targets = set(graph.targets)
    nodes = tuple(n for n in nodes if not (n.op == "port" and n.attrs["name"] in targets))
    inputs = tuple(port for port in main.inputs if port.name not in targets)
    region = Region(main.name, main.kind, inputs, main.outputs, nodes, main.origin)
    read = {node.attrs["storage"] for node in nodes if node.op == "param"}
    storage = {name: row for name, row in graph.storage.items() if name in read}
    found = flat.with_(stage="inference", regions={main.name: region}, losses={}, storage=storage, targets=())
    return check_after(found, None)
