"""Values without inputs: zeros, ranges, masks. And the two triangles of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2d2c.ops.dims import onnx_range
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.types import DTYPES, FLOATS, DimLike, TensorType

_SIZES = Arg("sizes", "sizes", doc="its shape")
_DTYPE = Arg("dtype", "choice", "f32", choices=DTYPES)


def _make(b: Any, target: str, *args: Any, dtype: str) -> Any:
    """A tensor made from nothing, on the device where the model runs if the context knows one."""
    place = {"device": b.device()} if hasattr(b, "device") else {}
    return b(target, *args, dtype=b.dtype(dtype), **place)


def _filled_shape(s: Shapes, a: Any) -> TensorType:
    if any(isinstance(size, int) and size < 0 for size in a.sizes):
        raise ShapeError("a size cannot be negative", "sizes")
    return TensorType(a.dtype, tuple(a.sizes))


def _number(dtype: str, value: float) -> bool | int | float:
    return value if dtype in FLOATS else bool(value) if dtype == "bool" else int(value)


def _fill(value_of: Callable[[Any], float]) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    def lower(b: Any, a: Any) -> Any:
        value = value_of(a)
        sizes = b.sizes(a.sizes)
        if value in (0, 1):
            return _make(b, "torch.ones" if value else "torch.zeros", sizes, dtype=a.dtype)
        return _make(b, "torch.full", sizes, _number(a.dtype, value), dtype=a.dtype)

    def onnx(o: Any, a: Any) -> Any:
        return o("Expand", o.const(_number(a.dtype, value_of(a)), dtype=a.dtype), o.shape(a.sizes))

    return lower, onnx


def _zero(a: Any) -> DimLike:
    return 0


def _constant(name: str, doc: str, value: float) -> Op:
    lower, onnx = _fill(lambda a: value)
    return Op(
        name,
        doc,
        (_SIZES, _DTYPE),
        _filled_shape,
        lower,
        onnx,
        traits=frozenset({"no_gradient"}),
        cost=_zero,
        examples=(
            Example(f"{name}((2, 3))", {}, gradient=False),
            Example(f"{name}(4, dtype=i64)", {}, gradient=False),
            Example(f"{name}((1, 2), dtype=bool)", {}, gradient=False),
        ),
    )


_lower_full, _onnx_full = _fill(lambda a: a.value)

FULL = Op(
    "full",
    "One number everywhere.",
    (_SIZES, Arg("value", "float"), _DTYPE),
    _filled_shape,
    _lower_full,
    _onnx_full,
    traits=frozenset({"no_gradient"}),
    cost=_zero,
    examples=(
        Example("full((2, 3), 0.5)", {}, gradient=False),
        Example("full(4, 7, dtype=i64)", {}, gradient=False),
        Example("full((2, 1), -1.5, dtype=f64)", {}, gradient=False),
    ),
)

ARANGE = Op(
    "arange",
    "0, 1, … n-1, as i64.",
    (Arg("n", "size"),),
    lambda s, a: TensorType("i64", (a.n,)),
    lambda b, a: _make(b, "torch.arange", b.size(a.n), dtype="i64"),
    lambda o, a: onnx_range(o, a.n),
    traits=frozenset({"no_gradient"}),
    cost=_zero,
    examples=(Example("arange(5)", {}, gradient=False), Example("arange(1)", {}, gradient=False)),
)


def _mask_onnx(o: Any, a: Any) -> Any:
    column, row = (
        o("Unsqueeze", onnx_range(o, a.n), o.ints([0])),
        o("Unsqueeze", onnx_range(o, a.n), o.ints([1])),
    )
    return o("LessOrEqual", column, row)


CAUSAL_MASK = Op(
    "causal_mask",
    "`[n, n]`, true where the column is not behind the row: position i may see 0 … i.",
    (Arg("n", "size"),),
    lambda s, a: TensorType("bool", (a.n, a.n)),
    lambda b, a: b("torch.tril", _make(b, "torch.ones", (b.size(a.n),) * 2, dtype="bool")),
    _mask_onnx,
    traits=frozenset({"no_gradient"}),
    cost=_zero,
    examples=(Example("causal_mask(4)", {}, gradient=False), Example("causal_mask(1)", {}, gradient=False)),
)


def _triangle_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    if x.rank < 2:
        raise ShapeError(f"a triangle needs a matrix, `x` is {x}", "x")
    return x


def _triangle(name: str, what: str, upper: int) -> Op:
    return Op(
        name,
        f"Zero {what} the diagonal of the last two dims.",
        (
            Arg("x", doc="`[…, n, m]`"),
            Arg("diagonal", "int", 0, doc="which diagonal; 1 is above the main one"),
        ),
        _triangle_shape,
        lambda b, a: b(f"torch.{name}", a.x, a.diagonal),
        lambda o, a: o("Trilu", a.x, o.const(a.diagonal, dtype="i64"), upper=upper),
        examples=(
            Example(f"{name}(x)", {"x": "f32[3, 4]"}),
            Example(f"{name}(x, -1)", {"x": "f64[2, 3, 3]"}),
            Example(f"{name}(x, diagonal=1)", {"x": "i64[4, 3] < 9"}, gradient=False),
        ),
    )


OPS = (
    _constant("zeros", "0 everywhere.", 0.0),
    _constant("ones", "1 everywhere.", 1.0),
    FULL,
    ARANGE,
    CAUSAL_MASK,
    _triangle("tril", "above", 0),
    _triangle("triu", "below", 1),
)
