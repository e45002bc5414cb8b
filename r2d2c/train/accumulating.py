"""`accumulate` of a spec's `train:` section: one step of the optimizers for several batches.

The gradient is the mean over the samples of all batches, as of one large batch. A parameter that does not learn in
every pass gets the mean over the passes in which it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from r2d2c.train.checkpoint import Packed

if TYPE_CHECKING:
    from torch import Tensor


class Accumulator:
    """What the gradients of some parameters hold between two steps.

    every: how many batches make a step. always: the parameters that learn in every pass; their gradients hold the sum
    of all passes so far, each as if it had the weight of the last one. rare: those that do not; theirs are summed here.
    """

    def __init__(self, every: int, always: Mapping[str, Tensor], rare: Mapping[str, Tensor]) -> None:
        self.every, self._always, self._rare = every, always, rare
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        """After a step."""
        self.batches, self.total, self.unit, self.whole = 0, 0.0, 0.0, False
        self._sums.clear()
        self._weights.clear()

    @property
    def pending(self) -> bool:
        """Whether there are gradients that no step has used yet."""
        return self.total > 0

    @property
    def due(self) -> bool:
        """Whether the pass that was begun last is followed by a step."""
        return self.whole and self.batches >= self.every

    @property
    def scale(self) -> float:
        """What makes of a gradient the mean."""
        return self.unit / self.total

    def begin(self, weight: float, whole: bool) -> None:
        """Before a pass. weight: how many samples it has; whole: whether it ends a batch."""
        if self.pending and weight != self.unit:
            for parameter in self._always.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.unit / weight)
        for parameter in self._rare.values():
            parameter.grad = None
        self.unit, self.whole = weight, whole
        self.total += weight
        self.batches += whole

    def end(self) -> None:
        """After the last visit of a pass: take the gradients of those that do not always learn."""
        for name, parameter in self._rare.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            if name in self._sums:
                self._sums[name].add_(gradient, alpha=self.unit)
            else:
                self._sums[name] = gradient * self.unit
            self._weights[name] = self._weights.get(name, 0.0) + self.unit
            parameter.grad = None

    def give_back(self) -> None:
        """Before the step: the means of those that do not always learn. `scale` is for them too."""
        for name, parameter in self._rare.items():
            if name in self._sums:
                parameter.grad = self._sums[name].mul_(self.total / (self.unit * self._weights[name]))

    def pack(self, rates: list[float]) -> Packed:
        """All of it, between two batches. rates: the learning rates of the step to come."""
        always = {f"sum/{n}": p.grad for n, p in self._always.items() if p.grad is not None}
        rare = {f"rare/{n}": tensor for n, tensor in self._sums.items()}
        kept = {"batches": self.batches, "total": self.total, "unit": self.unit, "rates": rates}
        # `names`, `state` and `groups` as in what an optimizer packs.
        scalars = {"accumulated": kept | {"weights": self._weights}, "names": [], "state": {}, "groups": []}
        return Packed({**always, **rare}, scalars)

    def unpack(self, packed: Packed) -> list[float]:
        """Go on from `pack`; the learning rates."""
        kept: dict[str, Any] = packed.scalars["accumulated"]
        self.batches, self.total, self.unit = kept["batches"], kept["total"], kept["unit"]
        self._weights = dict(kept["weights"])
        for name, parameter in self._always.items():
            gradient = packed.tensors.get(f"sum/{name}")
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient.to(parameter.device, copy=True)
            else:
                parameter.grad.copy_(gradient)
        self._sums = {
            name: packed.tensors[f"rare/{name}"].to(parameter.device, copy=True)
            for name, parameter in self._rare.items()
            if f"rare/{name}" in packed.tensors
        }
        return list(kept["rates"])
