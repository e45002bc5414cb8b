"""Difference target propagation (Lee et al. 2015)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rules.stack import ACTIVATIONS, Layer, Rule, Stack, initialise, output_error


class Inverse(nn.Module):
    """Back from what layer l gives to what it was given: one linear map, or a transposed convolution."""

    def __init__(self, layer: Layer, shape: tuple[int, ...], activation: str, init: str) -> None:
        super().__init__()
        self.shape = shape
        op = layer.op
        self.op: nn.Linear | nn.ConvTranspose2d
        if isinstance(op, nn.Linear):
            self.op = nn.Linear(op.out_features, op.in_features)
        else:
            self.op = nn.ConvTranspose2d(op.out_channels, op.in_channels, 4, stride=2, padding=1)
        initialise(self.op.weight, init)
        self.activation = ACTIVATIONS[activation]

    def forward(self, h: Tensor) -> Tensor:
        return self.activation(self.op(h)).view(-1, *self.shape)


class Target(Rule):
    """Layer l learns ½ mean_b ‖h − t‖², t = h + g(t_above) − g(h_above); the inverse g learns to undo noise.

    The topmost target is the logits minus `step` times their per-sample error. `join` > 0 trains the last
    hidden layer together with the read-out by backprop, and its target is h − step · δ.
    """

    def __init__(
        self,
        net: Stack,
        activation: str,
        step: float = 0.5,
        noise: float = 0.1,
        difference: bool = True,
        init: str = "orthogonal",
        join: bool = False,
    ) -> None:
        super().__init__(net)
        self.step, self.noise, self.difference, self.join = step, noise, difference, join
        above = [layer for layer in net.layers if isinstance(layer, Layer)][1 : -1 if join else None]
        shapes = net.shapes[1:]
        self.inverses = nn.ModuleList(
            Inverse(layer, shape, activation, init) for layer, shape in zip(above, shapes, strict=False)
        )

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        layers = list(self.net.layers)
        given: list[Tensor] = []
        outs: list[Tensor] = []
        h = x
        for layer in layers:
            given.append(h)
            out = layer(h)
            outs.append(out)
            h = out.detach()
        size = len(y)
        top = len(self.inverses)  # the layer whose target the first inverse is given
        if self.join:
            leaf = outs[-2].detach().requires_grad_()
            loss = F.cross_entropy(layers[-1](leaf), y)
            loss.backward()
            assert leaf.grad is not None
            outs[-2].backward(leaf.grad)
            target = outs[-2].detach() - self.step * size * leaf.grad
        else:
            loss = F.cross_entropy(outs[-1], y)
            loss.backward()
            target = h - self.step * output_error(h, y)
        for k in range(top, 0, -1):
            inverse, value = self.inverses[k - 1], given[k]
            with torch.no_grad():
                back = inverse(target)
                target = value + back - inverse(outs[k]) if self.difference else back
            outs[k - 1].backward((value - target) / size)
            with torch.no_grad():
                noisy = value + self.noise * torch.randn_like(value)
                seen = layers[k](noisy)
            (0.5 * (inverse(seen) - noisy).square().sum() / size).backward()
        return loss.detach()
