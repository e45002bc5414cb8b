"""Online alternating minimisation with auxiliary codes (Choromanska et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.rules.stack import Rule, Stack, output_error


class Alternate(Rule):
    """Codes start at the activations h and take `steps` steps from the top down; then every layer fits its code.

    c ← c − step · ∂/∂c [energy above + ½‖c − f(c_below)‖²], the energy above being the cross entropy or
    ½‖c_above − f_above(c)‖²; weights: ½ mean_b ‖c − f(c_below)‖², and the cross entropy at the top.
    """

    def __init__(self, net: Stack, step: float = 0.1, steps: int = 1) -> None:
        super().__init__(net)
        self.step, self.steps = step, steps

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        layers = list(self.net.layers)
        codes: list[Tensor] = []
        outs: list[Tensor] = []
        h = x
        for k, layer in enumerate(layers):
            leaf = h.detach().requires_grad_(k > 0)
            codes.append(leaf)
            h = layer(leaf)
            outs.append(h)
        size = len(y)
        for step in range(self.steps):
            if step:  # the codes have moved: what each layer makes of them has too
                codes = [code.detach().requires_grad_(k > 0) for k, code in enumerate(codes)]
                outs = [layer(code) for layer, code in zip(layers, codes, strict=True)]
            moved = list(codes)
            for k in range(len(layers) - 1, 0, -1):
                out = outs[k]
                error = output_error(out.detach(), y) if k == len(layers) - 1 else out.detach() - moved[k + 1]
                slope = torch.autograd.grad(out, codes[k], error)[0]
                if step:
                    slope = slope + (codes[k].detach() - outs[k - 1].detach())
                moved[k] = codes[k].detach() - self.step * slope
            codes = moved
        for k, layer in enumerate(layers[:-1]):
            (0.5 * (codes[k + 1] - layer(codes[k].detach())).square().sum() / size).backward()
        loss = F.cross_entropy(layers[-1](codes[-1]), y)
        loss.backward()
        return loss.detach()
