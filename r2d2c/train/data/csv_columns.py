"""The columns of a csv file as they are read part by part: numbers as long as all cells are, and classes else."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.dataset import Column
from r2d2c.train.data.lazy import Extent, around, finite_extent
from r2d2c.train.data.source import DataContext
from r2d2c.train.data.spilled import Spill, SpilledRows
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CLASSES = 10_000
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
WHOLE = 2.0**53
"""From here on not every whole number is one in double precision."""


@dataclass(slots=True)
class Parts:
    """The parts of one column, all of ``rows`` rows but the last: in memory, or in a temporary file."""

    rows: int
    spill: Spill | None
    arrays: list[NDArray[Any]] = field(default_factory=list)
    offsets: array[int] = field(default_factory=lambda: array("q"))

    def add(self, part: NDArray[Any]) -> None:
        if self.spill is None:
            self.arrays.append(part)
        else:
            self.offsets.append(self.spill.add(part))

    def whole(
        self,
        count: int,
        stored: str,
        type_: str,
        place: NDArray[Any] | None = None,
        seen: Extent | None = None,
    ) -> Any:
        """All parts as one array of ``count`` rows, with numbers that stand for places in another put there."""
        import numpy

        if self.spill is not None:
            types = numpy.dtype(stored), numpy.dtype(type_)
            return SpilledRows(
                self.spill, numpy.array(self.offsets), self.rows, count, *types, place=place, seen=seen
            )
        together = numpy.concatenate(self.arrays)
        return together.astype(type_, copy=False) if place is None else place[together]


@dataclass(slots=True)
class ColumnReader:
    """One column of a file while it is read.

    numbers, codes: its cells as numbers, and as the numbers of their texts in the order of their first appearance; None
    from where on they can be of no use.
    """

    path: Path
    name: str
    context: DataContext
    numbers: Parts | None
    codes: Parts | None
    texts: dict[str, int] = field(default_factory=dict)
    seen: Extent | None = None
    whole: bool = True
    strange: int = 0
    first_strange: tuple[int, str] | None = None
    not_finite: tuple[int, str] | None = None
    count: int = 0

    @classmethod
    def of(cls, path: Path, name: str, rows: int, spill: Spill | None, context: DataContext) -> ColumnReader:
        return cls(path, name, context, Parts(rows, spill), Parts(rows, spill))

    def add(self, cells: Sequence[str], lines: Sequence[int]) -> None:
        """The next part, and the lines that its rows end on. E509 for an empty cell."""
        import numpy

        texts = [cell.strip() for cell in cells]
        if "" in texts:
            self._at("E509", lines[texts.index("")], f"column `{self.name}` has an empty cell")
        self.count += len(texts)
        try:
            values: NDArray[Any] | None = numpy.array(texts, dtype=numpy.float64)
        except ValueError:
            values = None
        if values is None:
            self._add_strange(texts, lines)
        elif self.numbers is not None:
            self._add_numbers(self.numbers, values, texts, lines)
        if self.codes is not None:
            known = self.texts
            codes = [known.setdefault(text, len(known)) for text in texts]
            if len(known) > MAX_CLASSES:
                self.codes, self.texts = None, {}
            else:
                self.codes.add(numpy.array(codes, numpy.uint16))

    def _add_numbers(
        self, numbers: Parts, values: NDArray[Any], texts: Sequence[str], lines: Sequence[int]
    ) -> None:
        import numpy

        extent = finite_extent(values)
        if extent is not None:
            self.seen = extent if self.seen is None else around((self.seen, extent))
            self.whole = self.whole and bool((values == numpy.floor(values)).all())
        elif self.not_finite is None:
            row = int((~numpy.isfinite(values)).argmax())
            self.not_finite = lines[row], texts[row]
        numbers.add(values)

    def _add_strange(self, texts: Sequence[str], lines: Sequence[int]) -> None:
        self.numbers = None
        strange = {text for text in set(texts) if not is_number(text)}
        places = [row for row, text in enumerate(texts) if text in strange]
        self.strange += len(places)
        if self.first_strange is None:
            self.first_strange = lines[places[0]], texts[places[0]]

    def column(self) -> Column:
        """i64 (where all numbers are whole) or f64; or ids into the sorted classes. E508 and E509 for what is neither."""
        if self.first_strange is not None:
            return self._classes(*self.first_strange)
        if self.not_finite is not None:
            line, text = self.not_finite
            self._at("E509", line, f"column `{self.name}` has `{text}`, which is no finite number")
        assert self.numbers is not None and self.seen is not None
        whole = self.whole and max(map(abs, self.seen)) < WHOLE
        return Column(self.numbers.whole(self.count, "f8", "i8" if whole else "f8", seen=self.seen))

    def _classes(self, line: int, text: str) -> Column:
        import numpy

        self._check_commas(line, text)
        if self.strange * 10 < self.count:  # a column of numbers with a slip in it, not one of names
            message = f"column `{self.name}` has `{text}`, where the other rows have numbers"
            self._at("E508", line, message)
        if self.codes is None:
            message = (
                f"column `{self.name}` has more than {MAX_CLASSES:,} different texts, too many to be classes"
            )
            self._at("E508", line, message)
        names = sorted(self.texts)
        place = numpy.empty(len(names), numpy.int64)
        place[[self.texts[name] for name in names]] = numpy.arange(len(names))
        seen = (0, len(names) - 1)
        return Column(self.codes.whole(self.count, "u2", "i8", place, seen), classes=tuple(names))

    def _check_commas(self, line: int, text: str) -> None:
        """E508 for a column of numbers such as 1,5."""
        if DECIMAL_COMMA.fullmatch(text) and all(
            is_number(each) or DECIMAL_COMMA.fullmatch(each) for each in self.texts
        ):
            message = f"column `{self.name}` has `{text}`, a number with a comma"
            self._at("E508", line, message, f"write numbers with a point: {text.replace(',', '.')}")

    def _at(self, code: str, line: int, message: str, fix: str | None = None) -> NoReturn:
        refuse(code, f"{self.path}:{line}: {message}", self.context.span, fix=fix)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
