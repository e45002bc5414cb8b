"""Which values of a graph have their units at places, and what is wired between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from r2d2c.draw_op_graphs import op_graphs_of
from r2d2c.graph import Graph, Node, Region, Value, walk
from r2d2c.ops.op_graph import Start
from r2d2c.ops.registry import FAMILIES
from r2d2c.ops.wiring import WIRED
from r2d2c.places import Placing, Rule

# Ops of these families leave every unit where it is.
_STAY = frozenset(
    op.name
    for family in ("arithmetic", "unary", "comparison", "activations", "norms", "random")
    for op in FAMILIES[family]
)


@dataclass(frozen=True, slots=True)
class Wires:
    """A layer between two sets of places. weight: its storage. count: how many wires it has, or begins with."""

    layer: str
    weight: str
    source: str
    target: str
    where: str
    count: int


def places_of(graph: Graph) -> dict[str, Placing]:
    """The sets of places that a graph reads, by name, in the order of its storage; then those of op graphs."""
    found = {}
    for row in graph.storage.values():
        placing = row.init.args[0] if row.init.kind == "places" else None
        if isinstance(placing, Placing):
            found[placing.name] = placing
    for node in op_graphs_of(graph):
        placing = node.attrs["start"].places
        if placing is not None:
            found.setdefault(placing.name, placing)
    return found


def wires_of(graph: Graph) -> Iterator[Wires]:
    """Every layer between two sets of places that the spec names."""
    seen = set()
    for region, node in walk(graph):
        rule = node.attrs.get("where") if node.op == WIRED else None
        if not isinstance(rule, Rule) or rule.source is None or rule.target is None or node.id in seen:
            continue
        seen.add(node.id)
        reads = {each.id: str(each.attrs["storage"]) for each in region.nodes if each.op == "param"}
        weight = node.inputs[3]
        yield Wires(
            node.id,
            reads.get(weight.node, "") if weight is not None else "",
            rule.source.name,
            rule.target.name,
            str(rule),
            int(rule.draw(graph.seed).sum()),
        )


def placed_values(graph: Graph) -> Mapping[Value, str]:
    """The set of places that the units of a value are at, along its last axis, where the graph says."""
    found: dict[Value, str] = {}
    _region(graph, graph.body, found, set())
    return found


def _region(graph: Graph, region: Region, found: dict[Value, str], done: set[str]) -> None:
    done.add(region.name)
    for node in region.nodes:
        if node.op == "call":
            callee = graph.regions[node.attrs["region"]]
            pairs = [(p.value, g) for p, g in zip(callee.inputs, node.inputs, strict=True) if g is not None]
            for port, given in pairs:
                if given in found:
                    found.setdefault(port, found[given])
            if callee.name not in done:
                _region(graph, callee, found, done)
            for port, given in pairs:
                if port in found:
                    found.setdefault(given, found[port])
            for position, output in enumerate(callee.outputs):
                if output.value in found:
                    found[node.value(position)] = found[output.value]
        elif node.op == "loop" and node.attrs["region"] not in done:
            _region(graph, graph.regions[node.attrs["region"]], found, done)
        else:
            _node(graph, node, found)


def _node(graph: Graph, node: Node, found: dict[Value, str]) -> None:
    start = node.attrs.get("start")
    if isinstance(start, Start) and start.places is not None and node.inputs[0] is not None:
        found.setdefault(node.inputs[0], start.places.name)
    rule = node.attrs.get("where")
    if node.op == WIRED and isinstance(rule, Rule):
        if rule.source is not None and node.inputs[0] is not None:
            found.setdefault(node.inputs[0], rule.source.name)
        if rule.target is not None:
            found[node.value()] = rule.target.name
        return
    if node.op not in _STAY:
        return
    out = graph.types.get(node.value())
    for value in node.inputs:
        type_ = graph.types.get(value) if value is not None else None
        if value in found and out is not None and type_ is not None and type_.dims[-1:] == out.dims[-1:]:
            found[node.value()] = found[value]
            return
