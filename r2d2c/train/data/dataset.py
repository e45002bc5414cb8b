"""`Column`, `Table` and `Dataset`: what a data source gives, before it is bound to the ports of a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.lazy import Taken, is_lazy, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of columns by name, a mean and a deviation: numbers, or lists where a column is of vectors.
Scaling = Mapping[str, tuple[Any, Any]]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One named column: an array whose first axis counts the samples.

    ``array`` is kept as it is stored (often uint8, possibly memory-mapped): a numpy array, or a `LazyRows` that reads
    its rows as they are asked for. With ``divisor`` its values are ``array / divisor`` as float32, computed batch by
    batch. ``classes`` names the integers, if they are classes.
    """

    array: Any
    divisor: float | None = None
    classes: tuple[str, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, without the first axis."""
        return tuple(int(n) for n in self.array.shape[1:])

    @property
    def kind(self) -> str:
        """``float``, ``int`` or ``bool``: what a port of this kind may hold."""
        if self.divisor is not None:
            return "float"
        return {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(self.array.dtype.kind, "other")

    @property
    def type_text(self) -> str:
        """As a type of the language, such as ``f32[N, 64]``."""
        stored = self.array.dtype
        name = "f32" if self.divisor is not None else f"{stored.kind}{8 * stored.itemsize}"
        name = "bool" if stored.kind == "b" else name
        return f"{name}[{', '.join(['N', *map(str, self.shape)])}]"

    def values(self) -> NDArray[Any]:
        """The values themselves (with ``divisor`` a float32 copy)."""
        import numpy

        array: NDArray[Any] = self.array[:] if is_lazy(self.array) else self.array
        if self.divisor is None:
            return array
        return array.astype(numpy.float32) / numpy.float32(self.divisor)

    def take(self, rows: NDArray[Any]) -> Column:
        """The samples at these indices: a copy, or nothing read yet where the array is lazy."""
        return replace(self, array=Taken(self.array, rows) if is_lazy(self.array) else self.array[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Named columns of one length. A mapping is copied; a length that differs is our bug, so `ValueError`."""

    columns: Mapping[str, Column]

    def __post_init__(self) -> None:
        lengths = {name: len(column.array) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")
        object.__setattr__(self, "columns", MappingProxyType(dict(self.columns)))

    def __len__(self) -> int:
        """The number of samples."""
        return next((len(column.array) for column in self.columns.values()), 0)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The values of a column, ``[N, ...]``."""
        return self.columns[name].values()

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def take(self, rows: NDArray[Any]) -> Table:
        """The samples at these indices, in this order (copies, but for lazy columns)."""
        return Table({name: column.take(rows) for name, column in self.columns.items()})


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Splits of one data set. ``validation`` and ``test`` may be absent; ``notes`` are shown with it.

    scaling: the mean and the deviation by which columns were shifted and scaled, by name.
    """

    name: str
    train: Table
    validation: Table | None = None
    test: Table | None = None
    doc: str = ""
    notes: tuple[str, ...] = field(default=())
    scaling: Scaling | None = None

    @classmethod
    def of(cls, name: str, tables: Mapping[str, Table], *, doc: str = "") -> Dataset:
        """A data set of tables by the names of their splits; ``train`` must be there."""
        return cls(name, tables["train"], tables.get("validation"), tables.get("test"), doc)

    def with_tables(self, tables: Mapping[str, Table]) -> Dataset:
        """The same data set with other tables for its splits."""
        return replace(
            self, train=tables["train"], validation=tables.get("validation"), test=tables.get("test")
        )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes of column ``y``, where they are known."""
        column = self.train.columns.get("y")
        return column.classes if column is not None else None

    @property
    def splits(self) -> dict[str, Table]:
        """The splits there are, by name, in the order train, validation, test."""
        named = zip(SPLITS, (self.train, self.validation, self.test), strict=True)
        return {name: table for name, table in named if table is not None}

    def with_validation(self, fraction: float = 0.1, seed: int = 0) -> Dataset:
        """This data set, with a validation split taken out of train if it has none (0 < fraction < 1)."""
        if self.validation is not None:
            return self
        from r2d2c.train.data.split import split_table

        train, validation = split_table(self.train, fraction, seed)
        return replace(self, train=train, validation=validation)

    def describe(self) -> str:
        """Splits and columns as lines of text: types, ranges, classes."""
        from r2d2c.train.data.describe import range_text

        lines = [f"{self.name}: {self.doc}" if self.doc else self.name]
        lines += [f"  {name:<11}{len(table):>8,} samples" for name, table in self.splits.items()]
        width = max((len(name) for name in self.train), default=0)
        for name, column in self.train.columns.items():
            line = f"  {name:<{width}}  {column.type_text}"
            if column.classes is not None:
                line += f"  {len(column.classes)} classes: {_shorten(column.classes)}"
            elif len(self.train):
                line += f"  {range_text(column)}"
            lines.append(line.rstrip())
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def name_classes(column: Column, most: int = 1000) -> Column:
    """The column with classes ``0``, ``1`` … if it is of single integers that are just those, all of them."""
    import numpy

    if column.classes is not None or column.kind != "int" or column.array.ndim != 1 or not len(column.array):
        return column
    seen = numpy.zeros(most, bool)
    for part in parts_of(column.array):
        if part.min() < 0 or part.max() >= most:
            return column
        seen[part] = True
    top = int(numpy.flatnonzero(seen)[-1])
    if top == 0 or not seen[: top + 1].all():
        return column
    return replace(column, classes=tuple(str(n) for n in range(top + 1)))


def _shorten(classes: tuple[str, ...], limit: int = 60) -> str:
    text = ""
    for name in classes:
        shown = name if name.isprintable() and name.strip() else ascii(name)
        if len(text) + len(shown) > limit:
            return f"{text}, …"
        text = f"{text}, {shown}" if text else shown
    return text
