"""Memories in loops that run in phases: what every slot is computed to is computed once for every entry.

An entry is what a slot holds from a write on. What a step makes of each slot by itself depends on the entry alone, so it
is the same at every step at which a slot holds that. While the carries go from step to step it is computed for the one
new entry, and kept; then, with a gradient, once for the K + n entries that the slots of n steps hold between them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.loops import loop_of
from r2d2c.lower.independent import of_samples, slice_of
from r2d2c.types import Dim, DimLike, symbol

if TYPE_CHECKING:
    from r2d2c.lower.builder import FxBuilder

AS_SAMPLES, WRITE, CHOOSE = "slots_as_samples", "write_slot", "slot_to_replace"


class Write(NamedTuple):
    """How a carry is written: the slot of every sample, whether (None: always), and with what."""

    carry: int
    place: Value
    when: Value | None
    value: Value
    after: Value


@dataclass(frozen=True, slots=True)
class Rep:
    """A value made of each slot by itself, ``[B·K, …]``; or, as it is, the field of the carry ``field``, ``[B, K, …]``."""

    value: Value
    field: int | None = None


class Scores(NamedTuple):
    """A field by which a slot is chosen and that nothing else reads, and the ages that go with it, by their carries."""

    carry: int
    age: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Carries that are written together. fields: what an entry has. reps: what is read of the slots.

    unread: the fields of which nothing is kept while the carries go from step to step, but the ``scores``, in place.
    """

    writes: tuple[Write, ...]
    fields: tuple[int, ...]
    unread: frozenset[int]
    reps: tuple[Rep, ...]
    each: frozenset[str]
    slots: DimLike
    scores: Scores | None = None

    @property
    def index(self) -> Value:
        return self.writes[0].place

    @property
    def when(self) -> Value | None:
        return self.writes[0].when

    def write(self, carry: int) -> Write:
        return next(write for write in self.writes if write.carry == carry)


def memories_of(graph: Graph, node: Node, free: frozenset[int]) -> tuple[Memory, ...]:
    """The memories of a loop whose slots may be computed by entries. ``free``: the carries that take no gradient."""
    loop, step = loop_of(node), graph.regions[node.attrs["region"]]
    found = _writes(graph, step, [k for k in range(len(loop.carries)) if k in free])
    together: dict[tuple[Value, Value | None], list[Write]] = {}
    for write in found:
        together.setdefault((write.place, write.when), []).append(write)
    groups = list(together.values())
    labels = _each(graph, step, groups, len(loop.carries) + loop.sequences)
    # What is given at every step, or by another name, has to be kept at every step.
    kept = {
        step.outputs[g.port].value for g in loop.gives if g.kind == "steps" or g.port >= len(loop.carries)
    }
    memories = [_memory(graph, step, k, writes, labels, kept) for k, writes in enumerate(groups)]
    return tuple(m for m in memories if m.fields)


def _writes(graph: Graph, step: Region, carries: Iterable[int]) -> list[Write]:
    """The carries that are nothing but written once a step."""
    nodes = {node.id: node for node in step.nodes}
    found = []
    for k in carries:
        after, port = step.outputs[k].value, step.inputs[k].value
        node = nodes[after.node]
        if node.op != WRITE or node.inputs[0] != port:
            continue
        index, value, when = (*node.inputs[1:], None)[:3]
        assert index is not None and value is not None
        type_ = graph.types[value]
        if of_samples(type_) and not type_.weak and (when is None or of_samples(graph.types[when])):
            found.append(Write(k, index, when, value, after))
    return found


def _each(graph: Graph, step: Region, groups: Sequence[Sequence[Write]], per_step: int) -> dict[str, int]:
    """The nodes that compute something of each slot by itself, with the memory that they read."""
    written = {write.after: number for number, writes in enumerate(groups) for write in writes}
    fixed = {port.value.node for port in step.inputs[per_step:] if not of_samples(graph.types[port.value])}
    labels: dict[str, int] = {}
    for node in step.nodes:
        read = [value for value in node.inputs if value is not None]
        if node.op == AS_SAMPLES and read[0] in written:
            labels[node.id] = written[read[0]]
            continue
        if node.op == "port":
            continue
        if all(value.node in fixed for value in read):
            if not of_samples(graph.types[Value(node.id)]):
                fixed.add(node.id)
            continue
        numbers = {labels.get(value.node) for value in read if value.node not in fixed}
        if len(numbers) != 1 or None in numbers:
            continue
        (number,) = numbers
        assert number is not None
        if _by_row(graph, node, _rows(graph, groups[number])):
            labels[node.id] = number
    return labels


def _rows(graph: Graph, writes: Sequence[Write]) -> DimLike:
    first, slots, *_ = graph.types[writes[0].after].dims
    return first * slots


def _by_row(graph: Graph, node: Node, rows: DimLike) -> bool:
    """Whether a node has a row for every slot, and says nowhere else how many samples there are."""
    outputs = [graph.types[Value(node.id, port)] for port in range(len(node.outputs))]
    if any(type_.dims[:1] != (rows,) for type_ in outputs):
        return False
    return not any(_counts_samples(value, rows) for value in node.attrs.values())


def _memory(
    graph: Graph,
    step: Region,
    number: int,
    writes: Sequence[Write],
    labels: Mapping[str, int],
    kept: set[Value],
) -> Memory:
    each = frozenset(id_ for id_, label in labels.items() if label == number)
    readers: dict[Value, list[Node]] = {}
    for node in step.nodes:
        for value in node.inputs:
            if value is not None:
                readers.setdefault(value, []).append(node)
    outputs = {port.value for port in step.outputs}
    fields, unread, reps = [], set(), []
    for write in writes:
        read = readers.get(write.after, [])
        others = any(node.id not in each for node in read)
        as_rows = any(node.id in each for node in read)
        before = any(n.id != write.after.node for n in readers[step.inputs[write.carry].value])
        large = graph.types[write.after].rank > 2
        by_entry = not (before or write.after in kept or (others and not large)) and bool(read)
        if by_entry:
            unread.add(write.carry)
        if by_entry and others:
            reps.append(Rep(write.after, write.carry))
        if by_entry or as_rows:
            fields.append(write.carry)
    for node in (node for node in step.nodes if node.id in each):
        for port in range(len(node.outputs)):
            value = Value(node.id, port)
            if value in outputs or any(n.id not in each for n in readers.get(value, [])):
                reps.append(Rep(value))
    slots = graph.types[writes[0].after].dims[1]
    scores = _scores(graph, step, writes, readers) if fields else None
    if scores is not None and step.outputs[scores.carry].value not in kept:
        fields.append(scores.carry)
        unread.add(scores.carry)
    else:
        scores = None
    return Memory(tuple(writes), tuple(fields), frozenset(unread), tuple(reps), each, slots, scores)


def _scores(
    graph: Graph, step: Region, writes: Sequence[Write], readers: Mapping[Value, list[Node]]
) -> Scores | None:
    nodes = {node.id: node for node in step.nodes}
    outputs = [port.value for port in step.outputs]
    first, types = writes[0], graph.types
    chosen = nodes[first.place.node]
    if chosen.op != CHOOSE:
        return None
    score, age = chosen.inputs[:2]
    write = next((w for w in writes if step.inputs[w.carry].value == score), None)
    if write is None or score is None or not types[score].floating or types[score].rank != 2:
        return None
    others = {node.id for node in readers[score]} - {chosen.id, write.after.node}
    if others or readers.get(write.after) or outputs.count(write.after) != 1 or score in outputs:
        return None
    for k, port in enumerate(step.inputs[: len(outputs)]):
        after = nodes[outputs[k].node]
        if port.value == age and after.op == "advance_age":
            same = (*after.inputs, None)[:3] == (age, first.place, first.when)
            return Scores(write.carry, k) if same and types[write.value].dtype == types[score].dtype else None
    return None


def fresh_of(
    step: Region, memories: Sequence[Memory], ages: Collection[Value]
) -> dict[Value, tuple[int, Rep]]:
    """What is read of the slot that a step has just written: the entry itself, by its memory.

    Where every step writes, that is the newest one. ``ages``: those of memories, which are at least 0.
    """
    nodes = {node.id: node for node in step.nodes}
    found: dict[Value, tuple[int, Rep]] = {}
    for node in step.nodes:
        if node.op != "read_slot" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        whole, index = nodes[node.inputs[0].node], nodes[node.inputs[1].node]
        written: Value | None = node.inputs[1]
        if index.op == "newest_slot" and index.inputs[0] is not None and index.inputs[0] in ages:
            older = nodes[index.inputs[0].node]
            always = older.op == "advance_age" and not any(older.inputs[2:])
            written = older.inputs[1] if always else None
        for number, memory in enumerate(memories):
            if memory.when is not None or written != memory.index:
                continue
            if (
                whole.op == "samples_as_slots"
                and whole.inputs[0] is not None
                and whole.inputs[0].node in memory.each
            ):
                found[Value(node.id)] = number, Rep(whole.inputs[0])
    return found


# -- building


def _fewer(value: Any, rows: DimLike) -> Any:
    """An attribute with one row for every sample, in the place of one for every slot."""
    if isinstance(value, Dim):
        return symbol("B") if value == rows else value
    return type(value)(_fewer(part, rows) for part in value) if isinstance(value, tuple | list) else value


def _counts_samples(value: Any, rows: DimLike) -> bool:
    """Whether an attribute mentions the samples, other than as one row for every slot."""
    if isinstance(value, Dim):
        return "B" in value.symbols() and value != rows
    return isinstance(value, tuple | list) and any(_counts_samples(part, rows) for part in value)


def by_sample(graph: Graph, memory: Memory) -> Graph:
    """The graph in whose types the slots of a memory are samples."""
    rows = _rows(graph, memory.writes)
    types = {
        value: type_.with_dims((symbol("B"), *type_.dims[1:])) if type_.dims[:1] == (rows,) else type_
        for value, type_ in graph.types.items()
    }
    return graph.with_(types=types)


def lower_each(
    b: FxBuilder, step: Region, memory: Memory, reps: Sequence[Rep], entries: Mapping[int, Any]
) -> list[Any]:
    """What slots that hold some entries, ``[N, …]`` by carry, are computed to."""
    graph, before = b.graph, dict(b.env)
    rows = _rows(graph, memory.writes)
    written = {write.after: write.carry for write in memory.writes}
    nodes, _ = slice_of(step, [rep.value for rep in reps if rep.field is None], set(written))
    b.graph = by_sample(graph, memory)
    for node in nodes:
        if node.op == AS_SAMPLES and node.inputs[0] in written:
            b.env[Value(node.id)] = entries[written[node.inputs[0]]]
        elif node.id in memory.each or Value(node.id) not in b.env:
            b.add(replace(node, attrs={key: _fewer(value, rows) for key, value in node.attrs.items()}))
    found = [entries[rep.field] if rep.field is not None else b.env[rep.value] for rep in reps]
    b.graph, b.env = graph, before
    return found
