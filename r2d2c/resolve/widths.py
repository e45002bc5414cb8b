"""Nested sub-widths: a carried value of which the first part of the coordinates alone must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r2d2c.graph import Argument, Value
from r2d2c.source import Span
from r2d2c.types import Dim

if TYPE_CHECKING:
    from r2d2c.resolve.program import Program
    from r2d2c.resolve.region import RegionBuilder
    from r2d2c.syntax.ast import Syntax
    from r2d2c.syntax.spec import LoopSyntax
    from r2d2c.types import TensorType


@dataclass(frozen=True, slots=True)
class Narrow:
    """How a carry is cut to its first coordinates."""

    name: str

    def apply(self, region: RegionBuilder, value: Value, span: Span | None) -> Value:
        """The value with zeros behind its width."""
        id_ = region.fresh(f"{region.place}.{self.name}.narrow")
        return region.add(id_, "narrow", (value, region.port("width")), {"axis": -1}, (self.name,), span)


def narrow_of(
    program: Program, loop: LoopSyntax, carries: Mapping[str, TensorType], around: RegionBuilder
) -> dict[str, Narrow]:
    """The carries of a loop that may be narrow. Declares the argument ``width`` of the model."""
    found: dict[str, Narrow] = {}
    if loop.widths and "width" in around.names:
        message = f"with `widths`, `width` is the model's own argument, and `{loop.signature.name}` has a parameter of that name"
        program.sink.report("E268", loop.span, message, fix="use another name for the parameter")
        return found
    for entry in loop.widths:
        if entry.name not in carries:
            message = f"`widths` names carries, and `{entry.name}` is none"
            fix = f"one of: {', '.join(carries)}" if carries else None
            program.sink.report("E268", entry.span, message, fix=fix)
            continue
        type_ = carries[entry.name]
        size = type_.dims[-1] if type_.dims else 0
        if isinstance(size, Dim):
            message = (
                f"`{entry.name}` is {type_}: how many coordinates a part of `{size}` is shows only later"
            )
            program.sink.report("E268", entry.span, message, fix="give its last axis a number of coordinates")
            continue
        if not size or not type_.floating:
            message = f"`{entry.name}` is {type_}: there are no coordinates to leave out"
            program.sink.report("E268", entry.span, message)
            continue
        listed = [s for s in entry.syntax if s is not None]
        widths = [_width(program, syntax, entry.name, int(size)) for syntax in listed]
        if None in widths or not widths:
            continue
        ordered = tuple(sorted({w for w in widths if w is not None} | {1.0}))
        before = program.arguments.get("width")
        if before is not None and before.allowed != ordered:
            message = f"`{entry.name}` has the widths {_shown(ordered)}, and a carry before it {_shown(before.allowed)}"
            fix = "give both the same: `width` is one number for the whole model"
            program.sink.report("E268", entry.span, message, fix=fix)
            continue
        program.arguments["width"] = Argument("width", "number", 1.0, ordered[0], 1.0, ordered)
        found[entry.name] = Narrow(entry.name)
    if found:
        around.names["width"] = around.port("width", loop.span)
    return found


def _shown(widths: tuple[float, ...]) -> str:
    return ", ".join(f"{width:g}" for width in widths)


def _width(program: Program, syntax: Syntax, name: str, size: int) -> float | None:
    """A width that a value with ``size`` coordinates can have. None after a diagnostic."""
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.resolve.region import RegionBuilder

    scratch = RegionBuilder(program, "weight", "loss", "weight")
    result = Evaluator(scratch, syntax).expression(syntax.root)
    span = syntax.span(syntax.root)
    if not isinstance(result, (int, float)) or isinstance(result, bool) or not 0 < result <= 1:
        message = f"a width is a part of all coordinates, above 0 and up to 1, not `{span.text}`"
        program.sink.report("E268", span, message)
        return None
    kept = result * size
    if round(kept) < 1 or abs(kept - round(kept)) > 1e-6 * kept:
        message = f"`{name}` has {size} coordinates, and {span.text} of them is {kept:.4g}"
        program.sink.report("E271", span, message, fix="take a width that divides them, or another size")
        return None
    return float(result)
