"""`StoredRows`: the rows of a large array in a .npy file, or of one that is in a .npz file as it is.

Runs of neighbours are read in one go. A mapped file would do as much, but one that is cut off while
it is mapped ends the process; here it is a diagnostic.
"""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from r2d2c.train.data.lazy import Extent, LazyRows
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2d2c.source import Span

LARGE = 256 << 20
"""Bytes above which an array stays on disk."""
BLOCK = 1 << 20
"""Bytes of neighbours that are read together."""
_LOCAL = struct.Struct("<4s22xHH")
"""The head of a member of a zip file: its mark, and the lengths of the name and the extra field behind it."""


class _Open:
    """The open file of an array; a copy in another process opens it for itself."""

    __slots__ = ("file", "process")

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.process = 0

    def __reduce__(self) -> tuple[type[_Open], tuple[()]]:
        return _Open, ()

    def at(self, path: Path) -> IO[bytes]:
        if self.file is None or self.process != os.getpid():
            self.file, self.process = path.open("rb", buffering=0), os.getpid()
        return self.file


@dataclass(frozen=True, slots=True, eq=False)
class StoredRows(LazyRows):
    """``[N, ...]`` in the order of C from byte ``offset`` of a file on. ``stored`` is the dtype it has there.

    seen: what all values lie between, if somebody has looked.
    """

    path: Path
    offset: int
    stored: Any
    size_of: tuple[int, ...]
    span: Span | None = None
    opened: _Open = field(default_factory=_Open)
    seen: Extent | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size_of

    @property
    def dtype(self) -> Any:
        return self.stored.newbyteorder("=")

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return int(self.stored.itemsize) * prod(self.size_of[1:])

    @property
    def block(self) -> int:
        return max(1, BLOCK // max(1, self.row))

    @property
    def extent(self) -> Extent | None:
        return self.seen

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        """E505 if the file has become shorter, E503 if it is gone."""
        import numpy

        sorted_rows, back = numpy.unique(rows, return_inverse=True)
        found = numpy.empty((len(sorted_rows), *self.size_of[1:]), self.stored)
        into = found.reshape(-1).view(numpy.uint8).data
        ends = numpy.flatnonzero(numpy.diff(sorted_rows) != 1) + 1
        try:
            file = self.opened.at(self.path)
            for first, end in zip([0, *ends.tolist()], [*ends.tolist(), len(sorted_rows)], strict=True):
                if first < end:
                    self._fill(file, into[first * self.row : end * self.row], int(sorted_rows[first]))
        except OSError as error:
            refuse("E503", f"cannot read {self.path}: {error.strerror or error}", self.span)
        found = found.astype(self.dtype, copy=False)
        return found if numpy.array_equal(rows, sorted_rows) else found[back.reshape(-1)]

    def _fill(self, file: IO[bytes], into: memoryview, row: int) -> None:
        done = 0
        file.seek(self.offset + row * self.row)
        while done < len(into):
            count = file.readinto(into[done:])  # type: ignore[attr-defined]
            if not count:
                row += done // self.row
                refuse("E505", f"{self.path} is cut off: row {row} is not in it any more", self.span)
            done += count


def stored_array(
    path: Path, span: Span | None = None, member: zipfile.ZipInfo | None = None
) -> StoredRows | None:
    """A large array of numbers that can stay on disk: a .npy file, or a ``member`` of a .npz file.

    None for one that is small, compressed, of another kind or layout, or damaged: reading it says the rest.
    """
    with path.open("rb") as file:
        found = _header(file, member)
    if found is None:
        return None
    shape, fortran, dtype, offset = found
    bytes_ = prod(shape) * dtype.itemsize
    # A file that is shorter than it says is left to the reader, too.
    end = path.stat().st_size if member is None else offset + bytes_
    fits = offset + bytes_ <= min(end, path.stat().st_size)
    if bytes_ <= LARGE or fortran or dtype.kind not in "biuf" or not shape or not fits:
        return None
    return StoredRows(path, offset, dtype, shape, span)


def _header(file: IO[bytes], member: zipfile.ZipInfo | None) -> tuple[tuple[int, ...], bool, Any, int] | None:
    from numpy.lib import format as npy

    if member is not None:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            return None
        file.seek(member.header_offset)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size:
            return None
        mark, name, extra = _LOCAL.unpack(head)
        if mark != b"PK\x03\x04":
            return None
        file.seek(name + extra, os.SEEK_CUR)
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            return None
        shape, fortran, dtype = read(file)
    except (ValueError, OSError, EOFError):
        return None
    return shape, fortran, dtype, file.tell()
