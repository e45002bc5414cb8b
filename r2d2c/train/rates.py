"""`rates` of a spec's `train:` section: factors on the learning rate, by the beginning of parameters' names.

Nothing here imports torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from r2d2c.credit.registry import rules
from r2d2c.diagnostics import Fix, Sink, suggest
from r2d2c.driver import Checked
from r2d2c.passes.training import training_graph
from r2d2c.syntax.expressions import parse_expression
from r2d2c.syntax.spec import parse_scalar
from r2d2c.syntax.yaml_nodes import YMap, YScalar
from r2d2c.train.calls import constant

LISTED = 12  # names in a note


def read_rates(checked: Checked, sink: Sink) -> dict[str, float]:
    """The factor of every trained parameter that `rates` says something of, by name.

    E549 for a key that is about no trained parameter, E550 for a value that is no factor.
    """
    train = checked.spec.document.train
    node = train.node.get("rates") if train is not None and isinstance(train.node, YMap) else None
    if train is None or not isinstance(node, YMap) or not len(node):
        return {}
    # Credit rules add parameters, and decide which are trained; most specs say nothing of rates.
    graph = training_graph(checked.graph, checked.ops, rules(checked.rules))
    trained = {name: None for visit in graph.visits for name in visit.finished}
    rows = {**checked.graph.storage, **graph.storage}
    others = [name for name, row in rows.items() if row.kind == "param" and name not in trained]
    factors: dict[str, float] = {}
    for key, _ in node:
        factor = _factor(key.value, train.rates[key.value], checked.graph.dims, sink)
        if not any(map(matcher(key.value), trained)):
            report_key(key, trained, others, sink)
        elif factor is not None:
            factors[key.value] = factor
    return by_parameter(factors, trained)


def by_parameter(rates: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """The factors of ``rates`` by parameter: of several keys the one with most characters beside its `*`
    counts, of equal ones the later.
    """
    order = sorted((len(key.replace("*", "")), at, key) for at, key in enumerate(rates))
    tests = [(matcher(key), rates[key]) for *_, key in reversed(order)]
    found: dict[str, float] = {}
    for name in names:
        factor = next((factor for test, factor in tests if test(name)), None)
        if factor is not None:
            found[name] = factor
    return found


def matcher(key: str) -> Callable[[str], object]:
    """A test of names: whether a name is the key or lies under it."""
    return re.compile(_pattern(key) + r"(?:\..*)?").fullmatch


def _pattern(key: str) -> str:
    return "[^.]*".join(map(re.escape, key.split("*")))


def _factor(key: str, value: YScalar, dims: Mapping[str, Any], sink: Sink) -> float | None:
    syntax = parse_scalar(value, parse_expression, sink)
    if syntax is None:
        return None
    number = constant(syntax, syntax.root, dims)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if is_number and 0 <= number <= sys.float_info.max:
        return float(number)
    span = syntax.span(syntax.root)
    message = f"the factor of `{key}` must be a number that is not negative, not `{span.text}`"
    sink.report("E550", span, message, fix="for example `0.1`, a tenth of the rate")
    return None


def report_key(
    key: YScalar,
    trained: Collection[str],
    others: Collection[str],
    sink: Sink,
    code: str = "E549",
    words: Collection[str] = (),
) -> None:
    """Report a key that is about no trained parameter. words: what the key may be beside a name."""
    place = key.content
    if any(map(matcher(key.value), others)):
        so = ", so it has no rate" if code == "E549" else ""
        message = f"no parameter under `{key.value}` is trained{so}"
        sink.report(code, place, message, "not trained", fix="remove the key")
        return
    parts = key.value.split(".")
    below = [name.split(".") for name in trained]
    at = 0
    # The first part of the key that no name agrees with, and what may stand there.
    while at < len(parts):
        agreeing = [name for name in below if len(name) > at and re.fullmatch(_pattern(parts[at]), name[at])]
        if not agreeing:
            break
        below, at = agreeing, at + 1
    known = list(dict.fromkeys(name[at] for name in below if len(name) > at))
    message = f"no parameter's name is or begins with `{key.value}`"
    label, fix = "", None
    if at < len(parts):
        near = suggest(parts[at], [*known, *(words if not at else ())])
        above = ".".join(parts[:at])
        label = f"nothing under `{above}` is called `{parts[at]}`" if at else f"there is no `{parts[at]}`"
        if near is not None:
            meant = ".".join([*parts[:at], str(near.replacement), *parts[at + 1 :]])
            fix = Fix(f"did you mean `{meant}`?", replacement=meant)
    listed = ", ".join(f"`{name}`" for name in known[:LISTED]) + (", …" if len(known) > LISTED else "")
    where = f"under `{'.'.join(parts[:at])}`" if at else "at the beginning"
    notes = [f"{where} there may stand: {listed}"] if known else []
    notes += [f"or a kind of parameters: {', '.join(f'`{word}`' for word in words)}"] if words else []
    sink.report(code, place, message, label, notes=notes, fix=fix)
