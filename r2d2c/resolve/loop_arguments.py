"""The arguments of a call of a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2d2c.diagnostics import suggest
from r2d2c.graph import Value
from r2d2c.resolve.bind import plural
from r2d2c.resolve.results import FAILED

if TYPE_CHECKING:
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.syntax.ast import Expr
    from r2d2c.syntax.spec import LoopSyntax


def loop_arguments(
    evaluator: Evaluator, index: int, node: Expr, name: str, loop: LoopSyntax
) -> dict[str, Value] | None:
    """The values of a loop's parameters where it is called; None after a diagnostic."""
    sink, parameters = evaluator.sink, loop.signature.parameters
    usage = f"usage: {name}({', '.join(p for p, _ in parameters)})"
    also = [(loop.span, "defined here")]
    names = [p for p, _ in parameters]
    positional = node.args[1:]
    if len(positional) > len(parameters):
        span = evaluator.span(positional[len(parameters)])
        message = f"`{name}` takes {plural(len(parameters), 'argument')}"
        sink.report("E221", span, message, usage, also=also)
        return None
    given = {p: evaluator.placed(i) for (p, _), i in zip(parameters, positional, strict=False)}
    for key, position in node.keywords:
        span = evaluator.keyword_span(key, position)
        if key in given:
            sink.report("E223", span, f"`{key}` is given twice to `{name}`", usage)
            return None
        if key not in names:
            message, fix = f"`{name}` has no argument `{key}`", suggest(key, names)
            sink.report("E224", span, message, usage, fix=fix, also=also)
            return None
        given[key] = evaluator.placed(position)
    missing = [p for p in names if p not in given]
    if missing:
        sink.report("E225", evaluator.span(index), f"`{name}` needs `{missing[0]}`", usage, also=also)
        return None
    values = {p: evaluator.as_value(placed) for p, placed in given.items()}
    return None if FAILED in values.values() else {p: values[p] for p in names}
