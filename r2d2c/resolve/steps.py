"""Losses over the steps and the widths of a loop: ``steps: 2..depth``, and values that end in ``.steps`` or ``.widths``.

In such a loss ``X.steps`` stands for X at one of the steps and ``X.widths`` for X at one of the narrower widths; the
loss is the mean over all of them. What it says is one region, with one set of parameters: its steps are a loop without
carries, so that one graph serves every depth, and every width uses it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from r2d2c.graph import RegionKind, Value
from r2d2c.loops import Given, Loop
from r2d2c.resolve.evaluate import Evaluator
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Forbidden, LoopResult, Path, Placed
from r2d2c.resolve.step_ranges import (
    STEP,
    STEPS,
    WIDTH,
    WIDTHS,
    bounds_of,
    check_weight,
    has_own_weight,
    mentions,
    narrower,
    place_of,
    reads,
    steps_span,
)
from r2d2c.source import Span
from r2d2c.syntax.ast import Statement, Syntax
from r2d2c.types import Dim, DimLike

if TYPE_CHECKING:
    from r2d2c.syntax.spec import LossSyntax


def mapped_loss(
    region: RegionBuilder, loss: LossSyntax, run_body: Callable[[RegionBuilder, Syntax], None]
) -> Any:
    """The loss as one number, in its region; `FAILED` after a diagnostic. ``run_body``: evaluates statements."""
    assert loss.value is not None
    program, span = region.program, loss.value.span(loss.value.root)
    widths: list[float | None] = [None]
    if reads(loss, WIDTHS):
        found = narrower(program)
        if not found and any(program.loops[name].widths for name in program.failed & program.loops.keys()):
            return FAILED
        if not found:
            message = "no loop has `widths`, so there is no narrower value to take"
            fix = "say which carry of a loop may be narrow: `widths: {z: [1/2, 1]}`"
            program.sink.report("E280", place_of(loss, WIDTHS), message, fix=fix)
            return FAILED
        widths = list(found)
    bounds = bounds_of(region, loss) if loss.steps is not None else None
    if bounds is FAILED or not check_weight(program, loss, bounds, found if widths != [None] else (1.0,)):
        return FAILED
    mapped = _Mapped(region, loss, widths, bounds)
    if not mapped.run(run_body):
        return FAILED
    parts = [mapped.at(width) for width in widths]
    if FAILED in parts:
        return FAILED
    total = parts[0]
    for part in parts[1:]:
        total = region.add(region.fresh(f"{region.place}.add"), "add", (total, part), {}, ("sum",), span)
    if len(parts) == 1:
        return total
    count = region.constant(len(parts), span)
    return region.add(region.fresh(f"{region.place}.mean"), "div", (total, count), {}, ("mean",), span)


def _split(body: Syntax) -> tuple[Syntax, Syntax]:
    """The statements that are the same at every step and width, and those that are not."""
    same: list[Statement] = []
    varying: list[Statement] = []
    names = {STEP, WIDTH}
    for statement in body.statements:
        read = {
            str(n.value) for n in body.nodes[statement.first : statement.root + 1] if n.kind == "name"
        } | {name for name, *_ in statement.targets}
        deep = any(
            mentions(body, word, statement.first, statement.root) is not None for word in (STEPS, WIDTHS)
        )
        if deep or read & names:
            names.update(name for name, *_ in statement.targets)
            varying.append(statement)
        else:
            same.append(statement)
    return replace(body, statements=tuple(same)), replace(body, statements=tuple(varying))


# -- the loss


class _Mapped:
    """What a loss says, in a region of its own. ``sequences``: what it reads one element of at every step."""

    def __init__(
        self, region: RegionBuilder, loss: LossSyntax, widths: list[float | None], bounds: Any
    ) -> None:
        self.region, self.loss, self.widths, self.bounds = region, loss, widths, bounds
        assert loss.value is not None
        self.value = loss.value
        self.span = loss.value.span(loss.value.root)
        kind: RegionKind = "block" if bounds is None else "step"
        self.inside = RegionBuilder(
            region.program, f"{loss.name}.each", kind, loss.name, self._port, self.span
        )
        self.inside.sized = region.sized
        self.sequences: list[str] = []
        self.cuts: dict[str, Value] = {}

    # -- names
    def _given(self, wanted: str, width: float | None) -> Any:
        """What a name is in the loss's own region; ``.widths`` is the value at this width."""
        parts = wanted.split(".")
        if width is not None and WIDTHS in parts[2:]:
            kept = [*parts[:2], *(part for part in parts[2:] if part != WIDTHS)]
            wanted = f"{'.'.join(kept)}@{width:g}"
        return self.region.lookup(wanted)

    def _port(self, wanted: str) -> Any:
        """A name inside: a port, of a value ``.steps`` the element of the step."""
        if wanted == "*":
            return [*self.region.names, *(self.region.outside("*") or ())]
        if wanted == STEP and self.bounds is not None:
            if wanted not in self.sequences:
                self.sequences.append(wanted)
            return self.inside.port(wanted)
        if wanted == WIDTH and self.widths != [None]:
            return self.inside.port(wanted)
        found = self._given(wanted, self.widths[0])
        if isinstance(found, LoopResult):
            return Path(wanted)
        if found is None:
            return self._unknown(wanted)
        if not isinstance(found, Value):
            return found
        if self.bounds is not None and STEPS in wanted.split(".")[2:] and wanted not in self.sequences:
            self.sequences.append(wanted)
        return self.inside.port(wanted)

    def _unknown(self, wanted: str) -> Any:
        """Say of ``think.out.steps`` that only what a loop gives has steps and widths."""
        base, _, word = wanted.rpartition(".")
        if word not in (STEPS, WIDTHS) or not isinstance(self.region.lookup(base), Value):
            return None
        message = f"`{base}` is a value like any other: only what a loop gives is there at its {word}"
        found = self._nearest(base.partition(".")[0], word)
        return Forbidden("E280", message, f"take it from the loop: `{found}.{word}`" if found else None)

    def _nearest(self, task: str, word: str) -> str | None:
        """Something that a loop gives, of this task if it has a loop."""
        visible = list(self.region.outside("*") or ())
        program = self.region.program
        for name in sorted(visible, key=lambda n: not n.startswith(f"{task}.")):
            for loop in program.loops:
                ports = program.regions[loop].outputs if loop in program.regions else ()
                for port in ports:
                    if "." not in port.name and isinstance(
                        self.region.lookup(f"{name}.{port.name}.{STEPS}"), Value
                    ):
                        return f"{name}.{port.name}"
        return None

    # -- the region
    def run(self, run_body: Callable[[RegionBuilder, Syntax], None]) -> bool:
        """Make the region. False after a diagnostic."""
        inside, loss = self.inside, self.loss
        if loss.body is not None:
            same, varying = _split(loss.body)
            run_body(self.region, same)
            run_body(inside, varying)
        evaluator = Evaluator(inside, self.value)
        evaluator.place = inside.place
        value = evaluator.as_value(Placed(evaluator.expression(self.value.root, loss.name), self.span))
        if value is not FAILED and loss.weight is not None and has_own_weight(loss, inside.program):
            value = self._weighted(value, loss.weight)
        if value is FAILED:
            return False
        inside.expose(loss.name, value)
        names = [port.name for port in inside.inputs]
        order = [*self.sequences, *(name for name in names if name not in self.sequences)]
        inside.inputs.sort(key=lambda port: order.index(port.name))
        inside.program.regions[inside.name] = inside.finish()
        return True

    def _weighted(self, value: Value, weight: Syntax) -> Any:
        inside, span = self.inside, weight.span(weight.root)
        factors = Evaluator(inside, weight)
        factors.place = f"{inside.place}.weight"
        for index, node in enumerate(weight.nodes):
            # In the precision of the model: torch makes f32 of a quotient of two numbers.
            name = str(node.value)
            varies = name in (STEP, WIDTH) or isinstance(inside.program.dims.get(name), Dim)
            if node.kind == "name" and varies and name not in inside.names:
                number = factors.as_value(Placed(factors._name(index, node), weight.span(index)))
                if number is FAILED:
                    return FAILED
                id_, attrs = inside.fresh(f"{factors.place}.cast"), {"dtype": "f32"}
                inside.names[name] = inside.add(id_, "cast", (number,), attrs, (name,), span)
        factor = factors.as_value(Placed(factors.expression(weight.root), span))
        if factor is FAILED:
            return FAILED
        id_ = inside.fresh(f"{inside.place}.weighted")
        return inside.add(id_, "mul", (value, factor), {}, (self.loss.name,), span)

    # -- its uses
    def at(self, width: float | None) -> Any:
        """The loss at one width, as the mean over its steps if it has some."""
        region, inside, span = self.region, self.inside, self.span
        inputs = [self._input(port.name, width) for port in inside.inputs]
        if FAILED in inputs:
            return FAILED
        if self.bounds is None:
            id_ = region.fresh(f"{inside.name}()")
            return region.add(id_, "call", tuple(inputs), {"region": inside.name}, (self.loss.name,), span)
        first, last = self.bounds
        trips: DimLike = last - (first - 1)
        described = Loop(inside.name, (), len(self.sequences), trips, (Given("steps", 0),), over=True)
        attrs = {"region": inside.name, "loop": described}
        id_, outputs = region.fresh(f"{inside.name}/loop"), (f"{self.loss.name}.steps",)
        each = region.add(id_, "loop", tuple(inputs), attrs, outputs, span)
        return self._mean(each, trips)

    def _mean(self, each: Value, trips: DimLike) -> Value:
        region, span, name = self.region, self.span, self.loss.name
        attrs = {"axes": None, "keep": False}
        if isinstance(trips, int) or self.bounds[0] == 1:
            return region.add(region.fresh(f"{region.place}.mean"), "mean", (each,), attrs, (name,), span)
        # At a depth that has none of its steps the loss is 0.
        total = region.add(region.fresh(f"{region.place}.sum"), "sum", (each,), attrs, (name,), span)
        pair = (region.size(trips, span), region.constant(1, span))
        count = region.add(region.fresh(f"{region.place}.count"), "maximum", pair, {}, ("count",), span)
        return region.add(region.fresh(f"{region.place}.mean"), "div", (total, count), {}, (name,), span)

    def _input(self, name: str, width: float | None) -> Any:
        if name == WIDTH and width is not None:
            return self.region.constant(width, self.span)
        found = self._numbers() if name in self.sequences and name == STEP else self._given(name, width)
        if not isinstance(found, Value):
            return FAILED
        return self._cut(found, name) if name in self.sequences else found

    def _numbers(self) -> Value:
        """1, 2, …: the numbers of the steps up to the last one that counts."""
        region = self.region
        if STEP not in self.cuts:
            attrs = {"n": self.bounds[1]}
            id_ = region.fresh(f"{region.place}.arange")
            counted = region.add(id_, "arange", (), attrs, ("arange",), self.span)
            pair = (counted, region.constant(1, self.span))
            id_ = region.fresh(f"{region.place}.step")
            self.cuts[STEP] = region.add(id_, "add", pair, {}, (STEP,), self.span)
        return self.cuts[STEP]

    def _cut(self, value: Value, name: str) -> Value:
        """The steps that count of a value at every step."""
        key = f"{value.node} {value.port}"
        if key not in self.cuts:
            first, last = self.bounds
            attrs = {"first": first, "last": last}
            id_ = self.region.fresh(f"{self.region.place}.at_steps")
            span = steps_span(self.loss)
            self.cuts[key] = self.region.add(id_, "at_steps", (value,), attrs, (name,), span)
        return self.cuts[key]


def lazily(region: RegionBuilder, target: str, result: LoopResult, span: Span) -> None:
    """Let ``target.z@0.25`` be the value at a narrower width; the loop runs so once somebody reads it."""
    from r2d2c.resolve.loops import use_loop

    made: dict[float, LoopResult] = {}

    def value(width: float, key: str) -> Value:
        if width not in made:
            place = f"{region.place}.{target}@{width:g}"
            made[width] = use_loop(region, place, result.name, dict(result.arguments), span, width)
        return made[width].values[key]

    for width in narrower(region.program):
        for key in result.values:
            region.lazy[f"{target}.{key}@{width:g}"] = partial(value, width, key)
