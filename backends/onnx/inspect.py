"""`inspect_model`: what is in an ONNX file. Nothing of it runs, and external data is not opened."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from r2d2c.diagnostics import CompileError, Sink

from .names import unique

LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output: its dtype, and its dims as numbers, names or None where nothing is said."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        if self.dims is None:
            return self.dtype
        return f"{self.dtype}[{', '.join('?' if d is None else str(d) for d in self.dims)}]"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an ONNX file says of itself.

    defaults: of inputs that may be left out, the number they then are.
    made_by_r2d2c: whether its producer is r2d2c; the tasks are known only then.
    loops: of each loop (and each scan), how often each op is in a step, in loops inside it too.
    ops: how often each op is used, in subgraphs and functions too; task_ops: the same for each task.
    parameters: numbers in initializers, without the small constants that r2d2c marks as such.
    external: the names of files with the model's weights, as the model gives them; they are not opened.
    unsafe: those of them that lead out of the model's folder.
    state: of each state, the input that it goes in by and the output that it comes out by, in files of r2d2c; reset: the
    input that starts samples anew. step: the length of the sequences of which the file takes one element.
    """

    path: str
    made_by_r2d2c: bool
    producer: str
    spec: str | None
    doc: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tasks: tuple[str, ...]
    ops: dict[str, int]
    task_ops: dict[str, dict[str, int]]
    nodes: int
    parameters: int
    size: int
    opset: dict[str, int]
    external: tuple[str, ...]
    unsafe: tuple[str, ...]
    defaults: dict[str, float]
    loops: dict[str, dict[str, int]]
    state: dict[str, tuple[str, str]]
    reset: str | None
    step: str | None

    def json(self) -> dict[str, Any]:
        """Everything as plain values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    def text(self) -> str:
        """A page for people. What the file says is printed without control characters."""
        opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opset.items())
        lines = [f"{self.path}  {_bytes(self.size)}"]
        lines += _row("made by", self.producer or "not said")
        if self.spec:
            lines += _row("spec", f"{self.spec}  {self.doc}".rstrip())
        lines += _row("opset", opset or "not said")
        lines += _row("inputs", *(f"{t.name}: {t}{self._default(t.name)}" for t in self.inputs))
        lines += _row("outputs", *(f"{t.name}: {t}" for t in self.outputs))
        if self.state:
            lines += _row("state", *(f"{n}: {given} -> {out}" for n, (given, out) in self.state.items()))
        if self.reset:
            lines += _row("new where", self.reset)
        if self.step:
            lines += _row("one step", f"of {self.step}")
        if self.tasks:
            lines += _row("tasks", *(f"{t}: {_counts(self.task_ops.get(t, {}))}" for t in self.tasks))
        lines += _row("nodes", f"{self.nodes:,}  {_counts(self.ops)}".rstrip())
        if self.loops:
            lines += _row("loops", *(f"{n}: {_counts(ops)} in a step" for n, ops in self.loops.items()))
        lines += _row("parameters", f"{self.parameters:,}")
        if self.external:
            unsafe = set(self.unsafe)
            lines += _row(
                "external",
                *(
                    f"{n}  (leads out of the folder)" if n in unsafe else f"{n}  (not opened)"
                    for n in self.external
                ),
            )
        return "\n".join(_printable(line) for line in lines) + "\n"

    def _default(self, name: str) -> str:
        return f" = {self.defaults[name]:g}" if name in self.defaults else ""


def inspect_model(path: str | Path) -> Inspection:
    """Read an ONNX file of any maker. Raises `CompileError`: E610 if unreadable, E611 if it is not ONNX."""
    path = Path(path)
    model, size = _read(path)
    graph = model.graph
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    ours = model.producer_name == "r2d2c"
    ops: Counter[str] = Counter()
    task_ops: dict[str, Counter[str]] = {}
    for node in _nodes([graph.node, *(f.node for f in model.functions)]):
        name = _op(node)
        ops[name] += 1
        task = next((p.value for p in node.metadata_props if p.key == "r2d2c.task"), None)
        if task is not None:
            task_ops.setdefault(task, Counter())[name] += 1
    initial = {tensor.name for tensor in graph.initializer}
    defaults = _defaults(graph) if ours else {}
    external = tuple(dict.fromkeys(_external(graph.initializer)))
    return Inspection(
        str(path),
        ours,
        " ".join(filter(None, (model.producer_name, model.producer_version))),
        metadata.get("r2d2c.spec") if ours else None,
        model.doc_string,
        tuple(_tensor(v) for v in graph.input if v.name not in initial or v.name in defaults),
        tuple(_tensor(v) for v in graph.output),
        _tasks(metadata.get("r2d2c.tasks")) or tuple(task_ops),
        dict(ops.most_common()),
        {task: dict(counts.most_common()) for task, counts in task_ops.items()},
        sum(ops.values()),
        sum(
            prod(max(d, 0) for d in t.dims)
            for t in graph.initializer
            if not (ours and t.name.startswith("const/")) and t.name not in defaults
        ),
        size,
        {entry.domain: entry.version for entry in model.opset_import},
        external,
        tuple(name for name in external if _leads_out(name)),
        defaults,
        _loops(model),
        _state(metadata.get("r2d2c.state")) if ours else {},
        metadata.get("r2d2c.reset") if ours else None,
        metadata.get("r2d2c.step") if ours else None,
    )


def _read(path: Path) -> tuple[onnx.ModelProto, int]:
    sink = Sink()
    model = onnx.ModelProto()
    size = 0
    try:
        size = path.stat().st_size
        if size > LIMIT:
            sink.report(
                "E611", None, f"{path} is not an ONNX file: it is {_bytes(size)}, and one is less than 2 GiB"
            )
            sink.stop_on_errors()
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        sink.report("E610", None, f"{path} cannot be read: {error.strerror or error}")
    except (DecodeError, RecursionError) as error:
        what = "it is empty" if size == 0 else "it is cut off, damaged or of another format"
        sink.report("E611", None, f"{path} is not an ONNX file: {what}")
        raise CompileError(sink.diagnostics) from error
    if not sink.failed and not (model.ir_version > 0 and model.HasField("graph") and model.opset_import):
        # Text, or nothing at all, can be read as a message without any of the fields.
        what = "it is empty" if size == 0 else "it has no graph, no version or no opset"
        sink.report("E611", None, f"{path} is not an ONNX file: {what}")
    sink.stop_on_errors()
    return model, size


def _op(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def _defaults(graph: onnx.GraphProto) -> dict[str, float]:
    """Numbers that are inputs as well."""
    inputs = {value.name for value in graph.input}
    found = {}
    for tensor in graph.initializer:
        if tensor.name in inputs and not tensor.dims and tensor.data_location != onnx.TensorProto.EXTERNAL:
            with suppress(ValueError, TypeError):  # damaged
                found[tensor.name] = float(onnx.numpy_helper.to_array(tensor).item())
    return found


def _loops(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    names: set[str] = set()
    for node in _nodes([model.graph.node, *(f.node for f in model.functions)]):
        if node.op_type in ("Loop", "Scan") and node.domain in ("", "ai.onnx"):
            body = next((a.g.node for a in node.attribute if a.name == "body"), ())
            counts = Counter(_op(each) for each in _nodes([body]))
            said = next((p.value for p in node.metadata_props if p.key == "r2d2c.value"), node.name)
            found[unique(said, names)] = dict(counts.most_common())
    return found


def _nodes(groups: Iterable[Iterable[onnx.NodeProto]]) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs too. Not recursive: a stranger's file may nest deeply."""
    todo = list(groups)
    while todo:
        for node in todo.pop():
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    todo.append(attribute.g.node)
                todo.extend(graph.node for graph in attribute.graphs)


def _external(tensors: Iterable[onnx.TensorProto]) -> Iterator[str]:
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield next((e.value for e in tensor.external_data if e.key == "location"), "")


def _leads_out(name: str) -> bool:
    return any(
        p.is_absolute() or ".." in p.parts or p.drive for p in (PurePosixPath(name), PureWindowsPath(name))
    )


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Tensor(value.name, (kind or "unknown").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    try:
        dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    except ValueError:
        dtype = f"type {tensor.elem_type}"
    dims = None
    if tensor.HasField("shape"):
        dims = tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim
        )
    return Tensor(value.name, _SHORT.get(dtype, dtype), dims)


_SHORT = {"float": "f32", "double": "f64", "bfloat16": "bf16", "float16": "f16"} | {
    f"int{n}": f"i{n}" for n in (8, 16, 32, 64)
}


def _tasks(text: str | None) -> tuple[str, ...]:
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(str(task) for task in found) if isinstance(found, list) else ()


def _state(text: str | None) -> dict[str, tuple[str, str]]:
    try:
        return {str(name): (str(given), str(out)) for name, (given, out) in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):  # damaged
        return {}


def _row(label: str, *values: str) -> list[str]:
    return [f"  {label if n == 0 else '':<12}{value}" for n, value in enumerate(values or ("none",))]


def _counts(ops: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in ops.items())


def _bytes(size: int) -> str:
    return (
        f"{size:,} bytes"
        if size < 10_000
        else f"{size / 1e3:,.1f} kB"
        if size < 1e7
        else f"{size / 1e6:,.1f} MB"
    )


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
