"""Calling the functions of a credit rule: what goes wrong in a plug-in's is said at its own line."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.graph import Link, Value
from r2d2c.source import Source, Span
from r2d2c.types import TensorType

_OURS, _PYTHON = Path(__file__).resolve().parents[1], Path(linecache.__file__).resolve().parent


def ask(rule: CreditRule, links: Iterable[Link], moment: str, *args: Any) -> Any:
    """What a function of a rule gives. If it raises, and is a plug-in's, a `CompileError` names its line."""
    function: Callable[..., Any] = getattr(rule, moment)
    try:
        return function(*args)
    except (CompileError, MemoryError):
        raise
    except Exception as error:  # a user's own code may raise anything
        if _is_ours(function):
            raise
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        message = f"`{moment}` of the credit rule `{rule.name}` raises {said}"
        _refuse("E251", rule, links, message, _raised_at(error) or _defined_at(function), "", error)


def ask_value(
    rule: CreditRule,
    link: Link,
    moment: str,
    edge: Any,
    types: Mapping[Value, TensorType],
    wanted: TensorType,
) -> Value:
    """As `ask`, of a function that gives a value of the type ``wanted``."""
    given = ask(rule, [link], moment, edge)
    function = getattr(rule, moment)
    if _is_ours(function):
        return given  # type: ignore[no-any-return]
    if given is None:
        wrong = "nothing; it has to return a value"
    elif not isinstance(given, Value):
        wrong = f"the {type(given).__name__} {given!r}, not a value of the graph"
    elif given not in types:
        wrong = f"`{given.node}`, which is no value of this graph"
    elif not _fits(types[given], wanted):
        wrong = f"{types[given]}, and the value of the link is {wanted}"
    else:
        return given
    message = f"`{moment}` of the credit rule `{rule.name}` gives {wrong}"
    _refuse("E252", rule, [link], message, _defined_at(function))


def _fits(given: TensorType, wanted: TensorType) -> bool:
    """Whether one type can stand for the other; of dims that are known only when the model runs, any may."""
    if given.rank != wanted.rank or given.floating != wanted.floating:
        return False
    pairs = zip(given.dims, wanted.dims, strict=True)
    return all(
        one == other or (not isinstance(one, int) and not isinstance(other, int)) for one, other in pairs
    )


def _refuse(
    code: str,
    rule: CreditRule,
    links: Iterable[Link],
    message: str,
    place: Span | None,
    label: str = "",
    cause: Exception | None = None,
) -> NoReturn:
    sink = Sink()
    also = [(k.credit.origin or k.origin, f"the credit of `{k.name}` is `{rule.name}`") for k in links]
    sink.report(code, place, message, label, also=also[:1])
    raise CompileError(sink.diagnostics) from cause


# -- where a plug-in's Python stands


def _is_ours(function: Callable[..., Any]) -> bool:
    """Whether a function is part of r2d2c: what it raises is a bug of ours."""
    code = getattr(function, "__code__", None)
    return code is not None and _OURS in Path(code.co_filename).resolve().parents


def _raised_at(error: Exception) -> Span | None:
    """The innermost line outside of r2d2c and of Python's own library."""
    found, trace = None, error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if not {_OURS, _PYTHON} & set(path.resolve().parents):
            found = _line(path, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _defined_at(function: Callable[..., Any]) -> Span | None:
    code = getattr(function, "__code__", None)
    return _line(Path(code.co_filename), code.co_firstlineno) if code is not None else None


def _line(path: Path, number: int) -> Span | None:
    """A line of Python, without its indent; None if its text cannot be read."""
    lines = linecache.getlines(str(path))
    if not 1 <= number <= len(lines):
        return None
    line = lines[number - 1]
    start = sum(map(len, lines[: number - 1])) + len(line) - len(line.lstrip())
    here = Path.cwd()
    shown = path.resolve().relative_to(here) if here in path.resolve().parents else path
    return Span(Source(str(shown), "".join(lines)), start, start + max(len(line.strip()), 1))


__all__ = ["ask", "ask_value"]
