"""`clip` of a spec's `train:` section: bounds for gradients, by norm or by value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Clip:
    """A bound for the gradients of all parameters that have the same ``key``.

    norm: for the 2-norm of all of them together, so none is stepped before all are there. value: for every entry.
    """

    key: str
    kind: Literal["norm", "value"]
    bound: float

    def __str__(self) -> str:
        return f"{self.kind}({self.bound:g})"


def clip_(gradients: Sequence[Tensor], clip: Clip) -> None:
    """Clip gradients in place, as `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_` do."""
    import torch

    if clip.kind == "value":
        for gradient in gradients:
            gradient.clamp_(-clip.bound, clip.bound)
        return
    norm = torch.nn.utils.get_total_norm(gradients)
    # torch's own: a norm a little below the bound is not scaled up.
    scale = (clip.bound / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.to(gradient.device))
