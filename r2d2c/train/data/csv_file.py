"""`csv:FILE`: numbers and class names in columns, with a header line."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.dataset import Column, Dataset
from r2d2c.train.data.source import DataContext, DataSource, split_options
from r2d2c.train.data.table_file import OPTIONS as TABLE_OPTIONS
from r2d2c.train.data.table_file import TableOptions
from r2d2c.train.data.text_file import read_utf8
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = {
    **TABLE_OPTIONS,
    "separator": "the character between cells (the most frequent of , ; tab | in the header)",
}
MAX_CLASSES = 10_000


@dataclass(frozen=True, slots=True)
class _Cells:
    """A file as texts: ``rows[i]`` stood on line ``lines[i]``; every row has one cell per name."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]


def open_csv(argument: str, context: DataContext) -> Dataset:
    """``x`` f64[N, k] of the features, ``y`` of the target, and every column under its own name."""
    argument, given = split_options(argument, OPTIONS, context)
    options = TableOptions.of(given, context)
    path = context.file(context.path(argument, "csv:"))
    cells = _read(path, given.get("separator"), context)
    columns = {name: _column(cells, at, context) for at, name in enumerate(cells.names)}
    return options.dataset(f"csv:{argument}", path, columns)


def _read(path: Path, separator: str | None, context: DataContext) -> _Cells:
    text = read_utf8(path, context).removeprefix("\ufeff")
    if separator is not None and len(separator) != 1:
        separator = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
        if len(separator) != 1:
            refuse("E502", f"option `separator` must be one character, not `{separator}`", context.span)
    header = text.lstrip().partition("\n")[0]
    separator = separator or max(",;\t|", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue  # blank lines, the one at the end above all
            if not names:
                names = [cell.strip() for cell in row]
                _check_header(path, names, reader.line_num, context)
            elif len(row) != len(names):
                _at(
                    "E507",
                    path,
                    reader.line_num,
                    f"{len(row)} cells, where the header has {len(names)}",
                    context,
                )
            else:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        _at("E505", path, reader.line_num, f"not sound CSV ({error})", context)
    if not rows:
        refuse("E506", f"{path} has no rows{' below its header' if names else ''}", context.span)
    return _Cells(path, names, rows, lines)


def _check_header(path: Path, names: list[str], line: int, context: DataContext) -> None:
    for at, name in enumerate(names):
        if not name:
            _at("E507", path, line, f"column {at + 1} has no name in the header", context)
        if name in names[:at]:
            _at("E507", path, line, f"two columns are called `{name}`", context)
    if all(_is_number(name) for name in names):
        _at("E507", path, line, "the first line must be a header with names, it has only numbers", context)


def _column(cells: _Cells, at: int, context: DataContext) -> Column:
    """Numbers as i64 (when all are whole) or f64; texts as ids into their sorted classes."""
    import numpy

    texts = [row[at].strip() for row in cells.rows]
    if "" in texts:
        row = texts.index("")
        _at("E509", cells.path, cells.lines[row], f"column `{cells.names[at]}` has an empty cell", context)
    try:
        values: NDArray[Any] = numpy.array(texts, dtype=numpy.float64)
    except ValueError:
        return _classes(cells, at, texts, context)
    bad = ~numpy.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        message = f"column `{cells.names[at]}` has `{texts[row]}`, which is no finite number"
        _at("E509", cells.path, cells.lines[row], message, context)
    if (values == numpy.floor(values)).all() and numpy.abs(values).max() < 2**53:
        return Column(values.astype(numpy.int64))
    return Column(values)


def _classes(cells: _Cells, at: int, texts: list[str], context: DataContext) -> Column:
    import numpy

    is_text = [not _is_number(text) for text in texts]
    first = is_text.index(True)
    if sum(is_text) * 10 < len(texts):  # a column of numbers with a slip in it, not one of names
        message = f"column `{cells.names[at]}` has `{texts[first]}`, where the other rows have numbers"
        _at("E508", cells.path, cells.lines[first], message, context)
    names, ids = numpy.unique(numpy.array(texts), return_inverse=True)
    if len(names) > MAX_CLASSES:
        message = f"column `{cells.names[at]}` has {len(names)} different texts, too many to be classes"
        _at("E508", cells.path, cells.lines[first], message, context)
    return Column(ids.astype(numpy.int64), classes=tuple(str(name) for name in names))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _at(code: str, path: Path, line: int, message: str, context: DataContext) -> NoReturn:
    refuse(code, f"{path}:{line}: {message}", context.span)


CSV = DataSource(
    name="csv",
    doc="a table with a header line; texts become classes",
    usage="csv:FILE[?target=NAME&features=A,B&separator=;&scale=standard&test=0.2&split=last&seed=0]",
    open=open_csv,
    options=OPTIONS,
    family="files",
)
