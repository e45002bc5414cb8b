"""Shape rules that many op records share."""

from __future__ import annotations

from typing import Any

from r2d2c.ops.record import ShapeError, Shapes
from r2d2c.types import FLOATS, DimLike, TensorType, promote


def broadcast_dims(s: Shapes, *types: TensorType, names: tuple[str, ...] = ()) -> tuple[DimLike, ...]:
    """The dims of an elementwise result. Raises `ShapeError` naming the two arguments that disagree."""
    first = types[0]
    if all(t.dims is first.dims or t.dims == first.dims for t in types[1:]):
        return first.dims
    rank = max(t.rank for t in types)
    result: list[DimLike] = []
    for position in range(rank):
        size: DimLike = 1
        owner = 0
        for number, type_ in enumerate(types):
            axis = position - rank + type_.rank
            if axis < 0:
                continue
            dim = type_.dims[axis]
            if dim == 1 or (size != 1 and s.unify(size, dim)):
                continue
            if size != 1:
                shown = names or tuple(f"argument {n + 1}" for n in range(len(types)))
                raise ShapeError(
                    f"`{shown[owner]}` is {types[owner]} and `{shown[number]}` is {type_}: {size} and {dim} do not fit",
                    shown[owner] if names else None,
                    shown[number] if names else None,
                )
            size, owner = dim, number
        result.append(size)
    return tuple(result)


def same(s: Shapes, a: Any) -> TensorType:
    """The type of ``a.x``."""
    return a.x  # type: ignore[no-any-return]


def floating(s: Shapes, a: Any) -> TensorType:
    """The type of ``a.x``, which integers and bools become f32 in, as torch does."""
    x: TensorType = a.x
    return x if x.floating else x.with_dtype("f32")


def elementwise(s: Shapes, a: Any) -> TensorType:
    """Broadcast of ``a.x`` and ``a.y`` in their promoted dtype."""
    x, y = a.x, a.y
    if x is y:
        return x  # type: ignore[no-any-return]
    return TensorType(promoted(x, y), broadcast_dims(s, x, y, names=("x", "y")))


def promoted(x: TensorType, y: TensorType) -> str:
    """The dtype of arithmetic on two values. As in torch, a scalar does not widen a value that has dims."""
    if x.dtype != y.dtype and (x.rank == 0) != (y.rank == 0) and not (x.weak or y.weak):
        scalar, other = (x, y) if x.rank == 0 else (y, x)
        if _category(scalar.dtype) <= _category(other.dtype):
            return other.dtype
    return promote(x.dtype, y.dtype)


def _category(dtype: str) -> int:
    return 2 if dtype in FLOATS else 0 if dtype == "bool" else 1


def expect_rank(type_: TensorType, rank: int, argument: str, what: str) -> None:
    if type_.rank != rank:
        raise ShapeError(f"{what} needs {rank} dims, `{argument}` is {type_}", argument)


def expect_floating(type_: TensorType, argument: str) -> None:
    if not type_.floating:
        raise ShapeError(
            f"`{argument}` is {type_}, and must be of a floating dtype",
            argument,
            fix="convert it: `cast(…, f32)`",
        )
