"""`npz:FILE`: arrays by name, as `numpy.savez` writes them. Nothing in the file is ever run (no pickles)."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.dataset import Column, Dataset, Table, name_classes
from r2d2c.train.data.source import DataContext, DataSource, fraction, split_options, whole_number
from r2d2c.train.data.split import split_table
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = {
    "test": "the part held out for test when the file has no splits (0.2)",
    "seed": "of that split (0)",
}
_ALIASES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
_CHUNK = 1 << 22


def open_npz(argument: str, context: DataContext) -> Dataset:
    """Arrays named ``train_x`` (or ``x_train``), ``test_x`` …, or plain ``x``, ``y`` split by a fraction."""
    argument, options = split_options(argument, OPTIONS, context)
    held, seed = fraction(options, "test", 0.2, context), whole_number(options, "seed", 0, context, least=0)
    path = context.file(context.path(argument, "npz:"))
    arrays = read_npz(path, context)
    sorted_by_split: dict[str, dict[str, Column]] = {}
    for key, array in arrays.items():
        split, name = _split_and_name(key)
        if name in sorted_by_split.setdefault(split, {}):
            refuse("E507", f"{path} has two arrays for `{name}` of split {split or 'train'}", context.span)
        sorted_by_split[split][name] = Column(array)
    plain = sorted_by_split.pop("", None)
    if plain and sorted_by_split:
        refuse(
            "E507",
            f"{path} mixes arrays with and without a split in their names",
            context.span,
            notes=[f"without one: {', '.join(plain)}"],
            fix="name them all like `train_x`, `test_x`, or none of them",
        )
    tables = {split: _table(path, split, columns, context) for split, columns in sorted_by_split.items()}
    if plain:
        tables["train"], tables["test"] = split_table(
            _table(path, "", plain, context), held, seed, context.span
        )
    if "train" not in tables:
        refuse("E516", f"{path} has no training arrays, only {', '.join(arrays)}", context.span)
    return Dataset.of(f"npz:{argument}", tables, doc="arrays of a NumPy file")


def read_npz(path: Path, context: DataContext) -> dict[str, NDArray[Any]]:
    """Every array of a file, checked to be numbers without NaN; E505, E508 and E509 name the array."""
    import numpy

    arrays: dict[str, NDArray[Any]] = {}
    key = ""
    magic = _first_bytes(path, context)
    if magic[:6] == b"\x93NUMPY":
        refuse("E505", f"{path} is a single .npy array", context.span, fix="save it with numpy.savez(x=…)")
    if magic[:2] != b"PK":  # numpy.load would take it for a pickle
        refuse("E505", f"{path} is no npz file: it starts with bytes {magic.hex(' ')}", context.span)
    try:
        # A stream of our own: numpy leaves its file open when the zip in it is damaged.
        with path.open("rb") as stream, numpy.load(stream, allow_pickle=False) as archive:
            for key in archive.files:
                arrays[key] = _numbers(path, key, archive[key], context)
    except ValueError as error:
        if "pickle" in str(error).lower() or "object array" in str(error).lower():
            what = f"array `{key}` of {path}" if key else str(path)
            refuse(
                "E508",
                f"{what} holds Python objects",
                context.span,
                notes=["r2d2c never unpickles data: a pickle can run any code"],
                fix="save plain numbers: numpy.asarray(values, dtype=float)",
            )
        _damaged(path, key, error, context)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, OSError, MemoryError) as error:
        _damaged(path, key, error, context)
    if not arrays:
        refuse("E506", f"{path} has no arrays in it", context.span)
    return arrays


def _first_bytes(path: Path, context: DataContext) -> bytes:
    with path.open("rb") as stream:
        magic = stream.read(8)
    if not magic:
        refuse("E506", f"{path} is empty", context.span)
    return magic


def _damaged(path: Path, key: str, error: Exception, context: DataContext) -> NoReturn:
    where = f"array `{key}` of {path}" if key else str(path)
    refuse("E505", f"{where} cannot be read: it is damaged, cut off or no npz file ({error})", context.span)


def _numbers(path: Path, key: str, array: NDArray[Any], context: DataContext) -> NDArray[Any]:
    import numpy

    if array.dtype.kind not in "biuf":
        refuse("E508", f"array `{key}` of {path} is {array.dtype}, not numbers", context.span)
    if array.ndim == 0:
        refuse("E507", f"array `{key}` of {path} is a single number, not a sample a row", context.span)
    if array.dtype.kind == "f":
        for start in range(0, len(array), max(1, _CHUNK // max(1, array[:1].size))):
            part = array[start : start + max(1, _CHUNK // max(1, array[:1].size))]
            if not numpy.isfinite(part).all():
                row = start + int(numpy.argwhere(~numpy.isfinite(part))[0][0])
                refuse("E509", f"array `{key}` of {path} has NaN or infinity in row {row}", context.span)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _split_and_name(key: str) -> tuple[str, str]:
    """``train_x`` and ``x_train`` -> (train, x); ``x`` -> ("", x)."""
    head, _, rest = key.partition("_")
    if rest and head in _ALIASES:
        return _ALIASES[head], rest
    rest, _, tail = key.rpartition("_")
    if rest and tail in _ALIASES:
        return _ALIASES[tail], rest
    return "", key


def _table(path: Path, split: str, columns: dict[str, Column], context: DataContext) -> Table:
    lengths = {name: len(column.array) for name, column in columns.items()}
    where = f"the {split} arrays of {path}" if split else f"the arrays of {path}"
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"`{name}` {length}" for name, length in lengths.items())
        refuse("E507", f"{where} differ in their number of rows", context.span, notes=[f"rows: {listed}"])
    if any(column.array.size == 0 for column in columns.values()):
        refuse("E506", f"{where} are empty", context.span)
    if "y" in columns:
        columns = {**columns, "y": name_classes(columns["y"])}
    return Table(columns)


NPZ = DataSource(
    name="npz",
    doc="arrays of a NumPy .npz file by name: x, y, or train_x, test_x …",
    usage="npz:FILE[?test=0.2&seed=0]",
    open=open_npz,
    options=OPTIONS,
)
