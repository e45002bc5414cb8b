"""The engine of op graphs: a level of nodes at a time, on a buffer with a row per column.

A level takes one gather of all that its nodes read, and a few calls for each kind of op; in the backward one
scatter, too. The time of Python is that of levels × kinds, not that of nodes. The calls are elementwise and every row
of the buffer is for itself, so nodes that come or go change no bit of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from r2d2c.lower.gathering import active, row_means
from r2d2c.lower.opgraph_kernels import Arrays, Cuts, Rows, arrays_for, cuts
from r2d2c.opgraph import Schedule
from r2d2c.opkinds import kind_of

Normalise = Literal["none", "batch"]
EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Step:
    """A level: its rows of the buffer, the rows that it reads, and what it computes.

    groups: for each kernel its number in the program, its kind, and the number of its first argument. cuts: by kernel
    and argument, where the rows that it reads are cut.
    """

    start: int
    stop: int
    reads: Rows
    groups: list[tuple[int, int, int]]
    cuts: Cuts


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A schedule on a device.

    shown: the column of each of the buffer's first rows. cuts: where the buffer is cut: inputs, each kernel's rows by
    its number, the rest.
    """

    schedule: Schedule
    order: Tensor
    shown: Tensor
    nodes: Tensor
    numbers: Tensor
    steps: tuple[Step, ...]
    cuts: Cuts


def load(schedule: Schedule, device: torch.device | str = "cpu") -> Program:
    """The schedule's indices as tensors there. It is made anew after each mutation."""

    def tensor(array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=torch.int64, device=device)

    joined = tensor(np.concatenate([np.zeros(0, np.int64), *(level.gather for level in schedule.levels)]))
    gathers = joined.split([len(level.gather) for level in schedule.levels])
    steps, rows = [], [schedule.inputs]
    for level, gather in zip(schedule.levels, gathers, strict=True):
        groups: list[tuple[int, int, int]] = []
        sizes: list[int] = []
        for kind, count in level.groups:
            groups.append((len(rows), kind, len(sizes)))
            sizes += [count] * kind_of(kind).arity
            rows.append(count)
        reads = Rows(gather, gather.numpy() if gather.device.type == "cpu" else None)
        steps.append(Step(level.start, level.stop, reads, groups, cuts(sizes)))
    nodes = tensor(schedule.nodes)
    return Program(
        schedule,
        tensor(schedule.order),
        torch.cat([torch.arange(schedule.inputs, device=device), nodes + schedule.inputs]),
        nodes,
        tensor(schedule.numbers),
        tuple(steps),
        cuts([*rows, len(schedule.numbers) + 1]),
    )


def columns(
    program: Program,
    x: Tensor,
    numbers: Tensor,
    mean: Tensor,
    var: Tensor,
    normalise: Normalise = "none",
    training: bool = True,
    momentum: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of an op graph, [B, inputs + capacity], and its new running statistics, [capacity] each.

    x: [B, inputs]. numbers: [capacity, 3], the nodes' own. mean, var: [capacity], the running statistics, which move
    as those of `batch_norm`; several processes take those of all their rows. Free rows are 0 in the columns, and
    their statistics stay. With `batch`, each node's value is normalised before others read it: over the batch in
    training, else by the running statistics.
    The result's memory is that of its transpose.
    """
    batch = normalise == "batch"
    found, centre, spread = _Columns.apply(program, x, numbers, mean, var, batch, training)  # type: ignore[no-untyped-call]
    if batch and training:
        share, count = active(), x.shape[0]
        if share is not None:
            count = count // max(share.count, 1) * share.total
        mean = _moved(mean, program.nodes, centre, momentum)
        var = _moved(var, program.nodes, spread * (count / max(count - 1, 1)), momentum)
    return found, mean, var


def _moved(running: Tensor, rows: Tensor, seen: Tensor, momentum: float) -> Tensor:
    return running.index_copy(0, rows, torch.lerp(running[rows], seen.to(running.dtype), momentum))


def _forward(
    program: Program,
    arrays: Arrays,
    means: Callable[[Any], Any],
    buffer: Any,
    batch: bool,
    training: bool,
    centre: Any,
    spread: Any,
) -> None:
    """Fill the nodes' rows of the buffer. centre, spread: [nodes, 1], the statistics, which training fills, too."""
    inputs, kernels = program.schedule.inputs, arrays.kernels
    values = arrays.split(buffer, program.cuts)
    for step in program.steps:
        parts = arrays.split(arrays.take(buffer, step.reads), step.cuts)
        for number, kind, place in step.groups:
            kernels[kind].forward(parts, place, values[number])
        if batch:
            part = slice(step.start - inputs, step.stop - inputs)
            block = buffer[step.start : step.stop]
            if training:
                centre[part] = means(block)
            block -= centre[part]
            if training:
                spread[part] = means(block * block)
            block *= (spread[part] + EPSILON) ** -0.5


def _backward(
    program: Program,
    arrays: Arrays,
    means: Callable[[Any], Any],
    buffer: Any,
    grads: Tensor,
    batch: bool,
    training: bool,
    spread: Any,
) -> None:
    """Add to the rows of ``grads``, which has those of the columns, what they get through the nodes."""
    inputs, kernels = program.schedule.inputs, arrays.kernels
    array = arrays.of(grads)
    values, deltas = arrays.split(buffer, program.cuts), arrays.split(array, program.cuts)
    for step in reversed(program.steps):
        if batch:
            block, delta = buffer[step.start : step.stop], array[step.start : step.stop]
            if training:
                along = means(delta * block)
                delta -= means(delta)
                delta -= block * along
            delta *= (spread[step.start - inputs : step.stop - inputs] + EPSILON) ** -0.5
        read = arrays.take(buffer, step.reads)
        given = arrays.empty(read)
        parts, places = arrays.split(read, step.cuts), arrays.split(given, step.cuts)
        for number, kind, place in step.groups:
            kernel, value = kernels[kind], values[number]
            if batch and kernel.reads:  # the buffer has the normalised value
                value = arrays.empty(value)
                kernel.forward(parts, place, value)
            kernel.backward(parts, place, value, deltas[number], places)
        grads.index_add_(0, step.reads.tensor, arrays.tensor(given))


class _Columns(torch.autograd.Function):
    """The buffer's computation, and its gradients of x and of the numbers.

    Kept for the backward: the buffer and the nodes' variances. Arguments are gathered again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        x: Tensor,
        numbers: Tensor,
        mean: Tensor,
        var: Tensor,
        batch: bool,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        schedule, size = program.schedule, x.shape[0]
        inputs, last = schedule.inputs, schedule.inputs + len(schedule.nodes)
        buffer = x.new_empty(schedule.size, size)
        buffer[:inputs] = x.t()
        buffer[last:-1] = numbers.reshape(-1, 1).index_select(0, program.numbers)
        buffer[-1] = 0
        centre = spread = x.new_empty(0)
        if batch and training:
            centre, spread = x.new_empty(2, last - inputs, 1).unbind()
        elif batch:
            centre, spread = (seen[program.nodes].to(x.dtype).unsqueeze(1) for seen in (mean, var))
        arrays = arrays_for(x)
        means, ctx.means = row_means(arrays.means, arrays.tensor, active())
        held = (arrays.of(tensor) for tensor in (centre, spread))
        with np.errstate(all="ignore"):
            _forward(program, arrays, means, arrays.of(buffer), batch, training, *held)
        ctx.program, ctx.batch, ctx.training, ctx.shape = program, batch, training, numbers.shape
        ctx.save_for_backward(buffer, spread)
        centre, spread = centre.view(-1), spread.view(-1)
        ctx.mark_non_differentiable(centre, spread)
        return buffer.index_select(0, program.order).t(), centre, spread

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        program, (buffer, spread) = ctx.program, ctx.saved_tensors
        inputs, last = program.schedule.inputs, program.schedule.inputs + len(program.nodes)
        grads = torch.empty_like(buffer)
        torch.index_select(grad.t().contiguous(), 0, program.shown, out=grads[:last])
        grads[last:] = 0
        arrays = arrays_for(buffer)
        with np.errstate(all="ignore"):
            _backward(
                program,
                arrays,
                ctx.means,
                arrays.of(buffer),
                grads,
                ctx.batch,
                ctx.training,
                arrays.of(spread),
            )
        own = grads.new_zeros(ctx.shape.numel())
        own.index_copy_(0, program.numbers, grads[last:-1].sum(1))
        return None, grads[:inputs].t(), own.view(ctx.shape), None, None, None, None
