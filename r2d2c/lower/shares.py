"""How a training graph is lowered where every process has a share of the batch, and something couples samples. No torch.

The loss of a process is that of its samples, and the whole one is the mean over processes, each by its part of the
batch. So of every value a process has one of these:

* ``same``: what one process with the whole batch has; of what has two axes of samples, all rows and columns.
* ``rows``: its own rows of that. The form of what has one axis of samples.
* ``mean``: a number whose mean over processes, by their parts, is that, as a mean over samples is.
* ``delta``: its own rows, over its part: what a backward of its own loss gives.

What counts linearly may stay a ``mean`` or a ``delta`` up to a loss or a gradient, and needs no message. Before
anything else these become ``same`` and ``rows``; an op that mixes samples, and is neither a mean nor a sum over them,
is given the rows of all processes, and each keeps its own of the result. So what is not known here costs messages, and
no exactness.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from r2d2c.graph import Graph, Node, Region, Value, walk
from r2d2c.infer import Signatures
from r2d2c.loops import loop_of
from r2d2c.ops.record import ShapeError
from r2d2c.types import Dim, DimLike, TensorType, symbol

BATCH = "B"
Kind = Literal["same", "rows", "mean", "delta"]
# A function of `gathering`, and the axis that it takes.
Call = tuple[str, int | None]
Calls = tuple[Call, ...]

# Of one argument, whatever it is.
_SHAPED = frozenset(("neg", "reshape", "flatten", "transpose", "permute", "squeeze", "unsqueeze"))
_PRODUCTS = frozenset(("matmul", "einsum"))
_SUMS = frozenset(("add", "sub"))
# Made without arguments, the same in every row; ops that draw know about shares themselves.
_FILLED = frozenset(("zeros", "ones", "full", "expand"))
# They take the statistics of all processes themselves, see `rows` and `opgraph`.
_SYNCHRONISED = frozenset(("batch_norm", "op_graph"))
# Rows are slots of samples, and those of a sample stay together.
_SLOTS = frozenset(("slots_as_samples", "samples_as_slots"))
# They divide by what `distance_parts.reduce` counts.
_COUNTING = frozenset(
    ("mse", "l1", "huber", "l2", "cosine", "bce", "bce_probs", "gaussian_nll", "cross_entropy", "hinge", "kl")
)
# By these a credit rule joins two streams of samples as 2·B rows, and tells them apart: of a share as of a batch.
_SOFT = frozenset(("concat", "arange", "size"))


@dataclass(frozen=True, slots=True)
class Way:
    """How a node is lowered: what its inputs and its outputs go through.

    whole: sizes are those of the whole batch. counted: what it divides by is counted in all processes.
    """

    given: tuple[Calls, ...] = ()
    outputs: tuple[Calls, ...] = ()
    whole: bool = False
    counted: bool = False

    @property
    def plain(self) -> bool:
        return not (any(self.given) or any(self.outputs) or self.whole or self.counted)

    @property
    def sends(self) -> bool:
        """Whether it sends messages."""
        return self.counted or any(name in ("whole", "mean") for calls in self.given for name, _ in calls)


@dataclass(slots=True)
class Shares:
    """The ways of nodes that are not lowered as usual. refused: a node of which shares cannot be learned, and why."""

    ways: dict[str, Way] = field(default_factory=dict)
    refused: tuple[Node, str] | None = None


def batch_axes(type_: TensorType | None) -> tuple[int, ...]:
    """The axes of samples; one that has other rows too, such as B + 1, counts twice: no process has a part of it."""
    dims = type_.dims if type_ is not None else ()
    axes = [k for k, dim in enumerate(dims) if _mentions(dim)]
    return tuple(axes if all(map(_of_samples, dims)) else axes * 2)


def _of_samples(dim: DimLike) -> bool:
    """Whether it is B·k, or without B."""
    if not isinstance(dim, Dim) or BATCH not in dim.symbols():
        return True
    return all(
        atoms.count(BATCH) == 1 and all(isinstance(atom, str) for atom in atoms) for atoms, _ in dim.terms
    )


def couples(typed: Graph, training: Graph, signatures: Signatures) -> Shares | None:
    """How to learn shares of a model if something in it couples samples, or counts them; None if nothing does.

    typed: the spec's graph. training: what is lowered.
    """
    shares = share_out(training, signatures)
    found = Sharing(typed, signatures)
    counts = any(found.counts(node) for region, node in walk(typed) if not _doubles(region, node))
    made = {node.id: node.op for _, node in walk(training)}
    sends = any(way.sends and made[id_] not in _SOFT for id_, way in shares.ways.items())
    return shares if counts or sends or shares.refused is not None else None


def share_out(training: Graph, signatures: Signatures) -> Shares:
    """How every node of a training graph is lowered for shares of the batch."""
    sharing = Sharing(training, signatures)
    sharing.region(training.body.nodes, {})
    return Shares({id_: way for id_, way in sharing.ways.items() if not way.plain}, sharing.refused)


class Sharing:
    """One analysis of a graph."""

    def __init__(self, graph: Graph, signatures: Signatures) -> None:
        self.graph, self.signatures = graph, signatures
        self.kinds: dict[Value, Kind] = {}
        self.ways: dict[str, Way] = {}
        self.refused: tuple[Node, str] | None = None

    def region(self, nodes: Sequence[Node], ports: Mapping[Value, Kind]) -> None:
        """The nodes of a region, in order."""
        for node in nodes:
            if node.op == "port":
                value = Value(node.id)
                self.kinds[value] = ports.get(value, self._usual(value))
            elif node.op == "loop":
                self._loop(node)
            elif node.op == "vjp":
                self._vjp(node)
            elif node.op in ("accumulate", "update"):
                continue
            else:
                self._node(node)

    # -- kinds
    def _type(self, value: Value | None) -> TensorType | None:
        return self.graph.types.get(value) if value is not None else None

    def _axes(self, value: Value | None) -> tuple[int, ...]:
        return batch_axes(self._type(value))

    def _usual(self, value: Value) -> Kind:
        return "rows" if len(self._axes(value)) == 1 else "same"

    def _kind(self, value: Value | None) -> Kind:
        return self.kinds.get(value, self._usual(value)) if value is not None else "same"

    def _exact(self, value: Value | None, whole: bool = False) -> Calls:
        """What makes a value `same` or `rows`; if ``whole``, `same`."""
        kind = self._kind(value)
        calls: Calls = (
            (("mean", None),) if kind == "mean" else (("times_part", None),) if kind == "delta" else ()
        )
        if whole and kind in ("rows", "delta"):
            calls += (("whole", self._axes(value)[0]),)
        return calls

    def _refuse(self, node: Node, why: str) -> None:
        self.refused = self.refused or (node, why)

    def _set(self, node: Node, kinds: Sequence[Kind], way: Way | None = None) -> None:
        self.ways[node.id] = way or Way()
        for port, kind in enumerate(kinds):
            self.kinds[Value(node.id, port)] = kind

    def _outputs(self, node: Node) -> list[Value]:
        return [Value(node.id, port) for port in range(len(node.outputs))]

    # -- ops
    def _node(self, node: Node) -> None:
        if node.op in ("param", "constant", "argument"):
            self._set(node, ["same"])
        elif node.op == "size":
            self._set(node, ["same"], Way(whole=_mentions(node.attrs["dim"])))
        elif node.op in ("stop", "leaf", "probe"):
            self._set(node, [self._kind(node.inputs[0])])
        else:
            self._op(node)

    def _op(self, node: Node) -> None:
        outputs, kinds = self._outputs(node), [self._kind(value) for value in node.inputs]
        made = [len(self._axes(value)) for value in outputs]
        mixed = self._mixed(node)
        several = any(len(self._axes(v)) > 1 for v in (*outputs, *node.inputs))
        rows = [k for k, kind in enumerate(kinds) if kind in ("rows", "delta")]
        if several or (mixed and not self._adds(node)) or not self._local(node, rows, made, mixed):
            self._whole(node)
            return
        linear = self._linear(node, kinds, mixed)
        if linear is not None:
            self._set(node, [linear] * len(outputs))
            return
        given = tuple(self._exact(value) for value in node.inputs)
        if made[0] or not rows:
            found: list[Kind] = ["rows" if axes else "same" for axes in made]
            self._set(node, found, Way(given))
        elif node.op in ("mean", "stdp"):
            self._set(node, ["mean"], Way(given))
        elif "distance" in self.signatures.ops[node.op].traits:
            total = (node.attrs.get("reduction") or "none") == "sum"
            counted = not total and self._weighed(node)
            self._set(
                node,
                ["mean"],
                Way(given, ((("over_part", None),),) if total or counted else (), False, counted),
            )
        elif node.op in _PRODUCTS and kinds.count("delta") == 1:
            kept = tuple(calls if kind != "delta" else () for calls, kind in zip(given, kinds, strict=True))
            self._set(node, ["mean"], Way(kept))
        else:
            self._set(node, ["mean"], Way(given, ((("over_part", None),),)))

    def _local(self, node: Node, rows: Sequence[int], made: Sequence[int], mixed: bool) -> bool:
        """Whether a process can compute its own of it; of a mean or a sum, what it adds to it."""
        op = self.signatures.ops[node.op]
        if not rows:
            return not any(made) or node.op in _FILLED or "random" in op.traits
        if all(made) or node.op in _SYNCHRONISED:
            return not mixed
        if "distance" in op.traits:
            return not mixed and (not self._weighed(node) or node.op in _COUNTING)
        return mixed

    def _adds(self, node: Node) -> bool:
        """Whether what is mixed is added up, and nothing else, to numbers without samples."""
        types = [self._type(value) for value in node.inputs]
        floats = all(type_ is None or type_.floating for type_ in types)
        return node.op in ("mean", "stdp") or (node.op in ("sum", *_PRODUCTS) and floats)

    def _weighed(self, node: Node) -> bool:
        space = self.signatures[node.op].namespace(node, [self._type(value) for value in node.inputs])
        return any(getattr(space, name, None) is not None for name in ("mask", "weights"))

    def _linear(self, node: Node, kinds: Sequence[Kind], mixed: bool) -> Kind | None:
        """`mean` or `delta` where these may go through an op as they are."""
        if mixed or not {"mean", "delta"} & set(kinds):
            return None
        there = [
            (k, kind) for k, (kind, v) in enumerate(zip(kinds, node.inputs, strict=True)) if v is not None
        ]
        own = [(k, kind) for k, kind in there if kind in ("mean", "delta")]
        rest = {kind for _, kind in there} - {"mean", "delta"}
        ((first, kind), *more) = own
        if node.op in _SUMS:
            allowed = {"mean", "same"} if kind == "mean" else {"delta"}
            return kind if {k for _, k in there} <= allowed else None
        if more:
            return None
        if kind == "mean":
            fits = not rest - {"same"}
            return (
                kind
                if fits and (node.op in (*_SHAPED, "mul", "mean", "sum") or (node.op == "div" and first == 0))
                else None
            )
        if node.op in (*_SHAPED, "mul", *_PRODUCTS) or (node.op == "div" and first == 0):
            return kind
        alone = node.op == "linear" and first == 0 and len(there) == 2
        return kind if alone else None

    def _whole(self, node: Node) -> None:
        """A node that each process computes for the whole batch."""
        if "random" in self.signatures.ops[node.op].traits:
            self._refuse(node, "it draws for several samples at once")
        outputs = self._outputs(node)
        given = tuple(self._exact(value, True) for value in node.inputs)
        axes = [self._axes(value) for value in outputs]
        after: tuple[Calls, ...] = tuple((("own", each[0]),) if len(each) == 1 else () for each in axes)
        self._set(node, [self._usual(value) for value in outputs], Way(given, after, True))

    def _mixed(self, node: Node) -> bool:
        """Whether it mixes samples."""
        op = self.signatures.ops[node.op]
        if op.mixes is None or node.op in _SLOTS:
            return False
        space = self.signatures[node.op].namespace(node, [self._type(value) for value in node.inputs])
        try:
            found = op.mixes(space)
        except ShapeError:
            return True
        return any(
            axis in batch_axes(type_) for name, axis in found for type_ in _types(getattr(space, name, None))
        )

    def counts(self, node: Node) -> bool:
        """Whether a node of the spec counts samples, adds them up, or goes by their numbers."""
        if node.op == "size":
            return _mentions(node.attrs["dim"])
        if node.op not in self.signatures.ops:
            return False
        if any(value not in self.graph.types for value in self._outputs(node)):
            return False
        made, given = (
            [self._axes(value) for value in values] for values in (self._outputs(node), node.inputs)
        )
        if any(made) and not any(given) and node.op not in _FILLED:
            return "random" not in self.signatures.ops[node.op].traits
        if not any(given):
            return False
        adds = node.op in ("sum", *_PRODUCTS) or (node.attrs.get("reduction") or "none") == "sum"
        return (self._mixed(node) and node.op not in ("mean", "stdp")) or (adds and not all(made))

    # -- loops and backwards
    def _loop(self, node: Node) -> None:
        loop, step = loop_of(node), self.graph.regions[node.attrs["region"]]
        first = len(loop.carries)
        given = tuple(
            self._exact(v) if k >= first or self._kind(v) == "delta" else ()
            for k, v in enumerate(node.inputs)
        )
        ports: dict[Value, Kind] = {}
        for k, (port, value) in enumerate(zip(step.inputs, node.inputs, strict=True)):
            kind = self._kind(value)
            ports[port.value] = kind if k < first and kind == "mean" else self._usual(port.value)
        while True:
            self.region(step.nodes, ports)
            grown = [
                step.inputs[k].value
                for k in range(first)
                if self._kind(step.outputs[k].value) == "mean" and ports[step.inputs[k].value] == "same"
            ]
            if not grown:
                break
            ports.update(dict.fromkeys(grown, "mean"))
        if any(self._kind(port.value) == "delta" for port in step.outputs):
            self._refuse(node, "a gradient is taken in its step")
        inside = [each.id for each in self._inside(step)]
        own = any(id_ in self.ways and not self.ways[id_].plain for id_ in inside)
        if own and loop.halt is not None:
            self._refuse(node, "its samples halt, in each process after other steps")
        if own and any(carry.credit == "eprop" for carry in loop.carries):
            self._refuse(node, "its traces of e-prop are those of single samples")
        self._set(node, [self._kind(step.outputs[g.port].value) for g in loop.gives], Way(given))

    def _inside(self, step: Region) -> Iterator[Node]:
        """The nodes of a step, and of the loops in it."""
        for node in step.nodes:
            yield node
            if node.op == "loop":
                yield from self._inside(self.graph.regions[node.attrs["region"]])

    def _vjp(self, node: Node) -> None:
        count, wrt = node.attrs["outputs"], node.attrs["wrt"]
        outputs, leaves = node.inputs[:count], node.inputs[count : count + wrt]
        cotangents = iter(range(count + wrt, len(node.inputs)))
        given: list[Calls] = [()] * len(node.inputs)
        for output, weight in zip(outputs, node.attrs["weights"] or [None] * count, strict=True):
            kind = self._kind(output)
            if weight is not None:
                if kind in ("rows", "delta"):
                    self._refuse(node, "its gradient is the same number for every sample")
                continue
            place = next(cotangents, None)
            if place is None:
                continue
            taken = self._kind(node.inputs[place])
            if kind == "rows" and taken == "rows":
                given[place] = (("over_part", None),)
            elif kind == "delta" or (kind == "mean" and taken == "mean"):
                given[place] = self._exact(node.inputs[place])
            if given[place] and node.inputs[place] in (*outputs, *leaves):
                self._refuse(node, "its gradient is its own value")
        found: list[Kind] = ["mean"] * len(node.attrs["params"])
        for leaf in leaves:
            found.append(
                "rows" if self._kind(leaf) == "delta" else "delta" if len(self._axes(leaf)) == 1 else "mean"
            )
        self._set(node, found, Way(tuple(given)))


def _doubles(region: Region, node: Node) -> bool:
    one = node.op == "arange" and node.attrs["n"] == symbol(BATCH)
    return region.kind == "credit" and node.op in _SOFT and not one


def _mentions(dim: object) -> bool:
    return isinstance(dim, Dim) and BATCH in dim.symbols()


def _types(value: Any) -> Iterator[TensorType]:
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, TensorType):
            yield each
