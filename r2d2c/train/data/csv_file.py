"""`csv:FILE`: numbers and class names in columns, with a header line."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.diagnostics import suggest
from r2d2c.train.data.dataset import Column, Dataset, Table, name_classes
from r2d2c.train.data.source import DataContext, DataSource, fraction, split_options, whole_number
from r2d2c.train.data.split import split_table
from r2d2c.train.data.text_file import read_utf8
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = {
    "target": "the column (or columns, with commas) that become `y` (the last one)",
    "features": "the columns that become `x` (all other columns of numbers)",
    "separator": "the character between cells (the most frequent of , ; tab | in the header)",
    "scale": "`standard`: shift and scale each column of `x` by train's mean and deviation (`none`)",
    "test": "the part held out for test (0.2)",
    "seed": "of that split (0)",
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
    import numpy

    argument, options = split_options(argument, OPTIONS, context)
    held, seed = fraction(options, "test", 0.2, context), whole_number(options, "seed", 0, context, least=0)
    scale = options.get("scale", "none")
    if scale not in ("none", "standard"):
        refuse("E502", f"option `scale` must be `standard` or `none`, not `{scale}`", context.span)
    path = context.file(context.path(argument, "csv:"))
    cells = _read(path, options.get("separator"), context)
    columns = {name: _column(cells, at, context) for at, name in enumerate(cells.names)}
    targets = _names(options, "target", columns, context) or [cells.names[-1]]
    features = _names(options, "features", columns, context)
    if features is None:
        features = [name for name in columns if name not in targets and columns[name].classes is None]
    texts = [name for name in features if columns[name].classes is not None]
    if texts or not features:
        what = (
            f"column `{texts[0]}` of {path} is not of numbers"
            if texts
            else f"{path} leaves no column for `x`"
        )
        refuse("E508", what, context.span, fix="say which columns are features: ?features=a,b,c")
    x = Column(numpy.stack([columns[name].array.astype(numpy.float64) for name in features], axis=1))
    y = name_classes(columns[targets[0]]) if len(targets) == 1 else _stack(targets, columns, path, context)
    # A column of its own called `x` or `y` gives way to the groups of those names.
    train, test = split_table(Table({**columns, "x": x, "y": y}), held, seed, context.span)
    if scale == "standard":
        train, test = _standardise(train, test)
    notes = (f"x is {', '.join(features)}", f"y is {', '.join(targets)}")
    return Dataset(f"csv:{argument}", train, test=test, doc=f"{len(cells.rows):,} rows", notes=notes)


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


def _names(
    options: dict[str, str], key: str, columns: dict[str, Column], context: DataContext
) -> list[str] | None:
    """The columns an option lists; E510 for one that the file does not have."""
    if key not in options:
        return None
    names = [name.strip() for name in options[key].split(",")]
    for name in names:
        if name not in columns:
            near = suggest(name, columns)
            refuse(
                "E510",
                f"there is no column `{name}` in the file",
                context.span,
                notes=[f"its columns are: {', '.join(columns)}"],
                fix=near.text if near else None,
            )
    return names


def _stack(names: list[str], columns: dict[str, Column], path: Path, context: DataContext) -> Column:
    import numpy

    for name in names:
        if columns[name].classes is not None:
            refuse(
                "E508",
                f"column `{name}` of {path} is not of numbers, so it must be the only target",
                context.span,
            )
    return Column(numpy.stack([columns[name].array for name in names], axis=1))


def _standardise(train: Table, test: Table) -> tuple[Table, Table]:
    """``x`` of both with train's mean and deviation; a constant column stays at 0."""
    x = train.columns["x"].array
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation == 0] = 1.0

    def scaled(table: Table) -> Table:
        column = table.columns["x"]
        return Table({**table.columns, "x": replace(column, array=(column.array - mean) / deviation)})

    return scaled(train), scaled(test)


def _at(code: str, path: Path, line: int, message: str, context: DataContext) -> NoReturn:
    refuse(code, f"{path}:{line}: {message}", context.span)


CSV = DataSource(
    name="csv",
    doc="a table with a header line; texts become classes",
    usage="csv:FILE[?target=NAME&features=A,B&separator=;&scale=standard&test=0.2&seed=0]",
    open=open_csv,
    options=OPTIONS,
)
