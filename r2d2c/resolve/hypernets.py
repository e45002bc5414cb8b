"""Hypernets: ``view(x, from=c)``, one instance each, a region with the values and the context as ports.

What `makes` names is evaluated there, on those values; where an op makes storage it is told to generate it instead
(`RegionBuilder.generator`), from the code of the context. What that comes to is for `passes/forms.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.graph import Value
from r2d2c.hypernets import ACTS, MODES, NORMALISE, Hypernet
from r2d2c.resolve.bind import plural
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, OpRef, Placed, Unknown, kind_of
from r2d2c.types import Dim

if TYPE_CHECKING:
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.resolve.program import Program
    from r2d2c.source import Span
    from r2d2c.syntax.ast import Expr, Syntax
    from r2d2c.syntax.spec import HypernetSyntax

CONTEXT = "from"
_CHOICES = {"mode": MODES, "act": ACTS, "normalise": NORMALISE}
_BAD: Any = object()


def call_hypernet(evaluator: Evaluator, index: int, node: Expr, name: str) -> Any:
    """The value (or tuple of values) of a hypernet used in an expression."""
    program, region = evaluator.program, evaluator.region
    net = program.hypernets[name]
    program.used_blocks.add(name)
    if name in region.active_blocks:
        chain = " → ".join([*region.active_blocks[region.active_blocks.index(name) :], name])
        also = [(net.span, "defined here")]
        span = evaluator.span(node.args[0])
        evaluator.sink.report("E230", span, f"the hypernet `{name}` uses itself: {chain}", also=also)
        return FAILED
    given = _given(evaluator, index, node, net)
    if given is None or name in program.failed:
        return FAILED
    values, context, span = given
    if name not in program.regions:
        before = len(evaluator.sink.diagnostics)
        _build(evaluator, net, len(values), span)
        if any(d.severity == "error" for d in evaluator.sink.diagnostics[before:]):
            program.failed.add(name)
            program.regions.pop(name, None)
            return FAILED
    callee = program.regions[name]
    wanted = sum(port.name != CONTEXT for port in callee.inputs)
    if wanted != len(values):
        message = f"`{name}` is shared: it takes {plural(wanted, 'value')} elsewhere, here {len(values)}"
        evaluator.sink.report("E221", evaluator.span(index), message)
        return FAILED
    inputs = (*values, *(context for port in callee.inputs if port.name == CONTEXT))
    outputs = tuple(port.name for port in callee.outputs)
    if index == evaluator.root and evaluator.target and len(outputs) == 1:
        outputs = (evaluator.target,)
    place = region.fresh(f"{evaluator.place}.{name}")
    attrs = {"region": name, "block": name}
    region.add(f"{place}()", "call", inputs, attrs, outputs, evaluator.span(index))
    made = tuple(Value(f"{place}()", port) for port in range(len(outputs)))
    return made[0] if len(made) == 1 else made


def _given(
    evaluator: Evaluator, index: int, node: Expr, net: HypernetSyntax
) -> tuple[list[Value], Value, Span] | None:
    """The values and the context of a use, and where that is written."""
    sink, usage = evaluator.sink, f"usage: {net.name}(x, from=c)"
    context: Placed | None = None
    for key, position in node.keywords:
        span = evaluator.keyword_span(key, position)
        if key != CONTEXT:
            fix = suggest(key, [CONTEXT]) or "write it in `makes`"
            sink.report("E224", span, f"`{net.name}` has no argument `{key}`", usage, fix=fix)
            return None
        if context is not None:
            sink.report("E223", span, f"`{key}` is given twice to `{net.name}`", usage)
            return None
        context = evaluator.placed(position)
    if context is None or len(node.args) < 2:
        what = "the value it is used on" if context is not None else "`from`, the context it generates from"
        sink.report(
            "E225",
            evaluator.span(index),
            f"`{net.name}` needs {what}",
            usage,
            also=[(net.span, "defined here")],
        )
        return None
    values = [evaluator.as_value(evaluator.placed(position)) for position in node.args[1:]]
    value = evaluator.as_value(context)
    return None if value is FAILED or FAILED in values else (values, value, context.span)


def _build(evaluator: Evaluator, net: HypernetSyntax, count: int, span: Span) -> None:
    """The region of a hypernet."""
    from r2d2c.resolve.credit import applied_to, head_of
    from r2d2c.resolve.evaluate import Evaluator as Inner

    program, syntax = evaluator.program, net.makes
    found = _Options(program, net).read()
    if found is None:
        return
    record, shared = found
    inner = RegionBuilder(program, net.name, "block", net.name, origin=net.span)
    inner.active_blocks = (*evaluator.region.active_blocks, net.name)
    inner.frozen, inner.sized = evaluator.region.frozen, evaluator.region.sized
    if head_of(syntax, syntax.root) is None:
        _nothing_made(program, syntax, f"`{syntax.span(syntax.root).text}` is neither")
        return
    names = [f"{net.name}/{number}" for number in range(count)]
    for number, name in enumerate(names):
        inner.names[name] = inner.port("x" if not number else f"x_{number + 1}", span)
    if not shared:
        context = inner.port(CONTEXT, span)
        code = inner.fresh(f"{net.name}.code")
        inner.add(code, "code", (context,), {"hypernet": record}, record.codes, span)
        inner.generator = record
        inner.codes = {name: Value(code, port) for port, name in enumerate(record.ports())}
    known, generated = len(program.storage), len(program.generated)
    body = Inner(inner, applied_to(syntax, syntax.root, names))
    result = body.expression(body.syntax.root)
    parts = result if isinstance(result, tuple) and not isinstance(result, Value) else (result,)
    results = [body.as_value(Placed(part, syntax.span(syntax.root))) for part in parts]
    if FAILED in results:
        return
    if len(program.generated) == generated and (not shared or len(program.storage) == known):
        _nothing_made(program, syntax, f"`{syntax.span(syntax.root).text}` has no parameters of its own")
        return
    for number, value in enumerate(results):
        inner.expose("out" if len(results) == 1 else f"out_{number}", value)
    program.regions[net.name] = inner.finish()


def _nothing_made(program: Program, syntax: Syntax, why: str) -> None:
    message = f"`makes` names an op or a block with parameters, and {why}"
    program.sink.report("E275", syntax.span(syntax.root), message, fix="write it as in `makes: linear(64)`")


class _Options:
    """The options of a hypernet, read from their expressions. Mistakes go to the sink."""

    def __init__(self, program: Program, net: HypernetSyntax) -> None:
        self.program, self.sink, self.net, self.good = program, program.sink, net, True

    def read(self) -> tuple[Hypernet, bool] | None:
        """The record, and whether the mode is `shared`; None after a mistake."""
        mode = self._choice("mode") or ("factors" if "rank" in self.net.options else "full")
        hidden, rank, chunks = self._count("hidden"), self._count("rank"), self._count("chunks")
        base = self._flag("base", mode != "factors")
        act, normalise = self._choice("act") or "tanh", self._choice("normalise") or "none"
        if mode == "factors" and rank is None and self.good:
            message = f"`factors` are matrices of a rank, and `{self.net.name}` has none"
            self.sink.report("E277", self.net.span, message, fix="say which: `rank: 8`")
            self.good = False
        self._only("rank", mode == "factors", "`mode: factors`")
        self._only("act", hidden is not None, "`hidden`, the width of the layer behind it")
        self._only("chunks", mode == "full", "`mode: full`")
        self._only("chunks", hidden is not None, "`hidden`: parts differ by what is behind the code layer")
        self._only("normalise", mode in ("full", "factors") or normalise == "none", "`full` and `factors`")
        if mode == "scale" and not base:
            message = "`scale` scales shared parameters: it has no form without a `base`"
            self._bad("E277", "base", message, "remove `base: false`")
        if not self.good:
            return None
        name, span = self.net.name, self.net.span
        kind: Any = "full" if mode == "shared" else mode
        record = Hypernet(name, kind, hidden, act, rank, base, chunks, normalise, span)
        return record, mode == "shared"

    def _bad(self, code: str, option: str, message: str, fix: Any = None, label: str = "") -> None:
        syntax = self.net.options[option]
        self.sink.report(code, syntax.span(syntax.root), message, label, fix=fix)
        self.good = False

    def _only(self, option: str, allowed: bool, where: str) -> None:
        mode = self.net.options.get("mode")
        shared = mode is not None and mode.nodes[mode.root].value == "shared"
        if option in self.net.options and not allowed and self.good and not shared:
            self._bad("E277", option, f"`{option}` goes with {where}", f"remove `{option}`")

    def _value(self, option: str) -> Any:
        from r2d2c.resolve.evaluate import Evaluator

        syntax = self.net.options.get(option)
        if syntax is None:
            return None
        result = Evaluator(RegionBuilder(self.program, "dims", "model", "dims"), syntax).expression(
            syntax.root
        )
        self.good = self.good and not isinstance(result, Failed)
        return result

    def _choice(self, option: str) -> str | None:
        result = self._value(option)
        if result is None or isinstance(result, Failed):
            return None
        name = result.name if isinstance(result, (Unknown, OpRef)) else None
        if name in _CHOICES[option]:
            return str(name)
        shown = ", ".join(_CHOICES[option])
        text = self.net.options[option].span(self.net.options[option].root).text
        self._bad("E276", option, f"`{option}` cannot be `{text}`", _fix(text, option), f"one of: {shown}")
        return None

    def _count(self, option: str) -> int | None:
        result = self._value(option)
        if result is None or isinstance(result, Failed):
            return None
        if isinstance(result, int) and not isinstance(result, bool) and result > 0:
            return int(result)
        what = "a dim known only when the model runs" if isinstance(result, Dim) else kind_of(result)
        shown = int(result) if isinstance(result, int) and not isinstance(result, bool) else what
        self._bad("E276", option, f"`{option}` is an integer from 1 on, not {shown}")
        return None

    def _flag(self, option: str, default: bool) -> bool:
        result = self._value(option)
        if result is None or isinstance(result, Failed):
            return default
        if isinstance(result, bool):
            return result
        self._bad("E276", option, f"`{option}` is true or false, not {kind_of(result)}")
        return default


def _fix(text: str, option: str) -> Any:
    return suggest(text, _CHOICES[option])
