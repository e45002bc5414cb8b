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
from r2d2c.graph import RESET, State, Value
from r2d2c.infer import Signatures
from r2d2c.loops import element
from r2d2c.model import Model

from .context import OnnxContext, single_axis
from .names import value_name
from .steps import OneStep, one_step
from .values import Values

# Version 10 is the first with metadata on nodes.
IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Built:
    """An ONNX model of an inference graph.

    inputs, outputs: ONNX names by the spec's. They differ for the state, and an output that is named like an input.
    states: what is handed from run to run. step: what is left out, if this is one step and not the whole sequence.
    arguments: the dtypes of inputs that may be left out, scalars.
    parameters: numbers in the model's storage; constants do not count.
    """

    model: ir.Model
    inputs: dict[str, str]
    arguments: dict[str, np.dtype[Any]]
    outputs: dict[str, str]
    parameters: int
    storage_bytes: int
    states: tuple[State, ...] = ()
    step: OneStep | None = None

    def shown(self, name: str) -> str:
        """What an output is called where users read it."""
        return self.outputs[name] if any(name == state.port for state in self.states) else name


def build(model: Model, step: bool = False) -> Built:
    """The ONNX model of ``model``'s inference, at its present parameters and dtype; with ``step``, of one step.

    Raises `CompileError` if an op has no ONNX form and torch.onnx.export cannot give one; E614 if there is no one step.
    """
    return _Writer(model, one_step(model) if step else None).run()


class _Writer:
    def __init__(self, model: Model, step: OneStep | None) -> None:
        self.model, self.step = model, step
        self.graph = model._inference_graph
        self.signatures = Signatures(model.spec.ops)
        self.o = OnnxContext(self.graph, self.signatures, model._float, single=step.over if step else None)
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
        states = {state.port: f"state.{state.name}" for state in self.graph.states}
        inputs = {name: states.get(name, name) for name in lowered.inputs}
        given = (*inputs.values(), *lowered.arguments)
        o.taken |= {*given, *self.graph.storage}
        # ONNX keeps one name for one value: an output named like an input needs another.
        outputs = {
            name: o.unique(
                f"{states[name]}.next" if name in states else f"{name}_out" if name in given else name
            )
            for name in lowered.outputs
        }
        names = iter((*lowered.inputs, *lowered.arguments))
        for fx_node in lowered.fx.nodes:
            if fx_node.op == "placeholder":
                name = next(names)
                if name in lowered.arguments:
                    o.argument(self.graph.arguments[name])
                    continue
                o.input(inputs[name], self.ports[name], self.nodes[self.ports[name].node].origin)
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
        shown = {name: given for name, given in outputs.items() if name not in states}
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
                "r2d2c.outputs": json.dumps(shown),
                **self._session(inputs, outputs),
            },
        )
        tensors = [self.tensors[name] for name in self.stored]
        return Built(
            made,
            inputs,
            {name: o.argument_dtype(self.graph.arguments[name]).numpy() for name in lowered.arguments},
            outputs,
            sum(t.numel() for t in tensors),
            sum(t.numel() * t.element_size() for t in tensors),
            self.graph.states,
            self.step,
        )

    def _session(self, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, str]:
        """What the file says of its state: the input and the output of each, which input starts a sample anew."""
        found = {}
        if self.graph.states:
            pairs = {state.name: [inputs[state.port], outputs[state.port]] for state in self.graph.states}
            found = {"r2d2c.state": json.dumps(pairs), "r2d2c.reset": inputs[RESET]}
        if self.step is not None:
            found["r2d2c.step"] = str(self.step.over)
        return found

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
            value, type_ = self.values[port.value], self.graph.types.get(port.value)
            axis = single_axis(type_, o.single) if type_ is not None else None
            if axis is not None:
                value = o("Squeeze", value, o.ints([axis]))
            name = names[port.name]
            node = self.nodes[port.value.node]
            if isinstance(value, ir.Value) and value.producer() is not None and value not in used:
                value.name = name
            else:
                value = o.identity(
                    value, name, value_name(node, port.value.port), node.origin or self.graph.body.origin
                )
            if type_ is not None and not type_.weak:
                value.shape = o.shape_of(type_ if axis is None else element(type_, axis))
            elif value.shape is None:
                value.shape = ir.Shape([])
            used.add(value)
            found.append(value)
        return found
