"""Hebbian plasticity: the layers of a task change with their own activity, and learn from no loss at all."""

from __future__ import annotations

from r2d2c.credit.checks_layers import check_hebbian
from r2d2c.credit.options import Option
from r2d2c.credit.record import CreditRule, Layers
from r2d2c.credit.stdp import change_by_times
from r2d2c.graph import Init, Link, Node, Value
from r2d2c.types import TensorType

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
PLASTIC = ("linear", *_CONVOLUTIONS)
DECAY = 0.99
USUAL_BATCH = 128


def _layers(net: Layers) -> None:
    done: set[str] = set()
    for link in net.links:
        net.at(link)
        if net.option(link, "variant") == "stdp":
            change_by_times(net, link, done)
            continue
        for node in net.behavior(link.source_task):
            parameter = net.parameter(node.inputs[1]) if node.op in PLASTIC else None
            if parameter is not None and parameter not in done and "@" not in node.id:
                done.add(parameter)
                _change(net, link, node, parameter)


def _change(net: Layers, link: Link, node: Node, parameter: str) -> None:
    """Δw of one layer, the mean over samples (and over places, of a convolution)."""
    weight = node.inputs[1]
    assert weight is not None
    variant, rate = net.option(link, "variant"), net.option(link, "rate")
    y = net.stop(Value(node.id))
    post = _bcm(net, y, parameter) if variant == "bcm" else y
    if variant == "oja" and _apart_is_cheaper(net, node):
        change = _products(net, y, _apart(net, node, y), "change")
    else:
        change = _correlation(net, node, post)
        if variant == "oja":
            change = net.node("sub", change, _decay(net, y, net.stop(weight)), name="change")
    if rate != 1.0:
        change = net.node("mul", change, net.number(rate), name="change")
    net.plastic(parameter, change)


def _rows(net: Layers, y: Value) -> Value:
    """Activities as [samples and places, units]."""
    type_ = net.type(y)
    if type_.rank == 2:
        return y
    return net.node("reshape", y, name="rows", sizes=(-1, type_.dims[-1]))


def _units_last(net: Layers, node: Node, y: Value) -> Value:
    """A convolution's channels as the last axis."""
    return net.node("transpose", y, name="rows", a=1, b=-1) if node.op in _CONVOLUTIONS else y


def _mean(net: Layers, total: Value, rows: Value) -> Value:
    return net.node("div", total, net.batch(rows), name="mean")


def _correlation(net: Layers, node: Node, post: Value) -> Value:
    """mean post·preᵀ: for any layer it is what the layer's own gradient would be with `post` as its δ."""
    weight, x = node.inputs[1], node.inputs[0]
    assert weight is not None and x is not None
    if node.op in _CONVOLUTIONS:
        rows = _rows(net, _units_last(net, node, post))
        return _mean(net, net.vjp(Value(node.id), weight, post), rows)
    return _products(net, post, net.stop(x), "hebb")


def _products(net: Layers, post: Value, pre: Value, name: str) -> Value:
    """mean post·preᵀ over rows."""
    rows, whole = _rows(net, post), net.type(post).rank > 2
    # A batch of samples is smaller than a matrix of weights: it is cheaper to divide. All steps of sequences are not.
    across = net.node("transpose", rows if whole else _mean(net, rows, rows), name="post", a=0, b=1)
    made = net.node("matmul", across, _rows(net, pre), name=name)
    return _mean(net, made, rows) if whole else made


def _apart_is_cheaper(net: Layers, node: Node) -> bool:
    """Whether y (x − yᵀW)ᵀ, two products with the batch, costs less than y xᵀ − (y yᵀ) W."""
    weight = node.inputs[1]
    assert weight is not None
    units, width = net.type(weight).dims[:2]
    if node.op in _CONVOLUTIONS or net.type(Value(node.id)).rank > 2:
        return False  # many rows
    return (
        isinstance(units, int) and isinstance(width, int) and units * width >= USUAL_BATCH * (width - units)
    )


def _apart(net: Layers, node: Node, y: Value) -> Value:
    """What of x the units do not give back, x − Wᵀy."""
    x, weight = node.inputs[:2]
    assert x is not None and weight is not None
    back = net.node("matmul", y, net.stop(weight), name="back")
    return net.node("sub", net.stop(x), back, name="apart")


def _decay(net: Layers, y: Value, weight: Value) -> Value:
    """mean (y·yᵀ) W."""
    type_ = net.type(weight)
    if type_.rank > 2:
        y = net.node("transpose", y, name="rows", a=1, b=-1)
    outputs = _products(net, y, y, "outputs")
    if type_.rank == 2:
        return net.node("matmul", outputs, weight, name="decay")
    found = net.node("matmul", outputs, net.node("flatten", weight, name="kernel"), name="decay")
    return net.node("reshape", found, name="decay", sizes=type_.dims)


def _bcm(net: Layers, y: Value, parameter: str) -> Value:
    """y (y − θ), θ a running mean of y² of each unit."""
    type_ = net.type(y)
    channels = type_.rank > 2 and net.type_of(parameter).rank > 2
    axis = 1 if channels else type_.rank - 1
    units = type_.dims[axis]
    name = f"{parameter.rpartition('.')[0]}.threshold"
    old = net.keep(name, TensorType(type_.dtype, (units,)), Init("ones"))
    others = tuple(k for k in range(type_.rank) if k != axis)
    power = net.node("mean", net.node("square", y, name="power"), name="power", axes=others)
    kept = net.node("mul", old, net.number(DECAY), name="kept")
    theta = net.node(
        "add", kept, net.node("mul", power, net.number(1.0 - DECAY), name="new"), name="threshold"
    )
    net.update(name, theta)
    if channels:
        theta = net.node("reshape", theta, name="threshold", sizes=(units, *[1] * (type_.rank - 2)))
    return net.node("mul", y, net.node("sub", y, theta, name="above"), name="post")


HEBBIAN = CreditRule(
    "hebbian",
    "Hebbian plasticity: the linear and convolution layers of the task below change with their own input x and output "
    "y, and learn from no loss. Oja's subspace rule is y xᵀ − y yᵀ W (Oja, 1989; for one unit Oja, 1982), plain Hebb "
    "y xᵀ, BCM y (y − θ) xᵀ with θ a running mean of y² (Bienenstock, Cooper and Munro, 1982). By the times of spikes "
    "(stdp) those in a loop change that drive `lif`: A₊·exp(-Δ/τ₊) where a spike comes in Δ steps before one is made, "
    "-A₋·exp(-Δ/τ₋) where it comes after.",
    "none; Δw from x and y of the layer",
    layers=_layers,
    check=check_hebbian,
    attaches=("op",),
    arguments=(
        Option("variant", "choice", "oja", "the rule of plasticity", choices=("oja", "hebb", "bcm", "stdp")),
        Option(
            "rate",
            "float",
            1.0,
            "how much larger a change is than the optimizer's rate makes it",
            minimum=0.0,
        ),
        Option("plus", "float", 1.0, "A₊ of stdp"),
        Option("minus", "float", 1.0, "A₋ of stdp"),
        Option("tau_plus", "float", 20.0, "τ₊ of stdp, in steps", minimum=0.01),
        Option("tau_minus", "float", 20.0, "τ₋ of stdp, in steps", minimum=0.01),
    ),
    colour="#7f7f7f",
)
