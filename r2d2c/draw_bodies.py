"""The named values of behaviors and of the steps of loops, as boxes of a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from r2d2c.draw_loops import CARRIED, given_by, lines_of, loop_in, said, start_of, title_of
from r2d2c.draw_memories import Memories, joined
from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.loops import loop_of
from r2d2c.types import TensorType

if TYPE_CHECKING:
    from r2d2c.draw import Kind, Picture
    from r2d2c.syntax.spec import MemorySyntax

SILENT = ("param", "constant", "size", "argument")
# Draws the edge into a box from a port, by the port's position, with a label.
Into = Callable[[str, int, str], None]


@dataclass(slots=True)
class Body:
    """A region's named values, in a group. A box says which ops make its value; a loop is a group of its own.

    place: what the ids of its statements begin with. notes: further lines of some boxes.
    keys: the boxes of values, once it is drawn. inside, labels: of what loops give, the boxes in them, and what it is.
    memories: those of the spec, by name. held: those that this region, a step, carries.
    """

    out: Picture
    graph: Graph
    region: Region
    place: str
    group: str
    kind: Kind
    into: Into
    notes: Mapping[Value, Sequence[str]] = field(default_factory=dict)
    memories: Mapping[str, MemorySyntax] = field(default_factory=dict)
    held: Memories | None = None
    keys: dict[Value, str] = field(default_factory=dict)
    inside: dict[Value, str] = field(default_factory=dict)
    labels: dict[Value, str] = field(default_factory=dict)
    ports: dict[Value, int] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)

    def draw(self) -> dict[Value, str]:
        region = self.region
        self.ports = {port.value: position for position, port in enumerate(region.inputs)}
        self.nodes = {node.id: node for node in region.nodes}
        named: dict[Value, str] = {}
        for port in region.outputs:
            named.setdefault(port.value, port.name)
        for node in region.nodes:
            for value, name in _named(node, self.place):
                named.setdefault(value, name)
        loops = [
            node for node in region.nodes if node.op == "call" and loop_in(self.graph, node.attrs["region"])
        ]
        given = {Value(node.id, port) for node in loops for port in range(len(node.outputs))}
        # What a loop gives has a box in it; another one only where a statement gives it a name.
        self.keys = {
            v: f"{self.group}.{name}" for v, name in named.items() if v not in given or "." not in name
        }
        parts = self.held.parts if self.held is not None else {}
        self.keys |= {value: part.key for value, part in parts.items() if part.own}
        boxed = {v for v in self.keys if v not in self.ports and not (v in parts and parts[v].own)}
        if self.held is not None:
            self.held.draw(self.out, self.memories)
        for node in region.nodes:
            if node in loops:
                self._loop(node)
            for position in range(len(node.outputs)):
                value = Value(node.id, position)
                if value in boxed:
                    self._box(self.keys[value], named[value], value)
        for port in region.outputs:
            if port.value in self.ports:  # `h = x`: nothing is computed
                key = self.keys[port.value] = f"{self.group}.{port.name}"
                self.out.add(key, self.kind, [port.name, self._type(port.value)], self.group)
                self.into(key, self.ports[port.value], "")
        if self.held is not None:
            self._written(self.held)
        return self.keys

    def _written(self, held: Memories) -> None:
        """An edge for every value that is written into a memory; one without a name gets a box."""
        for key, name, value in held.writes:
            if self.nodes[value.node].op in SILENT:
                continue  # a number
            if not any(value in known for known in (self.ports, self.keys, self.labels, held.parts)):
                self.keys[value] = f"{key}.{name}"
                self._box(self.keys[value], name, value)
            self._connect(value, key, name)

    def _type(self, value: Value) -> str:
        return plain_type(self.graph.types.get(value))

    def _box(self, key: str, name: str, value: Value) -> None:
        """A value, the ops that make it, and edges from what they read."""
        ops: list[str] = []
        sources: list[Value] = []
        seen, stack = {value.node}, [value.node]
        parts = self.held.parts if self.held is not None else {}
        if value in self.labels or value in parts:
            sources, stack = [value], []
        while stack:
            node = self.nodes[stack.pop()]
            if node.op not in SILENT:
                ops.append(op_name(node))
            for read in node.inputs:
                if read is None:
                    continue
                known = read in self.ports or read in parts
                if known or (read in self.keys and read.node != value.node):
                    sources.append(read)
                elif read.node not in seen:
                    seen.add(read.node)
                    stack.append(read.node)
        lines = [name, shorten(list(reversed(ops))), self._type(value), *self.notes.get(value, ())]
        self.out.add(key, self.kind, lines, self.group)
        for read in reversed(sources):
            self._connect(read, key)

    def _connect(self, value: Value, key: str, label: str = "") -> None:
        part = self.held.parts.get(value) if self.held is not None else None
        if part is not None and self.keys.get(value) in (None, key, part.key):
            label = f"{label}: {part.label}" if label else part.label
            if part.before:
                self.out.connect(part.key, key, "carried", label, CARRIED)
            else:
                self.out.connect(part.key, key, label=label)
        elif value in self.ports:
            self.into(key, self.ports[value], label)
        elif value in self.labels:
            self.out.connect(self.inside[value], key, label=self.labels[value] or label)
        else:
            self.out.connect(self.keys[value], key, label=label)

    # -- loops
    def _loop(self, call: Node) -> None:
        found = loop_in(self.graph, call.attrs["region"])
        assert found is not None
        around, node = found
        loop, step = loop_of(node), self.graph.regions[node.attrs["region"]]
        group = f"{self.group}.{call.id}"
        title = title_of(loop)
        for port, value in zip(around.inputs, call.inputs, strict=True):
            source = self.nodes[value.node] if value is not None else None
            if source is not None and source.op == "constant":
                title += f", {port.name} {source.attrs['value']:g}"
        self.out.groups[group], self.out.parents[group] = title, self.group
        first = len(loop.carries)
        held = Memories(self.graph, step, loop, group) if loop.memories else None
        cylinders = {write.key for write in held.writes} if held is not None else set()
        parts = self.held.parts if self.held is not None else {}
        back: list[tuple[str, int, str]] = []
        started: set[int] = set()

        def feed(parameter: int, key: str, label: str) -> None:
            value = call.inputs[parameter]
            assert value is not None
            if self.nodes[value.node].op in SILENT:
                return  # a number
            if not any(value in known for known in (self.ports, self.keys, self.labels, parts)):
                self.keys[value] = f"{group}({around.inputs[parameter].name})"
                self._box(self.keys[value], around.inputs[parameter].name, value)
            self._connect(value, key, label)

        def into(key: str, position: int, label: str) -> None:
            label = label if key in cylinders else ""  # the field
            word = "each step" if position < first + loop.sequences else ""
            word = ", ".join(filter(None, (label, word)))
            if position < first:
                back.append((key, position, label or loop.carries[position].name))
                if position in started:
                    return
                started.add(position)
                word = f"first {label or loop.carries[position].name}"
            for parameter in start_of(around, node, position)[1]:
                feed(parameter, key, word)

        notes: dict[Value, list[str]] = {}
        for position, carry in enumerate(loop.carries):
            notes[step.outputs[position].value] = lines_of(carry, start_of(around, node, position)[0])
        if loop.halt is not None:
            notes.setdefault(step.outputs[loop.halt.port].value, []).append("says when a sample halts")
        inner = Body(
            self.out, self.graph, step, loop.name, group, self.kind, into, notes, self.memories, held
        )
        inside = inner.draw()
        for key, position in held.starts() if held is not None else ():
            for parameter in start_of(around, node, position)[1]:
                feed(parameter, key, "first")
        for key, position, label in back:
            maker = inside.get(step.outputs[position].value)
            if maker is not None:
                self.out.connect(maker, key, "carried", label, CARRIED)
        joined(self.out, cylinders)
        for number, (given, _) in enumerate(given_by(around, node)):
            value, made = Value(call.id, number), inside.get(step.outputs[given.port].value)
            if made is not None:
                self.inside[value], self.labels[value] = made, said(given)
                self.keys.setdefault(value, made)


def _named(node: Node, place: str) -> list[tuple[Value, str]]:
    """The values of a node that a statement of the body itself names."""
    base = node.id.rpartition(".")[0]
    return [(Value(node.id, k), name) for k, name in enumerate(node.outputs) if base == f"{place}.{name}"]


def op_name(node: Node) -> str:
    """What a box says of a node: the op; of a call, the block's name."""
    if node.op != "call":
        return node.op
    return re.sub(r"_\d+$", "", str(node.attrs["region"]).rpartition(".")[2]) + "()"


def shorten(ops: list[str], most: int = 5) -> str:
    """``linear · relu · linear``; of a long chain, its ends."""
    if len(ops) > most:
        ops = [*ops[:2], f"… {len(ops) - 4} more …", *ops[-2:]]
    return " · ".join(ops)


def plain_type(type_: TensorType | None) -> str:
    """``f32[B, 64]``."""
    if type_ is None:
        return ""
    dims = ", ".join(str(int(dim)) if isinstance(dim, int) else str(dim) for dim in type_.dims)
    return f"{type_.dtype}[{dims}]" if dims else type_.dtype


__all__ = ["SILENT", "Body", "op_name", "plain_type", "shorten"]
