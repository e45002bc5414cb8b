"""`wine`, `breast_cancer` and `diabetes`: small tables of scikit-learn's wheel, whole or a fold at a time; no download."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, split_options, whole_number
from r2d2c.train.data.split import split_rows
from r2d2c.train.refuse import refuse

SPLIT_SEED = 0  # fixed: everybody's test samples are the same
OPTIONS = {
    "folds": "into how many parts the samples are dealt, to test on each in turn (5)",
    "fold": "the part that is test, from 1; without it a fifth of the samples is",
}


def open_table(name: str, argument: str, context: DataContext) -> Dataset:
    """``x`` f32[N, D] with mean 0 and deviation 1 over train, and ``y``: i64[N], or f32[N, 1] scaled as x is."""
    import numpy

    argument, options = split_options(argument, OPTIONS, context)
    if argument:
        refuse("E502", f"`{name}` takes no argument, it got `{argument}`", context.span)
    sets = importlib.import_module("sklearn.datasets")  # scikit-learn has no types
    loaded = getattr(sets, f"load_{name}")()
    labels = loaded.target.astype(numpy.int64) if "target_names" in loaded else None
    train, test = _split(len(loaded.data), labels, options, name, context)

    def scaled(values: Any) -> Any:
        spread = values[train].std(0)
        return ((values - values[train].mean(0)) / numpy.where(spread > 0, spread, 1)).astype(numpy.float32)

    y = Column(scaled(loaded.target[:, None]))
    if labels is not None:
        names = tuple(str(kind).removeprefix("class_") for kind in loaded.target_names)
        y = Column(labels, classes=names)
    whole = Table({"x": Column(scaled(loaded.data)), "y": y})
    source = next(each for each in TABLES if each.name == name)
    return Dataset(name, whole.take(train), test=whole.take(test), doc=source.doc)


def _split(
    count: int, labels: Any, options: dict[str, str], name: str, context: DataContext
) -> tuple[Any, Any]:
    """The rows of train and of test."""
    import numpy

    folds = whole_number(options, "folds", 5, context, least=2)
    if "fold" not in options:
        if "folds" in options:
            fix = f"write {name}?folds={folds}&fold=1"
            refuse("E502", "`folds` is for `fold`, the part that is test", context.span, fix=fix)
        return split_rows(count, 0.2, SPLIT_SEED, labels, context.span)
    fold = whole_number(options, "fold", 1, context)
    if not fold <= folds <= count:
        refuse("E502", f"there is no part {fold} of {folds} of the {count} samples of `{name}`", context.span)
    # Dealt like cards, class by class: every part has its share of each.
    order = numpy.random.Generator(numpy.random.PCG64(SPLIT_SEED)).permutation(count)
    if labels is not None:
        order = order[numpy.argsort(labels[order], kind="stable")]
    test = numpy.sort(order[fold - 1 :: folds])
    return numpy.setdiff1d(numpy.arange(count), test), test


def _table(name: str, doc: str) -> DataSource:
    usage = f"{name}[?folds=5&fold=1]"
    return DataSource(name, doc, usage, partial(open_table, name), OPTIONS, "ready")


TABLES = (
    _table("wine", "178 wines of 3 growers by 13 measurements (scikit-learn)"),
    _table("breast_cancer", "569 tumours, malignant or benign, by 30 measurements (scikit-learn)"),
    _table("diabetes", "442 patients by 10 measurements, and how their diabetes went on (scikit-learn)"),
)
