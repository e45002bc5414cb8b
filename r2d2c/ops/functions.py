"""Functions that ops lower to where torch has none. `emit` writes them out, so they need nothing but torch.

Feedback alignment (Lillicrap et al., 2016, "Random synaptic feedback weights support error backpropagation for deep
learning", Nature Communications 7): a product with W passes δ B, not δ W, to its input. Autograd's node for the
product keeps W for that alone (the gradient of W needs only x), so it is given B to keep: the backward is that of
torch, with the same calls.

A training step as a share of backprop's (MLPs of 4×256 and 2×800 and three convolutions, batch 128, Adam, one thread,
torch 2.13): this 1.05, 1.04, 1.03, nearly all of it for reading B (with B = W it is 1.01); a `torch.autograd.Function`
1.07, 1.08, 1.08. A second product whose value is taken away again, `product(stop(x), W) + z - stop(z)` with
`z = product(x, B)`, took 1.46 and 1.51 of forward and backward: it is what remains where the node is not one that is
known here, or has hooks already.
"""

from __future__ import annotations

from typing import Any

import torch


def keeps(y: torch.Tensor, name: str, value: torch.Tensor) -> bool:
    """Have the node that made ``y`` keep ``value`` for its backward under ``name``. Whether it does."""
    try:
        getattr(y.grad_fn, name).register_hooks(lambda kept: value, lambda kept: kept)
    except (AttributeError, RuntimeError):
        return False
    return y.dtype == value.dtype


def detour(product: Any, x: Any, weight: Any, bias: Any, feedback: Any, *geometry: Any) -> Any:
    """``product`` with x's gradient through ``feedback``, whatever the product: it costs a second one."""
    value = product(x, feedback, None, *geometry)
    return product(x.detach(), weight, bias, *geometry) + (value - value.detach())


def feedback_linear(x: Any, weight: Any, bias: Any, feedback: Any) -> Any:
    """``linear`` whose gradient of x is that of a layer with the weight ``feedback``."""
    linear, feedback = torch.nn.functional.linear, feedback.detach()
    if x.dim() != 2:
        if x.is_contiguous() and (bias is None or bias.dim() == 1):  # what torch makes one matrix of, too
            y = feedback_linear(x.reshape(-1, x.shape[-1]), weight, bias, feedback)
            return y.reshape(*x.shape[:-1], y.shape[-1])
        return detour(linear, x, weight, bias, feedback)
    y = linear(x, weight, bias)
    if not (x.requires_grad and y.requires_grad) or keeps(y, "_raw_saved_mat2", feedback.t()):
        return y
    return detour(linear, x, weight, bias, feedback)


def feedback_convolution(product: Any, x: Any, weight: Any, bias: Any, feedback: Any, *geometry: Any) -> Any:
    """A convolution of torch whose gradient of x is that of one with the kernels ``feedback``."""
    feedback = feedback.detach()
    y = product(x, weight, bias, *geometry)
    if not (x.requires_grad and y.requires_grad) or keeps(y, "_raw_saved_weight", feedback):
        return y
    return detour(product, x, weight, bias, feedback, *geometry)


def feedback_conv1d(x: Any, weight: Any, bias: Any, feedback: Any, *geometry: Any) -> Any:
    """``conv1d`` with the kernels ``feedback`` in the backward."""
    return feedback_convolution(torch.nn.functional.conv1d, x, weight, bias, feedback, *geometry)


def feedback_conv2d(x: Any, weight: Any, bias: Any, feedback: Any, *geometry: Any) -> Any:
    """``conv2d`` with the kernels ``feedback`` in the backward."""
    return feedback_convolution(torch.nn.functional.conv2d, x, weight, bias, feedback, *geometry)


def feedback_conv_transpose2d(x: Any, weight: Any, bias: Any, feedback: Any, *geometry: Any) -> Any:
    """``conv_transpose2d`` with the kernels ``feedback`` in the backward."""
    return feedback_convolution(torch.nn.functional.conv_transpose2d, x, weight, bias, feedback, *geometry)


def stdp(pre: Any, post: Any, plus: float, minus: float, kept: float, lost: float) -> Any:
    """The mean over samples of how weights change by the spikes ``pre`` [B, T, in] and ``post`` [B, T, out].

    Each side has a trace, of which ``kept`` and ``lost`` are left after a step: nothing grows with T.
    """
    pre, post = pre.detach(), post.detach()
    before, after = pre.new_zeros(pre[:, 0].shape), post.new_zeros(post[:, 0].shape)
    change = pre.new_zeros(post.shape[2], pre.shape[2])
    for x, z in zip(pre.unbind(1), post.unbind(1), strict=True):
        before = before * kept + x
        after = after * lost
        change = change + plus * (z.t() @ before) - minus * (after.t() @ x)
        after = after + z
    return change / pre.shape[0]


class Bilinear(torch.autograd.Function):
    """y_o = Σ_ij W_oij x_i y_j for rows x and y, a few i at a time, through one product each.

    The products of x and y are made again in the backward, in the same memory; torch.nn.functional.bilinear, which
    goes by outputs, took 36 times as long (512 rows, 32 by 512 to 512, one CPU thread).
    """

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any, weight: Any) -> Any:
        ctx.save_for_backward(x, y, weight)
        rows, (out, left, right) = x.shape[0], weight.shape
        step = max(1, min(left, 2**21 // max(rows * right, 1)))
        result, room = x.new_zeros(rows, out), x.new_empty(rows * step * right)
        for first in range(0, left, step):
            some, part = x[:, first : first + step], weight[:, first : first + step]
            pairs = room[: rows * some.shape[1] * right].view(rows, some.shape[1], right)
            torch.mul(some.unsqueeze(2), y.unsqueeze(1), out=pairs)
            result.addmm_(pairs.view(rows, -1), part.reshape(out, -1).t())
        return result

    @staticmethod
    def backward(ctx: Any, *given: Any) -> Any:
        (x, y, weight), delta = ctx.saved_tensors, given[0]
        rows, (out, left, right) = x.shape[0], weight.shape
        if torch.is_grad_enabled():  # the backward will be differentiated itself
            back = (delta @ weight.reshape(out, -1)).reshape(rows, left, right)
            pairs = (x.unsqueeze(2) * y.unsqueeze(1)).reshape(rows, -1)
            into_y = (x.unsqueeze(1) @ back).squeeze(1)
            return (back @ y.unsqueeze(2)).squeeze(2), into_y, (delta.t() @ pairs).reshape(weight.shape)
        wants_x, wants_y, wants_weight = ctx.needs_input_grad
        step = max(1, min(left, 2**21 // max(rows * right, 1)))
        dx, dy, dw = torch.empty_like(x), torch.zeros_like(y), torch.empty_like(weight)
        room = x.new_empty(rows * step * right)
        for first in range(0, left, step):
            some, part = x[:, first : first + step], weight[:, first : first + step]
            pairs = room[: rows * some.shape[1] * right].view(rows, some.shape[1], right)
            if wants_x or wants_y:
                torch.mm(delta, part.reshape(out, -1), out=pairs.view(rows, -1))
                dx[:, first : first + step] = torch.bmm(pairs, y.unsqueeze(2)).squeeze(2)
                dy += torch.bmm(some.unsqueeze(1), pairs).squeeze(1)
            if wants_weight:
                torch.mul(some.unsqueeze(2), y.unsqueeze(1), out=pairs)
                torch.mm(delta.t(), pairs.view(rows, -1), out=dw[:, first : first + step].view(out, -1))
        return dx if wants_x else None, dy if wants_y else None, dw if wants_weight else None


def bilinear(x: Any, y: Any, weight: Any, bias: Any) -> Any:
    """``torch.nn.functional.bilinear``, faster."""
    x, y, weight = x.contiguous(), y.contiguous(), weight.contiguous()
    rows = Bilinear.apply(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), weight)  # type: ignore[no-untyped-call]
    result = rows.reshape(*x.shape[:-1], weight.shape[0])
    return result if bias is None else result + bias


def wired(x: Any, weight: Any, bias: Any, mask: Any, reads: Any) -> Any:
    """``linear`` with a weight [m, n] where ``mask`` [m, n] is true, by the few columns ``reads`` [m, k] that rows have.

    From 1,024 points to 1,024 that each read 9, batch 64, one thread, torch 2.13: forward a twelfth of the masked
    product's time, a learning pass an eighth, a step of Adam, which moves the whole weight, a third.
    """
    wires = torch.where(torch.gather(mask, 1, reads), torch.gather(weight, 1, reads), 0.0)
    columns = x.reshape(-1, x.shape[-1]).t().contiguous()
    y = torch.nn.functional.embedding_bag(reads, columns, per_sample_weights=wires, mode="sum").t()
    y = y.reshape(*x.shape[:-1], reads.shape[0])
    return y if bias is None else y + bias
