"""Where a training is logged besides ``metrics.jsonl``: TensorBoard's events, Weights & Biases, MLflow, plug-ins.

A spec cannot ask for any of them: it must not cause traffic on a network. Who runs it can, with ``--log`` or ``log=``.
"""

from r2d2c.train.sinks.feed import Feed
from r2d2c.train.sinks.record import Beginning, Log, Record, SinkRecord, scalars
from r2d2c.train.sinks.table import SINKS, find_sinks

__all__ = ["SINKS", "Beginning", "Feed", "Log", "Record", "SinkRecord", "find_sinks", "scalars"]
