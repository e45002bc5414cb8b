"""Products and quotients of dims, and sizes for reshapes, that many op records share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from r2d2c.ops.record import ShapeError, normalise_axis
from r2d2c.types import Dim, DimLike, TensorType, as_dim


def product(dims: Iterable[DimLike]) -> DimLike:
    total: DimLike = 1
    for dim in dims:
        total = total * dim
    return total


def divide(top: DimLike, bottom: DimLike) -> DimLike | None:
    """The exact quotient; a floor quotient where only the run can tell; None where it is no whole number."""
    if isinstance(top, int) and isinstance(bottom, int):
        return top // bottom if bottom and top % bottom == 0 else None
    if bottom == 0:
        return None
    terms = as_dim(bottom).terms
    if len(terms) == 1:
        atoms, factor = terms[0]
        total: DimLike = 0
        for top_atoms, top_factor in as_dim(top).terms:
            left = Counter(top_atoms)
            left.subtract(atoms)
            if top_factor % factor or min(left.values(), default=0) < 0:
                break
            kept = tuple(sorted(left.elements(), key=str))
            total = total + (Dim(((kept, top_factor // factor),)) if kept else top_factor // factor)
        else:
            return total
    return top // bottom


def cancel(left: Iterable[DimLike], right: Iterable[DimLike]) -> tuple[list[DimLike], list[DimLike]]:
    """Both without the dims that they share."""
    ours, theirs = Counter(left), Counter(right)
    return list((ours - theirs).elements()), list((theirs - ours).elements())


def lower_sizes(b: Any, dims: Sequence[DimLike]) -> tuple[Any, ...]:
    """Sizes for a reshape: a single dim that only the run knows is -1, which costs no node."""
    unknown = [position for position, dim in enumerate(dims) if not isinstance(dim, int)]
    if len(unknown) == 1 and 0 not in dims:
        return tuple(-1 if position == unknown[0] else int(dim) for position, dim in enumerate(dims))  # type: ignore[arg-type]
    return tuple(b.sizes(dims))


def onnx_sizes(o: Any, dims: Sequence[DimLike]) -> Any:
    """As `lower_sizes`, a 1-D int64 value."""
    unknown = [position for position, dim in enumerate(dims) if not isinstance(dim, int)]
    if len(unknown) <= 1 and 0 not in dims:
        return o.ints([int(dim) if isinstance(dim, int) else -1 for dim in dims])
    return o.shape(dims)


def onnx_range(o: Any, size: DimLike) -> Any:
    """0, 1, … size-1, known when compiling or not."""
    stop = o("Squeeze", o.size(size), o.ints([0]))
    return o("Range", o.const(0, dtype="i64"), stop, o.const(1, dtype="i64"))


def expect_tensor(type_: TensorType, argument: str, what: str) -> None:
    """Refuse Python numbers and scalars where an op works on axes."""
    if type_.weak or type_.rank == 0:
        found = "a number" if type_.weak else str(type_)
        raise ShapeError(f"{what} needs at least one dim, `{argument}` is {found}", argument)


def expect_integers(type_: TensorType, argument: str) -> None:
    """Refuse what cannot be an index."""
    if type_.dtype not in ("i64", "i32"):
        raise ShapeError(f"`{argument}` is {type_}, and an index must be i64 or i32", argument)


def expect_same_dtype(x: TensorType, y: TensorType | None, first: str, second: str) -> None:
    """Refuse what torch's products refuse: they never promote."""
    if y is not None and x.dtype != y.dtype:
        raise ShapeError(
            f"`{first}` is {x} and `{second}` is {y}: a product needs one dtype",
            first,
            second,
            fix="`cast` one of them",
        )


def expect_known(dim: DimLike, argument: str, what: str) -> int:
    """A size that has to be known when compiling."""
    if isinstance(dim, Dim):
        raise ShapeError(f"{what} has to be known when compiling, and {dim} is not", argument)
    return int(dim)


def expect_fixed(dim: DimLike, argument: str, what: str) -> None:
    """Refuse a dim of the run where storage is made; one that is still to be inferred may turn out well."""
    if isinstance(dim, Dim) and any(not name.startswith("?") for name in dim.symbols()):
        raise ShapeError(f"{what} cannot depend on {dim}, which only the run knows", argument)


def axes_of(type_: TensorType, axes: Any, argument: str = "axis") -> tuple[int, ...]:
    """Non-negative axes, each once; None is all of them."""
    if axes is None:
        return tuple(range(type_.rank))
    found = tuple(normalise_axis(axis, type_.rank, argument) for axis in axes)
    if len(set(found)) < len(found):
        raise ShapeError(f"an axis is given twice: {', '.join(map(str, axes))}", argument)
    return found
