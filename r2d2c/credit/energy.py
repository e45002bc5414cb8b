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
        return self.evaluate({h: self.net.stop(h) for h in self.values}, "start")

    def evaluate(self, values: Mapping[Value, Value], name: str) -> State:
        """The tasks above the links at other values; those that see none that moved do not run again."""
        net = self.net
        leaves = {
            h: net.fresh_leaf(v, name) if self._left(h, v) else self.leaves[h] for h, v in values.items()
        }
        again = {self.leaves[h]: leaf for h, leaf in leaves.items() if leaf != self.leaves[h]}
        made = {h: h for h in self.values}
        for task in self.above:
            if not again.keys() & set(net.reads(task)):
                continue
            for before, after in zip(net.gives(task), net.call(task, again, name), strict=True):
                again[before] = after
                if before in made:
                    made[before] = after
        losses = {
            loss: net.loss_again(loss, again, name)
            if again.keys() & set(net.loss_reads(loss))
            else net.losses[loss].value
            for loss in self.loss_near
        }
        return State(leaves, made, losses)

    def _left(self, h: Value, value: Value) -> bool:
        """Whether a value has left the forward pass."""
        return value != self.net.stop(h)

    def errors(self, state: State, values: Mapping[Value, Value]) -> Values:
        """f_h(v) − v_h, where it is not 0 for certain: where v_h, or a value that f_h sees, has left the forward pass."""
        net, found = self.net, {}
        for h in values:
            if any(self._left(k, values[k]) for k in (h, *self.near.get(h.node, ()))):
                found[h] = net.node("sub", net.stop(state.made[h]), net.stop(values[h]), name="error")
        return found

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
        for name, near in self.loss_near.items():
            if near & wanted:
                reached |= near & wanted
                outputs.append(self._per_sample(name, state.losses[name], nudge))
                cotangents.append(None)
        wrt = [h for h in values if h in reached]
        if not wrt:
            return {}
        found = net.gradients(outputs, [state.leaves[h] for h in wrt], cotangents)
        return dict(zip(wrt, found, strict=True))

    def _per_sample(self, name: str, loss: Value, nudge: float) -> Value:
        """β·B times a weighted loss."""
        net, factor = self.net, self.net.losses[name].weight * nudge
        if factor != 1.0:
            loss = net.node("mul", loss, net.number(factor), name="weighted")
        return net.node("mul", loss, net.batch(self.values[0]), name="losses")

    def settle(self, steps: int, step: float, nudge: float, name: str) -> Values:
        """The values after ``steps`` steps of gradient descent on E, from the forward pass."""
        net = self.net
        values = {h: net.stop(h) for h in self.values}
        for number in range(steps):
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
        for h, error in self.errors(state, values).items():
            delta = net.node("div", error, net.batch(h), name="delta")
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
