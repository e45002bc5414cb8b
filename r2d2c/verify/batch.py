"""Ops that couple the samples of a batch where the inference of one sample would then differ."""

from __future__ import annotations

from typing import Any

from r2d2c.graph import USES, Node, Region, Value
from r2d2c.infer import Signatures
from r2d2c.ops.record import Op, ShapeError
from r2d2c.types import Dim, TensorType, symbol
from r2d2c.verify.context import Context

BATCH = "B"
# Ops that pick by integers: on the batch axis they pair samples with each other, and in a loss too.
PICKING = ("take", "gather")


def check_batch(c: Context) -> None:
    signatures = Signatures(c.ops)
    mixing = {name for name, op in c.ops.items() if op.mixes is not None}
    for region in _regions(c):
        # What depends on a mistake is only reported for another one of its own.
        told: set[Value | None] = set()
        for node in region.nodes:
            follows = not told.isdisjoint(node.inputs)
            if node.op in mixing and (region.kind != "loss" or node.op in PICKING):
                follows = _check_node(c, node, region, signatures, follows) or follows
            if follows:
                told.update(Value(node.id, port) for port in range(len(node.outputs)))


def _regions(c: Context) -> list[Region]:
    """Behaviors, representatives, outputs and losses, and the blocks that they use, as parts of them."""
    found = [
        r for r in c.graph.regions.values() if r.kind in ("behavior", "representative", "output", "loss")
    ]
    inside: set[str] = set()
    result = []
    # Blocks of losses are not looked at: what they mix is theirs to know.
    stack = [r for r in found if r.kind != "loss"]
    while stack:
        for node in stack.pop().nodes:
            if node.op in USES and node.attrs["region"] not in inside:
                inside.add(node.attrs["region"])
                block = c.graph.regions[node.attrs["region"]]
                stack.append(block)
                result.append(block)
    return found + result


def _check_node(c: Context, node: Node, region: Region, signatures: Signatures, follows: bool) -> bool:
    """Whether a report was made. ``follows``: one was made of something the node is computed from."""
    op, types = c.ops[node.op], c.graph.types
    given: list[Any] = [types.get(value) if value is not None else None for value in node.inputs]
    if all(type_ is None or not _has_batch(type_) for type_ in given):
        return False
    space = signatures[node.op].namespace(node, given)
    assert op.mixes is not None
    try:
        mixed = op.mixes(space)
    except ShapeError:
        return False
    for argument, axis in mixed:
        for type_ in _types(getattr(space, argument, None)):
            if axis >= type_.rank or not _is_batch(type_.dims[axis]):
                continue
            if follows and (axis or type_.dims[axis] != symbol(BATCH)):
                continue
            if node.op in PICKING and argument == "index":
                _report_pairs(c, node, space)
                return True
            if region.kind != "loss":
                _report(c, node, op, space, axis, type_)
                return True
    return False


def _types(value: object) -> list[TensorType]:
    if isinstance(value, TensorType):
        return [value]
    return [v for v in value if isinstance(v, TensorType)] if isinstance(value, list) else []


def _has_batch(type_: TensorType) -> bool:
    return any(_is_batch(dim) for dim in type_.dims)


def _is_batch(dim: object) -> bool:
    return isinstance(dim, Dim) and BATCH in dim.symbols()


def _report_pairs(c: Context, node: Node, space: Any) -> None:
    c.sink.report(
        "W471",
        node.origin,
        f"every sample's index picks from all samples: the result is {c.graph.types[Value(node.id)]}",
        f"`x` is {space.x} and the index is {space.index}",
        fix="to pick one element for each sample: `gather(x, reshape(ids, (B, 1)), axis=1)`",
    )


def _report(c: Context, node: Node, op: Op, space: Any, axis: int, type_: TensorType) -> None:
    c.sink.report(
        "W470",
        node.origin,
        f"`{op.name}` mixes the samples of a batch, so the answer to one sample depends on the others",
        f"runs over axis {axis} of {type_}, the batch",
        fix=_remedy(op, space, type_),
    )


def _remedy(op: Op, space: Any, type_: TensorType) -> str:
    names = [arg.name for arg in op.attributes]
    others = [a for a, dim in enumerate(type_.dims) if not _is_batch(dim)]
    for name in ("axis", "axes"):
        if name not in names or not others:
            continue
        value = getattr(space, name, None)
        if value is None and name == "axes" and len(others) > 1:
            return f"name the other axes: `{op.name}(…, {name}=({', '.join(map(str, others))}))`"
        shown = "name another axis" if value is None else "use another axis"
        return f"{shown}: `{op.name}(…, {name}={others[-1] if len(others) == 1 else -1})`"
    if op.name == "slice":
        return "leave the batch axis whole: `x[:, …]`"
    if op.name in ("transpose", "permute", "rearrange", "reshape"):
        return "keep the batch axis first and apart"
    return "do this in a loss, where samples may meet, or over an axis that is not the batch"
