"""`GraphBuilder`: adds typed nodes and storage to a graph; what credit rules build with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from r2d2c.credit.record import Labels
from r2d2c.graph import Graph, Init, Loss, Node, Storage, Task, Value
from r2d2c.infer import Signature
from r2d2c.ops.record import Op, Shapes
from r2d2c.source import Span
from r2d2c.types import INTEGERS, DimLike, TensorType

AGAIN = "again"  # the name of a second run of a task that is to give the same as the first
_LIKE_ITS_INPUT = ("stop", "leaf", "gradient")


class GraphBuilder:
    """Nodes are appended to ``nodes``; the pass that owns it puts them in order at its end."""

    def __init__(self, graph: Graph, ops: Mapping[str, Op]) -> None:
        self.graph, self.ops = graph, ops
        self.types = dict(graph.types)
        self.storage = dict(graph.storage)
        self.losses: dict[str, Loss] = dict(graph.losses)
        self.nodes: list[Node] = []
        self.done: set[str] = set()
        # The ids of all other nodes: `stop` may stand in the spec as well.
        self.taken = {node.id for region in graph.regions.values() for node in region.nodes}
        self.leaves: dict[Value, Value] = {}
        self.stops: dict[Value, Value] = {}
        self._numbers: dict[float, Value] = {}
        self._ops: dict[str, str] = {}
        self._stored: dict[str, Value] = {}

    def unique(self, id_: str) -> str:
        name, number = id_, 2
        while name in self.done or name in self.taken:
            name, number = f"{id_}_{number}", number + 1
        self.done.add(name)
        return name

    def add(
        self,
        id_: str,
        op: str,
        inputs: tuple[Value, ...],
        attrs: Mapping[str, Any],
        origin: Span | None = None,
    ) -> Value:
        """Append a node; of its values the first."""
        name = self.unique(id_)
        outputs = (attrs["storage"],) if op == "param" else (id_.rpartition(".")[2],)
        operands: tuple[Value | None, ...] = inputs
        if op in self.ops:
            outputs = (*outputs, *self.ops[op].outputs[1:])
            defaults = {arg.name: arg.default for arg in self.ops[op].attributes if not arg.required}
            attrs = {**defaults, **attrs}
            operands += (None,) * (len(Signature(self.ops[op]).names) - len(inputs))
        if origin is None and inputs:
            origin = self.origin(inputs[0])
        node = Node(name, op, operands, attrs, outputs, origin)
        self.nodes.append(node)
        self._ops[name] = op
        self._type(node)
        return Value(name)

    def _type(self, node: Node) -> None:
        value, op = Value(node.id), node.op
        if op == "param":
            type_ = self.storage[node.attrs["storage"]].type
            assert type_ is not None
            self.types[value] = type_
        elif op in _LIKE_ITS_INPUT:
            self.types[value] = self.types[node.inputs[0]]  # type: ignore[index]
        elif op == "constant":
            self.types[value] = TensorType("float")
        elif op == "size":
            self.types[value] = TensorType("int")
        elif op in self.ops:
            types = [self.types[v] if v is not None else None for v in node.inputs]
            result = self.ops[op].shape(Shapes(), Signature(self.ops[op]).namespace(node, types))
            for port, found in enumerate(result if isinstance(result, tuple) else (result,)):
                self.types[Value(node.id, port)] = found

    def origin(self, value: Value) -> Span | None:
        """Where in the spec a value of a task is made."""
        region = self.graph.regions.get(value.node)
        made = region.outputs[value.port].value.node if region is not None else None
        return next((n.origin for n in region.nodes if n.id == made), None) if region is not None else None

    # -- constants for learning
    def _name(self, value: Value) -> str:
        region = self.graph.regions.get(value.node)
        port = region.outputs[value.port].name if region is not None else "value"
        return f"{value.node.removesuffix('.representative')}.{port}"

    def stop(self, value: Value) -> Value:
        if value not in self.stops:
            self.stops[value] = self.add(f"{self._name(value)}.stop", "stop", (value,), {})
        return self.stops[value]

    def leaf(self, value: Value, cut: bool) -> Value:
        """A leaf of a representative, or with ``cut`` of a link's value; one a value."""
        if value not in self.leaves:
            self.leaves[value] = self.fresh_leaf(f"{self._name(value)}.leaf", value, cut)
        return self.leaves[value]

    def fresh_leaf(self, id_: str, value: Value, cut: bool) -> Value:
        return self.add(id_, "leaf", (value,), {"cut": True} if cut else {})

    def number(self, value: float) -> Value:
        if value not in self._numbers:
            self._numbers[value] = self.add(f"number({value:g})", "constant", (), {"value": value})
        return self._numbers[value]

    def size(self, dim: DimLike) -> Value:
        if isinstance(dim, int):
            return self.number(float(dim))
        return self.add(f"size({dim})", "size", (), {"dim": dim})

    def vjp(
        self,
        id_: str,
        outputs: Sequence[Value],
        wrt: Sequence[Value],
        cotangents: Sequence[Value | None],
        origin: Span | None,
    ) -> list[Value]:
        """One gradient for every value of ``wrt``. A cotangent of None is 1, for a scalar."""
        weights = tuple(None if cotangent is not None else 1.0 for cotangent in cotangents)
        attrs = {
            "outputs": len(outputs),
            "wrt": len(wrt),
            "params": (),
            "weights": () if all(weight is None for weight in weights) else weights,
            "retain": True,
        }
        name = self.unique(id_)
        inputs = (*outputs, *wrt, *(c for c in cotangents if c is not None))
        names = tuple(f"d({value.node})" for value in wrt)
        self.nodes.append(Node(name, "vjp", inputs, attrs, names, origin))
        found = [Value(name, port) for port in range(len(wrt))]
        self.types.update({value: self.types[of] for value, of in zip(found, wrt, strict=True)})
        return found

    def store(
        self,
        name: str,
        type_: TensorType,
        init: Init,
        kind: Literal["param", "frozen", "statistic"],
        owner: str,
        origin: Span | None,
        fans: tuple[int, int] | None = None,
    ) -> Value:
        """Add storage, and a node that reads it; of a name that was added before, that node."""
        if name not in self._stored:
            self.storage[name] = Storage(name, kind, init, owner, type_, origin=origin, fans=fans)
        return self.read(name)

    def read(self, name: str) -> Value:
        """A node that reads storage, one a name."""
        if name not in self._stored:
            row = self.storage[name]
            self._stored[name] = self.add(f"%{name}", "param", (), {"storage": name}, row.origin)
        return self._stored[name]

    def signal(self, value: Value, delta: Value, link: str, rule: str | None, origin: Span | None) -> None:
        """``rule`` is None for a δ that is the true gradient."""
        if self.op_of(delta) not in ("gradient", "vjp", "stop"):
            delta = self.stop(delta)
        attrs = {"rule": rule, "link": link}
        self.nodes.append(Node(self.unique(f"{link}.delta"), "signal", (value, delta), attrs, (), origin))

    def op_of(self, value: Value) -> str | None:
        """The op of a node that was added here."""
        return self._ops.get(value.node)

    def update(self, storage: str, value: Value, link: str, origin: Span | None) -> None:
        """Write the next value of a statistic."""
        attrs = {"storage": storage, "link": link}
        self.nodes.append(
            Node(self.unique(f"update({storage})<{link}"), "update", (value,), attrs, (), origin)
        )

    def plastic(self, parameter: str, change: Value, link: str, rule: str, origin: Span | None) -> None:
        made = self.nodes[-1] if self.nodes else None
        if (
            made is not None and made.op == "sub" and made.id == change.node
        ):  # −(a − b) is b − a, without another value of its size
            a, b = made.inputs
            assert a is not None and b is not None
            descent = self.add(f"{change.node}.descent", "sub", (b, a), {}, origin)
        else:
            descent = self.add(f"{change.node}.descent", "neg", (change,), {}, origin)
        attrs = {"storage": parameter, "rule": rule, "link": link}
        id_ = self.unique(f"accumulate({parameter})<{link}")
        self.nodes.append(Node(id_, "accumulate", (descent,), attrs, (), origin))

    # -- looking around
    def task(self, name: str) -> Task:
        return self.graph.tasks[name]

    @property
    def labels(self) -> Labels | None:
        names = (port.name for port in self.graph.body.inputs if port.name in self.graph.targets)
        return next((found for name in names if (found := self.label(name)) is not None), None)

    def label(self, name: str) -> Labels | None:
        value = self.target(name)
        classes, whole = self.graph.bounds.get(value), self.graph.types[value].dtype in INTEGERS
        return Labels(value, classes) if whole and isinstance(classes, int) else None

    def target(self, name: str) -> Value:
        return next(port.value for port in self.graph.body.inputs if port.name == name)


def in_order(nodes: list[Node]) -> list[Node]:
    """The nodes with every one after what it reads, else as they are; a loop, since chains may be long."""
    made = {node.id: node for node in nodes}
    done: set[str] = set()
    order: list[Node] = []
    for root in nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            if node.id in done:
                stack.pop()
                continue
            waiting = [made[v.node] for v in node.inputs if v is not None and v.node not in done]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            done.add(node.id)
            order.append(node)
    return order


__all__ = ["GraphBuilder", "in_order"]
