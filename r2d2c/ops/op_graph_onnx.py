"""An op graph in ONNX: every op as nodes of the file, under its own name (`layer/o1`, `layer/n17`).

The file has the topology that the model has when it is written. What the ops
compute is made of the formulas of their kinds, so those of plug-ins need nothing more.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from r2d2c.ops.op_graph import ARGUMENTS, EPS, TABLE

_BINARY = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div"}
_CALLS = {
    "maximum": "Max", "minimum": "Min", "exp": "Exp", "abs": "Abs", "sign": "Sign", "tanh": "Tanh", "sin": "Sin",
    "cos": "Cos", "sqrt": "Sqrt", "log": "Log", "arctan": "Atan", "where": "Where",
}  # fmt: skip
_COMPARED = {ast.Gt: "Greater", ast.Lt: "Less", ast.GtE: "GreaterOrEqual", ast.LtE: "LessOrEqual"}


def write(o: Any, a: Any) -> Any:
    """The columns, [B, D + capacity], of the table in the model's buffers. ``o``: the exporter's context."""
    import numpy as np

    from r2d2c.opgraph import depths
    from r2d2c.opkinds import kind_of
    from r2d2c.ops.op_graph_rows import topology_of

    start, x = a.start, a.x
    inputs = int(o.type("x").dims[-1])
    rows = {part: getattr(a, part).const_value.numpy() for part in TABLE}
    table = topology_of(rows, inputs, start.names)
    writer = _Writer(o, a, start.name)
    # Ops that stand beside each other in the table are joined, [B, n]; each is [B, 1].
    made: dict[int, Any] = {}

    def column(place: int) -> Any:
        if place not in made:
            made[place] = writer.named(
                f"x{place}", lambda: o("Slice", x, o.ints([place]), o.ints([place + 1]), o.ints([-1]))
            )
        return made[place]

    depth = depths(table)
    for row in np.argsort(depth, kind="stable").tolist():
        if depth[row] == 0:
            continue
        kind = kind_of(table.kind[row])
        args = table.args[row, : kind.arity].tolist()
        given = [None if arg < 0 else column(arg) for arg in args]
        made[inputs + row] = writer.op(str(table.names[row]), kind.formula, given, row)
    if a.normalise == "layer":
        made |= writer.over_ops(inputs, [row for row in range(table.capacity) if inputs + row in made], made)
    parts: list[Any] = [x]
    free = 0
    for row in range(table.capacity):
        if inputs + row not in made:
            free += 1
            continue
        parts += [writer.zeros(free)] if free else []
        parts.append(made[inputs + row])
        free = 0
    parts += [writer.zeros(free)] if free else []
    return o("Concat", *parts, axis=-1)


class _Writer:
    def __init__(self, o: Any, a: Any, place: str) -> None:
        self.o, self.a, self.place = o, a, place
        self.dtype = o.type("x").dtype
        self.numbers: Any = None
        self.spread: Any = None

    def named(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` adds, under a name: its last node has it, others the name and what they are."""
        o, place = self.o, f"{self.place}/{name}"
        first = len(o.nodes)
        result = make()
        for node in o.nodes[first:]:
            last = node is result.producer()
            node.name = o.unique_node(place if last else f"{place}/{node.op_type}")
            for output in node.outputs:
                output.name = o.unique(place if last else f"{place}/{node.op_type}")
        return result

    def op(self, name: str, formula: str, given: list[Any], row: int) -> Any:
        """The value of one op, [B, 1]. given: its arguments, None for a number of its own."""

        def make() -> Any:
            args = [self._number(row, k) if arg is None else arg for k, arg in enumerate(given)]
            return self._normalised(self._value(formula, args), row)

        self._prepare()
        return self.named(name, make)

    def _prepare(self) -> None:
        """What all ops read."""
        if self.numbers is not None:
            return
        o, a = self.o, self.a
        self.numbers = o("Reshape", a.numbers, o.ints([-1]))
        if a.mean is not None:
            self.spread = o("Sqrt", o("Add", a.variance, o.const(EPS, self.dtype)))

    def _value(self, formula: str, given: list[Any]) -> Any:
        from r2d2c.opkind_formulas import value_tree

        body = value_tree(formula)
        if isinstance(body, ast.Name):
            return self.o("Identity", given[0])
        return self._computed(body, dict(zip("abc", given, strict=False)))

    def _computed(self, node: ast.expr, given: Mapping[str, Any]) -> Any:
        o = self.o
        match node:
            case ast.Name(name):
                return given[name]
            case ast.Constant(number):
                return o.const(float(number), self.dtype)  # type: ignore[arg-type]
            case ast.UnaryOp(ast.USub(), inner):
                return o("Neg", self._computed(inner, given))
            case ast.BinOp(left, op, right):
                return o(_BINARY[type(op)], self._computed(left, given), self._computed(right, given))
            case ast.Compare(left, [op], [right]):
                return o(_COMPARED[type(op)], self._computed(left, given), self._computed(right, given))
            case ast.Call(ast.Name("square"), [inner]):
                value = self._computed(inner, given)
                return o("Mul", value, value)
            case ast.Call(ast.Name(name), values):
                return o(_CALLS[name], *(self._computed(value, given) for value in values))
        raise NotImplementedError(ast.unparse(node))

    def _normalised(self, value: Any, row: int) -> Any:
        """By the running statistics of one op."""
        if self.a.mean is None:
            return value
        o, index = self.o, self.o.ints([row])
        mean, spread = (o("Gather", part, index, axis=0) for part in (self.a.mean, self.spread))
        return o("Div", o("Sub", value, mean), spread)

    def over_ops(self, inputs: int, rows: list[int], made: Mapping[int, Any]) -> dict[int, Any]:
        """The values of ops, normalised over all of them: each less their mean, by their spread."""
        if not rows:
            return {}
        o = self.o
        values = [made[inputs + row] for row in rows]
        last = o.ints([-1])
        every = values[0] if len(values) == 1 else o("Concat", *values, axis=-1)
        mean = o("ReduceMean", every, last, keepdims=1)
        apart = o("Sub", every, mean)
        variance = o("ReduceMean", o("Mul", apart, apart), last, keepdims=1)
        spread = o("Sqrt", o("Add", variance, o.const(EPS, self.dtype)))
        return {
            inputs + row: o("Div", o("Sub", value, mean), spread)
            for row, value in zip(rows, values, strict=True)
        }

    def _number(self, row: int, place: int) -> Any:
        """A number of an op's own, [1]."""
        return self.o("Gather", self.numbers, self.o.ints([ARGUMENTS * row + place]), axis=0)

    def zeros(self, count: int) -> Any:
        """The columns of rows without an op."""
        dims = self.o.type("x").dims[:-1]
        return self.o("Expand", self.o.const(0.0, self.dtype), self.o.shape((*dims, count)))
