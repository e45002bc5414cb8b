"""From the lowered fx graph of a model's inference to an ONNX model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

import r2d2c
from r2d2c.graph import Value
from r2d2c.infer import Signatures
from r2d2c.model import Model

from .context import OnnxContext, onnx_shape
from .names import value_name
from .values import Values

# Version 10 is the first with metadata on nodes.
IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Built:
    """An ONNX model of an inference graph.

    inputs, outputs: ONNX names by the spec's. They differ only for an output that is named like an input.
    arguments: the dtypes of inputs that may be left out, scalars.
    parameters: numbers in the model's storage; constants do not count.
    """

    model: ir.Model
    inputs: dict[str, str]
    arguments: dict[str, np.dtype[Any]]
    outputs: dict[str, str]
    parameters: int
    storage_bytes: int


def build(model: Model) -> Built:
    """The ONNX model of ``model``'s inference, at its present parameters and dtype.

    Raises `CompileError` if an op has no ONNX form and torch.onnx.export cannot give one.
    """
    return _Writer(model).run()


class _Writer:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = model._inference_graph
        self.signatures = Signatures(model.spec.ops)
        self.o = OnnxContext(self.graph, self.signatures, model._float)
        self.values = Values(model, self.graph.body, self.signatures, self.o, self._stored)
        self.nodes = self.values.nodes
        self.ports = {port.name: port.value for port in self.graph.body.inputs}
        self.tensors: dict[str, torch.Tensor] = {
            **dict(model.named_parameters()),
            **dict(model.named_buffers()),
        }
        self.stored: dict[str, ir.Value] = {}

    def run(self) -> Built:
        o, lowered = self.o, self.model._inference_lowered
        given = (*lowered.inputs, *lowered.arguments)
        o.taken |= {*given, *self.graph.storage}
        # ONNX keeps one name for one value: an output named like an input needs another.
        outputs = {name: o.unique(f"{name}_out" if name in given else name) for name in lowered.outputs}
        names = iter(given)
        for fx_node in lowered.fx.nodes:
            if fx_node.op == "placeholder":
                name = next(names)
                if name in lowered.arguments:
                    o.argument(self.graph.arguments[name])
                    continue
                o.input(name, self.ports[name], self.nodes[self.ports[name].node].origin)
            elif fx_node.op == "get_attr":
                self._stored(fx_node.target)
            elif "r2d2c" in fx_node.meta:
                self.values[Value(fx_node.meta["r2d2c"][0].id)]
        results = self._outputs(outputs)
        # What only learning reads (the weights that feedback takes) is an argument of its op all the same.
        o.initializers = [v for v in o.initializers if v.uses() or v in o.inputs]
        self.stored = {name: value for name, value in self.stored.items() if value.uses()}
        graph = ir.Graph(
            o.inputs,
            results,
            nodes=o.nodes,
            initializers=o.initializers,
            opset_imports=o.opsets,
            name=self.graph.name,
        )
        doc = self.model.spec.spec.document.doc
        tasks = list(self.graph.tasks)
        made = ir.Model(
            graph,
            ir_version=IR_VERSION,
            producer_name="r2d2c",
            producer_version=r2d2c.__version__,
            doc_string=doc or None,
            functions=list(o.functions.values()),
            metadata_props={
                "r2d2c.spec": self.graph.name,
                "r2d2c.tasks": json.dumps(tasks),
                "r2d2c.outputs": json.dumps(outputs),
            },
        )
        tensors = [self.tensors[name] for name in self.stored]
        return Built(
            made,
            {name: name for name in lowered.inputs},
            {name: o.argument_dtype(self.graph.arguments[name]).numpy() for name in lowered.arguments},
            outputs,
            sum(t.numel() for t in tensors),
            sum(t.numel() * t.element_size() for t in tensors),
        )

    def _stored(self, name: str) -> ir.Value:
        """The initializer of a storage entry: one, however many layers share it."""
        found = self.stored.get(name)
        if found is None:
            tensor = TorchTensor(self.tensors[name].detach().cpu().contiguous(), name=name)
            found = self.stored[name] = self.o.initializer(name, tensor)
            found.metadata_props["r2d2c.storage"] = self.graph.storage[name].kind
        return found

    def _outputs(self, names: dict[str, str]) -> list[ir.Value]:
        """The graph's outputs under the spec's names: renamed values, or copies of what has a name."""
        o, found = self.o, []
        used: set[ir.Value] = set()
        for port in self.graph.body.outputs:
            value = self.values[port.value]
            name = names[port.name]
            node = self.nodes[port.value.node]
            if isinstance(value, ir.Value) and value.producer() is not None and value not in used:
                value.name = name
            else:
                value = o.identity(
                    value, name, value_name(node, port.value.port), node.origin or self.graph.body.origin
                )
            type_ = self.graph.types.get(port.value)
            if type_ is not None and not type_.weak:
                value.shape = onnx_shape(type_)
            elif value.shape is None:
                value.shape = ir.Shape([])
            used.add(value)
            found.append(value)
        return found
