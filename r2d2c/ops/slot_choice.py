"""Which slot of a memory: the one to replace, the newest, the oldest.

Ages are i64[B, K], steps since a slot was written, and `NEVER` in one that never was.
"""

from __future__ import annotations

from typing import Any

from r2d2c.loops import NEVER
from r2d2c.ops.dims import expect_integers, onnx_range
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import expect_rank
from r2d2c.types import TensorType

AGE = Arg("age", doc="`[B, K]`, integers: steps since a slot was written")
_LEAST = {"i64": -(2**63), "i32": -(2**31), "i16": -(2**15), "i8": -(2**7), "u8": 0}
_NO_GRADIENT: Any = frozenset({"no_gradient"})


def expect_slots(x: TensorType, argument: str, what: str) -> None:
    """Refuse what has no axis of slots behind that of the samples."""
    if x.weak or x.rank < 2:
        raise ShapeError(f"{what} works on slots, `[B, K, …]`, and `{argument}` is {x}", argument)


def expect_ages(s: Shapes, age: TensorType, x: TensorType | None = None, argument: str = "x") -> None:
    """Refuse ages that are no integers, or that are of other slots than those of a value."""
    expect_integers(age, "age")
    expect_rank(age, 2, "age", "ages of slots")
    if x is not None and not (s.unify(age.dims[0], x.dims[0]) and s.unify(age.dims[1], x.dims[1])):
        raise ShapeError(f"`age` is {age}, and the slots of `{argument}` are {x}", "age", argument)


def _replace_shape(s: Shapes, a: Any) -> TensorType:
    expect_ages(s, a.age)
    score: TensorType = a.score
    if score.dtype == "bool" or score.weak or score.rank != 2:
        raise ShapeError(f"a score is a number for every slot, [B, K], and `score` is {score}", "score")
    expect_ages(s, a.age, score, "score")
    return TensorType("i64", score.dims[:1])


def _replace_lower(b: Any, a: Any) -> Any:
    score = b.type("score")
    least = float("-inf") if score.floating else _LEAST[score.dtype]
    free = b("torch.eq", a.age, NEVER)
    return b("torch.argmin", b("torch.masked_fill", a.score, free, least), 1)


def _replace_onnx(o: Any, a: Any) -> Any:
    score = o.type("score")
    free = o("Equal", o.cast(a.age, "i64"), o.const(NEVER, "i64"))
    if score.floating:
        kind, least = score.dtype, float("-inf")
    else:  # ONNX Runtime's ArgMin takes no i64; ages and most numbers are exact in f64
        kind, least = "f64", float("-inf")
    scores = o("Where", free, o.const(least, kind), o.cast(a.score, kind))
    return o("ArgMin", scores, axis=1, keepdims=0)


SLOT_TO_REPLACE = Op(
    "slot_to_replace",
    "The slot of every sample with the lowest score, the first of several; slots that were never written come before all "
    "others, in their order.",
    (Arg("score", doc="`[B, K]`, what a slot is worth"), AGE),
    _replace_shape,
    _replace_lower,
    _replace_onnx,
    mixes=lambda a: [("score", 1), ("age", 1)],
    traits=_NO_GRADIENT,
    examples=(
        Example("slot_to_replace(x, age)", {"x": "f32[4, 3]", "age": "i64[4, 3] < 9"}, gradient=False),
        Example(
            "slot_to_replace(x, age * 536870912)", {"x": "f32[4, 3]", "age": "i64[4, 3] < 3"}, gradient=False
        ),
        Example("slot_to_replace(-age, age)", {"age": "i64[4, 3] < 9"}, gradient=False),
    ),
)


def _ages_to_slot(s: Shapes, a: Any) -> TensorType:
    expect_ages(s, a.age)
    return TensorType("i64", a.age.dims[:1])


def _oldest_lower(b: Any, a: Any) -> Any:
    return b("torch.argmax", b("torch.masked_fill", a.age, b("torch.ge", a.age, NEVER), -1), 1)


def _oldest_onnx(o: Any, a: Any) -> Any:
    age = o.cast(a.age, "i64")
    never = o("GreaterOrEqual", age, o.const(NEVER, "i64"))
    ages = o.cast(o("Where", never, o.const(-1, "i64"), age), "f64")
    return o("ArgMax", ages, axis=1, keepdims=0)


NEWEST_SLOT = Op(
    "newest_slot",
    "The slot of every sample that was written last; slot 0 if none was.",
    (AGE,),
    _ages_to_slot,
    lambda b, a: b("torch.argmin", a.age, 1),
    lambda o, a: o("ArgMin", o.cast(a.age, "f64"), axis=1, keepdims=0),
    mixes=lambda a: [("age", 1)],
    traits=_NO_GRADIENT,
    examples=(Example("newest_slot(age)", {"age": "i64[4, 3] < 9"}, gradient=False),),
)
OLDEST_SLOT = Op(
    "oldest_slot",
    "The slot of every sample that was written first, of those that were; slot 0 if none was.",
    (AGE,),
    _ages_to_slot,
    _oldest_lower,
    _oldest_onnx,
    mixes=lambda a: [("age", 1)],
    traits=_NO_GRADIENT,
    examples=(
        Example("oldest_slot(age)", {"age": "i64[4, 3] < 9"}, gradient=False),
        Example("oldest_slot(age * 536870912)", {"age": "i64[4, 3] < 3"}, gradient=False),
    ),
)


def _scores_shape(s: Shapes, a: Any) -> TensorType:
    expect_ages(s, a.age)
    expect_integers(a.count, "count")
    expect_rank(a.count, 1, "count", "a count of writes")
    if not s.unify(a.count.dims[0], a.age.dims[0]):
        raise ShapeError(f"`count` is {a.count} and `age` is {a.age}", "count", "age")
    return TensorType("f32", a.age.dims)


def _scores_lower(b: Any, a: Any) -> Any:
    size = b.size(b.type("age").dims[1])
    if b.training:
        like = b.method("to", a.age, b.dtype("f32"))
        return b("torch.rand_like", like, generator=b.generator(a.age))
    places = b("torch.arange", size, device=b.python(getattr, a.age, "device"))
    word = b("torch.mul", b("torch.remainder", a.count, _MODULUS), _STRIDE)
    word = b("torch.remainder", b("torch.add", b("torch.unsqueeze", word, 1), places), _MODULUS)
    for _ in range(_ROUNDS):
        word = b("torch.remainder", b("torch.add", b("torch.mul", word, word), word), _MODULUS)
        word = b("torch.remainder", b("torch.mul", b("torch.add", word, _ADD), _FACTOR), _MODULUS)
    return b("torch.div", b.method("to", word, b.dtype("f32")), float(_MODULUS))


def _scores_onnx(o: Any, a: Any) -> Any:
    def const(number: int) -> Any:
        return o.const(number, "i64")

    count = o("Mod", o("Unsqueeze", o.cast(a.count, "i64"), o.ints([1])), const(_MODULUS))
    word = o("Add", o("Mul", count, const(_STRIDE)), onnx_range(o, o.type("age").dims[1]))
    word = o("Mod", word, const(_MODULUS))
    for _ in range(_ROUNDS):
        word = o("Mod", o("Add", o("Mul", word, word), word), const(_MODULUS))
        word = o("Mod", o("Mul", o("Add", word, const(_ADD)), const(_FACTOR)), const(_MODULUS))
    return o("Div", o.cast(word, "f32"), o.const(float(_MODULUS), "f32"))


# Numbers of 24 bits, mixed by squares and products modulo a prime: nothing leaves an i64, and all are exact in f32.
_MODULUS, _STRIDE, _ADD, _FACTOR, _ROUNDS = 16_777_213, 1_021, 7_919, 2_654_435, 3

RANDOM_SCORES = Op(
    "random_scores",
    "A score from 0 to 1 for every slot: drawn in training, and in inference made from `count` and the slot, so that "
    "the model gives the same twice.",
    (AGE, Arg("count", doc="`[B]`, integers: how often was written so far")),
    _scores_shape,
    _scores_lower,
    _scores_onnx,
    traits=frozenset({"random", "train_only", "no_gradient"}),
    examples=(
        Example("random_scores(age, n)", {"age": "i64[4, 3] < 9", "n": "i64[4] < 1000"}, gradient=False),
    ),
)

OPS = (SLOT_TO_REPLACE, NEWEST_SLOT, OLDEST_SLOT, RANDOM_SCORES)
