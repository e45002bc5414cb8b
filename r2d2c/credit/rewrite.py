"""Editing typed graphs: what the `rewrite` of a credit rule builds with.

A `Rewriter` takes a typed graph and gives another one. What is added to it is typed as it is added, so the
result needs no shape pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from r2d2c.graph import USES, Graph, Node, Port, Region, RegionKind, Value
from r2d2c.loops import Loop
from r2d2c.ops.record import Namespace, Op, Shapes
from r2d2c.source import Span
from r2d2c.types import Dim, DimLike, TensorType, symbol

Dims = Mapping[str, DimLike]


class Rewriter:
    """A typed graph while it is edited. ``nodes`` are those of its main region; `finish` brings them in order."""

    def __init__(self, graph: Graph, ops: Mapping[str, Op]) -> None:
        self.graph, self.ops = graph, ops
        self.regions = dict(graph.regions)
        self.types = dict(graph.types)
        self.nodes = {node.id: node for node in graph.body.nodes}
        self.taken = {node.id for region in graph.regions.values() for node in region.nodes}
        self.taken |= set(graph.regions)

    def fresh(self, name: str) -> str:
        """An id that no node and no region has."""
        found, number = name, 2
        while found in self.taken:
            found, number = f"{name}_{number}", number + 1
        self.taken.add(found)
        return found

    def body(self, name: str, kind: RegionKind, origin: Span | None = None) -> Body:
        """A new region to build."""
        return Body(self, Region(self.fresh(name), kind, (), (), (), origin), origin)

    def reopen(self, name: str, origin: Span | None = None) -> Body:
        """A region that is there, to add to its end."""
        return Body(self, self.regions[name], origin)

    def call(
        self, region: Region, inputs: Sequence[Value], name: str = "", origin: Span | None = None
    ) -> tuple[Value, ...]:
        """A call of a region in the main region; its values."""
        id_ = self.fresh(name) if name else region.name
        outputs = tuple(port.name for port in region.outputs)
        self.nodes[id_] = Node(id_, "call", tuple(inputs), {"region": region.name}, outputs, origin)
        values = tuple(Value(id_, position) for position in range(len(outputs)))
        for value, port in zip(values, region.outputs, strict=True):
            self.types[value] = self.types[port.value]
        return values

    def called(self, name: str, **changes: Any) -> None:
        """Change a node of the main region; the outputs of a call are those of its region."""
        node = replace(self.nodes[name], **changes)
        if node.op == "call":
            region = self.regions[node.attrs["region"]]
            node = replace(node, outputs=tuple(port.name for port in region.outputs))
            for position, port in enumerate(region.outputs):
                self.types[Value(name, position)] = self.types[port.value]
        self.nodes[name] = node

    def stop(self, value: Value, name: str, origin: Span | None = None) -> Value:
        """A value of the main region as a constant."""
        id_ = self.fresh(name)
        self.nodes[id_] = Node(id_, "stop", (value,), {}, ("stop",), origin)
        self.types[Value(id_)] = self.types[value]
        return Value(id_)

    def clone(self, name: str, suffix: str, dims: Dims | None = None) -> Region:
        """A copy of a region, and of those it calls, that reads the same storage: ``name@suffix``.

        dims: what stands for a dim there, as ``{"B": 2*B}`` for a batch of twice the size.
        """
        region, given = self.regions[name], dims or {}
        made: dict[str, str] = {node.id: self.fresh(f"{node.id}@{suffix}") for node in region.nodes}

        def moved(value: Value) -> Value:
            return Value(made[value.node], value.port)

        nodes = []
        for node in region.nodes:
            attrs = (
                {key: substituted(value, given) for key, value in node.attrs.items()} if given else node.attrs
            )
            if node.op in USES:
                attrs = {**attrs, "region": self.clone(node.attrs["region"], suffix, dims).name}
            inputs = tuple(moved(value) if value is not None else None for value in node.inputs)
            nodes.append(Node(made[node.id], node.op, inputs, attrs, node.outputs, node.origin))
            for position in range(len(node.outputs)):
                type_ = self.types.get(Value(node.id, position))
                if type_ is not None:
                    dims_ = tuple(substitute(dim, given) for dim in type_.dims)
                    self.types[Value(made[node.id], position)] = type_.with_dims(dims_)
        copy = Region(
            self.fresh(f"{name}@{suffix}"),
            "step" if region.kind == "step" else "credit",
            tuple(Port(port.name, moved(port.value)) for port in region.inputs),
            tuple(Port(port.name, moved(port.value)) for port in region.outputs),
            tuple(nodes),
            region.origin,
        )
        self.regions[copy.name] = copy
        return copy

    def finish(self, outputs: Sequence[Port], keep: Callable[[str], bool], **changes: Any) -> Graph:
        """The graph, with the nodes of the main region that ``keep`` lets stay, every one behind what it reads.

        Regions that nothing calls any more go, and so does storage that only they read.
        """
        graph, main = self.graph, self.graph.body
        nodes = _ordered(node for node in self.nodes.values() if keep(node.id))
        body = Region(main.name, main.kind, main.inputs, tuple(outputs), nodes, main.origin)
        regions = {**self.regions, main.name: body}
        used = _called(regions, [main.name, *(t.teach for t in graph.tasks.values() if t.teach is not None)])
        before = _read(graph.regions, graph.regions)
        after = _read(regions, used)
        kept = {name: row for name, row in graph.storage.items() if name in after or name not in before}
        return graph.with_(
            regions={name: region for name, region in regions.items() if name in used},
            types=self.types,
            storage=kept,
            outputs=tuple(port.name for port in outputs),
            **changes,
        )


class Body:
    """A region while it is built. A node is called ``region.name``."""

    def __init__(self, editor: Rewriter, region: Region, origin: Span | None) -> None:
        self.editor, self.region, self.origin = editor, region, origin
        self.nodes = list(region.nodes)
        self.inputs, self.outputs = list(region.inputs), list(region.outputs)

    def type(self, value: Value) -> TensorType:
        return self.editor.types[value]

    def _add(
        self,
        name: str,
        op: str,
        inputs: tuple[Value | None, ...],
        attrs: Mapping[str, Any],
        outputs: tuple[str, ...],
    ) -> Value:
        id_ = self.editor.fresh(name)
        self.nodes.append(Node(id_, op, inputs, attrs, outputs, self.origin))
        return Value(id_)

    def input(self, name: str, type_: TensorType) -> Value:
        value = self._add(f"{self.region.name}/{name}", "port", (), {"name": name}, (name,))
        self.inputs.append(Port(name, value))
        self.editor.types[value] = type_
        return value

    def number(self, number: float) -> Value:
        value = self._add(f"{self.region.name}/const", "constant", (), {"value": number}, ("const",))
        self.editor.types[value] = TensorType("int" if isinstance(number, int) else "float")
        return value

    def size(self, dim: DimLike) -> Value:
        """A dim as a number."""
        if not isinstance(dim, Dim):
            return self.number(int(dim))
        value = self._add(f"{self.region.name}/size", "size", (), {"dim": dim}, ("size",))
        self.editor.types[value] = TensorType("int")
        return value

    def stop(self, value: Value, name: str = "stop") -> Value:
        stopped = self._add(f"{self.region.name}.{name}", "stop", (value,), {}, (name,))
        self.editor.types[stopped] = self.type(value)
        return stopped

    def node(self, op: str, *inputs: Value, name: str = "", **attrs: Any) -> Value:
        """Add a node; of an op with several outputs, its first."""
        record = self.editor.ops[op]
        outputs = (name.rpartition(".")[2] or op, *record.outputs[1:])
        filled = {arg.name: arg.default for arg in record.attributes if not arg.required} | attrs
        operands: tuple[Value | None, ...] = inputs
        if not any(arg.kind == "values" for arg in record.values):
            operands += (None,) * (len(record.values) - len(inputs))
        value = self._add(f"{self.region.name}.{name or op}", op, operands, filled, outputs)
        types = [self.type(v) if v is not None else None for v in operands]
        space = Namespace(**filled)
        for number, arg in enumerate(record.values):
            setattr(space, arg.name, types[number:] if arg.kind == "values" else types[number])
        result = record.shape(Shapes(), space)
        for port, type_ in enumerate(result if isinstance(result, tuple) else (result,)):
            self.editor.types[Value(value.node, port)] = type_
        return value

    def output(self, name: str, value: Value) -> int:
        """Make a value an output; its position."""
        self.outputs.append(Port(name, value))
        return len(self.outputs) - 1

    def finish(self) -> Region:
        region = replace(
            self.region, inputs=tuple(self.inputs), outputs=tuple(self.outputs), nodes=tuple(self.nodes)
        )
        self.editor.regions[region.name] = region
        return region


def substitute(dim: DimLike, given: Dims) -> DimLike:
    """A dim with others in place of some symbols, all at once."""
    if not isinstance(dim, Dim) or not dim.symbols() & given.keys():
        return dim
    total: DimLike = 0
    for atoms, factor in dim.terms:
        product: DimLike = factor
        for atom in atoms:
            if isinstance(atom, str):
                product = product * given.get(atom, symbol(atom))
            else:
                top, bottom = substitute(atom.numerator, given), substitute(atom.denominator, given)
                product = product * (top % bottom if atom.remainder else top // bottom)
        total = total + product
    return total


def substituted(value: Any, given: Dims) -> Any:
    """An attribute of a node with `substitute` applied to every dim in it."""
    if isinstance(value, Dim):
        return substitute(value, given)
    if isinstance(value, Loop):
        return value.mapped(lambda dim: substitute(dim, given))
    if type(value) is dict:
        return {key: substituted(part, given) for key, part in value.items()}
    return tuple(substituted(part, given) for part in value) if type(value) is tuple else value


def _ordered(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Every node after those it reads, otherwise in the order given; a loop, since chains may be long."""
    waiting = {node.id: node for node in nodes}
    done: dict[str, Node] = {}
    for root in waiting:
        stack = [root]
        while stack:
            node = waiting[stack[-1]]
            missing = [v.node for v in node.inputs if v is not None and v.node not in done]
            if node.id in done or not missing:
                done.setdefault(stack.pop(), node)
            else:
                stack.extend(reversed(missing))
    return tuple(done.values())


def _called(regions: Mapping[str, Region], roots: Iterable[str]) -> set[str]:
    """Some regions and all that they call."""
    found: set[str] = set()
    stack = list(roots)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += [node.attrs["region"] for node in regions[name].nodes if node.op in USES]
    return found


def _read(regions: Mapping[str, Region], names: Iterable[str]) -> set[str]:
    """The storage that regions read."""
    return {n.attrs["storage"] for name in names for n in regions[name].nodes if n.op == "param"}


__all__ = ["Body", "Rewriter", "substitute", "substituted"]
