"""The credit rules by hand, as senders of tests/unit/credit_oracle.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.credit_oracle import Params, Run, Sender, pull


class Backprop(Sender):
    pass


class Local(Sender):
    def sends(self, run: Run, u: str, v: str) -> None:
        return None


class Feedback(Sender):
    """B of every layer of the upper task, and of the lower one with ``own``; layers: those of each task."""

    def __init__(self, variant: str, p: Params, layers: dict[str, list[str]], tasks: list[str]) -> None:
        super().__init__()
        for layer in (layer for task in tasks for layer in layers[task]):
            weight = p.tensors[f"{layer}.weight"].detach()
            if variant == "uniform_sign":
                self.through[layer] = weight.sign() * weight.abs().mean()
                continue
            drawn = p.tensors[f"{layer}.feedback"]
            self.through[layer] = drawn if variant == "random" else weight.sign() * drawn.abs()


class Direct(Sender):
    """Σ e·B over the outputs above, once for all links of a value."""

    def sends(self, run: Run, u: str, v: str) -> Tensor | None:
        if v != run.above(u, Direct)[0]:
            return None
        total = torch.zeros(())
        above = {u}
        for _ in run.net.links:
            above |= {w for v, w in run.net.links if v in above}
        for number, output in enumerate(o for o in self.options["outputs"] if o in above):
            b = run.p.tensors[f"{u}.direct.B_{number}" if number else f"{u}.direct.B"]
            e, h = run.got[output], run.h[u]
            along = e @ b if self.options.get("along") else (e.flatten(1) @ b).reshape(h.shape)
            total = total + self.options.get("scale", 1.0) * along
        return total


class Synthetic(Sender):
    """S(h[, y])/B; S learns mse to B times what comes back. ``predictor(p, h, labels)`` is S, if it is not the default."""

    def guess(self, run: Run, u: str) -> Tensor:
        h = run.h[u]
        if "predictor" in self.options:
            made: Tensor = self.options["predictor"](run, h)
            return made
        seen = h.flatten(1)
        if self.options.get("labels"):
            seen = torch.cat([seen, F.one_hot(run.batch["y"], 3).to(h.dtype)], 1)
        return run.p.linear(f"{u}.synthetic.predictor", seen).reshape(h.shape)

    def true(self, run: Run, u: str) -> Tensor:
        """∂L/∂h through the synthetic links and all that they lead to."""
        total = torch.zeros_like(run.h[u])
        for v in run.above(u, Synthetic):
            made, leaves = run.task(v, {})
            arrives = run.got.get(v)
            if run.above(v, Synthetic):
                # What v is taught, with the true gradient in the place of its own guess.
                rest = run.got[v] - self.guess(run, v).detach() / run.size
                arrives = rest + self.true(run, v)
            if arrives is not None:
                total = total + pull(made, {u: leaves[u]}, arrives)[u]
        return total

    def sends(self, run: Run, u: str, v: str) -> Tensor | None:
        above = run.above(u, Synthetic)
        if v != above[0]:
            return None
        guess = self.guess(run, u)
        if self.options.get("bootstrap", True):
            wanted = sum((run.back[u, w] for w in above), torch.zeros_like(guess))
        else:
            wanted = self.true(run, u)
        if self.options.get("learns", True):
            run.add(pull(((guess - run.size * wanted) ** 2).mean(), run.trained()))
        return guess.detach() / run.size


class Target(Sender):
    """h − t per sample; t = h + Σ g(t_v) − g(h_v), or the mean of g(t_v)."""

    def inverse(self, run: Run, u: str, v: str, value: Tensor) -> Tensor:
        if "inverse" in self.options:
            made: Tensor = self.options["inverse"](run, u, value)
            return made
        several = len(run.above(u, Target)) > 1
        name = f"{u}.target.{v}.inverse" if several else f"{u}.target.inverse"
        return run.p.linear(name, value.flatten(1)).reshape(run.h[u].shape)

    def target_of(self, run: Run, v: str) -> Tensor:
        above = run.above(v, Target)
        h = run.h[v]
        if not above:
            return h - self.options.get("step", 0.5) * run.size * run.got[v]
        parts = []
        for w in above:
            part = self.inverse(run, v, w, self.target_of(run, w))
            parts.append(part - self.inverse(run, v, w, h_of(run, w)) if self.difference else part)
        return (h + sum(parts) if self.difference else sum(parts) / len(parts)).detach()

    @property
    def difference(self) -> bool:
        return bool(self.options.get("difference", True))

    def sends(self, run: Run, u: str, v: str) -> Tensor | None:
        h = run.h[u]
        noise = self.options.get("noise", {}).get((u, v), torch.zeros_like(h))
        noisy = h + noise
        seen = run.task(v, {}, **{u: noisy})[0].detach()
        back = self.inverse(run, u, v, seen)
        run.add(pull(((back - noisy) ** 2).sum() / (2 * run.size), run.trained()))
        if v != run.above(u, Target)[0]:
            return None
        return (h - self.target_of(run, u)) / run.size


def h_of(run: Run, v: str) -> Tensor:
    return run.h[v]


def plastic(
    variant: str, x: Tensor, weight: Tensor, y: Tensor, threshold: Tensor | None = None, decay: float = 0.99
) -> Tensor:
    """−Δw of rows x and y: a mean over samples and places, sample by sample."""
    total = torch.zeros_like(weight)
    if variant == "bcm":
        assert threshold is not None
        theta = decay * threshold + (1 - decay) * (y**2).mean(0)
        y = y * (y - theta)
    for k in range(len(x)):
        total += torch.outer(y[k], x[k])
        if variant == "oja":
            total -= torch.outer(y[k], y[k]) @ weight
    return -total / len(x)
