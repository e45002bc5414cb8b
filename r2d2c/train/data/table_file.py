"""What files of rows and columns (csv, parquet) share: which columns are ``x`` and ``y``, scaling, and splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.train.data.dataset import Column, Dataset, Scaling, Table, name_classes
from r2d2c.train.data.lazy import Scaled, is_lazy, join, parts_of
from r2d2c.train.data.source import DataContext
from r2d2c.train.data.split import ALIASES, Splitting
from r2d2c.train.data.split import OPTIONS as SPLIT_OPTIONS
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = {
    "target": "the column (or columns, with commas) that become `y` (the last one)",
    "features": "the columns that become `x` (all other columns of numbers)",
    "scale": "`standard`: shift and scale each feature by train's mean and deviation; a run keeps them (`none`)",
    "test": SPLIT_OPTIONS["test"],
    "split": "which rows that is: `random`, with as many of each class, `last`, or a column that says train, validation "
    "or test (random)",
    "seed": SPLIT_OPTIONS["seed"],
}


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The options of a file of columns, checked before the file is read."""

    given: Mapping[str, str]
    splitting: Splitting
    scale: str | None
    context: DataContext

    @classmethod
    def of(cls, given: Mapping[str, str], context: DataContext) -> TableOptions:
        """E502 for a value that cannot be."""
        splitting = Splitting.of(given, context, columns=True)
        scale = given.get("scale")
        if scale not in (None, "none", "standard"):
            refuse("E502", f"option `scale` must be `standard` or `none`, not `{scale}`", context.span)
        return cls(given, splitting, scale, context)

    def dataset(
        self, name: str, path: Path, columns: dict[str, Column], left_out: Mapping[str, str] | None = None
    ) -> Dataset:
        """``x`` f64[N, k] of the features, ``y`` of the target, and every column under its own name.

        ``left_out`` are columns of the file that cannot be used, and what they are.
        """
        for key in ("target", "features", "split"):
            for named in self.given.get(key, "").split(","):
                if left_out and named.strip() in left_out:
                    kind = left_out[named.strip()]
                    refuse(
                        "E508",
                        f"column `{named.strip()}` of {path} is {kind}, not numbers",
                        self.context.span,
                    )
        if not columns:
            message = f"{path} has no column of numbers or texts"
            refuse("E508", message, self.context.span, notes=self._left_out(left_out))
        parts = self._parts(columns, path)
        targets = self._names("target", columns) or [[n for n in columns if n != self._split_column][-1]]
        features = self._names("features", columns) or [
            name
            for name, column in columns.items()
            if name not in targets and column.classes is None and column.kind != "other"
        ]
        texts = [name for name in features if columns[name].classes is not None]
        if texts or not features:
            what = (
                f"column `{texts[0]}` of {path} is not of numbers"
                if texts
                else f"{path} leaves no column for `x`"
            )
            fix = "say which columns are features: ?features=a,b,c"
            listed = [
                f"its columns are: {', '.join(columns)}",
                *self._left_out(left_out),
                *_texts(columns, targets),
            ]
            refuse("E508", what, self.context.span, fix=fix, notes=listed)
        x = stack([columns[name] for name in features], "f8")
        y = self._target(targets, columns, path)
        count = len(y.array)
        # A column of its own called `x` or `y` gives way to the groups of those names.
        table = Table({**columns, "x": x, "y": y})
        tables = parts(table) if parts else self.splitting.tables(table)
        # Other data for a model that was trained on scaled columns is scaled as those were.
        scaling = None if self.scale == "none" else self.context.scaling
        if scaling is None and self.scale == "standard":
            scaling = self._scaling(path, tables["train"], {name: columns[name].shape for name in features})
        if scaling is not None:
            for feature in features:
                if feature not in scaling:
                    known = ", ".join(f"`{name}`" for name in scaling)
                    message = f"column `{feature}` of {path} was none of those that were scaled in training"
                    fix = "name those: ?features=…, or leave the scaling out: ?scale=none"
                    refuse("E595", message, self.context.span, notes=[f"they were {known}"], fix=fix)
            # In a file without the target a feature may be in its place, and `train.columns` may want it.
            scaled = [*features, *(name for name in scaling if name in columns and name not in features)]
            for name in scaled:
                self._check_scaled(name, columns[name], scaling[name][0], path)
            tables = _standardised(tables, {name: scaling[name] for name in scaled}, features)
        notes = (
            f"x is {', '.join(features)}",
            f"y is {', '.join(targets)}",
            *self._left_out(left_out),
        )
        made = Dataset.of(name, tables, doc=f"{count:,} rows")
        return replace(made, notes=notes, scaling=scaling)

    @staticmethod
    def _left_out(left_out: Mapping[str, str] | None) -> list[str]:
        return [f"`{column}` is left out: it is {kind}" for column, kind in (left_out or {}).items()]

    def _check_scaled(self, name: str, column: Column, mean: Any, path: Path) -> None:
        """E595 for a column that is not of as many numbers as the one that was scaled in training."""
        import numpy

        wanted = numpy.shape(mean)
        if column.classes is not None or column.shape != wanted:
            found = "of classes" if column.classes is not None else column.type_text
            was = f"f64[{', '.join(['N', *map(str, wanted)])}]"
            message = f"column `{name}` of {path} is {found}, and was {was} as it was scaled in training"
            refuse("E595", message, self.context.span)

    def _scaling(self, path: Path, train: Table, shapes: Mapping[str, tuple[int, ...]]) -> Scaling:
        import numpy

        found = _scaling(train, shapes)
        for name, pair in found.items():
            if not numpy.isfinite(numpy.concatenate([numpy.ravel(part) for part in pair])).all():
                message = f"column `{name}` of {path} has values so large that they cannot be scaled"
                refuse("E509", message, self.context.span)
        return found

    def _target(self, targets: list[str], columns: dict[str, Column], path: Path) -> Column:
        import numpy

        if len(targets) == 1:
            column = columns[targets[0]]
            if is_lazy(column.array) and column.array.ndim == 1:  # one number a row; its classes are wanted
                column = replace(column, array=numpy.asarray(column.array))
            return name_classes(column)
        for name in targets:
            if columns[name].classes is not None:
                message = f"column `{name}` of {path} is not of numbers, so it must be the only target"
                refuse("E508", message, self.context.span)
        return stack([columns[name] for name in targets])

    @property
    def _split_column(self) -> str | None:
        how = self.splitting.how
        return None if how in ("random", "last") else how

    def _parts(self, columns: dict[str, Column], path: Path) -> Any:
        """How a column of the file splits its rows; None if no column is to."""
        name = self._split_column
        if name is None:
            return None
        if name not in columns:
            self._missing(name, columns, "option `split` is neither `random` nor `last`")
        classes = columns[name].classes
        wrong = [] if classes is None else [text for text in classes if text.lower() not in ALIASES]
        if classes is None or wrong:
            found = f"`{wrong[0]}`" if wrong else columns[name].type_text
            note = "it says which row is `train`, `validation` or `test`"
            message = f"column `{name}` of {path} splits the rows, and has {found}"
            refuse("E508", message, self.context.span, notes=[note])
        if "test" in self.given:
            refuse(
                "E502", f"option `test` has no use where column `{name}` splits the rows", self.context.span
            )
        return lambda table: _by_column(table, name, classes, path, self.context)

    def _names(self, key: str, columns: dict[str, Column]) -> list[str] | None:
        """The columns an option lists; E510 for one that the file does not have."""
        if key not in self.given:
            return None
        names = [name.strip() for name in self.given[key].split(",")]
        if names == [""]:
            refuse("E502", f"option `{key}` names no column", self.context.span)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            refuse("E502", f"option `{key}` names column `{twice}` twice", self.context.span)
        for name in names:
            if name not in columns:
                self._missing(name, columns)
        return names

    def _missing(self, name: str, columns: dict[str, Column], *notes: str) -> None:
        near = suggest(name, columns)
        refuse(
            "E510",
            f"there is no column `{name}` in the file",
            self.context.span,
            notes=[*notes, f"its columns are: {', '.join(columns)}"],
            fix=near.text if near else None,
        )


def _texts(columns: Mapping[str, Column], targets: Sequence[str]) -> list[str]:
    """That a file's other columns are of texts."""
    names = ", ".join(f"`{n}`" for n, c in columns.items() if c.classes is not None and n not in targets)
    return [f"of texts, so that they are classes: {names}"] if names else []


def _by_column(
    table: Table, name: str, classes: tuple[str, ...], path: Path, context: DataContext
) -> dict[str, Table]:
    import numpy

    rest = Table({key: column for key, column in table.columns.items() if key != name})
    of_class = numpy.array([list(ALIASES.values()).index(ALIASES[text.lower()]) for text in classes])
    found = of_class[numpy.asarray(table.columns[name].array)]
    tables = {
        split: rest.take(numpy.flatnonzero(found == list(ALIASES.values()).index(split)))
        for split in dict.fromkeys(ALIASES.values())
    }
    if not len(tables["train"]):
        refuse("E516", f"column `{name}` of {path} leaves no row for train", context.span)
    return {split: part for split, part in tables.items() if len(part)}


def stack(columns: list[Column], dtype: str | None = None) -> Column:
    """Columns of numbers side by side, [N, width]; in the type that holds all of them unless one is given."""
    import numpy

    arrays = [column.array if column.divisor is None else column.values() for column in columns]
    return Column(
        join(arrays, numpy.dtype(dtype) if dtype else numpy.result_type(*(a.dtype for a in arrays)))
    )


def _scaling(train: Table, features: Mapping[str, tuple[int, ...]]) -> Scaling:
    """Mean and deviation of each feature, by its shape; the deviation of what never changes counts as 1."""
    import numpy

    x = train.columns["x"].array  # of all features, in double precision
    with numpy.errstate(over="ignore", invalid="ignore"):
        mean, deviation = _moments(x) if is_lazy(x) else (x.mean(axis=0), x.std(axis=0))
    deviation = numpy.where(deviation == 0, 1.0, deviation)
    found: dict[str, tuple[Any, Any]] = {}
    at = 0
    for name, shape in features.items():
        part = slice(at, at + math.prod(shape))
        found[name] = mean[part].reshape(shape).tolist(), deviation[part].reshape(shape).tolist()
        at = part.stop
    return found


def _standardised(tables: dict[str, Table], scaling: Scaling, features: Sequence[str]) -> dict[str, Table]:
    """Columns of all, each, and the features together, shifted by a mean and divided by a deviation."""
    import numpy

    by = {name: tuple(numpy.asarray(part) for part in pair) for name, pair in scaling.items()}
    by["x"] = tuple(numpy.concatenate([numpy.ravel(by[name][part]) for name in features]) for part in (0, 1))

    def scaled(table: Table) -> Table:
        changed = {}
        for name, (mean, deviation) in by.items():
            array = table.columns[name].array
            lazy = Scaled(array, mean, deviation)
            changed[name] = Column(lazy if is_lazy(array) else (array - mean) / deviation)
        return Table({**table.columns, **changed})

    return {split: scaled(table) for split, table in tables.items()}


def _moments(array: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and deviation of each column, in two passes."""
    import numpy

    count = len(array)
    mean = sum(part.sum(axis=0) for part in parts_of(array)) / count
    squares = sum(((part - mean) ** 2).sum(axis=0) for part in parts_of(array))
    return numpy.asarray(mean), numpy.sqrt(numpy.asarray(squares) / count)
