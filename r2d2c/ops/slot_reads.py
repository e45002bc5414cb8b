"""Reading several slots of a memory: sorted by age, the best, the nearest, or all of them by attention."""

from __future__ import annotations

from typing import Any

from r2d2c.ops.dims import expect_same_dtype, product
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating, expect_rank
from r2d2c.ops.slot_choice import expect_ages, expect_slots
from r2d2c.types import DimLike, TensorType

_X = Arg("x", doc="`[B, K, …]`, any dtype")
_K = Arg("k", "size", doc="how many slots")
_WRITTEN = Arg("written", default=None, doc="`[B, K]`, bools: which slots count; all without it")


def _expect_same_slots(s: Shapes, type_: TensorType, x: TensorType, names: tuple[str, str]) -> None:
    if type_.rank < 2 or not (s.unify(type_.dims[0], x.dims[0]) and s.unify(type_.dims[1], x.dims[1])):
        raise ShapeError(f"`{names[1]}` is {x} and `{names[0]}` is {type_}: of other slots", *names)


def _few(x: TensorType, k: DimLike) -> TensorType:
    slots = x.dims[1]
    if isinstance(k, int) and isinstance(slots, int) and not 1 <= k <= slots:
        raise ShapeError(f"`k` is {int(k)}, and there are {int(slots)} slots", "x")
    return x.with_dims((x.dims[0], k, *x.dims[2:]))


def _expect_written(s: Shapes, a: Any, x: TensorType, name: str) -> None:
    if a.written is None:
        return
    if a.written.dtype != "bool" or a.written.rank != 2:
        raise ShapeError(
            f"`written` is {a.written}, and says of every slot whether it counts: bool[B, K]", "written"
        )
    _expect_same_slots(s, a.written, x, ("written", name))


def _pick(b: Any, a: Any, index: Any) -> Any:
    """What slots of every sample hold, in the order of ``index``, ``[B, k]``."""
    if b.type("x").rank == 2:
        return b("torch.gather", a.x, 1, index)
    # Whole rows, several times as fast as an index for every number in them. These indices are never out of range.
    samples = b("torch.arange", b.python(len, index), device=b.python(getattr, index, "device"))
    first = b("torch.unsqueeze", b("torch.mul", samples, b.size(b.type("x").dims[1])), 1)
    rows = b("torch.flatten", b("torch.add", index, first))
    found = b("torch.index_select", b("torch.flatten", a.x, 0, 1), 0, rows)
    return b("torch.unflatten", found, 0, b.python(getattr, index, "shape"))


def _pick_onnx(o: Any, a: Any, index: Any) -> Any:
    return o("GatherND", a.x, o("Unsqueeze", index, o.ints([2])), batch_dims=1)


def _mix_slots(*names: str) -> Any:
    return lambda a: [(name, 1) for name in names if getattr(a, name) is not None]


# -- by_age


def _sorted_shape(s: Shapes, a: Any) -> TensorType:
    expect_slots(a.x, "x", "`by_age`")
    expect_ages(s, a.age, a.x)
    return a.x  # type: ignore[no-any-return]


def _sorted_lower(b: Any, a: Any) -> Any:
    return _pick(b, a, b("torch.argsort", a.age, dim=1, stable=True))


def _sorted_onnx(o: Any, a: Any) -> Any:
    size = o.size(o.type("age").dims[1])
    _, index = o("TopK", o.cast(a.age, "i64"), size, outputs=2, axis=1, largest=0, sorted=1)
    return _pick_onnx(o, a, index)


BY_AGE = Op(
    "by_age",
    "The slots sorted by their ages, the newest first; those that were never written come last.",
    (_X, Arg("age", doc="`[B, K]`, integers")),
    _sorted_shape,
    _sorted_lower,
    _sorted_onnx,
    mixes=_mix_slots("x", "age"),
    examples=(
        Example("by_age(x, age)", {"x": "f32[4, 3, 2]", "age": "i64[4, 3] < 9"}),
        Example("by_age(x, age)", {"x": "f64[4, 3]", "age": "i64[4, 3] < 9"}),
        Example("by_age(age, age)", {"age": "i64[4, 5] < 9"}, gradient=False),
    ),
)

# -- top_slots


def _top_shape(s: Shapes, a: Any) -> TensorType:
    expect_slots(a.x, "x", "`top_slots`")
    expect_floating(a.score, "score")
    expect_rank(a.score, 2, "score", "a score of every slot")
    _expect_same_slots(s, a.score, a.x, ("score", "x"))
    return _few(a.x, a.k)


def _top_lower(b: Any, a: Any) -> Any:
    return _pick(b, a, b.item(b("torch.topk", a.score, b.size(a.k), 1), 1))


def _top_onnx(o: Any, a: Any) -> Any:
    _, index = o("TopK", a.score, o.size(a.k), outputs=2, axis=1, largest=1, sorted=1)
    return _pick_onnx(o, a, index)


TOP_SLOTS = Op(
    "top_slots",
    "What the `k` slots with the highest scores hold, `[B, k, …]`, the highest first. No gradient goes to the scores.",
    (_X, Arg("score", doc="`[B, K]`, floating"), _K),
    _top_shape,
    _top_lower,
    _top_onnx,
    mixes=_mix_slots("x", "score"),
    examples=(
        Example("top_slots(x, stop(p), 2)", {"x": "f32[4, 3, 2]", "p": "f32[4, 3]"}),
        Example("top_slots(x, p, k=1)", {"x": "i64[4, 3] < 9", "p": "f32[4, 3]"}, gradient=False),
    ),
)

# -- nearest


def _nearest_shape(s: Shapes, a: Any) -> TensorType:
    expect_slots(a.x, "x", "`nearest`")
    _expect_query(s, a)
    _expect_same_slots(s, a.key, a.x, ("key", "x"))
    _expect_written(s, a, a.key, "key")
    return _few(a.x, a.k)


def _expect_query(s: Shapes, a: Any) -> None:
    """Refuse keys `[B, K, D]` and a query `[B, D]` that do not go together."""
    expect_rank(a.key, 3, "key", "the keys of slots")
    expect_rank(a.query, 2, "query", "a query")
    expect_floating(a.key, "key")
    expect_floating(a.query, "query")
    expect_same_dtype(a.query, a.key, "query", "key")
    if not s.unify(a.query.dims[0], a.key.dims[0]) or not s.unify(a.query.dims[1], a.key.dims[2]):
        message = f"`query` is {a.query} and `key` is {a.key}: [B, D] and [B, K, D] are needed"
        raise ShapeError(message, "query", "key")


def _nearest_lower(b: Any, a: Any) -> Any:
    difference = b("torch.sub", a.key, b("torch.unsqueeze", a.query, 1))
    far = b("torch.sum", b("torch.mul", difference, difference), -1)
    if a.written is not None:
        far = b("torch.masked_fill", far, b("torch.logical_not", a.written), float("inf"))
    return _pick(b, a, b.item(b("torch.topk", far, b.size(a.k), 1, False), 1))


def _nearest_onnx(o: Any, a: Any) -> Any:
    difference = o("Sub", a.key, o("Unsqueeze", a.query, o.ints([1])))
    far = o("ReduceSum", o("Mul", difference, difference), o.ints([-1]), keepdims=0)
    if a.written is not None:
        far = o("Where", a.written, far, o.const(float("inf"), o.type("key").dtype))
    _, index = o("TopK", far, o.size(a.k), outputs=2, axis=1, largest=0, sorted=1)
    return _pick_onnx(o, a, index)


NEAREST = Op(
    "nearest",
    "What the `k` slots hold whose keys are nearest to the query, `[B, k, …]`, the nearest first. No gradient goes to keys "
    "and query: `attend_slots` is the soft form.",
    (
        _X,
        Arg("key", doc="`[B, K, D]`, floating"),
        Arg("query", doc="`[B, D]`"),
        Arg("k", "size", 1, doc="how many slots"),
        _WRITTEN,
    ),
    _nearest_shape,
    _nearest_lower,
    _nearest_onnx,
    mixes=_mix_slots("x", "key"),
    cost=lambda a: 3 * product(a.key.dims),
    examples=(
        Example("nearest(x, k, q)", {"x": "f32[4, 3, 2]", "k": "f32[4, 3, 5]", "q": "f32[4, 5]"}),
        Example(
            "nearest(x, k, q, k=2, written=w)",
            {"x": "i64[4, 3] < 9", "k": "f32[4, 3, 5]", "q": "f32[4, 5]", "w": "bool[4, 3]"},
            gradient=False,
        ),
    ),
)

# -- attend_slots


def _attend_shape(s: Shapes, a: Any) -> TensorType:
    _expect_query(s, a)
    expect_rank(a.value, 3, "value", "the values of slots")
    expect_same_dtype(a.value, a.key, "value", "key")
    _expect_same_slots(s, a.value, a.key, ("value", "key"))
    _expect_written(s, a, a.key, "key")
    return TensorType(a.value.dtype, (a.value.dims[0], a.value.dims[2]))


def _attend_lower(b: Any, a: Any) -> Any:
    scores = b("torch.squeeze", b("torch.matmul", a.key, b("torch.unsqueeze", a.query, 2)), 2)
    scores = b(
        "torch.div", scores, b("torch.sqrt", b("torch.full_like", scores, b.size(b.type("key").dims[2])))
    )
    if a.written is None:
        weights = b("torch.softmax", scores, 1)
    else:
        # Of a sample without any, the softmax is of nothing: its weights are all taken out again.
        free = b("torch.logical_not", a.written)
        weights = b("torch.softmax", b("torch.masked_fill", scores, free, float("-inf")), 1)
        weights = b("torch.masked_fill", weights, free, 0.0)
    return b("torch.squeeze", b("torch.matmul", b("torch.unsqueeze", weights, 1), a.value), 1)


def _attend_onnx(o: Any, a: Any) -> Any:
    dtype = o.type("key").dtype
    scores = o("Squeeze", o("MatMul", a.key, o("Unsqueeze", a.query, o.ints([2]))), o.ints([2]))
    size = o("Sqrt", o.cast(o.size(o.type("key").dims[2]), dtype))
    scores = o("Div", scores, size)
    if a.written is None:
        weights = o("Softmax", scores, axis=1)
    else:
        weights = o("Softmax", o("Where", a.written, scores, o.const(float("-inf"), dtype)), axis=1)
        weights = o("Where", a.written, weights, o.const(0.0, dtype))
    return o("Squeeze", o("MatMul", o("Unsqueeze", weights, o.ints([1])), a.value), o.ints([1]))


ATTEND_SLOTS = Op(
    "attend_slots",
    "The slots' values weighed by softmax(key·query / √D), one vector a sample; zeros where nothing was written.",
    (
        Arg("query", doc="`[B, D]`, floating"),
        Arg("key", doc="`[B, K, D]`"),
        Arg("value", doc="`[B, K, E]`"),
        _WRITTEN,
    ),
    _attend_shape,
    _attend_lower,
    _attend_onnx,
    mixes=_mix_slots("key", "value"),
    cost=lambda a: 2 * (product(a.key.dims) + product(a.value.dims)),
    examples=(
        Example("attend_slots(q, k, v)", {"q": "f32[4, 5]", "k": "f32[4, 3, 5]", "v": "f32[4, 3, 2]"}),
        Example(
            "attend_slots(q, k, v, written=w)",
            {"q": "f64[4, 5]", "k": "f64[4, 2, 5]", "v": "f64[4, 2, 2]", "w": "bool[4, 2]"},
        ),
    ),
)

OPS = (BY_AGE, TOP_SLOTS, NEAREST, ATTEND_SLOTS)
