"""Loops in a picture: a box around one step, and an edge back for everything that is carried to the next one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.loops import Carry, Given, Loop, loop_of
from r2d2c.types import DimLike

if TYPE_CHECKING:
    from r2d2c.draw import Picture

CARRIED = "#6a1b9a"
_SAID = {"last": "", "steps": "every step", "mean": "mean", "count": "count", "ponder": "count + remainder"}
_STARTS = ("zeros", "ones", "rand", "uniform")


def title_of(loop: Loop) -> str:
    """``refine, depth steps``."""
    trips = _dim(loop.trips)
    if loop.halt is not None:
        return f"{loop.name}: until halt, at most {trips} steps"
    if loop.over:
        return f"{loop.name}: one step for each of {trips}"
    return f"{loop.name}: {trips} step{'' if trips == '1' else 's'}" + (
        ", recomputed" if loop.recompute else ""
    )


def _dim(dim: DimLike) -> str:
    return str(int(dim)) if isinstance(dim, int) else str(dim)


def loop_in(graph: Graph, region: str) -> tuple[Region, Node] | None:
    """The region around a loop, and its loop node; None for a region of another kind."""
    around = graph.regions[region]
    node = next((node for node in around.nodes if node.op == "loop"), None)
    return (around, node) if around.kind == "loop" and node is not None else None


def given_by(around: Region, node: Node) -> list[tuple[Given, str]]:
    """What each output of a call of a loop is, and the name it has in the step."""
    loop = loop_of(node)
    return [(loop.gives[port.value.port], port.name) for port in around.outputs]


def said(given: Given) -> str:
    """The label of an edge out of a loop."""
    return _SAID[given.kind]


def start_of(around: Region, loop: Node, position: int) -> tuple[str, list[int]]:
    """What a carry starts as, in a word where there is one, and the loop's parameters that it depends on."""
    nodes = {node.id: node for node in around.nodes}
    ports = {port.value: k for k, port in enumerate(around.inputs)}
    first = loop.inputs[position]
    assert first is not None
    if first in ports:
        return "", [ports[first]]
    found, stack, reads, word = {first.node}, [first.node], [], ""
    while stack:
        node = nodes[stack.pop()]
        if node.op == "param":
            word = word or "learned"
        elif node.op in _STARTS:
            word = word or node.op
        for value in node.inputs:
            if value in ports:
                reads.append(ports[value])
            elif value is not None and value.node not in found:
                found.add(value.node)
                stack.append(value.node)
    return word, sorted(set(reads))


def lines_of(carry: Carry, word: str) -> list[str]:
    """What the box of a carried value says besides."""
    credit = str(carry).partition("{credit: ")[2].rstrip("}")
    start = "its start is learned" if word == "learned" else f"starts as {word}" if word else ""
    return [start, f"credit over steps: {credit}" if credit else ""]


def draw_flat_loop(
    out: Picture, graph: Graph, node: Node, shown: Mapping[Value, str], group: str | None
) -> dict[Value, str]:
    """A loop of a flat graph with every op of its step. Gives the boxes of what the loop gives."""
    from r2d2c.draw_bodies import plain_type

    loop, step = loop_of(node), graph.regions[node.attrs["region"]]
    prefix = f"{node.id} "
    out.groups[node.id] = title_of(loop)
    out.parents[node.id] = group
    first, read = len(loop.carries), len(loop.carries) + loop.sequences
    outside: dict[Value, tuple[str | None, str]] = {}
    for position, (port, given) in enumerate(zip(step.inputs, node.inputs, strict=True)):
        start = shown.get(given) if given is not None else None
        if position < first:
            outside[port.value] = start, "first"
        elif position < read:
            outside[port.value] = start, "each step"
        elif port.name not in graph.storage:
            outside[port.value] = start, ""
    carried = {port.value: position for position, port in enumerate(step.inputs[:first])}
    inside: dict[Value, str] = {}
    back: list[tuple[str, int]] = []
    for each in step.nodes:
        if each.op in ("port", "param", "constant", "size", "argument"):
            continue
        if each.op == "loop":
            known = {value: key for value, (key, _) in outside.items() if key is not None} | inside
            inside |= draw_flat_loop(out, graph, each, known, node.id)
            continue
        shape = plain_type(graph.types.get(Value(each.id))) if len(each.outputs) == 1 else ""
        key = out.add(f"{prefix}{each.id}", "value", [each.id, shape], node.id)
        inside |= {Value(each.id, port): key for port in range(len(each.outputs))}
        for value in each.inputs:
            if value is None:
                continue
            if value in inside:
                out.connect(inside[value], key)
                continue
            start, label = outside.get(value, (None, ""))
            if start is not None:
                out.connect(start, key, label=label)
            if value in carried:
                back.append((key, carried[value]))
    for key, position in back:
        maker = inside.get(step.outputs[position].value)
        if maker is not None:
            out.connect(maker, key, "carried", loop.carries[position].name, CARRIED)
    return {
        Value(node.id, number): inside[step.outputs[given.port].value]
        for number, given in enumerate(loop.gives)
        if step.outputs[given.port].value in inside
    }


__all__ = ["CARRIED", "draw_flat_loop", "given_by", "lines_of", "loop_in", "said", "start_of", "title_of"]
