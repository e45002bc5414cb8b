"""Synthetic gradients (Jaderberg et al. 2017, "Decoupled Neural Interfaces"), one predictor a hidden layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rules.stack import Rule, Stack


class Synthetic(Rule):
    """Layer l learns from S_l(h_l[, y]) / B at once; S_l learns what layer l + 1 sends back, times B.

    S is linear and starts at zero. labels: it also sees the one-hot label. bootstrap: what layer l + 1 sends back
    comes from its own S (else it is the true gradient, which needs one backward through the whole network).
    """

    def __init__(
        self, net: Stack, labels: bool = True, bootstrap: bool = True, predictor_rate: float = 1.0
    ) -> None:
        super().__init__(net)
        self.labels, self.bootstrap = labels, bootstrap
        self.rates = {"predictors.": predictor_rate}
        extra = net.classes if labels else 0
        widths = [torch.Size(shape).numel() for shape in net.shapes[1:-1]]
        self.predictors = nn.ModuleList(nn.Linear(width + extra, width) for width in widths)
        for parameter in self.predictors.parameters():
            nn.init.zeros_(parameter)

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.bootstrap:
            return self._learn_from_true(x, y)
        size = len(y)
        hot = F.one_hot(y, self.net.classes).to(x.dtype) if self.labels else None
        guess: Tensor | None = None  # what the predictor below said of this layer's input
        for k, layer in enumerate(self.net.layers):
            leaf = x.detach().requires_grad_(k > 0)
            h = layer(leaf)
            if k < len(self.predictors):
                below = guess
                guess = self._predict(k, h, hot)
                h.backward(guess.detach().view_as(h) / size)
            else:
                below = guess
                loss = F.cross_entropy(h, y)
                loss.backward()
            if below is not None:
                assert leaf.grad is not None
                F.mse_loss(below, leaf.grad.flatten(1) * size).backward()
            x = h
        return loss.detach()

    def _predict(self, k: int, h: Tensor, hot: Tensor | None) -> Tensor:
        seen = h.detach().flatten(1)
        out: Tensor = self.predictors[k](seen if hot is None else torch.cat([seen, hot], 1))
        return out

    def _learn_from_true(self, x: Tensor, y: Tensor) -> Tensor:
        size = len(y)
        hot = F.one_hot(y, self.net.classes).to(x.dtype) if self.labels else None
        leaves: list[Tensor] = []
        outs: list[Tensor] = []
        for layer in self.net.layers:
            leaf = x.detach().requires_grad_(bool(outs))
            leaves.append(leaf)
            x = layer(leaf)
            outs.append(x)
        loss = F.cross_entropy(x, y)
        true = torch.autograd.grad(loss, x, retain_graph=True)[0]
        parameters = [list(layer.parameters()) for layer in self.net.layers]
        for k in range(len(outs) - 1, -1, -1):
            # the true gradient goes on down, S's goes into the weights
            last = k == len(outs) - 1
            down = None
            if k:
                down = torch.autograd.grad(outs[k], leaves[k], true, retain_graph=True)[0]
                F.mse_loss(self._predict(k - 1, outs[k - 1], hot), down.flatten(1) * size).backward()
            with torch.no_grad():
                sent = true if last else self._predict(k, outs[k], hot).view_as(outs[k]) / size
            torch.autograd.backward(outs[k], sent, inputs=parameters[k])
            if down is not None:
                true = down
        return loss.detach()
