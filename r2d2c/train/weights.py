"""Weights by name into a model, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model


def load_weights(model: Model, tensors: Mapping[str, Tensor], path: Path | None = None) -> None:
    """Copy tensors into a model's storage, in place; E521 with what differs if names or shapes do not
    match, E526 if these are the fixed matrices of a credit rule.
    """
    import torch

    own = model.state_dict()
    wrong = {name: f"`{name}` is in the checkpoint alone" for name in tensors if name not in own}
    wrong |= {name: f"`{name}` is in the spec alone" for name in own if name not in tensors}
    wrong |= {
        name: f"`{name}` is {list(tensors[name].shape)} in the checkpoint and {list(tensor.shape)} in the spec"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    }
    if wrong:
        where = f" {path}" if path is not None else ""
        problems = list(wrong.values())
        notes = [*problems[:10], *([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])]
        if wrong.keys() <= _fixed(model):
            _refuse_feedback(model, where, notes)
        refuse("E521", f"the checkpoint{where} is of another model", notes=notes)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _fixed(model: Model) -> set[str]:
    """The fixed matrices that credit rules added, such as the B of `feedback`."""
    spec = model.graph.storage
    return {name for name, row in model._storage.items() if row.kind == "frozen" and name not in spec}


def _refuse_feedback(model: Model, where: str, notes: list[str]) -> NoReturn:
    """The B of a run are drawn from its seed, and its weights have aligned themselves with them.

    No file of weights from elsewhere has them, and others would send other δs through what was learned.
    """
    rules = sorted({f"`{link.credit.rule}`" for link in model.graph.links})
    refuse(
        "E526",
        f"the checkpoint{where} has not the fixed matrices B that the credit {' and '.join(rules)} needs",
        notes=[
            *notes,
            f"B is drawn from the run's seed (here {model.graph.seed}) and never trained; it belongs to the run, whose\n"
            "weights have learned with it",
        ],
        fix="take a checkpoint of a run with this credit, or start a new run",
    )
