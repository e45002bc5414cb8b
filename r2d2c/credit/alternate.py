"""Online alternating minimisation: codes in place of the activities take a step, then every task fits its code."""

from __future__ import annotations

from r2d2c.credit.energy import Energy, Values, check
from r2d2c.credit.options import Option
from r2d2c.credit.parts import half_square
from r2d2c.credit.record import CreditRule, Edge, Network
from r2d2c.graph import Loss, Value


def _attach(edge: Edge) -> Value:
    return edge.leaf(edge.value)


def _finish(net: Network) -> None:
    options = net.edges[0].option
    energy = Energy(net)
    codes = {h: net.stop(h) for h in energy.values}
    for number in range(options("steps")):
        codes = _step(net, energy, codes, options("step"), number)
    last = energy.evaluate(codes, "learn")
    names = {edge.value: edge.name for edge in net.edges}
    for h in energy.errors(last, codes):
        fit, weight = half_square(net, last.made[h], net.stop(codes[h]), "fit")
        net.loss(Loss(names[h], fit, weight, owner=h.node))
    for name in energy.loss_near:
        net.show(name, last.losses[name])


def _step(net: Network, energy: Energy, codes: Values, step: float, number: int) -> Values:
    """c ← c − step·∂E/∂c, from the top down: those above have moved already."""
    state = energy.evaluate(codes, f"code{number}")
    own = energy.errors(state, codes)
    moved = dict(codes)
    for h in reversed(energy.values):
        above = {
            other: net.node("sub", net.stop(state.made[other]), moved[other], name="error")
            for other in energy.values
            if h in energy.near.get(other.node, ()) and (other in own or moved[other] != codes[other])
        }
        slope = energy.slopes(state, above, [h], 1.0).get(h)
        if h in own:
            slope = (
                net.node("neg", own[h], name="slope")
                if slope is None
                else net.node("sub", slope, own[h], name="slope")
            )
        if slope is not None:
            moved[h] = energy.moved(codes[h], slope, step)
    return moved


ALTERNATE = CreditRule(
    "alternate",
    "Online alternating minimisation (Choromanska et al., 2019): an auxiliary code for every link starts at the "
    "activity and goes down Σ ½‖c − f(c below)‖² + L from the top; then every task fits its code, given the code below.",
    "f − c, c one step down the energy",
    attach=_attach,
    finish=_finish,
    check=check,
    arguments=(
        Option("step", "float", 0.1, "how far a code goes; large steps diverge", minimum=0.0),
        Option("steps", "int", 1, "how often", minimum=1),
    ),
    phases=("codes", "learn"),
    colour="#17becf",
)
