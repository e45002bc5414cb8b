"""What a spec costs before it runs: parameters, operations and activations, visit by visit. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from r2d2c.credit.record import CreditRule
from r2d2c.draw_credit import place_of
from r2d2c.driver import Checked
from r2d2c.graph import Graph, Node, Value
from r2d2c.infer import Signatures
from r2d2c.printer import signals_of
from r2d2c.regions import homes
from r2d2c.types import Dim, TensorType, evaluate

BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2, "i16": 2}
_BACKWARD = ("vjp", "accumulate", "update")
_FREE = ("port", "param", "constant", "size", "stop", "leaf")


def elements(type_: TensorType | None, sizes: Mapping[str, int] | None = None) -> int:
    """How many numbers a type holds; dims without a size count as one."""
    return math.prod(_number(dim, sizes or {}) for dim in type_.dims) if type_ is not None else 0


def size_of(type_: TensorType | None, sizes: Mapping[str, int] | None = None) -> int:
    """Bytes."""
    return elements(type_, sizes) * BYTES.get(type_.dtype, 1) if type_ is not None else 0


def _number(dim: int | Dim, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return int(dim)
    return max(evaluate(dim, dict.fromkeys(dim.symbols(), 1) | dict(sizes)), 0)


@dataclass(frozen=True, slots=True)
class OwnerPlan:
    """The parameters of a behavior, a representative or a link's credit rule.

    inference: the composed model needs them. fixed: nothing ever changes them.
    """

    owner: str
    parameters: int
    bytes: int
    inference: bool
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class VisitPlan:
    """A visit in numbers. ``flops``: forward, for one sample. ``bytes``: its values, for the batch.

    signals: what it learns from besides losses, δs of credit rules and plastic changes.
    """

    name: str
    tasks: tuple[str, ...]
    losses: tuple[str, ...]
    finished: tuple[str, ...]
    ops: int
    flops: int
    bytes: int
    signals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The schedule with its costs. ``sizes``: the run-time dims it was counted with."""

    name: str
    visits: tuple[VisitPlan, ...]
    owners: tuple[OwnerPlan, ...]
    inference_flops: int
    batch: int
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """Bytes of the largest visit: a visit's values are freed when it ends."""
        return max((visit.bytes for visit in self.visits), default=0)

    @property
    def kept(self) -> int:
        """Bytes of all visits, as one backward pass over everything would hold."""
        return sum(visit.bytes for visit in self.visits)


def plan(
    checked: Checked, rules: Mapping[str, CreditRule], batch: int = 32, sizes: Mapping[str, int] | None = None
) -> Plan:
    """Count a spec. Run-time dims but the batch get ``sizes``, else the middle of their range, else 1."""
    from r2d2c.passes.inline import inference_graph
    from r2d2c.passes.training import training_graph

    graph = checked.graph
    training = training_graph(graph, checked.ops, rules)
    inference = inference_graph(graph)
    known = {name: (low + high) // 2 for name, (low, high) in graph.ranges.items()} | dict(sizes or {})
    used = {
        s for type_ in training.types.values() for d in type_.dims if isinstance(d, Dim) for s in d.symbols()
    }
    one = dict.fromkeys(used, 1) | known | {"B": 1}
    counter = _Counter(training, Signatures(checked.ops))
    visits = []
    nodes = {node.id: node for node in training.body.nodes}
    for visit in training.visits:
        inside = [nodes[id_] for id_ in visit.nodes]
        forward = [node for node in inside if node.op not in (*_BACKWARD, *_FREE)]
        visits.append(
            VisitPlan(
                visit.name,
                visit.tasks,
                visit.losses,
                visit.finished,
                len(forward),
                sum(counter.flops(node, one) for node in forward),
                sum(counter.bytes(node, one | {"B": batch}) for node in forward),
                signals_of(inside),
            )
        )
    composed = _Counter(inference, Signatures(checked.ops))
    flops = sum(composed.flops(node, one) for node in inference.body.nodes if node.op not in _FREE)
    owners = tuple(_owners(graph, training, set(inference.storage)))
    shown = {name: size for name, size in one.items() if name != "B" and not name.startswith("?")}
    return Plan(graph.name, tuple(visits), owners, flops, batch, shown)


def _owners(graph: Graph, training: Graph, inference: set[str]) -> Iterable[OwnerPlan]:
    rows: dict[str, list[str]] = {}
    home, storage = homes(graph), {**graph.storage, **training.storage}
    for name, row in storage.items():
        if row.kind == "param" or row.kind == "frozen":
            owner = home.get(row.owner, row.owner)
            # What a credit rule adds stands apart, by its place: `encode.synthetic`.
            rows.setdefault(owner if name in graph.storage else place_of(name, owner), []).append(name)
    for owner, names in rows.items():
        types = [storage[name].type for name in names]
        yield OwnerPlan(
            owner,
            sum(map(elements, types)),
            sum(map(size_of, types)),
            any(name in inference for name in names),
            all(storage[name].kind == "frozen" for name in names),
        )


class _Counter:
    """Operations and bytes of the nodes of a flat graph."""

    def __init__(self, graph: Graph, signatures: Signatures) -> None:
        self.types, self.signatures = graph.types, signatures

    def flops(self, node: Node, sizes: Mapping[str, int]) -> int:
        signature = self.signatures[node.op]
        cost = signature.op.cost
        if cost is None:
            return self._elements(node, sizes)
        inputs = [self.types.get(value) if value is not None else None for value in node.inputs]
        return _number(cost(signature.namespace(node, inputs)), sizes)

    def _values(self, node: Node) -> list[TensorType]:
        values = [Value(node.id, port) for port in range(len(node.outputs))]
        return [self.types[value] for value in values if value in self.types]

    def _elements(self, node: Node, sizes: Mapping[str, int]) -> int:
        return sum(elements(type_, sizes) for type_ in self._values(node))

    def bytes(self, node: Node, sizes: Mapping[str, int]) -> int:
        return sum(size_of(type_, sizes) for type_ in self._values(node))
