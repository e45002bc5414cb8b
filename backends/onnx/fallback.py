"""An op without an ONNX form (a plug-in's): torch.onnx.export writes it, its nodes are spliced into ours."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
import torch.fx as fx

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.graph import Graph, Node, Value
from r2d2c.infer import Signature, Signatures
from r2d2c.lower.builder import TORCH_DTYPES, FxBuilder
from r2d2c.sampling import run_time_sizes
from r2d2c.types import Dim, evaluate

from .context import OPSET, OnnxContext

if TYPE_CHECKING:
    from r2d2c.model import Model


def ask_torch(
    o: OnnxContext, node: Node, signature: Signature, graph: Graph, model: Model, inputs: list[Any]
) -> tuple[Any, ...]:
    """The op's outputs, of nodes that torch.onnx.export wrote.

    Raises `CompileError`: E605 if onnxscript, which that export needs, is not installed; E606 if it fails.
    """
    sink = Sink()
    if find_spec("onnxscript") is None:
        sink.report(
            "E605",
            node.origin,
            f"the op `{node.op}` has no ONNX form, and torch.onnx.export needs onnxscript to write it",
            fix="install onnxscript, or give the op's record an `onnx` function",
        )
        sink.stop_on_errors()
    given: list[tuple[Value, Any]] = [
        (v, x) for v, x in zip(node.inputs, inputs, strict=True) if isinstance(x, ir.Value) and v is not None
    ]
    given = list(dict(given).items())
    try:
        program = _export(
            node,
            signature,
            graph,
            model,
            given,
            {v: x for v, x in zip(node.inputs, inputs, strict=True) if v},
        )
    except Exception as error:  # the exporter raises whatever the op's own code makes it raise
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        reason = (str(root).strip() or type(root).__name__).splitlines()[0]
        sink.report(
            "E606",
            node.origin,
            f"the op `{node.op}` has no ONNX form, and torch.onnx.export cannot write it: {reason}",
            fix="give the op's record an `onnx` function",
        )
        raise CompileError(sink.diagnostics) from error
    return _splice(o, program, [x for _, x in given])


def _export(
    node: Node,
    signature: Signature,
    graph: Graph,
    model: Model,
    given: list[tuple[Value, Any]],
    known: dict[Value, Any],
) -> ir.Model:
    """The op alone as an ONNX model, with an input for each tensor it takes."""
    b = FxBuilder(graph, Signatures(model.spec.ops), False, model._float)
    sizes = run_time_sizes(graph)
    examples, dynamic = [], []
    for value, found in known.items():
        if not isinstance(found, ir.Value):
            b.env[value] = found
    for position, (value, _) in enumerate(given):
        b.placeholder(f"input_{position}", value)
        type_ = graph.types[value]
        dtype = model._float if type_.dtype == "f32" else TORCH_DTYPES[type_.dtype]
        examples.append(torch.ones([evaluate(dim, sizes) for dim in type_.dims], dtype=dtype))
        dynamic.append(
            {axis: torch.export.Dim.AUTO for axis, dim in enumerate(type_.dims) if isinstance(dim, Dim)}
        )
    b.add(node)
    results = [b.env[Value(node.id, port)] for port in range(len(node.outputs))]
    b.fx.output(tuple(results))
    module = fx.GraphModule(model, b.fx)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        # The exporter talks while it works; what a user must know is in the diagnostic.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(examples),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=tuple(dynamic),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model


def _splice(o: OnnxContext, program: ir.Model, inputs: list[ir.Value]) -> tuple[Any, ...]:
    """Move the nodes of another model to the end of ours."""
    graph = program.graph
    results = list(graph.outputs)
    graph.outputs.clear()
    for mine, theirs in zip(inputs, graph.inputs, strict=True):
        ir.convenience.replace_all_uses_with(theirs, mine)
        results = [mine if r is theirs else r for r in results]
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        assert tensor is not None and value.name is not None
        found = o.const(tensor.numpy(), o.dtype_of(value)) if tensor.size <= 16 else None
        if found is None:
            found = o.initializer(
                o.unique(f"const/{value.name}"), ir.Tensor(tensor.numpy(), dtype=tensor.dtype)
            )
        ir.convenience.replace_all_uses_with(value, found)
        results = [found if r is value else r for r in results]
    for node in list(graph):
        graph.remove(node)
        node.name = None
        node.metadata_props.clear()
        node.metadata_props.update(o._props)
        node.doc_string = None
        for output in node.outputs:
            output.name = None
            output.metadata_props.clear()
        o.nodes.append(node)
    for key, function in program.functions.items():
        o.functions[key] = function
    for domain, version in program.opset_imports.items():
        o.opsets.setdefault(domain, version)
    return tuple(results)
