"""What the rules with phases share: values of their own in place of the activities, and an energy over them.

    E(v) = Σ ½‖v_h − f_h(v)‖² + β·B·L(v)

over the values h of the rule's links, with f_h(v) what h's task makes of the values below, and L the losses that
read them. Per sample; the batch is summed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.checks import can_have_delta, has_loss_above, same_options, tasks_above, warn_of_runs
from r2d2c.credit.parts import add
from r2d2c.credit.record import Network
from r2d2c.graph import Value

Values = dict[Value, Value]


@dataclass(slots=True)
class State:
    """One evaluation: the values as leaves, what the tasks make of them, and the losses.

    made: h to f_h(v). losses: by name.
    """

    leaves: Values
    made: Values
    losses: dict[str, Value] = field(default_factory=dict)


class Energy:
    """Builds the energy of a rule's links. ``values``: the links' values h, lower ones first.

    above: the tasks that depend on them, and near: the values that some output of each depends on directly.
    """

    def __init__(self, net: Network) -> None:
        self.net = net
        self.values: tuple[Value, ...] = tuple(dict.fromkeys(edge.value for edge in net.edges))
        self.leaves: Values = {h: net.edges[0].leaf(h) for h in self.values}
        of_leaf = {leaf: h for h, leaf in self.leaves.items()}
        behind: dict[Value, set[Value]] = {leaf: {h} for leaf, h in of_leaf.items()}
        self.near: dict[str, set[Value]] = {}
        for task in net.tasks:
            found = set().union(*(behind.get(value, set()) for value in net.reads(task)))
            if found:
                self.near[task] = found
                behind.update(dict.fromkeys(net.gives(task), found))
        self.above = tuple(self.near)
        self.loss_near: dict[str, set[Value]] = {}
        for name, loss in net.losses.items():
            found = set().union(*(behind.get(value, set()) for value in net.loss_reads(name)))
            if found and loss.rule is None:
                self.loss_near[name] = found

    def start(self) -> State:
        """At the forward pass: nothing has to run again."""
        losses = {name: self.net.losses[name].value for name in self.loss_near}
        return State(dict(self.leaves), {h: h for h in self.values}, losses)

    def evaluate(self, values: Mapping[Value, Value], name: str) -> State:
        """Run the tasks above the links on other values."""
        net = self.net
        leaves = {h: net.fresh_leaf(value, name) for h, value in values.items()}
        instead = {self.leaves[h]: leaf for h, leaf in leaves.items()}
        made = {h: h for h in self.values}
        again: Values = {}
        for task in self.above:
            for before, after in zip(net.gives(task), net.call(task, instead, name), strict=True):
                again[before] = after
                if before in made:
                    made[before] = after
        losses = {loss: net.loss_again(loss, {**again, **instead}, name) for loss in self.loss_near}
        return State(leaves, made, losses)

    def total(self, state: State, losses: Sequence[str]) -> Value | None:
        """B·Σ of some weighted losses."""
        net = self.net
        parts = []
        for name in losses:
            weight, value = net.losses[name].weight, state.losses[name]
            parts.append(
                value if weight == 1.0 else net.node("mul", value, net.number(weight), name="weighted")
            )
        if not parts:
            return None
        total = add(net, parts, "losses")
        return net.node("mul", total, net.batch(self.values[0]), name="losses")

    def errors(self, state: State, values: Mapping[Value, Value]) -> Values:
        """f_h(v) − v_h."""
        net = self.net
        return {
            h: net.node("sub", net.stop(state.made[h]), net.stop(values[h]), name="error") for h in values
        }

    def slopes(
        self, state: State, errors: Mapping[Value, Value], values: Sequence[Value], nudge: float
    ) -> Values:
        """∂E/∂v_h from the tasks above: Σ ∂f/∂v_hᵀ·error + β ∂L/∂v_h. Values that nothing above reaches are left out."""
        net, wanted = self.net, set(values)
        outputs: list[Value] = []
        cotangents: list[Value | None] = []
        reached: set[Value] = set()
        for other, error in errors.items():
            near = self.near.get(other.node, set()) & wanted
            if near:
                reached |= near
                outputs.append(state.made[other])
                cotangents.append(error)
        losses = [name for name, near in self.loss_near.items() if near & wanted]
        total = self.total(state, losses)
        if total is not None:
            reached |= set().union(*(self.loss_near[name] for name in losses)) & wanted
            outputs.append(
                total if nudge == 1.0 else net.node("mul", total, net.number(nudge), name="nudged")
            )
            cotangents.append(None)
        wrt = [h for h in values if h in reached]
        if not wrt:
            return {}
        found = net.gradients(outputs, [state.leaves[h] for h in wrt], cotangents)
        return dict(zip(wrt, found, strict=True))

    def settle(self, steps: int, step: float, nudge: float, name: str) -> Values:
        """The values after ``steps`` steps of gradient descent on E, from the forward pass."""
        net = self.net
        state, values = self.start(), {h: net.stop(h) for h in self.values}
        errors: Values = {}
        for number in range(steps):
            if number:
                state = self.evaluate(values, f"{name}{number}")
                errors = self.errors(state, values)
            slopes = self.slopes(state, errors, self.values, nudge)
            for h in self.values:
                # ∂E/∂v = what comes from above + (v − f)
                if h in slopes and h in errors:
                    slope = net.node("sub", slopes[h], errors[h], name="slope")
                    values[h] = self.moved(values[h], slope, step)
                elif h in slopes:
                    values[h] = self.moved(values[h], slopes[h], step)
                elif h in errors:
                    values[h] = self.moved(values[h], net.node("neg", errors[h], name="slope"), step)
        return values

    def moved(self, value: Value, slope: Value, step: float) -> Value:
        net = self.net
        change = slope if step == 1.0 else net.node("mul", slope, net.number(step), name="change")
        return net.node("sub", value, change, name="value")

    def learn(self, values: Mapping[Value, Value], name: str, factor: float) -> State:
        """Let the tasks learn from factor·∂(Σ ½‖v − f‖²)/∂θ at some values, as a mean over the batch."""
        net = self.net
        state = self.evaluate(values, name)
        errors = self.errors(state, values)
        for h in self.values:
            delta = net.node("div", errors[h], net.batch(h), name="delta")
            if factor != 1.0:
                delta = net.node("mul", delta, net.number(factor), name="delta")
            net.signal(state.made[h], delta)
        return state


def check(c: LinkCheck) -> None:
    """What all rules with an energy need: values with a δ, one network, a loss above, and runs that repeat."""
    if not can_have_delta(c):
        return
    if c.first and same_options(c, c.links) and has_loss_above(c, c.links):
        warn_of_runs(c, tasks_above(c, c.links))


__all__ = ["Energy", "State", "Values", "check"]
