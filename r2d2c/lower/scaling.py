"""`Scaler`: gradients that are taken in fp16, whose small values would vanish, by backwards of scaled cotangents.

A vector-Jacobian product is linear in its cotangents, so they are scaled up before it and the result down after it:
whatever credit rule made them, the learning rule stays the same. After Micikevicius et al., Mixed Precision Training
(2018), section 3.2; where the scale was too large the product is taken again with half of it, so no step is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

LARGEST = 2.0**24
GROWS_AFTER = 2000  # products without an overflow, then the scale doubles


class Scaler:
    """The scale of one model. good: how many products there were since it last changed."""

    def __init__(self) -> None:
        self.scale, self.good = 2.0**16, 0

    def grad(
        self,
        outputs: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        cotangents: Sequence[torch.Tensor | None] | None = None,
        retain_graph: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """`torch.autograd.grad`, with intermediate gradients ``scale`` times as large."""
        given = cotangents if cotangents is not None else [None] * len(outputs)
        while True:
            scaled = [
                torch.full_like(output, self.scale) if one is None else one * self.scale
                for output, one in zip(outputs, given, strict=True)
            ]
            # Kept, to take it again; it goes with the tensors of the visit.
            found = torch.autograd.grad(outputs, inputs, scaled, retain_graph=True)
            if self.scale <= 1 or bool(torch.stack([torch.isfinite(one).all() for one in found]).all()):
                break
            self.scale, self.good = self.scale / 2, 0
        result = tuple(one / self.scale for one in found)
        self.good += 1
        if self.good >= GROWS_AFTER:
            self.scale, self.good = min(self.scale * 2, LARGEST), 0
        return result

    def state(self) -> dict[str, Any]:
        return {"scale": self.scale, "good": self.good}

    def load(self, state: Mapping[str, Any]) -> None:
        self.scale, self.good = float(state["scale"]), int(state["good"])
