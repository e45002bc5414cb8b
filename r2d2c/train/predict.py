"""Predictions: the outputs of a composed model as arrays, and as CSV or npz files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy
import torch

from r2d2c.train.data.vocabulary import Vocabulary
from r2d2c.train.metrics import METRICS
from r2d2c.train.ports import input_names
from r2d2c.train.precision import around

if TYPE_CHECKING:
    from r2d2c.model import Model
    from r2d2c.train.measure import Batch

_SHAPES = {metric.name: metric.shape for metric in METRICS}


@dataclass(frozen=True, slots=True)
class Predictions:
    """outputs: arrays ``[N, ...]``. classes: for outputs that are logits, the name of the likeliest class; where that is
    a character at every step, the text.

    split and row: where each sample stood in the data.
    """

    outputs: Mapping[str, Any]
    classes: Mapping[str, Any]
    split: Any
    row: Any

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, name: str) -> Any:
        """An output by its name."""
        return self.outputs[name]

    def to_csv(self) -> str:
        """One row a sample, one column a number: ``logits_0``, ``logits_1`` …"""
        header = ["split", "row"]
        columns: list[Any] = [self.split, self.row]
        for name, array in self.outputs.items():
            if name in self.classes:
                header.append(f"{name}_class")
                columns.append(self.classes[name])
            flat = array.reshape(len(array), -1)
            places = list(product(*(range(size) for size in array.shape[1:])))
            header += ["_".join([name, *map(str, place)]) for place in places]
            columns += [flat[:, k] for k in range(flat.shape[1])]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
        return text.getvalue()

    def to_npz(self) -> bytes:
        """The arrays by their names, and ``NAME_class``, ``split`` and ``row``."""
        buffer = io.BytesIO()
        named = {f"{name}_class": array for name, array in self.classes.items()}
        numpy.savez_compressed(buffer, **{**named, "split": self.split, "row": self.row, **self.outputs})
        return buffer.getvalue()


def run_model(
    model: Model,
    parts: Iterable[tuple[str, Iterable[Batch]]],
    classes: tuple[str, ...] | None,
    sizes: Mapping[str, Any] | None = None,
) -> Predictions:
    """Run the composed model over the batches of some splits; ``sizes`` are its arguments."""
    inputs = input_names(model.graph)
    found: dict[str, list[Any]] = {name: [] for name in model.graph.outputs}
    splits: list[str] = []
    rows: list[int] = []
    for split, batches in parts:
        count = 0
        for batch in batches:
            # As `measure`, so that metrics of what is predicted are those that were measured.
            with torch.no_grad(), around(model):
                outputs = model(**{name: batch[name] for name in inputs}, **(sizes or {}))
            size = len(next(iter(batch.values())))
            for name, arrays in found.items():
                value = outputs[name]
                # An output that does not depend on the sample is the same for all of them.
                value = value if value.dim() and len(value) == size else value.expand(size, *value.shape)
                value = value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
                arrays.append(value.cpu().numpy())
            rows += range(count, count + size)
            splits += [split] * size
            count += size
    results = {name: numpy.concatenate(values) for name, values in found.items()}
    names: dict[str, Any] = {}
    for name in _logits(model, results, classes):
        assert classes is not None
        likeliest = results[name].argmax(-1)
        names[name] = numpy.asarray(classes)[likeliest]
        vocabulary = Vocabulary.of(classes, len(classes))
        if likeliest.ndim == 2 and vocabulary.classes is not None:  # a sequence of characters is a text
            names[name] = numpy.asarray([vocabulary.text(row) for row in likeliest.tolist()])
    return Predictions(results, names, numpy.asarray(splits), numpy.asarray(rows))


def _logits(model: Model, arrays: Mapping[str, Any], classes: tuple[str, ...] | None) -> list[str]:
    """The outputs that have a number for each class: those of metrics over classes, or of that many
    columns.
    """
    if classes is None:
        return []
    measured = {m.args[0] for m in model.graph.metrics if m.args and _SHAPES.get(m.name) == "classes"}
    fitting = [
        name
        for name, array in arrays.items()
        if array.ndim > 1
        and array.shape[-1] == len(classes) > 1
        and numpy.issubdtype(array.dtype, numpy.floating)
    ]
    known = [name for name in fitting if name in measured]
    return known or fitting
