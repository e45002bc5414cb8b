"""Layers between places: `wired`, which points read which (`neighbours`), and what wires cost (`wiring_cost`).

Places are coordinates `[n, 3]`. A predicate on pairs of them is a formula (`r2d2c/formulas.py`), here written as torch and
as ONNX ops; for sets that stay where they are the resolver has it evaluated once, and `wired` gets its table as `mask`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from r2d2c.graph import Init
from r2d2c.ops.dims import expect_fixed, expect_same_dtype, expect_tensor, product
from r2d2c.ops.linear import LINEAR
from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating
from r2d2c.ops.wiring_formulas import onnx_distance, onnx_formula, torch_distance, torch_formula
from r2d2c.places import Rule
from r2d2c.types import DimLike, TensorType

WIRED, NEIGHBOURS, WIRING_COST = "wired", "neighbours", "wiring_cost"
_SOURCE = Arg("source", doc="`[n, 3]`, the places that are read: a set of `places`, or their coordinates")
_TARGET = Arg("target", doc="`[m, 3]`, the places that read them")
_MASK = Arg("mask", "param", None, doc="`bool[m, n]`, made where both sets stay where they are")
_WHERE = "a predicate on `distance`, `plane`, `step`, `dx`, `dy`, `dz` of a pair: `distance < 1.5`"


def _mask(context: Any, a: Any, write: Any) -> Any:
    """bool[m, n]: who reads whom, from storage or computed of where the points are."""
    return write(context, a.where.formula, a.source, a.target) if a.mask is None else a.mask


def _points(s: Shapes, a: Any, name: str) -> DimLike:
    """How many points an argument has. Raises `ShapeError` if it is no coordinates."""
    type_: TensorType = getattr(a, name)
    expect_floating(type_, name)
    if type_.rank != 2 or not s.unify(type_.dims[1], 3):
        message = f"places are coordinates [n, 3], and `{name}` is {type_}"
        raise ShapeError(message, name, fix="name a set of `places`")
    return s.resolve(type_.dims[0])


def _set(rule: Rule | None, name: str) -> str:
    """What to call the points of an argument."""
    placing = getattr(rule, name, None)
    return f"`{placing.name}`" if placing is not None else f"`{name}`"


def _expect_wires(s: Shapes, weight: TensorType, m: DimLike, n: DimLike, where: Rule | None) -> None:
    expect_floating(weight, "weight")
    if not s.unify(weight.dims[-1], n):
        message = f"the weight {weight} reads {weight.dims[-1]} points, and {_set(where, 'source')} has {n}"
        raise ShapeError(message, "weight", "source")
    if not s.unify(weight.dims[-2], m):
        message = f"the weight {weight} is for {weight.dims[-2]} points, and {_set(where, 'target')} has {m}"
        raise ShapeError(message, "weight", "target")


# -- neighbours


def _neighbours_shape(s: Shapes, a: Any) -> TensorType:
    n, m = _points(s, a, "source"), _points(s, a, "target")
    expect_same_dtype(a.source, a.target, "source", "target")
    return TensorType("bool", (m, n))


NEIGHBOURS_OP = Op(
    NEIGHBOURS,
    "Which points are near which: `bool[m, n]`, true where a predicate on places holds. A mask for attention, say.",
    (_SOURCE, _TARGET, Arg("where", "formula", doc=_WHERE)),
    _neighbours_shape,
    lambda b, a: torch_formula(b, a.where.formula, a.source, a.target),
    lambda o, a: onnx_formula(o, a.where.formula, a.source, a.target),
    mixes=lambda a: [("source", 1), ("target", 1)],
    traits=frozenset({"no_gradient"}),
    cost=lambda a: product((8, a.source.dims[0], a.target.dims[0])),
    examples=(
        Example("neighbours(a, b, distance < 1.5)", {"a": "f32[5, 3]", "b": "f32[4, 3]"}, gradient=False),
        Example(
            "neighbours(a, a, plane <= 1 and not abs(step) > 0.5 or max(dx, dy) * 2 - 1 > dz)",
            {"a": "f32[5, 3]"},
            gradient=False,
        ),
    ),
)


# -- wired


def _params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    expect_tensor(a.x, "x", WIRED)
    n, m = _points(s, a, "source"), _points(s, a, "target")
    expect_fixed(n, "source", "the size of a weight")
    expect_fixed(m, "target", "the size of a weight")
    init = Init("fan_in_uniform")
    return {
        "weight": ParamSpec((m, n), init, ("target", "source"), fans=(n, m)),
        "bias": ParamSpec((m,), init, ("target",), fans=(n, m)),
    }


def _shape(s: Shapes, a: Any) -> TensorType:
    x: TensorType = a.x
    expect_floating(x, "x")
    n, m = _points(s, a, "source"), _points(s, a, "target")
    if x.rank < 1:
        raise ShapeError("wired needs at least one dim, `x` is a scalar", "x")
    if not s.unify(x.dims[-1], n):
        message = (
            f"`x` is {x}, and {_set(a.where, 'source')} has {n} points: one for every entry of its last dim"
        )
        fix = f"flatten it: `reshape(x, (B, {n}))`" if x.rank > 2 else None
        raise ShapeError(message, "x", "source", fix=fix)
    weight, bias = a.weight, a.bias
    expect_same_dtype(x, weight, "x", "weight")
    if weight.rank not in (2, 3):
        raise ShapeError(f"a weight is [m, n] or, per sample, [B, m, n]; this one is {weight}", "weight")
    _expect_wires(s, weight, m, n, a.where)
    if weight.rank == 3 and not (x.rank >= 2 and s.unify(weight.dims[0], x.dims[0])):
        raise ShapeError(f"the weight {weight} is per sample, and `x` is {x}", "weight", "x")
    if bias is not None and not (bias.rank in (1, 2) and s.unify(bias.dims[-1], m)):
        raise ShapeError(f"the bias {bias} does not fit {m} points", "bias")
    return x.with_dims((*x.dims[:-1], m))


def _lower(b: Any, a: Any) -> Any:
    if a.reads is not None and b.type("weight").rank == 2:
        return b("r2d2c.ops.functions.wired", a.x, a.weight, a.bias, a.mask, a.reads)
    weight = b("torch.where", _mask(b, a, torch_formula), a.weight, 0.0)
    return LINEAR.lower(b, SimpleNamespace(x=a.x, weight=weight, bias=a.bias))  # type: ignore[operator]


def _onnx(o: Any, a: Any) -> Any:
    weight = o("Where", _mask(o, a, onnx_formula), a.weight, o.const(0.0, o.type("weight").dtype))
    return LINEAR.onnx(o, SimpleNamespace(x=a.x, weight=weight, bias=a.bias))  # type: ignore[operator,misc]


def _mixes(a: Any) -> list[tuple[str, int]]:
    return [("x", a.x.rank - 1), ("weight", a.weight.rank - 1), ("source", 1), ("target", 1)]


def _flops(a: Any) -> DimLike:
    read = a.x.dims[-1] if a.reads is None else a.reads.dims[-1]
    return product((2, a.target.dims[0], *a.x.dims[:-1], read))


WIRED_OP = Op(
    WIRED,
    "A linear layer from places to places, with a weight where a predicate holds and none elsewhere.",
    (
        Arg("x", doc="`[…, n]`, one number for every point that is read"),
        _SOURCE,
        _TARGET,
        Arg("where", "formula", doc=_WHERE),
        Arg("weight", "param", doc="`[m, n]`, 0 where there is no wire, or per sample `[B, m, n]`"),
        Arg("bias", "param", doc="`[m]`, or per sample `[B, m]`; `bias=false` for none"),
        _MASK,
        Arg("reads", "param", None, doc="`i64[m, k]`, which points each reads, where these are few"),
    ),
    _shape,
    _lower,
    _onnx,
    params=_params,
    mixes=_mixes,
    cost=_flops,
    examples=(
        Example("wired(x, a, b, distance < 2)", {"x": "f32[2, 5]", "a": "f32[5, 3]", "b": "f32[4, 3]"}),
        Example(
            "wired(x, a, a, plane < 1.5 or step == 0, bias=false)", {"x": "f32[2, 3, 5]", "a": "f32[5, 3]"}
        ),
        Example(
            "wired(x, a, b, distance < 2, weight=w)",
            {"x": "f32[2, 5]", "a": "f32[5, 3]", "b": "f32[4, 3]", "w": "f32[2, 4, 5]"},
        ),
    ),
)


# -- wiring_cost


def _cost_shape(s: Shapes, a: Any) -> TensorType:
    n, m = _points(s, a, "source"), _points(s, a, "target")
    weight: TensorType = a.weight
    expect_floating(weight, "weight")
    if weight.rank != 2:
        raise ShapeError(f"a weight between places is [m, n], and this one is {weight}", "weight")
    _expect_wires(s, weight, m, n, a.where)
    expect_same_dtype(weight, a.source, "weight", "source")
    expect_same_dtype(weight, a.target, "weight", "target")
    return weight.with_dims(())


def _cost_lower(b: Any, a: Any) -> Any:
    cost = b("torch.mul", b("torch.abs", a.weight), torch_distance(b, a.source, a.target))
    if a.where is not None:
        cost = b("torch.where", _mask(b, a, torch_formula), cost, 0.0)
    return b("torch.sum", cost)


def _cost_onnx(o: Any, a: Any) -> Any:
    cost = o("Mul", o("Abs", a.weight), onnx_distance(o, a.source, a.target))
    if a.where is not None:
        cost = o("Where", _mask(o, a, onnx_formula), cost, o.const(0.0, o.type("weight").dtype))
    return o("ReduceSum", cost, o.ints([0, 1]), keepdims=0)


WIRING_COST_OP = Op(
    WIRING_COST,
    "What wires cost: the sum of |w| times the distance over all pairs of points. Learned places move by it.",
    (
        Arg("weight", doc="`[m, n]`, the weight of a `wired`"),
        _SOURCE,
        _TARGET,
        Arg("where", "formula", None, doc="a predicate: only pairs for which it holds are counted"),
        _MASK,
    ),
    _cost_shape,
    _cost_lower,
    _cost_onnx,
    mixes=lambda a: [(name, axis) for name in ("weight", "source", "target") for axis in (0, 1)],
    cost=lambda a: product((8, *a.weight.dims)),
    examples=(
        Example(
            "wiring_cost(w, a, b)", {"w": "f32[4, 5]", "a": "f32[5, 3]", "b": "f32[4, 3]"}, range=(0.2, 2.0)
        ),
        Example(
            "wiring_cost(w, a, b, distance < 1)",
            {"w": "f32[4, 5]", "a": "f32[5, 3]", "b": "f32[4, 3]"},
            range=(0.2, 2.0),
        ),
    ),
)

OPS = (WIRED_OP, NEIGHBOURS_OP, WIRING_COST_OP)


# Few calls are of these, and the evaluator looks at every call.
PREDICATED = frozenset(op.name for op in OPS)


def formula_at(op: Op) -> int | None:
    """Which of its arguments is a predicate on places, by position; None for most ops."""
    found = [position for position, arg in enumerate(op.args) if arg.kind == "formula"]
    return found[0] if found else None
