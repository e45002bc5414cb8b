"""The schedule: in which order gradients are taken, and in which visit every node runs.

What learning starts from are roots: losses, and signals that credit rules made. Roots whose gradients run through the
same nodes belong to one group; those of a group that do not wait for each other make one event, a backward pass. A
node may need a gradient (`gradient` nodes do), so events and nodes are sorted together. A visit is an event with
every node that it needs and that has not run yet; the forward part of a later backward may so run in an earlier visit.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from r2d2c.graph import Graph, Node, Value
from r2d2c.passes.reach import Cone


@dataclass(frozen=True, slots=True)
class Root:
    """A value that learning starts from, and the cotangent it starts with: a loss's weight or a signal's δ.

    shown: further values that the visit has to compute. rule: of a signal, its credit rule; None if δ is the true gradient.
    plastic: the `accumulate` nodes of a root that is no gradient at all.
    """

    name: str
    value: Value | None
    cotangent: float | Value
    cone: Cone
    loss: bool = False
    shown: tuple[Value, ...] = ()
    plastic: tuple[Node, ...] = ()
    rule: str | None = None

    @property
    def needs(self) -> tuple[Value, ...]:
        """What must have been computed before its backward."""
        made = (self.value,) if self.value is not None else ()
        given = (self.cotangent,) if isinstance(self.cotangent, Value) else ()
        changes = tuple(v for node in self.plastic for v in node.inputs if v is not None)
        return (*made, *given, *self.shown, *changes)


@dataclass(slots=True)
class Event:
    """One visit: the nodes that run in it, then the backward of its roots."""

    roots: list[Root] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Schedule:
    """events: in order; the last may have no roots, only what outputs still need. group: that of every node in a cone."""

    events: list[Event]
    group: Mapping[str, str]


class Circular(Exception):  # noqa: N818
    """A gradient that depends on itself: a bug of a credit rule."""


def schedule(graph: Graph, roots: Sequence[Root], together: Iterable[Sequence[str]], join: bool) -> Schedule:
    """The events in order. Roots in ``together`` share one; ``join``: so do those whose layers have all run."""
    group = _groups(graph, roots, together)
    order = _sorted(graph.body.nodes, roots)
    waits = _waits(order, roots)
    events = _events(roots, waits, group, _positions(graph, order))
    return Schedule(_place(graph, order, roots, events, waits, join), group.of)


class _Group:
    """Union-find over roots, and the group of every node inside a cone."""

    def __init__(self, names: Iterable[str]) -> None:
        self.parent = {name: name for name in names}
        self.of: dict[str, str] = {}

    def find(self, name: str) -> str:
        while self.parent[name] != name:
            self.parent[name] = self.parent[self.parent[name]]
            name = self.parent[name]
        return name

    def join(self, left: str, right: str) -> None:
        left, right = self.find(left), self.find(right)
        if left != right:
            self.parent[right] = left


def _groups(graph: Graph, roots: Sequence[Root], together: Iterable[Sequence[str]]) -> _Group:
    found = _Group(root.name for root in roots)
    owner: dict[str, str] = {}
    edges = {n.id for n in graph.body.nodes if n.op in ("param", "leaf")}
    for root in roots:
        for id_ in root.cone.nodes - edges:
            found.join(owner.setdefault(id_, root.name), root.name)
    for names in together:
        for name in names[1:]:
            found.join(names[0], name)
    found.of = {id_: found.find(name) for id_, name in owner.items()}
    return found


def _reaching(roots: Sequence[Root]) -> dict[Value, list[int]]:
    found: dict[Value, list[int]] = {}
    for number, root in enumerate(roots):
        for leaf in root.cone.leaves:
            found.setdefault(leaf, []).append(number)
    return found


def _sorted(nodes: Sequence[Node], roots: Sequence[Root]) -> list[Node]:
    """The nodes in an order in which every gradient comes after what it is the gradient of."""
    taken = [node for node in nodes if node.op == "gradient"]
    if not taken:
        return list(nodes)
    reaching = _reaching(roots)
    position = {node.id: k for k, node in enumerate(nodes)}
    before: dict[str, set[str]] = {n.id: {v.node for v in n.inputs if v is not None} for n in nodes}
    for node in taken:
        for number in reaching.get(node.inputs[0], ()):  # type: ignore[arg-type]
            before[node.id].update(v.node for v in roots[number].needs)
    after: dict[str, list[str]] = {id_: [] for id_ in before}
    missing = {id_: len(ids) for id_, ids in before.items()}
    for id_, ids in before.items():
        for earlier in ids:
            after[earlier].append(id_)
    ready = [position[id_] for id_, count in missing.items() if not count]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        order.append(node)
        for later in after[node.id]:
            missing[later] -= 1
            if not missing[later]:
                heapq.heappush(ready, position[later])
    if len(order) < len(nodes):
        stuck = sorted(id_ for id_, count in missing.items() if count)
        raise Circular(f"a gradient depends on itself: {', '.join(stuck[:8])}")
    return order


def _waits(order: Sequence[Node], roots: Sequence[Root]) -> list[int]:
    """For every root, as bits, the roots whose backward has to be done before its own."""
    if not any(node.op == "gradient" for node in order):
        return [0] * len(roots)
    reaching = _reaching(roots)
    ends: dict[str, list[int]] = {}
    for number, root in enumerate(roots):
        for value in root.needs:
            ends.setdefault(value.node, []).append(number)
    waits, behind = [0] * len(roots), dict[str, int]()
    for node in order:
        bits = 0
        for source in node.inputs:
            if source is not None:
                bits |= behind[source.node]
        if node.op == "gradient":
            for number in reaching.get(node.inputs[0], ()):  # type: ignore[arg-type]
                bits |= waits[number] | 1 << number
        behind[node.id] = bits
        for number in ends.get(node.id, ()):
            waits[number] |= bits
    return waits


def _positions(graph: Graph, order: Sequence[Node]) -> dict[str, int]:
    """When every node can have run, if the spec's own losses and what they need run in order.

    What a credit rule adds may come as soon as its inputs have: a task whose δ needs nothing above it learns at once.
    """
    nodes = {node.id: node for node in order}
    stack = [loss.value.node for loss in graph.losses.values() if loss.rule is None]
    fixed: set[str] = set()
    while stack:
        id_ = stack.pop()
        if id_ not in fixed:
            fixed.add(id_)
            stack.extend([v.node for v in nodes[id_].inputs if v is not None])
    found: dict[str, int] = {}
    for number, node in enumerate(order):
        inputs = (found[v.node] for v in node.inputs if v is not None)
        found[node.id] = number if node.id in fixed else max(inputs, default=0)
    return found


def _events(
    roots: Sequence[Root], waits: Sequence[int], group: _Group, position: Mapping[str, int]
) -> list[list[int]]:
    """Roots by event, the events in order: those that wait come later, else as their values come."""
    level: dict[int, int] = {}
    for number in sorted(range(len(roots)), key=lambda k: waits[k].bit_count()):
        own = group.find(roots[number].name)
        before = [k for k in _bits(waits[number]) if group.find(roots[k].name) == own]
        level[number] = 1 + max((level[k] for k in before), default=-1)
    members: dict[tuple[str, int], list[int]] = {}
    for number, root in enumerate(roots):
        members.setdefault((group.find(root.name), level[number]), []).append(number)
    keys = list(members)
    where = {number: key for key, numbers in members.items() for number in numbers}
    before_of = {
        key: {where[k] for number in members[key] for k in _bits(waits[number])} - {key} for key in keys
    }

    def place(key: tuple[str, int]) -> int:
        return min(max(position[v.node] for v in roots[number].needs) for number in members[key])

    left, order = sorted(keys, key=place), []
    done: set[tuple[str, int]] = set()
    if not any(before_of.values()):
        return [members[key] for key in left]
    while left:
        key = next((k for k in left if before_of[k] <= done), None)
        if key is None:
            names = ", ".join(roots[members[k][0]].name for k in left)
            raise Circular(f"backward passes that wait for each other: {names}")
        left.remove(key)
        done.add(key)
        order.append(members[key])
    return order


def _bits(mask: int) -> Iterable[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class _Placer:
    """Collects, event by event, the nodes that have to run and have not."""

    def __init__(self, order: Sequence[Node]) -> None:
        self.nodes = {node.id: node for node in order}
        self.position = {node.id: k for k, node in enumerate(order)}
        self.done: set[str] = {node.id for node in order if node.op == "port"}

    def missing(self, values: Iterable[Value]) -> list[Node]:
        """What values need that has not run, in order."""
        found: set[str] = set()
        stack = [value.node for value in values]
        while stack:
            id_ = stack.pop()
            if id_ in found or id_ in self.done:
                continue
            found.add(id_)
            stack.extend([v.node for v in self.nodes[id_].inputs if v is not None])
        return [self.nodes[id_] for id_ in sorted(found, key=self.position.__getitem__)]

    def runs_layers(self, nodes: Iterable[Node], roots: Iterable[Root]) -> bool:
        """Whether nodes that roots are differentiated through read parameters: forward work of their own."""
        cone = set().union(*(root.cone.nodes for root in roots))
        reads = (v for node in nodes if node.id in cone for v in node.inputs if v is not None)
        return any(self.nodes[value.node].op == "param" for value in reads)


def _place(
    graph: Graph,
    order: Sequence[Node],
    roots: Sequence[Root],
    events: list[list[int]],
    waits: Sequence[int],
    join: bool,
) -> list[Event]:
    placer = _Placer(order)
    placed: list[tuple[Event, int]] = []
    for numbers in events:
        members = [roots[k] for k in numbers]
        nodes = placer.missing(value for root in members for value in root.needs)
        bits = sum(1 << k for k in numbers)
        waited = 0
        for k in numbers:
            waited |= waits[k]
        if (
            join
            and placed
            and waited
            and not placed[-1][1] & waited
            and not placer.runs_layers(nodes, members)
        ):
            event, before = placed[-1]
            event.roots += members
            event.nodes += nodes
            placed[-1] = event, before | bits
        else:
            placed.append((Event(members, nodes), bits))
        placer.done.update(node.id for node in nodes)
    found = [event for event, _ in placed] or [Event()]
    rest = placer.missing(port.value for port in graph.body.outputs)
    if rest:
        found[-1].nodes = sorted([*found[-1].nodes, *rest], key=lambda node: placer.position[node.id])
    return found
