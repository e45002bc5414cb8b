"""Optimizers and schedules as a spec writes them: ``adam(lr=2e-3)``, ``warmup(epochs=2) |> cosine``.

They are names with plain arguments, not ops of the model (`linear` and `step` would be), so they are read
from the syntax, with the place of every part.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r2d2c.diagnostics import Sink
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax

_BINARY: dict[object, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "^": operator.pow,
}


_EXAMPLES = {"optimizer": "adam(lr=1e-3)", "augmentation": "crop(pad=2) |> flip"}
_FIRST = {
    "optimizer": "lr",
    "crop": "pad",
    "flip": "chance",
    "jitter": "by",
    "noise": "std",
    "cutout": "size",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A name with its arguments; ``spans`` are the places of their values."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    span: Span | None = None
    spans: Mapping[str, Span] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.name}({inside})" if inside else self.name


def read_calls(syntax: Syntax, what: str, dims: Mapping[str, Any], sink: Sink) -> tuple[Call, ...] | None:
    """The calls of a pipe in order; None after a diagnostic (E540, E650). ``what`` is ``optimizer``, ``schedule``
    or ``augmentation``.
    """
    chain: list[Call] = []
    at: int | None = syntax.root
    while at is not None:
        node = syntax.nodes[at]
        piped = node.kind == "call" and node.value == "piped"
        head = node.args[0] if node.kind == "call" else at
        if syntax.nodes[head].kind != "name":
            example = _EXAMPLES.get(what, "warmup(epochs=2) |> cosine")
            message = f"{_a(what)} is a name with arguments"
            sink.report(_code(what), syntax.span(at), message, fix=f"write it as `{example}`")
            return None
        call = _call(syntax, at, head, 2 if piped else 1, what, dims, sink)
        if call is None:
            return None
        chain.append(call)
        at = node.args[1] if piped else None
    return tuple(reversed(chain))


def _call(
    syntax: Syntax, at: int, head: int, given: int, what: str, dims: Mapping[str, Any], sink: Sink
) -> Call | None:
    node = syntax.nodes[at]
    name = str(syntax.nodes[head].value)
    if node.kind != "call":
        return Call(name, span=syntax.span(head))
    if len(node.args) > given:
        place = syntax.span(node.args[given])
        first = _FIRST.get(what) or _FIRST.get(name, "epochs")
        message = f"the arguments of {_a(what)} have names"
        sink.report(_code(what), place, message, fix=f"write `{name}({first}={place.text})`, say")
        return None
    arguments: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    for key, position in node.keywords:
        value = constant(syntax, position, dims)
        if value is None:
            place = syntax.span(position)
            message = f"`{key}` of `{name}` must be a number, a name or a tuple of numbers"
            sink.report(_code(what), place, message, f"`{place.text}` is none")
            return None
        arguments[key], spans[key] = value, syntax.span(position)
    return Call(name, arguments, syntax.span(head), spans)


def constant(syntax: Syntax, at: int, dims: Mapping[str, Any]) -> Any:
    """The number, bool, text or tuple that an expression stands for; None if it is none of these."""
    node = syntax.nodes[at]
    if node.kind in ("number", "bool", "string"):
        return node.value
    if node.kind == "name":
        size = dims.get(str(node.value))
        return int(size) if isinstance(size, int) else None if size is not None else str(node.value)
    parts = [constant(syntax, part, dims) for part in node.args]
    if any(part is None for part in parts):
        return None
    if node.kind == "tuple":
        return tuple(parts)
    if any(not isinstance(part, int | float) for part in parts):
        return None
    if node.kind == "unary" and node.value in ("-", "+"):
        return -parts[0] if node.value == "-" else parts[0]
    if node.kind == "binary" and node.value in _BINARY:
        if node.value == "^" and (abs(parts[0]) > 1e6 or abs(parts[1]) > 64):
            return None
        try:
            result = _BINARY[node.value](parts[0], parts[1])
        except (ArithmeticError, ValueError):
            return None
        return result if isinstance(result, int | float) else None
    return None


def _code(what: str) -> str:
    return "E650" if what == "augmentation" else "E540"


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
