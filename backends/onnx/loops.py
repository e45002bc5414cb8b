"""Loops in ONNX: the step of a loop is the body, written like everything else, and nothing is unrolled.

A loop over a sequence is a `Scan`, every other a `Loop`. The body reads what is the same at every step from around it.
Its carried values are the carries, and the other values that are read after the last step; values that are read at
every step are its scan outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from r2d2c.graph import Node
from r2d2c.loops import Given, loop_of, sequence_axis, stack_axis
from r2d2c.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .halting import Halting
    from .values import Values


def write_loop(values: Values, node: Node, inputs: list[Any]) -> tuple[ir.Value, ...]:
    """The values that a `loop` node gives. ``inputs``: what the node reads, in ONNX."""
    loop = loop_of(node)
    if values.o.single is not None and values.o.single == loop.trips:
        from .single import SingleWriter

        return SingleWriter(values, node, inputs).run()
    # A Scan takes as many steps as its sequences have elements, and so needs one.
    writer = ScanWriter if loop.over and loop.halt is None and loop.sequences else LoopWriter
    return writer(values, node, inputs).run()


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
        """Write it; the values that the node gives."""
        number = self.b.port(f"{self.node.id}/number", TensorType("i64"))
        going = self.b.port(f"{self.node.id}/going", TensorType("bool"))
        self.carry_ports()
        self.b.begin(self.node)
        for position, axis in self.sequences():
            port = self.step.inputs[position]
            element = self.b("Gather", self.inputs[position], number, axis=axis)
            element.shape = self.b.shape_of(self.types[port.value])
            self.b.value_of[port.value] = element
        self.b.end(())
        self.write_step()
        if self.loop.halt is None:
            self.carry_on()
            return self._close([number, going], going, None)
        from .halting import Halting

        halting = Halting(self, number)
        return self._close([number, going], halting.more, halting)

    # -- what loops of every kind are made of
    def carry_ports(self) -> None:
        """Give the ports of the step their values, all but those of sequences."""
        b, loop = self.b, self.loop
        first = len(loop.carries)
        for position, (port, given) in enumerate(zip(self.step.inputs, self.inputs, strict=True)):
            if position < first:
                type_ = loop.carries[position].type
                before = b.value_of[port.value] = b.port(port.value.node, type_)
                self.states[position] = State(type_, self.o.cast(given, type_.dtype), before)
            elif position >= first + loop.sequences:
                b.value_of[port.value] = given

    def sequences(self) -> Iterator[tuple[int, int]]:
        """The positions of sequences among what the node reads, and the axis of steps of each."""
        first = len(self.loop.carries)
        for position in range(first, first + self.loop.sequences):
            value = self.node.inputs[position]
            assert value is not None
            axis = sequence_axis(self.types[value], self.loop.trips)
            assert axis is not None, value
            yield position, axis

    def write_step(self) -> None:
        """Write the nodes of the step, and begin what the loop itself adds."""
        for each in self.step.nodes:
            if each.op != "port":
                self.inner[each.value()]
        self.outputs = [self.inner[port.value] for port in self.step.outputs]
        self.b.begin(self.node)

    def carry_on(self) -> None:
        """What the carried values are after the step, and what is read at every step."""
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
    def results(self, more: ir.Value | None) -> list[ir.Value]:
        """The outputs of the body: whether it goes on, where it says so, what it carries, what is read at every step."""
        b, own, taken = self.b, set(self.b.nodes), set[ir.Value]()
        wanted = [] if more is None else [(more, TensorType("bool"))]
        wanted += [(state.after, state.type) for state in self.states.values()]
        wanted += [(value, self.type_of(port)) for port, value in self.scans.items()]
        results = []
        for value, type_ in wanted:
            # An output is a value that the body makes, and no other output.
            if not (isinstance(value, ir.Value) and value.producer() in own and value not in taken):
                value = b("Identity", b.cast(value, type_.dtype))
            value.shape, value.type = b.shape_of(type_), ir.TensorType(b.dtype(type_.dtype))
            taken.add(value)
            results.append(value)
        b.end(())
        return results

    def _close(self, ports: list[ir.Value], more: ir.Value, halting: Halting | None) -> tuple[ir.Value, ...]:
        o, states = self.o, self.states
        results = self.results(more)
        ports += [state.before for state in states.values()]
        body = ir.Graph(ports, results, nodes=self.b.nodes, name=self.step.name)
        trips, go = o.size(self.loop.trips), o.const(True, "bool")
        first = len(o.nodes)
        starts = [state.start for state in states.values()]
        made = o("Loop", trips, go, *starts, body=body, outputs=len(results) - 1)
        last, every = self.named(made, results[1:])
        found = [
            self._steps(port, every[given.port], halting)
            if given.kind == "steps"
            else self._last(given, last)
            for port, given in enumerate(self.loop.gives)
        ]
        self.name_nodes(first)
        return tuple(found)

    def named(
        self, made: ir.Value | tuple[ir.Value, ...], results: list[ir.Value]
    ) -> tuple[dict[int | str, ir.Value], dict[int, ir.Value]]:
        """What an ONNX loop gives: the carried values after the last step, and the values at every step."""
        made = made if isinstance(made, tuple) else (made,)
        for value, result in zip(made, results, strict=True):
            value.type = result.type
        count = len(self.states)
        return dict(zip(self.states, made, strict=False)), dict(zip(self.scans, made[count:], strict=True))

    def name_nodes(self, first: int) -> None:
        """Name the loop and what stands behind it."""
        o = self.o
        o.nodes[first].name = o.unique_node(self.node.id)
        for one in o.nodes[first + 1 :]:
            one.name = o.unique_node(f"{self.node.id}/{one.op_type}")

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


class ScanWriter(LoopWriter):
    """One ONNX `Scan` under construction: its sequences are its scan inputs, and end it."""

    def run(self) -> tuple[ir.Value, ...]:
        o, b, types = self.o, self.b, self.types
        self.carry_ports()
        given, elements, axes = [], [], []
        for position, axis in self.sequences():
            port = self.step.inputs[position].value
            b.value_of[port] = element = b.port(port.node, types[port])
            given.append(self.inputs[position])
            elements.append(element)
            axes.append(axis)
        self.write_step()
        self.carry_on()
        results = self.results(None)
        states = self.states.values()
        body = ir.Graph(
            [*(state.before for state in states), *elements], results, nodes=b.nodes, name=self.step.name
        )
        behind = {
            gives.port: stack_axis(types[self.node.value(port)])
            for port, gives in enumerate(self.loop.gives)
            if gives.kind == "steps"
        }
        first = len(o.nodes)
        made = o(
            "Scan",
            *(state.start for state in states),
            *given,
            body=body,
            num_scan_inputs=len(given),
            scan_input_axes=axes,
            scan_output_axes=[behind[port] for port in self.scans] or None,
            outputs=len(results),
        )
        last, every = self.named(made, results)
        self.name_nodes(first)
        return tuple(
            every[gives.port] if gives.kind == "steps" else last[gives.port] for gives in self.loop.gives
        )
