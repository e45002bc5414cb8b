"""Which values gradients flow through, by reachability in the flat training graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from r2d2c.graph import Graph, Node, Value
from r2d2c.loops import Loop, loop_of
from r2d2c.ops.record import Op

_OPAQUE = (
    "stop", "constant", "size", "argument", "port", "gradient", "vjp", "signal", "accumulate", "update",
)  # fmt: skip
# The least common multiple of the cycles in which carries may change places.
_TURN = 12


@dataclass(slots=True)
class Cone:
    """What a value's gradient runs through: the nodes, and the storage and leaves at its edge."""

    nodes: set[str] = field(default_factory=set)
    params: set[str] = field(default_factory=set)
    leaves: set[Value] = field(default_factory=set)


class Reach:
    """Gradients never cross a `stop`, integers, or an op without a gradient.

    ports: whether gradients are followed to the ports of the region, as leaves: inside of a loop's step.
    """

    def __init__(self, graph: Graph, ops: Mapping[str, Op], ports: bool = False) -> None:
        self.graph = graph
        self.nodes = {node.id: node for node in graph.body.nodes}
        opaque = {name for name, op in ops.items() if "no_gradient" in op.traits} | set(_OPAQUE)
        self._ends = ("leaf", "port") if ports else ("leaf",)
        trained = {name for name, row in graph.storage.items() if row.kind == "param"}
        types = graph.types
        self._floating = {value for value, type_ in types.items() if type_.floating}
        carries: dict[str, bool] = {}
        floating = self._floating
        # The inputs that each output of a loop depends on, and whether any of them needs a gradient.
        self._through: dict[Value, tuple[Value, ...]] = {}
        self._given: dict[Value, bool] = {}
        self._carries = carries
        for node in graph.body.nodes:
            if node.op == "param":
                carries[node.id] = node.attrs["storage"] in trained
            elif node.op in self._ends:
                carries[node.id] = True
            elif node.op in opaque:
                carries[node.id] = False
            elif node.op == "loop":
                self._loop(node, ops)
            else:
                carries[node.id] = any(
                    v is not None and carries[v.node] and v in floating and self._given.get(v, True)
                    for v in node.inputs
                )

    def _loop(self, node: Node, ops: Mapping[str, Op]) -> None:
        found = dependencies(self.graph, node, ops)
        for port, positions in enumerate(found):
            values = (node.inputs[k] for k in sorted(positions))
            through = tuple(v for v in values if v is not None and self.needs_gradient(v))
            self._through[Value(node.id, port)] = through
            self._given[Value(node.id, port)] = bool(through)
        self._carries[node.id] = any(self._given[Value(node.id, port)] for port in range(len(found)))

    def needs_gradient(self, value: Value) -> bool:
        """Whether the value depends differentiably on a parameter or a leaf."""
        return (
            self._carries.get(value.node, False) and value in self._floating and self._given.get(value, True)
        )

    def inputs(self, value: Value) -> tuple[Value | None, ...]:
        """What a value is computed from: of a node its inputs, of a loop those that this output depends on."""
        found = self._through.get(value)
        return self.nodes[value.node].inputs if found is None else found

    def cone(self, roots: Iterable[Value]) -> Cone:
        """The cone of some values, as far back as gradients flow."""
        cone, nodes, through = Cone(), self.nodes, self._through
        stack = [value for value in roots if self.needs_gradient(value)]
        seen: set[Value] = set()
        while stack:
            value = stack.pop()
            if value in through:
                if value not in seen:
                    seen.add(value)
                    cone.nodes.add(value.node)
                    stack.extend(through[value])
                continue
            if value.node in cone.nodes:
                continue
            cone.nodes.add(value.node)
            node = nodes[value.node]
            if node.op == "param":
                cone.params.add(node.attrs["storage"])
            elif node.op in self._ends:
                cone.leaves.add(value)
            else:
                stack.extend([v for v in node.inputs if v is not None and self.needs_gradient(v)])
        return cone


@dataclass(frozen=True, slots=True)
class _Reached:
    """By output of a step, the inputs of the loop that it depends on: ``may`` in some run, ``sure`` in every one."""

    may: list[frozenset[int]]
    sure: list[frozenset[int]]


def dependencies(graph: Graph, node: Node, ops: Mapping[str, Op]) -> list[frozenset[int]]:
    """For every output of a loop, the positions of the inputs that a gradient may come back to."""
    return _given(loop_of(node), *_of_loop(graph, node, ops), sure=False)


def sometimes(graph: Graph, node: Node, ops: Mapping[str, Op]) -> list[tuple[int, ...]]:
    """For every output of a loop, those of `dependencies` that some numbers of steps leave without a gradient."""
    loop, found = loop_of(node), _of_loop(graph, node, ops)
    pairs = zip(_given(loop, *found, sure=False), _given(loop, *found, sure=True), strict=True)
    return [tuple(sorted(may - sure)) for may, sure in pairs]


def _given(loop: Loop, last: _Reached, ever: _Reached, sure: bool) -> list[frozenset[int]]:
    final, every = (last.sure, ever.sure) if sure else (last.may, ever.may)
    halting = every[loop.halt.port] if loop.halt is not None else frozenset[int]()
    found = {"last": final, "steps": every, "mean": [reaches | halting for reaches in every]}
    single = {"count": frozenset[int](), "ponder": halting}
    return [single[g.kind] if g.kind in single else found[g.kind][g.port] for g in loop.gives]


def _of_loop(graph: Graph, node: Node, ops: Mapping[str, Op]) -> tuple[_Reached, _Reached]:
    """What the outputs of the last step, and of all steps together, depend on."""
    loop, step = loop_of(node), graph.regions[node.attrs["region"]]
    inside = Reach(graph.with_(main=step.name), ops, ports=True)
    position = {port.value: k for k, port in enumerate(step.inputs)}
    body = [
        frozenset(position[leaf] for leaf in inside.cone([port.value]).leaves if leaf in position)
        for port in step.outputs
    ]
    ranges = dict(graph.ranges)
    least, most = loop.least_trips(ranges), loop.most_trips(ranges)
    truncated = [carry.every for carry in loop.carries if carry.credit == "truncate"]
    # Beyond so many steps what depends on what repeats itself: with what is cut, or where carries change places.
    period = math.lcm(*truncated) if truncated else _TURN
    enough = len(loop.carries) + 2 * period
    if least > enough:
        shorter = (least - enough) // period * period
        least, most = least - shorter, None if most is None else most - shorter
    until = least + enough if most is None else min(most, least + enough)
    last, ever = zip(*_runs(loop, body, range(least, until + 1)), strict=True)
    return _reached(last), _reached(ever)


def _reached(runs: Iterable[Sequence[frozenset[int]]]) -> _Reached:
    columns = list(zip(*runs, strict=True))
    return _Reached(
        [frozenset().union(*column) for column in columns],
        [column[0].intersection(*column[1:]) for column in columns],
    )


def _runs(
    loop: Loop, body: list[frozenset[int]], counts: range
) -> Iterator[tuple[list[frozenset[int]], list[frozenset[int]]]]:
    """What the last step, and all steps, depend on in runs of so many steps; a sample that halts is a run of its own."""
    truncated = any(carry.credit == "truncate" for carry in loop.carries)
    if truncated and loop.halt is None:
        for count in counts:  # where it is cut depends on the number of steps
            *_, found = _unrolled(loop, body, count)
            yield found
        return
    before: list[frozenset[int]] = []
    for number, (outputs, union) in enumerate(_unrolled(loop, body, counts[-1]), 1):
        if number >= counts[0]:
            yield outputs, union
            if outputs == before and not truncated:
                return
        before = outputs


def _unrolled(
    loop: Loop, body: list[frozenset[int]], count: int
) -> Iterator[tuple[list[frozenset[int]], list[frozenset[int]]]]:
    """Of a run of ``count`` steps, what each step depends on, and all up to it."""
    carries = len(loop.carries)
    before = [frozenset((k,)) for k in range(carries)]
    union = [frozenset[int]() for _ in body]
    for number in range(count):
        read = [frozenset[int]() if loop.cut(k, number, count) else b for k, b in enumerate(before)]
        outputs = [
            frozenset[int]().union(*(read[k] if k < carries else (k,) for k in positions))
            for positions in body
        ]
        union = [known | more for known, more in zip(union, outputs, strict=True)]
        yield outputs, union
        before = outputs[:carries]
