"""Predictive coding: values relax until they explain both what is below and what is above, then every task learns."""

from __future__ import annotations

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.checks import can_have_delta, has_loss_above, same_options
from r2d2c.credit.energy import Energy, check
from r2d2c.credit.options import Option
from r2d2c.credit.parts import of_batch
from r2d2c.credit.record import CreditRule, Edge, Network
from r2d2c.graph import Value


def _attach(edge: Edge) -> Value:
    return edge.leaf(edge.value)


def _finish(net: Network) -> None:
    options = net.edges[0].option
    energy = Energy(net)
    if options("fixed"):
        _fixed(net, energy, options("steps"), options("step"))
        return
    values = energy.settle(options("steps"), options("step"), 1.0, "settle")
    state = energy.learn(values, "learn", 1.0)
    for name in energy.loss_near:
        net.show(name, state.losses[name])


def _fixed(net: Network, energy: Energy, steps: int, step: float) -> None:
    """With the predictions and Jacobians of the forward pass only the errors move (Millidge et al., 2020)."""
    state = energy.start()
    errors: dict[Value, Value] = {}
    for _ in range(steps):
        slopes = energy.slopes(state, errors, energy.values, 1.0)
        moved = {}
        for h in energy.values:
            # `errors` are f − v: they rise by what comes from above, and shrink by themselves.
            if h in errors:
                slope = (
                    net.node("sub", slopes[h], errors[h], name="slope")
                    if h in slopes
                    else net.node("neg", errors[h])
                )
                change = slope if step == 1.0 else net.node("mul", slope, net.number(step), name="change")
                moved[h] = net.node("add", errors[h], change, name="error")
            elif h in slopes:
                moved[h] = (
                    slopes[h] if step == 1.0 else net.node("mul", slopes[h], net.number(step), name="error")
                )
        errors = moved
    for h, error in errors.items():
        net.signal(h, of_batch(net, error))


def _check(c: LinkCheck) -> None:
    # Held predictions are those of one run.
    if not c.option("fixed"):
        check(c)
    elif can_have_delta(c) and c.first and same_options(c, c.links):
        has_loss_above(c, c.links)


PREDICTIVE = CreditRule(
    "predictive",
    "Predictive coding (Whittington and Bogacz, 2017): values in place of the activities go down the energy "
    "E = Σ ½‖v − f(v below)‖² + L, then the weights do. With `fixed`, predictions stay those of the forward pass; with "
    "`step=1` and as many steps as tasks that is backprop (Millidge, Tschantz and Buckley, 2020).",
    "f − v, v settled on E",
    attach=_attach,
    finish=_finish,
    check=_check,
    arguments=(
        Option("steps", "int", 8, "how often the values move", minimum=1),
        Option("step", "float", 0.1, "how far; large steps overshoot where weights are large", minimum=0.0),
        Option("fixed", "bool", False, "hold the predictions of the forward pass"),
    ),
    phases=("settle", "learn"),
    colour="#e377c2",
)
