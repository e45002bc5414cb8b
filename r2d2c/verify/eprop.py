"""Carries with the credit `eprop`: what it can stand beside, and what has no eligibility trace."""

from __future__ import annotations

from collections.abc import Iterator

from r2d2c.graph import Node, Region, Value
from r2d2c.loops import Loop, loop_of
from r2d2c.passes.eprop import Neurons, has_eprop, neurons_of, own_states
from r2d2c.verify.context import Context, listed


def check_eprop(c: Context) -> None:
    done: set[str] = set()
    for around, node in _loops(c):
        loop, step = loop_of(node), c.training.regions[node.attrs["region"]]
        if loop.name in done:
            continue
        done.add(loop.name)
        if _possible(c, loop):
            _states(c, loop, step)
            _traced(c, loop, step, around, node)


def _loops(c: Context) -> Iterator[tuple[Region, Node]]:
    for region in c.training.regions.values():
        for node in region.nodes:
            if node.op == "loop" and has_eprop(loop_of(node)):
                yield region, node


def _possible(c: Context, loop: Loop) -> bool:
    first = next(carry for carry in loop.carries if carry.credit == "eprop")
    also = [(first.origin, f"`{first.name}` has the credit `eprop`")]
    before = len(c.sink.diagnostics)
    if loop.halt is not None:
        message = (
            f"`{loop.name}` halts, and eligibility traces are for loops whose samples take the same steps"
        )
        c.sink.report("E561", first.origin, message, fix="give the loop a `repeat` or an `over`")
    for carry in loop.carries:
        floating = carry.type.floating
        if carry.credit == "eprop" and not floating:
            message = f"`{carry.name}` is {carry.type}: no gradient goes through it, and `eprop` is for the state of neurons"
            c.sink.report("E562", carry.origin, message, fix="leave its credit out")
        elif carry.credit in ("backprop", "truncate") and floating:
            shown = f"truncate({carry.every})" if carry.every else "backprop"
            c.sink.report(
                "E560",
                carry.origin,
                f"`{carry.name}` has the credit `{shown}`, which stores every step, and `eprop` stores none",
                also=also,
                fix="give it the credit `local`, or `eprop` if it is a state of the same neurons",
            )
    return len(c.sink.diagnostics) == before


def _states(c: Context, loop: Loop, step: Region) -> None:
    for carry, has_own in zip(loop.carries, own_states(loop, step, c.training.types), strict=True):
        if carry.credit == "eprop" and not has_own:
            c.sink.report(
                "W563",
                carry.origin,
                f"the next value of `{carry.name}` depends on no state of its own neuron: here `eprop` is `local`",
                fix=f"let `{carry.name}` keep a part of itself, as in `0.9 * {carry.name} + …`",
            )


def _traced(c: Context, loop: Loop, step: Region, around: Region, node: Node) -> None:
    """Parameters that a neuron reads in a way that has no trace."""
    populations = neurons_of(loop, step, c.training.types)
    outside = {n.id: n for n in around.nodes}
    names: dict[Value, str] = {}
    for port, value in zip(step.inputs, node.inputs, strict=True):
        made = outside.get(value.node) if value is not None else None
        if made is not None and made.op == "param":
            name = made.attrs["storage"]
            if c.training.storage[name].kind == "param":
                names[port.value] = name
    followed = {names[v] for each in populations for v in _followed(step, each) if v in names}
    roots = [v for each in populations for v in (*each.other, *(layer.x for layer in each.layers))]
    missing = [name for name in dict.fromkeys(_behind(step, roots, names)) if name not in followed]
    if missing:
        missing.sort(key=list(c.training.storage).index)
        first = next(carry for carry in loop.carries if carry.credit == "eprop")
        origin = c.training.storage[missing[0]].origin
        c.sink.report(
            "W564",
            origin,
            f"{listed(missing)} {'have' if missing[1:] else 'has'} no eligibility trace in `{loop.name}`: the step itself "
            f"teaches {'them' if missing[1:] else 'it'}, and no later one",
            also=[(first.origin, "the credit `eprop` is here")],
            fix="let a `linear` of its own give each value that the neuron reads, or give the carries the credit `backprop`",
        )


def _followed(step: Region, neurons: Neurons) -> list[Value]:
    found = [v for layer in neurons.layers for v in (layer.weight, layer.bias) if v is not None]
    return [*found, *_ports_behind(step, neurons.same)]


def _ports_behind(step: Region, values: tuple[Value, ...]) -> list[Value]:
    made, found, stack = {n.id: n for n in step.nodes}, dict[Value, None](), list(values)
    while stack:
        value = stack.pop()
        if value in found:
            continue
        found[value] = None
        if made[value.node].op != "stop":
            stack.extend(v for v in made[value.node].inputs if v is not None)
    return list(found)


def _behind(step: Region, roots: list[Value], names: dict[Value, str]) -> list[str]:
    return [names[v] for v in _ports_behind(step, tuple(roots)) if v in names]
