"""How an op is called, in words: for `r2d2c ops`, the reference and messages."""

from __future__ import annotations

from typing import Any

from r2d2c.ops.record import Arg, Op


def signature(op: Op) -> str:
    """``linear(x, out, weight=, bias=)``: how it is called."""
    return f"{op.name}({', '.join(map(shown, op.args))})"


def shown(arg: Arg) -> str:
    """An argument as a signature has it."""
    if arg.kind == "values":
        return f"{arg.name}…"
    if arg.kind == "param":
        return f"{arg.name}="
    return arg.name if arg.required else f"{arg.name}={default_text(arg)}"


def default_text(arg: Arg) -> str:
    """An argument's default as a spec would write it."""
    value: Any = arg.default
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)
