"""The schedule of visits: which losses run together, in which order, and where every forward node goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from r2d2c.graph import Graph, Node, Value
from r2d2c.passes.reach import Cone


@dataclass(frozen=True, slots=True)
class Schedule:
    """``visits``: losses by visit. ``place``: the visit of every forward node that is needed."""

    visits: tuple[tuple[str, ...], ...]
    place: dict[str, int]


class _Groups:
    """Union-find over losses."""

    def __init__(self, names: Iterable[str]) -> None:
        self.parent = {name: name for name in names}

    def find(self, name: str) -> str:
        while self.parent[name] != name:
            self.parent[name] = self.parent[self.parent[name]]
            name = self.parent[name]
        return name

    def join(self, left: str, right: str) -> None:
        left, right = self.find(left), self.find(right)
        if left != right:
            self.parent[right] = left


def schedule(graph: Graph, cones: dict[str, Cone], together: Iterable[Sequence[str]]) -> Schedule:
    """Losses whose gradients share a node share a visit, as do those in ``together``; a visit comes after those
    whose values it reads. Visits that need each other merge."""
    groups = _Groups(cones)
    owner: dict[str, str] = {}
    edges_of_cones = {n.id for n in graph.body.nodes if n.op in ("param", "leaf")}
    for name, cone in cones.items():
        for id_ in cone.nodes - edges_of_cones:
            groups.join(owner.setdefault(id_, name), name)
    for names in together:
        for name in names[1:]:
            groups.join(names[0], name)
    # A loss without a gradient (its cone is empty) still has to be computed: its own node belongs to it.
    for name in cones:
        owner.setdefault(graph.losses[name].value.node, name)
    edges = _edges(graph.body.nodes, owner, groups)
    order = _order([groups.find(name) for name in cones], edges, groups)
    number = {root: position for position, root in enumerate(order)}
    visits: list[list[str]] = [[] for _ in order]
    for name in cones:
        visits[number[groups.find(name)]].append(name)
    place = _place(graph, owner, groups, number)
    return Schedule(tuple(map(tuple, visits)), place)


def _edges(nodes: Sequence[Node], owner: dict[str, str], groups: _Groups) -> set[tuple[str, str]]:
    """Pairs (u, v) of groups such that v reads what u computes."""
    deps: dict[str, frozenset[str]] = {}
    edges: set[tuple[str, str]] = set()
    empty: frozenset[str] = frozenset()
    for node in nodes:
        found = empty
        for value in node.inputs:
            if value is not None:
                before = deps[value.node]
                if before and before is not found:
                    found = found | before if found else before
        if node.id in owner:
            own = groups.find(owner[node.id])
            edges.update((dep, own) for dep in found if dep != own)
            deps[node.id] = frozenset((own,))
        else:
            deps[node.id] = found
    return edges


def _order(roots: list[str], edges: set[tuple[str, str]], groups: _Groups) -> list[str]:
    """Groups in a topological order that follows the order of the losses; circles of groups are merged first."""
    names = list(dict.fromkeys(roots))
    after: dict[str, list[str]] = {name: [] for name in names}
    missing = dict.fromkeys(names, 0)
    for before, later in sorted(edges):
        after[before].append(later)
        missing[later] += 1
    position = {name: number for number, name in enumerate(names)}
    ready = sorted((n for n in names if not missing[n]), key=position.__getitem__, reverse=True)
    order: list[str] = []
    while ready:
        name = ready.pop()
        order.append(name)
        for later in after[name]:
            missing[later] -= 1
            if not missing[later]:
                ready.append(later)
        ready.sort(key=position.__getitem__, reverse=True)
    if len(order) == len(names):
        return order
    import networkx as nx

    for component in nx.strongly_connected_components(nx.DiGraph(edges)):
        members = sorted(component, key=position.__getitem__)
        for name in members[1:]:
            groups.join(members[0], name)
    merged = {(groups.find(a), groups.find(b)) for a, b in edges} - {(groups.find(a),) * 2 for a, _ in edges}
    return _order([groups.find(name) for name in names], merged, groups)


def _place(graph: Graph, owner: dict[str, str], groups: _Groups, number: dict[str, int]) -> dict[str, int]:
    """Owned nodes go to their group's visit, the rest to the first visit that needs them, outputs as early as they can."""
    last = max(len(number) - 1, 0)
    place: dict[str, int] = {id_: number[groups.find(name)] for id_, name in owner.items()}
    needed: dict[str, int] = {}
    outputs = {port.value.node for port in graph.body.outputs}
    for node in reversed(graph.body.nodes):
        here = place.get(node.id, needed.get(node.id))
        if here is None and node.id in outputs:
            here = last
        if here is None:
            continue
        place[node.id] = here
        for value in node.inputs:
            if value is not None:
                needed[value.node] = min(needed.get(value.node, last), here)
    return place


def needed_values(nodes: Iterable[Node]) -> set[Value]:
    return {value for node in nodes for value in node.inputs if value is not None}
