"""Equilibrium propagation: what nudging the outputs changes in the settled values is what a task learns from."""

from __future__ import annotations

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.energy import Energy, check
from r2d2c.credit.options import Option
from r2d2c.credit.record import CreditRule, Edge, Network
from r2d2c.graph import Value


def _attach(edge: Edge) -> Value:
    return edge.leaf(edge.value)


def _finish(net: Network) -> None:
    """θ gets (∂E_β/∂θ − ∂E_−β/∂θ) / 2β, or (∂E_β/∂θ − ∂E_0/∂θ) / β, where E_0 is 0 and flat: the forward pass."""
    options = net.edges[0].option
    steps, step, nudge = options("steps"), options("step"), options("nudge")
    energy = Energy(net)
    scale = 0.5 / nudge if options("symmetric") else 1.0 / nudge
    up = energy.settle(steps, step, nudge, "nudged")
    state = energy.learn(up, "positive", scale)
    if not options("symmetric"):
        for name in energy.loss_near:
            net.show(name, state.losses[name])
        return
    down = energy.settle(steps, step, -nudge, "nudged_back")
    other = energy.learn(down, "negative", -scale)
    for name in energy.loss_near:
        both = net.node("add", state.losses[name], other.losses[name], name="both")
        net.show(name, net.node("mul", both, net.number(0.5), name=name))


def _check(c: LinkCheck) -> None:
    if c.option("nudge") == 0:
        c.report(
            "E498",
            "`nudge` is 0: nothing would be nudged, and what is learned is divided by it",
            fix="`nudge=0.1` is the default",
        )
        return
    check(c)


EQUILIBRIUM = CreditRule(
    "equilibrium",
    "Equilibrium propagation (Scellier and Bengio, 2017) on the energy E = Σ ½‖v − f(v below)‖² + β L. Its free phase is "
    "the forward pass; then the values settle with the outputs nudged by β, and with −β if `symmetric` (Laborieux et al., "
    "2021). The weights learn from the difference.",
    "(v − f) / β, v settled on E + β L",
    attach=_attach,
    finish=_finish,
    check=_check,
    arguments=(
        Option("steps", "int", 8, "how often the values move in a nudged phase", minimum=1),
        Option("step", "float", 0.1, "how far; large steps overshoot where weights are large", minimum=0.0),
        Option("nudge", "float", 0.1, "β"),
        Option("symmetric", "bool", True, "nudge both ways"),
    ),
    phases=("free", "nudged", "learn"),
    colour="#bcbd22",
)
