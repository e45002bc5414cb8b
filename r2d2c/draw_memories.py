"""Memories in a picture: one cylinder for all that a loop carries of a memory, what is written there, and who reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from r2d2c.graph import Graph, Node, Region, Value, walk
from r2d2c.loops import Loop, Store, loop_of
from r2d2c.types import TensorType

if TYPE_CHECKING:
    from r2d2c.draw import Picture
    from r2d2c.syntax.ast import Syntax
    from r2d2c.syntax.spec import MemorySyntax

# What reading `m.newest.rep`, `m.written` or a value of `each_slot` adds to a step, under the memory's own name.
_READS = ("read_slot", "newest_slot", "oldest_slot", "slots_as_samples", "samples_as_slots", "lt")
_SURPRISE = "surprise"


class Part(NamedTuple):
    """A value of a memory in a step: its cylinder, and what it is called. before: from before the write.

    own: the memory itself, not made of it.
    """

    key: str
    label: str
    before: bool
    own: bool = True


class Write(NamedTuple):
    """What is written into a field."""

    key: str
    field: str
    value: Value


class Memories:
    """The memories that a loop carries. ``place``: what the ids of its step begin with; ``group``: its box."""

    def __init__(self, graph: Graph, step: Region, loop: Loop, group: str) -> None:
        self.graph, self.step, self.loop, self.group = graph, step, loop, group
        self.nodes = {node.id: node for node in step.nodes}
        self.parts: dict[Value, Part] = {}
        self.writes: list[Write] = []
        for store in loop.memories:
            self._own(store)
        for node in step.nodes:
            self._made(node)

    def _key(self, store: Store) -> str:
        return f"{self.group}.{store.name}"

    def _own(self, store: Store) -> None:
        """A memory before its writes, and after each of them."""
        key = self._key(store)
        for name, position in (*store.fields, ("age", store.age), ("count", store.count)):
            first, value = self.step.inputs[position].value, self.step.outputs[position].value
            self.parts[first] = Part(key, name, True)
            while value != first:
                self.parts[value] = Part(key, name, False)
                node = self.nodes[value.node]
                if node.op == "write_slot":
                    written = node.inputs[2]
                    assert written is not None
                    self.writes.append(Write(key, name, self._given(store, name, written)))
                before = node.inputs[0]
                assert before is not None
                value = before

    def starts(self) -> Iterator[tuple[str, int]]:
        """The carries of each cylinder."""
        for store in self.loop.memories:
            for position in (*(k for _, k in store.fields), store.age, store.count):
                yield self._key(store), position

    def _given(self, store: Store, field: str, value: Value) -> Value:
        """What the spec writes, without what a write adds: a stop, and no surprise at first."""
        while True:
            node = self.nodes[value.node]
            added = node.op == "stop" or (node.op == "where" and field == _SURPRISE)
            before = node.inputs[-1] if added and node.outputs == (field,) else None
            if before is None or node.id.rpartition(".")[0] != f"{self.loop.name}.{store.name}":
                return value
            value = before

    def _made(self, node: Node) -> None:
        """What reading a memory makes of it."""
        store = next((s for s in self.loop.memories if self._belongs(node, s)), None)
        read = [self.parts[value] for value in node.inputs if value in self.parts]
        if store is None or not read:
            return
        before = any(part.before for part in read)
        for port, name in enumerate(node.outputs):
            self.parts.setdefault(Value(node.id, port), Part(self._key(store), name, before, False))

    def _belongs(self, node: Node, store: Store) -> bool:
        if node.op == "call":
            return bool(node.attrs["region"] == f"{store.name}.each")
        return node.op in _READS and node.id.rpartition(".")[0] == f"{self.loop.name}.{store.name}"

    def draw(self, out: Picture, syntaxes: Mapping[str, MemorySyntax]) -> None:
        """The cylinders. ``syntaxes``: what the spec says of its memories, by name."""
        for store in self.loop.memories:
            lines = self._lines(store, syntaxes.get(store.name))
            out.add(self._key(store), "memory", [store.name, *lines], self.group)

    def _lines(self, store: Store, syntax: MemorySyntax | None) -> Iterator[str]:
        from r2d2c.draw_bodies import plain_type

        slots = int(store.slots) if isinstance(store.slots, int) else store.slots
        yield f"{slots} slot{'' if slots == 1 else 's'} of a sample"
        for name, position in store.fields:
            type_ = self.loop.carries[position].type
            yield f"{name}: {plain_type(type_.with_dims(type_.dims[2:]))}"
        made = self.graph.regions.get(f"{store.name}.each")
        for port in made.outputs if made is not None else ():
            yield f"each slot: {port.name} {plain_type(_of_one(self.graph.types.get(port.value)))}"
        if syntax is not None:
            yield f"replaces {_text(syntax.replace) or self._usual(store)}"
            when = _text(syntax.when)
            yield f"written when {when}" if when else "written at every step"
        if all(self.loop.carries[position].credit == "local" for _, position in store.fields):
            yield "credit over steps: local"

    def _usual(self, store: Store) -> str:
        """What is replaced where the spec does not say."""
        return f"argmin({_SURPRISE})" if f"{store.name}.replace" in self.graph.regions else "oldest"


def _of_one(type_: TensorType | None) -> TensorType | None:
    """The type for one slot: in `each_slot` slots are samples."""
    return type_.with_dims(type_.dims[1:]) if type_ is not None else None


def _text(syntax: Syntax | None, most: int = 60) -> str:
    """An expression as it is written, on one line."""
    if syntax is None:
        return ""
    text = " ".join(syntax.span(syntax.root).text.split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def joined(out: Picture, keys: set[str]) -> None:
    """One edge to each reader of a memory, with all that it reads."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    kept = []
    for arrow in out.arrows:
        at = arrow.start, arrow.end, arrow.style
        if arrow.start in keys:
            if at not in groups:
                kept.append(arrow)
            groups.setdefault(at, []).append(arrow.label)
        else:
            kept.append(arrow)
    out.arrows[:] = [
        replace(arrow, label=", ".join(sorted({*labels} - {""})))
        if (labels := groups.get((arrow.start, arrow.end, arrow.style)))
        else arrow
        for arrow in kept
    ]


def state_names(graph: Graph) -> tuple[dict[str, str], set[str]]:
    """What the ports of a model's state are called in a picture, and which are shown as their memory, all as one."""
    names = {state.port: f"{state.name}, the state" for state in graph.states}
    together = set()
    loops = [loop_of(node) for _, node in walk(graph) if node.op == "loop"]
    stores = {f"{loop.name}.{store.name}" for loop in loops for store in loop.memories}
    for state in graph.states:
        memory = next((name for name in stores if state.name.startswith(f"{name}.")), None)
        if memory is not None:
            names[state.port] = f"{memory}, the state"
            together.add(state.port)
    return names, together


__all__ = ["Memories", "Part", "Write", "joined", "state_names"]
