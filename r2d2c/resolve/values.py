"""What results of an expression come to as values of the graph; the base of the evaluator."""

from __future__ import annotations

from typing import Any

from r2d2c.diagnostics import Fix, suggest
from r2d2c.graph import Value
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import (
    FAILED,
    BlockRef,
    Failed,
    Forbidden,
    HyperRef,
    LoopRef,
    LoopResult,
    MemoryResult,
    OpGraphRef,
    OpRef,
    Path,
    Placed,
    PlacesRef,
    Unknown,
    UnknownCall,
    kind_of,
)
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.types import Dim


class Values:
    """One syntax in one region. ``place`` is where the nodes of the present statement are named."""

    def __init__(self, region: RegionBuilder, syntax: Syntax) -> None:
        self.region, self.syntax = region, syntax
        self.program = region.program
        self.sink = region.program.sink
        self.results: list[Any] = [None] * len(syntax.nodes)
        self.place = region.place
        self.target: str | None = None
        self.root = -1

    def span(self, index: int) -> Span:
        node = self.syntax.nodes[index]
        return Span(self.syntax.source, node.start, node.end)

    def keyword_span(self, name: str, index: int) -> Span:
        """Where the name of a keyword argument stands, whose value has this index."""
        source = self.syntax.source
        start = source.text.rfind(name, 0, self.syntax.nodes[index].start)
        return Span(source, start, start + len(name)) if start >= 0 else self.span(index)

    def placed(self, index: int) -> Placed:
        return Placed(self.results[index], self.span(index))

    # -- making nodes
    def emit(
        self, index: int, op: str, inputs: tuple[Value | None, ...], attrs: dict[str, Any] | None = None
    ) -> Value:
        """A node of an op that makes no storage, named after the statement it stands in."""
        region = self.region
        outputs = (self.target,) if index == self.root and self.target else (op,)
        id_ = region.fresh(f"{self.place}.{op}")
        return region.add(id_, op, inputs, attrs or {}, outputs, self.span(index))

    def as_value(self, placed: Placed) -> Any:
        """The graph value of a result: numbers become constants, paths are looked up. `FAILED` if it has none."""
        result = placed.value
        if isinstance(result, Value):
            return result
        if isinstance(result, (bool, int, float)):
            return self.region.constant(
                int(result) if type(result) not in (bool, float) else result, placed.span
            )
        if isinstance(result, Failed):
            return FAILED
        if isinstance(result, Path):
            return self.as_path(result, placed.span)
        if isinstance(result, LoopResult):
            return self._loop_value(result, placed.span)
        if isinstance(result, (Unknown, UnknownCall)):
            self.report_unknown(result.name, placed.span)
            return FAILED
        if isinstance(result, Forbidden):
            self.sink.report(result.code, placed.span, result.message, fix=result.fix)
            return FAILED
        if isinstance(result, PlacesRef):
            from r2d2c.resolve.places import coordinates_value

            return coordinates_value(self.region, result.name)
        if isinstance(result, Dim):
            return self.region.size(result, placed.span)
        what = kind_of(result)
        callable_ = isinstance(result, (OpRef, BlockRef, LoopRef, HyperRef, OpGraphRef))
        fix = f"call it: `{result.name}(…)`" if callable_ else None
        if isinstance(result, MemoryResult):
            fix = f"name a part of it: `{result.name}.{next(iter(result.fields))}`"
        self.sink.report("E206", placed.span, f"{what} is not a value", "a value is expected here", fix=fix)
        return FAILED

    def _loop_value(self, result: LoopResult, span: Span) -> Any:
        value = result.value
        if value is not None:
            return value
        shown = ", ".join(f"`.{key}`" for key in list(result.values)[:5])
        message = f"the loop `{result.name}` gives several values, and one is expected here"
        self.sink.report("E206", span, message, fix=f"name one of them: {shown}")
        return FAILED

    def as_path(self, path: Path, span: Span) -> Any:
        found = self.region.outside(path.name)
        if isinstance(found, Path):
            values = [n for n in self.visible() if n.startswith(f"{path.name}.")]
            fix = f"name one of its values: {', '.join(f'`{n}`' for n in values[:5])}" if values else None
            self.sink.report(
                "E206", span, f"the task `{path.name}` is not a value", "a value is expected here", fix=fix
            )
            return FAILED
        if found is not None:
            return self.as_value(Placed(found, span))
        storage = self.find_storage(path.name)
        if storage is not None and storage in self.program.generated:
            message = f"`{storage}` is generated from a context: there is no one value of it"
            self.sink.report("E278", span, message, "not a parameter")
            return FAILED
        if storage is not None:
            return self.region.read(storage)
        self.report_unknown(path.name, span)
        return FAILED

    def find_storage(self, name: str) -> str | None:
        """Storage by its full name, or by its name inside this task."""
        table = self.program.storage
        for candidate in (name, f"{self.region.place}.{name}", f"{self.region.place.split('.')[0]}.{name}"):
            if candidate in table:
                return candidate
        return None

    def report_unknown(self, name: str, span: Span, called: bool = False) -> None:
        program = self.program
        if called:
            internal = [name for name, op in program.ops.items() if "internal" in op.traits]
            known = [name for name in (*program.ops, *program.blocks) if name not in internal]
            self.sink.report("E207", span, f"there is no op or block `{name}`", fix=suggest(name, known))
            return
        self.sink.report("E201", span, f"`{name}` is not defined here", fix=self.nearest(name))

    def nearest(self, name: str) -> Fix | None:
        """The defined name that was probably meant."""
        own = (*self.region.names, *self.program.dims, *self.program.placings)
        return suggest(name, [*own, *self.visible()])

    def visible(self) -> list[str]:
        names = self.region.outside("*")
        return list(names) if names is not None else []
