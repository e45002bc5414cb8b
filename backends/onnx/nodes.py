"""What nodes of an ONNX graph are made of besides their inputs: attributes, and the dtypes of their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

_BOOL = frozenset(
    ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"]
)
_INT64 = frozenset(["Shape", "Size", "ArgMax", "ArgMin", "NonZero"])
# Ops whose result has the dtype of another input than the first.
_DTYPE_FROM = {"Where": 1, "OneHot": 2, "CastLike": 1}
# The second output of these is not of the first one's dtype.
_SECOND = {"TopK": ir.DataType.INT64, "MaxPool": ir.DataType.INT64, "Dropout": ir.DataType.BOOL}


def attribute(name: str, value: Any) -> ir.Attr:
    """An attribute of a plain value; a float is an f32."""
    if isinstance(value, (bool, ir.DataType)):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, int):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    if isinstance(value, str):
        return ir.AttrString(name, value)
    if isinstance(value, (list, tuple)):
        if all(isinstance(v, int) for v in value):
            return ir.AttrInt64s(name, [int(v) for v in value])
        if all(isinstance(v, str) for v in value):
            return ir.AttrStrings(name, list(value))
        return ir.AttrFloat32s(name, [float(v) for v in value])
    if isinstance(value, np.ndarray):
        return ir.AttrTensor(name, ir.tensor(value))
    return ir.convenience.convert_attribute(name, value)


def dtypes(
    op: str, inputs: list[ir.Value | None], attributes: Mapping[str, Any], outputs: int
) -> list[ir.DataType | None]:
    """The dtypes of a node's outputs; what it gets wrong, onnx.checker's shape inference finds."""
    first: ir.DataType | None
    if op in _BOOL:
        first = ir.DataType.BOOL
    elif op in _INT64:
        first = ir.DataType.INT64
    elif op == "Cast":
        first = ir.DataType(attributes["to"])
    elif op == "ConstantOfShape":
        value = attributes.get("value")
        first = ir.DataType.FLOAT if value is None else ir.tensor(value).dtype
    else:
        source = inputs[_DTYPE_FROM.get(op, 0)] if inputs else None
        first = source.dtype if source is not None else None
    return [first, *[_SECOND.get(op, first)] * (outputs - 1)]
