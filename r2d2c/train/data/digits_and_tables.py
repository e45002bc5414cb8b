"""`digits_and_tables`: samples of two kinds, an image or a row of a table, from scikit-learn's wheel; no download."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, split_options
from r2d2c.train.data.split import split_rows
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT_SEED = 0  # fixed: everybody's test samples are the same


def open_both(argument: str, context: DataContext) -> Dataset:
    """1,797 digits, 178 wines and 150 irises, in 16 classes; 80/20 train/test, stratified.

    ``image`` f32[N, 1, 8, 8] in 0..1 and ``is_image`` bool[N]; ``values`` f32[N, 13], of which the first ``length``
    i64[N] are there, and ``fields`` i64[N, 13] < 17, which of the tables' columns each is. Zeros stand for what a
    sample does not have. The values of a field have mean 0 and deviation 1 over the samples of train.
    """
    import numpy

    argument, _ = split_options(argument, {}, context)
    if argument:
        refuse("E502", f"`digits_and_tables` takes no argument, it got `{argument}`", context.span)
    sets = importlib.import_module("sklearn.datasets")  # scikit-learn has no types
    digits, tables = sets.load_digits(), {"wine": sets.load_wine(), "iris": sets.load_iris()}
    count = sum(len(part.data) for part in (digits, *tables.values()))
    width = max(table.data.shape[1] for table in tables.values())
    image = numpy.zeros((count, 1, 8, 8), numpy.float32)
    values = numpy.zeros((count, width), numpy.float32)
    fields, length = numpy.zeros((count, width), numpy.int64), numpy.zeros(count, numpy.int64)

    at = len(digits.data)
    image[:at] = digits.images[:, None] / 16.0
    names = [f"digit {digit}" for digit in digits.target_names]
    labels = [digits.target]
    for name, table in tables.items():
        labels.append(len(names) + table.target)
        names += [f"{name} {str(kind).removeprefix('class_')}" for kind in table.target_names]
    y = numpy.concatenate(labels).astype(numpy.int64)
    train, test = split_rows(count, 0.2, SPLIT_SEED, y, context.span)
    first = 0  # the number of a table's first field
    for table in tables.values():
        rows, size = slice(at, at + len(table.data)), table.data.shape[1]
        known = train[(train >= rows.start) & (train < rows.stop)] - at
        values[rows, :size] = _standardised(table.data, known)
        fields[rows, :size] = numpy.arange(first, first + size)
        length[rows] = size
        at, first = rows.stop, first + size

    arrays = {"image": image, "is_image": length == 0, "values": values, "fields": fields, "length": length}
    columns = {name: Column(array) for name, array in arrays.items()}
    whole = Table({**columns, "y": Column(y, classes=tuple(names))})
    return Dataset("digits_and_tables", whole.take(train), test=whole.take(test), doc=BOTH.doc)


def _standardised(data: NDArray[Any], known: NDArray[Any]) -> NDArray[Any]:
    """Every column with mean 0 and deviation 1 over the rows ``known``."""
    import numpy

    spread = data[known].std(0)
    scaled: NDArray[Any] = (data - data[known].mean(0)) / numpy.where(spread > 0, spread, 1)
    return scaled


BOTH = DataSource(
    name="digits_and_tables",
    doc="1,797 digits, 178 wines, 150 irises (scikit-learn): a sample is an image or a row of a table",
    usage="digits_and_tables",
    open=open_both,
    family="ready",
)
