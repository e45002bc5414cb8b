"""Losses and parameters that are no numbers any more: found, named, and never saved over a good
checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import torch

from r2d2c.source import Span
from r2d2c.train.refuse import refuse
from r2d2c.train.run_folder import RunFolder

if TYPE_CHECKING:
    from r2d2c.model import Model


def check_losses(
    model: Model, names: Sequence[str], rows: Sequence[torch.Tensor], run: RunFolder, where: str
) -> None:
    """E536 for the first loss of the first row that is NaN or infinite. ``rows`` are the losses of some
    steps.
    """
    if not rows or not names:
        return
    table = torch.stack(list(rows))
    sound = torch.isfinite(table)
    if bool(sound.all()):
        return
    row, column = (~sound).nonzero()[0].tolist()
    value = float(table[row, column])
    step = model._step - len(rows) + row + 1
    loss = model._training_graph.losses[names[column]]
    others = [names[k] for k in (~sound[row]).nonzero().flatten().tolist() if k != column]
    notes = [f"so are in the same step: {', '.join(f'`{name}`' for name in others)}"] if others else []
    refuse(
        "E536",
        f"the loss `{loss.name}` became {_word(value)} in step {step}, {where}",
        loss.origin,
        label=f"this is {_word(value)}",
        notes=[*notes, last_good(run)],
        fix="try a smaller learning rate; look for a division by zero, log(0) or sqrt(0): "
        "`r2d2c.compile(spec).trace(…)` shows every value",
    )


def check_parameters(model: Model, run: RunFolder, where: str) -> None:
    """E536 for a parameter that is NaN or infinite, before it is saved."""
    tensors = {n: t for n, t in model.state_dict().items() if t.is_floating_point() and t.numel()}
    if not tensors:
        return
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()])
    if bool(finite.all()):
        return
    name = list(tensors)[int((~finite).nonzero()[0])]
    row = model.graph.storage.get(name)
    wiring = model.wiring()
    trainers = [loss for loss, entries in wiring.items() if entries.get(name)]
    _refuse_parameter(name, row.origin if row else None, trainers, run, where)


def _refuse_parameter(
    name: str, span: Span | None, trainers: list[str], run: RunFolder, where: str
) -> NoReturn:
    by = f"it learns from {', '.join(f'`{loss}`' for loss in trainers)}" if trainers else "no loss trains it"
    refuse(
        "E536",
        f"the parameter `{name}` is no finite number any more, {where}",
        span,
        notes=[by, last_good(run)],
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


def _word(value: float) -> str:
    return "NaN" if value != value else "infinite"
