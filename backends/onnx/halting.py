"""The body of an ONNX `Loop` that ends when every sample has halted: adaptive computation time (Graves, 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from r2d2c.types import Dim, TensorType

if TYPE_CHECKING:
    from .loops import LoopWriter


class Halting:
    """What decides in each step who halts; the same arithmetic as that of `r2d2c.lower.halting.run_until`.

    more: whether another step is needed.
    """

    def __init__(self, writer: LoopWriter, number: ir.Value) -> None:
        self.writer, b = writer, writer.b
        halt = writer.loop.halt
        assert halt is not None
        says = writer.type_of(halt.port)
        batch = says.dims
        dtype = says.dtype if says.floating else "f32"
        kinds = {given.kind for given in writer.loop.gives}
        running = writer.state("running", TensorType("bool", batch), True)
        total = writer.state("total", TensorType(dtype, batch))
        self.running, going = running, running.before
        probability = b.cast(writer.outputs[halt.port], dtype)
        summed = b("Add", total.before, probability)
        enough = b("GreaterOrEqual", summed, b.const(1.0 - halt.epsilon, dtype))
        # Whoever still runs halts with the last step there may be.
        last = b("And", going, b("Or", enough, b("Equal", number, self._final())))
        left = b("Sub", b.const(1.0, dtype), total.before)
        zero = b.const(0.0, dtype)
        running.after = b("And", going, b("Not", last))
        total.after = summed  # of one that has halted nobody asks
        if "ponder" in kinds:
            remainder = writer.state("remainder", TensorType(dtype, batch))
            remainder.after = b("Where", last, left, remainder.before)
        if kinds & {"count", "ponder"}:
            count = writer.state("count", TensorType("i64", batch))
            count.after = b("Add", count.before, b.cast(going, "i64"))
        for port in range(len(writer.loop.carries)):
            self._keep(port)
        for given in writer.loop.gives:
            if given.kind == "mean":
                weight = b("Where", going, b("Where", last, left, probability), zero)
                self._mean(given.port, weight)
            elif given.kind in ("last", "steps"):
                kept = self._keep(given.port)
                if given.kind == "steps":
                    writer.scans[given.port] = kept
        runs = b("ReduceSum", b.cast(running.after, "i64"), keepdims=0)
        self.more: ir.Value = b("Greater", runs, b.const(0, "i64"))

    def _final(self) -> ir.Value:
        o, trips = self.writer.o, self.writer.loop.trips
        if not isinstance(trips, Dim):
            return o.const(int(trips) - 1, "i64")
        made: ir.Value = o("Sub", o("Squeeze", o.size(trips), o.ints([0])), o.const(1, "i64"))
        return made

    def _keep(self, port: int) -> Any:
        """A value of the step, and of samples that have halted the one they had then."""
        w, type_ = self.writer, self.writer.type_of(port)
        state = w.states.get(port) or w.state(port, type_)
        if state.after is None:
            new = w.outputs[port]
            alone = not type_.dims or not isinstance(new, ir.Value)
            state.after = (
                new if alone else w.b("Where", self._like(self.running.before, type_), new, state.before)
            )
        return state.after

    def _mean(self, port: int, weight: ir.Value) -> None:
        w, b, type_ = self.writer, self.writer.b, self.writer.type_of(port)
        value = b.cast(w.outputs[port], type_.dtype)
        value = b("Where", self._like(self.running.before, type_), value, b.const(0, type_.dtype))
        factor, value = b.promote(self._like(weight, type_), value)
        state = w.state(f"mean.{port}", TensorType(b.dtype_of(value), type_.dims))
        state.after = b("Add", state.before, b("Mul", factor, value))

    def _like(self, mask: ir.Value, type_: TensorType) -> ir.Value:
        """A number for each sample against the dims of a value."""
        b, more = self.writer.b, range(1, type_.rank)
        made: ir.Value = b("Unsqueeze", mask, b.ints(more)) if more else mask
        return made

    def padded(self, value: ir.Value) -> ir.Value:
        """A value at every step there may be, of one at every step that was taken: the last one again and again."""
        o, trips = self.writer.o, self.writer.loop.trips
        taken = o("Sub", o("Shape", value, start=0, end=1), o.ints([1]))
        stop = o("Squeeze", o.size(trips), o.ints([0]))
        steps = o("Range", o.const(0, "i64"), stop, o.const(1, "i64"))
        made: ir.Value = o("Gather", value, o("Min", steps, taken), axis=0)
        return made
