"""Running ONNX in ONNX Runtime, and the onnx backend's inference."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.graph import RESET, walk
from r2d2c.lower.graphs import Lowered
from r2d2c.model import Model
from r2d2c.source import Span

from .build import Built, build
from .names import statement_name

LIMIT = 2**31 - 1  # what one protobuf message, and so one ONNX file, can hold
_MISSING = re.compile(r"Could not find an implementation for (\w+)\(\d+\) node with name '([^']*)'")
# ONNX Runtime's refusals of a model or of its inputs.
FAILURES = (
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
)


def serialize(built: Built, name: str) -> bytes:
    """The bytes of the file. Raises `CompileError` E607 if one file cannot hold them."""
    if built.storage_bytes < LIMIT:
        data = ir.to_proto(built.model).SerializeToString()
        if len(data) <= LIMIT:
            return data  # type: ignore[no-any-return]
    sink = Sink()
    sink.report(
        "E607",
        None,
        f"`{name}` has {built.storage_bytes / 2**30:.1f} GiB of parameters, an ONNX file holds less than 2",
        fix="export it in a smaller dtype, or split the model",
    )
    raise CompileError(sink.diagnostics)


def open_session(data: bytes, model: Model) -> onnxruntime.InferenceSession:
    """A session on the CPU. Raises `CompileError` E604 if ONNX Runtime does not take the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except FAILURES as error:
        raise refusal(error, model) from error


def origin_of(model: Model, place: str) -> Span | None:
    """Where the node of a place stands in the spec, in the steps of its loops too."""
    place = place.partition("~")[0]
    nodes = (node for _, node in walk(model._inference_graph) if node.origin is not None)
    return next((node.origin for node in nodes if place in (node.id, statement_name(node))), None)


def refusal(error: Exception, model: Model) -> CompileError:
    """E604: what ONNX Runtime said, at the place in the spec of the node that it names."""
    sink = Sink()
    text = str(error).strip().splitlines()[0]
    found = _MISSING.search(text)
    span, notes = None, [text]
    if found:
        place = found[2].partition("/")[0]
        span = origin_of(model, place)
        dtype = str(model._float).removeprefix("torch.")
        shown = f" for {dtype}" if model._float != torch.float32 else " for the dtypes here"
        message = f"ONNX Runtime has no `{found[1]}`{shown}, which `{place}` needs"
    else:
        message = f"ONNX Runtime cannot run `{model.spec.name}`"
    fix = "export the model in float32: `model.float()`" if model._float != torch.float32 else None
    sink.report("E604", span, message, notes=notes, fix=fix)
    return CompileError(sink.diagnostics)


def run(
    session: onnxruntime.InferenceSession, built: Built, batch: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The outputs by the spec's names, on the CPU. ``batch``: tensors, and numbers for arguments."""
    feed = {
        built.inputs.get(name, name): np.asarray(value, built.arguments[name])
        if name in built.arguments
        else value.detach().cpu().contiguous().numpy()
        for name, value in batch.items()
    }
    results = session.run([built.outputs[name] for name in built.outputs], feed)
    return {name: torch.from_numpy(r.copy()) for name, r in zip(built.outputs, results, strict=True)}


def run_steps(
    session: onnxruntime.InferenceSession, built: Built, batch: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The outputs of a whole sequence, of the file of one step: as `run` of the file of the whole sequence gives them."""
    step = built.step
    assert step is not None and step.inputs
    given, every = dict(batch), dict[str, list[torch.Tensor]]()
    first = next(iter(step.inputs))
    results: dict[str, torch.Tensor] = {}
    for number in range(batch[first].shape[step.inputs[first]]):
        given |= {name: batch[name].select(axis, number) for name, axis in step.inputs.items()}
        results = run(session, built, given)
        given |= {port: results[port] for _, port in built.states}
        given[RESET] = torch.zeros_like(batch[RESET])
        for name in step.outputs:
            every.setdefault(name, []).append(results[name])
    return results | {name: torch.stack(parts, step.outputs[name]) for name, parts in every.items()}


def inference(model: Model, lowered: Lowered) -> Callable[..., dict[str, torch.Tensor]]:
    """A function of the inputs that runs ONNX Runtime; it sees new parameters, by building anew."""
    made: list[Any] = [None, None, None]

    def function(**inputs: Any) -> dict[str, torch.Tensor]:
        state = tuple((id(t), t._version) for t in (*model.parameters(), *model.buffers()))
        if made[0] != state:
            built = build(model)
            made[:] = [state, built, open_session(serialize(built, model.spec.name), model)]
        if inputs.keys() != {*lowered.inputs, *lowered.arguments}:
            raise TypeError("wrong inputs")
        device = next((inputs[name].device for name in lowered.inputs), torch.device("cpu"))
        try:
            return {name: out.to(device) for name, out in run(made[2], made[1], inputs).items()}
        except FAILURES as error:
            raise RuntimeError(str(error)) from error

    return function
