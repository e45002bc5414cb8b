"""A loop over a sequence of which there is one element: its step stands where the loop stood."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from r2d2c.loops import stack_axis

from .loops import LoopWriter


class SingleWriter(LoopWriter):
    """The step of a loop, without a loop around it."""

    def run(self) -> tuple[Any, ...]:
        o, b = self.o, self.b
        # Both add to the same nodes.
        b.nodes = o.nodes
        for position, (carry, given) in enumerate(zip(self.loop.carries, self.inputs, strict=False)):
            b.value_of[self.step.inputs[position].value] = o.cast(given, carry.type.dtype)
        first = len(self.loop.carries) + self.loop.sequences
        for port, given in zip(self.step.inputs[first:], self.inputs[first:], strict=True):
            b.value_of[port.value] = given
        b.begin(self.node)
        for position, axis in self.sequences():
            port = self.step.inputs[position]
            element = b("Squeeze", self.inputs[position], o.ints([axis]))
            element.shape = b.shape_of(self.types[port.value])
            b.value_of[port.value] = element
        b.end(())
        self.write_step()
        found = tuple(
            self._stacked(gives.port, position) if gives.kind == "steps" else self._tensor(gives.port)
            for position, gives in enumerate(self.loop.gives)
        )
        b.end(())
        return found

    def _tensor(self, port: int) -> ir.Value:
        """An output of the step, which may be a number."""
        return self.b.cast(self.outputs[port], self.type_of(port).dtype)

    def _stacked(self, port: int, position: int) -> ir.Value:
        axis = stack_axis(self.types[self.node.value(position)])
        made: ir.Value = self.b("Unsqueeze", self._tensor(port), self.b.ints([axis]))
        return made
