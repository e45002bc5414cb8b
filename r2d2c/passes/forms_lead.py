"""How the dims of a context lie in those of the value that its parameters are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from r2d2c.graph import Node
from r2d2c.types import TensorType

# Ops of the last dims; those of the others are axis 1, or unknown.
ROWS = ("linear", "bilinear", "layer_norm", "rms_norm")


@dataclass(frozen=True, slots=True)
class Lead:
    """kind: the context's dims but the last are none, the first ones of the value, or those before its features.

    count: how many they are. first: the first axis of the op's features in its value, of ``rank`` dims; features: how
    many axes these are.
    """

    kind: Literal["shared", "sample", "position"]
    count: int
    first: int
    features: int
    rank: int


def lead_of(node: Node, x: TensorType, code: TensorType) -> Lead | None:
    """None if they do not fit."""
    features = int(node.attrs.get("dims", 1)) if node.op in ROWS else 1
    first = x.rank - features if node.op in ROWS else 1
    dims = code.dims[:-1]
    count = len(dims)
    if not dims:
        return Lead("shared", 0, first, features, x.rank)
    if count <= first and x.dims[:count] == dims:
        return Lead("sample", count, first, features, x.rank)
    if node.op in ROWS and count <= first and x.dims[first - count : first] == dims:
        return Lead("position", count, first, features, x.rank)
    return None
