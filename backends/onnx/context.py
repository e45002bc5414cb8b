"""`OnnxContext`: the context ``o`` of the records' `onnx` forms. It adds nodes to an onnx_ir graph."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from r2d2c.graph import Argument, Graph, Node, Value
from r2d2c.infer import NodeTypes, Signatures
from r2d2c.loops import element
from r2d2c.ops.shapes import promoted
from r2d2c.source import Span
from r2d2c.types import Dim, DimLike, TensorType, evaluate

from .names import properties, statement_name, unique, value_name
from .nodes import attribute, dtypes

OPSET = 20
Given = ir.Value | float | int | bool

ONNX_DTYPES = {
    "f64": ir.DataType.DOUBLE, "f32": ir.DataType.FLOAT, "bf16": ir.DataType.BFLOAT16,
    "f16": ir.DataType.FLOAT16, "i64": ir.DataType.INT64, "i32": ir.DataType.INT32, "i16": ir.DataType.INT16,
    "i8": ir.DataType.INT8, "u8": ir.DataType.UINT8, "bool": ir.DataType.BOOL,
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in ONNX_DTYPES.items()}
DEFAULTS = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16"}
_STRONG = {"float": "f32", "int": "i64"}


class OnnxContext(NodeTypes):
    """One ONNX graph under construction.

    default: what f32 stands for, in a model converted by ``.double()``.
    outer: the context around, if this is the body of a loop. A body reads the values around it; it shares the
    constants, and sizes are computed outside of all loops, once.
    single: the length of sequences of which the graph takes one element alone: axes of that length are 1 inside.

    Outside of `begin` … `end` it adds nodes that belong to no op; `value_of` has what the ops' values became.
    """

    def __init__(
        self,
        graph: Graph,
        signatures: Signatures,
        default: torch.dtype = torch.float32,
        outer: OnnxContext | None = None,
        single: Dim | None = None,
    ) -> None:
        self.graph, self.signatures, self.outer = graph, signatures, outer
        self.single: Dim | None = single if outer is None else outer.single
        self.default: str = DEFAULTS[default] if outer is None else outer.default
        self.nodes: list[ir.Node] = []
        self.inputs: list[ir.Value] = []
        self.initializers: list[ir.Value] = []
        self.value_of: dict[Value, Given] = {}
        self.functions: dict[Any, ir.Function] = {}
        self.opsets: dict[str, int] = {"": OPSET}
        self.taken: set[str] = set()
        self._node_names: set[str] = set()
        self._weak: dict[ir.Value, str] = {}
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._symbols: dict[str, tuple[ir.Value, int | None, Span | None]] = {}
        self.arguments: dict[str, ir.Value] = {}
        self._sizes: dict[DimLike, ir.Value] = {}
        self._node: Node | None = None
        self._props: dict[str, str] = {}
        self._first = 0
        if outer is not None:
            self.initializers, self._constants, self._weak = outer.initializers, outer._constants, outer._weak
            self.functions, self.opsets = outer.functions, outer.opsets
            self.taken, self._node_names = outer.taken, outer._node_names
        elif single is not None:
            self._sizes[single] = self.ints([1])

    # -- what records call
    def __call__(self, op: str, *inputs: Given | None, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node of the default domain; its output, a tuple of them if there are several."""
        like = next(
            (v.dtype for v in inputs if isinstance(v, ir.Value) and v.dtype != ir.DataType.BOOL), None
        )
        given = [v if v is None or isinstance(v, ir.Value) else self._number(v, like) for v in inputs]
        while given and given[-1] is None:
            given.pop()
        node = ir.Node(
            "",
            op,
            given,
            [attribute(name, value) for name, value in attributes.items() if value is not None],
            num_outputs=outputs,
            metadata_props=dict(self._props),
        )
        self.nodes.append(node)
        for position, (made, dtype) in enumerate(
            zip(node.outputs, dtypes(op, given, attributes, outputs), strict=True)
        ):
            if dtype is not None:
                made.type = ir.TensorType(dtype)
            if self._node is None:
                node.name = self.unique_node(op)
                made.name = self.unique(f"{op}:{position}")
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def const(self, value: Any, dtype: str = "f32") -> ir.Value:
        """A constant of a number, a nested list or an array; equal ones are one initializer.

        "f32" is the model's float, which `.double()` changes; "float32" is that always: some ONNX ops
        insist on it.
        """
        kind = self.dtype(dtype)
        array = np.asarray(value)
        tensor = ir.Tensor(np.asarray(array.astype(kind.numpy()), order="C"), dtype=kind)
        key = (kind, array.shape, tensor.tobytes())
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = self.initializer(self.unique(_constant_name(kind, array)), tensor)
        return found

    def ints(self, values: Iterable[int]) -> ir.Value:
        """A 1-D int64 constant."""
        return self.const(np.asarray([int(v) for v in values], dtype=np.int64), "i64")

    def dtype_of(self, value: Given) -> str:
        """The dtype's name."""
        if isinstance(value, ir.Value):
            assert value.dtype is not None, value
            return DTYPE_NAMES[value.dtype]
        return "bool" if isinstance(value, bool) else "i64" if isinstance(value, int) else self.default

    def dtype(self, name: str) -> ir.DataType:
        """The ONNX dtype of a name."""
        name = _STRONG.get(name, name)
        if name == "float32":
            return ir.DataType.FLOAT
        return ONNX_DTYPES[self.default if name == "f32" else name]

    def cast(self, value: Given, dtype: str) -> ir.Value:
        """``value`` in a dtype: itself if it has it. A number becomes a constant."""
        if not isinstance(value, ir.Value):
            return self.const(value, dtype)
        kind = self.dtype(dtype)
        return value if value.dtype == kind else self("Cast", value, to=kind)

    def promote(self, *values: Given) -> tuple[ir.Value, ...]:
        """The values in their common dtype by torch's rules; ONNX itself never promotes."""
        common = self._promotable(values[0])
        for value in values[1:]:
            other = self._promotable(value)
            common = TensorType(promoted(common, other), common.dims or other.dims)
        return tuple(self.cast(value, common.dtype) for value in values)

    def size(self, dim: DimLike) -> ir.Value:
        """A dim as an int64 value of shape [1]: a constant, or arithmetic on the inputs' shapes."""
        if not isinstance(dim, Dim):
            return self.ints([dim])
        if self.outer is not None:
            return self.outer.size(dim)
        found = self._sizes.get(dim)
        if found is None:
            found = self._sizes[dim] = self._sum(dim)
        return found

    def shape_of(self, type_: TensorType) -> ir.Shape:
        """A type's dims; those of the run by their names."""
        return ir.Shape([self._dim(d) if isinstance(d, Dim) else int(d) for d in type_.dims])

    def shape(self, dims: Iterable[DimLike]) -> ir.Value:
        """Dims as a 1-D int64 value."""
        sizes = tuple(dims)
        if all(not isinstance(dim, Dim) for dim in sizes):
            return self.ints([int(dim) for dim in sizes])  # type: ignore[arg-type]
        if self.outer is not None:
            return self.outer.shape(sizes)
        return self("Concat", *map(self.size, sizes), axis=0)  # type: ignore[no-any-return]

    # -- building
    def initializer(self, name: str, tensor: Any) -> ir.Value:
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.initializers.append(value)
        return value

    def input(self, name: str, value: Value, origin: Span | None) -> None:
        """A graph input; its run-time dims are where sizes are read from."""
        type_ = self.graph.types[value]
        among = single_axis(type_, self.single)
        type_ = type_ if among is None else element(type_, among)
        made = ir.Value(name=name, shape=self.shape_of(type_), type=ir.TensorType(self.dtype(type_.dtype)))
        self.inputs.append(made)
        self.value_of[value] = made
        if among is not None:
            self._props = properties(name, origin, None)
            self.value_of[value] = whole = self("Unsqueeze", made, self.ints([among]))
            whole.shape, self._props = self.shape_of(self.graph.types[value]), {}
        for axis, dim in enumerate(type_.dims):
            if isinstance(dim, Dim) and str(dim).lstrip("?").isidentifier():
                self._symbols.setdefault(str(dim), (made, axis, origin))

    def argument(self, argument: Argument) -> None:
        """A graph input that may be left out: a number, and what it usually is."""
        kind = self.argument_dtype(argument)
        made = self.initializer(
            argument.name, ir.Tensor(np.asarray(argument.usual, kind.numpy()), dtype=kind)
        )
        self.inputs.append(made)
        self._weak[made] = "int" if argument.kind == "size" else "float"
        self.arguments[argument.name] = made
        if argument.kind == "size":
            self._symbols[argument.name] = (made, None, None)

    def argument_dtype(self, argument: Argument) -> ir.DataType:
        """int64 for a size; of other numbers at least float32, which 1/3 of a width needs."""
        if argument.kind == "size":
            return ir.DataType.INT64
        return ir.DataType.DOUBLE if self.default == "f64" else ir.DataType.FLOAT

    def port(self, name: str, type_: TensorType) -> ir.Value:
        """An input of a loop's body."""
        made = ir.Value(
            name=self.unique(name), shape=self.shape_of(type_), type=ir.TensorType(self.dtype(type_.dtype))
        )
        self.inputs.append(made)
        return made

    def unique(self, name: str) -> str:
        """A name that no other value has."""
        return unique(name, self.taken)

    def unique_node(self, name: str) -> str:
        """A name that no other node has; a value may have it."""
        return unique(name, self._node_names)

    def begin(self, node: Node) -> None:
        """What follows is added for this op, until `end`."""
        task = node.id.partition(".")[0].partition("/")[0]
        self._node, self._first = node, len(self.nodes)
        self._props = properties(
            statement_name(node), node.origin, task if task in self.graph.tasks else None
        )

    def end(self, results: tuple[Given, ...]) -> None:
        """Record the results of the op and give what it added its names."""
        node = self._node
        assert node is not None
        made = self.nodes[self._first :]
        own = set(made)
        for port, result in enumerate(results):
            value = Value(node.id, port)
            self.value_of[value] = result
            type_ = self.graph.types.get(value)
            if not isinstance(result, ir.Value) or type_ is None:
                continue
            if type_.weak:
                self._weak[result] = type_.dtype
            elif result.producer() in own and result.name is None:
                result.name = self.unique(value_name(node, port))
                result.shape, result.type = self.shape_of(type_), ir.TensorType(self.dtype(type_.dtype))
        main = results[0].producer() if results and isinstance(results[0], ir.Value) else None
        for one in made:
            if one.name is None:
                one.name = self.unique_node(node.id if one is main else f"{node.id}/{one.op_type}")
            for output in one.outputs:
                if output.name is None:
                    output.name = self.unique(f"{node.id}/{one.op_type}")
        self._node = None
        self._props = {}

    def identity(self, value: Given, name: str, said: str, origin: Span | None) -> ir.Value:
        """A value again, under another name."""
        self._props = properties(said, origin, None)
        made: ir.Value = self("Identity", value)
        made.producer().name = self.unique_node(f"outputs.{name}")  # type: ignore[union-attr]
        made.name = name
        self._props = {}
        return made

    # -- inside
    def _dim(self, dim: Dim) -> int | str | None:
        within = set() if self.single is None else dim.symbols() & self.single.symbols()
        if not within:
            return _dim_name(dim)
        return evaluate(dim, dict.fromkeys(within, 1)) if dim.symbols() == within else None

    def _number(self, number: float | int | bool, like: ir.DataType | None) -> ir.Value:
        if isinstance(number, bool):
            return self.const(number, "bool")
        if like is not None and (isinstance(number, int) or like.is_floating_point()):
            return self.const(number, DTYPE_NAMES[like])
        return self.const(number, "i64" if isinstance(number, int) else "f32")

    def _promotable(self, value: Given) -> TensorType:
        """A type that promotes as the value does: what counts is its dtype, and whether it has dims."""
        if isinstance(value, ir.Value):
            scalar = value in self._weak or (value.shape is not None and value.shape.rank() == 0)
            return TensorType(self._weak.get(value) or self.dtype_of(value), () if scalar else (1,))
        return TensorType("bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float")

    def _sum(self, dim: Dim) -> ir.Value:
        total: Any = None
        for atoms, factor in dim.terms:
            part: Any = None
            for atom in atoms:
                if isinstance(atom, str):
                    size = self._symbol(atom)
                else:
                    sizes = self.size(atom.numerator), self.size(atom.denominator)
                    size = self("Mod" if atom.remainder else "Div", *sizes)
                part = size if part is None else self("Mul", part, size)
            if part is None:
                part = self.ints([factor])
            elif factor != 1:
                part = self("Mul", part, self.ints([factor]))
            total = part if total is None else self("Add", total, part)
        return total  # type: ignore[no-any-return]

    def _symbol(self, name: str) -> ir.Value:
        key = Dim((((name,), 1),))
        found = self._sizes.get(key)
        if found is None:
            tensor, axis, origin = self._symbols[name]
            before, self._props = self._props, properties(name, origin, None)
            if axis is None:
                found = self("Unsqueeze", tensor, self.ints([0]))
            else:
                found = self("Shape", tensor, start=axis, end=axis + 1)
            self._sizes[key] = found
            self._props = before
            node = found.producer()
            assert node is not None
            node.name, found.name = self.unique_node(f"size/{name}"), self.unique(f"size/{name}")
        return found


def single_axis(type_: TensorType, single: Dim | None) -> int | None:
    """The axis of which a graph of one step has a single element; None if there is none."""
    return next((axis for axis, dim in enumerate(type_.dims) if single is not None and dim == single), None)


@functools.lru_cache(maxsize=1024)
def _dim_name(dim: Dim) -> str:
    return str(dim).replace("?", "")


def _constant_name(kind: ir.DataType, array: np.ndarray[Any, Any]) -> str:
    if array.size > 6:
        return f"const/{DTYPE_NAMES[kind]}[{'x'.join(map(str, array.shape))}]"
    shown = ",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in array.reshape(-1).tolist())
    return f"const/{DTYPE_NAMES[kind]}{'x' * (array.ndim - 1)}{f'[{shown}]' if array.ndim else f':{shown}'}"
