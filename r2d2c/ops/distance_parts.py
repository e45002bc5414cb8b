"""What all distances share: operands of one shape, masks, sample weights and the reduction to a scalar.

A distance has losses: one an element (`mse`) or one a sample (`cross_entropy`). `mask` and
`weights` weigh them:

* ``mask`` has the first dims of the losses, each of them or 1: ``[B]`` and ``[B, T]`` both fit losses
  ``[B, T, D]``. Where a mask of bools is false, a loss and its gradients are 0, even if an operand is
  infinite or nan (but for `info_nce`, which couples samples).
* ``weights`` is ``[B]``.

The mean is then ``sum(w loss) / sum(w)``, and 0 where ``sum(w)`` is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r2d2c.ops.record import Arg, ShapeError, Shapes, Trait
from r2d2c.ops.reductions import onnx_reduce
from r2d2c.ops.unary import expect_tensor
from r2d2c.types import DimLike, TensorType, promote

DISTANCE: frozenset[Trait] = frozenset({"distance"})
WEIGHING = (
    Arg(
        "mask",
        default=None,
        doc="bools or numbers with the first dims of the losses; false or 0 leaves a loss out",
    ),
    Arg("weights", default=None, doc="`[B]`: one a sample"),
    Arg("reduction", "choice", "mean", doc="what the losses become", choices=("mean", "sum", "none")),
)


# -- shapes


def pair_type(s: Shapes, name: str, a: Any, left: str, right: str, numbers: bool = True) -> TensorType:
    """The type of the losses of two operands of one shape; either may be a number if ``numbers``.

    They do not broadcast: ``[B, 1]`` against ``[B]`` would compare every sample with every other one.
    """
    x, y = getattr(a, left), getattr(a, right)
    if not numbers or (x.weak and y.weak):
        expect_tensor(x, left, f"`{name}`")
        expect_tensor(y, right, f"`{name}`")
    dtype = promote(x.dtype, y.dtype)
    if not TensorType(dtype).floating:
        raise ShapeError(
            f"`{name}` needs floats: `{left}` is {x} and `{right}` is {y}",
            left,
            right,
            fix="convert it: `cast(…, f32)`",
        )
    if x.weak or y.weak:
        return TensorType(dtype, (y if x.weak else x).dims)
    expect_same_dims(s, name, x, y, left, right)
    return TensorType(dtype, x.dims)


def expect_same_dims(s: Shapes, name: str, x: TensorType, y: TensorType, left: str, right: str) -> None:
    fits = x.rank == y.rank and all(s.unify(m, n) for m, n in zip(x.dims, y.dims, strict=True))
    if not fits:
        message = f"`{name}` compares values of one shape: `{left}` is {x} and `{right}` is {y}"
        raise ShapeError(message, left, right)


def distance_type(s: Shapes, a: Any, losses: TensorType) -> TensorType:
    """The type of a distance; checks mask and weights against the losses."""
    mask, weights = a.mask, a.weights
    if mask is not None:
        expect_tensor(mask, "mask", "a distance")
        fits = mask.rank <= losses.rank and all(
            dim == 1 or s.unify(dim, size) for dim, size in zip(mask.dims, losses.dims, strict=False)
        )
        if not fits:
            raise ShapeError(f"a mask has the first dims of the losses, {losses}: this one is {mask}", "mask")
    if weights is not None:
        expect_tensor(weights, "weights", "a distance")
        if not (weights.rank == 1 and losses.rank >= 1 and s.unify(weights.dims[0], losses.dims[0])):
            raise ShapeError(
                f"sample weights are [B], and the losses {losses}: these are {weights}", "weights"
            )
    return losses if how(a) == "none" else losses.with_dims(())


def cost(a: Any) -> DimLike:
    """A few operations for each element of the larger operand."""
    types = [value for value in vars(a).values() if isinstance(value, TensorType)]
    count: DimLike = 4
    for dim in max(types, key=lambda type_: type_.rank).dims:
        count = count * dim
    return count


# -- lowering


def weighed(a: Any) -> bool:
    return a.mask is not None or a.weights is not None


def how(a: Any) -> str:
    """The reduction. (`none` written bare reaches an op as None, as it does for every optional argument.)"""
    return a.reduction or "none"


def reduction(a: Any) -> Mapping[str, str]:
    """The argument `reduction` of torch's own losses, left out where it is torch's default."""
    if weighed(a):
        return {"reduction": "none"}
    return {} if how(a) == "mean" else {"reduction": how(a)}


def operand(b: Any, a: Any, name: str, like: str, dtype: str) -> Any:
    """An argument as a tensor of ``dtype``; a number becomes one of the shape of ``like``."""
    value, type_ = getattr(a, name), b.type(name)
    if type_.weak:
        return b("torch.full_like", getattr(a, like), value, dtype=b.dtype(dtype))
    return value if type_.dtype == dtype else b.method("to", value, b.dtype(dtype))


def seen(b: Any, a: Any, name: str, value: Any, axis: int | None = None) -> Any:
    """The operand ``name`` with 0 where a mask of bools is false: nan would come back from there as 0 · nan.

    axis: one that the losses do not have, if only one.
    """
    rank = b.type(name).rank
    if a.mask is None or b.type("mask").dtype != "bool" or rank == 0:
        return value
    mask = a.mask
    for _ in range(rank - (axis is not None) - b.type("mask").rank):
        mask = b("torch.unsqueeze", mask, -1)
    return b("torch.where", mask if axis is None else b("torch.unsqueeze", mask, axis), value, 0)


def reduce(b: Any, a: Any, losses: Any, rank: int) -> Any:
    """Weigh the losses, which have ``rank`` dims, and reduce them."""
    if not weighed(a):
        return losses if how(a) == "none" else b(f"torch.{how(a)}", losses)
    dtype = b.out[0].dtype
    factors = []
    for name in ("mask", "weights"):
        value = getattr(a, name)
        if value is None:
            continue
        type_ = b.type(name)
        for _ in range(rank - type_.rank):
            value = b("torch.unsqueeze", value, -1)
        number = value if type_.dtype == dtype else b.method("to", value, b.dtype(dtype))
        losses = (
            b("torch.where", value, losses, 0) if type_.dtype == "bool" else b("torch.mul", losses, number)
        )
        factors.append(number)
    if how(a) == "none":
        return losses
    total = b("torch.sum", losses)
    if how(a) == "sum":
        return total
    factor = factors[0] if len(factors) == 1 else b("torch.mul", *factors)
    count = b("torch.sum", b.method("expand_as", factor, losses))
    count = b.counted(count) if hasattr(b, "counted") else count
    return b("torch.div", total, b("torch.where", b("torch.eq", count, 0), 1, count))


# -- ONNX


def onnx_losses(o: Any, a: Any, losses: Any, rank: int) -> Any:
    """`reduce` in ONNX."""
    if how(a) == "none" and not weighed(a):
        return losses
    if not weighed(a):
        return onnx_reduce(o, "ReduceMean" if how(a) == "mean" else "ReduceSum", losses, (), False)
    dtype = o.out[0].dtype
    zero, one = o.const(0, dtype), o.const(1, dtype)
    factors = []
    for name in ("mask", "weights"):
        value = getattr(a, name)
        if value is None:
            continue
        type_ = o.type(name)
        if type_.rank < rank:
            value = o("Unsqueeze", value, o.ints(range(type_.rank, rank)))
        number = o.cast(value, dtype)
        losses = o("Where", value, losses, zero) if type_.dtype == "bool" else o("Mul", losses, number)
        factors.append(number)
    if how(a) == "none":
        return losses
    total = onnx_reduce(o, "ReduceSum", losses, (), False)
    if how(a) == "sum":
        return total
    factor = factors[0] if len(factors) == 1 else o("Mul", *factors)
    count = onnx_reduce(o, "ReduceSum", o("Expand", factor, o("Shape", losses)), (), False)
    return o("Div", total, o("Where", o("Equal", count, zero), one, count))
