"""The arguments of a model, `depth` or `width`, as people give them: `--size depth=5`, `train.sizes`. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from r2d2c.diagnostics import Sink, suggest
from r2d2c.graph import Argument, Graph
from r2d2c.source import Span

Number = int | float
_NUMBER = re.compile(r"\s*([0-9]{1,9})(?:\s*/\s*([0-9]{1,9})|(\.[0-9]{1,15}))?\s*")


class Given(NamedTuple):
    """A value as it was written, and where."""

    text: str
    span: Span | None = None


def number(text: str) -> Number | None:
    """``5``, ``0.25`` or ``1/4``; None if it is none of these."""
    found = _NUMBER.fullmatch(text)
    if found is None or (found[2] is not None and int(found[2]) == 0):
        return None
    if found[3] is not None:
        return float(f"{found[1]}{found[3]}")
    value = Fraction(int(found[1]), int(found[2] or 1))
    return int(value) if value.denominator == 1 else float(value)


def check_sizes(
    graph: Graph,
    given: Mapping[str, Given],
    sink: Sink,
    where: Mapping[str, Span] | None = None,
    others: Collection[str] = (),
) -> dict[str, Number]:
    """The values of a model's arguments: E551 for a name that is none, E552 for a value that it may not have.

    where: the places of names in the spec. others: names of dims that may have a size too, any from 1 on.
    """
    found: dict[str, Number] = {}
    for name, (text, span) in given.items():
        choices = check_choices(graph, name, text, span, sink, (where or {}).get(name), others)
        if choices is None:
            continue
        if len(choices) > 1:
            message = f"`{name}` is one number here, not `{text}`"
            sink.report("E552", span, message, fix=f"for example `{name}={_shown(choices[0])}`")
            continue
        found[name] = choices[0]
    return found


def check_choices(
    graph: Graph,
    name: str,
    text: str,
    span: Span | None,
    sink: Sink,
    key: Span | None = None,
    others: Collection[str] = (),
) -> Sequence[Number] | None:
    """The values that ``text`` says an argument may have: of `1..4` all between. None after a diagnostic."""
    argument = graph.arguments.get(name)
    if argument is None and name not in others:
        _unknown(graph, name, sink, key or span, others)
        return None
    first, dots, last = text.partition("..")
    low, high = number(first), number(last) if dots else number(first)
    if low is None or high is None:
        message = f"`{text}` is no size of `{name}`"
        sink.report(
            "E552", span, message, "a number is needed, `3` or `1/4`, or a range `1..4`", fix=_fix(argument)
        )
        return None
    if argument is None:
        if isinstance(low, int) and low == high and low >= 1:
            return (low,)
        sink.report("E552", span, f"`{name}` is a whole number from 1 on, not {text}")
        return None
    problem = next((p for v in (low, high) if (p := _problem(argument, v))), None)
    if problem is None and low > high:
        problem = f"the range {text} of `{name}` is empty"
    if problem is not None:
        sink.report("E552", span, problem, fix=_fix(argument))
        return None
    if argument.kind == "size":
        return range(int(low), int(high) + 1)
    between = tuple(v for v in argument.allowed if low <= v <= high)
    return between if dots else (low,)


def _problem(argument: Argument, value: Number) -> str | None:
    if argument.kind == "size" and not isinstance(value, int):
        return f"`{argument.name}` is a whole number, not {value:g}"
    return argument.check(value)


def _fix(argument: Argument | None) -> str | None:
    return f"for example `{argument.name}={_shown(argument.usual)}`" if argument is not None else None


def _shown(value: Number) -> str:
    return f"{value:g}"


def _unknown(graph: Graph, name: str, sink: Sink, span: Span | None, others: Collection[str]) -> None:
    known = [*graph.arguments, *(n for n in others if n not in graph.arguments)]
    notes = [f"there are: {', '.join(f'`{n}`' for n in known)}"] if known else []
    size = graph.dims.get(name)
    if isinstance(size, int):
        message = f"the size of `{name}` is fixed, {int(size)}: the model was made for it"
        sink.report("E551", span, message, notes=notes, fix=f"make another one: --set dims.{name}=…")
        return
    message = f"`{name}` is no size that this model takes when it runs"
    if not known:
        notes = ["it takes none: a dim with a range, `depth: 1..8`, that no input shows is one"]
    sink.report("E551", span, message, notes=notes, fix=suggest(name, known))


__all__ = ["Given", "Number", "check_choices", "check_sizes", "number"]
