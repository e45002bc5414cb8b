"""Loops as ONNX `Loop`s: the step of a loop is the body, written like everything else, and nothing is unrolled.

The body reads what is the same at every step from around it. Its carried values are the carries, and the other values
that are read after the last step; values that are read at every step are its scan outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from r2d2c.graph import Node
from r2d2c.loops import Given, loop_of, sequence_axis, stack_axis
from r2d2c.types import TensorType

from .context import onnx_shape

if TYPE_CHECKING:
    from .halting import Halting
    from .values import Values


def write_loop(values: Values, node: Node, inputs: list[Any]) -> tuple[ir.Value, ...]:
    """The values that a `loop` node gives, of an ONNX `Loop`. ``inputs``: what the node reads, in ONNX."""
    return LoopWriter(values, node, inputs).run()


@dataclass(slots=True)
class State:
    """A carried value: before the first step, before a step and after it. A number may stand for what comes after."""

    type: TensorType
    start: ir.Value
    before: ir.Value
    after: Any = None


class LoopWriter:
    """One ONNX `Loop` under construction.

    o, b: the contexts around it and of its body. outputs: the step's, in ONNX.
    states: what it carries, by the output of the step or a name. scans: what is read at every step, by the output.
    """

    def __init__(self, values: Values, node: Node, inputs: list[Any]) -> None:
        self.node, self.loop, self.inputs = node, loop_of(node), inputs
        self.inner = values.inside(node.attrs["region"])
        self.step = self.inner.region
        self.o, self.b = values.o, self.inner.o
        self.types = self.o.graph.types
        self.states: dict[int | str, State] = {}
        self.scans: dict[int, Any] = {}
        self.outputs: list[Any] = []

    def run(self) -> tuple[ir.Value, ...]:
        number = self.b.port(f"{self.node.id}/number", TensorType("i64"))
        going = self.b.port(f"{self.node.id}/going", TensorType("bool"))
        self._ports(number)
        for each in self.step.nodes:
            if each.op != "port":
                self.inner[each.value()]
        self.outputs = [self.inner[port.value] for port in self.step.outputs]
        self.b.begin(self.node)
        if self.loop.halt is None:
            self._carry_on()
            return self._close([number, going], going, None)
        from .halting import Halting

        halting = Halting(self, number)
        return self._close([number, going], halting.more, halting)

    def _ports(self, number: ir.Value) -> None:
        """Give the step's ports their values."""
        b, loop, step = self.b, self.loop, self.step
        first = len(loop.carries)
        for position, (port, given) in enumerate(zip(step.inputs, self.inputs, strict=True)):
            if position < first:
                type_ = loop.carries[position].type
                before = b.value_of[port.value] = b.port(port.value.node, type_)
                self.states[position] = State(type_, self.o.cast(given, type_.dtype), before)
            elif position >= first + loop.sequences:
                b.value_of[port.value] = given
        b.begin(self.node)
        for position in range(first, first + loop.sequences):
            value, port = self.node.inputs[position], step.inputs[position]
            assert value is not None
            axis = sequence_axis(self.types[value], loop.trips)
            assert axis is not None, value
            element = b.value_of[port.value] = b("Gather", self.inputs[position], number, axis=axis)
            element.shape = onnx_shape(self.types[port.value])
        b.end(())

    def _carry_on(self) -> None:
        for port in range(len(self.loop.carries)):
            self.states[port].after = self.outputs[port]
        for given in self.loop.gives:
            if given.kind == "steps":
                self.scans[given.port] = self.outputs[given.port]
            elif given.port not in self.states:
                self.state(given.port, self.type_of(given.port)).after = self.outputs[given.port]

    # -- what the body is made of
    def type_of(self, port: int) -> TensorType:
        """The type of an output of the step, as a tensor: a number has one here as well."""
        carries = self.loop.carries
        found = carries[port].type if port < len(carries) else self.types[self.step.outputs[port].value]
        return TensorType({"float": "f32", "int": "i64"}.get(found.dtype, found.dtype), found.dims)

    def state(self, key: int | str, type_: TensorType, start: float | bool = 0) -> State:
        """Another carried value, the number ``start`` everywhere at first."""
        name = self.step.outputs[key].name if isinstance(key, int) else key
        before = self.b.port(f"{self.node.id}/{name}", type_)
        found = self.states[key] = State(type_, self._filled(type_, start), before)
        return found

    def _filled(self, type_: TensorType, number: float | bool) -> ir.Value:
        o = self.o
        constant = o.const(number, type_.dtype)
        if not type_.dims:
            return constant
        made: ir.Value = o("Expand", constant, o.shape(type_.dims))
        return made

    # -- closing it
    def _close(self, ports: list[ir.Value], more: ir.Value, halting: Halting | None) -> tuple[ir.Value, ...]:
        o, b, loop, states = self.o, self.b, self.loop, self.states
        own, taken = set(b.nodes), set[ir.Value]()
        wanted = [(more, TensorType("bool")), *((s.after, s.type) for s in states.values())]
        wanted += [(value, self.type_of(port)) for port, value in self.scans.items()]
        results = []
        for value, type_ in wanted:
            # An output is a value that the body makes, and no other output.
            if not (isinstance(value, ir.Value) and value.producer() in own and value not in taken):
                value = b("Identity", b.cast(value, type_.dtype))
            value.shape, value.type = onnx_shape(type_), ir.TensorType(b.dtype(type_.dtype))
            taken.add(value)
            results.append(value)
        b.end(())
        ports += [state.before for state in states.values()]
        body = ir.Graph(ports, results, nodes=b.nodes, name=self.step.name)
        trips, go = o.size(loop.trips), o.const(True, "bool")
        first = len(o.nodes)
        starts = [state.start for state in states.values()]
        made = o("Loop", trips, go, *starts, body=body, outputs=len(results) - 1)
        made = made if isinstance(made, tuple) else (made,)
        for value, result in zip(made, results[1:], strict=True):
            value.type = result.type
        last = dict(zip(states, made, strict=False))
        every = dict(zip(self.scans, made[len(states) :], strict=True))
        found = [
            self._steps(port, every[given.port], halting)
            if given.kind == "steps"
            else self._last(given, last)
            for port, given in enumerate(loop.gives)
        ]
        o.nodes[first].name = o.unique_node(self.node.id)
        for one in o.nodes[first + 1 :]:
            one.name = o.unique_node(f"{self.node.id}/{one.op_type}")
        return tuple(found)

    def _last(self, given: Given, last: dict[int | str, ir.Value]) -> ir.Value:
        if given.kind == "count":
            return last["count"]
        if given.kind == "ponder":
            remainder = last["remainder"]
            made: ir.Value = self.o("Add", self.o("CastLike", last["count"], remainder), remainder)
            return made
        return last[given.port if given.kind == "last" else f"mean.{given.port}"]

    def _steps(self, port: int, value: ir.Value, halting: Halting | None) -> ir.Value:
        """A value at every step, with the axis of steps where it belongs."""
        if halting is not None:
            value = halting.padded(value)
        type_ = self.types[self.node.value(port)]
        if stack_axis(type_) == 1:
            value = self.o("Transpose", value, perm=[1, 0, *range(2, type_.rank)])
        return value
