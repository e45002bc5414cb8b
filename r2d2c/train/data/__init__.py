"""Data sources, data sets, and their binding to the ports of a spec.

`open_data("digits", context)` gives a `Dataset`; `bind(dataset, ports, sink)` gives batches of tensors.
numpy, torch and scikit-learn are imported only when data is opened.
"""

from r2d2c.train.data.batches import BatchStream, from_batches
from r2d2c.train.data.bind import BoundData, Loader, Split, bind
from r2d2c.train.data.dataset import SPLITS, Column, Dataset, Table
from r2d2c.train.data.lazy import LazyRows
from r2d2c.train.data.plan import BatchPlan, stable_seed
from r2d2c.train.data.source import DataContext, DataSource, Port
from r2d2c.train.data.sources import SOURCES, find_source, open_data

__all__ = [
    "SOURCES",
    "SPLITS",
    "BatchPlan",
    "BatchStream",
    "BoundData",
    "Column",
    "DataContext",
    "DataSource",
    "Dataset",
    "LazyRows",
    "Loader",
    "Port",
    "Split",
    "Table",
    "bind",
    "find_source",
    "from_batches",
    "open_data",
    "stable_seed",
]
