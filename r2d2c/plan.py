"""What a spec costs before it runs: parameters, operations and activations, visit by visit. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from r2d2c.credit.record import CreditRule
from r2d2c.draw_credit import place_of
from r2d2c.driver import Checked
from r2d2c.graph import Graph, Node, Value, walk
from r2d2c.infer import Signatures
from r2d2c.loops import loop_of
from r2d2c.passes.eprop import has_eprop, neurons_of
from r2d2c.plan_memories import MemoryPlan, memory_plans
from r2d2c.plan_sizes import elements, number, size_of
from r2d2c.printer import signals_of
from r2d2c.regions import homes
from r2d2c.source import Span
from r2d2c.types import Dim, TensorType

_BACKWARD = ("vjp", "accumulate", "update")
_FREE = ("port", "param", "constant", "size", "argument", "stop", "leaf")
# Another shape of what is there.
_VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze")


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
class LoopPlan:
    """A loop of the learning pass in numbers; of a loop in another one, for one step of that.

    steps: at the most, where samples halt. flops: of one step forward, for one sample. stored: bytes that one step
    keeps for its backward, for the batch. bytes: what the loop holds in all, with the values that it gives of every step.
    width: of a loop with `widths`, the part of the coordinates that this run of it has.
    """

    name: str
    within: str
    steps: int
    halts: bool
    flops: int
    stored: int
    bytes: int
    recompute: bool
    width: float | None = None


@dataclass(frozen=True, slots=True)
class GeneratedPlan:
    """A generated parameter in numbers, for one use of its hypernet.

    numbers: how many it has for one sample. made: how many of these are ever there. bytes: of those, for the batch.
    """

    name: str
    form: str
    why: str
    numbers: int
    made: int
    bytes: int
    origin: Span | None = None


@dataclass(frozen=True, slots=True)
class OpGraphPlan:
    """An op graph as it begins. written: the names and the text of the ops that the spec has; random: how many more."""

    name: str
    inputs: int
    capacity: int
    written: tuple[tuple[str, str], ...]
    random: int
    kinds: tuple[str, ...]
    grows: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The schedule with its costs. ``sizes``: the run-time dims and arguments it was counted with."""

    name: str
    visits: tuple[VisitPlan, ...]
    owners: tuple[OwnerPlan, ...]
    inference_flops: int
    batch: int
    sizes: dict[str, int] = field(default_factory=dict)
    loops: tuple[LoopPlan, ...] = ()
    generated: tuple[GeneratedPlan, ...] = ()
    op_graphs: tuple[OpGraphPlan, ...] = ()
    memories: tuple[MemoryPlan, ...] = ()

    @property
    def peak(self) -> int:
        """Bytes of the largest visit: a visit's values are freed when it ends."""
        return max((visit.bytes for visit in self.visits), default=0)

    @property
    def kept(self) -> int:
        """Bytes of all visits, as one backward pass over everything would hold."""
        return sum(visit.bytes for visit in self.visits)


def plan(
    checked: Checked,
    rules: Mapping[str, CreditRule],
    batch: int = 32,
    sizes: Mapping[str, int] | None = None,
    width: float | None = None,
) -> Plan:
    """Count a spec. Run-time dims but the batch get ``sizes``, else the usual size or the middle of their range, else 1.

    width: the model's argument of that name, where it is not the usual one.
    """
    from r2d2c.passes.inline import inference_graph
    from r2d2c.passes.training import training_graph

    graph = checked.graph
    training = training_graph(graph, checked.ops, rules)
    inference = inference_graph(graph, checked.ops)
    known = {name: (low + high) // 2 for name, (low, high) in graph.ranges.items()}
    known |= {name: int(a.usual) for name, a in graph.arguments.items() if a.kind == "size"}
    one = dict.fromkeys(run_time_dims(training), 1) | known | dict(sizes or {}) | {"B": 1}
    counter = _Counter(training, Signatures(checked.ops), width)
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
                sum(map(counter.ops, forward)),
                sum(counter.flops(node, one) for node in forward),
                sum(counter.bytes(node, one | {"B": batch}) for node in forward),
                signals_of(inside),
            )
        )
    composed = _Counter(inference, Signatures(checked.ops))
    flops = sum(composed.flops(node, one) for node in inference.body.nodes if node.op not in _FREE)
    owners = tuple(_owners(graph, training, set(inference.storage)))
    shown = {name: size for name, size in one.items() if name != "B" and not name.startswith("?")}
    placed = [(nodes[id_], visit.name) for visit in training.visits for id_ in visit.nodes]
    loops = tuple(row for node, name in placed for row in counter.loops(node, name, one, batch))
    return Plan(
        graph.name,
        tuple(visits),
        owners,
        flops,
        batch,
        shown,
        loops,
        tuple(_generated(graph, one, batch)),
        tuple(_op_graphs(checked)),
        memory_plans(checked, training, one),
    )


def _op_graphs(checked: Checked) -> Iterator[OpGraphPlan]:
    texts = {
        graph.name: tuple((entry.name, entry.syntax.span(entry.syntax.root).text) for entry in graph.nodes)
        for graph in checked.spec.op_graphs
    }
    for _, node in walk(checked.graph):
        if node.op == "op_graph" and node.inputs[0] is not None:
            start, width = node.attrs["start"], checked.graph.types[node.inputs[0]].dims[-1]
            yield OpGraphPlan(
                start.name,
                int(width),  # type: ignore[arg-type]
                start.capacity,
                texts[start.name],
                start.random,
                start.kinds,
                node.attrs["growing"] is not None,
            )


def _generated(graph: Graph, sizes: Mapping[str, int], batch: int) -> Iterator[GeneratedPlan]:
    for row in graph.generated:
        one, all_ = (TensorType(row.dtype, (*row.lead, row.held)), {**sizes, "B": batch})
        count = elements(one.with_dims((*row.lead, row.count)), sizes)
        form = row.form if row.form == row.mode else f"{row.mode}, {row.form}"
        yield GeneratedPlan(
            row.parameter, form, row.why, count, elements(one, sizes), size_of(one, all_), row.origin
        )


def run_time_dims(graph: Graph) -> set[str]:
    """The dims that are known only when the model runs."""
    dims = [d for type_ in graph.types.values() for d in type_.dims if isinstance(d, Dim)]
    return {s for d in dims for s in d.symbols()}


def _owners(graph: Graph, training: Graph, inference: set[str]) -> Iterable[OwnerPlan]:
    rows: dict[str, list[str]] = {}
    home, storage = homes(graph), {**graph.storage, **training.storage}
    for name, row in storage.items():
        integers = (
            row.type is not None and row.type.dtype == "i64"
        )  # the table of an op graph is no parameter
        if row.kind == "param" or (row.kind == "frozen" and not integers):
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

    def __init__(self, graph: Graph, signatures: Signatures, width: float | None = None) -> None:
        self.types, self.signatures, self.regions = graph.types, signatures, graph.regions
        self.numbers = {name: argument.usual for name, argument in graph.arguments.items()}
        self.numbers |= {} if width is None else {"width": width}
        self.nodes = {node.id: node for region in graph.regions.values() for node in region.nodes}

    def ops(self, node: Node) -> int:
        """How many ops it is written with: of a loop, those of its step."""
        return sum(map(self.ops, self._step(node))) if node.op == "loop" else 1

    def _step(self, node: Node) -> list[Node]:
        return [inner for inner in self.regions[node.attrs["region"]].nodes if inner.op not in _FREE]

    def _trips(self, node: Node, sizes: Mapping[str, int]) -> int:
        return number(loop_of(node).trips, sizes)

    def flops(self, node: Node, sizes: Mapping[str, int]) -> int:
        if node.op == "loop":
            return self._trips(node, sizes) * sum(self.flops(inner, sizes) for inner in self._step(node))
        signature = self.signatures[node.op]
        cost = signature.op.cost
        if cost is None:
            return self._elements(node, sizes)
        inputs = [self.types.get(value) if value is not None else None for value in node.inputs]
        return number(cost(signature.namespace(node, inputs)), sizes)

    def _values(self, node: Node) -> list[TensorType]:
        values = [Value(node.id, port) for port in range(len(node.outputs))]
        return [self.types[value] for value in values if value in self.types]

    def _elements(self, node: Node, sizes: Mapping[str, int]) -> int:
        return sum(elements(type_, sizes) for type_ in self._values(node))

    def bytes(self, node: Node, sizes: Mapping[str, int]) -> int:
        """What is stored of it for the backward: of a loop, its steps, or only its carries where it computes them again."""
        if node.op != "loop":
            return self._outputs(node, sizes)
        loop, trips = loop_of(node), self._trips(node, sizes)
        step = sum(self.bytes(inner, sizes) for inner in self._step(node))
        gathered = sum(
            size_of(self.types.get(Value(node.id, port)), sizes)
            for port, given in enumerate(loop.gives)
            if given.kind == "steps"
        )
        if has_eprop(loop):
            return gathered + step + self._traces(node, sizes)
        return gathered + (trips * self._carried(node, sizes) + step if loop.recompute else trips * step)

    def _traces(self, node: Node, sizes: Mapping[str, int]) -> int:
        """The eligibility traces of a loop: of every sample, weight and state a number."""
        total = 0
        for each in neurons_of(loop_of(node), self.regions[node.attrs["region"]], self.types):
            for layer in each.layers:
                result, width = self.types[layer.result], self.types[layer.x].dims[-1]
                total += len(each.carries) * size_of(result.with_dims((*result.dims, width)), sizes)
        return total

    def _carried(self, node: Node, sizes: Mapping[str, int]) -> int:
        return sum(size_of(carry.type, sizes) for carry in loop_of(node).carries)

    def _width(self, node: Node, around: float | None) -> float | None:
        """The width that a loop's step narrows carries to; ``around`` is that of the loop it is in."""
        step = self.regions[node.attrs["region"]]
        given = {port.value: value for port, value in zip(step.inputs, node.inputs, strict=True)}
        for inner in step.nodes:
            value = (
                given.get(inner.inputs[1]) if inner.op == "narrow" and inner.inputs[1] is not None else None
            )
            if value is not None:
                made = self.nodes[value.node]
                if made.op == "argument":
                    return self.numbers[made.attrs["name"]]
                return float(made.attrs["value"]) if made.op == "constant" else around
        return None

    def loops(
        self,
        node: Node,
        within: str,
        sizes: Mapping[str, int],
        batch: int,
        around: float | None = None,
    ) -> Iterator[LoopPlan]:
        """A loop and those in it; nothing for another node."""
        if node.op != "loop":
            return
        loop, whole = loop_of(node), {**sizes, "B": batch}
        step, width = self._step(node), self._width(node, around)
        kept = sum(self.bytes(inner, whole) for inner in step)
        yield LoopPlan(
            loop.name,
            within,
            self._trips(node, sizes),
            loop.halt is not None,
            sum(self.flops(inner, sizes) for inner in step),
            0 if has_eprop(loop) else self._carried(node, whole) if loop.recompute else kept,
            self.bytes(node, whole),
            loop.recompute,
            width,
        )
        for inner in step:
            yield from self.loops(inner, loop.name, sizes, batch, width)

    def _outputs(self, node: Node, sizes: Mapping[str, int]) -> int:
        if node.op in _VIEWS:
            return 0
        return sum(size_of(type_, sizes) for type_ in self._values(node))
