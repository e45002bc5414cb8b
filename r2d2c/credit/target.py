"""Target propagation: every task gets a target of its own, made by learned inverses from the one above."""

from __future__ import annotations

from r2d2c.credit.checks_values import check_target
from r2d2c.credit.options import Option
from r2d2c.credit.parts import add, flat, half_square, linear, numel, per_sample, shaped
from r2d2c.credit.record import CreditRule, Edge, Network
from r2d2c.graph import Init, Loss, Value


def _finish(net: Network) -> None:
    """From the top down: t = h + Σ g(t_v) − g(h_v), and ½ mean ‖h − t‖² as the loss of h's task."""
    by_value: dict[Value, list[Edge]] = {}
    for edge in net.edges:
        by_value.setdefault(edge.value, []).append(edge)
    targets: dict[Value, Value] = {}
    for h, edges in reversed(by_value.items()):
        edge = edges[0]
        given = edge.stop(h)
        parts = [_sent(net, other, targets, by_value) for other in edges]
        if edge.option("difference"):
            wanted = add(edge, [given, *parts], "target")
        else:
            mean = edge.number(1.0 / len(parts))
            wanted = (
                parts[0]
                if len(parts) == 1
                else edge.node("mul", add(edge, parts, "target"), mean, name="target")
            )
        targets[h] = edge.stop(wanted)
        edge.loss(_half(edge, edge.name, h, targets[h]))
    for edge in net.edges:
        _learn_inverse(net, edge)


def _half(edge: Edge, name: str, made: Value, wanted: Value) -> Loss:
    """½ mean_b ‖made − wanted‖²."""
    value, weight = half_square(edge, made, wanted, "loss")
    return Loss(name, value, weight, owner=edge.link.source_task)


def _sent(net: Network, edge: Edge, targets: dict[Value, Value], lower: dict[Value, list[Edge]]) -> Value:
    """g(t_v) − g(h_v), or g(t_v) alone."""
    above = net.gives(edge.link.target)[0]
    now = edge.stop(above)
    if above in lower:
        wanted = targets[above]
    else:
        step = edge.node(
            "mul", per_sample(edge, edge.delta(above)), edge.number(edge.option("step")), name="step"
        )
        wanted = edge.node("sub", now, step, name="top")
    back = edge.stop(_inverse(net, edge, wanted))
    if not edge.option("difference"):
        return back
    return edge.node("sub", back, edge.stop(_inverse(net, edge, now)), name="correction")


def _inverse(net: Network, edge: Edge, value: Value) -> Value:
    """g: a block, or one linear layer, shared by all its uses."""
    given = edge.apply("inverse", value)
    if given is not None:
        return given
    width = numel(edge.type(edge.value))
    assert width is not None
    name = _named(net, edge, "inverse")
    made = linear(edge, flat(edge, value), width, name, Init("orthogonal"), edge.type(edge.value))
    return shaped(edge, made, edge.value)


def _named(net: Network, edge: Edge, what: str) -> str:
    """A name of this link alone: with the task above, if h has several."""
    several = sum(other.value == edge.value for other in net.edges) > 1
    return f"{edge.link.target}.{what}" if several else what


def _learn_inverse(net: Network, edge: Edge) -> None:
    """½ mean_b ‖g(f(h + ε)) − (h + ε)‖² trains g, and nothing below it."""
    h = edge.stop(edge.value)
    noisy = edge.node("noise", h, name=_named(net, edge, "noisy"), std=edge.option("noise"))
    seen = edge.stop(net.call(edge.link.target, {h: noisy}, f"noisy.{edge.link.source_task}")[0])
    name = f"{edge.name}.{_named(net, edge, 'inverse')}"
    edge.loss(_half(edge, name, _inverse(net, edge, seen), noisy))


TARGET = CreditRule(
    "target",
    "Difference target propagation (Lee et al., 2015): an inverse g of the task above is learned from noise, and carries "
    "its target down. Where the task above has no target of its own, its target is one step down its error.",
    "h − t, t = h + g(t_v) − g(h_v)",
    finish=_finish,
    check=check_target,
    arguments=(
        Option("inverse", "behavior", None, "g, from what the task above gives; by default one linear layer", takes=("target",)),
        Option("step", "float", 0.5, "η of the topmost target, h − η δ", minimum=0.0),
        Option("noise", "float", 0.1, "the standard deviation of the noise that g learns to undo", minimum=0.0),
        Option("difference", "bool", True, "false: plain target propagation, t = g(t_v)"),
    ),
    colour="#8c564b",
)  # fmt: skip
