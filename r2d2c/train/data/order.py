"""Orders for data on disk: blocks of rows in random order, and the rows shuffled inside a window of some blocks.

A full shuffle of a file reads a row here and a row there. Here each window is read at once, block by block, and its
batches are taken from memory. Neighbours in the file still part: windows hold blocks from all over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.plan import stable_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Rows that are read together. ``starts`` i64[k + 1]: the first row of each block, and behind them the number of
    rows. ``window``: how many rows are in memory at a time.
    """

    starts: NDArray[Any]
    window: int

    def order(self, seed: int, epoch: int) -> Tensor:
        """i64[n]: a permutation of the rows that depends on the seed, the epoch, the blocks and the window alone."""
        import torch

        generator = torch.Generator().manual_seed(stable_seed("blocks", seed, epoch))
        starts = torch.from_numpy(self.starts)
        chosen = torch.randperm(len(starts) - 1, generator=generator)
        lengths = starts.diff()[chosen]
        before = lengths.cumsum(0) - lengths
        order = torch.repeat_interleave(starts[chosen] - before, lengths)
        order += torch.arange(len(order))
        for part in order.split(self.window):
            part.copy_(part[torch.randperm(len(part), generator=generator)])
        return order


def blocks_for(starts: NDArray[Any], row_bytes: int, batch_size: int, memory: int) -> Blocks:
    """Blocks with a window of whole batches that needs about ``memory`` bytes, but has a block and a batch at least."""
    rows = int(starts[-1])
    block = -(-rows // max(1, len(starts) - 1))
    wanted = max(memory // max(1, row_bytes), block, batch_size)
    return Blocks(starts, wanted // batch_size * batch_size)
