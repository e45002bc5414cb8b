"""`digits`: scikit-learn's 8x8 digits, in its wheel, so that a first run needs no download."""

from __future__ import annotations

import importlib

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, split_options
from r2d2c.train.data.split import split_table
from r2d2c.train.refuse import refuse

SPLIT_SEED = 0  # fixed: everybody's test digits are the same 359


def open_digits(argument: str, context: DataContext) -> Dataset:
    """1,797 digits: ``x`` f32[N, 64] in 0..1, ``image`` f32[N, 1, 8, 8], ``y`` i64[N]; 80/20 train/test."""
    import numpy

    argument, _ = split_options(argument, {}, context)
    if argument:
        refuse("E502", f"`digits` takes no argument, it got `{argument}`", context.span)
    loaded = importlib.import_module("sklearn.datasets").load_digits()  # scikit-learn has no types
    x = (loaded.data / 16.0).astype(numpy.float32)
    labels = Column(loaded.target.astype(numpy.int64), classes=tuple(str(digit) for digit in range(10)))
    whole = Table({"x": Column(x), "image": Column(x.reshape(-1, 1, 8, 8)), "y": labels})
    train, test = split_table(whole, 0.2, SPLIT_SEED, context.span)
    return Dataset("digits", train, test=test, doc=DIGITS.doc)


DIGITS = DataSource(
    name="digits",
    doc="1,797 handwritten digits of 8x8 pixels (scikit-learn); needs no download",
    usage="digits",
    open=open_digits,
    family="ready",
)
