"""A data set for people: what is in its columns, and some of its samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.lazy import PART

if TYPE_CHECKING:
    from r2d2c.train.data.dataset import Column, Table

MOST_NUMBERS = 8


def value_range(column: Column) -> tuple[float, float] | None:
    """The least and the greatest value of the first `PART` samples; None for booleans and no samples."""
    import numpy

    part = column.take(numpy.arange(min(len(column.array), PART))).array[:]
    if not part.size or column.kind == "bool":
        return None
    low, high = part.min().item(), part.max().item()
    return (low, high) if column.divisor is None else (low / column.divisor, high / column.divisor)


def range_text(column: Column) -> str:
    """``0 … 1``; it says so if it is of the first samples alone."""
    found = value_range(column)
    if found is None:
        return ""
    low, high = map(number_text, found)
    more = f" in the first {PART:,}" if len(column.array) > PART else ""
    return f"{low} … {high}{more}"


def number_text(value: Any) -> str:
    """A number in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sample_rows(table: Table, count: int) -> list[list[str]]:
    """The first samples, a text for each column: a class by its name, tokens as a text, an image in three numbers."""
    import numpy

    first = table.take(numpy.arange(min(count, len(table))))
    columns = [(column, first[name]) for name, column in first.columns.items()]
    return [[sample_text(column, values[row]) for column, values in columns] for row in range(len(first))]


def sample_text(column: Column, value: Any) -> str:
    """One sample of a column in a few words."""
    import numpy

    array = numpy.asarray(value)
    if column.classes is not None and array.ndim <= 1:
        names = [column.classes[number] for number in array.reshape(-1).tolist()]
        if array.ndim == 0:
            return _visible(names[0])
        if all(len(name) == 1 for name in names):
            return _cut("".join(map(_visible, names)))
        return _shortened(map(_visible, names), len(names))
    if array.ndim >= 2 and array.size:
        low, high, mean = array.min().item(), array.max().item(), float(array.mean())
        shape = "x".join(map(str, array.shape))
        return f"{shape}: {number_text(low)} … {number_text(high)}, mean {number_text(mean)}"
    flat = array.reshape(-1)
    flat = flat.astype(numpy.int64) if flat.dtype == bool else flat
    texts = (f"{number:.3g}" if flat.dtype.kind == "f" else str(number) for number in flat[:MOST_NUMBERS])
    return _shortened(texts, flat.size)


def _shortened(texts: Iterable[str], size: int) -> str:
    shown = [text for text, _ in zip(texts, range(MOST_NUMBERS), strict=False)]
    return " ".join([*shown, f"… {size:,} in all"] if size > MOST_NUMBERS else shown)


def _cut(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _visible(name: str) -> str:
    return name if name.isprintable() else ascii(name)[1:-1]
