"""Loops that run and do not what was meant: carries that nobody reads, halting rules that never halt, lost values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from r2d2c.graph import USES, Node, Region, Value, walk
from r2d2c.loops import Given, Loop, loop_of, one_axis
from r2d2c.source import Span
from r2d2c.syntax.spec import LoopSyntax
from r2d2c.types import TensorType
from r2d2c.verify.context import Context

# What gives numbers outside of 0..1, so that no probability comes out of it.
UNBOUNDED = (
    "linear", "bilinear", "matmul", "conv1d", "conv2d", "conv3d", "layer_norm", "batch_norm", "wired",
    "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "exp", "square", "log_softmax",
)  # fmt: skip
# What only takes numbers to another place.
MOVES = (
    "slice", "reshape", "squeeze", "unsqueeze", "flatten", "transpose", "permute", "rearrange", "expand",
    "select", "stop", "cast",
)  # fmt: skip
FILLED = {"zeros": 0.0, "ones": 1.0}


@dataclass(frozen=True, slots=True)
class _Used:
    """A loop of the spec: its node and step as they are trained, and all that is read of what it gives."""

    syntax: LoopSyntax
    node: Node
    loop: Loop
    step: Region
    whole: Region
    gives: frozenset[tuple[str, str]]

    @property
    def name(self) -> str:
        return self.syntax.signature.name


def check_loops(c: Context) -> None:
    for used in _loops(c):
        _carries_read(c, used)
        if used.loop.halt is not None:
            _can_halt(c, used)
            _is_probability(c, used)
            _for_every_sample(c, used)


def check_statistics(c: Context) -> None:
    """Ops in a step that keep running statistics: nothing would update them, and the model in use would be another."""
    regions = c.graph.regions
    kept = {name for name, row in c.graph.storage.items() if row.kind == "statistic"}
    inside = {name: name for name in c.graph.steps}
    todo = list(inside)
    while todo:
        name = todo.pop()
        found = [n.attrs["region"] for n in regions[name].nodes if n.op in USES]
        todo += [each for each in found if each not in inside]
        inside |= {each: inside[name] for each in found if each not in inside}
    told: set[Span | None] = set()
    for name, step in inside.items():
        nodes = regions[name].nodes
        stored = {Value(n.id) for n in nodes if n.op == "param" and n.attrs["storage"] in kept}
        for node in nodes:
            if stored.isdisjoint(node.inputs) or node.origin in told:
                continue
            told.add(node.origin)
            loop = step.partition(".")[0]
            message = (
                f"`{node.op}` in the loop `{loop}` normalises with the batch while it learns, and has no running"
                " statistics when the model is used"
            )
            label = "every step has others"
            c.sink.report(
                "E272", node.origin, message, label, fix="use `layer_norm`, or normalise outside of the loop"
            )


def _loops(c: Context) -> Iterator[_Used]:
    """The loops that something reads, each once."""
    syntaxes = {loop.signature.name: loop for loop in c.spec.loops}
    read: dict[str, set[tuple[str, str]]] = {}
    nodes: dict[str, Node] = {}
    for _, node in walk(c.training):
        if node.op == "loop":
            loop, step = loop_of(node), c.training.regions[node.attrs["region"]]
            if node.attrs["region"] in c.graph.regions:  # not a copy that a credit rule has made
                nodes.setdefault(loop.name, node)
            read.setdefault(loop.name, set()).update((step.outputs[g.port].name, g.kind) for g in loop.gives)
    for name, node in nodes.items():
        region = node.attrs["region"]
        if name in syntaxes:
            steps = c.training.regions[region], c.graph.regions[region]
            yield _Used(syntaxes[name], node, loop_of(node), *steps, frozenset(read[name]))


def _carries_read(c: Context, used: _Used) -> None:
    """A carry of which no step reads what the step before has made, and nothing else what it is in the end."""
    whole = used.whole
    count = len(used.syntax.carry)
    given = {name for name, _ in used.gives}
    for carry, port in zip(used.syntax.carry, whole.inputs, strict=False):
        read = {v for node in whole.nodes for v in node.inputs}
        read |= {out.value for out in whole.outputs[:count] if out.name != carry.name}
        if port.value not in read and carry.name not in given:
            c.sink.report(
                "W476",
                carry.span,
                f"the carry `{carry.name}` of `{used.name}` is updated and never read",
                "no step reads what the step before has made of it",
                fix=f"read it in the body, or remove it and call the value `_{carry.name}`",
            )


# -- halting


def _can_halt(c: Context, used: _Used) -> None:
    """A rule that says the same at every step: a bool halts at the first or never, a probability adds up."""
    halt, loop, step = used.loop.halt, used.loop, used.step
    assert halt is not None and used.syntax.until is not None
    says = step.outputs[halt.port].value
    behind = _behind(step, says)
    changing = {port.value.node for port in step.inputs[: len(loop.carries) + loop.sequences]}
    ops = {node.op for node in step.nodes if node.id in behind}
    if behind & changing or any(op in c.ops and "random" in c.ops[op].traits for op in ops):
        return
    until = used.syntax.until
    span, most = until.span(until.root), loop.most_trips(dict(c.graph.ranges))
    fix = "let it depend on a carry, or on `step`"
    if c.training.types[says].dtype == "bool":
        message = (
            f"`until` of `{used.name}` is the same at every step: a sample halts at the first one or never"
        )
        c.sink.report("E473", span, message, fix=fix)
        return
    number = _constant(step, says)
    if number is not None and most is not None and number * most < 1.0 - halt.epsilon:
        total = f"{number:g} at each of {most} steps are {number * most:g}, less than 1 - {halt.epsilon:g}"
        c.sink.report("E473", span, f"no sample of `{used.name}` ever halts: {total}", fix=fix)
        return
    message = f"`until` of `{used.name}` is the same at every step, so how long a sample takes is known at the first"
    c.sink.report("N474", span, message, fix=f"{fix}, if it is to depend on what the steps have found")


def _constant(step: Region, value: Value) -> float | None:
    """The number that all elements of a value are, if that is plain."""
    node = _maker(step, value)
    if node.op in FILLED:
        return FILLED[node.op]
    found = node.attrs.get("value") if node.op in ("full", "constant") else None
    return float(found) if isinstance(found, (int, float)) else None


def _is_probability(c: Context, used: _Used) -> None:
    halt, step = used.loop.halt, used.step
    assert halt is not None and used.syntax.until is not None
    until = used.syntax.until
    maker = _maker(step, step.outputs[halt.port].value)
    if maker.op in UNBOUNDED:
        c.sink.report(
            "W475",
            until.span(until.root),
            f"`until` of `{used.name}` is a probability, and `{maker.op}` gives any number",
            also=[(maker.origin, "made here")],
            fix=f"`sigmoid({until.span(until.root).text})`",
        )


def _for_every_sample(c: Context, used: _Used) -> None:
    """What is given must have samples along its first axis, and what a step reads must have one axis of them."""
    halt, loop, step, types = used.loop.halt, used.loop, used.step, c.training.types
    assert halt is not None
    samples = types[step.outputs[halt.port].value].dims[0]
    origins = {node.id: node.origin for node in step.nodes}
    count = len(loop.carries)
    for given in loop.gives:
        type_ = loop.carries[given.port].type if given.port < count else types[step.outputs[given.port].value]
        if given.kind in ("last", "steps", "mean") and type_.dims[:1] != (samples,):
            origin = loop.carries[given.port].origin if given.port < count else None
            origin = origin or origins.get(step.outputs[given.port].value.node)
            _no_samples(c, used, _shown(used, given), type_, origin)
    for port in step.inputs:
        if not one_axis(types[port.value], samples):
            _no_samples(c, used, port.name, types[port.value], used.syntax.span)


def _shown(used: _Used, given: Given) -> str:
    name = used.step.outputs[given.port].name
    return name if given.kind == "last" else f"{name}.{given.kind}"


def _no_samples(c: Context, used: _Used, name: str, type_: TensorType, origin: Span | None) -> None:
    until = used.syntax.until
    assert until is not None
    c.sink.report(
        "E324",
        origin,
        f"samples of `{used.name}` halt at different steps, and `{name}`, {type_}, has not one element for each of them",
        also=[(until.span(until.root), "halts here")],
        fix="put the samples along its first axis",
    )


def _maker(step: Region, value: Value) -> Node:
    """What has made the numbers of a value."""
    nodes = {node.id: node for node in step.nodes}
    node = nodes[value.node]
    while node.op in MOVES and node.inputs[0] is not None:
        node = nodes[node.inputs[0].node]
    return node


def _behind(step: Region, value: Value) -> set[str]:
    """The nodes that a value is computed from."""
    nodes = {node.id: node for node in step.nodes}
    found: set[str] = set()
    stack = [value.node]
    while stack:
        id_ = stack.pop()
        if id_ not in found:
            found.add(id_)
            stack.extend(v.node for v in nodes[id_].inputs if v is not None)
    return found


# -- values


def check_loop_values(c: Context) -> None:
    """Names in the body of a loop that no statement, no halting rule and nothing outside reads."""
    for used in _loops(c):
        syntax, whole = used.syntax.body, used.whole
        read = {v for node in whole.nodes for v in node.inputs}
        given = {name for name, _ in used.gives} | {carry.name for carry in used.syntax.carry} | {"until"}
        outputs = {port.name: port.value for port in whole.outputs}
        last: dict[str, tuple[int, int]] = {}
        for statement in syntax.statements:
            last.update({name: (start, end) for name, start, end in statement.targets})
        for name, (start, end) in last.items():
            value = outputs.get(name)
            if name.startswith("_") or name in given or value is None or value in read:
                continue
            if any(outputs.get(other) == value for other in given):
                continue
            span = Span(syntax.source, start, end)
            message = (
                f"the value `{name}` is never read: not at another place of `{used.name}`, and not outside"
            )
            c.sink.report("W450", span, message, fix=f"remove it, or call it `_{name}` if that is meant")
