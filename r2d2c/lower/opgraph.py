"""The engine of op graphs: a level of nodes at a time, on a buffer with a row per column.

A level takes one gather of all that its nodes read, and a few calls for each kind of op; in the backward one
scatter, too. The time of Python is that of levels × kinds, not that of nodes. The calls are elementwise and every row
of the buffer is for itself, so nodes that come or go change no bit of the others.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from r2d2c.opgraph import OP_KINDS, OpKind, Schedule

Normalise = Literal["none", "batch"]
EPSILON = 1e-5
_LETTERS = "abc"
_BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.GtE: "ge",
    ast.LtE: "le",
    ast.Gt: "gt",
}


class _Writer:
    """Statements that compute a formula into a tensor, with calls that write where they are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.calls = {"empty_like"}
        self.fresh = 0

    def into(self, text: str, target: str) -> None:
        value = self.value(ast.parse(text, mode="eval").body, target)
        if value != target:
            self.lines.append(f"{target}.copy_({value})")

    def value(self, node: ast.expr, target: str) -> str:
        """The name or number that has the value; what has to be computed is, into ``target``."""
        match node:
            case ast.Name(name):
                return name
            case ast.Constant(number):
                return repr(number)
            case ast.UnaryOp(ast.USub(), inner):
                return self.call("neg", target, self.value(inner, target))
            case ast.Call(ast.Name(name), [inner]):
                return self.call(name, target, self.value(inner, target))
            case ast.BinOp(left, op, right):
                return self.binary(_BINARY[type(op)], left, right, target)
            case ast.Compare(left, [op], [right]):
                return self.binary(_BINARY[type(op)], left, right, target)
            case ast.Call(ast.Name(name), [left, right]):
                return self.binary(name, left, right, target)
        raise NotImplementedError(ast.unparse(node))

    def binary(self, name: str, left: ast.expr, right: ast.expr, target: str) -> str:
        first = self.value(left, target)
        other = target
        if first == target and not isinstance(right, ast.Name | ast.Constant):
            self.fresh += 1
            other = f"t{self.fresh}"
            self.lines.append(f"{other} = empty_like({target})")
        second = self.value(right, other)
        if isinstance(right, ast.Constant) and name == "maximum":
            name = "clamp_min"
        if isinstance(left, ast.Constant):
            if name == "sub":
                second, name = self.call("neg", target, second), "add"
            elif name not in ("add", "mul"):
                raise NotImplementedError(f"{first} {name} {second}")
            first, second = second, first
        return self.call(name, target, first, second)

    def call(self, name: str, target: str, *values: str) -> str:
        self.calls.add(name)
        self.lines.append(f"{name}({', '.join(values)}, out={target})")
        return target


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kind's forward(a…, v), which fills v, and backward(a…, v, g, da…), which fills da….

    reads: whether the backward reads the value.
    """

    arity: int
    forward: Callable[..., None]
    backward: Callable[..., None]
    reads: bool


@cache
def kernels() -> tuple[Kernel, ...]:
    """What computes the kinds, in their order."""
    return tuple(_kernel(kind) for kind in OP_KINDS)


def _kernel(kind: OpKind) -> Kernel:
    letters = _LETTERS[: kind.arity]
    forward, backward = _Writer(), _Writer()
    forward.into(kind.formula, "v")
    for letter, text in zip(letters, kind.gradients, strict=True):
        backward.into(text, f"d{letter}")
    arguments, slots = ", ".join(letters), ", ".join(f"d{letter}" for letter in letters)
    source = "\n    ".join([f"def forward({arguments}, v):", *forward.lines])
    source += "\n" + "\n    ".join([f"def backward({arguments}, v, g, {slots}):", *backward.lines])
    names = {
        node.id for text in kind.gradients for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)
    }
    scope: dict[str, Any] = {name: getattr(torch, name) for name in forward.calls | backward.calls}
    exec(compile(source, f"<op kind {kind.name}>", "exec"), scope)
    return Kernel(kind.arity, scope["forward"], scope["backward"], "v" in names)


@dataclass(frozen=True, slots=True)
class Step:
    """A level: its rows of the buffer, what it reads, its kernels, and how many rows each of their arguments has."""

    start: int
    stop: int
    gather: Tensor
    kernels: tuple[Kernel, ...]
    rows: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A schedule on a device."""

    schedule: Schedule
    order: Tensor
    shown: Tensor
    nodes: Tensor
    numbers: Tensor
    steps: tuple[Step, ...]
    widest: int


def load(schedule: Schedule, device: torch.device | str = "cpu") -> Program:
    """The schedule's indices as tensors there. It is made anew after each mutation."""

    def tensor(array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=torch.int64, device=device)

    table = kernels()
    joined = np.concatenate([np.zeros(0, np.int64), *(level.gather for level in schedule.levels)])
    gathers = tensor(joined).split([len(level.gather) for level in schedule.levels])
    steps = []
    for level, gather in zip(schedule.levels, gathers, strict=True):
        chosen = tuple(table[kind] for kind, _ in level.groups)
        rows = tuple(count for _, count in level.groups)
        sizes = tuple(count for kind, count in level.groups for _ in range(table[kind].arity))
        steps.append(Step(level.start, level.stop, gather, chosen, rows, sizes))
    nodes = tensor(schedule.nodes)
    return Program(
        schedule,
        tensor(schedule.order),
        torch.cat([torch.arange(schedule.inputs, device=device), nodes + schedule.inputs]),
        nodes,
        tensor(schedule.numbers),
        tuple(steps),
        max((len(level.gather) for level in schedule.levels), default=0),
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

    x: [B, inputs]. numbers: [capacity, 3], the nodes' own. mean, var: [capacity], the running statistics, which
    move as those of `batch_norm`. Free rows are 0 in the columns, and their statistics stay. With `batch`, each
    node's value is normalised before others read it: over the batch in training, else by the running statistics.
    The result's memory is that of its transpose.
    """
    batch = normalise == "batch"
    found, centre, spread = _Columns.apply(program, x, numbers, mean, var, batch, training)  # type: ignore[no-untyped-call]
    if batch and training:
        count = x.shape[0]
        mean = _moved(mean, program.nodes, centre, momentum)
        var = _moved(var, program.nodes, spread * (count / max(count - 1, 1)), momentum)
    return found, mean, var


def _moved(running: Tensor, rows: Tensor, seen: Tensor, momentum: float) -> Tensor:
    return running.index_copy(0, rows, torch.lerp(running[rows], seen.to(running.dtype), momentum))


def _means(block: Tensor) -> Tensor:
    """The mean of each row, [rows, 1]. torch adds up a row alone in another order, if it is long: so it never is."""
    if len(block) == 1:
        return torch.cat([block, block]).mean(1, keepdim=True)[:1]
    return block.mean(1, keepdim=True)


class _Columns(torch.autograd.Function):
    """The buffer's computation, and its gradients of x and of the numbers.

    Kept for the backward: the buffer, and of normalised nodes the scales and means. Arguments are gathered again.
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
        scratch = x.new_empty(program.widest, size)
        buffer[:inputs] = x.t()
        buffer[last:-1] = numbers.reshape(-1, 1).index_select(0, program.numbers)
        buffer[-1] = 0
        centre, spread = x.new_zeros(last - inputs, 1), x.new_ones(last - inputs, 1)
        scale = torch.empty_like(spread)
        if batch and not training:
            centre, spread = (seen[program.nodes].to(x.dtype).unsqueeze(1) for seen in (mean, var))
            scale = (spread + EPSILON).rsqrt()
        for step in program.steps:
            arguments = scratch[: len(step.gather)]
            torch.index_select(buffer, 0, step.gather, out=arguments)
            parts = iter(arguments.split(step.sizes))
            block = buffer[step.start : step.stop]
            for kernel, value in zip(step.kernels, block.split(step.rows), strict=True):
                kernel.forward(*islice(parts, kernel.arity), value)
            if batch:
                part = slice(step.start - inputs, step.stop - inputs)
                if training:
                    centre[part] = _means(block)
                block -= centre[part]
                if training:
                    spread[part] = _means(block.square())
                    scale[part] = (spread[part] + EPSILON).rsqrt()
                block *= scale[part]
        ctx.program, ctx.batch, ctx.training, ctx.shape = program, batch, training, numbers.shape
        ctx.save_for_backward(buffer, scale)
        centre, spread = centre.squeeze(1), spread.squeeze(1)
        ctx.mark_non_differentiable(centre, spread)
        return buffer.index_select(0, program.order).t(), centre, spread

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        program, (buffer, scale) = ctx.program, ctx.saved_tensors
        inputs, last = program.schedule.inputs, program.schedule.inputs + len(program.nodes)
        grads = torch.empty_like(buffer)
        torch.index_select(grad.t().contiguous(), 0, program.shown, out=grads[:last])
        grads[last:] = 0
        read, given = buffer.new_empty(2, program.widest, buffer.shape[1])
        for step in reversed(program.steps):
            arguments, slots = read[: len(step.gather)], given[: len(step.gather)]
            torch.index_select(buffer, 0, step.gather, out=arguments)
            block, delta = buffer[step.start : step.stop], grads[step.start : step.stop]
            if ctx.batch:
                factor = scale[step.start - inputs : step.stop - inputs]
                if ctx.training:
                    along = (delta * block).mean(1, keepdim=True)
                    delta -= delta.mean(1, keepdim=True)
                    delta.addcmul_(block, along, value=-1)
                delta *= factor
            parts, places = iter(arguments.split(step.sizes)), iter(slots.split(step.sizes))
            values, deltas = block.split(step.rows), delta.split(step.rows)
            for kernel, value, slope in zip(step.kernels, values, deltas, strict=True):
                taken = (*islice(parts, kernel.arity),)
                if kernel.reads and ctx.batch:  # the buffer has the normalised value
                    value = torch.empty_like(value)
                    kernel.forward(*taken, value)
                kernel.backward(*taken, value, slope, *islice(places, kernel.arity))
            grads.index_add_(0, step.gather, slots)
        own = grads.new_zeros(ctx.shape.numel())
        own[program.numbers] = grads[last:-1].sum(1)
        return None, grads[:inputs].t(), own.view(ctx.shape), None, None, None, None
