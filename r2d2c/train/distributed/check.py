"""Whether shares of a batch teach what the whole batch does: tried once, on a few samples, before a training.

A mean over samples is the mean of its shares. A loss that compares samples with each other, or divides by what a batch
has of something, is not; nothing but both computations shows that for every op, credit rule and plug-in.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from r2d2c.graph import Node, walk
from r2d2c.lower.processes import add_up, written
from r2d2c.ops.record import ShapeError
from r2d2c.source import Span
from r2d2c.train.data.bind import TableSplit
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    import torch

    from r2d2c.model import Model
    from r2d2c.train.distributed.data import DataParallel
    from r2d2c.train.loop import Trainer

CLOSE = 1e-7  # of a tensor's largest number; float64 has 1e-16, and some rules take a root or many steps
TINY = 1e-10  # of the largest gradient: what is 0 but for rounding


class Found(NamedTuple):
    losses: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]


def check_shares(team: DataParallel, trainer: Trainer) -> None:
    """Refuses (E630) a model whose gradients by shares are not those of the whole batch, in float64."""
    import torch

    model, settings = trainer.model, trainer.settings
    if team.device.type == "mps":
        return
    batch = _few(team, trainer)
    sizes = settings.sizes_at(0) if settings.sizes else {}
    mine, share = team.cut(batch)
    whole = _learn(model, {**batch, **sizes})
    shared = copy.deepcopy(model).double()
    shared._share = share
    part = _learn(shared, {**mine, **sizes}, fresh=False)
    with torch.no_grad():
        add_up([*part.losses.values(), *part.tensors.values()], share.part)
    scale = max((float(t.abs().max()) for t in whole.tensors.values() if t.numel()), default=0.0)
    bad = [name for name in whole.tensors if _differ(part.tensors[name], whole.tensors[name], scale)]
    losses = [name for name in whole.losses if _differ(part.losses[name], whole.losses[name], 0.0)]
    if bad or losses:
        _refuse(model, bad, losses)


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
    graph = model._training_graph
    wiring = model.wiring()
    blamed = losses or [loss for loss, row in wiring.items() if any(row.get(name) for name in names)]
    coupled = _coupling(model)
    what = ", ".join(f"`{name}`" for name in blamed[:3]) or "what is learned"
    span: Span | None = coupled.origin if coupled is not None else None
    if span is None and blamed and blamed[0] in graph.losses:
        span = graph.losses[blamed[0]].origin
    notes = (
        [f"a share of a batch gives another gradient of {', '.join(f'`{n}`' for n in names[:3])}"]
        if names
        else []
    )
    refuse(
        "E630",
        f"{what} of a batch is not the mean over shares of it, so processes cannot share batches",
        span,
        label="this looks at several samples at once" if coupled is not None else "",
        notes=notes,
        fix="train with one process, or let the loss be a mean over samples",
    )


def _coupling(model: Model) -> Node | None:
    """The first node that mixes samples of a batch."""
    from r2d2c.infer import Signatures
    from r2d2c.types import Dim

    graph, signatures = model.graph, Signatures(model.spec.ops)
    for _, node in walk(graph):
        op = model.spec.ops.get(node.op)
        if op is None or op.mixes is None:
            continue
        given: list[Any] = [graph.types.get(value) if value is not None else None for value in node.inputs]
        space = signatures[node.op].namespace(node, given)
        try:
            mixed = op.mixes(space)
        except ShapeError:
            continue
        for argument, axis in mixed:
            value = getattr(space, argument, None)
            for type_ in value if isinstance(value, list) else [value]:
                dims = getattr(type_, "dims", ())
                if axis < len(dims) and isinstance(dims[axis], Dim) and "B" in dims[axis].symbols():
                    return node
    return None
