"""Which values gradients flow through, by reachability in the flat training graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from r2d2c.graph import Graph, Value
from r2d2c.ops.record import Op

_OPAQUE = ("stop", "constant", "size", "port", "gradient", "vjp", "signal", "accumulate", "update")


@dataclass(slots=True)
class Cone:
    """What a value's gradient runs through: the nodes, and the storage and leaves at its edge."""

    nodes: set[str] = field(default_factory=set)
    params: set[str] = field(default_factory=set)
    leaves: set[Value] = field(default_factory=set)


class Reach:
    """Gradients never cross a `stop`, integers, or an op without a gradient."""

    def __init__(self, graph: Graph, ops: Mapping[str, Op]) -> None:
        self.graph = graph
        self.nodes = {node.id: node for node in graph.body.nodes}
        opaque = {name for name, op in ops.items() if "no_gradient" in op.traits} | set(_OPAQUE)
        trained = {name for name, row in graph.storage.items() if row.kind == "param"}
        types = graph.types
        self._floating = {value for value, type_ in types.items() if type_.floating}
        carries: dict[str, bool] = {}
        floating = self._floating
        for node in graph.body.nodes:
            if node.op == "param":
                carries[node.id] = node.attrs["storage"] in trained
            elif node.op == "leaf":
                carries[node.id] = True
            elif node.op in opaque:
                carries[node.id] = False
            else:
                carries[node.id] = any(
                    v is not None and carries[v.node] and v in floating for v in node.inputs
                )
        self._carries = carries

    def needs_gradient(self, value: Value) -> bool:
        """Whether the value depends differentiably on a parameter or a leaf."""
        return self._carries.get(value.node, False) and value in self._floating

    def cone(self, roots: Iterable[Value]) -> Cone:
        """The cone of some values, as far back as gradients flow."""
        cone, nodes = Cone(), self.nodes
        stack = [value for value in roots if self.needs_gradient(value)]
        while stack:
            value = stack.pop()
            if value.node in cone.nodes:
                continue
            cone.nodes.add(value.node)
            node = nodes[value.node]
            if node.op == "param":
                cone.params.add(node.attrs["storage"])
            elif node.op == "leaf":
                cone.leaves.add(value)
            else:
                stack.extend([v for v in node.inputs if v is not None and self.needs_gradient(v)])
        return cone
