"""Products of two or more values: `@`, einsum, outer, dot. (linear.py lists them among its ops.)"""

from __future__ import annotations

import re
from typing import Any

from r2d2c.ops.dims import expect_same_dtype, expect_tensor, product
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import broadcast_dims
from r2d2c.types import FLOATS, DimLike, TensorType, promote

# -- matmul


def _matmul_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    y: TensorType = a.y
    expect_tensor(x, "x", "a matrix product")
    expect_tensor(y, "y", "a matrix product")
    expect_same_dtype(x, y, "x", "y")
    if x.dtype == "bool":
        raise ShapeError(f"`x` is {x}: a matrix product needs numbers", "x")
    inner = y.dims[-2] if y.rank > 1 else y.dims[0]
    if not s.unify(x.dims[-1], inner):
        raise ShapeError(f"`x` is {x} and `y` is {y}: {x.dims[-1]} and {inner} do not fit", "x", "y")
    batch = broadcast_dims(s, x.with_dims(x.dims[:-2]), y.with_dims(y.dims[:-2]), names=("x", "y"))
    rows = x.dims[-2:-1]
    columns = y.dims[-1:] if y.rank > 1 else ()
    return x.with_dims((*batch, *rows, *columns))


def _matmul_mixes(a: Any) -> list[tuple[str, int]]:
    return [("x", a.x.rank - 1), ("y", max(0, a.y.rank - 2))]


def _matmul_cost(a: Any) -> DimLike:
    columns = a.y.dims[-1] if a.y.rank > 1 else 1
    if a.x.rank < a.y.rank:
        return 2 * product(a.y.dims) * (a.x.dims[-2] if a.x.rank > 1 else 1)
    return 2 * product(a.x.dims) * columns


MATMUL = Op(
    "matmul",
    "`x @ y`: matrix product of the last two dims, the dims before them broadcast; a vector stays a vector.",
    (Arg("x", doc="`[…, n, k]` or `[k]`"), Arg("y", doc="`[…, k, m]` or `[k]`")),
    _matmul_shape,
    lambda b, a: b("torch.matmul", a.x, a.y),
    lambda o, a: o("MatMul", a.x, a.y),
    mixes=_matmul_mixes,
    cost=_matmul_cost,
    examples=(
        Example("matmul(x, y)", {"x": "f32[3, 4]", "y": "f32[4, 5]"}),
        Example("matmul(x, y)", {"x": "f32[2, 1, 3, 4]", "y": "f32[6, 4, 5]"}),
        Example("matmul(x, y)", {"x": "f64[2, 3, 4]", "y": "f64[4]"}),
        Example("matmul(x, y)", {"x": "f32[4]", "y": "f32[2, 4, 3]"}),
        Example("matmul(x, y)", {"x": "i64[3, 4] < 9", "y": "i64[4, 2] < 9"}, gradient=False),
    ),
)

# -- einsum

_OPERAND = re.compile(r"[A-Za-z]*(?:\.\.\.)?[A-Za-z]*")


def _terms(pattern: str, count: int) -> tuple[list[str], str]:
    """The indices of every operand, and of the result. Raises `ShapeError`."""
    text = pattern.replace(" ", "")
    left, arrow, right = text.partition("->")
    operands = left.split(",")
    if not arrow:
        raise ShapeError(f'a pattern says what it gives: "{left}->…"', "pattern")
    for part in (*operands, right):
        if not _OPERAND.fullmatch(part):
            raise ShapeError(f'"{part}" is not a list of one-letter indices', "pattern")
    if len(operands) != count:
        raise ShapeError(f'"{left}" has indices for {len(operands)} values, {count} are given', "pattern")
    for letter in right.replace("...", ""):
        if right.count(letter) > 1:
            raise ShapeError(f"the result has the index `{letter}` twice", "pattern")
        if letter not in left:
            raise ShapeError(f"the result has an index `{letter}` that no value has", "pattern")
    return operands, right


def _indices(operand: str, rank: int) -> list[str]:
    """One name per axis; those of `...` count from the end: ``...-1``."""
    head, dots, tail = operand.partition("...")
    hidden = rank - len(head) - len(tail) if dots else 0
    if hidden < 0 or (not dots and rank != len(head)):
        raise ShapeError(f'"{operand}" does not name the axes of a value with {rank} dims', "pattern")
    return [*head, *(f"...{n - hidden}" for n in range(hidden)), *tail]


def _einsum_values(a: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(a, name)) for name in ("x", "y", "z", "w") if getattr(a, name) is not None]


def _einsum_shape(s: Shapes, a: Any) -> TensorType:
    values = _einsum_values(a)
    operands, right = _terms(a.pattern, len(values))
    sizes: dict[str, tuple[DimLike, str]] = {}
    hidden = 0
    for (name, type_), operand in zip(values, operands, strict=True):
        expect_same_dtype(values[0][1], type_, "x", name)
        if type_.weak or type_.dtype == "bool":
            raise ShapeError(f"`{name}` is {type_}: a product needs numbers of one dtype", name)
        names = _indices(operand, type_.rank)
        hidden = max(hidden, sum(n.startswith(".") for n in names))
        for index, dim in zip(names, type_.dims, strict=True):
            size, owner = sizes.get(index, (dim, name))
            if index.startswith(".") and 1 in (size, dim):
                sizes[index] = (dim if size == 1 else size, name if size == 1 else owner)
                continue
            if not s.unify(size, dim):
                message = f"the index `{index}` is {size} in `{owner}` and {dim} in `{name}`"
                raise ShapeError(message, owner, name)
            sizes[index] = (size, owner)
    head, dots, tail = right.partition("...")
    result = [*head, *(f"...{n - hidden}" for n in range(hidden if dots else 0)), *tail]
    return TensorType(values[0][1].dtype, tuple(sizes[index][0] for index in result))


def _einsum_onnx(o: Any, a: Any) -> Any:
    """ONNX wants `...` to stand for as many axes in every value."""
    pattern = a.pattern.replace(" ", "")
    values = _einsum_values(a)
    operands, _ = _terms(pattern, len(values))
    hidden = [
        sum(index.startswith(".") for index in _indices(operand, o.type(name).rank))
        for (name, _), operand in zip(values, operands, strict=True)
    ]
    given = []
    for (_, value), operand, count in zip(values, operands, hidden, strict=True):
        first, missing = operand.find("..."), max(hidden) - count
        if first >= 0 and missing:
            value = o("Unsqueeze", value, o.ints(range(first, first + missing)))
        given.append(value)
    return o("Einsum", *given, equation=pattern)


def _einsum_mixes(a: Any) -> list[tuple[str, int]]:
    values = _einsum_values(a)
    operands, right = _terms(a.pattern, len(values))
    found: list[tuple[str, int]] = []
    for (name, type_), operand in zip(values, operands, strict=True):
        for axis, index in enumerate(_indices(operand, type_.rank)):
            if ("..." if index.startswith(".") else index) not in right:
                found.append((name, axis))
    return found


def _einsum_cost(a: Any) -> DimLike:
    values = _einsum_values(a)
    operands, _ = _terms(a.pattern, len(values))
    sizes: dict[str, DimLike] = {}
    for (_, type_), operand in zip(values, operands, strict=True):
        sizes.update(zip(_indices(operand, type_.rank), type_.dims, strict=True))
    return len(values) * product(sizes.values())


EINSUM = Op(
    "einsum",
    'Sum of products by index letters: `einsum("bij,bjk->bik", x, y)`. `...` stands for further axes.',
    (
        Arg("pattern", "text", doc="one letter an axis, `->` before those of the result"),
        Arg("x"),
        Arg("y", default=None),
        Arg("z", default=None),
        Arg("w", default=None),
    ),
    _einsum_shape,
    lambda b, a: b("torch.einsum", a.pattern.replace(" ", ""), *(value for _, value in _einsum_values(a))),
    _einsum_onnx,
    mixes=_einsum_mixes,
    cost=_einsum_cost,
    examples=(
        Example('einsum("ij,jk->ik", x, y)', {"x": "f32[3, 4]", "y": "f32[4, 5]"}),
        Example('einsum("bhqd, bhkd -> bhqk", x, y)', {"x": "f32[2, 3, 4, 5]", "y": "f32[2, 3, 6, 5]"}),
        Example('einsum("...ij,...j->...i", x, y)', {"x": "f64[2, 3, 4, 5]", "y": "f64[3, 5]"}),
        Example(
            'einsum("bi,oij,bj->bo", x, y, z)', {"x": "f32[2, 3]", "y": "f32[4, 3, 5]", "z": "f32[2, 5]"}
        ),
        Example('einsum("bij->bji", x)', {"x": "f32[2, 3, 4]"}),
    ),
)

# -- outer and dot


def _product_dtype(a: Any) -> str:
    for name in ("x", "y"):
        expect_tensor(getattr(a, name), name, "a product of vectors")
    return promote(a.x.dtype, a.y.dtype)


def _outer_shape(s: Shapes, a: Any) -> TensorType:
    dtype, x, y = _product_dtype(a), a.x, a.y
    batch = broadcast_dims(s, x.with_dims(x.dims[:-1]), y.with_dims(y.dims[:-1]), names=("x", "y"))
    return TensorType(dtype, (*batch, x.dims[-1], y.dims[-1]))


def _outer_onnx(o: Any, a: Any) -> Any:
    x, y = o.promote(a.x, a.y)
    return o("Mul", o("Unsqueeze", x, o.ints([-1])), o("Unsqueeze", y, o.ints([-2])))


OUTER = Op(
    "outer",
    "`x_i y_j` over the last dims, the dims before them broadcast.",
    (Arg("x", doc="`[…, n]`"), Arg("y", doc="`[…, m]`")),
    _outer_shape,
    lambda b, a: b("torch.mul", b("torch.unsqueeze", a.x, -1), b("torch.unsqueeze", a.y, -2)),
    _outer_onnx,
    examples=(
        Example("outer(x, y)", {"x": "f32[3]", "y": "f32[4]"}),
        Example("outer(x, y)", {"x": "f32[2, 3]", "y": "f32[2, 4]"}),
        Example("outer(x, y)", {"x": "f64[5, 1, 3]", "y": "f64[2, 4]"}),
        Example("outer(x, y)", {"x": "i64[3] < 9", "y": "f32[4]"}),
    ),
)


def _dot_shape(s: Shapes, a: Any) -> TensorType:
    dtype, x, y = _product_dtype(a), a.x, a.y
    if not s.unify(x.dims[-1], y.dims[-1]):
        message = f"`x` is {x} and `y` is {y}: the last dims {x.dims[-1]} and {y.dims[-1]} do not fit"
        raise ShapeError(message, "x", "y")
    batch = broadcast_dims(s, x.with_dims(x.dims[:-1]), y.with_dims(y.dims[:-1]), names=("x", "y"))
    return TensorType(dtype if dtype in FLOATS else "i64", batch)


def _dot_onnx(o: Any, a: Any) -> Any:
    dtype = o.out[0].dtype
    return o("ReduceSum", o("Mul", o.cast(a.x, dtype), o.cast(a.y, dtype)), o.ints([-1]), keepdims=0)


DOT = Op(
    "dot",
    "`sum_i x_i y_i` over the last dim, the dims before it broadcast.",
    (Arg("x", doc="`[…, n]`"), Arg("y", doc="`[…, n]`")),
    _dot_shape,
    lambda b, a: b("torch.sum", b("torch.mul", a.x, a.y), -1),
    _dot_onnx,
    mixes=lambda a: [("x", a.x.rank - 1), ("y", a.y.rank - 1)],
    cost=lambda a: 2 * product(max(a.x, a.y, key=lambda t: t.rank).dims),
    examples=(
        Example("dot(x, y)", {"x": "f32[3]", "y": "f32[3]"}),
        Example("dot(x, y)", {"x": "f32[2, 3]", "y": "f32[2, 3]"}),
        Example("dot(x, y)", {"x": "f64[5, 1, 3]", "y": "f64[2, 3]"}),
        Example("dot(x, y)", {"x": "i64[2, 3] < 9", "y": "i64[2, 3] < 9"}, gradient=False),
    ),
)

PRODUCTS = (MATMUL, EINSUM, OUTER, DOT)
