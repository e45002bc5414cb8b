"""What the tests of data sources share: files to read, and what is said of them."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.train.data import DataContext, open_data

WINE = "acid,sugar,quality\n1.5,2,good\n0.5,1,bad\n2.5,3,good\n1.0,2,bad\n2.0,2,good\n"
CLI = DataContext(trusted=True)


def refused(text: str, context: DataContext = CLI) -> Diagnostic:
    with pytest.raises(CompileError) as caught:
        open_data(text, context)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def said(text: str, context: DataContext = CLI) -> str:
    diagnostic = refused(text, context)
    return f"{diagnostic.code}: {diagnostic.message}"


def idx_bytes(array: np.ndarray[Any, Any], code: int = 8) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, packed: bool, train: int = 12, test: int = 6, size: int = 4) -> None:
    rng = np.random.default_rng(0)
    for head, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        for name, array in ((f"{head}-images-idx3-ubyte", images), (f"{head}-labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
