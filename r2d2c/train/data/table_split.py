"""`TableSplit`: the columns of one split bound to ports, and its batches."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from r2d2c.train.data.augment import Augmenter
from r2d2c.train.data.convert import as_tensor, convert, torch_dtype
from r2d2c.train.data.lazy import LazyRows, block_of, edges_of
from r2d2c.train.data.order import Blocks, blocks_for
from r2d2c.train.data.plan import BatchPlan
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WINDOW = 32 << 20
"""Bytes of samples, as the ports want them, that are read from disk at a time where rows lie in blocks."""


Spans = tuple[tuple[int, int], ...]
"""``(first, end)`` of some batches, in the order of the samples."""


@dataclass(frozen=True, slots=True, eq=False)
class BoundColumn:
    """One port's values of a split, ``[N, ...]``: in the port's dtype already, or as stored, in memory or on disk."""

    values: Tensor | LazyRows
    dtype: str
    divisor: float | None
    shape: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where gathered rows are."""
        import torch

        return torch.device("cpu") if isinstance(self.values, LazyRows) else self.values.device

    @property
    def row_bytes(self) -> int:
        """Of a sample, both as stored and as the port wants it."""
        stored = self.values.dtype.itemsize * prod(self.values.shape[1:])
        return int(stored) + torch_dtype(self.dtype).itemsize * prod(self.shape)

    def part(self, first: int, end: int) -> Tensor:
        """Some rows in order, as the port wants them: of a tensor that is so already, a view."""
        values = self.values
        rows = as_tensor(values[first:end]) if isinstance(values, LazyRows) else values[first:end]
        return self._finish(rows)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows i64[k], as the port wants them."""
        values = self.values
        if isinstance(values, LazyRows):
            return self._finish(as_tensor(values[rows.numpy()]))
        return self._finish(values.index_select(0, rows))

    def _finish(self, rows: Tensor) -> Tensor:
        return convert(rows, self.dtype, self.divisor).view(len(rows), *self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class TableSplit:
    """A split whose samples are in memory, or are read from disk by the row.

    ``image`` is the shape of a sample of the data's column `image`, if it has one. ``augment``: by port, what is done to
    training batches. ``device``: where batches go if not all of the columns can be there.
    """

    columns: Mapping[str, BoundColumn]
    rows: int
    image: tuple[int, ...] | None = None
    augment: Mapping[str, Augmenter] = field(default_factory=dict)
    device: torch.device | str | None = None

    @property
    def samples(self) -> int:
        return self.rows

    @property
    def lazy(self) -> bool:
        """Whether any of it is read from disk."""
        return any(isinstance(column.values, LazyRows) for column in self.columns.values())

    def loader(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: bool = False,
        workers: int = 0,
    ) -> TableLoader:
        """Refuses (E516) a batch size that leaves no batch."""
        if batch_size < 1 or (drop_last and batch_size > self.rows):
            refuse("E516", f"no batch of {batch_size} samples can be had from {self.rows}")
        plan = BatchPlan(self.rows, batch_size, seed, shuffle, drop_last, self._blocks(batch_size))
        changes = self.augment if augment else {}
        # Batches of what is in memory are made faster than they are handed over.
        on_cpu = all(column.device.type == "cpu" for column in self.columns.values())
        workers = workers if self.lazy or (changes and on_cpu) else 0
        return TableLoader(self, plan, changes, workers)

    def _blocks(self, batch_size: int) -> Blocks | None:
        """How rows on disk lie together; None if none do."""
        lazy = [column.values for column in self.columns.values() if isinstance(column.values, LazyRows)]
        widest = max(lazy, key=block_of, default=None)
        if widest is None or block_of(widest) < 2:
            return None
        row = sum(column.row_bytes for column in self.columns.values())
        return blocks_for(edges_of(widest), row, batch_size, WINDOW)

    def to(self, device: torch.device | str) -> TableSplit:
        """With its columns there; if some are on disk, all stay and batches go there one by one."""
        if self.lazy:
            return replace(self, device=device)
        moved = {
            name: replace(column, values=column.values.to(device))
            for name, column in self.columns.items()
            if not isinstance(column.values, LazyRows)
        }
        return replace(self, columns=moved)


@dataclass(frozen=True, slots=True, eq=False)
class TableLoader:
    """Gathers batches by `torch.index_select`; in order, a batch in memory is a view and costs nothing.

    What is on disk in blocks is read some batches at a time: `BatchPlan.unit`. ``workers``: processes that read and
    augment, 0: this one does.
    """

    split: TableSplit
    plan: BatchPlan
    augment: Mapping[str, Augmenter] = field(default_factory=dict)
    workers: int = 0

    @property
    def count(self) -> int:
        return len(self.plan)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches from number ``start`` on; they are the same however many workers there are."""
        # A worker of a sweep may have no children; it makes the same batches itself.
        if self.workers and not multiprocessing.current_process().daemon:
            from r2d2c.train.data.workers import run_workers

            batches = run_workers(self, epoch, start)
        else:
            order = self.orders(epoch)
            batches = (
                batch for spans in self.units(start) for batch in cut(self.unit(epoch, order, spans), spans)
            )
        device = self.split.device
        for batch in batches:
            yield batch if device is None else {name: value.to(device) for name, value in batch.items()}

    def units(self, start: int = 0) -> Iterator[Spans]:
        """What is read at once, from batch ``start`` on: the places in the order of each batch's samples."""
        number = start
        spans: list[tuple[int, int]] = []
        for span in self.plan.spans(start):
            spans.append(span)
            number += 1
            if number % self.plan.unit == 0:
                yield tuple(spans)
                spans = []
        if spans:
            yield tuple(spans)

    def orders(self, epoch: int) -> dict[torch.device, Tensor] | None:
        """The order of the samples, on every device that has some; None: as they are."""
        if not self.plan.shuffle:
            return None
        order = self.plan.order(epoch)
        return {device: order.to(device) for device in {c.device for c in self.split.columns.values()}}

    def unit(
        self, epoch: int, orders: Mapping[torch.device, Tensor] | None, spans: Spans
    ) -> dict[str, Tensor]:
        """The samples of some batches, one after another, by port: as the ports want them, and augmented."""
        import torch

        found = {}
        for port, column in self.split.columns.items():
            device = column.device
            if orders is not None:
                rows = _at(orders[device], spans)
                values = column.gather(rows)
            elif len(spans) == 1 and port not in self.augment:
                values = column.part(*spans[0])
            else:
                rows = _at(torch.arange(self.split.rows, device=device), spans)
                values = column.gather(rows)
            if port in self.augment:
                values = self.augment[port](values, rows, self.plan.seed, epoch)
            found[port] = values
        return found


def _at(order: Tensor, spans: Spans) -> Tensor:
    import torch

    parts = [order[first:end] for first, end in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def size_of(spans: Spans) -> int:
    """The samples of a unit."""
    return sum(end - first for first, end in spans)


def cut(unit: Mapping[str, Tensor], spans: Spans) -> Iterator[dict[str, Tensor]]:
    """The batches of a unit."""
    if len(spans) == 1:
        yield dict(unit)
        return
    at = 0
    for first, end in spans:
        yield {port: values[at : at + end - first] for port, values in unit.items()}
        at += end - first
