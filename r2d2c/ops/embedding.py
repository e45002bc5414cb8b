"""Integers to vectors."""

from __future__ import annotations

from typing import Any

from r2d2c.graph import Init
from r2d2c.ops.dims import expect_fixed, expect_integers, expect_known
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes
from r2d2c.types import INTEGERS, TensorType


def _embedding_params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    expect_fixed(a.count, "count", "the size of a table")
    expect_fixed(a.width, "width", "the size of a table")
    dims = (a.count, a.width)
    return {"weight": ParamSpec(dims, Init("normal", (1.0,)), ("entry", "out"), fans=dims)}


def _embedding_shape(s: Shapes, a: Any) -> TensorType:
    ids, weight = a.ids, a.weight
    expect_integers(ids, "ids")
    if weight.rank not in (2, 3):
        shapes = "[count, width] or, per sample, [B, count, width]"
        raise ShapeError(f"a table is {shapes}; this one is {weight}", "weight")
    for dim, wanted, name in zip(weight.dims[-2:], (a.count, a.width), ("count", "width"), strict=True):
        if not s.unify(dim, wanted):
            raise ShapeError(f"the table {weight} has {dim} where `{name}` is {wanted}", "weight", name)
    if weight.rank == 3 and not (ids.rank >= 1 and s.unify(weight.dims[0], ids.dims[0])):
        raise ShapeError(f"the table {weight} is per sample, and `ids` is {ids}", "weight", "ids")
    s.bound("ids", a.count)
    return TensorType(weight.dtype, (*ids.dims, a.width))


def _embedding_lower(b: Any, a: Any) -> Any:
    if b.type("weight").rank == 2:
        return b("torch.nn.functional.embedding", a.ids, a.weight)
    # One table a sample: pick rows along axis 1.
    samples, width = b.size(b.type("weight").dims[0]), b.size(b.out[0].dims[-1])
    flat = b.method("reshape", a.ids, (samples, -1, 1))
    rows = b("torch.gather", a.weight, 1, b.method("expand", flat, -1, -1, width))
    return b.method("reshape", rows, b.sizes(b.out[0].dims))


def _embedding_onnx(o: Any, a: Any) -> Any:
    if o.type("weight").rank == 2:
        return o("Gather", a.weight, a.ids, axis=0)
    return o("GatherND", a.weight, o("Unsqueeze", o.cast(a.ids, "i64"), o.ints([-1])), batch_dims=1)


EMBEDDING = Op(
    "embedding",
    "Row `ids` of a trained table. `weight=` may be another layer's, or one table a sample.",
    (
        Arg("ids", doc="integers at least 0 and less than `count`"),
        Arg("count", "size", doc="the number of rows"),
        Arg("width", "size", doc="the size of a row"),
        Arg("weight", "param", doc="`[count, width]`, or per sample `[B, count, width]`"),
    ),
    _embedding_shape,
    _embedding_lower,
    _embedding_onnx,
    params=_embedding_params,
    mixes=lambda a: [("weight", a.weight.rank - 2)],
    examples=(
        Example("embedding(ids, 7, 4)", {"ids": "i64[3] < 7"}),
        Example("embedding(ids, 7, 4)", {"ids": "i64[2, 5] < 7"}),
        Example("embedding(ids, 7, 4, weight=w)", {"ids": "i32[2, 5] < 7", "w": "f64[7, 4]"}),
        Example("embedding(ids, 7, 4, weight=w)", {"ids": "i64[2, 5] < 7", "w": "f32[2, 7, 4]"}),
        Example("embedding(ids, 7, 4, weight=w)", {"ids": "i64[2] < 7", "w": "f32[2, 7, 4]"}),
    ),
)


def _one_hot_shape(s: Shapes, a: Any) -> TensorType:
    if a.x.dtype not in INTEGERS:
        raise ShapeError(f"`x` is {a.x}, and classes are integers", "x")
    expect_known(a.classes, "classes", "the number of classes")
    s.bound("x", a.classes)
    return TensorType("f32", (*a.x.dims, a.classes))


def _one_hot_lower(b: Any, a: Any) -> Any:
    x = a.x if b.type("x").dtype == "i64" else b.method("to", a.x, b.dtype("i64"))
    return b.method("to", b("torch.nn.functional.one_hot", x, int(a.classes)), b.dtype("f32"))


def _one_hot_onnx(o: Any, a: Any) -> Any:
    depth, values = o.const(int(a.classes), dtype="i64"), o.const([0.0, 1.0], dtype="f32")
    return o("OneHot", o.cast(a.x, "i64"), depth, values, axis=-1)


ONE_HOT = Op(
    "one_hot",
    "1 at the place of the class, 0 elsewhere, as f32 in a new last dim.",
    (Arg("x", doc="integers at least 0 and less than `classes`"), Arg("classes", "size")),
    _one_hot_shape,
    _one_hot_lower,
    _one_hot_onnx,
    traits=frozenset({"no_gradient"}),
    examples=(
        Example("one_hot(x, 10)", {"x": "i64[4] < 10"}, gradient=False),
        Example("one_hot(x, 3)", {"x": "i64[2, 5] < 3"}, gradient=False),
        Example("one_hot(x, 5)", {"x": "i32[2, 2] < 5"}, gradient=False),
        Example("one_hot(x, 4)", {"x": "u8[6] < 4"}, gradient=False),
    ),
)

OPS = (EMBEDDING, ONE_HOT)
