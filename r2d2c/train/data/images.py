"""`images:FOLDER`: pictures in folders by class, jpg or png, as u8[N, C, H, W]."""

from __future__ import annotations

import importlib
import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.lazy import LazyRows, Reshaped, is_lazy
from r2d2c.train.data.source import DataContext, DataSource, split_options
from r2d2c.train.data.split import ALIASES, Splitting
from r2d2c.train.data.split import OPTIONS as SPLIT_OPTIONS
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2d2c.source import Span

OPTIONS = {
    "size": "all pictures are resized to this, as 32 or 32x48, height first (none: they must be of one size)",
    "channels": "1 for grey, 3 for red, green and blue (1 if all are grey, else 3)",
    **SPLIT_OPTIONS,
}
ENDINGS = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")  # whatever a file's name says, no other decoder ever sees it
LARGE = 512 << 20
"""Bytes of decoded pictures above which they are decoded as they are needed."""
MOST_PIXELS = 1 << 26
"""Of one picture. A larger one is taken for a bomb: few bytes that fill the memory."""


def open_images(argument: str, context: DataContext) -> Dataset:
    """``image`` f32[N, C, H, W] in 0..1 (kept as bytes), ``x`` f32[N, C*H*W], and ``y`` i64[N], of sorted classes.

    Of FOLDER/class/*.jpg, split by the options; or of FOLDER/train/class/*.jpg, FOLDER/test/class/*.jpg; or, without
    ``y``, of FOLDER/*.jpg, in order of their names.
    """
    argument, options = split_options(argument, OPTIONS, context)
    splitting, size = Splitting.of(options, context), _size(options.get("size"), context)
    if options.get("channels", "1") not in ("1", "3"):
        refuse("E502", f"option `channels` must be 1 or 3, not `{options['channels']}`", context.span)
    folder = context.folder(context.path(argument, "images:"))
    inner = _folders(folder, context)
    split = {ALIASES[name]: path for name, path in inner.items() if name in ALIASES}
    own = "train" in split and len(split) == len(inner)
    if own and any(key in options for key in SPLIT_OPTIONS):
        names = ", ".join(path.name for path in split.values())
        message = f"{folder} has splits of its own, so they are no options: {names}"
        refuse("E502", message, context.span)
    found = {name: _Files.of(path, context) for name, path in (split if own else {"": folder}).items()}
    classes = next(iter(found.values())).classes if not own else found["train"].classes
    for name, files in found.items():
        strange = [each for each in files.classes if each not in classes]
        if strange:
            message = f"{folder} has no class `{strange[0]}` in train, and has it in {name}"
            refuse("E507", message, context.span, notes=[f"classes of train: {', '.join(classes)}"])
    seen = _Seen()
    for files in found.values():
        seen.look(files.paths, size, context.span)
    channels = int(options["channels"]) if "channels" in options else 1 if seen.grey else 3
    shape = (channels, *(size or seen.shape))
    large = sum(len(files.paths) for files in found.values()) * channels * shape[1] * shape[2] > LARGE
    tables = {
        name: _table(files, classes, ImageRows(files.paths, shape, size is not None, context.span), large)
        for name, files in found.items()
    }
    if not own:
        tables = splitting.tables(tables[""], by_class=True)
    count = sum(len(files.paths) for files in found.values())
    skipped = [path for files in found.values() for path in files.skipped]
    notes = (f"{len(skipped):,} files are not jpg or png, as {skipped[0]}",) if skipped else ()
    doc = f"{count:,} pictures in {len(classes)} classes" if classes else f"{count:,} pictures"
    return replace(Dataset.of(f"images:{argument}", tables, doc=doc), notes=notes)


@dataclass(frozen=True, slots=True)
class _Files:
    """The pictures of one split, class by class, and the files that are none by their names."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    skipped: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, context: DataContext) -> _Files:
        """E506 for a class without pictures, or none at all; E504 for a link that leaves the spec's folder."""
        paths: list[str] = []
        labels: list[str] = []
        skipped: list[str] = []
        folders = _folders(folder, context)
        for name, path in (folders or {"": folder}).items():
            files = [entry for entry in _entries(path, context) if _is(entry, context, folder=False)]
            pictures = [entry.path for entry in files if entry.name.lower().endswith(ENDINGS)]
            if not pictures:
                note = "wanted: a folder for each class, with its pictures in it"
                refuse("E506", f"{path} has no pictures (jpg or png)", context.span, notes=[note])
            paths += pictures
            labels += [name] * len(pictures)
            skipped += [entry.path for entry in files if not entry.name.lower().endswith(ENDINGS)]
        return cls(tuple(paths), tuple(labels), tuple(folders), tuple(skipped))


def _folders(folder: Path, context: DataContext) -> dict[str, Path]:
    """The folders in one, by their names in order."""
    return {entry.name: Path(entry.path) for entry in _entries(folder, context) if _is(entry, context)}


def _is(entry: os.DirEntry[str], context: DataContext, folder: bool = True) -> bool:
    """Whether something is a folder, or else a file; E503 for a link that leads to itself."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError as error:
        refuse("E503", f"cannot read {entry.path}: {error.strerror or error}", context.span)


def _entries(folder: Path, context: DataContext) -> list[os.DirEntry[str]]:
    """What is not hidden, sorted; links are followed only where the context allows it."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        refuse("E503", f"cannot read {folder}: {error.strerror or error}", context.span)
    for entry in entries:
        if entry.is_symlink():
            context.inside(Path(entry.path))
    return entries


@dataclass(slots=True)
class _Seen:
    """What the headers of all files say: are they pictures, of one size, and grey?"""

    first: dict[tuple[int, int], str] = field(default_factory=dict)
    count: Counter[tuple[int, int]] = field(default_factory=Counter)
    grey: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        return next(iter(self.first))

    def look(self, paths: tuple[str, ...], size: tuple[int, int] | None, span: Span | None) -> None:
        """E505 for a file that is no picture, E507 for two sizes where none is asked for."""
        for path in paths:
            with _opened(path, span) as image:
                shape = (image.height, image.width)
                self.grey = self.grey and image.mode in ("1", "L", "I", "I;16", "I;16B", "I;16L")
            self.first.setdefault(shape, path)
            if size is None and len(self.first) > 1:
                (a, one), (b, other) = self.first.items()
                message = f"the pictures differ in size: {one} is {a[0]}x{a[1]}, {other} is {b[0]}x{b[1]}"
                refuse("E507", message, span, fix=f"resize them as they are read: ?size={a[0]}x{a[1]}")


def _opened(path: str, span: Span | None) -> Any:
    """An image of which only the header is read; E505 if it is none, or would fill the memory."""
    image = importlib.import_module("PIL.Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", image.DecompressionBombWarning)
            found = image.open(path, formats=FORMATS)
    except (*_ERRORS, image.DecompressionBombError) as error:
        _bad(path, error, span)
    if found.width * found.height > MOST_PIXELS:
        found.close()
        message = (
            f"{path} is {found.height}x{found.width}, more than the {MOST_PIXELS:,} pixels that are read"
        )
        refuse("E505", message, span)
    return found


_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def _bad(path: str, error: Exception, span: Span | None) -> NoReturn:
    if isinstance(error, OSError) and error.errno is not None:  # the decoders' own errors have no number
        refuse("E503", f"cannot read {path}: {error.strerror or error}", span)
    reason = "it does not start as one" if "cannot identify" in str(error) else str(error)
    refuse("E505", f"{path} is no sound jpg or png: {reason}", span)


def pixels(image: Any, shape: tuple[int, int, int], resize: bool) -> NDArray[Any]:
    """u8[C, H, W] of an open image, as grey or colours; resized to H x W with smoothing where asked for."""
    import numpy

    resampling = importlib.import_module("PIL.Image").Resampling.BILINEAR
    channels, height, width = shape
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off
        deep = numpy.asarray(image).astype(numpy.int64) >> 8
        image = importlib.import_module("PIL.Image").fromarray(deep.astype(numpy.uint8), "L")
    image = image.convert("L" if channels == 1 else "RGB")
    if resize and image.size != (width, height):
        image = image.resize((width, height), resampling)
    found = numpy.asarray(image, numpy.uint8)
    return found[None] if channels == 1 else found.transpose(2, 0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class ImageRows(LazyRows):
    """Files decoded as they are asked for, u8[N, C, H, W]."""

    paths: tuple[str, ...]
    sample: tuple[int, int, int]
    resize: bool
    span: Span | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.paths), *self.sample)

    @property
    def dtype(self) -> Any:
        import numpy

        return numpy.dtype(numpy.uint8)

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        """E505 names a file that is damaged or cut off behind its header."""
        import numpy

        found = numpy.empty((len(rows), *self.sample), numpy.uint8)
        for place, row in enumerate(rows.tolist()):
            path = self.paths[row]
            with _opened(path, self.span) as image:
                try:
                    found[place] = pixels(image, self.sample, self.resize)
                except _ERRORS as error:
                    _bad(path, error, self.span)
        return found


def _table(files: _Files, classes: tuple[str, ...], rows: ImageRows, large: bool) -> Table:
    import numpy

    images: Any = rows if large else rows[:]
    flat = (
        Reshaped(images, (int(numpy.prod(rows.sample)),))
        if is_lazy(images)
        else images.reshape(len(images), -1)
    )
    columns = {"image": Column(images, 255.0), "x": Column(flat, 255.0)}
    if not classes:
        return Table(columns)
    number: Mapping[str, int] = {name: place for place, name in enumerate(classes)}
    labels = numpy.array([number[name] for name in files.labels], numpy.int64)
    return Table({**columns, "y": Column(labels, classes=classes)})


def _size(text: str | None, context: DataContext) -> tuple[int, int] | None:
    """Height and width."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(size) or size[0] * size[1] > MOST_PIXELS:
        refuse("E502", f"option `size` must be as 32 or 32x48, height first, not `{text}`", context.span)
    return size


IMAGES = DataSource(
    name="images",
    doc="pictures (jpg, png) in a folder for each class, or in train/CLASS and test/CLASS",
    usage="images:FOLDER[?size=32&channels=3&test=0.2&split=last&seed=0]",
    open=open_images,
    options=OPTIONS,
    family="files",
)
