"""Dims and the types of ports."""

from __future__ import annotations

from typing import Any

from r2d2c.diagnostics import suggest
from r2d2c.resolve.evaluate import Evaluator
from r2d2c.resolve.program import Program
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import Failed, Unknown, kind_of
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax, TypeSyntax
from r2d2c.syntax.spec import Named as Entry
from r2d2c.syntax.spec import Spec
from r2d2c.types import DTYPES, Dim, DimLike, Named, TensorType, symbol

DYNAMIC = ("B", "T")


def declare_dims(entries: list[Entry], program: Program) -> None:
    """Fill the program's table of dims: numbers, expressions of them, ranges, and those to infer."""
    for name in DYNAMIC:
        program.dims[name] = symbol(name)
    program.used_dims.update(DYNAMIC)
    for entry in entries:
        name, value = entry.name, entry.syntax
        if name in DYNAMIC:
            message = f"`{name}` is always dynamic and cannot be given a size"
            program.sink.report("E213", entry.span, message, fix="use another name for a fixed size")
            continue
        program.dim_spans[name] = entry.span
        if isinstance(value, tuple):
            low, high, usual = value
            if not 1 <= low <= high:
                program.sink.report("E213", entry.span, f"the range {low}..{high} is empty or starts below 1")
            program.ranges[name] = (low, high)
            program.usual[name] = usual
            program.dims[name] = symbol(name)
        elif value == "infer":
            program.dims[name] = symbol(f"?{name}")
        elif isinstance(value, Syntax):
            size = _size(value, value.root, program)
            program.dims[name] = Named(size, name) if isinstance(size, int) else size
        elif isinstance(value, int):
            program.dims[name] = Named(value, name)
            if value < 1:
                program.sink.report("E213", entry.span, f"the dim `{name}` must be at least 1, not {value}")


def _size(syntax: Syntax, root: int, program: Program) -> DimLike:
    region = RegionBuilder(program, "dims", "model", "dims")
    result: Any = Evaluator(region, syntax).expression(root)
    span = syntax.span(root)
    if isinstance(result, (int, Dim)) and not isinstance(result, bool):
        if isinstance(result, int) and result < 1:
            program.sink.report("E213", span, f"a dim must be at least 1, not {int(result)}")
            return 1
        return result
    if isinstance(result, Unknown):
        fix = suggest(result.name, program.dims)
        program.sink.report("E214", span, f"there is no dim `{result.name}`", fix=fix)
    elif not isinstance(result, Failed):
        program.sink.report("E214", span, f"a dim is an integer or a name from `dims`, not {kind_of(result)}")
    return 1


def port_types(spec: Spec, program: Program) -> dict[str, TensorType]:
    """The types of inputs and targets, by name."""
    types: dict[str, TensorType] = {}
    for port in (*spec.inputs, *spec.targets):
        types[port.name] = tensor_type(port.syntax, port.span, program)
    return types


def tensor_type(syntax: TypeSyntax, place: Span, program: Program) -> TensorType:
    """A type that stands behind the name at ``place``."""
    if syntax.dtype not in DTYPES:
        fix = suggest(syntax.dtype, DTYPES)
        source = place.source
        start = source.text.find(syntax.dtype, place.end)
        span = Span(source, start, start + len(syntax.dtype)) if start >= 0 else place
        program.sink.report(
            "E215", span, f"`{syntax.dtype}` is not a dtype", f"one of: {', '.join(DTYPES)}", fix=fix
        )
    dims: list[DimLike] = []
    evaluator = Evaluator(RegionBuilder(program, "dims", "model", "dims"), syntax.syntax)
    if syntax.syntax.nodes:
        evaluator.run(0, len(syntax.syntax.nodes) - 1)
    for root in syntax.dims:
        dims.append(_size(syntax.syntax, root, program))
    return TensorType(syntax.dtype if syntax.dtype in DTYPES else "f32", tuple(dims))
