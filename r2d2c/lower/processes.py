"""Several processes that learn one batch: under torch.distributed `Model.learn` gives the gradients of the whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from r2d2c.infer import Signatures
from r2d2c.lower.gathering import summed
from r2d2c.lower.rows import Share, written_by
from r2d2c.lower.shares import Shares, couples, share_out

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from r2d2c.model import Model


def processes() -> int:
    """How many processes torch.distributed has joined here; 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def add_up(tensors: Iterable[torch.Tensor], part: float, group: ProcessGroup | None = None) -> None:
    """Make of every tensor the sum over processes, each weighted by its part: one message for each dtype."""
    kinds: dict[Any, list[torch.Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    for members in kinds.values():
        flat = summed(torch.cat([tensor.reshape(-1) for tensor in members]).mul_(part), group)
        pieces = flat.split([tensor.numel() for tensor in members])
        for tensor, piece in zip(members, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))


def written(model: Model) -> list[torch.Tensor]:
    """The floating tensors that learning passes write themselves, such as running statistics."""
    if "written" not in model._compiled:
        trained = dict(model.named_parameters())
        buffers = dict(model.named_buffers())
        names = [n for n in written_by(model._training_graph.body.nodes) if n not in trained]
        model._compiled["written"] = [buffers[n] for n in names if buffers[n].is_floating_point()]
    found: list[torch.Tensor] = model._compiled["written"]
    return found


def ways_of_shares(model: Model, skip: frozenset[str] = frozenset()) -> Shares | None:
    """How a model is lowered for a share of a batch, if not as for a whole one. skip: the losses that do not train."""
    key = ("shares", skip, model._share_all)
    if key not in model._compiled:
        graph = model._training_graph_without(skip) if skip else model._training_graph
        signatures = Signatures(model.spec.ops)
        if model._share_all:
            model._compiled[key] = share_out(graph, signatures)
        else:
            model._compiled[key] = couples(model.graph, graph, signatures)
    found: Shares | None = model._compiled[key]
    return found


def shares_of(model: Model, skip: frozenset[str] = frozenset()) -> Shares | None:
    """The same where the model's pass is on a share; None otherwise. TypeError if it cannot be learned so."""
    if model._share is None:
        return None
    found = ways_of_shares(model, skip)
    if found is not None and found.refused is not None:
        node, why = found.refused
        raise TypeError(f"processes cannot learn shares of a batch: `{node.id}` couples samples, and {why}")
    return found


@contextmanager
def learn_together(model: Model, batch: Mapping[str, Any], losses: dict[str, torch.Tensor]) -> Iterator[None]:
    """Around one learning pass on this process's rows; afterwards gradients and ``losses`` are those of all rows."""
    if processes() == 1 or model._share is not None:
        yield
        return
    device = next((t.device for t in model.parameters()), torch.device("cpu"))
    counts = torch.zeros(processes(), dtype=torch.int64, device=device)
    mine = dist.get_rank()
    ports = model._training_graph.body.inputs
    counts[mine] = next((len(batch[p.name]) for p in ports if p.name in batch and batch[p.name].dim()), 1)
    all_counts = summed(counts).tolist()
    share = Share(sum(all_counts[:mine]), all_counts[mine], sum(all_counts))
    parameters = list(model.parameters())
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    model._share = share
    try:
        yield
    finally:
        model._share = None
    add_up([p.grad for p in parameters if p.grad is not None], share.part)
    for parameter, old in zip(parameters, before, strict=True):
        if old is not None:
            if parameter.grad is not None:
                old.add_(parameter.grad)
            parameter.grad = old
    add_up([*losses.values(), *written(model)], share.part)
