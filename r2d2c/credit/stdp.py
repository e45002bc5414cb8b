"""Spike-timing plasticity: the layers of a loop's step that drive spiking neurons, and the spikes on both sides."""

from __future__ import annotations

from typing import NamedTuple

from r2d2c.credit.record import Layers
from r2d2c.graph import Link, Node, Region, Value
from r2d2c.ops.elementwise import ELEMENTWISE

TIMES = ("plus", "minus", "tau_plus", "tau_minus")
# Which output of `lif` the spikes are.
SPIKES = 1


class Synapses(NamedTuple):
    """A `linear` in the step of a loop: what comes in, its weight there, and the spikes of the neurons that it drives."""

    layer: Node
    pre: Value
    weight: Value
    post: Value


def synapses(step: Region) -> list[Synapses]:
    """The linear layers whose result, as a part of the current, goes to `lif`."""
    found = []
    for node in step.nodes:
        if node.op != "linear" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        spiking = _driven(step, node)
        if spiking is not None:
            found.append(Synapses(node, node.inputs[0], node.inputs[1], Value(spiking.id, SPIKES)))
    return found


def _driven(step: Region, layer: Node) -> Node | None:
    """The spiking neurons that a layer's result goes to, at its place."""
    reached = {Value(layer.id)}
    for node in step.nodes:
        if node.op == "lif" and node.inputs[1] in reached:
            return node
        if node.op in ELEMENTWISE and not reached.isdisjoint(node.inputs):
            reached.add(Value(node.id))
    return None


def change_by_times(net: Layers, link: Link, done: set[str]) -> None:
    """Δw of every layer that drives spiking neurons, from all pairs of spikes of its two sides."""
    rate, times = net.option(link, "rate"), {name: net.option(link, name) for name in TIMES}
    for loop in [node for node in net.behavior(link.source_task) if node.op == "loop"]:
        step = net.step(loop)
        places = {port.value: k for k, port in enumerate(step.inputs)}
        for each in synapses(step):
            parameter = net.parameter(loop.inputs[places[each.weight]]) if each.weight in places else None
            if parameter is None or parameter in done:
                continue
            done.add(parameter)
            pre, post = net.at_steps(loop, each.pre), net.at_steps(loop, each.post)
            change = net.node("stdp", net.stop(pre), net.stop(post), name="stdp", **times)
            if rate != 1.0:
                change = net.node("mul", change, net.number(rate), name="change")
            net.plastic(parameter, change)


__all__ = ["TIMES", "Synapses", "change_by_times", "synapses"]
