"""`BatchPlan`: which samples form which batch, known for any epoch without having run the ones before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.train.data.order import Blocks


def stable_seed(*parts: object) -> int:
    """A number in 0 … 2^63-1 from a hash of the parts' texts, the same on every machine and in every run."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Batches of ``n`` samples. The last one may be smaller, unless ``drop_last``.

    ``blocks``: of rows on disk; they are shuffled block by block, and read a window of batches at a time.
    Raises `ValueError` if ``batch_size`` is below 1, or if no batch would be left.
    """

    n: int
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    drop_last: bool = False
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or len(self) < 1:
            raise ValueError(f"no batch of {self.batch_size} samples can be had from {self.n}")

    def __len__(self) -> int:
        """Batches of one epoch."""
        whole, rest = divmod(self.n, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    @property
    def unit(self) -> int:
        """How many batches are read at once."""
        return 1 if self.blocks is None else self.blocks.window // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """i64[n]: a permutation of the samples that depends on the seed and the epoch alone.

        With blocks it depends on these and their window, too.
        """
        import torch

        if not self.shuffle:
            return torch.arange(self.n)
        if self.blocks is not None:
            return self.blocks.order(self.seed, epoch)
        generator = torch.Generator().manual_seed(stable_seed("order", self.seed, epoch))
        return torch.randperm(self.n, generator=generator)

    def spans(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """``(first, end)`` places in the order of every batch from number ``start`` on."""
        for batch in range(start, len(self)):
            first = batch * self.batch_size
            yield first, min(first + self.batch_size, self.n)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The sample indices of every batch from number ``start`` on, i64[<= batch_size]."""
        order = self.order(epoch)
        for first, end in self.spans(start):
            yield order[first:end]
