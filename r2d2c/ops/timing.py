"""How long ago: ages of memories as numbers that a network can use."""

from __future__ import annotations

from typing import Any

from r2d2c.graph import Init
from r2d2c.loops import NEVER
from r2d2c.ops.dims import divide, expect_fixed, expect_integers, expect_known, product
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating
from r2d2c.types import Dim, TensorType

_AGE = Arg("age", doc="integers at least 0, any shape; `NEVER`, 2^30, for what was never written")
# An i64 of ages has 30 of them below `NEVER`, and floats count them exactly.
_MOST_BITS = 30
# The longest wavelength of the sinusoids is this times 2π (Vaswani and others, Attention is all you need, 2017).
_BASE = 10_000.0


def _expect_ages(age: TensorType) -> None:
    expect_integers(age, "age")


# -- bits


def _bits_shape(s: Shapes, a: Any) -> TensorType:
    _expect_ages(a.age)
    count = expect_known(a.n, "n", "the number of bits")
    if not 1 <= count <= _MOST_BITS:
        raise ShapeError(f"an age has 1 to {_MOST_BITS} bits, not {count}", "n")
    return TensorType("f32", (*a.age.dims, a.n))


def _bits_lower(b: Any, a: Any) -> Any:
    count = int(a.n)
    age = b("torch.clamp", a.age, None, 2**count - 1)
    places = b(
        "torch.arange", count, device=b.python(getattr, a.age, "device"), dtype=b.dtype(b.type("age").dtype)
    )
    shifted = b("torch.bitwise_right_shift", b("torch.unsqueeze", age, -1), places)
    return b.method("to", b("torch.bitwise_and", shifted, 1), b.dtype("f32"))


def _bits_onnx(o: Any, a: Any) -> Any:
    count = int(a.n)
    age = o("Min", o.cast(a.age, "i64"), o.const(2**count - 1, "i64"))
    shifted = o("Div", o("Unsqueeze", age, o.ints([-1])), o.ints([2**place for place in range(count)]))
    return o.cast(o("Mod", shifted, o.const(2, "i64")), "f32")


BITS = Op(
    "bits",
    "An age as `n` binary digits, 0 or 1, the lowest first, along a new last axis. Ages beyond 2^n - 1 are as that one.",
    (_AGE, Arg("n", "size", doc="how many digits, 30 at the most")),
    _bits_shape,
    _bits_lower,
    _bits_onnx,
    traits=frozenset({"no_gradient"}),
    examples=(
        Example("bits(age, 4)", {"age": "i64[2, 3] < 40"}, gradient=False),
        Example("bits(age * 100000000, 30)", {"age": "i64[5] < 20"}, gradient=False),
        Example("bits(age, n=1)", {"age": "i32[4] < 3"}, gradient=False),
    ),
)

# -- sinusoid


def _sinusoid_shape(s: Shapes, a: Any) -> TensorType:
    _expect_ages(a.age)
    size = expect_known(a.size, "size", "the number of sinusoids")
    if size < 2 or size % 2:
        raise ShapeError(
            f"sinusoids come in pairs of a sine and a cosine: `size` is even, not {size}", "size"
        )
    return TensorType("f32", (*a.age.dims, a.size))


def _sinusoid_lower(b: Any, a: Any) -> Any:
    pairs = int(a.size) // 2
    known = b("torch.lt", a.age, NEVER)
    age = b("torch.unsqueeze", b("torch.mul", a.age, known), -1)
    steps = b("torch.arange", pairs, device=b.python(getattr, a.age, "device"), dtype=b.dtype("f64"))
    rates = b("torch.pow", _BASE, b("torch.div", steps, -float(pairs)))
    # In f64: an f32 of a large age has no room left for the phase.
    phase = b("torch.mul", age, rates)
    both = b("torch.cat", (b("torch.sin", phase), b("torch.cos", phase)), -1)
    return b.method("to", b("torch.mul", both, b("torch.unsqueeze", known, -1)), b.dtype("f32"))


def _sinusoid_onnx(o: Any, a: Any) -> Any:
    pairs = int(a.size) // 2
    age = o.cast(a.age, "i64")
    known = o.cast(o("Less", age, o.const(NEVER, "i64")), "f64")
    ages = o("Unsqueeze", o("Mul", o.cast(age, "f64"), known), o.ints([-1]))
    phase = o("Mul", ages, o.const([_BASE ** (-place / pairs) for place in range(pairs)], "f64"))
    # ONNX Runtime has no sine of f64: what is left after whole turns is exact enough in f32.
    turns = o("Floor", o("Div", phase, o.const(_TURN, "f64")))
    rest = o("Cast", o("Sub", phase, o("Mul", turns, o.const(_TURN, "f64"))), to=o.dtype("float32"))
    both = o("Concat", o("Sin", rest), o("Cos", rest), axis=-1)
    return o("Mul", o.cast(both, "f32"), o.cast(o("Unsqueeze", known, o.ints([-1])), "f32"))


_TURN = 6.283185307179586

SINUSOID = Op(
    "sinusoid",
    "An age as sines and cosines of `size / 2` wavelengths from 2π to nearly 10000·2π steps, along a new last axis: first "
    "all sines. What was never written gives zeros.",
    (_AGE, Arg("size", "size", doc="how many numbers, an even one")),
    _sinusoid_shape,
    _sinusoid_lower,
    _sinusoid_onnx,
    traits=frozenset({"no_gradient"}),
    examples=(
        Example("sinusoid(age, 4)", {"age": "i64[2, 3] < 40"}, gradient=False),
        Example("sinusoid(age * 53687091, size=6)", {"age": "i64[5] < 22"}, gradient=False),
    ),
)

# -- log_age


def _log_shape(s: Shapes, a: Any) -> TensorType:
    _expect_ages(a.age)
    return TensorType("f32", a.age.dims)


LOG_AGE = Op(
    "log_age",
    "log2(1 + age): 0 for what is new, 30 for what was never written.",
    (_AGE,),
    _log_shape,
    lambda b, a: b("torch.log2", b("torch.add", b.method("to", a.age, b.dtype("f32")), 1)),
    lambda o, a: o(
        "Div",
        o("Log", o("Add", o.cast(a.age, "f32"), o.const(1.0, "f32"))),
        o.const(0.6931471805599453, "f32"),
    ),
    traits=frozenset({"no_gradient"}),
    examples=(
        Example("log_age(age)", {"age": "i64[2, 3] < 40"}, gradient=False),
        Example("log_age(age)", {"age": "i32[4] < 3"}, gradient=False),
    ),
)

# -- rotate_by


def _rotate_shape(s: Shapes, a: Any) -> TensorType:
    x, age = a.x, a.age
    expect_floating(x, "x")
    _expect_ages(age)
    if x.weak or x.rank < 1:
        raise ShapeError(f"pairs of numbers are turned, and `x` is {x}", "x")
    if age.rank != x.rank - 1 or not all(map(s.unify, age.dims, x.dims[:-1])):
        raise ShapeError(
            f"`x` is {x} and `age` is {age}: all its dims but the last are those of `age`", "age", "x"
        )
    pairs = _pairs(s, x)
    if a.angle.rank != 1 or not s.unify(a.angle.dims[0], pairs):
        raise ShapeError(f"`angle` is {a.angle}, and `x` has {pairs} pairs", "angle", "x")
    return x  # type: ignore[no-any-return]


def _pairs(s: Shapes, x: TensorType) -> Any:
    size = s.resolve(x.dims[-1])
    pairs = divide(size, 2)
    if pairs is None or isinstance(pairs, Dim):
        raise ShapeError(
            f"pairs of numbers are turned: the last dim of `x` is even and known, not {size}", "x"
        )
    return pairs


def _rotate_params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    pairs = _pairs(s, a.x)
    expect_fixed(pairs, "x", "the number of angles")
    return {"angle": ParamSpec((pairs,), Init("normal", (0.1,)), ("pair",))}


def _rotate_lower(b: Any, a: Any) -> Any:
    dtype = b.dtype(b.type("x").dtype)
    # What was never written is not turned: its age would multiply the angle's gradient.
    age = b.method("to", b("torch.mul", a.age, b("torch.lt", a.age, NEVER)), dtype)
    phase = b("torch.mul", b("torch.unsqueeze", age, -1), a.angle)
    cos, sin = b("torch.cos", phase), b("torch.sin", phase)
    left, right = (b.item(b("torch.chunk", a.x, 2, -1), part) for part in (0, 1))
    first = b("torch.sub", b("torch.mul", left, cos), b("torch.mul", right, sin))
    second = b("torch.add", b("torch.mul", left, sin), b("torch.mul", right, cos))
    return b("torch.cat", (first, second), -1)


def _rotate_onnx(o: Any, a: Any) -> Any:
    dtype = o.type("x").dtype
    age = o.cast(a.age, "i64")
    known = o.cast(o("Less", age, o.const(NEVER, "i64")), "i64")
    ages = o.cast(o("Mul", age, known), dtype)
    phase = o("Mul", o("Unsqueeze", ages, o.ints([-1])), a.angle)
    narrow = o.dtype("float32")  # ONNX Runtime has no sine of f64
    cos, sin = (o.cast(o(name, o("Cast", phase, to=narrow)), dtype) for name in ("Cos", "Sin"))
    left, right = o("Split", a.x, axis=-1, num_outputs=2, outputs=2)
    first = o("Sub", o("Mul", left, cos), o("Mul", right, sin))
    second = o("Add", o("Mul", left, sin), o("Mul", right, cos))
    return o("Concat", first, second, axis=-1)


ROTATE_BY = Op(
    "rotate_by",
    "`x` turned by its age: pair i, the numbers i and i + m of 2m, by `age` times an angle that is learned. No length "
    "changes; what was never written is not turned.",
    (
        Arg("x", doc="`[…, 2m]`, floating"),
        Arg("age", doc="`[…]`, integers at least 0"),
        Arg("angle", "param", doc="of m pairs, in radians a step; starts as `normal(0.1)`"),
    ),
    _rotate_shape,
    _rotate_lower,
    _rotate_onnx,
    params=_rotate_params,
    cost=lambda a: 4 * product(a.x.dims),
    examples=(
        Example("rotate_by(x, age)", {"x": "f32[2, 3, 4]", "age": "i64[2, 3] < 9"}),
        Example("rotate_by(x, age, angle=w)", {"x": "f64[3, 6]", "age": "i64[3] < 9", "w": "f64[3]"}),
    ),
)

OPS = (BITS, SINUSOID, LOG_AGE, ROTATE_BY)
