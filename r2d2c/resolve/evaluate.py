"""Evaluating the arena of an expression into nodes of a region."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar

from r2d2c.diagnostics import suggest
from r2d2c.graph import Value
from r2d2c.ops.wiring import formula_at
from r2d2c.resolve.bind import bind_call
from r2d2c.resolve.places import call_wiring, quoted
from r2d2c.resolve.results import (
    ELLIPSIS,
    FAILED,
    BlockRef,
    Failed,
    Forbidden,
    HyperRef,
    LoopRef,
    LoopResult,
    MemoryResult,
    OpGraphRef,
    OpRef,
    Path,
    Placed,
    PlacesRef,
    Quoted,
    SliceItem,
    SlotResult,
    Unknown,
    UnknownCall,
    WriteRef,
    kind_of,
)
from r2d2c.resolve.values import Values
from r2d2c.source import Span
from r2d2c.syntax.ast import Expr, Statement
from r2d2c.types import Dim

BINARY: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "+": ("add", operator.add),
    "-": ("sub", operator.sub),
    "*": ("mul", operator.mul),
    "/": ("div", operator.truediv),
    "//": ("floor_divide", operator.floordiv),
    "%": ("remainder", operator.mod),
    "^": ("pow", operator.pow),
    "@": ("matmul", operator.matmul),
    "==": ("eq", operator.eq),
    "!=": ("ne", operator.ne),
    "<": ("lt", operator.lt),
    "<=": ("le", operator.le),
    ">": ("gt", operator.gt),
    ">=": ("ge", operator.ge),
    "and": ("logical_and", lambda x, y: x and y),
    "or": ("logical_or", lambda x, y: x or y),
}
UNARY: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "-": ("neg", operator.neg),
    "+": ("", operator.pos),
    "not": ("logical_not", operator.not_),
}
CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf}


def _at_run_time(operator_: str, left: Any, right: Any) -> bool:
    """Whether a number is known only when the model runs, and is no size: a part of a dim."""
    dims = isinstance(left, Dim) or isinstance(right, Dim)
    return dims and (operator_ == "/" or isinstance(left, float) or isinstance(right, float))


class Evaluator(Values):
    """Evaluates one syntax in one region."""

    # -- statements and expressions
    def statement(self, statement: Statement) -> Any:
        """Evaluate a statement and give its names their values."""
        region = self.region
        single = len(statement.targets) == 1
        self.target = statement.targets[0][0] if single else None
        base = statement.targets[0][0] if statement.targets else "out"
        self.place = f"{region.place}.{base}" if region.place else base
        result = self.run(statement.first, statement.root)
        if single:
            self._assign(statement.targets[0], result)
        elif statement.targets:
            self._unpack(statement, result)
        return result

    def expression(self, root: int, target: str | None = None) -> Any:
        self.target = target
        return self.run(0, root)

    def run(self, first: int, root: int) -> Any:
        nodes, results = self.syntax.nodes, self.results
        self.root = root
        handlers = self._handlers
        formulas = quoted(self, first, root)
        for index in range(first, root + 1):
            node = nodes[index]
            results[index] = Quoted() if index in formulas else handlers[node.kind](self, index, node)
        return results[root]

    def _assign(self, target: tuple[str, int, int], result: Any) -> None:
        name, start, end = target
        span = Span(self.syntax.source, start, end)
        if isinstance(result, (Unknown, UnknownCall, Path, Forbidden)):
            result = self.as_value(Placed(result, self.span(self.root)))
        if self.program.memories.syntaxes:
            from r2d2c.resolve.memory_use import not_a_memory

            if not_a_memory(self, name, result, span):
                result = FAILED
        if isinstance(result, LoopResult):
            if result.prefix:
                result = self.as_value(Placed(result, self.span(self.root)))
            else:
                self.region.names.update({f"{name}.{key}": value for key, value in result.values.items()})
                if any(port.name == "width" for port in self.program.regions[result.name].inputs):
                    from r2d2c.resolve.steps import lazily

                    lazily(self.region, name, result, self.span(self.root))
        self.region.names[name] = result
        self.region.defined[name] = span

    def _unpack(self, statement: Statement, result: Any) -> None:
        if isinstance(result, Failed):
            result = (FAILED,) * len(statement.targets)
        if not isinstance(result, tuple) or isinstance(result, Value):
            span = self.span(statement.root)
            self.sink.report("E210", span, f"{len(statement.targets)} names for one value", kind_of(result))
            result = (FAILED,) * len(statement.targets)
        if len(result) != len(statement.targets):
            span = self.span(statement.root)
            self.sink.report(
                "E210",
                span,
                f"{len(statement.targets)} names for {len(result)} values",
                f"gives {len(result)} values",
            )
            result = (*result, *(FAILED,) * len(statement.targets))
        for target, part in zip(statement.targets, result, strict=False):
            self._assign(target, part)

    # -- nodes
    def _name(self, index: int, node: Expr) -> Any:
        name = str(node.value)
        found = self.region.lookup(name)
        if found is not None:
            return found
        program = self.program
        if name in program.dims:
            program.used_dims.add(name)
            return self._dim(index, name, program.dims[name])
        if name in program.blocks:
            return BlockRef(name)
        if name in program.loops:
            return LoopRef(name)
        if name in program.hypernets:
            return HyperRef(name)
        if name in program.memories:
            from r2d2c.resolve.memory_use import find_memory

            return find_memory(self, index, name)
        if name in program.op_graphs:
            return OpGraphRef(name)
        if name in program.placings:
            return PlacesRef(name)
        if name == "write" and program.memories.syntaxes:
            return WriteRef()
        op = program.ops.get(name)
        if op is not None and "internal" not in op.traits:
            return OpRef(op)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in self.region.layers:
            return Path(self.region.layers[name])
        return Unknown(name)

    def _dim(self, index: int, name: str, dim: Any) -> Any:
        sized = self.region.sized
        if sized is not None and isinstance(dim, Dim):
            missing = sorted(s for s in dim.symbols() - sized - self.program.free if not s.startswith("?"))
            if missing:
                where = "input" if self.region.kind in ("behavior", "output") else "port"
                message = (
                    f"no {where} has the dim `{missing[0]}`, so its size is not known when the model runs"
                )
                self.sink.report(
                    "E217", self.span(index), message, fix=f"give an input an axis `{missing[0]}`"
                )
                return FAILED
        return dim

    def _literal(self, index: int, node: Expr) -> Any:
        return node.value

    def _ellipsis(self, index: int, node: Expr) -> Any:
        return ELLIPSIS

    def _tuple(self, index: int, node: Expr) -> Any:
        return tuple(self.results[i] for i in node.args)

    def _slice(self, index: int, node: Expr) -> Any:
        return SliceItem(*(self.results[i] if i >= 0 else None for i in node.args))

    def _attribute(self, index: int, node: Expr) -> Any:
        base = self.results[node.args[0]]
        if isinstance(base, Failed):
            return base
        if isinstance(base, LoopResult):
            return self._part(index, base, str(node.value))
        if isinstance(base, (MemoryResult, SlotResult)):
            from r2d2c.resolve.memory_use import memory_part

            return memory_part(self, index, base, str(node.value))
        dotted = self.syntax.dotted(index)
        if dotted is None:
            self.sink.report("E202", self.span(index), f"{kind_of(base)} has no parts to name with a dot")
            return FAILED
        if isinstance(base, Path):
            return Path(f"{base.name}.{node.value}")
        return Path(dotted)

    def _part(self, index: int, base: LoopResult, name: str) -> Any:
        """What a loop gives under a name."""
        part = base.part(name)
        if part is not None:
            return part
        known = sorted({key.removeprefix(f"{base.prefix}.").partition(".")[0] for key in base.values})
        where = f"`{base.prefix}` of the loop `{base.name}`" if base.prefix else f"the loop `{base.name}`"
        self.sink.report("E269", self.span(index), f"{where} gives no `{name}`", fix=suggest(name, known))
        return FAILED

    def _binary(self, index: int, node: Expr) -> Any:
        left, right = self.results[node.args[0]], self.results[node.args[1]]
        numbers = isinstance(left, (int, float, Dim)) and isinstance(right, (int, float, Dim))
        if numbers and not _at_run_time(str(node.value), left, right):
            return self._fold(index, node, left, right)
        x, y = self.as_value(self.placed(node.args[0])), self.as_value(self.placed(node.args[1]))
        if x is FAILED or y is FAILED:
            return FAILED
        return self.emit(index, BINARY[str(node.value)][0], (x, y))

    def _fold(self, index: int, node: Expr, left: Any, right: Any) -> Any:
        try:
            if node.value == "^" and isinstance(right, int) and abs(right) > 4096:
                raise OverflowError
            result = BINARY[str(node.value)][1](left, right)
            if isinstance(result, int) and abs(result) >= 2**63:
                raise OverflowError
            return result
        except ZeroDivisionError:
            self.sink.report("E205", self.span(index), "this divides by zero")
        except (TypeError, OverflowError, ValueError):
            self.sink.report(
                "E205", self.span(index), f"this cannot be computed: {left} {node.value} {right}"
            )
        return FAILED

    def _unary(self, index: int, node: Expr) -> Any:
        operand = self.results[node.args[0]]
        if isinstance(operand, (int, float, Dim)):
            return UNARY[str(node.value)][1](operand)
        value = self.as_value(self.placed(node.args[0]))
        if value is FAILED or node.value == "+":
            return value
        return self.emit(index, UNARY[str(node.value)][0], (value,))

    def _call(self, index: int, node: Expr) -> Any:
        function = self.results[node.args[0]]
        if isinstance(function, OpRef):
            if formula_at(function.op) is not None:
                return call_wiring(self, index, node, function.op)
            return bind_call(self, index, node, function.op)
        if isinstance(function, BlockRef):
            from r2d2c.resolve.blocks import call_block

            return call_block(self, index, node, function.name)
        if isinstance(function, LoopRef):
            from r2d2c.resolve.loops import call_loop

            return call_loop(self, index, node, function.name)
        if isinstance(function, HyperRef):
            from r2d2c.resolve.hypernets import call_hypernet

            return call_hypernet(self, index, node, function.name)
        if isinstance(function, OpGraphRef):
            from r2d2c.resolve.op_graphs import call_op_graph

            return call_op_graph(self, index, node, function.name)
        if isinstance(function, WriteRef):
            from r2d2c.resolve.memory_write import call_write

            return call_write(self, index, node)
        if isinstance(function, Failed):
            return FAILED
        if isinstance(function, Unknown):
            args = tuple(self.results[i] for i in node.args[1:])
            plain = all(isinstance(a, (int, float, str, Unknown, OpRef)) for a in args)
            if plain and node.value != "piped":
                keywords = tuple((name, self.results[i]) for name, i in node.keywords)
                return UnknownCall(function.name, args, keywords)
            self.report_unknown(function.name, self.span(node.args[0]), called=True)
            return FAILED
        self.sink.report(
            "E203", self.span(node.args[0]), f"{kind_of(function)} cannot be called", "not an op or a block"
        )
        return FAILED

    def _index(self, index: int, node: Expr) -> Any:
        base = self.results[node.args[0]]
        items = [self.results[i] for i in node.args[1:]]
        if isinstance(base, tuple) and not isinstance(base, Value):
            if len(items) == 1 and isinstance(items[0], int) and -len(base) <= items[0] < len(base):
                return base[items[0]]
            self.sink.report(
                "E204", self.span(index), f"a tuple of {len(base)} takes one integer index within it"
            )
            return FAILED
        value = self.as_value(self.placed(node.args[0]))
        if value is FAILED:
            return FAILED
        return self._index_value(index, node, value, items)

    def _index_value(self, index: int, node: Expr, value: Value, items: list[Any]) -> Any:
        tensors = [
            (n, i) for n, i in enumerate(node.args[1:]) if isinstance(items[n], (Value, Path, LoopResult))
        ]
        if tensors:
            # `x[ids]` and `x[:, ids]` pick along one axis.
            number, position = tensors[0]
            plain = all(
                isinstance(item, SliceItem) and item == SliceItem(None, None, None) for item in items[:number]
            )
            ids = self.as_value(self.placed(position))
            if len(tensors) > 1 or not plain or number != len(items) - 1:
                self.sink.report(
                    "E204",
                    self.span(index),
                    "an index by a tensor picks along one axis",
                    fix="write `x[ids]`, `x[:, ids]`, or use `gather`",
                )
                return FAILED
            return FAILED if ids is FAILED else self.emit(index, "take", (value, ids), {"axis": number})
        entries: list[Any] = []
        for number, item in enumerate(items):
            if isinstance(item, SliceItem):
                parts = (item.start, item.stop, item.step)
                good = all(
                    p is None or (isinstance(p, (int, Dim)) and not isinstance(p, bool)) for p in parts
                )
                entries.append(("slice", *parts))
            else:
                good = item == ELLIPSIS or (isinstance(item, (int, Dim)) and not isinstance(item, bool))
                entries.append(item)
            if not good:
                if not isinstance(item, Failed):
                    self.sink.report(
                        "E204",
                        self.span(node.args[1 + number]),
                        "an index is an integer, a slice or an integer tensor",
                    )
                return FAILED
        return self.emit(index, "slice", (value,), {"items": tuple(entries)})

    _handlers: ClassVar[dict[str, Callable[[Evaluator, int, Expr], Any]]] = {
        "name": _name,
        "number": _literal,
        "string": _literal,
        "bool": _literal,
        "tuple": _tuple,
        "unary": _unary,
        "binary": _binary,
        "attribute": _attribute,
        "call": _call,
        "index": _index,
        "slice": _slice,
        "ellipsis": _ellipsis,
    }
