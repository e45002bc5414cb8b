"""From the lowered fx graph of a model's inference to an ONNX model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

import r2d2c
from r2d2c.graph import Value
from r2d2c.infer import Signatures
from r2d2c.model import Model
from r2d2c.types import Dim

from .context import OnnxContext, onnx_shape
from .fallback import ask_torch
from .names import value_name

# Version 10 is the first with metadata on nodes.
IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Built:
    """An ONNX model of an inference graph.

    inputs, outputs: ONNX names by the spec's. They differ only for an output that is named like an input.
    parameters: numbers in the model's storage; constants do not count.
    """

    model: ir.Model
    inputs: dict[str, str]
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
        self.ops = model.spec.ops
        self.signatures = Signatures(self.ops)
        self.o = OnnxContext(self.graph, self.signatures, model._float)
        self.nodes = {node.id: node for node in self.graph.body.nodes}
        self.ports = {port.name: port.value for port in self.graph.body.inputs}
        self.tensors: dict[str, torch.Tensor] = {
            **dict(model.named_parameters()),
            **dict(model.named_buffers()),
        }
        self.stored: dict[str, ir.Value] = {}

    def run(self) -> Built:
        o, lowered = self.o, self.model._inference_lowered
        o.taken |= {*lowered.inputs, *self.graph.storage}
        # ONNX keeps one name for one value: an output named like an input needs another.
        outputs = {
            name: o.unique(f"{name}_out" if name in lowered.inputs else name) for name in lowered.outputs
        }
        names = iter(lowered.inputs)
        for fx_node in lowered.fx.nodes:
            if fx_node.op == "placeholder":
                name = next(names)
                o.input(name, self.ports[name], self.nodes[self.ports[name].node].origin)
            elif fx_node.op == "get_attr":
                self._stored(fx_node.target)
            elif "r2d2c" in fx_node.meta:
                self._value(Value(fx_node.meta["r2d2c"][0].id))
        results = self._outputs(outputs)
        # What only learning reads (the weights that feedback takes) is an argument of its op all the same.
        o.initializers = [value for value in o.initializers if value.uses()]
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

    def _value(self, value: Value) -> Any:
        """What a value of the graph is in ONNX. What left no fx node (a number) is made when read."""
        found = self.o.value_of.get(value)
        if found is not None:
            return found
        node, o = self.nodes[value.node], self.o
        results: Any
        if node.op == "param":
            found = o.value_of[value] = self._stored(node.attrs["storage"])
            return found
        if node.op == "constant":
            found = o.value_of[value] = node.attrs["value"]
            return found
        inputs: list[Any] = [self._value(v) if v is not None else None for v in node.inputs]
        if node.op in ("stop", "leaf"):
            o.value_of[value] = inputs[0]
            return inputs[0]
        o.begin(node)
        if node.op == "size":
            dim = node.attrs["dim"]
            results = o("Squeeze", o.size(dim), o.ints([0])) if isinstance(dim, Dim) else int(dim)
        else:
            signature = self.signatures[node.op]
            form = signature.op.onnx
            if form is None:
                results = ask_torch(o, node, signature, self.graph, self.model, inputs)
            elif isinstance(form, str):
                results = o(form, *inputs, outputs=len(node.outputs))
            else:
                results = form(o, signature.namespace(node, inputs))
        o.end(tuple(results) if isinstance(results, (tuple, list)) else (results,))
        return o.value_of[value]

    def _outputs(self, names: dict[str, str]) -> list[ir.Value]:
        """The graph's outputs under the spec's names: renamed values, or copies of what has a name."""
        o, found = self.o, []
        used: set[ir.Value] = set()
        for port in self.graph.body.outputs:
            value = self._value(port.value)
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
