"""What the values of one region are in ONNX: of the main region, or of a step of a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from r2d2c.graph import Node, Region, Value
from r2d2c.infer import Signatures
from r2d2c.model import Model
from r2d2c.types import Dim

from .context import OnnxContext
from .fallback import ask_torch
from .loops import write_loop


class Values:
    """Writes the nodes of a region with a context. ``stored``: the initializer of a storage entry."""

    def __init__(
        self,
        model: Model,
        region: Region,
        signatures: Signatures,
        o: OnnxContext,
        stored: Callable[[str], ir.Value],
    ) -> None:
        self.model, self.region, self.signatures, self.o, self.stored = model, region, signatures, o, stored
        self.nodes = {node.id: node for node in region.nodes}

    def inside(self, step: str) -> Values:
        """Those of the step of a loop that stands in this region."""
        o = OnnxContext(self.o.graph, self.signatures, outer=self.o)
        return Values(self.model, self.o.graph.regions[step], self.signatures, o, self.stored)

    def __getitem__(self, value: Value) -> Any:
        """What a value of the graph is in ONNX, a number where it is known; its node is written when it is first read."""
        o = self.o
        found = o.value_of.get(value)
        if found is not None:
            return found
        node = self.nodes[value.node]
        if node.op == "param":
            found = o.value_of[value] = self.stored(node.attrs["storage"])
            return found
        if node.op == "constant":
            found = o.value_of[value] = node.attrs["value"]
            return found
        if node.op == "argument":
            found = o.value_of[value] = o.arguments[node.attrs["name"]]
            return found
        inputs: list[Any] = [self[v] if v is not None else None for v in node.inputs]
        if node.op in ("stop", "leaf"):
            o.value_of[value] = inputs[0]
            return inputs[0]
        o.begin(node)
        results = self._results(node, inputs)
        o.end(tuple(results) if isinstance(results, (tuple, list)) else (results,))
        return o.value_of[value]

    def _results(self, node: Node, inputs: list[Any]) -> Any:
        o = self.o
        if node.op == "size":
            dim = node.attrs["dim"]
            return o("Squeeze", o.size(dim), o.ints([0])) if isinstance(dim, Dim) else int(dim)
        if node.op == "loop":
            return write_loop(self, node, inputs)
        signature = self.signatures[node.op]
        form = signature.op.onnx
        if form is None:
            return ask_torch(o, node, signature, o.graph, self.model, inputs)
        if isinstance(form, str):
            return o(form, *inputs, outputs=len(node.outputs))
        return form(o, signature.namespace(node, inputs))
