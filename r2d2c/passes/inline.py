"""Inlining: one flat region out of a main region and all it calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from r2d2c.graph import Graph, Node, Port, Region, Value
from r2d2c.loops import loop_of
from r2d2c.ops.record import Op
from r2d2c.passes.hoist import hoist
from r2d2c.passes.legality import check_after
from r2d2c.passes.trim import trim_loops
from r2d2c.types import DimLike, TensorType


def flatten(graph: Graph) -> Graph:
    """The graph with its main region as one flat list of nodes.

    A region that is called twice keeps its storage; the nodes of its second copy are named ``ID@CALL``.
    """
    return _Flattener(graph).run()


class _Flattener:
    """Flattens one region: the main one, or with ``outer`` the step of a loop that stands in another.

    A step reads storage and arguments through ports of its own: ``lifted`` are the nodes that the outer region reads.
    """

    def __init__(self, graph: Graph, outer: _Flattener | None = None, root: Region | None = None) -> None:
        self.graph, self.outer = graph, outer
        self.root = graph.body if root is None else root
        self.nodes: list[Node] = []
        self.types: dict[Value, TensorType] = dict(graph.types) if outer is None else outer.types
        self.bounds: dict[Value, DimLike] = dict(graph.bounds) if outer is None else outer.bounds
        self.used: set[str] = set() if outer is None else outer.used
        self.steps: dict[str, tuple[Region, list[Node]]] = {} if outer is None else outer.steps
        self.params: dict[str, Value] = {}
        self.constants: dict[object, Value] = {}
        self.lifted: list[Node] = []

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
        regions = {name: step for name, (step, _) in self.steps.items()}
        flat = graph.with_(
            regions={**regions, main.name: region},
            losses=losses,
            links=links,
            types=self.types,
            bounds=self.bounds,
        )
        return trim_loops(flat, [v for link in links for v in (link.source, link.feed) if v is not None])

    def _body(self, region: Region, mapping: dict[Value, Value], suffix: str) -> None:
        """Append the nodes of a region. ``mapping`` gives the flat value of its values where they differ."""
        nodes, types, lookup = self.nodes, self.types, mapping.get
        for node in region.nodes:
            op = node.op
            if op == "call":
                self._call(node, mapping, suffix)
                continue
            if op == "port" and region is not self.root:
                continue
            if op in ("param", "constant", "argument"):
                self._shared(node, mapping)
                continue
            inputs = tuple([lookup(v, v) if v is not None else None for v in node.inputs])
            if op == "loop":
                node, inputs = self._loop(node, inputs)
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
        elif node.op == "argument":
            table, key = self.constants, ("argument", node.attrs["name"])
        else:
            table, key = self.constants, (type(node.attrs["value"]), node.attrs["value"])
        found = table.get(key)
        if found is None:
            if node.id in self.used:
                # A region that two loops call, each in its own step.
                old, new = Value(node.id), Value(f"{self.root.name}/{node.id}")
                mapping[old] = new
                if old in self.types:
                    self.types[new] = self.types[old]
                node = replace(node, id=new.node)
            self.used.add(node.id)
            table[key] = Value(node.id)
            if self.outer is not None and node.op != "constant":
                self.lifted.append(node)
                node = Node(
                    node.id, "port", (), {"name": key if node.op == "param" else key[1]}, node.outputs
                )
            self.nodes.append(node)
        else:
            mapping[Value(node.id)] = found

    def _loop(self, node: Node, inputs: tuple[Value | None, ...]) -> tuple[Node, tuple[Value | None, ...]]:
        """A loop with its step flattened, and what that reads of storage and arguments among its inputs."""
        name, loop = node.attrs["region"], loop_of(node)
        if name not in self.steps:
            self.steps[name] = self._step(self.graph.regions[name], len(loop.carries) + loop.sequences)
        lifted = self.steps[name][1]
        first = len(loop.carries) + loop.sequences
        stacked = [n for n in lifted if self._stack(n, name) is not None]
        values = {n.id: self._lift(n, loop.trips, name) for n in lifted}
        given = (
            *inputs[:first],
            *(values[n.id] for n in stacked),
            *inputs[first:],
            *(values[n.id] for n in lifted if n not in stacked),
        )
        attrs = {**node.attrs, "loop": replace(loop, sequences=loop.sequences + len(stacked))}
        return replace(node, attrs=attrs), given

    def _step(self, region: Region, first: int) -> tuple[Region, list[Node]]:
        inner = _Flattener(self.graph, self, region)
        mapping: dict[Value, Value] = {}
        inner._body(region, mapping, "")
        outputs = tuple(Port(p.name, mapping.get(p.value, p.value)) for p in region.outputs)
        ports = {n.id: Port(str(n.attrs["name"]), Value(n.id)) for n in inner.nodes if n.op == "port"}
        owned = {n.id for n in inner.lifted if self._stack(n, region.name) is not None}
        stacked = tuple(ports[n.id] for n in inner.lifted if n.id in owned)
        rest = tuple(ports[n.id] for n in inner.lifted if n.id not in owned)
        inputs = (*region.inputs[:first], *stacked, *region.inputs[first:], *rest)
        return replace(region, inputs=inputs, outputs=outputs, nodes=tuple(inner.nodes)), inner.lifted

    def _stack(self, node: Node, step: str) -> int | None:
        """How many steps have one each of what a node reads, if they are those of this region."""
        stack = self.graph.storage[node.attrs["storage"]].stack if node.op == "param" else None
        return stack[1] if stack is not None and stack[0] == step else None

    def _lift(self, node: Node, trips: DimLike, step: str) -> Value:
        """The value here that a step reads as a port; of parameters for each step as many as there are steps."""
        id_ = f"{self.root.name}/{node.id}"
        mapping: dict[Value, Value] = {}
        self._shared(replace(node, id=id_), mapping)
        value = mapping.get(Value(id_), Value(id_))
        stack = self._stack(node, step)
        if value not in self.types:
            type_ = self.types[Value(node.id)]
            self.types[value] = type_ if stack is None else type_.with_dims((stack, *type_.dims))
        if stack is None or stack == trips:
            return value
        cut = Value(f"{id_}[:{trips}]")
        if cut.node not in self.used:
            self.used.add(cut.node)
            items = {"items": (("slice", None, trips, None),)}
            self.nodes.append(Node(cut.node, "slice", (value,), items, node.outputs, node.origin))
            self.types[cut] = self.types[value].with_dims((trips, *self.types[value].dims[1:]))
        return cut

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


def inference_graph(graph: Graph, ops: Mapping[str, Op] | None = None) -> Graph:
    """The composed model: outputs and what they need; no targets, representatives or losses.

    ops: with the records, loops are as they run: what is the same at every step stands before them.
    """
    flat = flatten(graph.with_(links=(), losses={}))
    main = flat.body
    nodes = prune(main.nodes, [port.value for port in main.outputs])
    flat = trim_loops(flat.with_(regions={**flat.steps, main.name: replace(main, nodes=nodes)}))
    if ops is not None:
        flat = hoist(flat, ops)
    main, nodes = flat.body, prune(flat.body.nodes, [port.value for port in flat.body.outputs])
    targets = set(graph.targets)
    nodes = tuple(n for n in nodes if not (n.op == "port" and n.attrs["name"] in targets))
    inputs = tuple(port for port in main.inputs if port.name not in targets)
    region = Region(main.name, main.kind, inputs, main.outputs, nodes, main.origin)
    read = {node.attrs["storage"] for node in nodes if node.op == "param"}
    storage = {name: row for name, row in graph.storage.items() if name in read}
    found = flat.with_(
        stage="inference", regions={**flat.steps, main.name: region}, losses={}, storage=storage, targets=()
    )
    return check_after(found, None)
