"""Backward of a single layer written out: δᵀx and Σδ in the place of the autograd engine.

A credit rule's signal often has one layer to go through, `tanh(linear(x))` of a constant x. The engine takes longer to
get there than the two products do on a small network, and recording costs as much again on the way up. So such a layer
runs on detached parameters, and its `vjp` becomes the products. The same numbers, by the same kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from r2d2c.graph import Graph, Node, Value
from r2d2c.lower.builder import FxBuilder
from r2d2c.ops.record import Op
from r2d2c.passes.gradients import interior
from r2d2c.passes.reach import Reach

# From δ after an activation, and its output, to δ before it.
BACK: Mapping[str, Any] = {
    "tanh": lambda b, delta, y: b.python(torch.ops.aten.tanh_backward.default, delta, y),
    "sigmoid": lambda b, delta, y: b.python(torch.ops.aten.sigmoid_backward.default, delta, y),
    "relu": lambda b, delta, y: b.python(torch.ops.aten.threshold_backward.default, delta, y, 0),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One output of a vjp: act(x·Wᵀ + b), with the storage of W and b, and δ.

    activation: None also for a relu whose δ is a multiple of its output: that is 0 already where its slope is.
    """

    linear: Node
    activation: str | None
    output: Value
    x: Value
    weight: str
    bias: str | None
    delta: Value

    @property
    def reads(self) -> tuple[Value, ...]:
        """What the written-out backward reads besides δ."""
        return (self.x,) if self.activation is None else (self.x, self.output)


class Explicit:
    """The vjps of a training graph that can be written out, none if not ``wanted``.

    layers: by vjp. plain: the ids of the layers that autograd does not record.
    """

    def __init__(self, graph: Graph, ops: Mapping[str, Op], wanted: bool = True) -> None:
        self.layers: dict[str, tuple[Layer, ...]] = {}
        vjps = [node for node in graph.body.nodes if node.op == "vjp" and wanted]
        if any(self._may(vjp) for vjp in vjps):
            reach = Reach(graph, ops)
            inside = {vjp.id: interior(vjp, reach) for vjp in vjps}
            times = Counter(id_ for ids in inside.values() for id_ in ids)
            for vjp in vjps:
                alone = self._may(vjp) and all(times[id_] == 1 for id_ in inside[vjp.id])
                found = self._of(vjp, graph, reach) if alone else ()
                if found:
                    self.layers[vjp.id] = found
        self.plain = {layer.linear.id for layers in self.layers.values() for layer in layers}

    @staticmethod
    def _may(vjp: Node) -> bool:
        """Only cotangents, only parameters."""
        return not vjp.attrs["wrt"] and bool(vjp.attrs["params"]) and not vjp.attrs["weights"]

    def _of(self, vjp: Node, graph: Graph, reach: Reach) -> tuple[Layer, ...]:
        count = vjp.attrs["outputs"]
        found: list[Layer] = []
        for output, delta in zip(vjp.inputs[:count], vjp.inputs[count:], strict=True):
            layer = (
                self._layer(output, delta, graph, reach) if output is not None and delta is not None else None
            )
            if layer is None:
                return ()
            found.append(layer)
        storage = [name for layer in found for name in (layer.weight, layer.bias) if name is not None]
        return tuple(found) if sorted(storage) == sorted(vjp.attrs["params"]) else ()

    @staticmethod
    def _layer(output: Value, delta: Value, graph: Graph, reach: Reach) -> Layer | None:
        node = reach.nodes[output.node]
        activation = node.op if node.op in BACK else None
        below = node.inputs[0] if activation is not None else output
        linear = reach.nodes[below.node] if below is not None else node
        if linear.op != "linear":
            return None
        x, weight, bias = linear.inputs
        if x is None or weight is None or reach.needs_gradient(x) or graph.types[x].rank != 2:
            return None
        names: list[str | None] = []
        for value, rank in ((weight, 2), (bias, 1)):
            read = reach.nodes[value.node] if value is not None else None
            if read is None:
                names.append(None)
                continue
            if read.op != "param" or graph.types[Value(read.id)].rank != rank:
                return None
            name = read.attrs["storage"]
            if graph.storage[name].kind != "param":
                return None
            names.append(name)
        first, second = names
        assert first is not None
        if activation == "relu" and _multiple(delta, output, reach):
            activation = None
        return Layer(linear, activation, output, x, first, second, delta)

    # -- lowering
    def forward(self, b: FxBuilder, node: Node) -> None:
        """A layer on detached parameters."""
        b._begin(node)
        kept = {value: b.env[value] for value in node.inputs[1:] if value is not None}
        b.env.update({value: b.method("detach", parameter) for value, parameter in kept.items()})
        b.add(node)
        b.env.update(kept)

    def backward(self, b: FxBuilder, vjp: Node) -> None:
        b._begin(vjp)
        gradients: dict[str, Any] = {}
        for layer in self.layers[vjp.id]:
            delta = b.env[layer.delta]
            if layer.activation is not None:
                delta = BACK[layer.activation](b, delta, b.env[layer.output])
            gradients[layer.weight] = b("torch.mm", b.method("t", delta), b.env[layer.x])
            if layer.bias is not None:
                gradients[layer.bias] = b.method("sum", delta, 0)
        for port, name in enumerate(vjp.attrs["params"]):
            b.env[Value(vjp.id, port)] = gradients[name]


def _multiple(delta: Value, output: Value, reach: Reach) -> bool:
    """Whether δ is a value times something."""
    node = reach.nodes[delta.node]
    if node.op != "mul":
        return False
    factors = [reach.nodes[v.node] for v in node.inputs if v is not None]
    return any(factor.op == "stop" and factor.inputs[0] == output for factor in factors)
