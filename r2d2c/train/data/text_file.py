"""`text:FILE`: a text as characters, to predict the next one."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, fraction, split_options, whole_number
from r2d2c.train.data.utf8 import read_utf8
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = {
    "length": "characters of one sample, T (64)",
    "split": "the part at the start that is train; the rest is validation, then test, half each (0.9)",
    "segment": "characters of a segment: samples are [T, segment] then, and `length` is T times that (none)",
    "unit": "`character`, or `byte`: then any file will do, and there are 256 ids (character)",
}
UNKNOWN = "\ufffd"
BYTES = tuple(f"0x{byte:02x}" for byte in range(256))


def open_text(argument: str, context: DataContext) -> Dataset:
    """``x`` i64[N, T] and ``y`` i64[N, T], the characters one further on; split 90/5/5 without shuffling.

    With ``segment`` they are i64[N, T, segment]. The vocabulary is that of the train part, sorted, and after it one id
    for every character not seen there; of bytes it is all 256, `BYTES`.
    """
    import numpy

    argument, options = split_options(argument, OPTIONS, context)
    length, share = whole_number(options, "length", 64, context), fraction(options, "split", 0.9, context)
    segment = whole_number(options, "segment", length, context)
    if length % segment:
        refuse(
            "E502",
            f"samples of {length} characters are no whole number of segments of {segment}",
            context.span,
        )
    unit = options.get("unit", "character")
    if unit not in ("character", "byte"):
        refuse("E502", f"option `unit` must be `character` or `byte`, not `{unit}`", context.span)
    path = context.file(context.path(argument, "text:"))
    points = _bytes(path, context) if unit == "byte" else _characters(path, context)
    held = round(len(points) * (1 - share) / 2)
    cuts = [0, len(points) - 2 * held, len(points) - held, len(points)]
    if held <= length or cuts[1] <= length:
        refuse(
            "E516",
            f"{path} has {len(points):,} {unit}s, too few for samples of {length}",
            context.span,
            notes=[
                f"train, validation and test have {cuts[1]:,}, {held:,} and {held:,}; each needs more than one sample has"
            ],
            fix="ask for shorter samples: ?length=16",
        )
    seen = numpy.unique(points[: cuts[1]])
    ids, classes = points, BYTES
    if unit == "character":
        ids, classes = _ids(points, seen), (*(chr(int(point)) for point in seen), UNKNOWN)
    shape = (length // segment, segment) if "segment" in options else (length,)
    train, validation, test = (_windows(ids[a:b], shape, classes) for a, b in pairwise(cuts))
    others = "" if unit == "byte" else ", the last id is for others"
    notes = (f"{len(points):,} {unit}s, {len(seen)} different ones in train{others}",)
    return Dataset(f"text:{argument}", train, validation, test, f"{unit}s, to predict the next", notes)


def _characters(path: Path, context: DataContext) -> NDArray[Any]:
    import numpy

    # Line ends are made one character, so that a text is the same data on every system.
    text = read_utf8(path, context).removeprefix("\ufeff").replace("\r\n", "\n")
    return numpy.frombuffer(text.encode("utf-32-le"), numpy.uint32)


def _bytes(path: Path, context: DataContext) -> NDArray[Any]:
    import numpy

    try:
        raw = path.read_bytes()
    except OSError as error:
        refuse("E503", f"cannot read {path}: {error.strerror or error}", context.span)
    if not raw:
        refuse("E506", f"{path} is empty", context.span)
    return numpy.frombuffer(bytearray(raw), numpy.uint8)


def encode(text: str, classes: tuple[str, ...]) -> NDArray[Any]:
    """i64[len(text)], of bytes [their number]: a text in the vocabulary of a text data set (its ``classes``)."""
    import numpy

    if classes == BYTES:
        return numpy.frombuffer(text.encode(), numpy.uint8).astype(numpy.int64)
    vocabulary = numpy.array([ord(name) for name in classes[:-1]], numpy.uint32)
    return _ids(numpy.frombuffer(text.encode("utf-32-le"), numpy.uint32), vocabulary).astype(numpy.int64)


def _ids(points: NDArray[Any], vocabulary: NDArray[Any]) -> NDArray[Any]:
    import numpy

    at = numpy.searchsorted(vocabulary, points)
    known = vocabulary[numpy.minimum(at, len(vocabulary) - 1)] == points
    # Small ids stay small in memory; they become i64 batch by batch.
    small = numpy.uint8 if len(vocabulary) < 256 else numpy.int32
    return numpy.where(known, at, len(vocabulary)).astype(small)


def _windows(ids: NDArray[Any], shape: tuple[int, ...], classes: tuple[str, ...]) -> Table:
    """Windows that do not overlap, each of a shape; x and y are views of the same ids."""
    length = prod(shape)
    count = (len(ids) - 1) // length
    x = ids[: count * length].reshape(count, *shape)
    y = ids[1 : count * length + 1].reshape(count, *shape)
    return Table({"x": Column(x, classes=classes), "y": Column(y, classes=classes)})


TEXT = DataSource(
    name="text",
    doc="the characters of a text, to predict the next one",
    usage="text:FILE[?length=64&split=0.9&segment=16&unit=byte]",
    open=open_text,
    options=OPTIONS,
    family="files",
)
