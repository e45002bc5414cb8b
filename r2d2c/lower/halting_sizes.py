"""Sizes in a step that runs only for the samples that have not halted.

A shape such as B*T follows how many samples still run. A size as a number to compute with is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from r2d2c.graph import Graph, Region
from r2d2c.loops import Loop
from r2d2c.lower.halting import COUNT
from r2d2c.ops.dims import divide
from r2d2c.types import Dim, as_dim


class Whole(NamedTuple):
    """A size of the whole batch."""

    dim: Dim


# What a step may ask for: a dim by name, the number of samples that still run, or a size of the whole batch.
Size = str | Dim | Whole


def split(part: Dim, counts: Iterable[Dim]) -> tuple[Dim, Dim] | None:
    """One term of a size, such as B*T, as samples that halt, B of ``counts``, times the rest, T."""
    for samples in counts:
        rest = divide(part, samples)
        if rest is not None and samples * rest == part:
            return samples, as_dim(rest)
    return None


def samples_of(graph: Graph, loop: Loop, step: Region) -> Dim | None:
    """The dim that counts the samples of a loop, where they halt."""
    if loop.halt is None:
        return None
    samples = graph.types[step.outputs[loop.halt.port].value].dims[0]
    assert isinstance(samples, Dim), samples
    return samples


def sample_axes(
    graph: Graph, samples: Dim, step: Region, random: bool, wanted: Iterable[Size]
) -> list[int | None]:
    """The axis of samples of every argument of a step: its ports, random numbers, and the sizes it wants."""
    found: list[int | None] = [
        next((axis for axis, dim in enumerate(graph.types[port.value].dims) if dim == samples), None)
        for port in step.inputs
    ]
    return [*found, *([None] if random else []), *(COUNT if name == samples else None for name in wanted)]
