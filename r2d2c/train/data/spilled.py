"""`SpilledRows`: columns that were read from a file that rows cannot be picked from, kept in a temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.lazy import Extent, LazyRows, in_blocks
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2d2c.source import Span


def scratch_folder() -> str:
    """Where temporary files of data go: what TMPDIR says, else /var/tmp, as /tmp is often in memory itself."""
    named = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    usual = "/var/tmp"
    return usual if not named and os.access(usual, os.W_OK | os.X_OK) else tempfile.gettempdir()


class Spill:
    """A file of parts of columns that has no name: it is gone when the process ends, however that ends.

    ``source`` is the file that it is a copy of. Forked processes read it too; a process of another kind, that gets a
    pickle, as long as this one lives.
    """

    __slots__ = ("__weakref__", "file", "size", "source", "span")

    def __init__(self, source: Path, span: Span | None, file: int | None = None) -> None:
        """``file``: the descriptor of one that is there already."""
        self.source, self.span, self.size = source, span, 0
        try:
            self.file = _made() if file is None else file
        except OSError as error:
            self._no_room(error)
        weakref.finalize(self, os.close, self.file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.source, self.span, f"/proc/{os.getpid()}/fd/{self.file}")

    def add(self, part: NDArray[Any]) -> int:
        """Write a part, and give its first byte. E517 if the disk is full."""
        at = self.size
        left = part.tobytes()
        try:
            while left:  # it may be written in part
                left = left[os.write(self.file, left) :]
        except OSError as error:
            self._no_room(error)
        self.size += part.nbytes
        return at

    def part(self, at: int, dtype: Any, count: int) -> NDArray[Any]:
        """So many numbers from byte ``at`` on."""
        import numpy

        try:
            # With a place of its own for each read, processes that share the file do not disturb each other.
            raw = os.pread(self.file, count * dtype.itemsize, at)
        except OSError as error:
            message = f"cannot read the temporary copy of {self.source}: {error.strerror or error}"
            refuse("E503", message, self.span)
        return numpy.frombuffer(raw, dtype, count)

    def _no_room(self, error: OSError) -> NoReturn:
        refuse(
            "E517",
            f"no temporary copy of {self.source} can be made in {scratch_folder()}: {error.strerror or error}",
            self.span,
            notes=["what is too large for memory is kept there while the command runs"],
            fix="name a folder on a disk with room: TMPDIR=/path/to/folder r2d2c …",
        )


def _made() -> int:
    with tempfile.TemporaryFile(prefix="r2d2c-", dir=scratch_folder()) as file:
        return os.dup(file.fileno())


def _reopened(source: Path, span: Span | None, path: str) -> Spill:
    try:
        return Spill(source, span, os.open(path, os.O_RDONLY))
    except OSError as error:
        refuse("E503", f"cannot read the temporary copy of {source}: {error.strerror or error}", span)


@dataclass(frozen=True, slots=True, eq=False)
class SpilledRows(LazyRows):
    """``[N]`` of one column, in parts of ``rows`` rows (the last may have fewer).

    offsets: the first byte of each part. stored, type: the dtypes in the file and here. place: what the numbers in the
    file stand for, if not for themselves.
    """

    spill: Spill
    offsets: NDArray[Any]
    rows: int
    count: int
    stored: Any
    type: Any
    place: NDArray[Any] | None = None
    seen: Extent | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count,)

    @property
    def dtype(self) -> Any:
        return self.type

    @property
    def block(self) -> int:
        return min(self.rows, self.count)

    @property
    def extent(self) -> Extent | None:
        return self.seen

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        """E503 if the temporary file cannot be read."""
        import numpy

        found = numpy.empty(len(rows), self.type)
        for number, places in in_blocks(rows, self.edges):
            first = number * self.rows
            part = self.spill.part(int(self.offsets[number]), self.stored, min(self.rows, self.count - first))
            part = part[rows[places] - first]
            found[places] = part if self.place is None else self.place[part]
        return found
