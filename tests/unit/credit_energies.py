"""The rules with an energy by hand: E(v) = Σ ½‖v_h − f_h(v)‖² + β·B·L(v), differentiated as a whole.

All links of a net have the rule; a value that no link leaves is what its task makes of the values below.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.unit.credit_oracle import Grads, Net, Params, pull

Values = dict[str, Tensor]


class Energy:
    def __init__(self, net: Net, p: Params, batch: Mapping[str, Tensor]) -> None:
        self.net, self.p, self.batch = net, p, batch
        self.size = len(batch["x"])
        lower = [u for u, _ in net.links]
        self.free = [name for name in net.tasks if name in lower]

    def made(self, v: Values) -> Values:
        """f_t of every task: from the values in v where links are."""
        given = {"x": self.batch["x"], **v}
        return {name: f(self.p, *(given[u] for u in reads)) for name, (reads, f) in self.net.tasks.items()}

    def losses(self, v: Values) -> Tensor:
        """B·Σ of the weighted losses; a task's own loss reads what the task makes."""
        made = self.made(v)
        every = [weight * value(made, self.batch) for weight, _, value in self.net.losses.values()]
        return self.size * sum(every[1:], every[0])

    def total(self, v: Values, beta: float) -> Tensor:
        made = self.made(v)
        squares = [((v[h] - made[h]) ** 2).sum() / 2 for h in self.free]
        return sum(squares[1:], squares[0]) + beta * self.losses(v)

    def start(self) -> Values:
        found = self.net.values(self.p, self.batch)
        return {h: found[h].detach().requires_grad_() for h in self.free}

    def settle(self, steps: int, step: float, beta: float) -> Values:
        """All values go down E together."""
        v = self.start()
        for _ in range(steps):
            slopes = pull(self.total(v, beta), v)
            v = {h: (value - step * slopes[h]).detach().requires_grad_() for h, value in v.items()}
        return v

    def weights(self, total: Tensor) -> Grads:
        """∂/∂θ as a mean over the batch."""
        trained = {n: t for n, t in self.p.tensors.items() if t.requires_grad}
        # Where nothing has come yet, there is no gradient rather than one of zeros.
        return {name: g / self.size for name, g in pull(total, trained).items() if g.any()}


def predictive(net: Net, p: Params, batch: Mapping[str, Tensor], steps: int, step: float) -> Grads:
    e = Energy(net, p, batch)
    return e.weights(e.total(e.settle(steps, step, 1.0), 1.0))


def predictive_fixed(net: Net, p: Params, batch: Mapping[str, Tensor], steps: int, step: float) -> Grads:
    """ε ← ε − step·(ε − Σ Jᵀε + B ∂L/∂h) with predictions and Jacobians of the forward pass; ε = v − f (Millidge, algorithm 1)."""
    e = Energy(net, p, batch)
    v = e.start()
    made, lossy = e.made(v), pull(e.losses(v), v)
    errors = {h: torch.zeros_like(value) for h, value in v.items()}
    for _ in range(steps):
        back = {h: torch.zeros_like(value) for h, value in v.items()}
        for other in e.free:
            for h, g in pull(made[other], v, errors[other]).items():
                back[h] = back[h] + g
        errors = {
            h: errors[h] - step * (errors[h] - back[h] + lossy.get(h, torch.zeros_like(v[h]))) for h in errors
        }
    trained = {n: t for n, t in p.tensors.items() if t.requires_grad}
    found = {name: g / e.size for name, g in pull(e.losses(v), trained).items()}
    for h in (h for h in e.free if errors[h].any()):  # to others nothing has come yet
        for name, g in pull(made[h], trained, -errors[h] / e.size).items():
            found[name] = found[name] + g if name in found else g
    return found


def equilibrium(
    net: Net, p: Params, batch: Mapping[str, Tensor], steps: int, step: float, nudge: float, symmetric: bool
) -> Grads:
    """(∂E_β/∂θ − ∂E_−β/∂θ) / 2β or (∂E_β/∂θ − ∂E_0/∂θ) / β, every E at values of its own."""
    e = Energy(net, p, batch)
    up = e.weights(e.total(e.settle(steps, step, nudge), nudge))
    beta = -nudge if symmetric else 0.0
    down = e.weights(e.total(e.settle(steps, step, beta), beta))
    return {name: (up[name] - down.get(name, 0.0)) / (nudge - beta) for name in up}


def alternate(net: Net, p: Params, batch: Mapping[str, Tensor], steps: int, step: float) -> Grads:
    """Codes one after the other from the top: c ← c − step·∂/∂c[Σ_above ½‖c_v − f_v(c)‖² + B L + ½‖c − f(c below)‖²].

    f and its Jacobians are those of the step's start, c_v above has moved.
    """
    e = Energy(net, p, batch)
    codes = e.start()
    for _ in range(steps):
        old, made = codes, e.made(codes)
        moved: Values = {}
        for h in reversed(e.free):
            parts = [((moved[v] - made[v]) ** 2).sum() / 2 for v in moved]
            total = sum(parts, e.losses(old))
            slope = pull(total, {h: old[h]}).get(h, torch.zeros_like(old[h])) + (old[h] - made[h])
            moved[h] = (old[h] - step * slope).detach()
        codes = {h: moved[h].requires_grad_() for h in e.free}
    return e.weights(e.total(codes, 1.0))
