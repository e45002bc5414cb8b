"""`LazyRows`: an array that is read from disk by the row, in place of one in memory.

It has what a `Column` asks of an array (``shape``, ``dtype``, ``len``, indexing by rows), and can be pickled, so that
worker processes read for themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        """All of it, in memory."""
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class Taken(LazyRows):
    """Some rows of another array, ``array[rows]`` without reading them."""

    array: Any
    rows: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.array.shape[1:])

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def block(self) -> int:
        return block_of(self.array)

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
class Reshaped(LazyRows):
    """Samples in another shape of as many elements."""

    array: Any
    sample: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.array), *self.sample)

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def block(self) -> int:
        return block_of(self.array)

    @property
    def edges(self) -> NDArray[Any]:
        return edges_of(self.array)

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.array[rows].reshape(len(rows), *self.sample)
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

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        return side_by_side([array[rows] for array in self.arrays], self.type)


@dataclass(frozen=True, slots=True, eq=False)
class Scaled(LazyRows):
    """``(array - mean) / deviation``, by the column."""

    array: Any
    mean: NDArray[Any]
    deviation: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self.array.shape
        return found

    @property
    def dtype(self) -> Any:
        return self.mean.dtype

    @property
    def block(self) -> int:
        return block_of(self.array)

    @property
    def edges(self) -> NDArray[Any]:
        return edges_of(self.array)

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = (self.array[rows] - self.mean) / self.deviation
        return found


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
