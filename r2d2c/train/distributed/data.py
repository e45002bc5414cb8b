"""`DataParallel`: every process learns its share of every batch, and all take the same step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from r2d2c.lower.processes import add_up, written
from r2d2c.lower.rows import Share
from r2d2c.train.chunks import learn_batch
from r2d2c.train.data.bind import TableLoader
from r2d2c.train.data.plan import BatchPlan
from r2d2c.train.distributed.check import check_shares
from r2d2c.train.distributed.silent import SilentLog
from r2d2c.train.distributed.team import Team, bounds, guarded
from r2d2c.train.measure import Batch, size_of
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Work

    from r2d2c.model import Model
    from r2d2c.train.checkpoint import Packed
    from r2d2c.train.data import Loader
    from r2d2c.train.loop import Trainer
    from r2d2c.train.stepper import Stepper


class Rows(dict[str, Any]):
    """A batch of which only this process's rows are here."""

    def __init__(self, rows: Mapping[str, Tensor], share: Share) -> None:
        super().__init__(rows)
        self.share = share


@dataclass(frozen=True, slots=True)
class SharePlan(BatchPlan):
    """The rows of one process in every batch."""

    world: int = 1
    rank: int = 0

    def spans(self, start: int = 0) -> Iterator[tuple[int, int]]:
        for first, end in BatchPlan.spans(self, start):
            before, count = bounds(end - first, self.world, self.rank)
            yield first + before, first + before + count


@dataclass(frozen=True, slots=True, eq=False)
class ShareLoader:
    """Batches of which a process gathers its rows only."""

    inner: TableLoader
    whole: BatchPlan
    world: int
    rank: int

    @property
    def count(self) -> int | None:
        return self.inner.count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        spans = self.whole.spans(start)
        for (first, end), rows in zip(spans, self.inner.epoch(epoch, start), strict=True):
            yield Rows(rows, Share(*bounds(end - first, self.world, self.rank), end - first))


@dataclass(slots=True)
class _Steps:
    """Sends the gradients of a visit's parameters as soon as they are whole, and steps when all have come.

    It has the methods of a `Stepper` that a learning pass calls. Messages go on their way while the next visits run.
    """

    stepper: Stepper
    model: Model
    share: Share
    in_order: bool
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    waiting: list[tuple[int, list[Work]]] = field(default_factory=list)

    def begin(self, samples: int, share: float = 1.0, *, whole: bool = True) -> None:
        """Before a pass. Gradients that wait for a step are those of whole batches already."""
        self.stepper.begin(self.share.total, share, whole=whole)
        self.kept = []
        if self.stepper.pending:
            for gradient in self._all():
                self.kept.append((gradient, gradient.clone()))
                gradient.zero_()

    def _all(self) -> list[Tensor]:
        return [gradient for number in range(self.stepper.last + 1) for gradient in self._gradients(number)]

    def after(self, visit: int) -> None:
        import torch.distributed as dist

        works = []
        for gradient in self._gradients(visit):
            gradient.mul_(self.share.part)
            works.append(dist.all_reduce(gradient, async_op=True))
        self.waiting.append((visit, works))
        if visit == self.stepper.last:
            self._finish()
            return
        while self.waiting and not self.in_order and all(w.is_completed() for w in self.waiting[0][1]):
            self._step(*self.waiting.pop(0))

    def _step(self, visit: int, works: list[Work]) -> None:
        for work in works:
            work.wait()
        self.stepper.after(visit)

    def _finish(self) -> None:
        for _, works in self.waiting:
            for work in works:
                work.wait()
        self._give_back()
        for visit, _ in self.waiting:
            self.stepper.after(visit)
        self.waiting = []
        add_up(written(self.model), self.share.part)
        for put_back in self.stepper.pinned:  # of frozen ops, statistics too stay as they are
            put_back()

    def _give_back(self) -> None:
        for gradient, before in self.kept:
            gradient.add_(before)
        self.kept = []

    def _gradients(self, visit: int) -> list[Tensor]:
        return [gradient for step, _ in self.stepper.due(visit) for gradient in step.gradients()]


class DataParallel(Team):
    """Shares of every batch. sharded: each process keeps a part of the optimizers' state."""

    def __init__(self, *, sharded: bool = False) -> None:
        super().__init__()
        self.sharded = sharded

    def loader(self, loader: Loader) -> Loader:
        if not isinstance(loader, TableLoader):
            return loader  # whole batches come, and are cut
        plan = loader.plan
        rest = plan.n % plan.batch_size
        smallest = min(plan.n, plan.batch_size) if plan.drop_last or not rest else rest
        if smallest < self.world:
            last = "" if smallest == plan.batch_size else f"the last of {len(plan)} batches, of "
            self._refuse_small(f"{last}{smallest}", plan.n, plan.batch_size)
        known = {f.name: getattr(plan, f.name) for f in fields(plan)}
        mine = SharePlan(**known, world=self.world, rank=self.rank)
        return ShareLoader(replace(loader, plan=mine), plan, self.world, self.rank)

    def _refuse_small(self, what: str, samples: int | None = None, size: int | None = None) -> None:
        fix = "take fewer processes, or larger batches: --batch-size"
        if samples is not None and size is not None:
            fits = next(
                (n for n in range(size, 2 * size + self.world) if not 0 < samples % n < self.world), size
            )
            fix = f"take fewer processes, or --batch-size {max(fits, self.world)}"
        refuse("E632", f"{what} samples cannot be shared by {self.world} processes", fix=fix)

    def begin(self, trainer: Trainer) -> None:
        trainer.growth.decide = self.decide
        if not self.first:
            trainer.growth.log = SilentLog(trainer.run_folder.path)
        with guarded(self.run):
            check_shares(self, trainer)

    def cut(self, batch: Batch) -> tuple[Batch, Share]:
        """This process's rows of a batch, of which it may have them only."""
        if isinstance(batch, Rows):
            return batch, batch.share
        total = size_of(batch)
        if total < self.world:
            self._refuse_small(f"a batch of {total}")
        share = Share(*bounds(total, self.world, self.rank), total)
        return {name: share.rows(tensor) if tensor.dim() else tensor for name, tensor in batch.items()}, share

    def learn(
        self, trainer: Trainer, batch: Batch, sizes: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], int]:
        mine, share = self.cut(batch)
        model = trainer.model
        with guarded(self.run):
            # Steps that send parameters, or that count passes, come in the order of the visits.
            in_order = self.sharded or trainer.stepper._accumulated is not None
            steps: Any = _Steps(trainer.stepper, model, share, in_order)
            model._share = share
            try:
                losses = learn_batch(model, steps, mine, sizes, trainer.settings.chunks)
            finally:
                model._share = None
            add_up(losses.values(), share.part)
        return losses, share.total

    def pack(self, stepper: Stepper) -> dict[str, Packed]:
        with guarded(self.run):
            return stepper.pack()

    def report(self) -> list[str]:
        return [f"{self.world}, each with a share of every batch"]
