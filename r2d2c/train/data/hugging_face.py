"""`hf:NAME`: a data set of the Hugging Face library `datasets`, if that is installed. Nothing is downloaded.

NAME is a folder on disk, or a set that is in the user's own cache already. Code that comes with a set never runs.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.data.dataset import Column, Dataset, Table, name_classes
from r2d2c.train.data.images import LARGE, pixels
from r2d2c.train.data.lazy import LazyRows
from r2d2c.train.data.source import DataContext, DataSource, split_options
from r2d2c.train.data.split import ALIASES, Splitting
from r2d2c.train.data.split import OPTIONS as SPLIT_OPTIONS
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2d2c.source import Span

OPTIONS = {
    "config": "which of the configurations of the set (its only one)",
    "x": "the column that becomes `x` (none: a column has its own name)",
    "y": "the column that becomes `y` (`label`, where there is one)",
    **SPLIT_OPTIONS,
}
FIRST_SAFE = (2, 16)  # before it, `load_dataset` ran a set's own script without being asked
_PART = 1000
_HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"


def open_hugging_face(argument: str, context: DataContext) -> Dataset:
    """Every column under its own name: numbers, vectors, class labels as i64 with their names, images as u8[N, C, H, W].

    Texts and what else is not numbers are left out. ``label`` is also ``y``, and the first image also ``image``.
    """
    argument, options = split_options(argument, OPTIONS, context)
    splitting = Splitting.of(options, context)
    found = _load(argument, options.get("config"), context)
    whole = not hasattr(found, "keys")
    parts = {"": found} if whole else {name: found[name] for name in found}
    named = {ALIASES[name]: part for name, part in parts.items() if name in ALIASES}
    if len(parts) == 1:
        named, whole = {"": next(iter(parts.values()))}, True
    elif "train" not in named:
        note = f"its splits are: {', '.join(parts)}"
        refuse("E516", f"hf:{argument} has no split `train`", context.span, notes=[note])
    left_out: dict[str, str] = {}
    tables: dict[str, Table] = {}
    for split, part in named.items():
        columns = _columns(argument, part, left_out, context)
        for name, default in (("x", None), ("y", "label")):
            wanted = options.get(name, default)
            if name in options and wanted not in columns:
                note = f"its columns are: {', '.join(columns)}"
                refuse("E510", f"hf:{argument} has no column `{wanted}`", context.span, notes=[note])
            if wanted in columns and (name in options or name not in columns):
                columns[name] = columns[wanted]
        if not columns:
            refuse("E508", f"hf:{argument} has no column of numbers, classes or images", context.span)
        tables[split] = Table(columns)
    if whole:
        tables = splitting.tables(tables[""])
    notes = tuple(f"`{name}` is left out: it is {kind}" for name, kind in left_out.items())
    made = Dataset.of(f"hf:{argument}", tables, doc="a data set of Hugging Face's library")
    return replace(made, notes=notes)


def _load(argument: str, config: str | None, context: DataContext) -> Any:
    """A `datasets.Dataset`, or a mapping of them by split."""
    try:
        library = importlib.import_module("datasets")
    except ImportError:
        message = "`hf:` needs Hugging Face's library `datasets`, which is not installed"
        refuse("E590", message, context.span, fix="pip install datasets")
    version = tuple(int(part) for part in re.findall(r"\d+", library.__version__)[:2])
    if version < FIRST_SAFE:
        message = f"`datasets` {library.__version__} may run code that comes with a data set"
        refuse("E590", message, context.span, fix="pip install --upgrade datasets")
    path, local = argument, context.home(argument)
    if not context.trusted and context.root is not None:
        local = context.root / argument
    if _is_there(local) and local.is_dir():
        local = context.folder(context.path(argument, "hf:"))
        path = str(local)
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            return _attempt(argument, context, lambda: library.load_from_disk(path))
    elif not re.fullmatch(_HUB_NAME, argument):
        context.folder(context.path(argument, "hf:"))
    elif not context.trusted and _is_there(Path(argument)):  # the library would take it for a path of ours
        context.inside(Path(argument).absolute())
    given: dict[str, Any] = {"download_config": library.DownloadConfig(local_files_only=True)}
    if "trust_remote_code" in inspect.signature(library.load_dataset).parameters:
        given["trust_remote_code"] = False
    return _attempt(argument, context, lambda: library.load_dataset(path, config, **given))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or with a NUL character in it
        return False


def _attempt(argument: str, context: DataContext, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # the library raises errors of many other libraries
        first = str(error).strip().split("\n")[0]
        refuse(
            "E503",
            f"cannot read hf:{argument}: {type(error).__name__}: {first}",
            context.span,
            notes=[
                "r2d2c downloads nothing: only a folder on disk and what is in your own cache can be read"
            ],
            fix=f'fetch it once yourself: python -c "import datasets; datasets.load_dataset({argument!r})"',
        )


def _columns(argument: str, part: Any, left_out: dict[str, str], context: DataContext) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    if not len(part):
        refuse("E506", f"hf:{argument} has no samples", context.span)
    for name, feature in part.features.items():
        kind = type(feature).__name__
        if kind == "Image":
            columns[name] = _images(argument, part, name, context)
            columns.setdefault("image", columns[name])
            continue
        column = _numbers(argument, part, name, context)
        if column is None:
            left_out[name] = str(getattr(feature, "dtype", kind))
        elif kind == "ClassLabel":
            columns[name] = Column(column.array, classes=tuple(feature.names))
        else:
            columns[name] = name_classes(column) if name in ("label", "y") else column
    return columns


def _numbers(argument: str, part: Any, name: str, context: DataContext) -> Column | None:
    """A column of numbers or vectors; None for texts, E509 for what is missing, E507 for lists of several lengths."""
    import numpy

    found: list[NDArray[Any]] = []
    chosen = part.select_columns([name])
    for start in range(0, len(part), _PART):
        values = chosen[start : start + _PART][name]
        missing = next((k for k, value in enumerate(values) if value is None), None)
        if missing is not None:
            _at("E509", argument, name, f"has no value in row {start + missing}", context)
        try:
            array = numpy.asarray(values)
        except ValueError:
            _at("E507", argument, name, "has lists of different lengths", context)
        holed = (
            next((k for k, v in enumerate(values) if _is_holed(v)), None) if array.dtype.kind == "O" else None
        )
        if holed is not None:
            _at("E509", argument, name, f"has no value in row {start + holed}", context)
        if array.dtype.kind not in "biuf":
            return None
        if found and array.shape[1:] != found[0].shape[1:]:
            _at("E507", argument, name, "has lists of different lengths", context)
        if array.dtype.kind == "f" and not numpy.isfinite(array).all():
            row = start + int(numpy.argwhere(~numpy.isfinite(array))[0][0])
            _at("E509", argument, name, f"has NaN or infinity in row {row}", context)
        found.append(array)
    return Column(numpy.concatenate(found))


def _is_holed(value: object) -> bool:
    """Whether a list, or one in it, misses a value."""
    return value is None or (isinstance(value, list) and any(map(_is_holed, value)))


def _images(argument: str, part: Any, name: str, context: DataContext) -> Column:
    chosen = part.select_columns([name])
    first = chosen[0:1][name][0]
    if first is None:
        _at("E509", argument, name, "has no value in row 0", context)
    grey = first.mode in ("1", "L", "I", "I;16")
    rows = HubImages(chosen, name, argument, (1 if grey else 3, first.height, first.width), context.span)
    return Column(rows if rows.nbytes > LARGE else rows[:], 255.0)


@dataclass(frozen=True, slots=True, eq=False)
class HubImages(LazyRows):
    """A column of images, u8[N, C, H, W], decoded as they are asked for."""

    part: Any
    name: str
    source: str
    sample: tuple[int, int, int]
    span: Span | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.part), *self.sample)

    @property
    def dtype(self) -> Any:
        import numpy

        return numpy.dtype(numpy.uint8)

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        """E507 names a row whose image has another size, E509 one without."""
        import numpy

        found = numpy.empty((len(rows), *self.sample), numpy.uint8)
        for start in range(0, len(rows), _PART):
            numbers = rows[start : start + _PART].tolist()
            for place, image in enumerate(self.part[numbers][self.name]):
                where = f"column `{self.name}` of hf:{self.source}"
                if image is None:
                    refuse("E509", f"{where} has no value in row {numbers[place]}", self.span)
                if (image.height, image.width) != self.sample[1:]:
                    sizes = (
                        f"{self.sample[1]}x{self.sample[2]} in row 0 and {image.height}x{image.width} "
                        f"in row {numbers[place]}"
                    )
                    refuse("E507", f"{where} has images of {sizes}", self.span)
                found[start + place] = pixels(image, self.sample, False)
        return found


def _at(code: str, argument: str, name: str, message: str, context: DataContext) -> NoReturn:
    refuse(code, f"column `{name}` of hf:{argument} {message}", context.span)


HUGGING_FACE = DataSource(
    name="hf",
    doc="a data set of Hugging Face's library `datasets`, from a folder or your cache",
    usage="hf:NAME[?config=NAME&x=COLUMN&y=COLUMN&test=0.2&split=last&seed=0]",
    open=open_hugging_face,
    options=OPTIONS,
    family="files",
)
