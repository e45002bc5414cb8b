"""Slices of a loop's step as functions of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.fx as fx

from r2d2c.graph import Region, Value
from r2d2c.lower.codegen import compile_function
from r2d2c.lower.independent import slice_of

if TYPE_CHECKING:
    from r2d2c.lower.builder import FxBuilder

Tensors = tuple[Any, ...]


class Source(NamedTuple):
    """What an argument of a part is: the ``number``-th of its ``kind``.

    carry, next: a carry before and after a step. element: of a sequence. rest: what is the same at every step.
    same: of the rest, what has samples. index, when: the slot of a memory that is written, and whether it is.
    slots: what is computed of each slot, in place in a ``buffer``. base, bin: the first row of every sample in a buffer,
    and the row that is not read. entry: a field of entries. readout: a layer's sum over slots, products: what it sums, in
    place in a ``product_buffer``, weights: those of every slot. scores: by what a memory chooses the slot, in place in a
    ``score_buffer``.
    """

    kind: str
    number: int


@dataclass(slots=True)
class Part:
    """A slice of a step as a function: what goes in, then ``sizes`` by name, and what comes out."""

    name: str
    graph: fx.Graph
    sources: tuple[Source, ...]
    sizes: tuple[Any, ...]
    wanted: tuple[Value, ...]
    made: Callable[..., Tensors] | None = field(default=None, repr=False)

    def __call__(self, *arguments: Any) -> Tensors:
        if self.made is None:
            self.made = compile_function(self.graph, torch.nn.Module(), self.name)
        return self.made(*arguments)


def build_part(
    b: FxBuilder, name: str, step: Region, wanted: Sequence[Value], given: Mapping[Value, Source]
) -> Part:
    """The nodes that ``wanted`` needs where the values ``given`` are known. ``b`` is an empty builder for a step."""
    nodes, read = slice_of(step, list(wanted), set(given))
    # In the order of the step's own ports, so that sizes are read from the same places.
    names = {port.value: port.name for port in step.inputs}
    order = [value for value in given if value in set(read)]
    for value in order:
        b.placeholder(names.get(value, value.node), value)
    for node in nodes:
        b.add(node)
    b.fx.output(tuple(b.env[value] for value in wanted))
    return Part(name, b.fx, tuple(given[v] for v in order), b.arguments, tuple(wanted))
