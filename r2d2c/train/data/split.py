"""Deterministic splits of a table in two."""

from __future__ import annotations

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
    # The rows that scikit-learn's `train_test_split` gives, which needs ten times the memory. A stream of this
    # generator is frozen: it is the same in every version of NumPy.
    random = numpy.random.RandomState(seed)
    second = numpy.zeros(count, bool)
    by_class = None if labels is None else _by_class(labels)
    # Classes of one member cannot be in both parts, and not all classes in a part with fewer members.
    if by_class is None or by_class[1].min() < 2 or len(by_class[1]) > min(held, count - held):
        second[random.permutation(count)[:held]] = True
    else:
        order, sizes = by_class
        kept = _dealt(sizes, count - held, random)
        given = _dealt(sizes - kept, held, random)
        ends = numpy.cumsum(sizes).tolist()
        for end, size, before, after in zip(ends, sizes.tolist(), kept.tolist(), given.tolist(), strict=True):
            chosen = random.permutation(size)[before : before + after]
            second[order[end - size : end][chosen]] = True
    return numpy.flatnonzero(~second), numpy.flatnonzero(second)


def _by_class(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The rows class by class, i64[count], and how many each class has."""
    import numpy

    codes, low, high = labels, labels.min(), labels.max()
    if not (labels.dtype.kind in "iu" and low >= 0 and high < 1 << 16):
        codes = numpy.unique(labels, return_inverse=True)[1]
    sizes = numpy.bincount(codes)
    small = codes.astype(numpy.uint16) if len(sizes) <= 1 << 16 else codes  # these are sorted digit by digit
    return numpy.argsort(small, kind="stable"), sizes[sizes > 0]


def _dealt(sizes: NDArray[Any], count: int, random: Any) -> NDArray[Any]:
    """How many of ``count`` samples each class gets: its share, rounded so that they add up, ties by lot."""
    import numpy

    shares = sizes / sizes.sum() * count
    found = numpy.floor(shares)
    rest, left = shares - found, int(count - found.sum())
    for value in numpy.unique(rest)[::-1]:
        if left <= 0:
            break
        equal = numpy.flatnonzero(rest == value)
        found[random.choice(equal, size=min(left, len(equal)), replace=False)] += 1
        left -= len(equal)
    dealt: NDArray[Any] = found.astype(numpy.int64)
    return dealt


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
    import numpy

    y = table.columns.get("y")
    labels = numpy.asarray(y.array) if y is not None and y.classes is not None and y.array.ndim == 1 else None
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
