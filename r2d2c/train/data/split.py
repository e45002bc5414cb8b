"""Deterministic splits of a table in two."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.source import DataContext, fraction, whole_number
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2d2c.source import Span
    from r2d2c.train.data.dataset import Table

OPTIONS = {
    "test": "the part held out for test; 0: none (0.2)",
    "split": "which rows that is: `random`, with as many of each class, or `last` (random)",
    "seed": "of a random split (0)",
}
ALIASES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
"""What the splits are called in files and folders."""


def split_rows(
    count: int, share: float, seed: int, labels: NDArray[Any] | None = None, span: Span | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Row indices of the two parts, each in rising order; the second has about ``share`` of the rows.

    Stratified by ``labels`` (i64[count]) where each class has members enough. Refuses (E516) if a part
    would be empty.
    """
    import numpy

    held = round(count * share)
    if not 0 < held < count:
        _too_few(count, share, span)
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


def _too_few(count: int, share: float, span: Span | None, fix: str | None = None) -> NoReturn:
    refuse(
        "E516",
        f"{count} samples cannot be split with a fraction of {share:g}",
        span,
        notes=["each part needs at least one sample"],
        fix=fix,
    )


def split_table(table: Table, share: float, seed: int, span: Span | None = None) -> tuple[Table, Table]:
    """All but ``share`` of the samples, and ``share`` of them; stratified by a class ``y``."""
    y = table.columns.get("y")
    labels = y.array if y is not None and y.classes is not None and y.array.ndim == 1 else None
    first, second = split_rows(len(table), share, seed, labels, span)
    return table.take(first), table.take(second)


@dataclass(frozen=True, slots=True)
class Splitting:
    """How data without splits of its own is split: the options `OPTIONS` of its source."""

    test: float
    how: str
    seed: int
    context: DataContext

    @classmethod
    def of(cls, options: Mapping[str, str], context: DataContext, columns: bool = False) -> Splitting:
        """E502 for a value that cannot be; with ``columns``, ``split`` may be the name of one.

        Where all is wanted (``context.whole``), only what is asked for is held out.
        """
        how = options.get("split", "random")
        if how not in ("random", "last") and not columns:
            message = f"option `split` must be `random` or `last`, not `{how}`"
            refuse("E502", message, context.span)
        asked = any(key in options for key in OPTIONS)
        test = fraction(options, "test", 0.0 if context.whole and not asked else 0.2, context, none=True)
        seed = whole_number(options, "seed", 0, context, least=0)
        return cls(test, how, seed, context)

    def tables(self, table: Table, by_class: bool = False) -> dict[str, Table]:
        """``train`` and ``test`` of a table, or all of it as ``train``; E516 if a part would be empty.

        by_class: the last rows are those of each class ``y``, as the rows stand in order of the classes.
        """
        if self.test == 0:
            return {"train": table}
        if not 0 < round(len(table) * self.test) < len(table):
            _too_few(len(table), self.test, self.context.span, "hold nothing out: ?test=0")
        if self.how == "random":
            train, test = split_table(table, self.test, self.seed, self.context.span)
            return {"train": train, "test": test}
        labels = table.columns["y"].array if by_class and "y" in table.columns else None
        first, second = last_rows(len(table), self.test, labels)
        return {"train": table.take(first), "test": table.take(second)}


def last_rows(
    count: int, share: float, labels: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The rows before the last ``share`` of them, and these; with labels, of each class."""
    import numpy

    if labels is None:
        held = numpy.arange(count) >= count - round(count * share)
    else:
        held = numpy.zeros(count, bool)
        for label in numpy.unique(labels):
            rows = numpy.flatnonzero(labels == label)
            held[rows[len(rows) - round(len(rows) * share) :]] = True
    return numpy.flatnonzero(~held), numpy.flatnonzero(held)
