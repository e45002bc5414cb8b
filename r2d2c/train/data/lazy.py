"""`LazyRows`: an array that is read from disk by the row, in place of one in memory.

It has what a `Column` asks of an array (``shape``, ``dtype``, ``len``, indexing by rows), and can be pickled, so that
worker processes read for themselves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

Extent = tuple[float, float]
"""The least and the greatest of some values, both finite."""
PART = 1 << 16
"""Rows that are looked at in one go where a whole column is scanned."""


class LazyRows(ABC):
    """``[N, ...]`` of which `read` gives rows. ``array[rows]`` and ``array[a:b]`` are arrays in memory."""

    __slots__ = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """With the first axis, the samples."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """numpy's dtype of the values."""

    @abstractmethod
    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The values of rows i64[k], in any order and any number of times: ``[k, ...]``."""

    @property
    def block(self) -> int:
        """How many rows that follow each other are read from disk together: reading them in turn costs one read."""
        return 1

    @property
    def extent(self) -> Extent | None:
        """Two finite numbers that all values lie between, if whoever opened the file has seen them all."""
        return None

    @property
    def edges(self) -> Sequence[int] | NDArray[Any]:
        """The first rows of the blocks, and after them the number of rows."""
        import numpy

        return numpy.append(numpy.arange(0, len(self), self.block), len(self))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it would need in memory."""
        return self.size * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """A row for an integer, else the rows of a slice, of indices or of a mask."""
        import numpy

        if isinstance(rows, slice):
            return self.read(numpy.arange(len(self))[rows])
        found = numpy.asarray(rows)
        if found.dtype == bool:
            return self.read(numpy.flatnonzero(found))
        found = numpy.where(found < 0, found + len(self), found).astype(numpy.int64)
        if found.size and not (found.min() >= 0 and found.max() < len(self)):
            raise IndexError(f"no such row among {len(self)}")
        if found.ndim == 0:
            row: NDArray[Any] = self.read(found[None])[0]
            return row
        return self.read(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it, in memory, and no list of its rows beside it."""
        import numpy

        whole = numpy.empty(self.shape, self.dtype if dtype is None else dtype)
        start = 0
        for part in parts_of(self):
            whole[start : start + len(part)] = part
            start += len(part)
        return whole


@dataclass(frozen=True, slots=True, eq=False)
class View(LazyRows):
    """Another array (of lazy rows, or in memory), seen in another way; here as it is."""

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self.array.shape
        return found

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def block(self) -> int:
        return block_of(self.array)

    @property
    def edges(self) -> NDArray[Any]:
        return edges_of(self.array)

    @property
    def extent(self) -> Extent | None:
        return extent_of(self.array)


@dataclass(frozen=True, slots=True, eq=False)
class Taken(View):
    """Some rows of another array, ``array[rows]`` without reading them."""

    rows: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.array.shape[1:])

    @property
    def edges(self) -> NDArray[Any]:
        """Where the blocks of the array begin among these rows; rows in no order are blocks of their own."""
        import numpy

        if len(self.rows) and (numpy.diff(self.rows) <= 0).any():
            return numpy.arange(len(self) + 1)
        return numpy.unique(numpy.searchsorted(self.rows, edges_of(self.array)))

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.array[self.rows[rows]]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Reshaped(View):
    """Samples in another shape of as many elements."""

    sample: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.array), *self.sample)

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.array[rows].reshape(len(rows), *self.sample)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Scaled(View):
    """``(array - mean) / deviation``, by the column."""

    mean: NDArray[Any]
    deviation: NDArray[Any]

    @property
    def dtype(self) -> Any:
        return self.mean.dtype

    @property
    def extent(self) -> Extent | None:
        """Wider than the values: that of each column is not known, so each counts with that of all."""
        import numpy

        inner = extent_of(self.array)
        if inner is None:
            return None
        with numpy.errstate(over="ignore"):
            ends = (numpy.array(inner).reshape(2, *[1] * self.mean.ndim) - self.mean) / self.deviation
        return finite_extent(ends)

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = (self.array[rows] - self.mean) / self.deviation
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Joined(LazyRows):
    """Columns of numbers side by side: each ``[N]`` or ``[N, k]``, together ``[N, width]``."""

    arrays: tuple[Any, ...]
    type: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.arrays[0]), sum(prod(array.shape[1:]) for array in self.arrays))

    @property
    def dtype(self) -> Any:
        return self.type

    @property
    def block(self) -> int:
        return max(map(block_of, self.arrays))

    @property
    def edges(self) -> NDArray[Any]:
        return edges_of(max(self.arrays, key=block_of))

    @property
    def extent(self) -> Extent | None:
        found = [extent_of(array) for array in self.arrays]
        known = [extent for extent in found if extent is not None]
        return around(known) if len(known) == len(found) else None

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        return side_by_side([array[rows] for array in self.arrays], self.type)


def is_lazy(array: Any) -> bool:
    """Whether it is read from disk as it is asked for."""
    return isinstance(array, LazyRows)


def block_of(array: Any) -> int:
    """`LazyRows.block`, of an array in memory 1."""
    return array.block if isinstance(array, LazyRows) else 1


def edges_of(array: Any) -> NDArray[Any]:
    """`LazyRows.edges`, i64[k + 1]; of an array in memory each row is a block."""
    import numpy

    edges = array.edges if isinstance(array, LazyRows) else numpy.arange(len(array) + 1)
    return numpy.asarray(edges, numpy.int64)


def extent_of(array: Any) -> Extent | None:
    """`LazyRows.extent`, of an array in memory looked at now."""
    return array.extent if isinstance(array, LazyRows) else finite_extent(array)


def finite_extent(array: NDArray[Any]) -> Extent | None:
    """The least and the greatest value; None if one is NaN or infinite, or there is none. It makes no mask."""
    if not array.size:
        return None
    low, high = array.min().item(), array.max().item()
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def around(extents: Sequence[Extent]) -> Extent | None:
    """One extent about several; None if there is none."""
    if not extents:
        return None
    return min(low for low, _ in extents), max(high for _, high in extents)


def in_blocks(
    rows: NDArray[Any], starts: Sequence[int] | NDArray[Any]
) -> Iterator[tuple[int, slice | NDArray[Any]]]:
    """The number of each block that some rows i64[k] are in, and their places among the rows.

    ``starts``: as `LazyRows.edges`.
    """
    import numpy

    numbers = numpy.searchsorted(starts, rows, side="right") - 1
    order = None
    if (numpy.diff(numbers) < 0).any():
        order = numpy.argsort(numbers, kind="stable")
        numbers = numbers[order]
    cuts = (numpy.flatnonzero(numpy.diff(numbers)) + 1).tolist()
    for first, end in pairwise([0, *cuts, len(numbers)] if len(numbers) else ()):
        yield int(numbers[first]), slice(first, end) if order is None else order[first:end]


def side_by_side(arrays: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """``[N]`` and ``[N, k]`` as one ``[N, width]``."""
    import numpy

    return numpy.concatenate([array.reshape(len(array), -1).astype(dtype) for array in arrays], axis=1)


def join(arrays: Sequence[Any], dtype: Any) -> Any:
    """Columns side by side, in memory if all of them are."""
    if any(is_lazy(array) for array in arrays):
        return Joined(tuple(arrays), dtype)
    return side_by_side(arrays, dtype)


def parts_of(array: Any, rows: int = PART) -> Iterator[NDArray[Any]]:
    """An array in memory or on disk, so many rows at a time."""
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
