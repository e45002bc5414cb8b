"""`Alone`: what a training asks of the processes that it runs in, and the answers of one that is alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from r2d2c.train.chunks import learn_batch
from r2d2c.train.measure import Batch, Measurement, Sums, measure, size_of
from r2d2c.train.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model
    from r2d2c.train.checkpoint import Packed
    from r2d2c.train.data import Loader
    from r2d2c.train.loop import Trainer
    from r2d2c.train.settings import Measured
    from r2d2c.train.stepper import Stepper

T = TypeVar("T")


class Alone:
    """One process. rank: its number, of which there are ``world``; that of number 0 writes the run folder."""

    rank, world = 0, 1
    # Whether optimizers keep the state of a part of the parameters only.
    sharded = False

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def folder(self, run: RunFolder) -> RunFolder:
        """The run folder as this process may use it."""
        return run

    def prepare(self, model: Model, trained: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Before the optimizers are made: the parameters, of ``trained``, that they are to step here."""
        return trained

    def adopt(self, stepper: Stepper) -> None:
        """After the optimizers were made."""

    def loader(self, loader: Loader) -> Loader:
        """The batches of training data that this process learns."""
        return loader

    def begin(self, trainer: Trainer) -> None:
        """Before the first batch, of a new or a resumed training."""

    def restore(self, sums: Sums) -> None:
        """After the sums of losses were read from a checkpoint."""

    def learn(
        self, trainer: Trainer, batch: Batch, sizes: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], int]:
        """Learn a batch and update: the losses of the whole batch, and how many samples it has."""
        losses = learn_batch(trainer.model, trainer.stepper, batch, sizes, trainer.settings.chunks)
        return losses, size_of(batch)

    def agree(self, stop: bool, due: bool) -> tuple[bool, bool]:
        """After a batch: whether to stop, and whether to save; the same in all processes."""
        return stop, due

    def all_agree(self, stop: bool) -> bool:
        """After an epoch: whether to stop."""
        return stop

    def decide(self, value: T) -> T:
        """What the first process found."""
        return value

    def gather(self, trainer: Trainer) -> None:
        """Let every process have the whole model."""

    def sums(self, sums: Sums) -> Sums:
        """Sums of losses with those of the other processes."""
        return sums

    def pack(self, stepper: Stepper) -> dict[str, Packed]:
        """The whole state of the optimizers, in the first process."""
        return stepper.pack()

    def unpack(self, packed: Mapping[str, Packed], stepper: Stepper) -> Mapping[str, Packed]:
        """Of the whole state, what the optimizers here take."""
        return packed

    def measure(self, model: Model, batches: Iterable[Batch], metrics: Sequence[Measured]) -> Measurement:
        """See `r2d2c.train.measure.measure`."""
        return measure(model, batches, metrics)

    def wait(self) -> None:
        """Until all processes are here."""

    def close(self) -> None:
        """After the last batch."""

    def report(self) -> list[str]:
        """Lines for the summary."""
        return []
