"""Instances of blocks: a region of its own each, used by `call` nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.graph import Value
from r2d2c.resolve.bind import plural
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, Path, Placed, Unknown
from r2d2c.source import Span

if TYPE_CHECKING:
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.resolve.program import Block
    from r2d2c.syntax.ast import Expr

MAX_REPEAT = 10_000
MAX_DEPTH = 64


def call_block(evaluator: Evaluator, index: int, node: Expr, name: str) -> Any:
    """The value (or tuple of values) of a block used in an expression."""
    program = evaluator.program
    block = program.blocks[name]
    program.used_blocks.add(name)
    active = evaluator.region.active_blocks
    if name in active or len(active) >= MAX_DEPTH:
        chain = " → ".join([*active[active.index(name) :], name]) if name in active else name
        evaluator.sink.report(
            "E230",
            evaluator.span(node.args[0]),
            f"the block `{name}` uses itself: {chain}",
            also=[(block.span, "defined here")],
        )
        return FAILED
    bound = _bind(evaluator, index, node, name, block)
    if bound is None:
        return FAILED
    arguments, repeat, shared, layer, frozen = bound
    place = f"{evaluator.region.place}.{layer}" if layer else f"{evaluator.place}.{name}"
    place = evaluator.region.fresh(place)
    if layer:
        evaluator.region.layers[layer] = place
    if repeat is None:
        return _instance(evaluator, index, name, block, arguments, place, place, active, frozen)
    first = block.signature.parameters[0][0] if block.signature.parameters else ""
    if not isinstance(arguments.get(first), Value):
        evaluator.sink.report(
            "E231", evaluator.span(index), f"`repeat` passes on a value, and `{name}` takes none first"
        )
        return FAILED
    result: Any = arguments[first]
    base = place
    for step in range(repeat):
        # As if it were written `repeat` times: NAME, NAME_2, …
        call = evaluator.region.fresh(base) if step else base
        if layer and step and not shared:
            evaluator.region.layers[call.rpartition(".")[2]] = call
        region = place if shared else call
        result = _instance(
            evaluator, index, name, block, arguments | {first: result}, call, region, active, frozen
        )
        if not isinstance(result, Value):
            if not isinstance(result, Failed):
                evaluator.sink.report(
                    "E231",
                    evaluator.span(index),
                    f"`repeat` passes on one value, and `{name}` gives {len(result)}",
                )
            return FAILED
    return result


def _bind(
    evaluator: Evaluator, index: int, node: Expr, name: str, block: Block
) -> tuple[dict[str, Any], int | None, bool, str | None, bool] | None:
    sink, parameters = evaluator.sink, block.signature.parameters
    usage = f"usage: {name}({', '.join(p if default < 0 else f'{p}=…' for p, default in parameters)})"
    positional = [evaluator.placed(i) for i in node.args[1:]]
    if len(positional) > len(parameters):
        sink.report(
            "E221",
            positional[len(parameters)].span,
            f"`{name}` takes {plural(len(parameters), 'argument')}",
            usage,
            also=[(block.span, "defined here")],
        )
        return None
    given = {p: value for (p, _), value in zip(parameters, positional, strict=False)}
    repeat, shared, layer, frozen = None, False, None, False
    names = [p for p, _ in parameters]
    for key, position in node.keywords:
        value = evaluator.placed(position)
        if key in names and key not in given:
            given[key] = value
        elif key in given:
            sink.report(
                "E223", evaluator.keyword_span(key, position), f"`{key}` is given twice to `{name}`", usage
            )
            return None
        elif key == "repeat" and isinstance(value.value, int) and 0 < value.value <= MAX_REPEAT:
            repeat = int(value.value)
        elif key == "shared" and isinstance(value.value, bool):
            shared = value.value
        elif key == "name" and value.span.text.isidentifier():
            layer = value.span.text
        elif key == "frozen" and isinstance(value.value, bool):
            frozen = value.value
        elif key in ("repeat", "shared", "name", "frozen"):
            wanted = {
                "repeat": f"an integer from 1 to {MAX_REPEAT}", "shared": "true or false", "name": "a bare name",
                "frozen": "true or false",
            }[key]  # fmt: skip
            sink.report("E226", value.span, f"`{key}` is {wanted}")
            return None
        else:
            sink.report(
                "E224",
                evaluator.keyword_span(key, position),
                f"`{name}` has no argument `{key}`",
                usage,
                fix=suggest(key, [*names, "repeat", "shared", "name", "frozen"]),
                also=[(block.span, "defined here")],
            )
            return None
    arguments: dict[str, Any] = {}
    for parameter, default in parameters:
        if parameter in given:
            value = given[parameter]
            if isinstance(value.value, Failed):
                return None
            if isinstance(value.value, (Path, Unknown)) and not _is_choice(value):
                arguments[parameter] = evaluator.as_value(value)
                if arguments[parameter] is FAILED:
                    return None
            else:
                arguments[parameter] = value.value
        elif default < 0:
            sink.report(
                "E225",
                evaluator.span(index),
                f"`{name}` needs `{parameter}`",
                usage,
                also=[(block.span, "defined here")],
            )
            return None
        else:
            arguments[parameter] = None  # the instance evaluates its default
    return arguments, repeat, shared, layer, frozen


def _is_choice(placed: Placed) -> bool:
    return isinstance(placed.value, Unknown) and placed.value.name in ("none",)


def _instance(
    evaluator: Evaluator,
    index: int,
    name: str,
    block: Block,
    arguments: dict[str, Any],
    call_id: str,
    region_name: str,
    active: tuple[str, ...],
    frozen: bool,
) -> Any:
    from r2d2c.resolve.evaluate import Evaluator as Inner

    program, region = evaluator.program, evaluator.region
    values = {p: v for p, v in arguments.items() if isinstance(v, Value)}
    if region_name not in program.regions:
        inner = RegionBuilder(program, region_name, "block", region_name, origin=evaluator.span(index))
        inner.active_blocks = (*active, name)
        inner.frozen = frozen or region.frozen
        inner.sized, inner.generator = region.sized, region.generator
        for parameter, value in arguments.items():
            if parameter in values:
                inner.names[parameter] = inner.port(parameter, block.span)
            elif value is not None:
                inner.names[parameter] = value
        defaults = Inner(inner, block.signature.syntax)
        for parameter, default in block.signature.parameters:
            if arguments[parameter] is None:
                inner.names[parameter] = defaults.expression(default)
        results = run_body(Inner(inner, block.body))
        if results is None:
            program.sink.report(
                "E232", block.span, f"the block `{name}` returns nothing", fix="end it with `return VALUE`"
            )
            return FAILED
        if FAILED in results:
            return FAILED
        for number, result in enumerate(results):
            inner.expose("out" if len(results) == 1 else f"out_{number}", result)
        program.regions[region_name] = inner.finish()
    callee = program.regions[region_name]
    outputs = tuple(port.name for port in callee.outputs)
    if index == evaluator.root and evaluator.target and len(outputs) == 1:
        outputs = (evaluator.target,)
    inputs = tuple(values.get(port.name) or region.code(port.name) for port in callee.inputs)
    region.add(
        f"{call_id}()", "call", inputs, {"region": region_name, "block": name}, outputs, evaluator.span(index)
    )
    if len(outputs) == 1:
        return Value(f"{call_id}()")
    return tuple(Value(f"{call_id}()", port) for port in range(len(outputs)))


def run_body(inner: Evaluator) -> list[Any] | None:
    """Run a block's statements; the values it returns."""
    for number, statement in enumerate(inner.syntax.statements):
        result = inner.statement(statement)
        last = number == len(inner.syntax.statements) - 1
        if statement.returns:
            if not last:
                following = inner.syntax.statements[number + 1]
                span = Span(inner.syntax.source, following.start, following.end)
                inner.sink.report(
                    "E233",
                    span,
                    "statements after `return` never run",
                    also=[(inner.span(statement.root), "returned here")],
                )
            parts = result if isinstance(result, tuple) and not isinstance(result, Value) else (result,)
            span = inner.span(statement.root)
            return [inner.as_value(Placed(part, span)) for part in parts]
        if not statement.targets:
            inner.sink.report(
                "E234",
                inner.span(statement.root),
                "this value is computed and not used",
                fix="give it a name, or `return` it",
            )
    return None
