"""Loops in a printed graph: what is carried, what is read a step, the step itself, and what the loop gives.

%refine/loop = loop, depth steps : f32[B, 10]  # spec.yaml:9
  carry %c: f32[B, 16] = %refine.c.expand
  carry %z: f32[B, 16] {credit: truncate(3)} = %refine.z.zeros
  with  %data = %think.r.linear
  %refine.v.linear = linear(%data, weight=@refine.v.linear.weight)
  next  c = %refine.c.tanh
  next  z = %refine.z.add
  gives logits
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.loops import Given, loop_of
from r2d2c.types import DimLike

Lines = Iterator[tuple[str, str]]


def head_of(node: Node, dim: Callable[[DimLike], str]) -> str:
    """``loop over T`` and its kind, as it stands in the line of the node."""
    loop = loop_of(node)
    trips = dim(loop.trips)
    if loop.halt is not None:
        text = f"loop until halt, at most {trips} steps, epsilon {loop.halt.epsilon:g}"
    elif loop.over:
        text = f"loop over {trips}"
    else:
        text = f"loop, {trips} step{'' if trips == '1' else 's'}"
    return f"{text}, recompute" if loop.recompute else text


def storage_ports(graph: Graph, step: Region) -> dict[str, str]:
    """The ports of a flat step that are reads of storage: by their nodes, the names."""
    return {port.value.node: port.name for port in step.inputs if port.name in graph.storage}


def parts_of(
    graph: Graph,
    node: Node,
    value: Callable[[Value | None], str],
    type_: Callable[[Value], str],
    body: Callable[[Iterable[Node]], Lines],
    known: bool,
) -> Lines:
    """The lines below a loop's own, each with its place. ``known``: its step has been printed already."""
    loop, step = loop_of(node), graph.regions[node.attrs["region"]]
    stored = storage_ports(graph, step)
    first, read = len(loop.carries), len(loop.carries) + loop.sequences
    given = list(zip(step.inputs, node.inputs, strict=True))
    for carry, (port, start) in zip(loop.carries, given, strict=False):
        rule = str(carry).partition(" {")[2]
        shown = f" {{{rule}" if rule else ""
        yield f"  carry {value(port.value)}{type_(port.value)}{shown} = {value(start)}", ""
    for port, sequence in given[first:read]:
        yield f"  each  {value(port.value)}{type_(port.value)} of {value(sequence)}", ""
    for port, same in given[read:]:
        if port.value.node not in stored:
            yield f"  with  {value(port.value)}{type_(port.value)} = {value(same)}", ""
    if known:
        yield f"  the same steps as region {step.name} above", ""
    else:
        yield from body(step.nodes)
        for position, port in enumerate(step.outputs):
            word = "next" if position < first else "out"
            word = "halt" if loop.halt is not None and loop.halt.port == position else word
            yield f"  {word:<5} {port.name} = {value(port.value)}{type_(port.value)}", ""
    if loop.gives:
        yield f"  gives {', '.join(_given(each, step) for each in loop.gives)}", ""


def _given(given: Given, step: Region) -> str:
    name = step.outputs[given.port].name
    if given.kind in ("count", "ponder"):
        return given.kind
    return name if given.kind == "last" else f"{name}.{given.kind}"


def steps_in_loops(graph: Graph) -> set[str]:
    """The regions that are printed with the loops that run them."""
    nodes = [node for region in graph.regions.values() for node in region.nodes]
    return {node.attrs["region"] for node in nodes if node.op == "loop"}


__all__ = ["Lines", "head_of", "parts_of", "steps_in_loops", "storage_ports"]
