"""Where a loop's carries start, and what they are after a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from r2d2c.graph import Init, Value
from r2d2c.resolve.bind import INITIALISERS
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, Placed
from r2d2c.source import Span
from r2d2c.syntax.spec import CarrySyntax
from r2d2c.types import Dim, TensorType

# What a learned initial value is drawn from.
LEARNED = Init("normal", (0.02,))


def initial_value(around: RegionBuilder, carry: CarrySyntax, type_: TensorType, loop: str) -> Any:
    """The value that a carry has before the first step: `zeros`, `ones`, `uniform`, `learned`, or an expression."""
    syntax = carry.initial
    root = syntax.nodes[syntax.root]
    span = syntax.span(syntax.root)
    word = str(root.value) if root.kind == "name" and root.value not in around.names else None
    head = syntax.nodes[root.args[0]] if root.kind == "call" else root
    if word in ("zeros", "ones"):
        sizes = {"sizes": type_.dims, "dtype": type_.dtype}
        return around.add(around.fresh(f"{loop}.{carry.name}.{word}"), word, (), sizes, (carry.name,), span)
    if word == "uniform" and type_.dims and isinstance(type_.dims[-1], int):
        attrs = {"sizes": type_.dims, "value": 1.0 / int(type_.dims[-1]), "dtype": type_.dtype}
        return around.add(
            around.fresh(f"{loop}.{carry.name}.uniform"), "full", (), attrs, (carry.name,), span
        )
    if head.kind == "name" and head.value == "learned" and "learned" not in around.names:
        return _learned(around, carry, type_, loop)
    if root.kind == "number":
        attrs = {"sizes": type_.dims, "value": float(str(root.value)), "dtype": type_.dtype}
        return around.add(around.fresh(f"{loop}.{carry.name}.full"), "full", (), attrs, (carry.name,), span)
    from r2d2c.resolve.evaluate import Evaluator

    evaluator = Evaluator(around, syntax)
    evaluator.place = f"{loop}.{carry.name}"
    return evaluator.as_value(Placed(evaluator.expression(syntax.root, carry.name), span))


def _learned(around: RegionBuilder, carry: CarrySyntax, type_: TensorType, loop: str) -> Any:
    """A parameter without the axes of the batch, expanded to the carry's type. ``learned(normal(0.1))`` draws it so."""
    from r2d2c.resolve.bind import initialiser
    from r2d2c.resolve.evaluate import Evaluator

    syntax = carry.initial
    root, span = syntax.nodes[syntax.root], syntax.span(syntax.root)
    init = LEARNED
    if root.kind == "call":
        evaluator = Evaluator(around, syntax)
        for index in range(root.args[0] + 1, syntax.root):
            evaluator.results[index] = evaluator._handlers[syntax.nodes[index].kind](
                evaluator, index, syntax.nodes[index]
            )
        if len(root.args) != 2 or root.keywords:
            shown = ", ".join(INITIALISERS)
            around.program.sink.report(
                "E266", span, "`learned` takes one initialiser", notes=[f"one of: {shown}"]
            )
            return FAILED
        found = initialiser(evaluator, evaluator.placed(root.args[1]))
        if found is None:
            return FAILED
        init = found
    kept = tuple(dim for dim in type_.dims if not (isinstance(dim, Dim) and not _to_infer(dim)))
    name = f"{loop}.{carry.name}.initial"
    read = around.make_storage(name, "frozen" if around.frozen else "param", init, carry.span)
    row = around.program.storage[name]
    around.program.storage[name] = replace(row, type=TensorType(type_.dtype, kept))
    if len(kept) == len(type_.dims):
        return read
    if kept != type_.dims[len(type_.dims) - len(kept) :]:
        message = f"a learned initial value is the same for all samples, so the run-time dims of `{carry.name}` come first"
        around.program.sink.report("E266", span, message)
        return FAILED
    attrs = {"sizes": type_.dims}
    return around.add(
        around.fresh(f"{loop}.{carry.name}.expand"), "expand", (read,), attrs, (carry.name,), span
    )


def _to_infer(dim: Dim) -> bool:
    return any(name.startswith("?") for name in dim.symbols())


def next_values(
    step: RegionBuilder, ports: dict[str, Any], carries: Sequence[tuple[str, Span | None]], loop: str
) -> bool:
    """Make the values of a step its outputs, those of the carries first. False after a diagnostic."""
    good = True
    for carry, span in carries:
        value = step.names.get(carry)
        if isinstance(value, Failed):
            good = False
        elif value == ports[carry]:
            message = f"the carry `{carry}` is never updated: no statement of `{loop}` gives it a new value"
            fix = f"end the body with `{carry} = …`, or pass it to the loop as a parameter"
            step.program.sink.report("E267", span, message, fix=fix)
            good = False
        elif isinstance(value, Value):
            step.expose(carry, value)
    if not good:
        return False
    for name, value in list(step.names.items()):
        if isinstance(value, Value) and name not in ports:
            step.expose(name, value)
    return True
