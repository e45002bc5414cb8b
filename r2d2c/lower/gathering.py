"""What a learning pass on a share of a batch asks of the other processes: their rows, their sums, the batch's size.

A process's loss counts by its part of the batch, n/N, in the sum over processes, so what flows back in a process is the
true gradient divided by its part. Every backward here keeps to that: it adds up the gradients of all processes, each
times its part, and divides its own rows by this process's part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from r2d2c.lower.rows import Share

# What neither gloo nor NCCL adds up, as what they do.
_SENT = {torch.bool: torch.uint8, torch.int16: torch.int32}
# That of the pass which runs now, if it has one; a backward may run in another thread.
_ACTIVE: list[Share] = []


def enter(share: Share) -> None:
    """A pass on a share begins."""
    _ACTIVE.append(share)


def leave() -> None:
    """It ends."""
    _ACTIVE.pop()


def active() -> Share | None:
    """The share that is learned just now."""
    return _ACTIVE[-1] if _ACTIVE else None


def summed(tensor: torch.Tensor, group: ProcessGroup | None = None) -> torch.Tensor:
    """Add the tensors of all processes, in place."""
    torch.distributed.all_reduce(tensor, group=group)
    return tensor


class _Whole(torch.autograd.Function):
    """The rows of all processes, in their order."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, share: Share, axis: int) -> torch.Tensor:
        ctx.share, ctx.axis = share, axis
        shape = list(x.shape)
        each = shape[axis] // share.count
        shape[axis] = each * share.total
        # Sums with zeros: shares may be unequal, for which gloo has no gathering.
        whole = x.new_zeros(shape, dtype=_SENT.get(x.dtype, x.dtype))
        whole.narrow(axis, share.first * each, share.count * each).copy_(x)
        return summed(whole, share.group).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        share, axis = ctx.share, ctx.axis
        found = summed(grads[0] * share.part, share.group)
        return _own(found, share, axis) / share.part, None, None


class _Mean(torch.autograd.Function):
    """The mean over processes, each by its part."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, share: Share) -> torch.Tensor:
        ctx.share = share
        return summed(x.detach() * share.part, share.group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return summed(grads[0] * ctx.share.part, ctx.share.group), None


class Sum(torch.autograd.Function):
    """The sum over processes."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, share: Share) -> torch.Tensor:
        ctx.share = share
        return summed(value.detach().clone(), share.group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        share = ctx.share
        return summed(grads[0] * share.part, share.group) / share.part, None


def _share() -> Share:
    share = active()
    assert share is not None, "lowered for shares of a batch, and runs on a whole one"
    return share


def _own(x: torch.Tensor, share: Share, axis: int) -> torch.Tensor:
    each = x.shape[axis] // share.total
    return x.narrow(axis, share.first * each, share.count * each)


# -- what lowered graphs call


def total() -> int:
    """How many samples the whole batch has."""
    return _share().total


def whole(x: torch.Tensor, axis: int) -> torch.Tensor:
    """The whole batch of what has this process's samples along ``axis``, k rows each."""
    return _Whole.apply(x, _share(), axis)  # type: ignore[no-any-return, no-untyped-call]


def own(x: torch.Tensor, axis: int) -> torch.Tensor:
    """This process's rows of a whole batch."""
    return _own(x, _share(), axis)


def mean(x: torch.Tensor) -> torch.Tensor:
    """The mean over samples, of means over those of each process."""
    return _Mean.apply(x, _share())  # type: ignore[no-any-return, no-untyped-call]


def over_part(x: torch.Tensor) -> torch.Tensor:
    """Of a sum over this process's samples what counts as a mean; of true δs, those of this process's loss."""
    return x / _share().part


def times_part(x: torch.Tensor) -> torch.Tensor:
    """Of the δs of this process's loss the true ones."""
    return x * _share().part


def counts(x: torch.Tensor) -> torch.Tensor:
    """The sum over processes."""
    return Sum.apply(x, _share())  # type: ignore[no-any-return, no-untyped-call]


def row_means(means: Callable[[Any], Any], tensor: Callable[[Any], Any], share: Share | None) -> Any:
    """Two functions, of arrays of an op graph: means of rows over the samples of all processes, and of δs in a backward.

    means: of this process's samples, [rows, 1]. tensor: on the memory of an array.
    """
    if share is None:
        return means, means

    def forward(block: Any) -> Any:
        found = means(block)
        summed(tensor(found).mul_(share.part), share.group)
        return found

    def backward(block: Any) -> Any:
        found = means(block)
        # A δ here is the true one over this process's part, and so is what comes back.
        summed(tensor(found).mul_(share.part * share.part), share.group).div_(share.part)
        return found

    return forward, backward
