"""From columns to tensors of a port's type, and the checks of their shapes, kinds and values."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

DTYPES: Mapping[str, tuple[str, str]] = {
    "f64": ("float64", "float"),
    "f32": ("float32", "float"),
    "f16": ("float16", "float"),
    "bf16": ("bfloat16", "float"),
    "i64": ("int64", "int"),
    "i32": ("int32", "int"),
    "i16": ("int16", "int"),
    "i8": ("int8", "int"),
    "u8": ("uint8", "int"),
    "bool": ("bool", "bool"),
}
"""The dtypes of the language: torch's name, and the kind (float, int, bool)."""

# A value of the first kind may go into a port of the second without a word.
_WIDENS = {("int", "float"), ("bool", "float"), ("bool", "int"), ("int", "bool")}


def torch_dtype(dtype: str) -> torch.dtype:
    """torch's dtype of a name of the language."""
    import torch

    found = getattr(torch, DTYPES[dtype][0])
    assert isinstance(found, torch.dtype)
    return found


def kind_fits(found: str, dtype: str) -> bool:
    """Whether values of kind ``found`` may enter a port of ``dtype``. Floats never become integers."""
    wanted = DTYPES[dtype][1]
    return found == wanted or (found, wanted) in _WIDENS


def tensor_kind(tensor: Tensor) -> str:
    """``float``, ``int``, ``bool`` or ``other`` (complex, quantised)."""
    import torch

    if tensor.dtype == torch.bool:
        return "bool"
    if tensor.is_floating_point():
        return "float"
    return "other" if tensor.is_complex() or tensor.is_quantized else "int"


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor on the array's own memory, where torch has its type. Nothing is ever written to it."""
    import numpy
    import torch

    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch has these only in name
        array = array.astype(numpy.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(numpy.float64)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):  # backwards, as of x[::-1], which torch has not
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(numpy.asarray(array))


def convert(tensor: Tensor, dtype: str, divisor: float | None = None) -> Tensor:
    """The tensor in a port's dtype, divided by ``divisor`` in at least float32."""
    import torch

    wanted = torch_dtype(dtype)
    if divisor is None:
        return tensor.to(wanted)
    exact = wanted if wanted == torch.float64 else torch.float32
    return tensor.to(exact).div_(divisor).to(wanted)


def shape_fits(shape: tuple[int, ...], dims: tuple[int | None, ...]) -> bool:
    """Whether one sample's shape agrees with a port's dims after the batch."""
    return len(shape) == len(dims) and all(dim in (None, size) for size, dim in zip(shape, dims, strict=True))


def reshaped(shape: tuple[int, ...], dims: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """The shape with ``dims`` that holds the same elements, if it is certain; else None."""
    import math

    fixed = [dim for dim in dims if dim is not None]
    if len(fixed) != len(dims) or math.prod(fixed) != math.prod(shape):
        return None
    return tuple(fixed)


def find_bad_value(tensor: Tensor, dtype: str, bound: int | None) -> tuple[int, str] | None:
    """The first row with a value that a port cannot hold, and what is wrong with it; None if all is well.

    Floats must be finite; integers must lie in ``[0, bound)`` if there is a bound, and in the port's own
    range.
    """
    import torch

    if not tensor.numel():
        return None
    if tensor.is_floating_point():
        # One pass that makes no mask: a sum is finite unless a value is not (or it overflows: then look).
        if bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
            return None
        bad, text = ~torch.isfinite(tensor), "is {}, not a finite number"
    elif tensor.dtype == torch.bool:
        return None
    else:
        low, high = _integer_range(dtype, bound)
        if low is None or high is None:
            return None
        least, most = (int(value) for value in torch.aminmax(tensor))
        if low <= least and most <= high:
            return None
        bad, text = (tensor < low) | (tensor > high), f"is {{}}, outside {low} … {high}"
    at = int(bad.flatten().to(torch.uint8).argmax())
    value = tensor.flatten()[at].item()
    return at // max(1, tensor[0].numel()), text.format(value)


def extent_fits(extent: tuple[float, float], dtype: str, bound: int | None) -> bool:
    """Whether `find_bad_value` finds nothing in whatever lies between two finite numbers."""
    import torch

    low, high = _integer_range(dtype, bound)
    if low is None or high is None:
        return max(map(abs, extent)) <= torch.finfo(torch_dtype(dtype)).max
    return low <= extent[0] and extent[1] <= high


def _integer_range(dtype: str, bound: int | None) -> tuple[int | None, int | None]:
    import torch

    kind = DTYPES[dtype][1]
    if bound is not None and kind == "int":
        return 0, bound - 1
    if kind == "bool":
        return 0, 1
    if kind == "int":
        limits = torch.iinfo(torch_dtype(dtype))
        return limits.min, limits.max
    return None, None
