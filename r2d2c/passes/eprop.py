"""Carries with the credit `eprop`: which part of a step belongs to a neuron alone, and what is cut.

Such carries are the state of neurons. What their next values are computed from, elementwise and at the same place, is
the neuron's own dynamics; there gradients go back over steps, forward in time, as eligibility traces. Everything else
(a layer, a norm, another shape) leads to other neurons: where such a path comes back to the neurons that it started
from, nothing comes back over it.

Bellec et al., A solution to the learning dilemma for recurrent networks of spiking neurons, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.loops import Loop, loop_of
from r2d2c.ops.elementwise import ELEMENTWISE
from r2d2c.types import DimLike, TensorType

NUMBERS = ("constant", "size", "argument")
# What draws other numbers at every step.
RANDOM = ("dropout", "noise", "normal_like", "uniform_like", "wrong_label", "hard_label")
OLD = "old"


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer that a neuron reads: its result, and the ports of its weight and bias."""

    result: Value
    x: Value
    weight: Value
    bias: Value | None


@dataclass(frozen=True, slots=True)
class Neurons:
    """What is a neuron's own in a step, of neurons of the same dims.

    carries: the positions of those with the credit `eprop`. nodes: the elementwise nodes that make their next values.
    layers: what they read with a trace for every weight. same: what they read that is the same at every step.
    other: what they read besides; what is behind that learns from its own step alone.
    """

    carries: tuple[int, ...]
    nodes: tuple[Node, ...]
    layers: tuple[Layer, ...]
    same: tuple[Value, ...]
    other: tuple[Value, ...]

    @property
    def read(self) -> tuple[Value, ...]:
        """Everything that the neurons read, besides the carries."""
        return (*(layer.result for layer in self.layers), *self.same, *self.other)


def has_eprop(loop: Loop) -> bool:
    return any(carry.credit == "eprop" for carry in loop.carries)


def neurons_of(loop: Loop, step: Region, types: Mapping[Value, TensorType]) -> tuple[Neurons, ...]:
    """The neurons of a flat step, in which what comes back to them is cut already; those of other dims apart."""
    by_dims: dict[tuple[DimLike, ...], list[int]] = {}
    for k, carry in enumerate(loop.carries):
        if carry.credit == "eprop":
            by_dims.setdefault(carry.type.dims, []).append(k)
    rest = {port.value for port in step.inputs[len(loop.carries) + loop.sequences :]}
    constant = _constant(step, rest)
    return tuple(
        _population(tuple(carries), dims, step, types, rest, constant) for dims, carries in by_dims.items()
    )


def _population(
    carries: tuple[int, ...],
    dims: tuple[DimLike, ...],
    step: Region,
    types: Mapping[Value, TensorType],
    rest: set[Value],
    constant: set[Value],
) -> Neurons:
    made = {node.id: node for node in step.nodes}
    states = {step.inputs[k].value for k in carries}
    own: set[str] = set()
    read: dict[Value, None] = {}
    todo = [step.outputs[k].value for k in reversed(carries)]
    while todo:
        value = todo.pop()
        node = made[value.node]
        if node.op == "constant":
            own.add(node.id)
        elif node.op in ELEMENTWISE and types[value].dims == dims and value not in constant:
            if node.id not in own:
                own.add(node.id)
                todo.extend(v for v in reversed(node.inputs) if v is not None)
        elif value not in states:
            read[value] = None
    layers: list[Layer] = []
    same: list[Value] = []
    other: list[Value] = []
    for value in read:
        node = made[value.node]
        if node.op == "linear" and types[value].dims == dims and _has_ports(node, rest, types):
            x, weight, bias = node.inputs
            assert x is not None and weight is not None
            layers.append(Layer(value, x, weight, bias))
        else:
            (same if value in constant and types[value].floating else other).append(value)
    nodes = tuple(node for node in step.nodes if node.id in own)
    return Neurons(carries, nodes, tuple(layers), tuple(same), tuple(other))


def _has_ports(node: Node, rest: set[Value], types: Mapping[Value, TensorType]) -> bool:
    """Whether a layer's weight and bias are the same at every step, and one for all samples."""
    weight, bias = node.inputs[1], node.inputs[2]
    assert weight is not None
    return weight in rest and types[weight].rank == 2 and (bias is None or bias in rest)


def own_states(loop: Loop, step: Region, types: Mapping[Value, TensorType]) -> list[bool]:
    """Of every carry, whether its next value depends on a state of the same neuron."""
    cut = _Cut(loop, step, dict(types))
    cut.follow()
    return [step.outputs[k].value in cut.own for k in range(len(loop.carries))]


def _constant(step: Region, rest: set[Value]) -> set[Value]:
    """The values of a step that are the same at every step, and no plain numbers."""
    found = set(rest)
    numbers = {node.id for node in step.nodes if node.op in NUMBERS}
    for node in step.nodes:
        read = [v for v in node.inputs if v is not None]
        known = all(v in found or v.node in numbers for v in read) and any(v in found for v in read)
        if known and node.op not in RANDOM:
            found.update(Value(node.id, port) for port in range(len(node.outputs)))
    return found


# -- what is cut


def cut_recurrence(graph: Graph) -> Graph:
    """A flat graph in whose steps no gradient comes back to neurons from others that read what they were.

    A path that ends in other neurons, as from one layer to the next, is left.
    """
    names = {node.attrs["region"]: loop_of(node) for region in graph.regions.values() for node in region.nodes
             if node.op == "loop" and has_eprop(loop_of(node))}  # fmt: skip
    if not names:
        return graph
    types = dict(graph.types)
    regions = {
        name: _Cut(names[name], region, types).run() if name in names else region
        for name, region in graph.regions.items()
    }
    return graph.with_(regions=regions, types=types)


class _Cut:
    def __init__(self, loop: Loop, step: Region, types: dict[Value, TensorType]) -> None:
        self.loop, self.step, self.types = loop, step, types
        self.made = {node.id: node for node in step.nodes}
        # The carries that a value depends on, elementwise and at its own place.
        self.own: dict[Value, frozenset[int]] = {
            port.value: frozenset((k,))
            for k, port in enumerate(step.inputs[: len(loop.carries)])
            if loop.carries[k].credit == "eprop"
        }
        # What was added, by the value whose place it takes and the carries that are cut; and by its own values.
        self.instead: dict[tuple[Value, frozenset[int]], Value] = {}
        self.added: dict[Value, Node] = {}

    def follow(self) -> None:
        """Find out which values are a neuron's own."""
        own = self.own
        for node in self.step.nodes:
            if node.op in ELEMENTWISE:
                for port in range(len(node.outputs)):
                    out = Value(node.id, port)
                    read = [v for v in node.inputs if v is not None and self._at_its_place(v, out)]
                    if found := frozenset[int]().union(*(own.get(v, frozenset()) for v in read)):
                        own[out] = found

    def run(self) -> Region:
        step = self.step
        self.follow()
        groups = self._groups()
        nodes: dict[str, Node] = {}
        for node in step.nodes:
            inputs = tuple(v if v is None else self._read(node, v, groups) for v in node.inputs)
            for v in inputs:
                self._append(v, nodes)
            nodes[node.id] = node if inputs == node.inputs else replace(node, inputs=inputs)
        return replace(step, nodes=tuple(nodes.values()))

    def _at_its_place(self, value: Value, out: Value) -> bool:
        return self.types[value].dims == self.types[out].dims

    def _groups(self) -> dict[int, frozenset[int]]:
        """Of every such carry, those that are of the same neurons."""
        found = {k: {k} for ks in self.own.values() for k in ks}
        for k in list(found):
            for other in self.own.get(self.step.outputs[k].value, frozenset()):
                if found[k] is not found[other]:
                    found[k] |= found[other]
                    for member in found[k]:
                        found[member] = found[k]
        return {k: frozenset(members) for k, members in found.items()}

    def _read(self, node: Node, value: Value, groups: dict[int, frozenset[int]]) -> Value:
        """What a node reads in the place of a neuron's value, if it is no part of the neuron."""
        ks = self.own.get(value, frozenset())
        if not ks or node.op == "stop":
            return value
        if node.op in ELEMENTWISE and self._at_its_place(value, Value(node.id)):
            return value
        reached = self._reached(node)
        back = frozenset(k for k in ks if any(self.step.outputs[m].value.node in reached for m in groups[k]))
        return self._without(value, back) if back else value

    def _reached(self, node: Node) -> set[str]:
        """The nodes of the step that a node leads to, itself as well."""
        found = {node.id}
        for other in self.step.nodes:
            if other.op != "stop" and any(v is not None and v.node in found for v in other.inputs):
                found.add(other.id)
        return found

    def _without(self, value: Value, cut: frozenset[int]) -> Value:
        """The value again, from carries through which nothing comes back."""
        cut &= self.own.get(value, frozenset())
        if not cut:
            return value
        if (value, cut) in self.instead:
            return self.instead[value, cut]
        node = self.made[value.node]
        id_ = f"{node.id}@{OLD}"
        while id_ in {new.id for new in self.added.values()}:
            id_ += "_"
        if node.op == "port":
            new = Node(id_, "stop", (value,), {}, (OLD,), node.origin)
        else:
            inputs = tuple(
                self._without(v, cut) if v is not None and self._at_its_place(v, value) else v
                for v in node.inputs
            )
            new = Node(id_, node.op, inputs, node.attrs, node.outputs, node.origin)
        for port in range(len(new.outputs)):
            old, again = Value(node.id, port), Value(id_, port)
            self.instead[old, cut] = again
            self.added[again] = new
            self.types[again] = self.types[old]
        return self.instead[value, cut]

    def _append(self, value: Value | None, nodes: dict[str, Node]) -> None:
        """The nodes that were added, before the one that reads them."""
        new = None if value is None else self.added.get(value)
        if new is not None and new.id not in nodes:
            for each in new.inputs:
                self._append(each, nodes)
            nodes[new.id] = new


__all__ = ["Layer", "Neurons", "cut_recurrence", "has_eprop", "neurons_of", "own_states"]
