"""`parquet:FILE`: the columns of a Parquet file; of a large one the row groups are read as they are needed."""

from __future__ import annotations

import importlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.csv_columns import MAX_CLASSES
from r2d2c.train.data.dataset import Column, Dataset
from r2d2c.train.data.lazy import Extent, LazyRows, around, finite_extent, in_blocks
from r2d2c.train.data.source import DataContext, DataSource, split_options
from r2d2c.train.data.table_file import OPTIONS, TableOptions
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2d2c.source import Span

LARGE = 256 << 20
"""Bytes of values, not compressed, above which a file is not read whole."""
CACHE = 64 << 20
"""Bytes of the row groups of a large file that are kept, those that were read last."""
INDEX = "__index_level_"


def open_parquet(argument: str, context: DataContext) -> Dataset:
    """``x`` f64[N, k] of the features, ``y`` of the target, and every column under its own name.

    Numbers and booleans as they are, texts as classes, lists of one length as vectors ``[N, k]``.
    """
    argument, given = split_options(argument, OPTIONS, context)
    options = TableOptions.of(given, context)
    path = context.file(context.path(argument, "parquet:"))
    reader = _Reader.open(path, context.span)
    names = [name for name, _ in reader.fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        refuse("E507", f"{path} has two columns called `{twice}`", context.span)
    columns: dict[str, Column] = {}
    left_out: dict[str, str] = {}
    for name, type_ in reader.fields:
        kind = _kind(type_)
        found = None if kind == "other" or name.startswith(INDEX) else reader.column(name, kind)
        if found is None:
            left_out[name] = _left_out(name, kind, type_)
        else:
            columns[name] = found
    return options.dataset(f"parquet:{argument}", path, columns, left_out)


@dataclass(frozen=True, slots=True)
class _Reader:
    """An open file. ``starts`` are the first rows of its row groups, and after them the number of rows."""

    path: Path
    file: Any
    starts: tuple[int, ...]
    large: bool
    span: Span | None
    kept: _Kept

    @classmethod
    def open(cls, path: Path, span: Span | None) -> _Reader:
        """E505 for a file that is none, E506 for one without rows."""
        parquet = importlib.import_module("pyarrow.parquet")  # pyarrow has no types
        if not path.stat().st_size:
            refuse("E506", f"{path} is empty", span)
        try:
            file = parquet.ParquetFile(path)
            groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        except _errors() as error:
            refuse(
                "E505", f"{path} cannot be read: it is damaged, cut off or no Parquet file ({error})", span
            )
        starts = tuple(accumulate((group.num_rows for group in groups), initial=0))
        if not starts[-1]:
            refuse("E506", f"{path} has no rows", span)
        size = sum(group.total_byte_size for group in groups)
        return cls(path, file, starts, size > LARGE, span, _Kept())

    @property
    def fields(self) -> list[tuple[str, Any]]:
        return [(each.name, each.type) for each in self.file.schema_arrow]

    def group(self, name: str, number: int) -> Any:
        """One column of a row group; E505 names the column that is damaged."""
        try:
            table = self.file.read_row_group(number, columns=[name])
            return table.column(name).combine_chunks()
        except _errors() as error:
            message = (
                f"column `{name}` of {self.path} cannot be read: the file is damaged or cut off ({error})"
            )
            refuse("E505", message, self.span)

    def column(self, name: str, kind: str) -> Column | None:
        """A column, every value of it looked at once; None where there are too many texts to be classes."""
        import numpy

        texts: dict[str, int] = {}
        parts: list[NDArray[Any]] = []
        extents: list[Extent] = []
        sample: tuple[int, ...] | None = None
        for number, start in enumerate(self.starts[:-1]):
            values = self.group(name, number)
            if not len(values):
                continue
            self._check_nulls(name, values, start)
            if kind == "text":
                parts.append(_encoded(values, texts))
                if len(texts) > MAX_CLASSES:
                    return None
                continue
            part = _numbers(values)
            if part is None or (sample is not None and part.shape[1:] != sample):
                self._uneven(name, values, start, sample)
            extents += self._extent(name, part, start)
            sample = part.shape[1:]
            parts.append(part[:0] if self.large else part)
        if kind == "text":
            return _classes(numpy.concatenate(parts), texts)
        if not self.large:
            return Column(numpy.concatenate(parts))
        assert sample is not None
        dtype = numpy.result_type(*(part.dtype for part in parts))
        rows = ParquetRows(self.path, name, dtype, sample, self.starts, self.kept, self.span, around(extents))
        return Column(rows)

    def _check_nulls(self, name: str, values: Any, start: int) -> None:
        deepest, rows = values, None
        while True:
            if deepest.null_count:
                at = deepest.is_null().to_numpy(zero_copy_only=False).argmax()
                row = start + int(at if rows is None else rows[at])
                message = f"column `{name}` of {self.path} has no value in row {row}"
                refuse("E509", message, self.span)
            if not _is_list(deepest.type):
                return
            parents = deepest.value_parent_indices().to_numpy(zero_copy_only=False)
            rows, deepest = (parents if rows is None else rows[parents]), deepest.flatten()

    def _extent(self, name: str, part: NDArray[Any], start: int) -> list[Extent]:
        """What the values of a part lie between. E509 names the row of one that is not finite."""
        import numpy

        extent = finite_extent(part)
        if extent is None and part.size:
            row = start + int(numpy.argwhere(~numpy.isfinite(part))[0][0])
            refuse("E509", f"column `{name}` of {self.path} has NaN or infinity in row {row}", self.span)
        return [] if extent is None else [extent]

    def _uneven(self, name: str, values: Any, start: int, sample: tuple[int, ...] | None) -> NoReturn:
        first = len(values[0]) if sample is None else sample[0]
        row = next((k for k, value in enumerate(values) if len(value) != first), None)
        where = f"{first} numbers in its first row"
        if row is None:
            refuse("E507", f"the lists in column `{name}` of {self.path} differ in length", self.span)
        here = f"{len(values[row])} in row {start + row}"
        refuse("E507", f"column `{name}` of {self.path} has {where} and {here}", self.span)


class _Kept:
    """What the columns of a large file share: the open file, and the parts of it that were read last.

    A copy in another process (by pickle or by fork) opens the file for itself, and starts with nothing kept.
    """

    __slots__ = ("parts", "process", "reader")

    def __init__(self) -> None:
        self.parts: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self.reader: _Reader | None = None
        self.process = 0

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()

    def part(self, column: ParquetRows, number: int) -> NDArray[Any]:
        """One column of a row group. E505 if the file is not what it was."""
        key = (column.name, number)
        if key in self.parts:
            self.parts.move_to_end(key)
            return self.parts[key]
        if self.reader is None or self.process != os.getpid():
            self.reader, self.process = _Reader.open(column.path, column.span), os.getpid()
        same = self.reader.starts == column.starts
        part = _numbers(self.reader.group(column.name, number)) if same else None
        if part is None or part.shape[1:] != column.sample:
            refuse("E505", f"{column.path} has changed since it was opened", column.span)
        self.parts[key] = part
        size = sum(kept.nbytes for kept in self.parts.values())
        while len(self.parts) > 1 and size > CACHE:
            size -= self.parts.popitem(last=False)[1].nbytes
        return part


@dataclass(frozen=True, slots=True, eq=False)
class ParquetRows(LazyRows):
    """One column of a large file."""

    path: Path
    name: str
    type: Any
    sample: tuple[int, ...]
    starts: tuple[int, ...]
    kept: _Kept
    span: Span | None = None
    seen: Extent | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.starts[-1], *self.sample)

    @property
    def extent(self) -> Extent | None:
        return self.seen

    @property
    def dtype(self) -> Any:
        return self.type

    @property
    def block(self) -> int:
        return max(end - start for start, end in pairwise(self.starts))

    @property
    def edges(self) -> tuple[int, ...]:
        return self.starts

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        import numpy

        found = numpy.empty((len(rows), *self.sample), self.type)
        for number, places in in_blocks(rows, self.starts):
            found[places] = self.kept.part(self, number)[rows[places] - self.starts[number]]
        return found


def _errors() -> tuple[type[Exception], ...]:
    arrow = importlib.import_module("pyarrow")
    return (arrow.ArrowException, OSError, ValueError)


def _is_list(type_: Any) -> bool:
    types = importlib.import_module("pyarrow").types
    return bool(types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_))


def _kind(type_: Any) -> str:
    """``number``, ``text``, ``list`` (of numbers, or of such lists) or ``other``."""
    types = importlib.import_module("pyarrow").types
    if (
        types.is_integer(type_)
        or types.is_floating(type_)
        or types.is_boolean(type_)
        or types.is_decimal(type_)
    ):
        return "number"
    if types.is_dictionary(type_):
        return _kind(type_.value_type)
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return "text"
    if _is_list(type_):
        return "list" if _kind(type_.value_type) in ("number", "list") else "other"
    return "other"


def _left_out(name: str, kind: str, type_: Any) -> str:
    if name.startswith(INDEX):
        return "an index"
    return f"{MAX_CLASSES:,} different texts or more" if kind == "text" else str(type_)


def _numbers(values: Any) -> NDArray[Any] | None:
    """``[N]`` of numbers, ``[N, ...]`` of lists; None where lists differ in length."""
    import numpy

    arrow = importlib.import_module("pyarrow")
    if _is_list(values.type):
        sizes = values.value_lengths().to_numpy(zero_copy_only=False)
        if not len(sizes) or (sizes != sizes[0]).any():
            return None
        inner = _numbers(values.flatten())
        return None if inner is None else inner.reshape(len(sizes), int(sizes[0]), *inner.shape[1:])
    if arrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if arrow.types.is_decimal(values.type):
        values = values.cast(arrow.float64())
    found: NDArray[Any] = numpy.asarray(values.to_numpy(zero_copy_only=False))
    return found


def _encoded(values: Any, texts: dict[str, int]) -> NDArray[Any]:
    """Texts as numbers in the order of their first appearance, which ``texts`` keeps."""
    import numpy

    arrow = importlib.import_module("pyarrow")
    if arrow.types.is_string_view(values.type):
        values = values.cast(arrow.string())
    encoded = values if arrow.types.is_dictionary(values.type) else values.dictionary_encode()
    numbers = [texts.setdefault(str(text), len(texts)) for text in encoded.dictionary.to_pylist()]
    found: NDArray[Any] = numpy.asarray(numbers, numpy.int32)[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def _classes(numbers: NDArray[Any], texts: dict[str, int]) -> Column:
    import numpy

    used = set(numpy.unique(numbers).tolist())
    names = sorted(text for text, number in texts.items() if number in used)
    place = numpy.zeros(len(texts), numpy.int64)
    for rank, name in enumerate(names):
        place[texts[name]] = rank
    return Column(place[numbers], classes=tuple(names))


PARQUET = DataSource(
    name="parquet",
    doc="the columns of a Parquet file; a large one is read as it is needed",
    usage="parquet:FILE[?target=NAME&features=A,B&scale=standard&test=0.2&split=last&seed=0]",
    open=open_parquet,
    options=OPTIONS,
    family="files",
)
