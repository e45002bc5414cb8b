"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

from r2d2c.ops.dims import expect_known, expect_same_dtype, onnx_range, product
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import broadcast_dims, expect_floating
from r2d2c.types import DimLike, TensorType


def _shape(s: Shapes, a: Any) -> TensorType:
    q, k, v, mask, heads = a.q, a.k, a.v, a.mask, a.heads
    for name in ("q", "k", "v"):
        type_ = getattr(a, name)
        expect_floating(type_, name)
        expect_same_dtype(q, type_, "q", name)
        if type_.rank not in (2, 3, 4) or type_.rank != q.rank:
            raise ShapeError(
                f"attention takes [T, D], [B, T, D] or [B, heads, T, D], `{name}` is {type_}", name, "q"
            )
        if not all(map(s.unify, q.dims[:-2], type_.dims[:-2])):
            raise ShapeError(
                f"`q` is {q} and `{name}` is {type_}: the dims before the last two differ", "q", name
            )
    if not s.unify(q.dims[-1], k.dims[-1]):
        raise ShapeError(f"`q` is {q} and `k` is {k}: {q.dims[-1]} and {k.dims[-1]} do not fit", "q", "k")
    if not s.unify(k.dims[-2], v.dims[-2]):
        raise ShapeError(f"`k` is {k} and `v` is {v}: there is one key for each value", "k", "v")
    _check_heads(s, a)
    if mask is not None:
        if mask.dtype not in ("bool", q.dtype):
            raise ShapeError(
                f"`mask` is {mask}: bool (true where attention is allowed) or {q.dtype} (added)", "mask"
            )
        scores = TensorType("bool", (*q.dims[:-1], k.dims[-2]))
        both = broadcast_dims(s, scores, mask, names=("q", "mask"))
        if len(both) != scores.rank or not all(map(s.unify, both, scores.dims)):
            raise ShapeError(
                f"`mask` is {mask}, and has to broadcast to {scores.with_dtype(mask.dtype)}", "mask", "q"
            )
    if heads > 1 or q.rank > 2:
        return TensorType(q.dtype, (*q.dims[:-1], v.dims[-1]))
    return TensorType(q.dtype, (q.dims[0], v.dims[-1]))


def _check_heads(s: Shapes, a: Any) -> None:
    heads = a.heads
    if heads < 1:
        raise ShapeError(f"`heads` must be at least 1, not {heads}", "heads")
    if heads == 1:
        return
    if a.q.rank == 4:
        raise ShapeError(f"`q` is {a.q} and has an axis for heads already: leave `heads` out", "heads", "q")
    for name in ("q", "v"):
        width = expect_known(s.resolve(getattr(a, name).dims[-1]), name, "a width to be split into heads")
        if width % heads:
            raise ShapeError(f"a width of {width} does not divide into {heads} heads", "heads", name)


def _split_sizes(type_: TensorType, heads: int) -> tuple[DimLike, ...]:
    return (*type_.dims[:-1], heads, type_.dims[-1] // heads)


def _lower_mask(b: Any, a: Any) -> tuple[Any, bool]:
    """The mask that torch takes, and whether it is to make the causal one itself: it refuses both at once."""
    mask = a.mask
    if mask is None:
        return None, a.causal
    if a.heads > 1 and b.type("mask").rank == 3:
        mask = b("torch.unsqueeze", mask, 1)
    if not a.causal:
        return mask, False
    queries, keys = b.type("q").dims[-2], b.type("k").dims[-2]
    past = b("torch.tril", b.method("new_ones", a.q, b.sizes((queries, keys)), dtype=b.dtype("bool")))
    if b.type("mask").dtype == "bool":
        return b("torch.logical_and", mask, past), False
    return b("torch.where", past, mask, -math.inf), False


def _lower(b: Any, a: Any) -> Any:
    heads = a.heads
    mask, causal = _lower_mask(b, a)
    q, k, v = a.q, a.k, a.v
    if heads > 1:
        # Self-attention splits its one value once.
        split = {
            id(x): b("torch.transpose", b("torch.unflatten", x, -1, (heads, -1)), -3, -2)
            for x in {id(x): x for x in (q, k, v)}.values()
        }
        q, k, v = (split[id(x)] for x in (q, k, v))
    flat = b.type("q").rank == 2 and heads == 1
    if flat:
        q, k, v = (b("torch.unsqueeze", value, 0) for value in (q, k, v))
    y = b(
        "torch.nn.functional.scaled_dot_product_attention", q, k, v,
        attn_mask=mask, is_causal=causal, scale=a.scale,
    )  # fmt: skip
    if heads > 1:
        return b("torch.flatten", b("torch.transpose", y, -3, -2), -2, -1)
    return b("torch.squeeze", y, 0) if flat else y


def _onnx(o: Any, a: Any) -> Any:
    type_, heads = o.type("q"), a.heads
    dtype, rank = type_.dtype, type_.rank + (heads > 1)
    q, k, v, mask = a.q, a.k, a.v, a.mask
    swap = [*range(rank - 3), rank - 2, rank - 3, rank - 1]
    if heads > 1:
        sizes = o.ints([*([0] * (rank - 2)), heads, -1])
        q, k, v = (o("Transpose", o("Reshape", value, sizes), perm=swap) for value in (q, k, v))
        if mask is not None and o.type("mask").rank == 3:
            mask = o("Unsqueeze", mask, o.ints([1]))
    scores = o(
        "MatMul",
        o("Mul", q, _scale(o, a, dtype)),
        o("Transpose", k, perm=[*range(rank - 2), rank - 1, rank - 2]),
    )
    allowed = None
    if mask is not None and o.type("mask").dtype == "bool":
        allowed = mask
    elif mask is not None:
        scores = o("Add", scores, mask)
    if a.causal:
        key = o("Unsqueeze", onnx_range(o, o.type("k").dims[-2]), o.ints([0]))
        past = o("LessOrEqual", key, o("Unsqueeze", onnx_range(o, type_.dims[-2]), o.ints([1])))
        allowed = past if allowed is None else o("And", allowed, past)
    if allowed is not None:
        scores = o("Where", allowed, scores, o.const(-math.inf, dtype=dtype))
    weights = o("Softmax", scores, axis=-1)
    if allowed is not None:
        # A query that may attend to nothing gives zeros, as in torch.
        weights = o("Where", allowed, weights, o.const(0.0, dtype=dtype))
    y = o("MatMul", weights, v)
    if heads == 1:
        return y
    return o("Reshape", o("Transpose", y, perm=swap), o.ints([*([0] * (rank - 2)), -1]))


def _scale(o: Any, a: Any, dtype: str) -> Any:
    if a.scale is not None:
        return o.const(a.scale, dtype=dtype)
    width = o.type("q").dims[-1] // a.heads
    if isinstance(width, int):
        return o.const(1 / math.sqrt(width), dtype=dtype)
    return o("Reciprocal", o("Sqrt", o.cast(o.size(width), dtype)))


def _cost(a: Any) -> DimLike:
    keys = a.k.dims[-2]
    return product((2, *a.q.dims, keys)) + product((2, *a.q.dims[:-1], keys, a.v.dims[-1]))


def _mixes(a: Any) -> list[tuple[str, int]]:
    last = a.q.rank - 1
    return [("q", last), ("k", last - 1), ("k", last), ("v", last - 1)]


ATTENTION = Op(
    "attention",
    "`softmax(q k^T · scale) v`: for every query a mean of the values, weighted by how well their keys fit.",
    (
        Arg("q", doc="queries `[B, T, D]`, or `[B, heads, T, D]`"),
        Arg("k", doc="keys, as many as values"),
        Arg("v", doc="values"),
        Arg("mask", default=None, doc="bool, true where allowed; or floating, added to the scores"),
        Arg("causal", "bool", False, doc="a query sees only the keys up to its own position"),
        Arg("heads", "int", 1, doc="split the width into as many independent attentions"),
        Arg("scale", "float", None, doc="the default is 1 / sqrt(width of a head)"),
    ),
    _shape,
    _lower,
    _onnx,
    mixes=_mixes,
    cost=_cost,
    examples=(
        Example("attention(q, k, v)", {"q": "f32[2, 3, 4]", "k": "f32[2, 5, 4]", "v": "f32[2, 5, 6]"}),
        Example("attention(x, x, x, causal=true, heads=2)", {"x": "f32[2, 5, 4]"}),
        Example(
            "attention(q, k, v, mask=m, heads=2)",
            {"q": "f32[2, 3, 4]", "k": "f32[2, 5, 4]", "v": "f32[2, 5, 4]", "m": "bool[2, 1, 5]"},
        ),
        Example("attention(x, x, x, m, causal=true, scale=0.3)", {"x": "f64[2, 3, 5, 4]", "m": "f64[5, 5]"}),
        Example("attention(x, x, x, mask=m, causal=true)", {"x": "f32[5, 4]", "m": "bool[5, 5]"}),
    ),
)

OPS = (ATTENTION,)
