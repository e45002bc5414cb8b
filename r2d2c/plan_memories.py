"""The memories of a spec in numbers, and how the loops that carry them run while they learn. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from r2d2c.draw_bodies import plain_type
from r2d2c.driver import Checked
from r2d2c.graph import Graph, walk
from r2d2c.infer import Signatures
from r2d2c.loops import loop_of
from r2d2c.plan_sizes import number, size_of


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A memory in numbers. slots: of a sample. fields: their types, of one slot. bytes: of a sample, with the ages.

    runs: how its loop learns. why: why not faster, if it is not.
    """

    name: str
    loop: str
    slots: int
    fields: tuple[tuple[str, str], ...]
    bytes: int
    runs: str = ""
    why: str = ""


def memory_plans(checked: Checked, training: Graph, sizes: Mapping[str, int]) -> tuple[MemoryPlan, ...]:
    """The memories of the typed graph, as a step has them, and how their loops run in the training graph."""
    runs = dict(_ways(training, Signatures(checked.ops)))
    found: dict[MemoryPlan, None] = {}
    for _, node in walk(checked.graph):
        for store in loop_of(node).memories if node.op == "loop" else ():
            loop = loop_of(node)
            types = [(name, loop.carries[port].type) for name, port in store.fields]
            own = [loop.carries[port].type for port in (store.age, store.count)]
            made = MemoryPlan(
                store.name,
                loop.name,
                number(store.slots, sizes),
                tuple((name, plain_type(type_.with_dims(type_.dims[2:]))) for name, type_ in types),
                sum(size_of(type_, sizes) for type_ in (*(type_ for _, type_ in types), *own)),
                *runs.get((loop.name, store.name), ("", "")),
            )
            found[made] = None
    return tuple(found)


def _ways(
    graph: Graph, signatures: Signatures, halts: bool = False
) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """How the loops of a flat graph run, and why not faster, by the names of a loop and a memory."""
    from r2d2c.lower.independent import free_carries, why_not
    from r2d2c.lower.slots import memories_of

    for node in graph.body.nodes:
        if node.op != "loop":
            continue
        loop = loop_of(node)
        inner = graph.with_(main=node.attrs["region"])
        yield from _ways(inner, signatures, halts or loop.halt is not None)
        if not loop.memories:
            continue
        why = why_not(graph, node, signatures, halts)
        free = frozenset[int]() if why else free_carries(graph, node, signatures) or frozenset()
        entries = {write.carry for memory in memories_of(graph, node, free) for write in memory.writes}
        for store in loop.memories:
            if why:
                yield (loop.name, store.name), ("step by step", why)
            elif entries & {port for _, port in store.fields}:
                yield (loop.name, store.name), ("two phases, by entries", "")
            else:
                yield (loop.name, store.name), ("two phases", "no value is made of each slot by itself")
