"""Feedback alignment: a fixed random weight carries the credit back in the place of the layer's own."""

from __future__ import annotations

from collections.abc import Mapping

from r2d2c.credit.checks_layers import check_feedback
from r2d2c.credit.options import Option
from r2d2c.credit.record import CreditRule, Edge, Layers
from r2d2c.graph import Link, Node, Value
from r2d2c.ops.feedback import PLAIN

# The op that a plain op with weights becomes.
FEEDBACK: Mapping[str, str] = {plain: feedback for feedback, plain in PLAIN.items()}


def _attach(edge: Edge) -> Value:
    return edge.value


def _layers(net: Layers) -> None:
    done: set[str] = set()
    for link in net.links:
        net.at(link)
        nodes = list(net.between(link))
        if net.option(link, "own"):
            nodes += net.behavior(link.source_task)
        for node in nodes:
            parameter = net.parameter(node.inputs[1]) if node.op in FEEDBACK else None
            if parameter is not None and node.id not in done:
                done.add(node.id)
                net.replace(node, FEEDBACK[node.op], _matrix(net, link, node, parameter))


def _matrix(net: Layers, link: Link, node: Node, parameter: str) -> Value:
    """What stands for a weight in the backward."""
    variant, weight = net.option(link, "variant"), node.inputs[1]
    assert weight is not None
    # A layer has one weight; of a hypernet's factors, `….weight.left` and `….weight.right`, each has a B.
    place = f"{parameter.removesuffix('.weight')}.feedback"
    if variant == "random":
        return net.like(parameter, place)
    signs = net.node("sign", net.stop(weight), name="signs")
    if variant == "sign":
        return net.node(
            "mul", signs, net.node("abs", net.like(parameter, place), name="magnitudes"), name="B"
        )
    size = net.node("mean", net.node("abs", net.stop(weight), name="magnitudes"), name="size")
    return net.node("mul", signs, size, name="B")


FEEDBACK_RULE = CreditRule(
    "feedback",
    "Feedback alignment (Lillicrap et al., 2016): in the task above, every linear and convolution layer between the link "
    "and what the task gives passes its gradient back through a fixed random matrix B. With `sign`, B has the signs of "
    "the weight and fixed random magnitudes, with `uniform_sign` its signs and their mean size (Liao et al., 2016).",
    "as backprop, with B for W",
    attach=_attach,
    layers=_layers,
    check=check_feedback,
    attaches=("edge", "op"),
    arguments=(
        Option(
            "variant", "choice", "random", "what stands for W", choices=("random", "sign", "uniform_sign")
        ),
        Option("own", "bool", False, "whether the layers of the task below do so too"),
    ),
    colour="#ff7f0e",
)
