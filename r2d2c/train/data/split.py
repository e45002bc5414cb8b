"""Deterministic splits of a table in two."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2d2c.source import Span
    from r2d2c.train.data.dataset import Table


def split_rows(
    count: int, fraction: float, seed: int, labels: NDArray[Any] | None = None, span: Span | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Row indices of the two parts, each in rising order; the second has about ``fraction`` of the rows.

    Stratified by ``labels`` (i64[count]) where each class has members enough. Refuses (E516) if a part
    would be empty.
    """
    import numpy

    held = round(count * fraction)
    if not 0 < held < count:
        refuse(
            "E516",
            f"{count} samples cannot be split with a fraction of {fraction:g}",
            span,
            notes=["each part needs at least one sample"],
        )
    stratify = None
    if labels is not None:
        sizes = numpy.unique(labels, return_counts=True)[1]
        # scikit-learn refuses to stratify classes of one member, and parts smaller than the class count.
        if sizes.min() >= 2 and len(sizes) <= min(held, count - held):
            stratify = labels
    # Through importlib, because scikit-learn has no types. Its integer seeds give frozen streams.
    selection = importlib.import_module("sklearn.model_selection")
    first, second = selection.train_test_split(
        numpy.arange(count), test_size=held, random_state=seed, stratify=stratify
    )
    return numpy.sort(first), numpy.sort(second)


def split_table(table: Table, fraction: float, seed: int, span: Span | None = None) -> tuple[Table, Table]:
    """All but ``fraction`` of the samples, and ``fraction`` of them; stratified by a class ``y``."""
    y = table.columns.get("y")
    labels = y.array if y is not None and y.classes is not None and y.array.ndim == 1 else None
    first, second = split_rows(len(table), fraction, seed, labels, span)
    return table.take(first), table.take(second)
