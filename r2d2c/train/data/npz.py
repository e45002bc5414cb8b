"""`npz:FILE` and `npy:FOLDER`: arrays by name, as `numpy.savez` and `numpy.save` write them.

Nothing in a file is ever run (no pickles). Large arrays stay on disk: see `StoredRows`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from r2d2c.train.data.dataset import Column, Dataset, Table, name_classes
from r2d2c.train.data.lazy import Extent, around, finite_extent, is_lazy, parts_of
from r2d2c.train.data.source import DataContext, DataSource, split_options
from r2d2c.train.data.split import ALIASES, OPTIONS, Splitting
from r2d2c.train.data.stored import StoredRows, stored_array
from r2d2c.train.refuse import refuse

_CHUNK = 1 << 22


def open_npz(argument: str, context: DataContext) -> Dataset:
    """Arrays named ``train_x`` (or ``x_train``), ``test_x`` …, or plain ``x``, ``y`` split by a fraction."""
    argument, options = split_options(argument, OPTIONS, context)
    splitting = Splitting.of(options, context)
    path = context.file(context.path(argument, "npz:"))
    return _dataset(f"npz:{argument}", path, read_npz(path, context), splitting, context)


def open_npy(argument: str, context: DataContext) -> Dataset:
    """The .npy files of a folder, which have the names that arrays of a .npz file have."""
    argument, options = split_options(argument, OPTIONS, context)
    splitting = Splitting.of(options, context)
    path = context.folder(context.path(argument, "npy:"))
    files = sorted(entry for entry in path.iterdir() if entry.suffix == ".npy" and entry.name[0] != ".")
    if not files:
        refuse("E506", f"{path} has no .npy files in it", context.span)
    arrays = {file.stem: read_npy(context.file(file), context) for file in files}
    return _dataset(f"npy:{argument}", path, arrays, splitting, context)


def _dataset(
    name: str, path: Path, arrays: Mapping[str, Any], splitting: Splitting, context: DataContext
) -> Dataset:
    sorted_by_split: dict[str, dict[str, Column]] = {}
    for key, array in arrays.items():
        split, column = _split_and_name(key)
        if column in sorted_by_split.setdefault(split, {}):
            refuse("E507", f"{path} has two arrays for `{column}` of split {split or 'train'}", context.span)
        sorted_by_split[split][column] = Column(array)
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
        tables = splitting.tables(_table(path, "", plain, context))
    if "train" not in tables:
        refuse("E516", f"{path} has no training arrays, only {', '.join(arrays)}", context.span)
    return Dataset.of(name, tables, doc="arrays of NumPy")


def read_npy(path: Path, context: DataContext) -> Any:
    """The array of a file, as `read_npz` gives one."""
    import numpy

    if _first_bytes(path, context)[:6] != b"\x93NUMPY":
        refuse("E505", f"{path} is no npy file", context.span)
    found: Any = stored_array(path, context.span)
    if found is None:
        try:
            found = numpy.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError, MemoryError) as error:
            _refused(path, "", error, context)
    return _numbers(path, path.stem, found, context)


def read_npz(path: Path, context: DataContext) -> dict[str, Any]:
    """Every array of a file, checked to be numbers without NaN; E505, E508 and E509 name the array."""
    import numpy

    arrays: dict[str, Any] = {}
    key = ""
    magic = _first_bytes(path, context)
    if magic[:6] == b"\x93NUMPY":
        refuse(
            "E505",
            f"{path} is a single .npy array",
            context.span,
            fix="save it with numpy.savez(x=…), or give its folder: npy:FOLDER",
        )
    if magic[:2] != b"PK":  # numpy.load would take it for a pickle
        refuse("E505", f"{path} is no npz file: it starts with bytes {magic.hex(' ')}", context.span)
    try:
        # A stream of our own: numpy leaves its file open when the zip in it is damaged.
        with path.open("rb") as stream, numpy.load(stream, allow_pickle=False) as archive:
            members = {info.filename: info for info in archive.zip.infolist()}
            for key in archive.files:
                member = members.get(f"{key}.npy")
                found: Any = None if member is None else stored_array(path, context.span, member)
                found = archive[key] if found is None else found
                if isinstance(found, bytes):
                    refuse("E508", f"`{key}` in {path} is no array", context.span)
                arrays[key] = _numbers(path, key, found, context)
    except ValueError as error:
        _refused(path, key, error, context)
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


def _refused(path: Path, key: str, error: Exception, context: DataContext) -> NoReturn:
    if "pickle" in str(error).lower() or "object array" in str(error).lower():
        refuse(
            "E508",
            f"{f'array `{key}` of {path}' if key else path} holds Python objects",
            context.span,
            notes=["r2d2c never unpickles data: a pickle can run any code"],
            fix="save plain numbers: numpy.asarray(values, dtype=float)",
        )
    _damaged(path, key, error, context)


def _damaged(path: Path, key: str, error: Exception, context: DataContext) -> NoReturn:
    where = f"array `{key}` of {path}" if key else str(path)
    refuse("E505", f"{where} cannot be read: it is damaged, cut off or no npz file ({error})", context.span)


def _numbers(path: Path, key: str, array: Any, context: DataContext) -> Any:
    import numpy

    if array.dtype.kind not in "biuf":
        refuse("E508", f"array `{key}` of {path} is {array.dtype}, not numbers", context.span)
    if array.ndim == 0:
        refuse("E507", f"array `{key}` of {path} is a single number, not a sample a row", context.span)
    if array.dtype.kind == "f":
        start, extents = 0, list[Extent]()
        for part in parts_of(array, max(1, _CHUNK // max(1, prod(array.shape[1:])))):
            extent = finite_extent(part)
            if extent is not None:
                extents.append(extent)
            elif part.size:
                row = start + int(numpy.argwhere(~numpy.isfinite(part))[0][0])
                refuse("E509", f"array `{key}` of {path} has NaN or infinity in row {row}", context.span)
            start += len(part)
        if isinstance(array, StoredRows):
            array = replace(array, seen=around(extents))
    return array if is_lazy(array) else array.astype(array.dtype.newbyteorder("="), copy=False)


def _split_and_name(key: str) -> tuple[str, str]:
    """``train_x`` and ``x_train`` -> (train, x); ``x`` -> ("", x)."""
    head, _, rest = key.partition("_")
    if rest and head in ALIASES:
        return ALIASES[head], rest
    rest, _, tail = key.rpartition("_")
    if rest and tail in ALIASES:
        return ALIASES[tail], rest
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
    usage="npz:FILE[?test=0.2&split=last&seed=0]",
    open=open_npz,
    options=OPTIONS,
    family="files",
)

NPY = DataSource(
    name="npy",
    doc="the .npy files of a folder by name: x.npy, y.npy, or train_x.npy …; large ones stay on disk",
    usage="npy:FOLDER[?test=0.2&split=last&seed=0]",
    open=open_npy,
    options=OPTIONS,
    family="files",
)
