"""Every built-in data source, in one literal table."""

from __future__ import annotations

from collections.abc import Iterable

from r2d2c.diagnostics import suggest
from r2d2c.train.data.adding import ADDING
from r2d2c.train.data.addition import ADDITION
from r2d2c.train.data.copying import COPY
from r2d2c.train.data.csv_file import CSV
from r2d2c.train.data.dataset import Dataset
from r2d2c.train.data.delayed_copy import DELAYED_COPY
from r2d2c.train.data.digits import DIGITS
from r2d2c.train.data.digits_and_tables import BOTH
from r2d2c.train.data.formula import FORMULA
from r2d2c.train.data.hugging_face import HUGGING_FACE
from r2d2c.train.data.idx import FASHION, IDX
from r2d2c.train.data.images import IMAGES
from r2d2c.train.data.npz import NPY, NPZ
from r2d2c.train.data.parity import PARITY
from r2d2c.train.data.parquet import PARQUET
from r2d2c.train.data.points import POINTS
from r2d2c.train.data.random import RANDOM
from r2d2c.train.data.recall import RECALL
from r2d2c.train.data.source import DataContext, DataSource
from r2d2c.train.data.tables import TABLES
from r2d2c.train.data.text_file import TEXT
from r2d2c.train.data.two_symbols import TWO_SYMBOLS
from r2d2c.train.refuse import refuse

SOURCES: tuple[DataSource, ...] = (
    DIGITS,
    BOTH,
    *TABLES,
    FASHION,
    IDX,
    NPZ,
    NPY,
    CSV,
    PARQUET,
    IMAGES,
    TEXT,
    HUGGING_FACE,
    FORMULA,
    *POINTS,
    PARITY,
    COPY,
    DELAYED_COPY,
    TWO_SYMBOLS,
    ADDING,
    ADDITION,
    RECALL,
    RANDOM,
)

_ENDINGS = {".csv": "csv", ".tsv": "csv", ".npz": "npz", ".parquet": "parquet", ".txt": "text"}


def find_source(text: str, context: DataContext, extra: Iterable[DataSource] = ()) -> tuple[DataSource, str]:
    """The source that ``name:argument`` names and the argument; E501 for an unknown name.

    ``extra`` are sources of plug-ins; they may not take a built-in name.
    """
    head, colon, argument = text.strip().partition(":")
    name, mark, options = head.partition("?")
    if mark:  # `random?samples=8` has no colon
        argument = f"?{options}{colon}{argument}"
    known = {source.name: source for source in (*extra, *SOURCES)}
    if name in known:
        return known[name], argument
    ending = next((source for end, source in _ENDINGS.items() if text.partition("?")[0].endswith(end)), None)
    near = suggest(name, known)
    fix = f"did you mean `{ending}:{text}`?" if ending and not colon else near.text if near else None
    refuse(
        "E501",
        f"there is no data source `{name}`",
        context.span,
        notes=[f"data sources: {', '.join(source.usage.partition('[')[0] for source in known.values())}"],
        fix=fix,
    )


def open_data(text: str, context: DataContext | None = None, extra: Iterable[DataSource] = ()) -> Dataset:
    """The data set that a text such as ``digits`` or ``csv:wine.csv?target=quality`` names.

    Raises `CompileError` with an E5xx diagnostic if the source, its argument or the data is at fault.
    """
    context = context or DataContext()
    source, argument = find_source(text, context, extra)
    return source.open(argument, context)
