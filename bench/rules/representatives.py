"""Tasks that learn locally from a representative each, itself learned: the product's own rule."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rules.stack import Layer, Rule, Stack


def tasks_of_two(sizes: Sequence[int], activation: str = "relu", norm: str = "layer") -> Stack:
    """linear, norm, activation, linear: two layers a task; the second gives h as it is."""
    layers = []
    for k, (before, after) in enumerate(itertools.pairwise(sizes)):
        inner = k % 2 == 0 and k < len(sizes) - 2
        layers.append(
            Layer(nn.Linear(before, after), activation if inner else "identity", norm if inner else "none")
        )
    return Stack(layers, (sizes[0],))


class Representatives(Rule):
    """Task i: mse(h_i, r_i) trains its two layers, r_i a constant; the read-out on top learns the cross entropy.

    r_top = code(one-hot y), r_i = code(r_{i+1}), of unit scale. feed: what the task above is given, `behavior` (h_i)
    or `representative` (r_i). teach: `losses` (d = own · L_i, and L_{i+1} too where r_i is fed), `head` (besides, the
    cross entropy of a linear read-out of r_i), `frozen` (nothing: the control).
    """

    def __init__(
        self,
        net: Stack,
        feed: str = "behavior",
        teach: str = "losses",
        noise: float = 0.0,
        code_rate: float = 0.1,
        own: float = 1.0,
    ) -> None:
        super().__init__(net)
        self.feed, self.teach, self.noise, self.own = feed, teach, noise, own
        layers = [layer for layer in net.layers if isinstance(layer, Layer)]
        self.tasks = [nn.Sequential(*layers[k : k + 2]) for k in range(0, len(layers) - 1, 2)]
        outs = [layers[k + 1].op.weight.shape[0] for k in range(0, len(layers) - 1, 2)]
        ins = [*outs[1:], net.classes]
        self.codes = nn.ModuleList(nn.Linear(a, b) for a, b in zip(ins, outs, strict=True))
        for code in self.codes:
            assert isinstance(code, nn.Linear)
            # one-hot or of unit scale in, unit scale out
            nn.init.normal_(
                code.weight, 0.0, 1.0 if code.in_features == net.classes else code.in_features**-0.5
            )
            nn.init.zeros_(code.bias)
            code.requires_grad_(teach != "frozen")
        self.heads = nn.ModuleList(nn.Linear(size, net.classes) for size in outs) if teach == "head" else None
        self.rates = {"codes.": code_rate}

    def represent(self, y: Tensor) -> list[Tensor]:
        """Every task's representative, the lowest first; each sees the stopped one above."""
        above: Tensor = F.one_hot(y, self.net.classes).float()
        found: list[Tensor] = []
        for code in reversed(self.codes):
            r = code(above)
            if self.noise:
                r = r + self.noise * torch.randn_like(r)
            found.insert(0, r)
            above = r.detach()
        return found

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        taught = self.teach != "frozen"
        made = self.represent(y)
        leaves = [r.detach().requires_grad_(taught) for r in made]
        for k, task in enumerate(self.tasks):
            h = task(x)
            loss = F.mse_loss(h, leaves[k])
            loss.backward()
            x = leaves[k] if self.feed == "representative" else h.detach()
        loss = F.cross_entropy(self.net.top(x), y)
        loss.backward()
        if taught:
            for k, (r, leaf) in enumerate(zip(made, leaves, strict=True)):
                assert leaf.grad is not None
                if self.heads is not None:
                    F.cross_entropy(self.heads[k](r), y).backward(retain_graph=True)
                r.backward(leaf.grad * self.own)
        return loss.detach()

    def spread(self) -> list[float]:
        """The root mean square distance of the classes' representatives from their mean, a task."""
        with torch.no_grad():
            found = self.represent(torch.arange(self.net.classes))
            return [float((r - r.mean(0)).square().mean().sqrt()) for r in found]
