"""Backprop, local read-outs, feedback alignment and direct feedback alignment."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.rules.stack import Layer, Rule, Stack, output_error


class Backprop(Rule):
    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        return loss.detach()


class Heads(Rule):
    """Every hidden layer learns from the cross entropy of a linear read-out of its own."""

    def __init__(self, net: Stack) -> None:
        super().__init__(net)
        widths = [torch.Size(shape).numel() for shape in net.shapes[1:-1]]
        self.heads = nn.ModuleList(nn.Linear(width, net.classes) for width in widths)

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        for layer, head in zip(self.net.hidden, self.heads, strict=True):
            h = layer(x)
            F.cross_entropy(head(h.flatten(1)), y).backward()
            x = h.detach()
        loss = F.cross_entropy(self.net.top(x), y)
        loss.backward()
        return loss.detach()


class _FeedbackLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(x, back)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, back = ctx.saved_tensors
        return grad @ back, grad.t() @ x, grad.sum(0), None


class _FeedbackConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        back: Tensor,
        stride: tuple[int, int],
        pad: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, back)
        ctx.where = (stride, pad)
        return F.conv2d(x, weight, bias, stride, pad)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, back = ctx.saved_tensors
        stride, pad = ctx.where
        # The weight's value plays no part in its own gradient, so one call with B in its place gives all three.
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
            grad, x, back, [back.shape[0]], stride, pad, [1, 1], False, [0, 0], 1, [True, True, True]
        )
        return to_x, to_weight, to_bias, None, None, None


class Feedback(Rule):
    """The gradient passes each layer but the first through B in place of W (Lillicrap et al. 2016; Liao et al. 2016).

    variant: `random` (B fixed), `sign` (sign of W, fixed random magnitudes), `uniform_sign` (sign of W times the
    root mean square of W's first value).
    """

    def __init__(self, net: Stack, variant: str = "random") -> None:
        super().__init__(net)
        self.variant = variant
        for k, layer in enumerate(net.layers):
            if k:
                assert isinstance(layer, Layer)
                self.register_buffer(f"back{k}", self._draw(layer.op.weight.detach(), layer))

    def _draw(self, weight: Tensor, layer: Layer) -> Tensor:
        if self.variant == "uniform_sign":
            return weight.square().mean().sqrt()
        bound = weight.abs().max()  # every init used here but `orthogonal` is uniform
        drawn = (torch.rand_like(weight) * 2 - 1) * bound
        return drawn if self.variant == "random" else drawn.abs()

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        for k, layer in enumerate(self.net.layers):
            assert isinstance(layer, Layer)
            if not k:
                x = layer(x)
                continue
            op = layer.op
            back = self.get_buffer(f"back{k}")
            if self.variant != "random":
                back = op.weight.detach().sign() * back
            assert op.bias is not None
            if isinstance(op, nn.Linear):
                z = _FeedbackLinear.apply(x.flatten(1), op.weight, op.bias, back)  # type: ignore[no-untyped-call]
            else:
                z = _FeedbackConv.apply(x, op.weight, op.bias, back, op.stride, op.padding)  # type: ignore[no-untyped-call]
            x = layer.post(z)
        loss = F.cross_entropy(x, y)
        loss.backward()
        return loss.detach()


class Direct(Rule):
    """Every hidden layer learns from the output's error through a fixed random matrix (Nøkland 2016)."""

    def __init__(self, net: Stack, scale: float = 1.0) -> None:
        super().__init__(net)
        for k, shape in enumerate(net.shapes[1:-1]):
            back = torch.empty(net.classes, torch.Size(shape).numel())
            nn.init.xavier_uniform_(back, gain=scale)
            self.register_buffer(f"back{k}", back)

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        found = []
        for layer in self.net.hidden:
            h = layer(x)
            found.append(h)
            x = h.detach()
        logits = self.net.top(x)
        with torch.no_grad():
            error = output_error(logits, y) / len(y)
            signals = [(error @ self.get_buffer(f"back{k}")).view_as(h) for k, h in enumerate(found)]
        torch.autograd.backward([logits, *found], [error, *signals])
        with torch.no_grad():
            return F.cross_entropy(logits, y)
