"""Rows of which some are padding: a mask from lengths, and reductions that leave out what is not there.

A mask is of bools, true where a row is there. It has the first dims of ``x``, each of them or 1, and reaches the axes
that are reduced: ``[B, P]`` fits ``[B, P]`` and ``[B, P, D]``, reduced along P. What is left out takes no part, even if
it is infinite or nan, and its gradient is exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from r2d2c.ops.dims import expect_integers, onnx_range
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes, normalise_axis
from r2d2c.ops.reductions import KEEP, axes_of, elements, onnx_reduce, reduced_dims
from r2d2c.ops.shapes import expect_floating
from r2d2c.ops.unary import expect_tensor
from r2d2c.types import DimLike, TensorType

_X = Arg("x", doc="floats, `[B, P]`, `[B, P, D]`, …")
_MASK = Arg("mask", doc="bools with the first dims of `x`, as `[B, P]`; true where a row is there")
_AXES = Arg("axes", "axes", 1, doc="the axis or axes of the rows, within the mask's; negative from the end")


# -- shared


def _check(s: Shapes, name: str, a: Any, axes: tuple[int, ...]) -> None:
    """Refuse a mask that does not fit ``x`` or does not reach ``axes``."""
    x, mask = a.x, a.mask
    expect_tensor(x, "x", f"`{name}`")
    expect_floating(x, "x")
    expect_tensor(mask, "mask", f"`{name}`")
    if mask.dtype != "bool":
        raise ShapeError(f"a mask is of bools, and `mask` is {mask}", "mask", fix="compare it: `… > 0`")
    fits = mask.rank <= x.rank and all(
        (dim == 1 and axis not in axes) or s.unify(dim, size)
        for axis, (dim, size) in enumerate(zip(mask.dims, x.dims, strict=False))
    )
    if not fits:
        raise ShapeError(f"a mask has the first dims of `x`, {x}: this one is {mask}", "mask", "x")
    beyond = [axis for axis in axes if axis >= mask.rank]
    if beyond:
        raise ShapeError(f"`mask` is {mask} and does not reach axis {beyond[0]} of `x`, {x}", "mask", "x")


def _mixes(a: Any, axes: tuple[int, ...]) -> list[tuple[str, int]]:
    return [(name, axis) for name in ("x", "mask") for axis in axes]


def _spread(b: Any, a: Any) -> Any:
    """The mask with as many dims as ``x``."""
    mask = a.mask
    for _ in range(b.type("x").rank - b.type("mask").rank):
        mask = b("torch.unsqueeze", mask, -1)
    return mask


def _spread_onnx(o: Any, a: Any) -> Any:
    rank, own = o.type("x").rank, o.type("mask").rank
    return o("Unsqueeze", a.mask, o.ints(range(own, rank))) if own < rank else a.mask


# -- reductions


def _sum(b: Any, x: Any, mask: Any, axes: tuple[int, ...], keep: bool) -> Any:
    return b("torch.sum", b("torch.where", mask, x, 0), axes, keep)


def _mean(b: Any, x: Any, mask: Any, axes: tuple[int, ...], keep: bool) -> Any:
    count = b("torch.clamp", b("torch.sum", mask, axes, keep), min=1)
    return b("torch.div", _sum(b, x, mask, axes, keep), count)


def _max(b: Any, x: Any, mask: Any, axes: tuple[int, ...], keep: bool) -> Any:
    top = b("torch.amax", b("torch.where", mask, x, -math.inf), axes, keep)
    return b("torch.where", b("torch.any", mask, axes, keep), top, 0)


def _sum_onnx(o: Any, x: Any, mask: Any, axes: tuple[int, ...], keep: bool) -> Any:
    return onnx_reduce(o, "ReduceSum", o("Where", mask, x, o.const(0, o.out[0].dtype)), axes, keep)


def _mean_onnx(o: Any, x: Any, mask: Any, axes: tuple[int, ...], keep: bool) -> Any:
    count = onnx_reduce(o, "ReduceSum", o.cast(mask, "i64"), axes, keep)
    count = o("Max", count, o.const(1, "i64"))
    return o("Div", _sum_onnx(o, x, mask, axes, keep), o.cast(count, o.out[0].dtype))


def _max_onnx(o: Any, x: Any, mask: Any, axes: tuple[int, ...], keep: bool) -> Any:
    dtype = o.out[0].dtype
    top = onnx_reduce(o, "ReduceMax", o("Where", mask, x, o.const(-math.inf, dtype)), axes, keep)
    count = onnx_reduce(o, "ReduceSum", o.cast(mask, "i64"), axes, keep)
    return o("Where", o("Greater", count, o.const(0, "i64")), top, o.const(0, dtype))


def _reduction(name: str, doc: str, lower: Callable[..., Any], onnx: Callable[..., Any]) -> Op:
    def shape(s: Shapes, a: Any) -> TensorType:
        expect_tensor(a.x, "x", f"`{name}`")
        _check(s, name, a, axes_of(a.x, a.axes))
        return TensorType(a.x.dtype, reduced_dims(a.x, a.axes, a.keep))

    return Op(
        name,
        doc,
        (_X, _MASK, _AXES, KEEP),
        shape,
        lambda b, a: lower(b, a.x, _spread(b, a), axes_of(b.type("x"), a.axes), a.keep),
        lambda o, a: onnx(o, a.x, _spread_onnx(o, a), axes_of(o.type("x"), a.axes), a.keep),
        mixes=lambda a: _mixes(a, axes_of(a.x, a.axes)),
        cost=elements,
        examples=(
            Example(f"{name}(x, m)", {"x": "f32[3, 4]", "m": "bool[3, 4]"}),
            Example(f"{name}(x, m)", {"x": "f32[3, 4, 2]", "m": "bool[3, 4]"}),
            Example(f"{name}(x, m, -2, keep=true)", {"x": "f32[2, 3, 4]", "m": "bool[2, 3, 1]"}),
            Example(f"{name}(x, m, axes=(1, 2))", {"x": "f64[3, 2, 4, 2]", "m": "bool[1, 2, 4]"}),
            Example(f"{name}(x, m, axes=0)", {"x": "f32[5]", "m": "bool[5]"}),
        ),
    )


# -- masked_softmax


def _softmax_shape(s: Shapes, a: Any) -> TensorType:
    expect_tensor(a.x, "x", "`masked_softmax`")
    _check(s, "masked_softmax", a, (normalise_axis(a.axis, a.x.rank),))
    return a.x  # type: ignore[no-any-return]


def _softmax_lower(b: Any, a: Any) -> Any:
    import torch

    mask = _spread(b, a)
    # Not -inf: where nothing is there, its softmax would be nan.
    lowest = torch.finfo(b.dtype(b.type("x").dtype)).min
    shares = b("torch.softmax", b("torch.where", mask, a.x, lowest), a.axis)
    return b("torch.where", mask, shares, 0)


def _softmax_onnx(o: Any, a: Any) -> Any:
    dtype, mask = o.out[0].dtype, _spread_onnx(o, a)
    shares = o("Softmax", o("Where", mask, a.x, o.const(-math.inf, dtype)), axis=a.axis)
    return o("Where", mask, shares, o.const(0, dtype))


MASKED_SOFTMAX = Op(
    "masked_softmax",
    "`softmax` along an axis over what the mask says is there; 0 elsewhere, and everywhere if nothing is.",
    (_X, _MASK, Arg("axis", "axis", -1, doc="within the mask's; negative from the end")),
    _softmax_shape,
    _softmax_lower,
    _softmax_onnx,
    mixes=lambda a: _mixes(a, (normalise_axis(a.axis, a.x.rank),)),
    cost=lambda a: 5 * elements(a),
    examples=(
        Example("masked_softmax(x, m)", {"x": "f32[3, 4]", "m": "bool[3, 4]"}),
        Example("masked_softmax(x, m, axis=1)", {"x": "f32[3, 4, 2]", "m": "bool[3, 4]"}),
        Example("masked_softmax(x, m)", {"x": "f64[2, 3, 4]", "m": "bool[2, 1, 4]"}),
    ),
)


# -- pad_mask


def _pad_shape(s: Shapes, a: Any) -> TensorType:
    expect_tensor(a.lengths, "lengths", "`pad_mask`")
    expect_integers(a.lengths, "lengths")
    most: DimLike = a.size + 1
    s.bound("lengths", most)
    return TensorType("bool", (*a.lengths.dims, a.size))


def _pad_lower(b: Any, a: Any) -> Any:
    place = {"device": b.device()} if hasattr(b, "device") else {}
    rows = b("torch.arange", b.size(a.size), **place)
    return b("torch.lt", rows, b("torch.unsqueeze", a.lengths, -1))


def _pad_onnx(o: Any, a: Any) -> Any:
    return o("Less", onnx_range(o, a.size), o("Unsqueeze", o.cast(a.lengths, "i64"), o.ints([-1])))


PAD_MASK = Op(
    "pad_mask",
    "The mask of rows that are padded at their end: true for the first `lengths` of `size`.",
    (
        Arg("lengths", doc="integers from 0 to `size`, mostly `[B]`"),
        Arg("size", "size", doc="the number of rows with padding; a new last dim"),
    ),
    _pad_shape,
    _pad_lower,
    _pad_onnx,
    traits=frozenset({"no_gradient"}),
    examples=(
        Example("pad_mask(n, 4)", {"n": "i64[3] < 5"}, gradient=False),
        Example("pad_mask(n, 3)", {"n": "i32[2, 5] < 4"}, gradient=False),
        Example("pad_mask(n, 1)", {"n": "i64[4] < 2"}, gradient=False),
    ),
)

OPS = (
    PAD_MASK,
    _reduction(
        "masked_sum",
        "The sum along the axes of the rows that are there; 0 where none is.",
        _sum,
        _sum_onnx,
    ),
    _reduction(
        "masked_mean",
        "The mean along the axes of the rows that are there; 0 where none is.",
        _mean,
        _mean_onnx,
    ),
    _reduction(
        "masked_max",
        "The largest along the axes of the rows that are there; 0 where none is.",
        _max,
        _max_onnx,
    ),
    MASKED_SOFTMAX,
)
