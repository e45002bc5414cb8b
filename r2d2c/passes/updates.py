"""`update` nodes: what may change at the end of a visit.

A statistic gets its next value, from an op's output named ``new_NAME`` after the argument NAME it reads. A parameter
whose gradient is whole, and that no later visit reads, may be changed by the optimizer: an `update` without an input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from r2d2c.graph import Graph, Node, Value
from r2d2c.ops.record import Op
from r2d2c.passes.reach import Reach


def add_updates(
    visits: Sequence[list[Node]], forward: Sequence[Node], graph: Graph, ops: Mapping[str, Op], reach: Reach
) -> list[tuple[str, ...]]:
    """Append the `update` nodes to each visit's nodes; the parameters that each visit finishes."""
    readers = {Value(node.id): node.attrs["storage"] for node in forward if node.op == "param"}
    position = {node.id: number for number, node in enumerate(graph.body.nodes)}
    # Where a credit rule runs a behavior again with other values, the statistics are those of the first run.
    first: dict[str, tuple[int, Node]] = {}
    for nodes in visits:
        for update in _statistics(nodes, readers, graph, ops):
            source = update.inputs[0]
            place = position.get(source.node, 0) if source is not None else 0
            known = first.setdefault(update.attrs["storage"], (place, update))
            if place < known[0]:
                first[update.attrs["storage"]] = place, update
    for nodes in visits:
        made = {Value(node.id, port) for node in nodes for port in range(len(node.outputs))}
        nodes.extend(update for _, update in first.values() if update.inputs[0] in made)
    last = _last_uses(visits, readers, reach)
    finished = []
    for number, nodes in enumerate(visits):
        names = tuple(name for name, visit in last.items() if visit == number)
        nodes.extend(
            Node(f"update({name})", "update", (), {"storage": name}, (), graph.storage[name].origin)
            for name in names
        )
        finished.append(names)
    return finished


def _statistics(
    nodes: Sequence[Node], readers: Mapping[Value, str], graph: Graph, ops: Mapping[str, Op]
) -> Iterator[Node]:
    for node in nodes:
        op = ops.get(node.op)
        for port, output in enumerate(op.outputs if op is not None else ()):
            if op is None or not output.startswith("new_"):
                continue
            source = node.inputs[[arg.name for arg in op.values].index(output.removeprefix("new_"))]
            storage = readers.get(source) if source is not None else None
            if storage is not None and graph.storage[storage].kind == "statistic":
                id_ = f"update({storage})<{node.id}"
                yield Node(id_, "update", (Value(node.id, port),), {"storage": storage}, (), node.origin)


def _last_uses(visits: Sequence[list[Node]], readers: Mapping[Value, str], reach: Reach) -> dict[str, int]:
    """For every parameter that gets a gradient, the last visit that accumulates, reads or goes back through it."""
    last: dict[str, int] = {}
    for number, nodes in enumerate(visits):
        last.update({node.attrs["storage"]: number for node in nodes if node.op == "accumulate"})
    for number, nodes in enumerate(visits):
        for node in nodes:
            for value in node.inputs:
                name = readers.get(value) if value is not None else None
                if name in last:
                    last[name] = max(last[name], number)
            if node.op == "vjp":
                for name in reach.cone(
                    v for v in node.inputs[: node.attrs["outputs"]] if v is not None
                ).params:
                    if name in last:
                        last[name] = max(last[name], number)
    return last
