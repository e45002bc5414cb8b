"""`rearrange` and `reduce`: shapes by pattern, as `"b (h w) c -> b c h w"`.

A pattern names the axes on both sides of an arrow. Parentheses stand for one axis made of several,
`1` for an axis of size 1, `...` for any further axes. Sizes that do not follow are given by name: `h=4`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r2d2c.ops.dims import divide, lower_sizes, onnx_sizes, product
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.types import DimLike, TensorType

_TOKEN = re.compile(r"\s*(\.\.\.|[A-Za-z_]\w*|[()1])")
Side = list[tuple[str, ...]]


def _parse_side(text: str) -> Side:
    """One tuple of names for each axis."""
    groups: Side = []
    inside: list[str] | None = None
    position = 0
    text = text.strip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ShapeError(f'"{text[position:].strip()}" is not part of a pattern', "pattern")
        token, position = found[1], found.end()
        if token == "(" and inside is None:
            inside = []
        elif token == ")" and inside is not None:
            groups.append(tuple(inside))
            inside = None
        elif token in "()":
            raise ShapeError(f'the parentheses of "{text}" do not match', "pattern")
        elif token == "1":
            if inside is None:
                groups.append(())
        elif inside is not None:
            inside.append(token)
        else:
            groups.append((token,))
    if inside is not None:
        raise ShapeError(f'the parentheses of "{text}" do not match', "pattern")
    names = [name for group in groups for name in group]
    for name in names:
        if names.count(name) > 1:
            raise ShapeError(f'"{text}" has `{name}` twice', "pattern")
    return groups


def _parse(pattern: str) -> tuple[Side, Side]:
    left, arrow, right = pattern.partition("->")
    if not arrow or "->" in right:
        raise ShapeError(
            f'"{pattern}" has no arrow between before and after', "pattern", fix='"b t d -> b d t"'
        )
    before, after = _parse_side(left), _parse_side(right)
    known = {name for group in before for name in group}
    for group in after:
        for name in group:
            if name not in known:
                raise ShapeError(f"`{name}` is not on the left of the arrow", "pattern")
    if ("...",) not in before and "..." in known:
        raise ShapeError("`...` cannot stand in parentheses on the left", "pattern")
    return before, after


def _open(side: Side, count: int) -> Side:
    """A side with `...` replaced by ``count`` names."""
    dots = tuple(f"...{number}" for number in range(count))
    opened: Side = []
    for group in side:
        if group == ("...",):
            opened.extend((name,) for name in dots)
        else:
            opened.append(tuple(n for name in group for n in (dots if name == "..." else (name,))))
    return opened


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pattern does to a value, in this order; None where there is nothing to do.

    dims: the result's. mixed: axes of the value that are reduced, or part of which is.
    """

    split: tuple[DimLike, ...] | None
    reduced: tuple[int, ...]
    order: tuple[int, ...] | None
    merge: tuple[DimLike, ...] | None
    dims: tuple[DimLike, ...]
    mixed: tuple[int, ...]


def plan(s: Shapes, x: TensorType, pattern: str, lengths: Mapping[str, DimLike]) -> Plan:
    """Work out a pattern for a type. Raises `ShapeError`."""
    before, after = _parse(pattern)
    hidden = x.rank - (len(before) - 1) if ("...",) in before else 0
    if x.weak or hidden < 0 or (not hidden and len(before) - (("...",) in before) != x.rank):
        raise ShapeError(f'`x` is {x}, and "{pattern}" starts with {len(before)} axes', "x", "pattern")
    before, after = _open(before, hidden), _open(after, hidden)
    sizes = _sizes(s, x, before, lengths)
    names = [name for group in before for name in group]
    kept = [name for group in after for name in group]
    left = [name for name in names if name in kept]
    merge = tuple(product(sizes[name] for name in group) for group in after)
    return Plan(
        split=None if all(len(group) == 1 for group in before) else tuple(sizes[name] for name in names),
        reduced=tuple(axis for axis, name in enumerate(names) if name not in kept),
        order=None if left == kept else tuple(left.index(name) for name in kept),
        merge=None if all(len(group) == 1 for group in after) else merge,
        dims=merge,
        mixed=tuple(axis for axis, group in enumerate(before) if not set(group) <= set(kept)),
    )


def _sizes(s: Shapes, x: TensorType, before: Side, lengths: Mapping[str, DimLike]) -> dict[str, DimLike]:
    sizes: dict[str, DimLike] = dict(lengths)
    names = {name for group in before for name in group}
    for name in lengths:
        if name not in names:
            raise ShapeError(f"`{name}` is not an axis of the pattern", "pattern")
    for group, given in zip(before, x.dims, strict=True):
        dim = s.resolve(given)
        unknown = [name for name in group if name not in sizes]
        if len(unknown) > 1:
            shown = " ".join(group)
            raise ShapeError(
                f"give the size of `{unknown[0]}` or of `{unknown[1]}` of `({shown})`", "pattern"
            )
        known = product(sizes[name] for name in group if name in sizes)
        if not unknown:
            if not s.unify(dim, known):
                what = " ".join(group) or "1"
                raise ShapeError(f"`x` is {x}: `{what}` is {known} there where it has {dim}", "x", "pattern")
            continue
        rest = divide(dim, known)
        if rest is None:
            raise ShapeError(
                f"`x` is {x}: {dim} does not divide by {known}, for `{unknown[0]}`", "x", "pattern"
            )
        sizes[unknown[0]] = rest
    return sizes


# -- the two ops

_X = Arg("x")
_PATTERN = Arg("pattern", "text", doc='the axes before and after: `"b (h w) -> b h w"`')
_LENGTHS = Arg("lengths", "named", {}, doc="sizes of axes by their names in the pattern: `h=4`")


def _plan_of(c: Any, a: Any) -> Plan:
    return plan(Shapes(), c.type("x"), a.pattern, a.lengths)


def _rearrange_shape(s: Shapes, a: Any) -> TensorType:
    found = plan(s, a.x, a.pattern, a.lengths)
    if found.reduced:
        raise ShapeError(
            "an axis on the left is not on the right", "pattern", fix="`reduce` can leave axes out"
        )
    return TensorType(a.x.dtype, found.dims)


def _lower_plan(b: Any, a: Any, reduced: Any = None) -> Any:
    found, y = _plan_of(b, a), a.x
    if found.split is not None:
        y = b.method("reshape", y, lower_sizes(b, found.split))
    if reduced is not None and found.reduced:
        y = reduced(y, found.reduced)
    if found.order is not None:
        y = b("torch.permute", y, found.order)
    return y if found.merge is None else b.method("reshape", y, lower_sizes(b, found.merge))


def _onnx_plan(o: Any, a: Any, reduced: Any = None) -> Any:
    found, y = _plan_of(o, a), a.x
    if found.split is not None:
        y = o("Reshape", y, onnx_sizes(o, found.split))
    if reduced is not None and found.reduced:
        y = reduced(y, found.reduced)
    if found.order is not None:
        y = o("Transpose", y, perm=found.order)
    return y if found.merge is None else o("Reshape", y, onnx_sizes(o, found.merge))


REARRANGE = Op(
    "rearrange",
    'Axes split, merged and reordered by a pattern: `rearrange(x, "b (h w) c -> b c h w", h=4)`.',
    (_X, _PATTERN, _LENGTHS),
    _rearrange_shape,
    _lower_plan,
    _onnx_plan,
    cost=lambda a: 0,
    examples=(
        Example('rearrange(x, "b t d -> b d t")', {"x": "f32[2, 3, 4]"}),
        Example('rearrange(x, "b (h w) c -> b c h w", h=4)', {"x": "f32[2, 12, 3]"}),
        Example('rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=3)', {"x": "f64[2, 3, 4, 6]"}),
        Example('rearrange(x, "b ... 1 -> (b ...) 1 1")', {"x": "i64[2, 3, 4, 1] < 9"}, gradient=False),
        Example('rearrange(x, "... d -> d ...")', {"x": "bool[2, 3, 4]"}, gradient=False),
    ),
)

_TORCH = {"mean": "torch.mean", "sum": "torch.sum", "max": "torch.amax", "min": "torch.amin"}
_ONNX = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}


def _reduce_shape(s: Shapes, a: Any) -> TensorType:
    found = plan(s, a.x, a.pattern, a.lengths)
    dtype = a.x.dtype
    if dtype == "bool" or (a.how == "mean" and not a.x.floating):
        raise ShapeError(f"`x` is {a.x}, of which there is no {a.how}", "x", fix="`cast` it")
    if a.how == "sum" and not a.x.floating and found.reduced:
        dtype = "i64"
    return TensorType(dtype, found.dims)


def _reduce_onnx(o: Any, a: Any) -> Any:
    def reduced(y: Any, axes: tuple[int, ...]) -> Any:
        return o(_ONNX[a.how], o.cast(y, o.out[0].dtype), o.ints(list(axes)), keepdims=0)

    return _onnx_plan(o, a, reduced)


REDUCE = Op(
    "reduce",
    'Mean, sum, max or min over the axes that a pattern leaves out: `reduce(x, "b t d -> b d", mean)`.',
    (_X, _PATTERN, Arg("how", "choice", choices=("mean", "sum", "max", "min")), _LENGTHS),
    _reduce_shape,
    lambda b, a: _lower_plan(b, a, lambda y, axes: b(_TORCH[a.how], y, axes)),
    _reduce_onnx,
    mixes=lambda a: [("x", axis) for axis in plan(Shapes(), a.x, a.pattern, a.lengths).mixed],
    cost=lambda a: product(a.x.dims),
    examples=(
        Example('reduce(x, "b t d -> b d", mean)', {"x": "f32[2, 3, 4]"}),
        Example('reduce(x, "b (h p) (w q) -> b w h", max, p=2, q=3)', {"x": "f64[2, 4, 6]"}),
        Example('reduce(x, "b ... -> b 1", sum)', {"x": "i64[2, 3, 4] < 9"}, gradient=False),
        Example('reduce(x, "b c ... -> c b", min)', {"x": "f32[2, 3, 4, 2]"}),
    ),
)

OPS = (REARRANGE, REDUCE)
