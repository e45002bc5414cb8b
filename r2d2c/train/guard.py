"""Losses and parameters that are no numbers any more: found, named, and never saved over a good
checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from r2d2c.train.blame import blame_loss, blame_parameter, word
from r2d2c.train.refuse import refuse
from r2d2c.train.run_folder import RunFolder

if TYPE_CHECKING:
    from r2d2c.train.loop import Trainer


def check_losses(trainer: Trainer, rows: Sequence[torch.Tensor], where: str) -> None:
    """E536 for the first loss of the first row that is NaN or infinite. ``rows`` are the losses of the last batches."""
    names = trainer.losses
    if not rows or not names:
        return
    table = torch.stack(list(rows))
    sound = torch.isfinite(table)
    if bool(sound.all()):
        return
    model, run = trainer.model, trainer.run_folder
    row, column = (~sound).nonzero()[0].tolist()
    behind = len(rows) - row - 1
    loss = model._training_graph.losses[names[column]]
    others = [names[k] for k in (~sound[row]).nonzero().flatten().tolist() if k != column]
    notes = [f"so are in the same step: {', '.join(f'`{name}`' for name in others)}"] if others else []
    found = blame_loss(trainer, loss.name, trainer.batches - behind)
    is_ = word(table[row, column])
    refuse(
        "E536",
        f"the loss `{loss.name}` became {is_} in step {trainer.batches - behind}, {where}",
        found.span if found is not None and found.span is not None else loss.origin,
        label=found.label if found is not None else f"this is {is_}",
        also=[(loss.origin, f"the loss `{loss.name}` is {is_} by it")] if found is not None else [],
        notes=[*(found.notes if found is not None else ()), *notes, last_good(run)],
        fix="try a smaller learning rate; look for a division by zero, log(0) or sqrt(0): "
        "`r2d2c.compile(spec).trace(…)` shows every value",
    )


def check_parameters(trainer: Trainer, where: str) -> None:
    """E536 for a parameter that is NaN or infinite, before it is saved."""
    model, run = trainer.model, trainer.run_folder
    tensors = {n: t for n, t in model.state_dict().items() if t.is_floating_point() and t.numel()}
    if not tensors:
        return
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()])
    if bool(finite.all()):
        return
    name = list(tensors)[int((~finite).nonzero()[0])]
    row = model.graph.storage.get(name)
    trainers = [loss for loss, entries in model.wiring().items() if entries.get(name)]
    by = f"it learns from {', '.join(f'`{loss}`' for loss in trainers)}" if trainers else "no loss trains it"
    found = blame_parameter(trainer, trainer.batches, name)
    span = row.origin if row else None
    refuse(
        "E536",
        f"the parameter `{name}` is no finite number any more, {where}",
        found.span if found is not None and found.span is not None else span,
        label=found.label if found is not None else "",
        also=[(span, f"`{name}` is trained here")]
        if found is not None and found.span not in (None, span)
        else [],
        notes=[by, *(found.notes if found is not None else ()), last_good(run)],
        fix="try a smaller learning rate; a gradient can be NaN where its loss is not, as of sqrt(0)",
    )


def last_good(run: RunFolder) -> str:
    if not run.has():
        return "there is no checkpoint yet"
    state = run.load().state
    at = (
        f"epoch {state['epoch'] + 1}, batch {state['batch']}" if state["batch"] else f"epoch {state['epoch']}"
    )
    return f"the last good checkpoint is {run.checkpoints / 'last.safetensors'}, after {at}"
