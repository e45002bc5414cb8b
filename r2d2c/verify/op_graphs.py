"""Op graphs: the columns that they read, and what reads theirs.

Growing changes a column of the weights of every `linear` that reads the columns, so nothing else may read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from r2d2c.graph import Graph, Node, Value, walk
from r2d2c.growth import Reader
from r2d2c.loops import loop_of
from r2d2c.ops.op_graph import OP_GRAPH
from r2d2c.source import Span
from r2d2c.syntax.spec import Named, OpGraphSyntax
from r2d2c.verify.context import Context

# What learning adds around values, and what gives a value again.
_LEARNING = ("gradient", "vjp", "signal", "accumulate", "update")
_SAME = ("stop", "leaf")


def check_op_graphs(c: Context) -> None:
    """What is wrong with the op graphs of a spec that has types."""
    syntaxes = {graph.name: graph for graph in c.spec.op_graphs}
    used = {node.attrs["start"].name: node for _, node in walk(c.graph) if node.op == OP_GRAPH.name}
    for name, node in used.items():
        _check_columns(c, syntaxes[name], node)
        _check_places(c, syntaxes[name], node)
    growing = {name: node for name, node in used.items() if syntaxes[name].grow is not None}
    found = find_readers(c.training) if growing else {}
    for name, node in growing.items():
        for refused in found[name].refused[:1] if name in found else ():
            also: list[tuple[Span | None, str]] = [(syntaxes[name].span, "grows")]
            if refused.origin != node.origin:
                also.append((node.origin, "its columns"))
            message = f"the op graph `{name}` grows, and {refused.what}"
            c.sink.report("E348", refused.origin or node.origin, message, also=also, fix=refused.fix)


def _check_columns(c: Context, syntax: OpGraphSyntax, node: Node) -> None:
    """Whether the columns that the written ops read are there."""
    x = node.inputs[0]
    type_ = c.graph.types.get(x) if x is not None else None
    if type_ is None:
        return
    width = int(type_.dims[-1])  # type: ignore[arg-type]
    for entry in syntax.nodes:
        for number, span in _columns(entry):
            if number >= width:
                message = f"`{syntax.name}` reads {width} columns, `x[0]` to `x[{width - 1}]`, and here `x[{number}]`"
                c.sink.report("E343", span, message, also=[(node.origin, f"`x` is {type_}")])


def _check_places(c: Context, syntax: OpGraphSyntax, node: Node) -> None:
    """Whether something learns places that are learned, and some op could be drawn that `wire` allows."""
    start, name, value = node.attrs["start"], syntax.name, node.value()
    places = start.places
    if places is None:
        return
    if places.learned and places.storage not in c.graph.storage:
        span = syntax.options["places"].span(syntax.options["places"].root)
        message = f"the columns of `{name}` lie at places that are learned, and nothing reads `{places.name}`"
        fix = f"teach them, by a wiring cost of `{places.name}` say, or leave `learned` out"
        c.sink.report("E355", span, message, also=[(places.origin, "learned")], fix=fix)
    if start.wire is None or places.learned or value not in c.graph.types:
        return
    from r2d2c.op_places import columns_of, fits_any
    from r2d2c.ops.op_graph_rows import first_rows, points_of, topology_of

    topology = topology_of(first_rows(start, places.count, c.graph.seed), places.count, start.names)
    columns = columns_of(topology, points_of(places, c.graph.seed))
    live = [*[True] * places.count, *topology.live.tolist()]
    if not fits_any(columns[live], places.count, start.wire):
        span = syntax.grow["wire"].span(syntax.grow["wire"].root) if syntax.grow else syntax.span
        message = f"`wire` of `{name}` holds for no op that reads one or two of its columns"
        note = "an op lies in the middle of what it reads in x and y, and 1 above the highest of it in z"
        fix = "allow more, `wire: plane <= 1` say"
        c.sink.report(
            "E356", span, message, also=[(places.origin, "where the columns are")], notes=[note], fix=fix
        )


def _columns(entry: Named) -> Iterator[tuple[int, Span]]:
    nodes = entry.syntax.nodes
    for index, node in enumerate(nodes):
        if node.kind == "index" and len(node.args) == 2 and isinstance(nodes[node.args[1]].value, int):
            yield int(nodes[node.args[1]].value), entry.syntax.span(index)


# -- what reads the columns


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that reads columns and has no weights for them."""

    what: str
    origin: Span | None
    fix: str | None = None


@dataclass(slots=True)
class Found:
    """What reads the columns of one op graph."""

    readers: list[Reader] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def find_readers(flat: Graph) -> dict[str, Found]:
    """By op graph of a flat graph, the `linear`s that read its columns, and what else does.

    Of a training graph these include what credit rules add. In the body of a loop, the weights are those of all steps.
    """
    return _Walker(flat).run()


class _Walker:
    def __init__(self, graph: Graph) -> None:
        steps = [region for region in graph.regions.values() if region.kind == "step"]
        self.graph, self.nodes = graph, [node for region in (graph.body, *steps) for node in region.nodes]
        self.found: dict[str, Found] = {}
        self.reads: dict[Value, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for place, value in enumerate(node.inputs):
                if value is not None:
                    self.reads.setdefault(value, []).append((node, place))
        self.params = {Value(n.id): str(n.attrs["storage"]) for n in self.nodes if n.op == "param"}
        # A step gets parameters as it gets other values, by the names of their storage.
        ports = ((Value(n.id), str(n.attrs["name"])) for n in self.nodes if n.op == "port")
        self.params |= {value: name for value, name in ports if name in graph.storage}
        self.shown = {port.value: f"the output `{port.name}`" for port in graph.body.outputs}
        for step in steps:
            self.shown |= {port.value: f"`{port.name}` of a loop" for port in step.outputs}
        # The `linear`s that read columns as they should, and what biases they have by their weights.
        self.ours: set[str] = set()
        self.biases: dict[str, set[str | None]] = {}

    def run(self) -> dict[str, Found]:
        for node in self.nodes:
            if node.op == OP_GRAPH.name:
                found = self.found.setdefault(node.attrs["start"].name, Found())
                if node.attrs["normalise"] == "layer":
                    what = "its columns are normalised over all ops, so a new op would change those of others"
                    found.refused.append(Refused(what, node.origin, "write `normalise: batch`"))
                self._follow(found, node)
        self._check_weights()
        for found in self.found.values():
            found.readers = [replace(reader, bias=self._bias(reader.weight)) for reader in found.readers]
        return self.found

    def _follow(self, found: Found, node: Node) -> None:
        todo = [(Value(node.id), 0)]
        while todo:
            value, offset = todo.pop()
            if value in self.shown:
                what = f"{self.shown[value]} shows its columns"
                found.refused.append(Refused(what, node.origin, "show what a `linear` makes of them"))
            for reader, place in self.reads.get(value, ()):
                todo += self._read(found, reader, place, offset)

    def _read(self, found: Found, node: Node, place: int, offset: int) -> list[tuple[Value, int]]:
        """What goes on with the columns after a node that reads them, and where in it they begin."""
        if node.op in _LEARNING:
            return []
        if node.op in _SAME:
            return [(Value(node.id), offset)]
        before = self._before(node, place) if node.op == "concat" else None
        if before is not None:
            return [(Value(node.id), offset + before)]
        weight = self._weight(node) if node.op == "linear" and place == 0 else None
        if weight is not None:
            self.ours.add(node.id)
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            self.biases.setdefault(weight, set()).add(None if bias is None else self.params.get(bias))
            reader = Reader(weight, offset)
            if reader not in found.readers:
                found.readers.append(reader)
            return []
        what = f"the loop `{loop_of(node).name}`" if node.op == "loop" else f"`{node.op}`"
        fix = (
            "let a `linear` read them first"
            if node.op != "linear"
            else "give the `linear` weights of its own"
        )
        found.refused.append(Refused(f"{what} reads its columns", node.origin, fix))
        return []

    def _before(self, node: Node, place: int) -> int | None:
        """How many columns stand before those of one argument of a `concat` along the last axis."""
        types = [self.graph.types[v] for v in node.inputs if v is not None]
        if node.attrs["axis"] not in (-1, types[0].rank - 1):
            return None
        before = 0
        for type_ in types[:place]:
            width = type_.dims[-1]
            if not isinstance(width, int):
                return None
            before += int(width)
        return before

    def _weight(self, node: Node) -> str | None:
        """The storage of the weights of a `linear`."""
        value = node.inputs[1]
        return None if value is None else self.params.get(value)

    def _bias(self, weight: str) -> str | None:
        """The storage of the bias of the `linear`s with this weight, if they have one, and no other node reads it."""
        bias, *more = self.biases[weight]
        if bias is None or more:
            return None
        values = [value for value, storage in self.params.items() if storage == bias]
        readers = [reader for value in values for reader in self.reads.get(value, ())]
        alone = all(
            (node.id in self.ours and self._weight(node) == weight) or node.op in (*_LEARNING, "loop")
            for node, _ in readers
        )
        return bias if alone else None

    def _check_weights(self) -> None:
        """Refuse weights that another `linear` reads too, for something else."""
        others: dict[str, Node] = {}
        for node in self.nodes:
            weight = self._weight(node) if node.op == "linear" and node.id not in self.ours else None
            if weight is not None:
                others.setdefault(weight, node)
        for found in self.found.values():
            for reader in found.readers:
                if reader.weight in others:
                    what = f"its weights `{reader.weight}` are those of another `linear` too"
                    origin = others[reader.weight].origin
                    found.refused.append(Refused(what, origin, "give each weights of its own"))
