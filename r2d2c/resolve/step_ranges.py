"""Which steps, widths and weights a loss over the steps and widths of a loop has, and whether they can be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import Sink, suggest
from r2d2c.resolve.evaluate import Evaluator
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, Unknown
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.types import Dim, DimLike, evaluate

if TYPE_CHECKING:
    from r2d2c.resolve.program import Program
    from r2d2c.syntax.spec import LossSyntax

STEPS, WIDTHS, STEP, WIDTH = "steps", "widths", "step", "width"
# How many depths of a wide range the weight is tried at.
_TRIED = 64


def is_mapped(loss: LossSyntax) -> bool:
    """Whether a loss is taken at several steps or widths."""
    return loss.steps is not None or reads(loss, WIDTHS)


def has_own_weight(loss: LossSyntax, program: Program) -> bool:
    """Whether the weight is another one at every step, width or depth, and so part of the loss."""
    if loss.weight is None or not is_mapped(loss):
        return False
    names = {str(node.value) for node in loss.weight.nodes if node.kind == "name"}
    varying = {name for name, dim in program.dims.items() if isinstance(dim, Dim)}
    return bool(names & {STEP, WIDTH, *varying})


# -- what a loss reads


def mentions(syntax: Syntax | None, word: str, first: int = 0, last: int | None = None) -> int | None:
    """Where something like ``think.r.z.steps`` or ``r.z.steps`` is read; ``think.steps`` is a value's own name."""
    nodes = syntax.nodes if syntax is not None else []
    for index, node in enumerate(nodes[: None if last is None else last + 1]):
        deep = node.kind == "attribute" and nodes[node.args[0]].kind == "attribute"
        parts = syntax.dotted(index) if deep and index >= first and syntax is not None else None
        if parts is not None and word in parts.split(".")[2:]:
            return index
    return None


def reads(loss: LossSyntax, word: str) -> bool:
    return mentions(loss.value, word) is not None or mentions(loss.body, word) is not None


def place_of(loss: LossSyntax, word: str) -> Span:
    for syntax in (loss.value, loss.body):
        index = mentions(syntax, word)
        if syntax is not None and index is not None:
            return syntax.span(index)
    assert loss.value is not None
    return loss.value.span(loss.value.root)


def narrower(program: Program) -> tuple[float, ...]:
    argument = program.arguments.get(WIDTH)
    return tuple(w for w in argument.allowed if w < 1.0) if argument is not None else ()


# -- the steps


def bounds_of(region: RegionBuilder, loss: LossSyntax) -> Any:
    """The first step and the last. `FAILED` after a diagnostic."""
    assert loss.steps is not None and loss.value is not None
    program, sink = region.program, region.program.sink
    whole = steps_span(loss)
    if not reads(loss, STEPS):
        span = loss.value.span(loss.value.root)
        message = f"`{loss.name}` is taken at several steps, and its value is the same at all of them"
        sink.report("E280", span, message, fix="read a loop's value at each step: `think.r.z.steps`")
        return FAILED
    ends: list[DimLike] = []
    for syntax in loss.steps:
        scratch = RegionBuilder(program, "dims", "model", "dims")
        scratch.sized = region.sized
        found = Evaluator(scratch, syntax).expression(syntax.root)
        if isinstance(found, Failed):
            return FAILED
        if not isinstance(found, (int, Dim)) or isinstance(found, bool):
            span = syntax.span(syntax.root)
            nearest = suggest(found.name, program.dims) if isinstance(found, Unknown) else None
            message = f"a step is a number or the name of a dim, not `{span.text}`"
            sink.report("E281", span, message, fix=nearest)
            return FAILED
        ends.append(found)
    first, last = ends
    if not isinstance(first, int) or first < 1:
        sink.report("E281", whole, f"the first step is a number from 1 on, not {first}")
        return FAILED
    if isinstance(last, int) and last < first:
        sink.report("E281", whole, f"there is no step from {int(first)} to {int(last)}")
        return FAILED
    if isinstance(last, Dim) and last.symbols() <= program.usual.keys():
        usual = evaluate(last, program.usual)
        if usual < first:
            at = ", ".join(f"{name}={program.usual[name]}" for name in sorted(last.symbols()))
            message = f"the model learns at {at}, and `{loss.name}` begins at step {int(first)}"
            fix = "begin at an earlier step, or learn at a greater depth"
            sink.report("E282", whole, message, fix=fix)
            return FAILED
    return int(first), last


def steps_span(loss: LossSyntax) -> Span:
    """``2..depth`` in the spec."""
    assert loss.steps is not None
    first, last = loss.steps
    return Span(first.source, first.span(0).start, last.span(last.root).end)


def check_weight(program: Program, loss: LossSyntax, bounds: Any, widths: tuple[float, ...]) -> bool:
    """Whether the weight is a number at every step of every depth. False after a diagnostic."""
    if loss.weight is None or not has_own_weight(loss, program):
        return True
    span = loss.weight.span(loss.weight.root)
    first, last = bounds or (1, 1)
    mentioned = {str(node.value) for node in loss.weight.nodes if node.kind == "name"}
    symbols = set(last.symbols()) if isinstance(last, Dim) else set()
    symbols |= {
        s for n in mentioned for d in [program.dims.get(n)] if isinstance(d, Dim) for s in d.symbols()
    }
    for sizes in _sizes(program, sorted(symbols)):
        for step in range(first, evaluate(last, sizes) + 1):
            for width in widths:
                scratch = RegionBuilder(program, "weight", "loss", "weight")
                scratch.names.update({**sizes, STEP: step, WIDTH: width})
                evaluator = Evaluator(scratch, loss.weight)
                evaluator.sink = Sink()
                found = evaluator.expression(loss.weight.root)
                if any(d.code == "E205" for d in evaluator.sink.diagnostics):
                    at = ([f"step {step}"] if bounds else []) + [f"{n}={s}" for n, s in sizes.items()]
                    message = f"the weight of `{loss.name}` divides by zero at {' of '.join(at)}"
                    program.sink.report("E283", span, message, fix="divide by something that is never 0")
                    return False
                if not isinstance(found, (int, float)):
                    return True  # it depends on more than sizes: the graph computes it
    return True


def _sizes(program: Program, symbols: list[str]) -> Iterator[dict[str, int]]:
    """Sizes of the dims of a weight: one after the other through its range, the others as they usually are."""
    usual = {name: program.usual.get(name, 2) for name in symbols}
    yield dict(usual)
    for name in symbols:
        low, high = program.ranges.get(name, (1, _TRIED))
        for size in range(low, min(high, low + _TRIED) + 1):
            yield {**usual, name: size}
