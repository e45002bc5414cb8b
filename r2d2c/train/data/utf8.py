"""Files of text: UTF-8 in whole or by the line, and what is said of one that is none."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from r2d2c.train.data.source import DataContext
from r2d2c.train.refuse import refuse

LONGEST = 1 << 26
"""Characters of one line. What has more is taken for no table; it would fill the memory."""
_CHUNK = 1 << 20


def read_utf8(path: Path, context: DataContext) -> str:
    """The text of a file; E506 if it is empty, E515 names the byte that is not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        refuse("E503", f"cannot read {path}: {error.strerror or error}", context.span)
    if not raw.strip():
        refuse("E506", f"{path} is empty", context.span)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _strange(path, raw.count(b"\n", 0, error.start) + 1, error.start, raw[error.start], context)
    if "\0" in text:
        _nul(path, text.count("\n", 0, text.index("\0")) + 1, context)
    return text


def utf8_lines(path: Path, context: DataContext) -> Iterator[str]:
    """The lines of a file, with their ends (of any kind) as they are, and without a byte order mark.

    No more than one line is in memory. E515 names the byte that is not UTF-8, E505 a line that is no line.
    """
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            while line := file.readline(LONGEST):
                number += 1
                if "\0" in line:
                    _nul(path, number, context)
                if len(line) == LONGEST:
                    message = (
                        f"{path}:{number}: the line has {LONGEST:,} characters or more, so it is no table"
                    )
                    refuse("E505", message, context.span)
                yield line
    except UnicodeDecodeError:
        _find_strange(path, context)
    except OSError as error:
        refuse("E503", f"cannot read {path}: {error.strerror or error}", context.span)


def _find_strange(path: Path, context: DataContext) -> NoReturn:
    """Say where a file that is not UTF-8 is not."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    before, line = 0, 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                kept = len(error.object) - len(chunk)  # the beginning of a character, of the chunk before
                at = before - kept + error.start
                line += chunk.count(b"\n", 0, max(0, error.start - kept))
                _strange(path, line, at, error.object[error.start], context)
            if not chunk:
                refuse("E503", f"{path} has changed while it was read", context.span)
            before += len(chunk)
            line += chunk.count(b"\n")


KINDS = {
    b"\x1f\x8b": ("packed by gzip", "unpack it: gunzip -k FILE"),
    b"PK\x03\x04": ("a zip archive, as spreadsheets are", "unpack it, or save the sheet as CSV"),
    b"PAR1": ("a Parquet file", "name it so: --data parquet:FILE"),
    b"\x93NUMPY": ("an array of NumPy", "name its folder: --data npy:FOLDER"),
    b"\xff\xfe": ("in UTF-16", "convert it: iconv -f utf-16 -t utf-8 FILE"),
    b"\xfe\xff": ("in UTF-16", "convert it: iconv -f utf-16 -t utf-8 FILE"),
}
"""What a file that is no text begins with, what it is then, and what to do."""


def _kind(path: Path, context: DataContext) -> None:
    """E515 for a file that says what it is, if that is no text."""
    with path.open("rb") as file:
        head = file.read(8)
    for begin, (kind, fix) in KINDS.items():
        if head.startswith(begin):
            refuse("E515", f"{path} is {kind}, not a text in UTF-8", context.span, fix=fix)


def _strange(path: Path, line: int, at: int, byte: int, context: DataContext) -> NoReturn:
    _kind(path, context)
    message = f"{path}:{line}: byte {at} (0x{byte:02x}) is not UTF-8"
    refuse("E515", message, context.span, fix="convert it: iconv -f latin1 -t utf-8 FILE")


def _nul(path: Path, line: int, context: DataContext) -> NoReturn:
    _kind(path, context)
    refuse("E515", f"{path}:{line}: there is a NUL character in it, so it is no text", context.span)
