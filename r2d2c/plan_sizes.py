"""Sizes of types in numbers and in bytes, where run-time dims have the sizes that are given."""

from __future__ import annotations

import math
from collections.abc import Mapping

from r2d2c.types import Dim, TensorType, evaluate

BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2, "i16": 2}


def elements(type_: TensorType | None, sizes: Mapping[str, int] | None = None) -> int:
    """How many numbers a type holds; dims without a size count as one."""
    return math.prod(number(dim, sizes or {}) for dim in type_.dims) if type_ is not None else 0


def size_of(type_: TensorType | None, sizes: Mapping[str, int] | None = None) -> int:
    """Bytes."""
    return elements(type_, sizes) * BYTES.get(type_.dtype, 1) if type_ is not None else 0


def number(dim: int | Dim, sizes: Mapping[str, int]) -> int:
    """A dim as a number; one without a size counts as one."""
    if isinstance(dim, int):
        return int(dim)
    return max(evaluate(dim, dict.fromkeys(dim.symbols(), 1) | dict(sizes)), 0)
