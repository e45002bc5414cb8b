"""`csv:FILE`: numbers and class names in columns, with a header line; a large one goes to a temporary file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from r2d2c.train.data.csv_columns import ColumnReader, is_number
from r2d2c.train.data.dataset import Column, Dataset
from r2d2c.train.data.source import DataContext, DataSource, split_options
from r2d2c.train.data.spilled import Spill
from r2d2c.train.data.table_file import OPTIONS as TABLE_OPTIONS
from r2d2c.train.data.table_file import TableOptions
from r2d2c.train.data.utf8 import utf8_lines
from r2d2c.train.refuse import refuse

OPTIONS = {
    **TABLE_OPTIONS,
    "separator": "the character between cells (the most frequent of , ; tab | in the header)",
}
LARGE = 256 << 20
"""Bytes of a file above which its columns are not kept in memory."""
PART = 1 << 18
"""Cells that are read in one go."""


def open_csv(argument: str, context: DataContext) -> Dataset:
    """``x`` f64[N, k] of the features, ``y`` of the target, and every column under its own name."""
    argument, given = split_options(argument, OPTIONS, context)
    options = TableOptions.of(given, context)
    separator = _separator(given.get("separator"), context)
    path = context.file(context.path(argument, "csv:"))
    return options.dataset(f"csv:{argument}", path, _columns(path, separator, context))


def _separator(given: str | None, context: DataContext) -> str | None:
    found = {"tab": "\t", "\\t": "\t"}.get(given, given) if given is not None else None
    if found is not None and (len(found) != 1 or found in '"\r\n'):
        refuse("E502", f"option `separator` must be one character, not `{given}`", context.span)
    return found


@dataclass(frozen=True, slots=True)
class _Spilled:
    """What was made of a large file, and the file's state then."""

    state: tuple[Any, ...]
    columns: dict[str, Column]


_last: list[_Spilled] = []
"""The large file that was read last: to solve the sizes of a spec and then to train asks for one twice."""


def _columns(path: Path, separator: str | None, context: DataContext) -> dict[str, Column]:
    status = path.stat()
    if status.st_size <= LARGE:
        return _read(path, separator, None, context)
    state = (path.resolve(), separator, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if not (_last and _last[0].state == state):
        _last.clear()
        spill = Spill(path, context.span)
        _last.append(_Spilled(state, _read(path, separator, spill, context)))
    return _last[0].columns


def _read(path: Path, separator: str | None, spill: Spill | None, context: DataContext) -> dict[str, Column]:
    """Every column, from one pass over the file."""
    rows = _rows(path, separator, context)
    names = next(rows)[0]
    count = max(1, PART // len(names))
    readers = [ColumnReader.of(path, name, count, spill, context) for name in names]
    for part in _parts(rows, count):
        lines = [line for _, line in part]
        for reader, cells in zip(readers, zip(*(row for row, _ in part), strict=True), strict=True):
            reader.add(cells, lines)
    if not readers[0].count:
        refuse("E506", f"{path} has no rows below its header", context.span)
    return {reader.name: reader.column() for reader in readers}


def _parts(rows: Iterator[tuple[list[str], int]], count: int) -> Iterator[list[tuple[list[str], int]]]:
    part = []
    for row in rows:
        part.append(row)
        if len(part) == count:
            yield part
            part = []
    if part:
        yield part


def _rows(path: Path, separator: str | None, context: DataContext) -> Iterator[tuple[list[str], int]]:
    """The names of the header and then each row, all of one length, and the line that it ends on."""
    lines = utf8_lines(path, context)
    begin: list[str] = []
    for line in lines:
        begin.append(line)
        if line.strip():
            break
    else:
        refuse("E506", f"{path} is empty", context.span)
    reader = csv.reader(
        chain(begin, lines), delimiter=separator or max(",;\t|", key=begin[-1].count), strict=True
    )
    names: list[str] = []
    try:
        for row in reader:
            if not (row and row[0].strip()) and not any(cell.strip() for cell in row):
                continue  # blank lines, the one at the end above all
            if not names:
                names = [cell.strip() for cell in row]
                _check_header(path, names, reader.line_num, context)
                row = names
            elif len(row) != len(names):
                message = f"{len(row)} cells, where the header has {len(names)}"
                _at("E507", path, reader.line_num, message, context)
            yield row, reader.line_num
    except csv.Error as error:
        _at("E505", path, reader.line_num, f"not sound CSV ({error})", context)
    if not names:
        refuse("E506", f"{path} has no rows", context.span)


def _check_header(path: Path, names: list[str], line: int, context: DataContext) -> None:
    for at, name in enumerate(names):
        if not name:
            _at("E507", path, line, f"column {at + 1} has no name in the header", context)
        if name in names[:at]:
            _at("E507", path, line, f"two columns are called `{name}`", context)
    if all(is_number(name) for name in names):
        _at("E507", path, line, "the first line must be a header with names, it has only numbers", context)


def _at(code: str, path: Path, line: int, message: str, context: DataContext) -> NoReturn:
    refuse(code, f"{path}:{line}: {message}", context.span)


CSV = DataSource(
    name="csv",
    doc="a table with a header line; texts become classes; a large one stays on disk",
    usage="csv:FILE[?target=NAME&features=A,B&separator=;&scale=standard&test=0.2&split=last&seed=0]",
    open=open_csv,
    options=OPTIONS,
    family="files",
)
