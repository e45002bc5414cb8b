"""Slots of memories: `[B, K, …]` has K of them for every sample; ages are i64[B, K], `NEVER` in one never written.

A loop that uses a memory is made of these; a spec may use them on values of its own as well.
"""

from __future__ import annotations

from typing import Any

from r2d2c.loops import NEVER
from r2d2c.ops.dims import divide, expect_integers, expect_tensor, onnx_range
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.slot_choice import AGE, expect_ages, expect_slots
from r2d2c.ops.unary import is_number
from r2d2c.types import DimLike, TensorType

_X = Arg("x", doc="`[B, K, …]`, any dtype")
_INDEX = Arg("index", doc="`[B]`, integers: a slot of every sample")
_WHEN = Arg("when", default=None, doc="`[B]`, bools: whether a sample writes; all do without it")
_NO_GRADIENT: Any = frozenset({"no_gradient"})


def _expect_choice(s: Shapes, a: Any, samples: DimLike) -> None:
    """Refuse an index, or a `when`, that is not one for every sample."""
    expect_integers(a.index, "index")
    if a.index.rank != 1 or not s.unify(a.index.dims[0], samples):
        raise ShapeError(f"`index` is {a.index}, and names a slot of every sample: i64[{samples}]", "index")
    when = getattr(a, "when", None)
    if when is None or getattr(a, "field", None):
        return  # in the write of a memory, it is `advance_age` that says it once
    if when.dtype != "bool" or (when.rank and (when.rank != 1 or not s.unify(when.dims[0], samples))):
        message = f"`when` is {when}, and says for every sample whether it writes: bool[{samples}]"
        raise ShapeError(message, "when")


def _columns(b: Any, value: Any, rank: int) -> Any:
    """A value of every sample, to go with all that a slot holds."""
    for axis in range(1, rank):
        value = b("torch.unsqueeze", value, axis)
    return value


def _chosen(b: Any, a: Any, slots: DimLike) -> Any:
    """bool[B, K]: the slot of every sample that is written."""
    places = b("torch.arange", b.size(slots), device=b.python(getattr, a.index, "device"))
    chosen = b("torch.eq", places, b("torch.unsqueeze", a.index, 1))
    if a.when is None:
        return chosen
    if is_number(a.when):
        return b("torch.logical_and", chosen, b("torch.full_like", chosen, a.when))
    when = a.when if b.type("when").rank == 0 else b("torch.unsqueeze", a.when, 1)
    return b("torch.logical_and", chosen, when)


def _chosen_onnx(o: Any, a: Any, slots: DimLike) -> Any:
    index = o("Unsqueeze", o.cast(a.index, "i64"), o.ints([1]))
    chosen = o("Equal", onnx_range(o, slots), index)
    if a.when is None:
        return chosen
    when = o.cast(a.when, "bool")
    if not is_number(a.when) and o.type("when").rank:
        when = o("Unsqueeze", when, o.ints([1]))
    return o("And", chosen, when)


# -- writing and reading


def _write_shape(s: Shapes, a: Any) -> TensorType:
    x, value = a.x, a.value
    expect_slots(x, "x", "`write_slot`")
    _expect_choice(s, a, x.dims[0])
    held = TensorType(x.dtype, (x.dims[0], *x.dims[2:]))
    fits = value.dtype == x.dtype or (
        value.weak and x.dtype != "bool" and (x.floating or value.dtype == "int")
    )
    number = value.rank == 0 and fits
    same = value.dtype == x.dtype and value.rank == held.rank and all(map(s.unify, value.dims, held.dims))
    if not number and not same:
        what = f"the field `{a.field}`" if a.field else "a slot of `x`"
        raise ShapeError(f"{what} holds {held}, and {value} is written", "value")
    return x  # type: ignore[no-any-return]


def _write_lower(b: Any, a: Any) -> Any:
    x = b.type("x")
    chosen = _chosen(b, a, x.dims[1])
    for axis in range(2, x.rank):
        chosen = b("torch.unsqueeze", chosen, axis)
    value = a.value if b.type("value").rank == 0 else b("torch.unsqueeze", a.value, 1)
    return b("torch.where", chosen, value, a.x)


def _write_onnx(o: Any, a: Any) -> Any:
    x = o.type("x")
    if a.when is None and x.rank > 2 and o.type("value").rank:
        # One row a sample: a broadcast `Where` over all slots takes ONNX Runtime several times as long.
        rows = o("Unsqueeze", onnx_range(o, x.dims[0]), o.ints([1]))
        places = o("Concat", rows, o("Unsqueeze", o.cast(a.index, "i64"), o.ints([1])), axis=1)
        return o("ScatterND", a.x, places, o.cast(a.value, x.dtype))
    chosen = _chosen_onnx(o, a, x.dims[1])
    if x.rank > 2:
        chosen = o("Unsqueeze", chosen, o.ints(range(2, x.rank)))
    value = o.cast(a.value, x.dtype)
    if o.type("value").rank:
        value = o("Unsqueeze", value, o.ints([1]))
    if x.dtype == "bool":  # ONNX Runtime has no `Where` of bools
        return o("Or", o("And", chosen, value), o("And", o("Not", chosen), a.x))
    return o("Where", chosen, value, a.x)


WRITE_SLOT = Op(
    "write_slot",
    "`x` with one slot of every sample replaced by `value`.",
    (
        _X,
        _INDEX,
        Arg("value", doc="`[B, …]`, what the slot then holds; or a number"),
        _WHEN,
        Arg("field", "text", None, doc="what to call `x` in a message"),
    ),
    _write_shape,
    _write_lower,
    _write_onnx,
    examples=(
        Example("write_slot(x, i, v)", {"x": "f32[4, 3]", "i": "i64[4] < 3", "v": "f32[4]"}),
        Example("write_slot(x, i, v)", {"x": "f64[4, 3, 2]", "i": "i64[4] < 3", "v": "f64[4, 2]"}),
        Example(
            "write_slot(x, i, v, when=w)",
            {"x": "f32[4, 2, 3, 2]", "i": "i64[4] < 2", "v": "f32[4, 3, 2]", "w": "bool[4]"},
        ),
        Example("write_slot(x, i, 1.5)", {"x": "f32[4, 3]", "i": "i32[4] < 3"}),
        Example("write_slot(x, i, true)", {"x": "bool[4, 3]", "i": "i64[4] < 3"}, gradient=False),
        Example(
            "write_slot(x, i, v)",
            {"x": "i64[4, 3] < 9", "i": "i64[4] < 3", "v": "i64[4] < 9"},
            gradient=False,
        ),
    ),
)


def _advance_shape(s: Shapes, a: Any) -> TensorType:
    expect_ages(s, a.age)
    _expect_choice(s, a, a.age.dims[0])
    return a.age  # type: ignore[no-any-return]


def _advance_lower(b: Any, a: Any) -> Any:
    # True is 1: an age stops one below that of a slot that was never written.
    older = b("torch.add", a.age, b("torch.lt", a.age, NEVER - 1))
    return b("torch.masked_fill", older, _chosen(b, a, b.type("age").dims[1]), 0)


def _advance_onnx(o: Any, a: Any) -> Any:
    dtype = o.type("age").dtype
    age = o.cast(a.age, "i64")
    older = o("Add", age, o.cast(o("Less", age, o.const(NEVER - 1, "i64")), "i64"))
    chosen = _chosen_onnx(o, a, o.type("age").dims[1])
    return o.cast(o("Where", chosen, o.const(0, "i64"), older), dtype)


ADVANCE_AGE = Op(
    "advance_age",
    "The ages one step later: that of the slot that was written is 0, the others are one more, and those of slots that "
    f"were never written stay {NEVER}.",
    (AGE, _INDEX, _WHEN),
    _advance_shape,
    _advance_lower,
    _advance_onnx,
    traits=_NO_GRADIENT,
    examples=(
        Example("advance_age(age, i)", {"age": "i64[4, 3] < 9", "i": "i64[4] < 3"}, gradient=False),
        Example(
            "advance_age(age * 536870912, i, when=w)",
            {"age": "i64[4, 3] < 3", "i": "i64[4] < 3", "w": "bool[4]"},
            gradient=False,
        ),
    ),
)


def _read_shape(s: Shapes, a: Any) -> TensorType:
    expect_slots(a.x, "x", "`read_slot`")
    _expect_choice(s, a, a.x.dims[0])
    return TensorType(a.x.dtype, (a.x.dims[0], *a.x.dims[2:]))


def _read_lower(b: Any, a: Any) -> Any:
    rank = b.type("x").rank
    index = a.index if b.type("index").dtype == "i64" else b.method("to", a.index, b.dtype("i64"))
    return b("torch.squeeze", b("torch.take_along_dim", a.x, _columns(b, index, rank), 1), 1)


READ_SLOT = Op(
    "read_slot",
    "What one slot of every sample holds.",
    (_X, _INDEX),
    _read_shape,
    _read_lower,
    lambda o, a: o("GatherND", a.x, o("Unsqueeze", o.cast(a.index, "i64"), o.ints([1])), batch_dims=1),
    mixes=lambda a: [("x", 1)],
    examples=(
        Example("read_slot(x, i)", {"x": "f32[4, 3, 2]", "i": "i64[4] < 3"}),
        Example("read_slot(x, i)", {"x": "f64[4, 3]", "i": "i64[4] < 3"}),
        Example("read_slot(x, i)", {"x": "i64[4, 2] < 9", "i": "i32[4] < 2"}, gradient=False),
    ),
)


# -- every slot by itself


def _samples_shape(s: Shapes, a: Any) -> TensorType:
    expect_slots(a.x, "x", "`slots_as_samples`")
    return TensorType(a.x.dtype, (a.x.dims[0] * a.x.dims[1], *a.x.dims[2:]))


SLOTS_AS_SAMPLES = Op(
    "slots_as_samples",
    "Every slot as a sample of its own: `[B, K, …]` as `[B*K, …]`. `samples_as_slots` is the way back.",
    (_X,),
    _samples_shape,
    lambda b, a: b("torch.flatten", a.x, 0, 1),
    lambda o, a: o("Reshape", a.x, o.shape((-1, *o.type("x").dims[2:]))),
    cost=lambda a: 0,
    examples=(
        Example("slots_as_samples(x)", {"x": "f32[4, 3, 2]"}),
        Example("slots_as_samples(x)", {"x": "i64[4, 3] < 9"}, gradient=False),
    ),
)


def _slots_shape(s: Shapes, a: Any) -> TensorType:
    expect_tensor(a.x, "x", "`samples_as_slots`")
    samples = divide(s.resolve(a.x.dims[0]), a.slots)
    if a.samples is not None and not s.unify(a.x.dims[0], a.samples * a.slots):
        rows = f"[{a.samples * a.slots}, …]"
        raise ShapeError(f"a value of every slot has a row for each, {rows}, and `x` is {a.x}", "x")
    if samples is None:
        raise ShapeError(f"`x` is {a.x}, and {a.x.dims[0]} rows are no samples of {a.slots} slots", "x")
    return TensorType(a.x.dtype, (samples, a.slots, *a.x.dims[1:]))


SAMPLES_AS_SLOTS = Op(
    "samples_as_slots",
    "What `slots_as_samples` took apart: `[B*K, …]` as `[B, K, …]`.",
    (
        Arg("x", doc="`[B*K, …]`, any dtype"),
        Arg("slots", "size", doc="K, how many slots a sample has"),
        Arg("samples", "size", None, doc="how many samples there have to be"),
    ),
    _slots_shape,
    lambda b, a: b("torch.unflatten", a.x, 0, (-1, b.size(a.slots))),
    lambda o, a: o("Reshape", a.x, o.shape((-1, a.slots, *o.type("x").dims[1:]))),
    cost=lambda a: 0,
    examples=(
        Example("samples_as_slots(x, 2)", {"x": "f32[4, 3]"}),
        Example("samples_as_slots(x, slots=2)", {"x": "i64[4] < 9"}, gradient=False),
    ),
)

OPS = (WRITE_SLOT, ADVANCE_AGE, READ_SLOT, SLOTS_AS_SAMPLES, SAMPLES_AS_SLOTS)
