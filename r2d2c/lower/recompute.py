"""Running a step of a loop again in its backward, so that only what goes into it is stored.

As `torch.utils.checkpoint`, which keeps a second copy of what it recomputes until the step's backward is over: half of
its peak. A step takes everything it reads as arguments, so a plain autograd function does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge


class _Recompute(torch.autograd.Function):
    """``apply(step, *arguments)``: what the step gives."""

    @staticmethod
    def forward(ctx: Any, step: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        ctx.step = step
        ctx.tensors = [k for k, a in enumerate(arguments) if isinstance(a, torch.Tensor)]
        ctx.rest = [None if isinstance(a, torch.Tensor) else a for a in arguments]
        ctx.save_for_backward(*(arguments[k] for k in ctx.tensors))
        outputs = tuple(step(*arguments))
        # An output that is an argument handed on has to be a value of its own.
        given = {id(a) for a in arguments}
        outputs = tuple(
            o.view_as(o) if isinstance(o, torch.Tensor) and id(o) in given else o for o in outputs
        )
        ctx.mark_non_differentiable(
            *(o for o in outputs if isinstance(o, torch.Tensor) and not o.is_floating_point())
        )
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        arguments = list(ctx.rest)
        for k, tensor in zip(ctx.tensors, ctx.saved_tensors, strict=True):
            arguments[k] = tensor.detach().requires_grad_(ctx.needs_input_grad[k + 1])
        wanted = [k for k in ctx.tensors if ctx.needs_input_grad[k + 1]]
        with torch.enable_grad():
            outputs = ctx.step(*arguments)
        # By the edges of its graph, what the step gives again need not be held until the gradients are there.
        taught = [
            (get_gradient_edge(o), g)
            for o, g in zip(outputs, gradients, strict=True)
            if isinstance(o, torch.Tensor) and o.requires_grad and g is not None
        ]
        del outputs
        found: list[Any] = [None] * (len(arguments) + 1)
        if taught and wanted:
            values = torch.autograd.grad(
                [edge for edge, _ in taught],
                [arguments[k] for k in wanted],
                [g for _, g in taught],
                allow_unused=True,
            )
            for k, value in zip(wanted, values, strict=True):
                found[k + 1] = value
        return tuple(found)


def recompute(step: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
    """What ``step(*arguments)`` gives; of it only the arguments are stored for the backward."""
    found: tuple[Any, ...] = _Recompute.apply(step, *arguments)  # type: ignore[no-untyped-call]
    return found
