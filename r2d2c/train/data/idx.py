"""`idx:FOLDER`: files in MNIST's format (MNIST, Fashion-MNIST, KMNIST, EMNIST), gz or not."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, split_options, trusted
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2d2c.source import Span

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
)

_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("t10k", "test")}
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_CLASSES = 100_000
_GZIP_LIMIT = 1100  # deflate never shrinks further than 1:1032, so a header that claims more is a lie


def read_idx(path: Path, span: Span | None = None) -> NDArray[Any]:
    """The array of one idx file, memory-mapped where it can be. E505 names the byte that fails."""
    import numpy

    size = path.stat().st_size
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            head = stream.read(4)
            if len(head) < 4:
                _bad(path, f"it ends at byte {len(head)}, inside the 4-byte magic number", span)
            code, rank = head[2], head[3]
            if head[:2] != b"\0\0" or code not in _DTYPES or not 1 <= rank <= 8:
                _bad(
                    path, f"it does not start with an idx magic number, but with bytes {head.hex(' ')}", span
                )
            sizes = stream.read(4 * rank)
            if len(sizes) < 4 * rank:
                _bad(
                    path, f"it ends at byte {4 + len(sizes)}, inside its header of {4 + 4 * rank} bytes", span
                )
            shape = struct.unpack(f">{rank}I", sizes)
            dtype = numpy.dtype(_DTYPES[code])
            start, wanted = 4 + 4 * rank, math.prod(shape) * dtype.itemsize
            if wanted > size * (_GZIP_LIMIT if packed else 1):
                _bad(path, f"its header promises {wanted:,} bytes, the file has {size:,} on disk", span)
            if not packed and size == start + wanted and wanted and dtype.itemsize == 1:
                return numpy.memmap(path, dtype, "r", offset=start, shape=shape)
            payload = stream.read(wanted + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        _bad(path, f"its gzip stream is damaged or cut off ({error})", span)
    except OSError as error:
        refuse("E503", f"cannot read {path}: {error.strerror or error}", span)
    if len(payload) != wanted:
        much = "more" if len(payload) > wanted else f"only {len(payload):,}"
        _bad(path, f"its header promises {wanted:,} bytes from byte {start} on, there are {much}", span)
    array = numpy.frombuffer(payload, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def open_idx(argument: str, context: DataContext) -> Dataset:
    """``x`` f32[N, H*W] in 0..1, ``image`` f32[N, 1, H, W], ``y`` i64[N], of each split the folder has."""
    argument, _ = split_options(argument, {}, context)
    folder = context.folder(context.path(argument, "idx:"))
    found = {split: table for split in _NAMES if (table := _open_split(folder, split, context)) is not None}
    if "train" not in found:
        present = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        refuse(
            "E503",
            f"{folder} has no training images in idx format",
            context.span,
            notes=[f"wanted: train-images-idx3-ubyte (or .gz); the folder has: {present}"],
        )
    shapes = {split: table.columns["image"].shape for split, table in found.items()}
    if len(set(shapes.values())) > 1:
        refuse("E507", f"the images of {folder} differ in size between its splits: {shapes}", context.span)
    top = max(int(table.columns["y"].array.max()) for table in found.values())
    classes = tuple(str(n) for n in range(top + 1))
    tables = {split: _with_classes(table, classes) for split, table in found.items()}
    return Dataset.of(f"idx:{argument}", tables, doc="images and labels in idx format")


def open_fashion(argument: str, context: DataContext) -> Dataset:
    """Fashion-MNIST from the folder of Debian's package; E503 names the package if it is not installed."""
    argument, _ = split_options(argument, {}, context)
    if argument:
        refuse("E502", f"`fashion_mnist` takes no argument, it got `{argument}`", context.span)
    if not DEBIAN_FASHION.is_dir():
        refuse(
            "E503",
            f"Fashion-MNIST is not in {DEBIAN_FASHION}",
            context.span,
            fix="apt install dataset-fashion-mnist (Debian, Ubuntu), or name a folder: idx:FOLDER",
        )
    data = open_idx(str(DEBIAN_FASHION), trusted(context))
    tables = {split: _with_classes(table, FASHION_CLASSES) for split, table in data.splits.items()}
    return Dataset.of("fashion_mnist", tables, doc=FASHION.doc)


def _open_split(folder: Path, split: str, context: DataContext) -> Table | None:
    import numpy

    images_path, labels_path = _find(folder, split, "images"), _find(folder, split, "labels")
    if images_path is None:
        return None
    if labels_path is None:
        refuse("E503", f"{images_path} has no file of labels beside it", context.span)
    images = read_idx(context.file(images_path), context.span)
    labels = read_idx(context.file(labels_path), context.span)
    if images.ndim not in (3, 4) or labels.ndim != 1:
        path, array = (images_path, images) if images.ndim not in (3, 4) else (labels_path, labels)
        _bad(
            path, f"it holds an array of {array.ndim} axes, as images have 3 or 4 and labels 1", context.span
        )
    if labels.dtype.kind not in "iu":
        _bad(labels_path, f"its labels are {labels.dtype}, not integers", context.span)
    if len(images) != len(labels):
        refuse(
            "E507",
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels",
            context.span,
        )
    if images.size == 0:
        refuse("E506", f"{images_path} has no images (its shape is {list(images.shape)})", context.span)
    if labels.min() < 0:
        refuse("E513", f"{labels_path} has a negative label at index {int(labels.argmin())}", context.span)
    if labels.max() >= MOST_CLASSES:
        at = int(labels.argmax())
        message = (
            f"{labels_path} has the label {labels[at]} at index {at}, too large for the number of a class"
        )
        refuse("E513", message, context.span)
    divisor = 255.0 if images.dtype == numpy.uint8 else None  # kept as bytes, converted batch by batch
    count, *sizes = images.shape
    image = images.reshape(count, 1, *sizes) if images.ndim == 3 else images
    return Table(
        {
            "x": Column(images.reshape(count, -1), divisor),
            "image": Column(image, divisor),
            "y": Column(labels.astype(numpy.int64)),
        }
    )


def _find(folder: Path, split: str, what: str) -> Path | None:
    """The first file of a split, by name; both `images-idx3` and `images.idx3` are in use."""
    heads = "|".join(_NAMES[split])
    pattern = re.compile(rf"(.*-)?({heads})-{what}[-.]idx[1-4]-ubyte(\.gz)?")
    return next((path for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name)), None)


def _with_classes(table: Table, classes: tuple[str, ...]) -> Table:
    return Table({**table.columns, "y": Column(table.columns["y"].array, classes=classes)})


def _bad(path: Path, reason: str, span: Span | None) -> NoReturn:
    refuse("E505", f"{path} is not a sound idx file: {reason}", span)


IDX = DataSource(
    name="idx",
    doc="images and labels in MNIST's format (train-images-idx3-ubyte …, .gz or not)",
    usage="idx:FOLDER",
    open=open_idx,
    family="files",
)

FASHION = DataSource(
    name="fashion_mnist",
    doc="70,000 images of clothes of 28x28 pixels, from Debian's package dataset-fashion-mnist",
    usage="fashion_mnist",
    open=open_fashion,
    family="ready",
)
