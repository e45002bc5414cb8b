"""The shape pass: from the resolved graph to the typed one.

Dims are unified as nodes are met, so a mismatch names both places. Types of storage come from the ops that make it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Init, Node, Region, Storage, Value
from r2d2c.infer_checks import check_feeds, check_losses
from r2d2c.infer_sizes import sized_regions
from r2d2c.loops import Loop, element, given_type, loop_of, sequence_axis
from r2d2c.ops.record import Namespace, Op, ShapeError, Shapes
from r2d2c.source import Span
from r2d2c.types import Dim, DimLike, TensorType, Unifier

# What an op's own storage is read with.
_MADE = ("param", "generate")


class Signature:
    """An op's argument names, split once so that the passes over all nodes are quick."""

    __slots__ = ("names", "op", "variadic")

    def __init__(self, op: Op) -> None:
        self.op = op
        values = op.values
        self.variadic = values[-1].name if values and values[-1].kind == "values" else None
        self.names = tuple(arg.name for arg in values if arg.kind != "values")

    def namespace(self, node: Node, inputs: list[Any]) -> Namespace:
        """The namespace that a record's functions take, of whatever stands for the inputs."""
        space = Namespace(**node.attrs)
        filled = space.__dict__
        filled.update(zip(self.names, inputs, strict=False))
        if self.variadic is not None:
            filled[self.variadic] = inputs[len(self.names) :]
        return space


class Signatures:
    """`Signature`s by op name."""

    def __init__(self, ops: Mapping[str, Op]) -> None:
        self.ops = ops
        self._made: dict[str, Signature] = {}

    def __getitem__(self, name: str) -> Signature:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Signature(self.ops[name])
        return made


class NodeTypes:
    """The types that go with the node at hand: what the contexts of the records' `lower` and `onnx` share."""

    graph: Graph
    signatures: Signatures
    _node: Node | None

    def type(self, argument: str) -> TensorType:
        """The type of a value argument of the op."""
        assert self._node is not None
        value = self._node.inputs[self.signatures[self._node.op].names.index(argument)]
        assert value is not None, argument
        return self.graph.types[value]

    def types(self, argument: str) -> tuple[TensorType, ...]:
        """The types of a variadic argument."""
        assert self._node is not None
        first = len(self.signatures[self._node.op].names)
        return tuple(self.graph.types[v] for v in self._node.inputs[first:] if v is not None)

    @property
    def out(self) -> tuple[TensorType, ...]:
        """The types of the op's outputs."""
        assert self._node is not None
        types = self.graph.types
        values = (Value(self._node.id, port) for port in range(len(self._node.outputs)))
        return tuple(types[value] for value in values if value in types)


def infer(graph: Graph, ops: Mapping[str, Op], sink: Sink) -> Graph:
    """Type every value and all storage. Mistakes go to the sink; what depends on them stays untyped and silent."""
    return _Inference(graph, ops, sink).run()


class _Inference:
    def __init__(self, graph: Graph, ops: Mapping[str, Op], sink: Sink) -> None:
        self.graph, self.sink = graph, sink
        self.signatures = Signatures(ops)
        self.unifier = Unifier()
        self.shapes = Shapes(self.unifier)
        self.types: dict[Value, TensorType] = dict(graph.types)
        self.bounds: dict[Value, DimLike] = {}
        self.storage: dict[str, Storage] = dict(graph.storage)
        self.done: set[str] = set()
        self.origins: dict[str, Node] = {}
        # Where a value comes from across a region's boundary, and the blocks that are being looked into.
        self.source: dict[Value, Value] = {}
        self.uses: list[Node] = []

    def run(self) -> Graph:
        graph = self.graph
        self._region(graph.body)
        check_losses(graph, self.types, self.sink)
        check_feeds(graph, self.types, self._same, self._maker, self.sink)
        resolve = self.unifier.resolve_type
        types = (
            {value: resolve(type_) for value, type_ in self.types.items()}
            if self.unifier.bound
            else self.types
        )
        storage = {
            name: replace(row, type=resolve(row.type)) if row.type is not None and self.unifier.bound else row
            for name, row in self.storage.items()
        }
        dims = {name: self.unifier.resolve(dim) for name, dim in graph.dims.items()}
        bounds = {value: self.unifier.resolve(dim) for value, dim in self.bounds.items()}
        regions = sized_regions(graph, self.types, self.unifier, self.sink)
        return graph.with_(
            stage="typed", regions=regions, types=types, storage=storage, dims=dims, bounds=bounds
        )

    def _region(self, region: Region) -> None:
        self.done.add(region.name)
        types = self.types
        for node in region.nodes:
            self.origins[node.id] = node
            op = node.op
            if op == "port":
                continue
            if op == "constant":
                value = node.attrs["value"]
                dtype = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
                types[Value(node.id)] = TensorType(dtype)
            elif op == "size":
                types[Value(node.id)] = TensorType("int")
            elif op in ("param", "generate"):
                row = self.storage[node.attrs["storage"]]
                if row.type is not None:
                    stacked = row.type.dims[1:] if row.stack is not None else row.type.dims
                    types[Value(node.id)] = row.type.with_dims(stacked)
            elif op == "argument":
                whole = self.graph.arguments[node.attrs["name"]].kind == "size"
                types[Value(node.id)] = TensorType("int" if whole else "float")
            elif op == "code":
                self._code(node)
            elif op == "call":
                self._call(node)
            elif op == "loop":
                self._loop(node)
            else:
                self._op(node)

    def _code(self, node: Node) -> None:
        """Type the codes of a hypernet. What `generate` gives is typed as if it were the same for every context."""
        given = self.types.get(node.inputs[0]) if node.inputs[0] is not None else None
        if given is None:
            return
        context, net = self.unifier.resolve_type(given), node.attrs["hypernet"]
        refused = net.refuses(context)
        if refused is not None:
            self.sink.report("E330", node.origin, refused, also=[(net.origin, "this hypernet")])
            return
        for port, type_ in enumerate(net.types(context)):
            self.types[Value(node.id, port)] = type_

    def _call(self, node: Node) -> None:
        callee = self.graph.regions[node.attrs["region"]]
        again = callee.name in self.done
        for port, given in zip(callee.inputs, node.inputs, strict=True):
            type_ = self.types.get(given) if given is not None else None
            if type_ is None:
                continue
            before = self.types.get(port.value)
            if again and before is not None and not self._same(before, type_):
                self.sink.report(
                    "E305",
                    node.origin,
                    f"`{callee.name}` is shared: it takes {before} as `{port.name}`, here it gets {type_}",
                )
            self.types.setdefault(port.value, type_)
            if given is not None:
                self.source.setdefault(port.value, given)
        if not again:
            self.uses.append(node)
            self._region(callee)
            self.uses.pop()
        for position, port in enumerate(callee.outputs):
            found = self.types.get(port.value)
            if found is not None:
                self.types[Value(node.id, position)] = found
                self.source[Value(node.id, position)] = port.value
        for port, given in zip(callee.inputs, node.inputs, strict=True):
            if port.value in self.bounds and given is not None:
                self._bound(given, self.bounds[port.value], node.origin)

    def _loop(self, node: Node) -> None:
        """Type a loop: its carries are what they are declared, and every step has to leave them so."""
        loop, step = loop_of(node), self.graph.regions[node.attrs["region"]]
        count = len(loop.carries)
        for carry, port, given in zip(loop.carries, step.inputs, node.inputs, strict=False):
            found = self.types.get(given) if given is not None else None
            if found is not None and not self._same(carry.type, found):
                message = f"the carry `{carry.name}` is {carry.type}, and its initial value is {found}"
                self.sink.report("E320", carry.origin, message)
            self.types[port.value] = carry.type
        for port, given in list(zip(step.inputs, node.inputs, strict=True))[count:]:
            found = self.types.get(given) if given is not None else None
            if found is not None and given is not None:
                self.types[port.value] = found
                self.source.setdefault(port.value, given)
        for port in step.inputs[count : count + loop.sequences]:
            found = self.types.get(port.value)
            if found is None:
                continue
            axis = sequence_axis(self.unifier.resolve_type(found), self.unifier.resolve(loop.trips))
            if axis is None:
                message = f"`{port.name}` is {found}, which has no axis {loop.trips}: the loop reads one element of it a step"
                self.sink.report("E321", node.origin, message)
                del self.types[port.value]
            else:
                self.types[port.value] = element(found, axis)
        if step.name not in self.done:
            self._region(step)
        for carry, port in zip(loop.carries, step.outputs, strict=False):
            found = self.types.get(port.value)
            if found is not None and not self._same(carry.type, found):
                maker = self._maker(port.value)
                also = [(carry.origin, f"declared as {carry.type}")]
                message = f"the carry `{carry.name}` is {carry.type} before a step of `{loop.name}` and {found} after it"
                self.sink.report("E322", maker.origin if maker else node.origin, message, also=also)
        if loop.halt is not None:
            self._halting(node, loop, step)
        for number, gives in enumerate(loop.gives):
            type_ = given_type(gives, step, self.types, loop)
            if type_ is not None:
                self.types[Value(node.id, number)] = type_
                if gives.kind == "last":
                    self.source[Value(node.id, number)] = step.outputs[gives.port].value

    def _halting(self, node: Node, loop: Loop, step: Region) -> None:
        assert loop.halt is not None
        found = self.types.get(step.outputs[loop.halt.port].value)
        if found is None:
            return
        batched = len(found.dims) == 1 and isinstance(found.dims[0], Dim) and "B" in found.dims[0].symbols()
        if not batched or not (found.dtype == "bool" or found.floating):
            maker = self._maker(step.outputs[loop.halt.port].value)
            message = f"`until` of `{loop.name}` is {found}: it says for every sample whether it halts, f32[B] or bool[B]"
            fix = "take one number a sample, such as `sigmoid(linear(c, 1))[:, 0]`"
            self.sink.report("E323", maker.origin if maker else node.origin, message, fix=fix)

    def _same(self, left: TensorType, right: TensorType) -> bool:
        unify = self.unifier.unify
        return (
            left.dtype == right.dtype and left.rank == right.rank and all(map(unify, left.dims, right.dims))
        )

    def _bound(self, value: Value, limit: DimLike, origin: Span | None) -> None:
        before = self.bounds.setdefault(value, limit)
        if before != limit and isinstance(before, int) and isinstance(limit, int):
            self.bounds[value] = min(before, limit)
            if abs(before - limit) > 0:
                self.sink.report(
                    "W306",
                    origin,
                    f"the same integers are used as one of {limit} here and one of {before} elsewhere",
                )

    def _op(self, node: Node) -> None:
        signature = self.signatures[node.op]
        op, types = signature.op, self.types
        inputs: list[Any] = []
        waiting = False
        for value in node.inputs:
            type_ = types.get(value) if value is not None else None
            if type_ is None and value is not None:
                maker = self.origins.get(value.node)
                own = maker is not None and maker.op in _MADE and maker.attrs["storage"].startswith(node.id)
                if not own:
                    return  # reported where it failed
                waiting = True
            inputs.append(type_)
        space = signature.namespace(node, inputs)
        try:
            if waiting and op.params is not None:
                self._make_storage(node, op, space)
            result = op.shape(self.shapes, space)
        except ShapeError as error:
            self._report(node, signature, error)
            return
        if self.shapes.bounds:
            self._take_bounds(node, signature)
        if isinstance(result, TensorType):
            types[Value(node.id)] = result
        else:
            for port, type_ in enumerate(result):
                types[Value(node.id, port)] = type_

    def _make_storage(self, node: Node, op: Op, space: Namespace) -> None:
        assert op.params is not None
        specs = op.params(self.shapes, space)
        names = self.signatures[node.op].names
        dtype = next(
            (
                t.dtype
                for t in vars(space).values()
                if isinstance(t, TensorType) and t.floating and not t.weak
            ),
            "f32",
        )
        for name, value in zip(names, node.inputs, strict=False):
            if value is None or name not in specs:
                continue
            reader = self.origins[value.node]
            if reader.op not in _MADE or self.storage[reader.attrs["storage"]].type is not None:
                continue
            spec, row = specs[name], self.storage[reader.attrs["storage"]]
            kind = spec.kind if spec.kind != "param" else row.kind
            init = spec.init if row.init == Init("default") else row.init
            type_ = TensorType(spec.dtype or dtype, spec.dims)
            own = type_
            if row.stack is not None:
                type_ = type_.with_dims((row.stack[1], *type_.dims))
            fans = None
            if spec.fans is not None:
                sizes = tuple(self.unifier.resolve(f) for f in spec.fans)
                fans = (int(sizes[0]), int(sizes[1])) if all(isinstance(f, int) for f in sizes) else None  # type: ignore[arg-type]
            self.storage[row.name] = replace(row, type=type_, kind=kind, init=init, axes=spec.axes, fans=fans)
            self.types[value] = own
            setattr(space, name, own)

    def _take_bounds(self, node: Node, signature: Signature) -> None:
        for argument, limit in self.shapes.bounds:
            value = node.inputs[signature.names.index(argument)]
            if value is not None:
                self._bound(value, limit, node.origin)
        self.shapes.bounds.clear()

    def _report(self, node: Node, signature: Signature, error: ShapeError) -> None:
        self.shapes.bounds.clear()
        also: list[tuple[Span | None, str]] = []
        for argument in (error.argument, error.other):
            if argument is None or argument not in signature.names:
                continue
            value = node.inputs[signature.names.index(argument)]
            if value is None:
                continue
            type_ = self.types.get(value)
            maker = self._maker(value)
            if (
                maker is not None
                and maker.origin is not None
                and type_ is not None
                and maker.op != "constant"
            ):
                also.append((maker.origin, f"`{argument}` is {self.unifier.resolve_type(type_)}"))
        for use in reversed(self.uses):
            if "block" in use.attrs:
                also.append((use.origin, f"in this use of `{use.attrs['block']}`"))
        named = f"`{node.op}`" in str(error) or "internal" in signature.op.traits
        message = str(error) if named else f"`{node.op}`: {error}"
        self.sink.report("E301", node.origin, message, also=also, fix=error.fix)

    def _maker(self, value: Value) -> Node | None:
        """The node that makes a value, in whichever region."""
        while value in self.source:
            value = self.source[value]
        return self.origins.get(value.node)
