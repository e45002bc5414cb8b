"""How much what came was not what was predicted: one number for every sample, never coupled with the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.ops.dims import expect_tensor
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating
from r2d2c.types import INTEGERS, TensorType

_P = Arg("p", doc="`[…, V]`, the probabilities that were predicted")
_X = Arg("x", doc="`[…, V]`, one-hot or probabilities; or `[…]`, integers less than V")
_LEAST = 1e-30


def _predicted_shape(s: Shapes, a: Any) -> TensorType:
    p, x = a.p, a.x
    expect_tensor(p, "p", "a prediction")
    expect_floating(p, "p")
    if x.dtype in INTEGERS:
        if x.rank != p.rank - 1 or not all(map(s.unify, x.dims, p.dims[:-1])):
            raise ShapeError(
                f"`p` is {p} and `x` is {x}: ids have the dims of `p` without the last", "x", "p"
            )
        s.bound("x", p.dims[-1])
        return p.with_dims(p.dims[:-1])  # type: ignore[no-any-return]
    return _pair(s, p, x, "p", "x", 1)


def _pair(s: Shapes, p: TensorType, x: TensorType, first: str, second: str, dropped: int) -> TensorType:
    """The type of one number of a pair of equal types for each of all dims but the last ones."""
    for name, type_ in ((first, p), (second, x)):
        expect_tensor(type_, name, "a surprise")
        expect_floating(type_, name)
    if p.dtype != x.dtype or p.rank != x.rank or not all(map(s.unify, p.dims, x.dims)):
        raise ShapeError(f"`{first}` is {p} and `{second}` is {x}: both need the same type", second, first)
    return p.with_dims(p.dims[: p.rank - dropped])


def _of(b: Any, a: Any, values: Any) -> Any:
    """The sum of x times values of the classes; of ids, the value of each."""
    if b.type("x").floating:
        return b("torch.sum", b("torch.mul", values, a.x), -1)
    ids = a.x if b.type("x").dtype == "i64" else b.method("to", a.x, b.dtype("i64"))
    return b("torch.squeeze", b("torch.gather", values, -1, b("torch.unsqueeze", ids, -1)), -1)


def _of_onnx(o: Any, a: Any, values: Any) -> Any:
    last = o.ints([-1])
    if o.type("x").floating:
        return o("ReduceSum", o("Mul", values, a.x), last, keepdims=0)
    ids = o("Unsqueeze", o.cast(a.x, "i64"), last)
    return o("Squeeze", o("GatherElements", values, ids, axis=-1), last)


def _mixes_last(*names: str) -> Callable[[Any], list[tuple[str, int]]]:
    def mixes(a: Any) -> list[tuple[str, int]]:
        return [(n, getattr(a, n).rank - 1) for n in names if getattr(a, n).floating]

    return mixes


_PREDICTED = (
    ({"p": "f32[4, 3]", "x": "f32[4, 3]"}, True),
    ({"p": "f64[2, 5, 3]", "x": "i64[2, 5] < 3"}, True),
    ({"p": "f32[4, 3]", "x": "i32[4] < 3"}, True),
)


def _examples(name: str) -> tuple[Example, ...]:
    return tuple(Example(f"{name}(p, x)", types, range=(0.05, 1.0), gradient=g) for types, g in _PREDICTED)


MISSED = Op(
    "missed",
    "1 - p(x): the probability that was not given to what came, from 0 to 1.",
    (_P, _X),
    _predicted_shape,
    lambda b, a: b("torch.rsub", _of(b, a, a.p), 1),
    lambda o, a: o("Sub", o.const(1.0, o.type("p").dtype), _of_onnx(o, a, a.p)),
    mixes=_mixes_last("p", "x"),
    examples=_examples("missed"),
)


def _log(b: Any, p: Any) -> Any:
    return b("torch.log", b("torch.clamp", p, _LEAST))


def _log_onnx(o: Any, p: Any, dtype: str) -> Any:
    return o("Log", o("Max", p, o.const(_LEAST, dtype)))


SURPRISAL = Op(
    "surprisal",
    f"-log p(x), in nats: the cross entropy of each sample. No probability counts as less than {_LEAST:g}.",
    (_P, _X),
    _predicted_shape,
    lambda b, a: b("torch.neg", _of(b, a, _log(b, a.p))),
    lambda o, a: o("Neg", _of_onnx(o, a, _log_onnx(o, a.p, o.type("p").dtype))),
    mixes=_mixes_last("p", "x"),
    examples=_examples("surprisal"),
)


def _kl_shape(s: Shapes, a: Any) -> TensorType:
    return _pair(s, a.p, a.q, "p", "q", 1)


def _kl_lower(b: Any, a: Any) -> Any:
    own = b("torch.xlogy", a.p, b("torch.clamp", a.p, _LEAST))
    return b("torch.sum", b("torch.sub", own, b("torch.mul", a.p, _log(b, a.q))), -1)


def _kl_onnx(o: Any, a: Any) -> Any:
    dtype = o.type("p").dtype
    difference = o("Sub", _log_onnx(o, a.p, dtype), _log_onnx(o, a.q, dtype))
    return o("ReduceSum", o("Mul", a.p, difference), o.ints([-1]), keepdims=0)


KL_EACH = Op(
    "kl_each",
    "Σ p·log(p / q) over the last axis, in nats: what `q` lacked as a prediction of `p`, for each sample.",
    (
        Arg("p", doc="`[…, V]`, probabilities of what came"),
        Arg("q", doc="of the same type, what was predicted"),
    ),
    _kl_shape,
    _kl_lower,
    _kl_onnx,
    mixes=_mixes_last("p", "q"),
    examples=(
        Example("kl_each(p, q)", {"p": "f32[4, 3]", "q": "f32[4, 3]"}, range=(0.05, 1.0)),
        Example("kl_each(p, q)", {"p": "f64[2, 5, 3]", "q": "f64[2, 5, 3]"}, range=(0.05, 1.0)),
    ),
)

# -- of values


def _values_shape(s: Shapes, a: Any) -> TensorType:
    return _pair(s, a.p, a.x, "p", "x", a.p.rank - 1)


def _norm(name: str, order: int, operator: str, doc: str) -> Op:
    def lower(b: Any, a: Any) -> Any:
        difference, rank = b("torch.sub", a.p, a.x), b.type("p").rank
        if rank == 1:
            return b("torch.abs", difference)
        flat = b("torch.flatten", difference, 1) if rank > 2 else difference
        return b("torch.linalg.vector_norm", flat, order, 1)

    def onnx(o: Any, a: Any) -> Any:
        difference, rank = o("Sub", a.p, a.x), o.type("p").rank
        if rank == 1:
            return o("Abs", difference)
        return o(operator, difference, o.ints(range(1, rank)), keepdims=0)

    return Op(
        name,
        doc,
        (Arg("p", doc="`[B, …]`, what was predicted"), Arg("x", doc="of the same type, what came")),
        _values_shape,
        lower,
        onnx,
        mixes=lambda a: [(n, axis) for n in ("p", "x") for axis in range(1, a.p.rank)],
        examples=(
            Example(f"{name}(p, x)", {"p": "f32[4, 3]", "x": "f32[4, 3]"}),
            Example(f"{name}(p, x)", {"p": "f64[2, 3, 2]", "x": "f64[2, 3, 2]"}),
            Example(f"{name}(p, x)", {"p": "f32[4]", "x": "f32[4]"}),
        ),
    )


OPS = (
    MISSED,
    SURPRISAL,
    KL_EACH,
    _norm("l1_each", 1, "ReduceL1", "Σ|p - x| over all dims but the first: one number a sample."),
    _norm(
        "l2_each",
        2,
        "ReduceL2",
        "√Σ(p - x)² over all dims but the first; its gradient is 0 where both are equal.",
    ),
)
