"""Pictures of a spec: tasks as groups, links in the colour of their credit, and what trains what.

`picture` makes a `Picture` of a typed graph, `picture_of_nodes` one of a flat graph with every op in it;
`r2d2c.draw_text` writes them as Mermaid or DOT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from r2d2c.credit.record import CreditRule
from r2d2c.draw_bodies import SILENT, Body, op_name, plain_type, shorten
from r2d2c.draw_credit import add_credit
from r2d2c.draw_loops import draw_flat_loop
from r2d2c.draw_memories import state_names
from r2d2c.draw_places import placed_values
from r2d2c.graph import RESET, Graph, Link, Node, Region, Value
from r2d2c.regions import homes

if TYPE_CHECKING:
    from r2d2c.syntax.spec import MemorySyntax

Kind = Literal["input", "target", "value", "representative", "memory", "loss", "output", "gradient", "credit"]
Style = Literal["data", "link", "trains", "carried"]

# Fill, border. Readable on white and on dark pages, and apart from each other without colour vision too.
TINTS: dict[Kind, tuple[str, str]] = {
    "input": ("#e3f2fd", "#1565c0"),
    "target": ("#fff3e0", "#e65100"),
    "value": ("#ffffff", "#546e7a"),
    "representative": ("#f3e5f5", "#6a1b9a"),
    "memory": ("#e0f2f1", "#00695c"),
    "loss": ("#ffebee", "#b71c1c"),
    "output": ("#e8f5e9", "#1b5e20"),
    "gradient": ("#fffde7", "#8d6e63"),
    "credit": ("#eceff1", "#37474f"),
}
DATA, TRAINS, TEXT, GROUP = "#607d8b", "#c62828", "#212121", "#90a4ae"


@dataclass(frozen=True, slots=True)
class Shape:
    """A node of a picture. ``lines``: its name, then what it is; ``group``: its task."""

    key: str
    kind: Kind
    lines: tuple[str, ...]
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Arrow:
    """An edge. A ``link`` has the colour of its credit rule."""

    start: str
    end: str
    style: Style = "data"
    label: str = ""
    colour: str = DATA


@dataclass(slots=True)
class Picture:
    """What is drawn, before any format. ``legend``: the links' rules with their colours.

    places: the sets of places that the units of nodes are at.
    """

    title: str
    shapes: dict[str, Shape] = field(default_factory=dict)
    arrows: list[Arrow] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    legend: list[tuple[str, str]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def put(self, key: str | None, name: str) -> None:
        """Say that the units of a node are at a set of places."""
        if key in self.shapes and key not in self.places:
            shape = self.shapes[key]
            self.shapes[key] = replace(shape, lines=(*shape.lines, f"at {name}"))
            self.places[key] = name

    def add(self, key: str, kind: Kind, lines: Iterable[str], group: str | None = None) -> str:
        self.shapes[key] = Shape(key, kind, tuple(line for line in lines if line), group)
        return key

    def connect(
        self, start: str, end: str, style: Style = "data", label: str = "", colour: str = DATA
    ) -> None:
        arrow = Arrow(start, end, style, label, colour)
        if (start != end or style == "carried") and arrow not in self.arrows:
            self.arrows.append(arrow)


def picture(
    graph: Graph,
    rules: Mapping[str, CreditRule],
    matrix: Mapping[str, Mapping[str, str | None]] | None = None,
    training: Graph | None = None,
    memories: Iterable[MemorySyntax] = (),
) -> Picture:
    """The picture of a typed graph. ``matrix`` (see `wiring`) says what the losses train.

    With the training graph, what credit rules add is drawn too; with the memories of the spec, what it says of them.
    """
    return _Tasks(graph, rules, matrix or {}, training, {each.name: each for each in memories}).run()


class _Tasks:
    """Tasks with their named values. A named value's box says which ops make it."""

    def __init__(
        self,
        graph: Graph,
        rules: Mapping[str, CreditRule],
        matrix: Mapping[str, Mapping[str, str | None]],
        training: Graph | None,
        memories: Mapping[str, MemorySyntax],
    ) -> None:
        self.graph, self.rules, self.matrix, self.training = graph, rules, matrix, training
        self.memories = memories
        self.out = Picture(graph.name)
        # Where a value of the main region is shown.
        self.shown: dict[Value, str] = {}
        self.boxes: dict[Value, str] = {}
        self.targets = set(graph.targets)
        self.links = {(link.target, link.port): link for link in graph.links}

    def run(self) -> Picture:
        graph, out = self.graph, self.out
        state, together = state_names(graph)
        for port in graph.body.inputs:
            if port.name == RESET and state:  # every carry of the state would have an edge from it
                continue
            kind: Kind = "target" if port.name in self.targets else "input"
            name = state.get(port.name, port.name)
            key = f"port {name if port.name in together else port.name}"
            lines = [name, "" if port.name in together else self._type(port.value)]
            self.shown[port.value] = out.add(key, kind, lines)
        for name in graph.tasks:
            out.groups[name] = name
        self._losses_first()
        # What the options of a rule name is called by the rule alone.
        read = {value.node for node in graph.body.nodes for value in node.inputs if value is not None}
        for node in graph.body.nodes:
            if node.op == "call":
                region = graph.regions[node.attrs["region"]]
                if region.kind in ("behavior", "representative"):
                    self._task_region(node, region)
                elif region.kind == "loss":
                    self._loss(node, region)
                elif region.kind != "teach" and (region.kind != "credit" or node.id in read):
                    self._other(node)
            elif node.op not in ("port", "param", "constant", "argument"):
                self._other(node)
        for port in graph.body.outputs:
            start = self.shown.get(port.value)
            name = state.get(port.name, port.name)
            key = out.add(f"output {name if port.name in together else port.name}", "output", [name])
            if start is not None:
                out.connect(start, key)
        self._trained()
        for value, name in placed_values(graph).items():
            out.put(self.boxes.get(value) or self.shown.get(value), name)
        out.legend = [
            (str(name), self._colour(name))
            for name in dict.fromkeys(link.credit.rule for link in graph.links)
        ]
        return out

    def _type(self, value: Value) -> str:
        return plain_type(self.graph.types.get(value))

    def _colour(self, rule: str) -> str:
        return self.rules[rule].colour if rule in self.rules else DATA

    # -- behaviors and representatives
    def _task_region(self, call: Node, region: Region) -> None:
        representative = region.kind == "representative"
        task = call.id.removesuffix(".representative")
        kind: Kind = "representative" if representative else "value"

        def into(key: str, position: int, label: str) -> None:
            self._into(key, call, position, label)

        boxes = Body(self.out, self.graph, region, task, task, kind, into, memories=self.memories).draw()
        self.boxes |= boxes
        for position, port in enumerate(region.outputs):
            self.shown[Value(call.id, position)] = boxes[port.value]

    def _into(self, key: str, call: Node, position: int, note: str) -> None:
        """The edge into a task, coloured if it is a link; what it reads while it learns is a second edge."""
        given = call.inputs[position]
        start = self.shown.get(given) if given is not None else None
        link = self.links.get((call.id, position))
        if link is None:
            if start is not None:
                self.out.connect(start, key, label=note)
            return
        colour = self._colour(link.credit.rule)
        if start is not None:
            label = f"{link.credit}, when used" if link.feed is not None else str(link.credit)
            self.out.connect(start, key, "link", label, colour)
        if link.feed is not None:
            self.out.connect(self._feed(link), key, "link", f"{link.credit}, while learning", colour)

    def _feed(self, link: Link) -> str:
        assert link.feed is not None
        port = self.graph.regions[link.feed.node].outputs[link.feed.port]
        return f"{link.feed_task or link.source_task}.{port.name}"

    # -- losses
    def _losses_first(self) -> None:
        """Losses belong to groups by their owner."""
        self.loss_at = {loss.value.node: loss for loss in self.graph.losses.values()}

    def _loss(self, call: Node, region: Region) -> None:
        loss = self.loss_at.get(call.id)
        if loss is None:
            return
        made = [op_name(node) for node in region.nodes if node.op not in ("port", *SILENT)]
        used = self._trains(loss.name) if self.matrix else True
        weight = f"weight {loss.weight:g}" if loss.weight != 1.0 else ""
        title = f"{loss.name} loss" if loss.owner else loss.name
        note = "" if used else "trains nothing here"
        key = self.out.add(f"loss {loss.name}", "loss", [title, shorten(made), weight, note], loss.owner)
        for value in call.inputs:
            start = self.shown.get(value) if value is not None else None
            if start is not None:
                self.out.connect(start, key)

    def _trains(self, loss: str) -> bool:
        return any(self.matrix.get(loss, {}).values())

    def _trained(self) -> None:
        """Dashed edges from every loss to the behaviors and representatives whose parameters it trains."""
        graph = self.graph
        heads: dict[str, str] = {}
        home = homes(graph)
        for node in graph.body.nodes:
            if node.op == "call" and graph.regions[node.attrs["region"]].kind in (
                "behavior",
                "representative",
            ):
                heads[node.id] = self.shown.get(Value(node.id), "")
        for loss, row in self.matrix.items():
            key = f"loss {loss}"
            if key not in self.out.shapes:
                continue
            entries: dict[str, str] = {}
            for parameter, entry in row.items():
                if entry is None or parameter not in graph.storage:
                    continue
                owner = home.get(graph.storage[parameter].owner, "")
                entries.setdefault(owner, "" if entry == "gradient" else entry)
            for owner, entry in entries.items():
                if heads.get(owner):
                    self.out.connect(key, heads[owner], "trains", entry, TRAINS)
        if self.training is not None:
            add_credit(self.out, graph, self.training, self.rules, self.matrix, heads, home)

    def _other(self, node: Node) -> None:
        """What the main region computes itself: an output's expression."""
        title, name = op_name(node), ""
        if node.op == "call":
            region = self.graph.regions[node.attrs["region"]]
            title = shorten([op_name(n) for n in region.nodes if n.op not in ("port", *SILENT)])
            name = node.id if region.kind == "credit" else ""
        key = self.out.add(f"node {node.id}", "value", [name, title, self._type(Value(node.id))])
        for position in range(len(node.outputs)):
            self.shown[Value(node.id, position)] = key
        for value in node.inputs:
            start = self.shown.get(value) if value is not None else None
            if start is not None:
                self.out.connect(start, key)


def picture_of_nodes(graph: Graph, spec: Mapping[str, object] | None = None) -> Picture:
    """Every node of a flat graph (inference or training), grouped by task; a training graph by visit.

    spec: the storage of the typed graph; what credit rules added to it gets boxes of its own.
    """
    out = Picture(f"{graph.name}, {graph.stage}")
    visits = {id_: visit.name for visit in graph.visits for id_ in visit.nodes}
    shown: dict[str, str] = {}
    given: dict[Value, str] = {}  # what loops give
    targets = set(graph.targets)
    losses = {loss.value.node for loss in graph.losses.values()}
    names = set(graph.tasks)
    for node in graph.body.nodes:
        if node.op == "param" and spec is not None and node.attrs["storage"] not in spec:
            name = str(node.attrs["storage"])
            shown[node.id] = out.add(node.id, "credit", [name, _type_of(graph, node)])
        if node.op in SILENT:
            continue
        group = visits.get(node.id) if graph.visits else node.id.split(".")[0]
        if node.op == "port":
            name = str(node.attrs["name"])
            shown[node.id] = out.add(
                node.id, "target" if name in targets else "input", [name, _type_of(graph, node)]
            )
            continue
        if group is not None and (graph.visits or group in names):
            out.groups.setdefault(group, f"visit {group}" if graph.visits else group)
        else:
            group = None
        if node.op == "loop":
            known = {
                Value(n.id, p): shown[n.id]
                for n in graph.body.nodes
                if n.id in shown
                for p in range(len(n.outputs))
            }
            given |= draw_flat_loop(out, graph, node, known | given, group)
            continue
        kind: Kind = "loss" if node.id in losses else "value"
        if node.op in ("vjp", "accumulate", "update"):
            kind = "gradient"
        title = f"accumulate {node.attrs['storage']}" if node.op in ("accumulate", "update") else node.id
        shown[node.id] = out.add(node.id, kind, [title, _type_of(graph, node)], group)
        for value in node.inputs:
            if value is not None and (value in given or value.node in shown):
                out.connect(given.get(value) or shown[value.node], shown[node.id])
    for port in graph.body.outputs:
        key = out.add(f"output {port.name}", "output", [port.name])
        if port.value in given or port.value.node in shown:
            out.connect(given.get(port.value) or shown[port.value.node], key)
    for value, name in placed_values(graph).items():
        out.put(shown.get(value.node), name)
    return out


def _type_of(graph: Graph, node: Node) -> str:
    return plain_type(graph.types.get(Value(node.id))) if len(node.outputs) == 1 else ""
