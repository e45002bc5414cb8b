"""Reads what a spec says of sets of places: ``retina: grid(8, 8)`` is a record, see `r2d2c/places.py`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.places import SCALES, Form, Placing, Point
from r2d2c.resolve.region import RESERVED, RegionBuilder
from r2d2c.resolve.results import Failed
from r2d2c.types import Dim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from r2d2c.resolve.program import Program
    from r2d2c.source import Span
    from r2d2c.syntax.ast import Expr, Syntax
    from r2d2c.syntax.spec import Named

# The farthest that a point may lie: squares of distances have to fit in f32.
FARTHEST = 1e9
# The most points of a set.
MOST = 100_000
# The forms of a set: what a spec may call.
FORMS = (*SCALES, "given", "learned")
_USAGE = "`grid(8, 8)`, `ball(32, radius=4)`, `random(64, size=2)`, `given((0, 0, 0), (1, 0, 0))` or `learned(…)` of one"


def declare_places(entries: Sequence[Named], program: Program) -> None:
    """Read all sets of places of a spec. Mistakes go to the sink, and the set is None."""
    for entry in entries:
        if entry.name in program.dims:
            message = f"the name `{entry.name}` is that of a dim too"
            program.sink.report("E211", entry.span, message, fix="use another name")
        if entry.name in RESERVED:
            message = f"`{entry.name}` cannot name a set of places: it is an attribute of every torch module"
            program.sink.report("E216", entry.span, message, fix="use another name")
        program.placings[entry.name] = _Reader(program, entry).read()


class _WrongError(Exception):
    """A mistake that has been reported."""


class _Reader:
    """Reads one set of places. Mistakes go to the sink."""

    def __init__(self, program: Program, entry: Named) -> None:
        self.program, self.name, self.origin = program, entry.name, entry.span
        self.syntax: Syntax = entry.syntax

    def read(self) -> Placing | None:
        try:
            return self._set(self.syntax.root)
        except _WrongError:
            return None

    def _set(self, index: int, inside: bool = False) -> Placing:
        nodes = self.syntax.nodes
        node = nodes[index]
        head = nodes[node.args[0]] if node.kind == "call" and node.args else None
        form = str(head.value) if head is not None and head.kind == "name" else ""
        if form not in FORMS or head is None:
            named = str((head or node).value) if (head or node).kind == "name" else ""
            span = self.syntax.span(index if head is None else node.args[0])
            fix = suggest(named, FORMS) or f"write {_USAGE}"
            raise self._wrong(
                "E360", span, f"the places `{self.name}` are a form of set, not `{span.text}`", fix
            )
        if form == "learned":
            if inside or len(node.args) != 2 or node.keywords:
                message = f"`learned` of `{self.name}` takes one set: where its points begin"
                raise self._wrong("E360", self.syntax.span(index), message, "write `learned(grid(8, 8))`")
            return replace(self._set(node.args[1], inside=True), learned=True)
        return self._form(form, index, node)  # type: ignore[arg-type]

    def _form(self, form: Form, index: int, node: Expr) -> Placing:
        keywords, size = dict[str, int](), SCALES.get(form, "")
        for name, at in node.keywords:
            allowed = ("at", "z", *([size] if size else []))
            if name not in allowed:
                span = self._keyword(name, at)
                message = (
                    f"`{form}` of `{self.name}` has no argument `{name}`"
                    if name
                    else (f"an argument of `{self.name}` without a name follows one with a name")
                )
                shown = ", ".join(f"`{each}=…`" for each in allowed)
                raise self._wrong("E360", span, message, suggest(name, allowed) or f"it has {shown}")
            if name in keywords:
                raise self._wrong(
                    "E360", self._keyword(name, at), f"`{name}` of `{self.name}` is there twice"
                )
            keywords[name] = at
        if "at" in keywords and "z" in keywords:
            message = f"`{self.name}` has `at` and `z`, and both say where it is"
            raise self._wrong("E360", self._keyword("z", keywords["z"]), message, "write `at=(0, 0, 1)`")
        where = self._point(keywords["at"]) if "at" in keywords else (0.0, 0.0, 0.0)
        if "z" in keywords:
            where = (0.0, 0.0, self._number(keywords["z"]))
        scale = 1.0
        if size in keywords:
            at = keywords[size]
            scale = self._number(at)
            if scale <= 0:
                message = f"`{size}` of `{self.name}` is above 0, not {scale:g}"
                raise self._wrong("E361", self.syntax.span(at), message)
        args = node.args[1:]
        if form == "given":
            points = tuple(self._point(arg) for arg in args)
            counts: tuple[int, ...] = (len(points),)
        else:
            points, counts = (), tuple(self._count(arg) for arg in args)
        most = {"grid": 3, "ball": 1, "random": 1}.get(form, MOST)
        if not 1 <= len(counts) <= most or counts == (0,):
            takes = {"grid": "one to three numbers of points", "given": "one point or more"}
            message = f"`{form}` of `{self.name}` takes {takes.get(form, 'one number of points')}, and gets {len(args)}"
            raise self._wrong("E360", self.syntax.span(index), message, f"write {_USAGE}")
        count = math.prod(counts)
        if count > MOST:
            message = f"`{self.name}` has {MOST:,} points at most, not {count:,}"
            raise self._wrong("E361", self.syntax.span(index), message)
        return Placing(self.name, form, counts, scale, where, points, origin=self.origin)

    def _keyword(self, name: str, at: int) -> Span:
        """Where the name of an argument stands whose value has this index."""
        span = self.syntax.span(at)
        start = span.source.text.rfind(name, 0, span.start)
        return replace(span, start=start, end=start + len(name)) if name and start >= 0 else span

    def _wrong(self, code: str, span: Span, message: str, fix: Any = None) -> _WrongError:
        self.program.sink.report(code, span, message, fix=fix)
        return _WrongError()

    def _point(self, index: int) -> Point:
        node = self.syntax.nodes[index]
        if node.kind != "tuple" or not 2 <= len(node.args) <= 3:
            span = self.syntax.span(index)
            message = f"a point of `{self.name}` is (x, y, z), not `{span.text}`"
            raise self._wrong("E360", span, message, "write three numbers: `(0, 0, 1)`")
        x, y, *rest = (self._number(arg) for arg in node.args)
        return x, y, rest[0] if rest else 0.0

    def _count(self, index: int) -> int:
        found, span = self._value(index), self.syntax.span(index)
        if isinstance(found, int) and not isinstance(found, bool) and found >= 1:
            return int(found)
        message = f"`{self.name}` counts points: 1, 2, …, not {_shown(found, span)}"
        raise self._wrong("E361", span, message)

    def _number(self, index: int) -> float:
        found, span = self._value(index), self.syntax.span(index)
        if isinstance(found, int | float) and not isinstance(found, bool):
            if abs(found) <= FARTHEST:
                return float(found)
            if isinstance(found, int) or math.isfinite(found):
                message = f"the numbers of `{self.name}` are {FARTHEST:g} at most, and `{span.text}` is more"
                raise self._wrong("E361", span, message, "say it in a larger unit")
        message = f"where the points of `{self.name}` are is a finite number, not {_shown(found, span)}"
        raise self._wrong("E361", span, message)

    def _value(self, index: int) -> Any:
        from r2d2c.resolve.evaluate import Evaluator

        first = index
        while self.syntax.nodes[first].args or self.syntax.nodes[first].keywords:
            node = self.syntax.nodes[first]
            first = min((*node.args, *(at for _, at in node.keywords)))
        scratch = RegionBuilder(self.program, "places", "model", "places")
        evaluator = Evaluator(scratch, self.syntax)
        before = len(self.program.sink.diagnostics)
        result = evaluator.run(first, index)
        if isinstance(result, Failed) and len(self.program.sink.diagnostics) > before:
            raise _WrongError
        if result is not None and not isinstance(result, int | float | Dim | str | tuple):
            evaluator.as_value(evaluator.placed(index))
            if len(self.program.sink.diagnostics) > before:
                raise _WrongError
        return result


def _shown(found: Any, span: Span) -> str:
    return f"{found}, known only when the model runs" if isinstance(found, Dim) else f"`{span.text}`"
