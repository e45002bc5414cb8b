"""Binding the arguments of a call to an op's signature."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.graph import Init, Value
from r2d2c.ops.record import Arg, Op
from r2d2c.places import Rule
from r2d2c.resolve.results import (
    FAILED,
    Failed,
    OpRef,
    Placed,
    Unknown,
    UnknownCall,
    kind_of,
)
from r2d2c.types import Dim

if TYPE_CHECKING:
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.syntax.ast import Expr

# Initialisers a spec may name in `init=`; their meaning is in r2d2c/lower/init.py.
INITIALISERS = {
    "zeros": 0, "ones": 0, "normal": 1, "uniform": 1, "constant": 1, "xavier": 0, "xavier_normal": 0, "kaiming": 0,
    "kaiming_normal": 0, "orthogonal": 1, "eye": 0,
}  # fmt: skip
_BAD: Any = object()


def bind_call(evaluator: Evaluator, index: int, node: Expr, op: Op) -> Any:
    """A node for ``op(…)``, or `FAILED` after reporting why not."""
    bound = _match(evaluator, index, node, op)
    if bound is None:
        return FAILED
    named, extra = bound
    init, frozen, place = _universal(evaluator, op, extra)
    region = evaluator.region
    id_ = region.fresh(f"{region.place}.{place}" if place else f"{evaluator.place}.{op.name}")
    if place:
        region.layers[place] = id_
    inputs: list[Value | None] = []
    attrs: dict[str, Any] = {}
    good = True
    for arg in op.args:
        given = named.get(arg.name)
        if arg.kind == "values":
            values = [evaluator.as_value(item) for item in given or ()]
            good = good and FAILED not in values
            inputs.extend(values)
        elif arg.kind == "value":
            value = evaluator.as_value(given) if given is not None else arg.default
            if given is not None and _is_none(given) and not arg.required:
                value = None
            good = good and value is not FAILED
            inputs.append(value)
        elif arg.kind == "param":
            value = _param(evaluator, op, arg, given, id_, init, frozen)
            good = good and value is not FAILED
            inputs.append(value)
        elif arg.kind == "named":
            size = Arg("", "size")
            sizes = {n: convert(evaluator, op, replace(size, name=n), p) for n, p in (given or {}).items()}
            good = good and _BAD not in sizes.values()
            attrs[arg.name] = sizes
        else:
            converted = arg.default if given is None else convert(evaluator, op, arg, given)
            good = good and converted is not _BAD
            attrs[arg.name] = converted
    if not good:
        return FAILED
    outputs: tuple[str, ...] = op.outputs
    if "parts" in attrs:
        outputs = tuple(f"out_{part}" for part in range(int(attrs["parts"])))
    elif index == evaluator.root and evaluator.target:
        outputs = (evaluator.target, *op.outputs[1:])
    elif len(op.outputs) == 1:
        outputs = (op.name,)
    region.add(id_, op.name, tuple(inputs), attrs, outputs, evaluator.span(index))
    visible = visible_outputs(op, attrs)
    if visible == 1:
        return Value(id_)
    return tuple(Value(id_, port) for port in range(visible))


def visible_outputs(op: Op, attrs: dict[str, Any]) -> int:
    """How many values a call gives: the ``new_…`` statistics are the compiler's own."""
    if "parts" in attrs:
        return int(attrs["parts"])
    return sum(not name.startswith("new_") for name in op.outputs)


def _match(
    evaluator: Evaluator, index: int, node: Expr, op: Op
) -> tuple[dict[str, Any], dict[str, Placed]] | None:
    """Arguments by name; those of kind "values" as a list. Second, `name`, `init` and `frozen`."""
    sink = evaluator.sink
    given: dict[str, Any] = {}
    extra: dict[str, Placed] = {}
    positional = [evaluator.placed(i) for i in node.args[1:]]
    if any(isinstance(p.value, Failed) for p in positional):
        return None
    slots = list(op.args)
    variadic = next((arg for arg in slots if arg.kind == "values"), None)
    if variadic is not None:
        rest = positional
        if (
            len(positional) == 1
            and isinstance(positional[0].value, tuple)
            and not isinstance(positional[0].value, Value)
        ):
            rest = [Placed(part, positional[0].span) for part in positional[0].value]
        given[variadic.name] = rest
    else:
        if len(positional) > len(slots):
            extra_span = positional[len(slots)].span
            sink.report(
                "E221", extra_span, f"`{op.name}` takes at most {plural(len(slots), 'argument')}", usage(op)
            )
            return None
        for arg, value in zip(slots, positional, strict=False):
            given[arg.name] = value
    names = {arg.name for arg in slots}
    makes_storage = any(arg.kind == "param" for arg in slots)
    collects = next((arg.name for arg in slots if arg.kind == "named"), None)
    for name, position in node.keywords:
        value = evaluator.placed(position)
        if isinstance(value.value, Failed):
            return None
        if name == "":
            sink.report("E222", value.span, "an argument without a name follows one with a name", usage(op))
            return None
        if name in given and name != collects:
            sink.report(
                "E223",
                evaluator.keyword_span(name, position),
                f"`{name}` is given twice to `{op.name}`",
                usage(op),
            )
            return None
        if name in names and name != collects:
            given[name] = value
        elif name in ("name", "init", "frozen") and makes_storage:
            extra[name] = value
        elif collects is not None:
            given.setdefault(collects, {})[name] = value
        else:
            known = [*names, *(("name", "init", "frozen") if makes_storage else ())]
            message = f"`{op.name}` has no argument `{name}`"
            sink.report(
                "E224", evaluator.keyword_span(name, position), message, usage(op), fix=suggest(name, known)
            )
            return None
    missing = [
        a.name for a in slots if a.required and a.name not in given and a.kind not in ("param", "values")
    ]
    if missing or (variadic is not None and not given[variadic.name]):
        what = ", ".join(f"`{m}`" for m in missing or ["a value"])
        sink.report("E225", evaluator.span(index), f"`{op.name}` needs {what}", usage(op))
        return None
    return given, extra


def plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def usage(op: Op) -> str:
    """``linear(x, out, weight=…, bias=…)``."""
    shown = [
        f"*{a.name}" if a.kind == "values" else a.name if a.required and a.kind != "param" else f"{a.name}=…"
        for a in op.args
    ]
    return f"usage: {op.name}({', '.join(shown)})"


def _universal(
    evaluator: Evaluator, op: Op, extra: dict[str, Placed]
) -> tuple[Init | None, bool, str | None]:
    init: Init | None = None
    frozen, place = evaluator.region.frozen, None
    if "init" in extra:
        init = initialiser(evaluator, extra["init"])
    if "frozen" in extra:
        frozen = frozen or extra["frozen"].value is True
        if not isinstance(extra["frozen"].value, bool):
            evaluator.sink.report("E226", extra["frozen"].span, "`frozen` is true or false")
    if "name" in extra:
        # Whatever the name means otherwise: a value, an op, another layer.
        value, text = extra["name"].value, extra["name"].span.text
        place = value if isinstance(value, str) else text
        if not place or not place.isidentifier():
            evaluator.sink.report("E226", extra["name"].span, "`name` is a bare name for this layer")
            place = None
        elif place in evaluator.region.layers:
            evaluator.sink.report("E227", extra["name"].span, f"a layer is named `{place}` already")
    return init, frozen, place


def initialiser(evaluator: Evaluator, placed: Placed) -> Init | None:
    """What `init=` says."""
    value = placed.value
    name: str | None = None
    args: tuple[Any, ...] = ()
    if isinstance(value, (Unknown, OpRef)):
        name = value.name
    elif isinstance(value, UnknownCall):
        name, args = value.name, value.args
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        name, args = "constant", (value,)
    if name is None or name not in INITIALISERS:
        fix = suggest(name or "", INITIALISERS)
        evaluator.sink.report(
            "E228",
            placed.span,
            f"`{placed.span.text}` is not an initialiser",
            notes=[f"one of: {', '.join(INITIALISERS)}"],
            fix=fix,
        )
        return None
    if len(args) > max(1, INITIALISERS[name]) or not all(isinstance(a, (int, float)) for a in args):
        evaluator.sink.report("E228", placed.span, f"`{name}` takes one number at the most")
        return None
    return Init(name, tuple(float(a) for a in args))


def _param(
    evaluator: Evaluator, op: Op, arg: Arg, given: Placed | None, id_: str, init: Init | None, frozen: bool
) -> Any:
    region = evaluator.region
    if given is not None and given.value is not True:
        if given.value is False:
            if f"{arg.name}=false" in arg.doc:
                return None
            message = f"`{arg.name}` of `{op.name}` cannot be left out"
            evaluator.sink.report("E225", given.span, message, fix=f"remove `{arg.name}=false`")
            return FAILED
        return evaluator.as_value(given)
    if given is None and not arg.required:
        return None
    # Its type and, without `init=`, its initialiser come from the op's `params` when shapes are known.
    first = init if init is not None and arg.name in ("weight", "value") else Init("default")
    if init is not None and arg.name == "bias":
        first = Init("zeros")
    return region.make_storage(
        f"{id_}.{arg.name}",
        "frozen" if frozen else "param",
        first,
        evaluator.span(evaluator.root) if evaluator.root >= 0 else None,
    )


def _is_none(placed: Placed) -> bool:
    return isinstance(placed.value, Unknown) and placed.value.name == "none"


def convert(evaluator: Evaluator, op: Op, arg: Arg, placed: Placed) -> Any:
    """An attribute's Python value from what was written, or `_BAD` after reporting."""
    value, kind = placed.value, arg.kind
    if isinstance(value, Failed):
        return _BAD
    if _is_none(placed) and not arg.required and "none" not in arg.choices:
        return None
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind in ("int", "axis") and isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind == "size" and isinstance(value, (int, Dim)) and not isinstance(value, bool):
        if isinstance(value, int) and value < 0:
            evaluator.sink.report("E229", placed.span, f"a size cannot be negative: {value}")
            return _BAD
        return value
    if kind in ("sizes", "ints", "axes"):
        parts = value if isinstance(value, tuple) and not isinstance(value, Value) else (value,)
        allowed = (int, Dim) if kind == "sizes" else (int,)
        if all(isinstance(p, allowed) and not isinstance(p, bool) for p in parts):
            return tuple(parts) if isinstance(value, tuple) or kind != "ints" else value
    if kind == "choice":
        name = (
            value.name if isinstance(value, (Unknown, OpRef)) else value if isinstance(value, str) else None
        )
        if name in arg.choices:
            return name
        shown = ", ".join(arg.choices)
        fix = suggest(name or "", arg.choices)
        evaluator.sink.report(
            "E226",
            placed.span,
            f"`{arg.name}` of `{op.name}` cannot be `{placed.span.text}`",
            f"one of: {shown}",
            fix=fix,
        )
        return _BAD
    if kind == "formula" and isinstance(value, Rule):
        return value
    if kind == "text" and isinstance(value, str):
        return value
    if isinstance(value, (Unknown, UnknownCall)) and (
        kind in ("size", "sizes") or evaluator.nearest(value.name)
    ):
        evaluator.report_unknown(value.name, placed.span)
        return _BAD
    wanted = {
        "bool": "true or false", "int": "an integer", "ints": "an integer or a tuple of integers", "axis": "an integer",
        "axes": "an axis or a tuple of axes", "float": "a number", "size": "a size", "sizes": "a size or a tuple of sizes",
        "text": "a text in quotes", "formula": "a predicate on places, such as `distance < 1.5`",
    }[kind]  # fmt: skip
    evaluator.sink.report(
        "E226", placed.span, f"`{arg.name}` of `{op.name}` is {wanted}, not {kind_of(value)}", usage(op)
    )
    return _BAD
