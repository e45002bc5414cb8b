"""Files that are whole or not there: written beside, flushed to the disk, then renamed into place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

_SUFFIX = ".partial"
_numbers = count()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it replaces ``path`` when the block ends without an exception.

    A kill at any moment leaves the old file or the new one. `OSError` (full disk, read-only folder) comes
    through, with the old file untouched and nothing left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}{_SUFFIX}")
    try:
        with named(path):
            yield partial
            _flush(partial)
            partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.filename in (partial, str(partial)):
            error.filename = str(path)  # the name that a person knows
        raise
    # The rename itself is on disk only once the folder is; where folders cannot be flushed, that is the best.
    with suppress(OSError):
        _flush(path.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Have an `OSError` that knows no file, as of a flush, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file, or nothing. `OSError` comes through with the old file untouched."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def link_atomic(source: Path, path: Path) -> None:
    """Make ``path`` another name of a file that is only ever replaced, or a copy where links fail."""
    with replacing(path) as partial:
        try:
            partial.hardlink_to(source)
        except OSError:
            partial.write_bytes(source.read_bytes())


def remove_partial(folder: Path) -> None:
    """Delete what processes that were killed while writing left behind; do this only while nobody writes."""
    for path in folder.glob(f".*{_SUFFIX}"):
        with suppress(OSError):
            path.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
