"""Weights by name into a model, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model


def load_weights(model: Model, tensors: Mapping[str, Tensor], path: Path | None = None) -> None:
    """Copy tensors into a model's storage, in place; E521 with what differs if names or shapes do not
    match.
    """
    import torch

    own = model.state_dict()
    problems = [f"`{name}` is in the checkpoint alone" for name in tensors if name not in own]
    problems += [f"`{name}` is in the spec alone" for name in own if name not in tensors]
    problems += [
        f"`{name}` is {list(tensors[name].shape)} in the checkpoint and {list(tensor.shape)} in the spec"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        where = f" {path}" if path is not None else ""
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        refuse("E521", f"the checkpoint{where} is of another model", notes=[*problems[:10], *more])
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
