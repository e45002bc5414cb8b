"""`text:FILE`: a text as characters, to predict the next one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, split_options, whole_number
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = {"length": "characters of one sample, T (64)"}
UNKNOWN = "\ufffd"


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
        line = raw.count(b"\n", 0, error.start) + 1
        refuse(
            "E515",
            f"{path}:{line}: byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8",
            context.span,
            fix="convert it: iconv -f latin1 -t utf-8 FILE",
        )
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        refuse("E515", f"{path}:{line}: there is a NUL character in it, so it is no text", context.span)
    return text


def open_text(argument: str, context: DataContext) -> Dataset:
    """``x`` i64[N, T] and ``y`` i64[N, T], the characters one further on; split 90/5/5 without shuffling.

    The vocabulary is that of the train part, sorted, and after it one id for every character not seen there.
    """
    import numpy

    argument, options = split_options(argument, OPTIONS, context)
    length = whole_number(options, "length", 64, context)
    path = context.file(context.path(argument, "text:"))
    # Line ends are made one character, so that a text is the same data on every system.
    text = read_utf8(path, context).removeprefix("\ufeff").replace("\r\n", "\n")
    points = numpy.frombuffer(text.encode("utf-32-le"), numpy.uint32)
    cuts = [0, len(points) * 90 // 100, len(points) * 95 // 100, len(points)]
    vocabulary = numpy.unique(points[: cuts[1]])
    if cuts[2] - cuts[1] <= length or cuts[3] - cuts[2] <= length:
        refuse(
            "E516",
            f"{path} has {len(points):,} characters, too few for samples of {length}",
            context.span,
            notes=["validation and test are 5 % each, and need more characters than one sample has"],
            fix="ask for shorter samples: ?length=16",
        )
    classes = (*(chr(int(point)) for point in vocabulary), UNKNOWN)
    train, validation, test = (_windows(points[a:b], vocabulary, length, classes) for a, b in pairwise(cuts))
    notes = (
        f"{len(points):,} characters, {len(vocabulary)} different ones in train, the last id is for others",
    )
    return Dataset(f"text:{argument}", train, validation, test, "characters, to predict the next", notes)


def encode(text: str, classes: tuple[str, ...]) -> NDArray[Any]:
    """i64[len(text)]: the ids of a text in the vocabulary of a text data set (its ``classes``)."""
    import numpy

    vocabulary = numpy.array([ord(name) for name in classes[:-1]], numpy.uint32)
    return _ids(numpy.frombuffer(text.encode("utf-32-le"), numpy.uint32), vocabulary).astype(numpy.int64)


def _ids(points: NDArray[Any], vocabulary: NDArray[Any]) -> NDArray[Any]:
    import numpy

    at = numpy.searchsorted(vocabulary, points)
    known = vocabulary[numpy.minimum(at, len(vocabulary) - 1)] == points
    # Small ids stay small in memory; they become i64 batch by batch.
    small = numpy.uint8 if len(vocabulary) < 256 else numpy.int32
    return numpy.where(known, at, len(vocabulary)).astype(small)


def _windows(points: NDArray[Any], vocabulary: NDArray[Any], length: int, classes: tuple[str, ...]) -> Table:
    """Windows that do not overlap; x and y are views of the same ids."""
    ids = _ids(points, vocabulary)
    count = (len(ids) - 1) // length
    x = ids[: count * length].reshape(count, length)
    y = ids[1 : count * length + 1].reshape(count, length)
    return Table({"x": Column(x, classes=classes), "y": Column(y, classes=classes)})


TEXT = DataSource(
    name="text",
    doc="the characters of a text, to predict the next one",
    usage="text:FILE[?length=64]",
    open=open_text,
    options=OPTIONS,
)
