"""Rules with several phases: predictive coding and equilibrium propagation, on one energy.

E(v) = Σ_l ½‖v_l − f_l(v_{l−1})‖² over the hidden layers, summed over the batch, plus the cross entropy of the
top layer's logits of the last v. Values start at the forward pass, which is where E without labels is least.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.rules.stack import Rule, Stack


class _Energy(Rule):
    def forward_pass(self, x: Tensor) -> list[Tensor]:
        found = []
        with torch.no_grad():
            for layer in self.net.hidden:
                x = layer(x)
                found.append(x)
        return found

    def settle(
        self, first: Tensor, y: Tensor, values: list[Tensor], steps: int, step: float, nudge: float
    ) -> list[Tensor]:
        """`steps` steps of gradient descent on E + nudge · CE; `first` is f_1(x), which no value changes."""
        layers = list(self.net.layers)
        for _ in range(steps):
            values = [value.detach().requires_grad_() for value in values]
            made = [layer(value) for layer, value in zip(layers[1:], values, strict=True)]
            # ∂E/∂v_l = (v_l − f_l(v_{l−1})) − J_{l+1}ᵀ (v_{l+1} − f_{l+1}(v_l))
            loss = F.cross_entropy(made[-1], y, reduction="sum")
            (error,) = torch.autograd.grad(loss, made[-1], retain_graph=True)
            with torch.no_grad():
                own = [value - made_of for value, made_of in zip(values, [first, *made[:-1]], strict=True)]
                sent = [*(-e for e in own[1:]), nudge * error]
            slopes = torch.autograd.grad(made, values, sent)
            with torch.no_grad():
                values = [v - step * (o + s) for v, o, s in zip(values, own, slopes, strict=True)]
        return [value.detach() for value in values]

    def weigh(self, x: Tensor, y: Tensor, values: list[Tensor], factor: float, nudge: float) -> Tensor:
        """factor · ∂(E + nudge · CE)/∂θ, the mean over the batch."""
        size = len(y)
        outs = [layer(v) for layer, v in zip(self.net.layers, [x, *values], strict=True)]
        loss = F.cross_entropy(outs[-1], y)
        with torch.no_grad():
            sent = [(out - v) * (factor / size) for out, v in zip(outs, values, strict=False)]
        torch.autograd.backward([*outs[:-1], loss], [*sent, torch.full_like(loss, factor * nudge)])
        return loss.detach()


class Predictive(_Energy):
    """Predictive coding (Whittington & Bogacz 2017). fixed: predictions and Jacobians of the forward pass (Millidge 2020)."""

    def __init__(self, net: Stack, steps: int = 8, step: float = 0.5, fixed: bool = False) -> None:
        super().__init__(net)
        self.steps, self.step, self.fixed = steps, step, fixed

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        if self.fixed:
            return self._fixed(x, y)
        values = self.forward_pass(x)
        settled = self.settle(values[0], y, values, self.steps, self.step, 1.0)
        return self.weigh(x, y, settled, 1.0, 1.0)

    def _fixed(self, x: Tensor, y: Tensor) -> Tensor:
        size = len(y)
        leaves: list[Tensor] = []
        outs: list[Tensor] = []
        for k, layer in enumerate(self.net.layers):
            leaf = x.detach().requires_grad_(k > 0)
            leaves.append(leaf)
            x = layer(leaf)
            outs.append(x)
        loss = F.cross_entropy(x, y)
        (error,) = torch.autograd.grad(loss, x, retain_graph=True)
        errors = [torch.zeros_like(leaf) for leaf in leaves[1:]]
        for _ in range(self.steps):
            sent = [*(-e for e in errors[1:]), error * size]
            slopes = torch.autograd.grad(outs[1:], leaves[1:], sent, retain_graph=True)
            errors = [e - self.step * (e + s) for e, s in zip(errors, slopes, strict=True)]
        parameters = [p for layer in self.net.layers for p in layer.parameters()]
        torch.autograd.backward(outs, [*(-e / size for e in errors), error], inputs=parameters)
        return loss.detach()


class Equilibrium(_Energy):
    """Equilibrium propagation (Scellier & Bengio 2017), two-sided (Laborieux et al. 2021).

    The free phase is the forward pass, E's least point. Gradient: (∂E_β − ∂E_−β) / 2β, or (∂E_β − ∂E_0) / β.
    """

    def __init__(
        self, net: Stack, steps: int = 8, step: float = 0.5, nudge: float = 0.1, symmetric: bool = True
    ) -> None:
        super().__init__(net)
        self.steps, self.step, self.nudge, self.symmetric = steps, step, nudge, symmetric

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        values = self.forward_pass(x)
        beta = self.nudge
        up = self.settle(values[0], y, values, self.steps, self.step, beta)
        if not self.symmetric:  # ∂E_0/∂θ is zero: nothing is left to explain at the forward pass
            return self.weigh(x, y, up, 1 / beta, beta)
        down = self.settle(values[0], y, values, self.steps, self.step, -beta)
        self.weigh(x, y, up, 0.5 / beta, beta)
        return self.weigh(x, y, down, -0.5 / beta, -beta)
