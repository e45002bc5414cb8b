"""What the tests of orders, files and workers share: rows that note down what is read, and a small augmented set."""

import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import r2d2c
from r2d2c.diagnostics import Sink
from r2d2c.train.augmentation import augmented, read_augment
from r2d2c.train.data import Column, Dataset, LazyRows, Port, Table, bind, open_data
from r2d2c.train.data.bind import BoundData, TableSplit
from r2d2c.train.refuse import refuse

Batch = dict[str, torch.Tensor]


def bound(dataset: Dataset, ports: dict[str, Port], **options: Any) -> BoundData:
    sink = Sink()
    data = bind(dataset, ports, sink, **options)
    assert data is not None and not sink.diagnostics
    return data


def train_of(data: BoundData) -> TableSplit:
    assert isinstance(data.train, TableSplit)
    return data.train


def same(some: list[Batch], others: list[Batch]) -> bool:
    assert len(some) == len(others)
    return all(
        a.keys() == b.keys() and all(torch.equal(a[port], b[port]) for port in a)
        for a, b in zip(some, others, strict=True)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Noted(LazyRows):
    """Rows that note down which of them are read, and can fail."""

    array: Any
    rows: int = 8
    reads: list[list[int]] = field(default_factory=list)
    bad: int = -1
    die: int = -1

    @property
    def shape(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self.array.shape
        return found

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def block(self) -> int:
        return self.rows

    def read(self, rows: Any) -> Any:
        self.reads.append(rows.tolist())
        if multiprocessing.parent_process() is not None:
            if self.bad in rows:
                refuse("E505", f"row {self.bad} is damaged")
            if self.die in rows:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.array[rows]


def noted(count: int = 230, **options: Any) -> tuple[Noted, TableSplit]:
    rows = Noted(np.arange(count * 3, dtype=np.float64).reshape(count, 3), **options)
    dataset = Dataset("noted", Table({"x": Column(rows), "y": Column(np.arange(count))}))
    data = bound(dataset, {"x": ("f32", (None, 3)), "y": ("i64", (None,))})
    return rows, train_of(data)


SPEC = """
r2d2c: 1
model: few
dims: {C: 10}
inputs: {x: "f32[B, 64]"}
targets: {y: "i64[B]"}
tasks:
  t:
    behavior: logits = flatten(x) |> dropout(0.2) |> linear(C)
    distance: cross_entropy(logits, y)
outputs: {logits: t.logits}
train:
  data: digits
  augment: {x: crop(pad=1) |> flip |> jitter |> cutout(size=2) |> noise}
  epochs: 3
  batch_size: 100
"""


def digits(tmp_path: Path) -> TableSplit:
    path = tmp_path / "few.yaml"
    path.write_text(SPEC)
    checked, sink = r2d2c.load(path), Sink()
    ports: dict[str, Port] = {"x": ("f32", (None, 64)), "y": ("i64", (None,))}
    data = augmented(bound(open_data("digits"), ports), read_augment(checked, sink), sink)
    sink.stop_on_errors()
    return train_of(data)
