"""Writing backward nodes: `vjp` and `accumulate`, visit by visit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from r2d2c.graph import Graph, Node, Value
from r2d2c.passes.reach import Cone, Reach
from r2d2c.source import Span
from r2d2c.types import TensorType

NUMBER = TensorType("float")


class Gradients:
    """The nodes of every visit, as they are emitted.

    parts: the gradients that backward passes left at leaves, by leaf.
    """

    def __init__(self, graph: Graph, visits: int) -> None:
        self.graph = graph
        self.types: dict[Value, TensorType] = dict(graph.types)
        self.emitted: list[list[Node]] = [[] for _ in range(visits)]
        self.parts: dict[Value, list[Value]] = {}
        self._origins: dict[str, Span | None] = {node.id: node.origin for node in graph.body.nodes}

    def add(
        self,
        visit: int,
        id_: str,
        op: str,
        inputs: tuple[Value, ...],
        attrs: Mapping[str, object],
        outputs: tuple[str, ...],
        types: list[TensorType],
    ) -> list[Value]:
        # A backward node stands where its first input does: at the loss, or at the representative.
        origin = self._origins[id_] = self._origins.get(inputs[0].node) if inputs else None
        self.emitted[visit].append(Node(id_, op, inputs, attrs, outputs, origin))
        values = [Value(id_, port) for port in range(len(outputs))]
        self.types.update(zip(values, types, strict=True))
        return values

    def number(self, visit: int, id_: str, value: float) -> Value:
        (found,) = self.add(visit, id_, "constant", (), {"value": value}, ("weight",), [NUMBER])
        return found

    def times(self, visit: int, id_: str, value: Value, factor: float, name: str) -> Value:
        """A value times a number."""
        if factor == 1.0:
            return value
        number = self.number(visit, f"{id_}.weight", factor)
        (found,) = self.add(visit, id_, "mul", (value, number), {}, (name,), [self.types[value]])
        return found

    def vjp(
        self,
        visit: int,
        id_: str,
        outputs: list[Value],
        cotangents: list[Value | float],
        params: list[str],
        wrt: list[Value],
        retain: bool,
        signals: tuple[tuple[str, str | None] | None, ...] = (),
    ) -> None:
        """A `vjp` node; its gradients of ``params`` are accumulated, those of ``wrt`` become parts.

        signals: the name and rule of those outputs whose cotangent is a signal.
        """
        values = [c for c in cotangents if isinstance(c, Value)]
        weights: tuple[float | None, ...] = tuple(c if isinstance(c, float) else None for c in cotangents)
        if len(values) == len(cotangents):
            weights = ()
        attrs: dict[str, object] = {
            "outputs": len(outputs),
            "wrt": len(wrt),
            "params": tuple(params),
            "weights": weights,
            "retain": retain,
        }
        if any(signals):
            attrs["signals"] = signals
        types = []
        for name in params:
            type_ = self.graph.storage[name].type
            assert type_ is not None
            types.append(type_)
        types += [self.types[value] for value in wrt]
        names = (*(f"d({p})" for p in params), *(f"d({v.node})" for v in wrt))
        made = self.add(visit, id_, "vjp", (*outputs, *wrt, *values), attrs, names, types)
        for name, gradient in zip(params, made, strict=False):
            origin = self.graph.storage[name].origin
            self.emitted[visit].append(
                Node(f"accumulate({name})<{id_}", "accumulate", (gradient,), {"storage": name}, (), origin)
            )
        for value, gradient in zip(wrt, made[len(params) :], strict=True):
            self.parts.setdefault(value, []).append(gradient)

    def sum(self, visit: int, id_: str, parts: list[Value], type_: TensorType) -> Value:
        total = parts[0]
        for number, part in enumerate(parts[1:]):
            (total,) = self.add(visit, f"{id_}_{number}", "add", (total, part), {}, ("G",), [type_])
        return total


def release(visits: Iterable[list[Node]], reach: Reach) -> list[list[Node]]:
    """The visits with `retain` exactly on those vjps after which another goes through the same nodes."""
    later: set[str] = set()
    result = []
    for nodes in reversed(list(visits)):
        kept = []
        for node in reversed(nodes):
            if node.op == "vjp":
                inside = interior(node, reach)
                retain = bool(inside & later)
                later |= inside
                if retain != node.attrs["retain"]:
                    node = replace(node, attrs={**node.attrs, "retain": retain})
            kept.append(node)
        result.append(kept[::-1])
    return result[::-1]


def interior(vjp: Node, reach: Reach) -> set[str]:
    """The nodes that a vjp goes through, without what stands at the edge."""
    cone: Cone = reach.cone(v for v in vjp.inputs[: vjp.attrs["outputs"]] if v is not None)
    return {id_ for id_ in cone.nodes if reach.nodes[id_].op not in ("param", "leaf")}
