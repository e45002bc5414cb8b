"""The op reference, written from the records: ``python -m r2d2c.ops.reference > grammar/ops.md``."""

from __future__ import annotations

from collections.abc import Iterator

from r2d2c.ops.describe import default_text, signature
from r2d2c.ops.record import Arg, Example, Op
from r2d2c.ops.registry import FAMILIES, Ops

_HEAD = """\
# Ops

Written from the records by `python -m r2d2c.ops.reference`; `r2d2c ops NAME` prints one entry. An op takes
its arguments by position or by name, and `x |> op(…)` gives `x` as the first. An argument of the kind
*parameter* is storage that the op makes for itself unless a value is given; such ops also take `name=`,
`init=` and `frozen=`. How to write all this is in [reference.md](reference.md).
"""
_KINDS = {
    "value": "tensor",
    "values": "tensors",
    "param": "parameter",
    "size": "size",
    "sizes": "sizes",
    "int": "integer",
    "ints": "integers",
    "float": "number",
    "bool": "true or false",
    "axis": "axis",
    "axes": "axes",
    "text": "text",
    "formula": "predicate on places",
    "named": "sizes by name",
}
_TRAITS = {
    "distance": "Gives a scalar to be minimised: a task's `distance`, or a loss.",
    "random": "Draws numbers: from the seed, the node and the step.",
    "no_gradient": "No gradient flows through it.",
    "train_only": "The identity when the model is used.",
}


def reference() -> str:
    """The whole of ``grammar/ops.md``."""
    lines = [_HEAD, "| family | ops |", "| --- | --- |"]
    for family, ops in FAMILIES.items():
        names = ", ".join(f"[{op.name}](#{op.name})" for op in ops)
        lines.append(f"| [{family}](#{family}-ops) | {names} |")
    for family, ops in FAMILIES.items():
        lines += ["", f"## {family} ops"]
        for op in ops:
            lines += ["", *_op(op)]
    return "\n".join(lines) + "\n"


def _op(op: Op) -> Iterator[str]:
    yield f"### {op.name}"
    yield ""
    yield f"`{signature(op)}`"
    yield ""
    yield op.doc
    if op.args:
        yield ""
        yield "| argument | what | default | meaning |"
        yield "| --- | --- | --- | --- |"
        for arg in op.args:
            given = "" if arg.required or arg.kind == "param" else f"`{default_text(arg)}`"
            yield f"| `{arg.name}` | {_kind(arg)} | {given} | {_cell(arg.doc)} |"
    visible = [name for name in op.outputs if not name.startswith("new_")]
    if len(visible) > 1:
        yield ""
        yield f"Gives {len(visible)} values: {', '.join(f'`{name}`' for name in visible)}."
    for trait in sorted(op.traits):
        yield ""
        yield _TRAITS[trait]
    if op.onnx is None:
        yield ""
        yield "It has no ONNX form of its own: the exporter asks torch.onnx for this op alone."
    if op.examples:
        yield ""
        yield "| example | with | gives |"
        yield "| --- | --- | --- |"
        for example in op.examples:
            inputs = ", ".join(f"`{name}: {type_}`" for name, type_ in example.inputs.items())
            gives = ", ".join(f"`{type_}`" for type_ in result_types(op, example))
            yield f"| `{_cell(example.call)}` | {inputs} | {gives} |"


def _kind(arg: Arg) -> str:
    if arg.kind == "choice":
        return "one of " + ", ".join(f"`{choice}`" for choice in arg.choices)
    return _KINDS[arg.kind]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def result_types(op: Op, example: Example) -> list[str]:
    """The types of what an example gives, by the shape rules."""
    from r2d2c.diagnostics import Sink
    from r2d2c.graph import Value
    from r2d2c.infer import infer
    from r2d2c.resolve.model import resolve
    from r2d2c.source import Source
    from r2d2c.syntax.parse import parse

    types = {name: text.partition("<")[0].strip() for name, text in example.inputs.items()}
    lines = ["r2d2c: 1", *(["inputs:"] if types else []), *(f"  {n}: {t}" for n, t in types.items())]
    lines += ["tasks:", "  example:", "    behavior: |", f"      result = {example.call}"]
    lines += ["outputs:", "  o: zeros(1)"]
    sink = Sink()
    spec = parse(Source(op.name, "\n".join(lines) + "\n"), sink)
    sink.stop_on_errors()
    assert spec is not None
    ops = Ops()
    graph = infer(resolve(spec, ops, [], sink), ops, sink)
    sink.stop_on_errors()
    node = next(node for node in reversed(graph.regions["example"].nodes) if node.op == op.name)
    visible = [port for port, name in enumerate(node.outputs) if not name.startswith("new_")]
    return [str(graph.types[Value(node.id, port)]) for port in visible]


if __name__ == "__main__":
    print(reference(), end="")
