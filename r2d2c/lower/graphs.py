"""Lowering flat graphs: inference, the losses, and a training graph visit by visit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx

from r2d2c.graph import Graph, Node, Value
from r2d2c.infer import Signatures
from r2d2c.lower.builder import FxBuilder, draws, identifier
from r2d2c.lower.explicit import Explicit
from r2d2c.lower.scaling import Scaler
from r2d2c.lower.shares import Shares
from r2d2c.ops.record import Op
from r2d2c.passes.inline import prune
from r2d2c.types import Dim


@dataclass(frozen=True)
class Lowered:
    """An fx graph with the names of what goes in and comes out, in order."""

    fx: fx.Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    random: bool = False
    arguments: tuple[str, ...] = ()


def lower_inference(graph: Graph, ops: Mapping[str, Op], default: torch.dtype | None = None) -> Lowered:
    """The composed model: placeholders are the inputs, the output a dict of the spec's outputs."""
    b = FxBuilder(graph, Signatures(ops), False, default)
    main = graph.body
    for port in main.inputs:
        b.placeholder(port.name, port.value)
    for node in main.nodes:
        if node.op != "port":
            b.add(node)
    results = tuple(_as_tensor(b, b.env[port.value]) for port in main.outputs)
    b.fx.output(dict(zip((p.name for p in main.outputs), results, strict=True)))
    names = tuple(p.name for p in main.inputs), tuple(p.name for p in main.outputs)
    return Lowered(b.fx, *names, arguments=b.arguments)


def lower_forward(
    graph: Graph,
    ops: Mapping[str, Op],
    wanted: Sequence[tuple[str, Value]],
    training: bool,
    default: torch.dtype | None = None,
) -> Lowered:
    """The forward nodes of a training graph that some values need; nothing of its backward."""
    b = FxBuilder(graph, Signatures(ops), training, default)
    nodes = prune(graph.body.nodes, [value for _, value in wanted])
    for port in graph.body.inputs:
        b.placeholder(port.name, port.value)
    random = training and draws(graph, nodes, b.signatures)
    if random:
        b.rng = b.placeholder("rng")
    for node in nodes:
        if node.op != "port":
            b.add(node)
    b.fx.output(tuple(_as_tensor(b, b.env[value]) for _, value in wanted))
    names = tuple(p.name for p in graph.body.inputs), tuple(n for n, _ in wanted)
    return Lowered(b.fx, *names, random, b.arguments)


def forward_only(graph: Graph) -> set[str]:
    """The nodes of a training graph that can be computed without taking any gradient."""
    found: set[str] = set()
    for node in graph.body.nodes:
        if node.op not in ("vjp", "accumulate", "update") and all(
            v is None or v.node in found for v in node.inputs
        ):
            found.add(node.id)
    return found


def _only_for_outputs(graph: Graph) -> frozenset[str]:
    """The nodes of a training graph that no loss, gradient or update needs: what they make is for looking at."""
    learn = [node.id for node in graph.body.nodes if node.op in ("accumulate", "update")]
    losses = [loss.value for loss in graph.losses.values()]
    needed = prune(graph.body.nodes, [*losses, *_state_of(graph)], learn)
    return frozenset(node.id for node in graph.body.nodes) - {node.id for node in needed}


def _state_of(graph: Graph) -> list[Value]:
    """The outputs that are the model's state, which goes on to the next learning pass."""
    return [port.value for port in graph.body.outputs if port.name in graph.hidden]


def _as_tensor(b: FxBuilder, result: Any) -> Any:
    """An output that is a plain number becomes a tensor."""
    return b("torch.tensor", result) if isinstance(result, (int, float)) else result


@dataclass(frozen=True)
class LoweredVisit:
    """A visit's fx graph. ``reads`` and ``writes`` are the values that cross visits, as slots of the run.

    Its placeholders are ``reads``, a generator if it is ``random``, and numbers by the names of ``arguments``.
    """

    fx: fx.Graph
    name: str
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    random: bool
    arguments: tuple[str, ...] = ()


class TrainingLowering:
    """Lowers the visits of a training graph.

    written_out: whether backwards of single layers are (see `explicit`); without, autograd records everything.
    scaler: what takes the gradients where they are too small for fp16. shares: for a share of a batch, where samples are
    coupled.
    """

    def __init__(
        self,
        graph: Graph,
        ops: Mapping[str, Op],
        default: torch.dtype | None = None,
        written_out: bool = True,
        scaler: Scaler | None = None,
        shares: Shares | None = None,
    ) -> None:
        self.graph, self.ops, self.default = graph, ops, default
        self.signatures = Signatures(ops)
        self.nodes = {node.id: node for node in graph.body.nodes}
        self.scaler, self.shares = scaler, shares
        self.explicit = Explicit(graph, ops, written_out)
        self.taken: dict[Value, int] = {}
        for node in graph.body.nodes:
            if node.op == "vjp":
                first = node.attrs["outputs"]
                for value in node.inputs[first : first + node.attrs["wrt"]]:
                    if value is not None:
                        self.taken[value] = self.taken.get(value, 0) + 1
        self.results = [port.value for port in graph.body.outputs] + [
            loss.value for loss in graph.losses.values()
        ]

    def visits(self, outputs: bool = True) -> list[LoweredVisit]:
        """Every visit as a graph of its own. ``outputs``: whether to compute and return the model's outputs as well."""
        without = frozenset[str]() if outputs else _only_for_outputs(self.graph)
        losses = [loss.value for loss in self.graph.losses.values()]
        results = self.results if outputs else [*losses, *_state_of(self.graph)]
        sections = [[id_ for id_ in visit.nodes if id_ not in without] for visit in self.graph.visits]
        made = {value: k for k, ids in enumerate(sections) for id_ in ids for value in self._values(id_)}
        needed_later: list[set[Value]] = [set() for _ in sections]
        ports = {port.value for port in self.graph.body.inputs}
        reads: list[list[Value]] = []
        for k, ids in enumerate(sections):
            found: dict[Value, None] = {}
            for id_ in ids:
                for value in self._reads(id_):
                    if value is None or made.get(value) == k:
                        continue
                    if value in ports:
                        found[value] = None
                    elif self._shareable(value):
                        needed_later[made[value]].add(value)
                        found[value] = None
            reads.append(list(found))
        for value in results:
            if value in made:
                needed_later[made[value]].add(value)
        order = {value: n for n, value in enumerate(made)}
        return [
            self._lower(visit.name, ids, reads[k], sorted(needed_later[k], key=order.__getitem__))
            for k, (visit, ids) in enumerate(zip(self.graph.visits, sections, strict=True))
        ]

    def _reads(self, id_: str) -> Iterable[Value | None]:
        """What a node reads when it is lowered."""
        yield from self.nodes[id_].inputs
        for layer in self.explicit.layers.get(id_, ()):
            yield from layer.reads

    def _shareable(self, value: Value) -> bool:
        # Parameters and numbers are read anew in every visit.
        return self.nodes[value.node].op not in ("param", "constant", "size", "argument")

    def _values(self, id_: str) -> list[Value]:
        return [Value(id_, port) for port in range(len(self.nodes[id_].outputs))]

    def whole(self) -> LoweredVisit:
        """All visits in one graph, ``losses`` and ``outputs`` returned."""
        ids = [id_ for visit in self.graph.visits for id_ in visit.nodes]
        reads = [port.value for port in self.graph.body.inputs]
        return self._lower("training", ids, reads, self.results)

    def _lower(self, name: str, ids: list[str], reads: list[Value], writes: list[Value]) -> LoweredVisit:
        b = FxBuilder(self.graph, self.signatures, True, self.default)
        b.shares = self.shares
        present = set(ids)
        nodes = [self.nodes[id_] for id_ in ids]
        extra = [
            self.nodes[v.node]
            for node in nodes
            for v in node.inputs
            if v is not None and v.node not in present and not self._shareable(v)
        ]
        reads = [*reads, *self._ports_for_sizes(nodes, reads)]
        for value in reads:
            b.placeholder(self._label(value), value)
        random = draws(self.graph, nodes, self.signatures)
        if random:
            b.rng = b.placeholder("rng")
        for id_ in dict.fromkeys(n.id for n in extra):
            b.add(self.nodes[id_])
        for node in nodes:
            if node.id in self.explicit.plain:
                self.explicit.forward(b, node)
            elif node.op == "vjp":
                with b.sharing(node):
                    if node.id in self.explicit.layers:
                        self.explicit.backward(b, node)
                    else:
                        self._vjp(b, node)
            elif node.op == "accumulate":
                self._accumulate(b, node)
            elif node.op == "update":
                self._update(b, node)
            else:
                b.add(node)
        b.fx.output(tuple(_as_tensor(b, b.env[value]) for value in writes))
        return LoweredVisit(b.fx, name, tuple(reads), tuple(writes), random, b.arguments)

    def _ports_for_sizes(self, nodes: list[Node], reads: list[Value]) -> list[Value]:
        """Ports that show run-time dims of this visit which none of its reads shows plainly."""
        wanted = symbols_of((v for node in nodes for v in self._values(node.id)), self.graph)
        shown = plain_symbols(reads, self.graph) | self.graph.arguments.keys()
        found = []
        for port in self.graph.body.inputs:
            more = (plain_symbols([port.value], self.graph) & wanted) - shown
            if more and port.value not in reads:
                found.append(port.value)
                shown |= more
        return found

    def _label(self, value: Value) -> str:
        node = self.nodes[value.node]
        if node.op == "port":
            return str(node.attrs["name"])
        base, dot, _ = node.id.rpartition(".")
        return identifier(base if dot and base.endswith(node.outputs[value.port]) else node.id)

    # -- backward
    def _pure(self, node: Node) -> bool:
        """Whether a vjp must return its gradients: it accumulates into no parameter, or shares a leaf with another."""
        first = node.attrs["outputs"]
        wrt = node.inputs[first : first + node.attrs["wrt"]]
        return (
            not node.attrs["params"]
            or self.scaler is not None
            or any(v is None or self.taken[v] > 1 or self.nodes[v.node].op != "leaf" for v in wrt)
        )

    def _vjp(self, b: FxBuilder, node: Node) -> None:
        b._begin(node)
        count, attrs = node.attrs["outputs"], node.attrs
        outputs = [b.env[v] for v in node.inputs[:count] if v is not None]
        wrt = [b.env[v] for v in node.inputs[count : count + attrs["wrt"]] if v is not None]
        given = iter([b.env[v] for v in node.inputs[count + attrs["wrt"] :] if v is not None])
        cotangents = [
            next(given) if w is None else None if w == 1.0 else b("torch.full_like", out, w)
            for out, w in zip(outputs, attrs["weights"] or [None] * count, strict=True)
        ]
        params = [b.parameter(name) for name in attrs["params"]]
        keep = {"retain_graph": True} if attrs["retain"] else {}
        plain = all(c is None for c in cotangents)
        if self._pure(node):
            take = torch.autograd.grad if self.scaler is None else self.scaler.grad
            grads = b.python(take, outputs, [*params, *wrt], None if plain else cotangents, **keep)
            for port in range(len(params) + len(wrt)):
                b.env[Value(node.id, port)] = b.item(grads, port)
            return
        b.python(
            torch.autograd.backward, outputs, None if plain else cotangents, inputs=[*params, *wrt], **keep
        )
        for port in range(len(params)):
            b.env[Value(node.id, port)] = None
        for port, leaf in enumerate(wrt):
            b.env[Value(node.id, len(params) + port)] = b.python(getattr, leaf, "grad")

    def _accumulate(self, b: FxBuilder, node: Node) -> None:
        gradient = b.env[node.inputs[0]]  # type: ignore[index]
        if gradient is None:
            return  # backward has added it already
        b._begin(node)
        b.python(accumulate, b.parameter(node.attrs["storage"]), gradient)

    def _update(self, b: FxBuilder, node: Node) -> None:
        if not node.inputs:
            return  # the optimizer's, between visits
        b._begin(node)
        b.method("copy_", b.parameter(node.attrs["storage"]), b.method("detach", b.env[node.inputs[0]]))  # type: ignore[index]


def accumulate(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add to ``parameter.grad``, as ``backward()`` does."""
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)


def plain_symbols(values: Iterable[Value], graph: Graph) -> set[str]:
    """The run-time dims that are an axis of their own in some value."""
    dims = [d for v in values if v in graph.types for d in graph.types[v].dims if isinstance(d, Dim)]
    return {str(d) for d in dims if str(d).isidentifier()}


def symbols_of(values: Iterable[Value], graph: Graph) -> set[str]:
    """The run-time dims that some values' types show."""
    found: set[str] = set()
    for value in values:
        for dim in graph.types[value].dims if value in graph.types else ():
            if not isinstance(dim, int):
                found |= dim.symbols()
    return found
