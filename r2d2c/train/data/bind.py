"""`bind`: a data set's columns mapped to the ports of a spec, checked once and then batched fast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Protocol

from r2d2c.diagnostics import Sink, suggest
from r2d2c.source import Span
from r2d2c.train.data.convert import (
    DTYPES,
    as_tensor,
    convert,
    extent_fits,
    find_bad_value,
    kind_fits,
    reshaped,
    shape_fits,
    torch_dtype,
)
from r2d2c.train.data.dataset import Column, Dataset, Scaling, Table
from r2d2c.train.data.lazy import LazyRows
from r2d2c.train.data.source import Port
from r2d2c.train.data.table_split import BoundColumn, TableLoader, TableSplit

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["BoundColumn", "BoundData", "Loader", "Split", "TableLoader", "TableSplit", "bind"]

MEMORY_LIMIT = (
    2 << 30
)  # bytes of converted copies; what is larger stays as stored and is converted by the batch
_SCAN = 1 << 22  # elements looked at in one go, so that a scan of a file on disk does not load it whole


class Loader(Protocol):
    """Batches of one split, epoch by epoch."""

    @property
    def count(self) -> int | None:
        """Batches of one epoch; None if only running it tells."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``start`` on: port -> tensor ``[<= batch_size, ...]``."""


class Split(Protocol):
    """One split bound to ports."""

    @property
    def samples(self) -> int | None:
        """How many samples, if that is known."""

    def loader(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: bool = False,
        workers: int = 0,
    ) -> Loader:
        """Batches of this split. A stream has batches and an order of its own and ignores all of these.

        augment: as training batches are. workers: processes that read and augment, where that is worth it.
        """

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on a device, as far as they are held in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class BoundData:
    """Splits bound to ports. ``notes`` says which column feeds which port where the names differ."""

    name: str
    splits: Mapping[str, Split]
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    scaling: Scaling | None = None

    @property
    def train(self) -> Split | None:
        return self.splits.get("train")

    @property
    def validation(self) -> Split | None:
        return self.splits.get("validation")

    @property
    def test(self) -> Split | None:
        return self.splits.get("test")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a sample of train for each port; a stream of batches does not tell."""
        table = self.train
        return {p: c.shape for p, c in table.columns.items()} if isinstance(table, TableSplit) else {}

    def to(self, device: torch.device | str) -> BoundData:
        return replace(self, splits={name: split.to(device) for name, split in self.splits.items()})


def bind(
    dataset: Dataset,
    ports: Mapping[str, Port],
    sink: Sink,
    *,
    bounds: Mapping[str, int] | None = None,
    columns: Mapping[str, str] | None = None,
    spans: Mapping[str, Span] | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> BoundData | None:
    """The data set's splits as batches of tensors for ``ports``, or None after reporting what does not fit.

    A port takes the column that ``columns`` names for it, else the one of its own name, else (``x`` and
    ``image``) the other of these two; a column of the same number of elements is reshaped. ``bounds``
    limits a port's integers to ``[0, bound)``. ``spans`` are the ports' places in the spec. Reports E510 to
    E513 and E509.
    """
    binder = _Binder(dataset, sink, dict(bounds or {}), dict(columns or {}), dict(spans or {}))
    found = {port: binder.columns(port, *typed) for port, typed in ports.items()}
    if binder.failed:
        return None
    splits: dict[str, TableSplit] = {}
    left = memory_limit
    for split, table in dataset.splits.items():
        bound: dict[str, BoundColumn] = {}
        for port, (dtype, _) in ports.items():
            column, shape = found[port][split]
            bound[port], used = _bound(column, dtype, shape, left)
            left -= used
            binder.check_values(port, split, column, bound[port])
        image = table.columns.get("image")
        splits[split] = TableSplit(bound, len(table), None if image is None else image.shape)
    if binder.failed:
        return None
    return BoundData(dataset.name, splits, dataset.classes, tuple(binder.notes), dataset.scaling)


def _bound(column: Column, dtype: str, shape: tuple[int, ...], left: int) -> tuple[BoundColumn, int]:
    """The column, converted once if that needs at most ``left`` bytes, and the bytes it took."""
    if isinstance(column.array, LazyRows):
        return BoundColumn(column.array, dtype, column.divisor, shape), 0
    tensor = as_tensor(column.array)
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    if column.divisor is None and tensor.dtype == torch_dtype(dtype):
        return BoundColumn(tensor, dtype, None, shape), 0
    size = tensor.numel() * torch_dtype(dtype).itemsize
    if size > left:
        return BoundColumn(tensor, dtype, column.divisor, shape), 0
    return BoundColumn(convert(tensor, dtype, column.divisor), dtype, None, shape), size


@dataclass(slots=True)
class _Binder:
    dataset: Dataset
    sink: Sink
    bounds: dict[str, int]
    wanted: dict[str, str]
    spans: dict[str, Span]
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def report(
        self, code: str, port: str, message: str, *, notes: tuple[str, ...] = (), fix: str | None = None
    ) -> None:
        self.failed = True
        self.sink.report(code, self.spans.get(port), message, notes=notes, fix=fix)

    def columns(
        self, port: str, dtype: str, dims: tuple[int | None, ...]
    ) -> dict[str, tuple[Column, tuple[int, ...]]]:
        """Of each split, the column for a port and the shape that a sample of it gets."""
        found: dict[str, tuple[Column, tuple[int, ...]]] = {}
        for split, table in self.dataset.splits.items():
            name = self.name_of(port, table, dims[1:])
            if name is None:
                self.missing(port, split, table)
                return {}
            column = table.columns[name]
            if not kind_fits(column.kind, dtype):
                self.wrong_kind(port, name, dtype, dims, column)
                return {}
            shape = column.shape
            if not shape_fits(shape, dims[1:]):
                other = reshaped(shape, dims[1:])
                if other is None:
                    self.wrong_shape(port, name, split, dtype, dims, table)
                    return {}
                shape = other
            if split == "train" and (name != port or shape != column.shape):
                what = (
                    "" if shape == column.shape else f", reshaped from {list(column.shape)} to {list(shape)}"
                )
                self.notes.append(f"port `{port}` takes column `{name}`{what}")
            found[split] = (column, shape)
        return found

    def name_of(self, port: str, table: Table, dims: tuple[int | None, ...]) -> str | None:
        """The column for a port: as told, of its name, or its twin when that alone (or better) fits."""
        if port in self.wanted:
            return self.wanted[port] if self.wanted[port] in table.columns else None
        twin = {"x": "image", "image": "x"}.get(port)
        if twin is not None and twin in table.columns:
            own = table.columns.get(port)
            if own is None or (
                not shape_fits(own.shape, dims) and shape_fits(table.columns[twin].shape, dims)
            ):
                return twin
        return port if port in table.columns else None

    def missing(self, port: str, split: str, table: Table) -> None:
        wanted = self.wanted.get(port, port)
        near = suggest(wanted, table.columns)
        self.report(
            "E510",
            port,
            f"the {split} data of {self.dataset.name} has no column `{wanted}` for port `{port}`",
            notes=(f"its columns are: {_listed(table)}",),
            fix=near.text if near else None,
        )

    def wrong_kind(
        self, port: str, name: str, dtype: str, dims: tuple[int | None, ...], column: Column
    ) -> None:
        remedy = "declare the port as f32, or round the column" if column.kind == "float" else None
        self.report(
            "E512",
            port,
            f"port `{port}` is {_type(dtype, dims)}, column `{name}` of {self.dataset.name} "
            f"is {column.type_text}",
            notes=(f"{column.kind} values do not go into a port of {DTYPES[dtype][1]}s",),
            fix=remedy,
        )

    def wrong_shape(
        self, port: str, name: str, split: str, dtype: str, dims: tuple[int | None, ...], table: Table
    ) -> None:
        self.report(
            "E511",
            port,
            f"port `{port}` is {_type(dtype, dims)}, column `{name}` of {self.dataset.name} "
            f"is {table.columns[name].type_text}",
            notes=(f"the columns of its {split} data are: {_listed(table)}",),
        )

    def check_values(self, port: str, split: str, column: Column, bound: BoundColumn) -> None:
        """Look at every value once: floats as they become (1e300 is no f32), integers as they were.

        What was looked at as its file was opened is not read again: what its values lie between is known.
        """
        is_float = DTYPES[bound.dtype][1] == "float"
        stored = column.array.dtype
        bytes_ = stored.kind in "biu" and stored.itemsize == 1
        # Of what holds integers, f16 alone has no room for some.
        if is_float and (bytes_ or (column.kind != "float" and bound.dtype != "f16")):
            return
        values = bound.values
        extent = values.extent if isinstance(values, LazyRows) and bound.divisor is None else None
        if extent is not None and extent_fits(extent, bound.dtype, self.bounds.get(port)):
            return
        if not is_float and not isinstance(values, LazyRows):
            values = as_tensor(column.array)  # converted, they may have become others
        rows = max(1, _SCAN // max(1, prod(values.shape[1:])))
        for start in range(0, len(values), rows):
            span = slice(start, start + rows)
            part = as_tensor(values[span]) if isinstance(values, LazyRows) else values[span]
            part = convert(part, bound.dtype, bound.divisor) if is_float else part
            bad = find_bad_value(part, bound.dtype, self.bounds.get(port))
            if bad is not None:
                row, what = bad
                code = "E509" if is_float else "E513"
                self.report(
                    code,
                    port,
                    f"port `{port}`: sample {start + row} of the {split} data of {self.dataset.name} {what}",
                    fix=_remedy(code, self.bounds.get(port)),
                )
                return


def _remedy(code: str, bound: int | None) -> str | None:
    if code == "E513" and bound is not None:
        return f"the spec has {bound} classes here: give the dim that counts them its true size"
    return None


def _type(dtype: str, dims: tuple[int | None, ...]) -> str:
    names = ["N", *("…" if dim is None else str(dim) for dim in dims[1:])]
    return f"{dtype}[{', '.join(names)}]"


def _listed(table: Table) -> str:
    return ", ".join(f"`{name}` {column.type_text}" for name, column in table.columns.items())
