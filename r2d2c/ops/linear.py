"""Products with a weight matrix: `linear` and `bilinear`. Products of two values are in products.py."""

from __future__ import annotations

from typing import Any

from r2d2c.graph import Init
from r2d2c.ops.dims import expect_fixed, expect_same_dtype, expect_tensor, product
from r2d2c.ops.products import PRODUCTS
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating
from r2d2c.types import DimLike, TensorType


def _params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    expect_tensor(a.x, "x", "linear")
    width = s.resolve(a.x.dims[-1])
    expect_fixed(width, "x", "the size of a weight")
    return {
        "weight": ParamSpec((a.out, width), Init("kaiming_uniform"), ("out", "in"), fans=(width, a.out)),
        "bias": ParamSpec((a.out,), Init("fan_in_uniform"), ("out",), fans=(width, a.out)),
    }


def _shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    weight, bias = a.weight, a.bias
    expect_floating(x, "x")
    if x.rank < 1:
        raise ShapeError("linear needs at least one dim, `x` is a scalar", "x")
    expect_same_dtype(x, weight, "x", "weight")
    if weight.rank not in (2, 3):
        raise ShapeError(
            f"a weight is [out, in] or, per sample, [B, out, in]; this one is {weight}", "weight"
        )
    if not s.unify(weight.dims[-1], x.dims[-1]):
        raise ShapeError(f"`x` is {x}, and the weight {weight} takes {weight.dims[-1]}", "x", "weight")
    if not s.unify(weight.dims[-2], a.out):
        raise ShapeError(f"the weight {weight} gives {weight.dims[-2]}, not {a.out}", "weight", "out")
    if weight.rank == 3 and not (x.rank >= 2 and s.unify(weight.dims[0], x.dims[0])):
        raise ShapeError(f"the weight {weight} is per sample, and `x` is {x}", "weight", "x")
    if bias is not None and not (bias.rank in (1, 2) and s.unify(bias.dims[-1], a.out)):
        raise ShapeError(f"the bias {bias} does not fit {a.out} outputs", "bias")
    return x.with_dims((*x.dims[:-1], a.out))


def _lower(b: Any, a: Any) -> Any:
    if b.type("weight").rank == 2:
        return b("torch.nn.functional.linear", a.x, a.weight, a.bias)
    # One weight matrix a sample: a batched product, never a loop.
    x = a.x
    flat = b.type("x").rank == 2
    if flat:
        x = b("torch.unsqueeze", x, 1)
    elif b.type("x").rank > 3:
        x = b("torch.flatten", x, 1, -2)
    y = b("torch.bmm", x, b("torch.transpose", a.weight, 1, 2))
    if a.bias is not None:
        bias = b("torch.unsqueeze", a.bias, 1) if b.type("bias").rank == 2 else a.bias
        y = b("torch.add", y, bias)
    if flat:
        return b("torch.squeeze", y, 1)
    return b.method("reshape", y, b.sizes(b.out[0].dims)) if b.type("x").rank > 3 else y


def _onnx(o: Any, a: Any) -> Any:
    weight, x, bias = o.type("weight"), o.type("x"), a.bias
    if weight.rank == 2 and x.rank == 2:
        return o("Gemm", a.x, a.weight, *([bias] if bias is not None else []), transB=1)
    permutation = [1, 0] if weight.rank == 2 else [0, 2, 1]
    transposed = o("Transpose", a.weight, perm=permutation)
    value = a.x
    flat = weight.rank == 3 and x.rank == 2
    if flat:
        value = o("Unsqueeze", value, o.ints([1]))
    elif weight.rank == 3 and x.rank > 3:
        value = o("Reshape", value, o.ints([0, -1, x.dims[-1]]))
    y = o("MatMul", value, transposed)
    if bias is not None:
        if o.type("bias").rank == 2:
            bias = o("Unsqueeze", bias, o.ints([1]))
        y = o("Add", y, bias)
    if flat:
        return o("Squeeze", y, o.ints([1]))
    return o("Reshape", y, o.shape(o.out[0].dims)) if weight.rank == 3 and x.rank > 3 else y


def _cost(a: Any) -> DimLike:
    return product((2, a.out, *a.x.dims))


def _mixes(a: Any) -> list[tuple[str, int]]:
    return [("x", a.x.rank - 1), ("weight", a.weight.rank - 1)]


LINEAR = Op(
    "linear",
    "`x W^T + b` over the last dim. `weight=` may be another layer's, or one matrix a sample `[B, out, in]`.",
    (
        Arg("x", doc="`[…, in]`"),
        Arg("out", "size", doc="the number of outputs"),
        Arg("weight", "param", doc="`[out, in]`, or per sample `[B, out, in]`"),
        Arg("bias", "param", doc="`[out]`; `bias=false` for none"),
    ),
    _shape,
    _lower,
    _onnx,
    params=_params,
    mixes=_mixes,
    cost=_cost,
    examples=(
        Example("linear(x, 5)", {"x": "f32[3, 4]"}),
        Example("linear(x, 5, bias=false)", {"x": "f32[2, 3, 4]"}),
        Example("linear(x, 5, weight=w)", {"x": "f32[3, 4]", "w": "f32[3, 5, 4]"}),
        Example("linear(x, 5, weight=w, bias=false)", {"x": "f32[3, 6, 4]", "w": "f32[3, 5, 4]"}),
    ),
)


def _bilinear_params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    expect_tensor(a.x, "x", "bilinear")
    expect_tensor(a.y, "y", "bilinear")
    left, right = s.resolve(a.x.dims[-1]), s.resolve(a.y.dims[-1])
    expect_fixed(left, "x", "the size of a weight")
    expect_fixed(right, "y", "the size of a weight")
    return {
        "weight": ParamSpec(
            (a.out, left, right), Init("fan_in_uniform"), ("out", "left", "right"), fans=(left, a.out)
        ),
        "bias": ParamSpec((a.out,), Init("fan_in_uniform"), ("out",), fans=(left, a.out)),
    }


def _bilinear_shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    y, weight, bias = a.y, a.weight, a.bias
    expect_floating(x, "x")
    if x.rank < 1 or x.rank != y.rank or not all(map(s.unify, x.dims[:-1], y.dims[:-1])):
        raise ShapeError(f"`x` is {x} and `y` is {y}: all dims but the last must be the same", "x", "y")
    expect_same_dtype(x, y, "x", "y")
    expect_same_dtype(x, weight, "x", "weight")
    if weight.rank not in (3, 4):
        shapes = "[out, left, right] or, per sample, [B, out, left, right]"
        raise ShapeError(f"a weight is {shapes}; this one is {weight}", "weight")
    for dim, other, name in zip(
        weight.dims[-3:], (a.out, x.dims[-1], y.dims[-1]), ("out", "x", "y"), strict=True
    ):
        if not s.unify(dim, other):
            raise ShapeError(f"the weight {weight} has {dim} where `{name}` has {other}", "weight", name)
    if weight.rank == 4 and not (x.rank >= 2 and s.unify(weight.dims[0], x.dims[0])):
        raise ShapeError(f"the weight {weight} is per sample, and `x` is {x}", "weight", "x")
    if bias is not None and not (bias.rank == 1 and s.unify(bias.dims[0], a.out)):
        raise ShapeError(f"the bias {bias} does not fit {a.out} outputs", "bias")
    return x.with_dims((*x.dims[:-1], a.out))


def _bilinear_equation(weight: TensorType) -> str:
    return "...i,oij,...j->...o" if weight.rank == 3 else "b...i,boij,b...j->b...o"


def _bilinear_lower(b: Any, a: Any) -> Any:
    if b.type("weight").rank == 3:
        return b("r2d2c.ops.functions.bilinear", a.x, a.y, a.weight, a.bias)
    y = b("torch.einsum", _bilinear_equation(b.type("weight")), a.x, a.weight, a.y)
    return y if a.bias is None else b("torch.add", y, a.bias)


def _bilinear_onnx(o: Any, a: Any) -> Any:
    y = o("Einsum", a.x, a.weight, a.y, equation=_bilinear_equation(o.type("weight")))
    return y if a.bias is None else o("Add", y, a.bias)


def _bilinear_mixes(a: Any) -> list[tuple[str, int]]:
    last = a.weight.rank - 1
    return [("x", a.x.rank - 1), ("y", a.y.rank - 1), ("weight", last - 1), ("weight", last)]


BILINEAR = Op(
    "bilinear",
    "`x^T W_o y + b_o` for every output `o`, over the last dims.",
    (
        Arg("x", doc="`[…, left]`"),
        Arg("y", doc="`[…, right]`"),
        Arg("out", "size", doc="the number of outputs"),
        Arg("weight", "param", doc="`[out, left, right]`, or per sample `[B, out, left, right]`"),
        Arg("bias", "param", doc="`[out]`; `bias=false` for none"),
    ),
    _bilinear_shape,
    _bilinear_lower,
    _bilinear_onnx,
    params=_bilinear_params,
    mixes=_bilinear_mixes,
    cost=lambda a: product((2, a.out, *a.x.dims, a.y.dims[-1])),
    examples=(
        Example("bilinear(x, y, 5)", {"x": "f32[3, 4]", "y": "f32[3, 6]"}),
        Example("bilinear(x, y, 5, bias=false)", {"x": "f32[2, 3, 4]", "y": "f32[2, 3, 2]"}),
        Example(
            "bilinear(x, y, 2, weight=w, bias=false)",
            {"x": "f32[3, 5, 4]", "y": "f32[3, 5, 6]", "w": "f32[3, 2, 4, 6]"},
        ),
        Example(
            "bilinear(x, y, 2, weight=w, bias=c)",
            {"x": "f64[3, 4]", "y": "f64[3, 6]", "w": "f64[2, 4, 6]", "c": "f64[2]"},
        ),
    ),
)

OPS = (LINEAR, BILINEAR, *PRODUCTS)
