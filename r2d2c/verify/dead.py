"""Ops that can never learn: products of two factors that are 0 at the start, and `relu` of 0."""

from __future__ import annotations

from collections.abc import Mapping

from r2d2c.graph import Init, Node, Value
from r2d2c.verify.context import Context

# Where both factors are 0 the gradient of each, which is the other, is 0 as well.
PRODUCTS: dict[str, tuple[int, int]] = {
    "mul": (0, 1), "matmul": (0, 1), "linear": (0, 1), "bilinear": (0, 2),
    "conv1d": (0, 1), "conv2d": (0, 1), "wired": (0, 3),
}  # fmt: skip
# Functions that are 0 at 0, of their first input.
ODD = {
    "relu", "tanh", "gelu", "silu", "leaky_relu", "elu", "neg", "sign", "square", "sin", "abs", "sum", "mean",
    "reshape", "rearrange", "transpose", "permute", "slice", "flatten", "avg_pool1d", "avg_pool2d",
    "dropout", "cast", "stop",
}  # fmt: skip
# Of these the gradient at 0 is 0 too.
FLAT = ("relu", "square", "abs")
BIAS = {"linear": 2, "bilinear": 3, "conv1d": 2, "conv2d": 2, "wired": 4}


def check_dead(c: Context) -> None:
    if not any(_is_zero_init(row.init) for row in c.graph.storage.values()):
        return
    zero: dict[Value, bool] = {}
    learned: dict[Value, bool] = {}
    for node in c.training.body.nodes:
        value = Value(node.id)
        zero[value] = _zero(c, node, zero)
        if node.op == "param":
            learned[value] = c.training.storage[node.attrs["storage"]].kind == "param"
        else:
            learned[value] = any(learned.get(v, False) for v in node.inputs if v is not None)
        if node.id in c.live:
            _check_node(c, node, zero, learned)


def _is_zero_init(init: Init) -> bool:
    if init.kind == "wired":  # of another initialiser, between places
        return len(init.args) > 1 and _is_zero_init(init.args[1])
    return init.kind == "zeros" or (init.kind == "constant" and init.args[:1] in ((0,), (0.0,)))


def _zero(c: Context, node: Node, zero: Mapping[Value, bool]) -> bool:
    """Whether all of the node's numbers are 0 before any training."""
    given = [v is not None and zero.get(v, False) for v in node.inputs]
    if node.op == "param":
        return _is_zero_init(c.training.storage[node.attrs["storage"]].init)
    if node.op == "constant":
        return node.attrs["value"] == 0 and node.attrs["value"] is not False
    if node.op in PRODUCTS:
        left, right = PRODUCTS[node.op]
        bias = BIAS.get(node.op)
        free = bias is None or bias >= len(node.inputs) or node.inputs[bias] is None or given[bias]
        return (given[left] or given[right]) and free
    if node.op in ("add", "sub"):
        return all(given)
    return node.op in ODD and bool(given) and given[0]


def _check_node(c: Context, node: Node, zero: Mapping[Value, bool], learned: Mapping[Value, bool]) -> None:
    if node.op in PRODUCTS:
        left, right = (node.inputs[position] for position in PRODUCTS[node.op])
        if (
            left is None
            or right is None
            or not (zero[left] and zero[right] and learned[left] and learned[right])
        ):
            return
        message = f"both factors of this `{node.op}` are 0 at the start, so neither can ever learn"
        notes = ["the gradient of each factor is the other one"]
    elif node.op in FLAT and node.inputs[0] is not None and zero[node.inputs[0]] and learned[node.inputs[0]]:
        message = (
            f"the argument of this `{node.op}` is 0 at the start, where its gradient is 0: it can never learn"
        )
        notes = []
    else:
        return
    also = []
    for value in node.inputs[:2]:
        maker = c.nodes.get(value.node) if value is not None else None
        if maker is not None and value is not None and zero[value] and maker.op not in ("param", "constant"):
            also.append((maker.origin, "this is 0 at the start"))
    c.sink.report(
        "W480",
        node.origin,
        message,
        also=also,
        notes=notes,
        fix="start one of them with other numbers: leave out `init=zeros`",
    )
