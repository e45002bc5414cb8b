"""Hidden layers learn from their own activity alone, a linear read-out from the labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rules.stack import Layer, Rule, Stack


def oja(weight: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Oja's subspace rule (Oja 1989): z xᵀ − z zᵀ W, mean over the batch."""
    return (z.t() @ x - (z.t() @ z) @ weight) / len(x)


def hebb(weight: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Plain Hebb with Oja's decay of each unit by itself (Oja 1982): z xᵀ − z² W."""
    return (z.t() @ x) / len(x) - z.square().mean(0)[:, None] * weight


class Hebbian(Rule):
    """rule: `oja`, `hebb` or `bcm` (z (z − θ) xᵀ, θ a running mean of z²; Bienenstock et al. 1982)."""

    def __init__(self, net: Stack, rule: str = "oja", decay: float = 0.99, rate: float = 1.0) -> None:
        super().__init__(net)
        self.rule, self.decay = rule, decay
        self.rates = {f"net.layers.{k}.": rate for k in range(len(net.layers) - 1)}
        for k, layer in enumerate(net.hidden):
            assert isinstance(layer.op, nn.Linear)
            self.register_buffer(f"threshold{k}", torch.ones(layer.op.out_features))

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            for k, layer in enumerate(self.net.hidden):
                z = layer.pre(x)
                self._plastic(k, layer, x, z)
                x = layer.post(z)
        loss = F.cross_entropy(self.net.top(x), y)
        loss.backward()
        return loss.detach()

    def _plastic(self, k: int, layer: Layer, x: Tensor, z: Tensor) -> None:
        weight, bias = layer.op.weight, layer.op.bias
        if self.rule == "oja":
            change = oja(weight, x, z)
        elif self.rule == "hebb":
            change = hebb(weight, x, z)
        else:
            threshold = self.get_buffer(f"threshold{k}")
            threshold.lerp_(z.square().mean(0), 1 - self.decay)
            change = (z * (z - threshold)).t() @ x / len(x)
        weight.grad = -change
        assert bias is not None
        bias.grad = None
