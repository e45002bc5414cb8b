"""The op graphs of a model as data for pictures: every op with its kind, what it reads, and where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from r2d2c.graph import Graph, Node, walk
from r2d2c.opgraph import NUMBER, Topology
from r2d2c.opkinds import kind_of
from r2d2c.ops.op_graph import OP_GRAPH, Start
from r2d2c.ops.op_graph_rows import first_rows, topology_of


def op_graphs_of(graph: Graph) -> Iterator[Node]:
    """The nodes of a typed graph that are op graphs."""
    for _, node in walk(graph):
        if node.op == OP_GRAPH.name:
            yield node


def to_data(graph: Graph, grown: Mapping[str, Topology] | None = None) -> list[dict[str, Any]]:
    """What JSON can hold, an entry an op graph. grown: their topologies by name, where they are not as they begin."""
    return [_entry(graph, node, (grown or {}).get(node.attrs["start"].name)) for node in op_graphs_of(graph)]


def _entry(graph: Graph, node: Node, topology: Topology | None) -> dict[str, Any]:
    start: Start = node.attrs["start"]
    inputs = int(graph.types[node.value()].dims[-1]) - start.capacity  # type: ignore[arg-type]
    if topology is None:
        topology = topology_of(first_rows(start, inputs, graph.seed), inputs, start.names)
    return {
        "name": start.name,
        "node": node.id,
        "inputs": topology.inputs,
        "capacity": topology.capacity,
        "place": start.places.name if start.places is not None else None,
        "nodes": [_op(topology, name, row) for name, row in topology.rows.items()],
    }


def _op(topology: Topology, name: str, row: int) -> dict[str, Any]:
    kind = kind_of(topology.kind[row])
    columns = topology.args[row, : kind.arity].tolist()
    return {
        "name": name,
        "kind": kind.name,
        "args": [None if column == NUMBER else _column(topology, column) for column in columns],
        "round": int(topology.born[row]),
        "place": None if topology.places is None else topology.places[row].tolist(),
    }


def _column(topology: Topology, column: int) -> str:
    return f"x{column}" if column < topology.inputs else str(topology.names[column - topology.inputs])
