"""Whether shares of a batch teach what the whole batch does: tried once, on a few samples, before a training.

A mean over samples is the mean of its shares. What compares samples with each other, or divides by what a batch has of
something, asks the other processes (`lower.shares`) if its op says so; nothing but both computations shows whether that
is right for every op, credit rule and plug-in.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from r2d2c.lower.processes import add_up, ways_of_shares, written
from r2d2c.source import Span
from r2d2c.train.data.bind import TableSplit
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from r2d2c.model import Model
    from r2d2c.train.distributed.data import DataParallel
    from r2d2c.train.loop import Trainer
    from r2d2c.train.measure import Batch

CLOSE = 1e-7  # of a tensor's largest number; float64 has 1e-16, and some rules take a root or many steps
_FIX = "train with one process, or let the loss be a mean over samples"
TINY = 1e-10  # of the largest gradient: what is 0 but for rounding


class Found(NamedTuple):
    losses: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]


def check_shares(team: DataParallel, trainer: Trainer) -> None:
    """Refuses (E630) a model whose gradients by shares are not those of the whole batch, in float64.

    One that only this shows to couple samples is then followed value by value.
    """
    model, settings = trainer.model, trainer.settings
    known = ways_of_shares(model)
    if known is not None and known.refused is not None:
        node, why = known.refused
        what = "samples of a batch are coupled where processes cannot ask each other for theirs"
        refuse("E630", what, node.origin, label=why, fix=_FIX)
    if team.device.type == "mps":
        return
    batch = _few(team, trainer)
    sizes = settings.sizes_at(0) if settings.sizes else {}
    whole = _learn(model, {**batch, **sizes})
    bad, losses = _compare(team, model, batch, sizes, whole)
    if (bad or losses) and known is None:
        model._share_all = True
        followed = ways_of_shares(model)
        if followed is not None and followed.refused is None and followed.ways:
            bad, losses = _compare(team, model, batch, sizes, whole)
    if bad or losses:
        _refuse(model, bad, losses)


def _compare(
    team: DataParallel, model: Model, batch: Batch, sizes: Mapping[str, Any], whole: Found
) -> tuple[list[str], list[str]]:
    """The parameters and the losses that are not those of the whole batch; the same in all processes."""
    import torch

    mine, share = team.cut(batch)
    shared = copy.deepcopy(model).double()
    shared._share = share
    part = _learn(shared, {**mine, **sizes}, fresh=False)
    with torch.no_grad():
        add_up([*part.losses.values(), *part.tensors.values()], share.part)
    scale = max((float(t.abs().max()) for t in whole.tensors.values() if t.numel()), default=0.0)
    bad = [name for name in whole.tensors if _differ(part.tensors[name], whole.tensors[name], scale)]
    losses = [name for name in whole.losses if _differ(part.losses[name], whole.losses[name], 0.0)]
    return team.decide((bad, losses))


def _few(team: DataParallel, trainer: Trainer) -> dict[str, torch.Tensor]:
    """Some rows, of which the processes have unequal shares."""
    from r2d2c.sampling import random_batch

    model, count = trainer.model, 2 * team.world + 1
    if isinstance(trainer.data.train, TableSplit):
        batch = trainer.judge.sample(0)[0]
        rows = {name: t[:count] if t.dim() else t for name, t in batch.items()}
        if all(len(t) >= team.world for t in rows.values() if t.dim()):
            return {n: t.double() if t.is_floating_point() else t for n, t in rows.items()}
    # A stream may be one that is read once.
    found = random_batch(model.graph, model.graph.seed, {"B": count}, _double())
    return {name: tensor.to(team.device) for name, tensor in found.items()}


def _double() -> torch.dtype:
    import torch

    return torch.float64


def _learn(model: Model, batch: dict[str, Any], fresh: bool = True) -> Found:
    """Losses, gradients and what is written, of one pass in float64 that leaves ``model`` alone."""
    one = copy.deepcopy(model).double() if fresh else model
    one._step = 0
    for parameter in one.parameters():
        parameter.grad = None
    losses = {}
    for visit in one.visits(**batch):
        losses.update({name: value.double() for name, value in visit.losses.items()})
    tensors = {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
    kept = {f"state {number}": tensor for number, tensor in enumerate(written(one))}
    return Found(losses, {**tensors, **kept})


def _differ(part: torch.Tensor, whole: torch.Tensor, scale: float) -> bool:
    if not whole.numel():
        return False
    near = CLOSE * float(whole.abs().max()) + TINY * scale
    return not float((part - whole).abs().max()) <= near


def _refuse(model: Model, names: list[str], losses: list[str]) -> None:
    """names: of the parameters whose gradient by shares is another, and ``losses`` of those whose value is."""
    graph = model._training_graph
    wiring = model.wiring()
    blamed = losses or [loss for loss, row in wiring.items() if any(row.get(name) for name in names)]
    what = ", ".join(f"`{name}`" for name in blamed[:3]) or "what is learned"
    span: Span | None = graph.losses[blamed[0]].origin if blamed and blamed[0] in graph.losses else None
    shown = ", ".join(f"`{name}`" for name in names[:3])
    refuse(
        "E630",
        f"{what} of a batch is not the mean over shares of it, so processes cannot share batches",
        span,
        notes=[f"a share of a batch gives another gradient of {shown}"] if names else [],
        fix=_FIX,
    )
