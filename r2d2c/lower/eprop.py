"""e-prop: a loop's gradient forward in time, with an eligibility trace for every weight of a neuron.

The loop runs without recording. When its backward comes it runs once more, from the first step to the last: at each
step the gradient of what the loop gives at that step goes back through that step alone, and what it leaves at the
neurons' old states is multiplied with their traces, which hold how these states depend on the weights. So nothing is
stored over the steps but what the loop gives.

With v the states of a neuron, a what it reads of a layer W x: ε_i ← Σ_j ∂v_i'/∂v_j ε_j + ∂v_i'/∂a · x, a number for
every sample and every weight. Bellec et al., A solution to the learning dilemma for recurrent networks of spiking
neurons, 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.fx as fx

from r2d2c.graph import Region
from r2d2c.loops import Loop
from r2d2c.lower.codegen import compile_function
from r2d2c.passes.eprop import has_eprop, neurons_of

if TYPE_CHECKING:
    from r2d2c.lower.builder import FxBuilder
    from r2d2c.lower.loops import LoopCall

Tensor = torch.Tensor
Tensors = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Population:
    """Neurons of the same dims. graph: they alone, ``(*states, *read)`` to their next states.

    carries: the positions of the states. layers: of every layer that they read, the positions of weight and bias among
    the step's inputs. same: how many values they read that are the same at every step, and other: how many besides.
    """

    graph: fx.Graph
    carries: tuple[int, ...]
    layers: tuple[tuple[int, int | None], ...]
    same: int
    other: int


@dataclass(frozen=True, slots=True)
class Traced:
    """How e-prop runs a loop.

    step: one that gives after its outputs, for every population, what it reads and then the inputs of its layers.
    """

    step: fx.Graph
    populations: tuple[Population, ...]


def plan(loop: Loop, step: Region, b: FxBuilder, empty: Callable[[], FxBuilder]) -> Traced | None:
    """How e-prop runs a loop whose step ``b`` has built; None if no carry has that credit."""
    if not has_eprop(loop):
        return None
    position = {port.value: k for k, port in enumerate(step.inputs)}
    populations, more = [], []
    for neurons in neurons_of(loop, step, b.graph.types):
        own = empty()
        for value in (*(step.inputs[k].value for k in neurons.carries), *neurons.read):
            own.placeholder(value.node, value)
        for node in neurons.nodes:
            own.add(node)
        own.fx.output(tuple(own.env[step.outputs[k].value] for k in neurons.carries))
        layers = [
            (position[layer.weight], None if layer.bias is None else position[layer.bias])
            for layer in neurons.layers
        ]
        same, other = len(neurons.same), len(neurons.other)
        populations.append(Population(own.fx, neurons.carries, tuple(layers), same, other))
        more += [b.env[value] for value in (*neurons.read, *(layer.x for layer in neurons.layers))]
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    outputs = graph.graph_copy(b.fx, copies)
    assert isinstance(outputs, tuple)
    graph.output((*outputs, *(copies[v] if isinstance(v, fx.Node) else v for v in more)))
    return Traced(graph, tuple(populations))


def run_eprop(call: LoopCall, traced: Traced, trips: int, inputs: Tensors) -> Tensors:
    """What the loop gives; its gradient will come by e-prop."""
    found: Tensors = _EProp.apply(call, traced, trips, *inputs)  # type: ignore[no-untyped-call]
    return found


class _EProp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: LoopCall, traced: Traced, trips: int, *inputs: Any) -> Tensors:
        ctx.run = call, traced, trips
        ctx.tensors = [k for k, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.rest = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(inputs[k] for k in ctx.tensors))
        given = {id(value) for value in inputs}
        outputs = tuple(
            value.view_as(value) if isinstance(value, Tensor) and id(value) in given else value
            for value in call.plain(trips, inputs)
        )
        ctx.mark_non_differentiable(
            *(o for o in outputs if isinstance(o, Tensor) and not o.is_floating_point())
        )
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensors:
        inputs = list(ctx.rest)
        for k, tensor in zip(ctx.tensors, ctx.saved_tensors, strict=True):
            inputs[k] = tensor
        call, traced, trips = ctx.run
        found = _Backward(call, traced, trips, inputs, ctx.needs_input_grad[3:]).run(gradients)
        return (None, None, None, *found)


class _Backward:
    """The second run. ``found``: the gradients of the loop's inputs, so far."""

    def __init__(
        self, call: LoopCall, traced: Traced, trips: int, inputs: list[Any], needed: Sequence[bool]
    ) -> None:
        self.call, self.traced, self.trips, self.inputs = call, traced, trips, inputs
        self.count, self.first = len(call.loop.carries), len(call.loop.carries) + call.loop.sequences
        self.found: list[Any] = [
            torch.zeros_like(value) if need else None for value, need in zip(inputs, needed, strict=True)
        ]
        name = call.loop.name
        self.step = compile_function(traced.step, torch.nn.Module(), f"{name} step, traced")
        self.populations = [_Neurons(each, name, inputs, self.found) for each in traced.populations]
        self.states = {k for each in traced.populations for k in each.carries}

    def run(self, gradients: Sequence[Any]) -> list[Any]:
        carries = list(self.inputs[: self.count])
        for number in range(self.trips):
            carries = self._one(number, carries, self._taught(gradients, number))
        return self.found

    def _taught(self, gradients: Sequence[Any], number: int) -> dict[int, Tensor]:
        """The gradients of what the loop gives at this step, by the output of the step."""
        found: dict[int, Tensor] = {}
        for position, (given, gradient) in enumerate(zip(self.call.loop.gives, gradients, strict=True)):
            if gradient is None or (given.kind == "last" and number < self.trips - 1):
                continue
            one = gradient.select(self.call.stacks[position], number) if given.kind == "steps" else gradient
            found[given.port] = found[given.port] + one if given.port in found else one
        return found

    def _one(self, number: int, carries: list[Any], taught: dict[int, Tensor]) -> list[Any]:
        arguments = self._arguments(number, carries)
        leaves = {k: a for k, a in enumerate(arguments) if isinstance(a, Tensor) and a.requires_grad}
        with torch.enable_grad():
            outputs = self.step(*arguments)
        pairs = [(outputs[port], gradient) for port, gradient in taught.items() if _learns(outputs[port])]
        signals = self._back(number, pairs, leaves)
        last = number == self.trips - 1
        position = len(outputs) - sum(each.size for each in self.populations)
        for each in self.populations:
            each.learn([signals.get(k) for k in each.shape.carries])
            extra = outputs[position : position + each.size]
            position += each.size
            if last:
                self._back(
                    number, each.of_same(extra), {k: a for k, a in leaves.items() if k not in self.states}
                )
            else:
                each.follow([arguments[k] for k in each.shape.carries], extra)
        return [value.detach() if isinstance(value, Tensor) else value for value in outputs[: self.count]]

    def _arguments(self, number: int, carries: list[Any]) -> list[Any]:
        """The arguments of a step: leaves, where a gradient is taken."""
        call = self.call
        pairs = zip(self.inputs[self.count : self.first], call.axes, strict=True)
        elements = [x.select(axis, number) for x, axis in pairs]
        rng = self.inputs[len(self.inputs) - call.sizes - 1] if call.random else None
        arguments = call.arguments(number, tuple(carries), elements, tuple(self.inputs[self.first :]), rng)
        for k, value in enumerate(arguments):
            # Nothing comes back over a step to what is no state of a neuron.
            wanted = k in self.states or (self.found[k] is not None and (k >= self.count or number == 0))
            if isinstance(value, Tensor):
                arguments[k] = value.detach().requires_grad_(wanted)
        return arguments

    def _back(
        self, number: int, pairs: list[tuple[Tensor, Tensor]], leaves: dict[int, Tensor]
    ) -> dict[int, Tensor]:
        """Add the gradients through one step; those of the neurons' old states, by their positions."""
        if not pairs or not leaves:
            return {}
        outputs, taught = zip(*pairs, strict=True)
        gradients = torch.autograd.grad(
            outputs, list(leaves.values()), taught, retain_graph=True, allow_unused=True
        )
        signals = {}
        for k, gradient in zip(leaves, gradients, strict=True):
            if gradient is None:
                continue
            if k in self.states:
                signals[k] = gradient
            elif self.count <= k < self.first:
                self.found[k].select(self.call.axes[k - self.count], number).add_(gradient)
            else:
                self.found[k] += gradient
        return signals


class _Neurons:
    """A population with its traces: of everything that it learns, how each of its states depends on it by now."""

    def __init__(self, shape: Population, name: str, inputs: list[Any], found: list[Any]) -> None:
        self.shape, self.found = shape, found
        self.size = 2 * len(shape.layers) + shape.same + shape.other
        self.graph = compile_function(shape.graph, torch.nn.Module(), f"{name} neurons")
        none = [None] * len(shape.carries)
        self.weights: dict[int, list[Any]] = {}
        self.biases: dict[int, list[Any]] = {}
        for number, (weight, bias) in enumerate(shape.layers):
            if found[weight] is not None:
                self.weights[number] = [*none]
            if bias is not None and found[bias] is not None:
                self.biases[number] = [*none]
        self.same: dict[int, list[Any]] = {}
        self.taught: dict[int, Tensor] = {}
        # A neuron's initial states are something that it learns, too.
        self.initial: dict[int, list[Any]] = {}
        for place, k in enumerate(shape.carries):
            if found[k] is not None:
                self.initial[k] = [
                    torch.ones_like(inputs[k]) if p == place else None for p in range(len(none))
                ]

    def learn(self, signals: list[Any]) -> None:
        """Add what the states' gradients teach by the traces up to them."""
        found, layers = self.found, self.shape.layers
        for number, traces in self.weights.items():
            for signal, trace in _both(signals, traces):
                flat = signal.reshape(-1, signal.shape[-1])
                found[layers[number][0]] += torch.einsum(
                    "nh,nhi->hi", flat, trace.reshape(*flat.shape, trace.shape[-1])
                )
        for number, traces in self.biases.items():
            bias = layers[number][1]
            assert bias is not None
            for signal, trace in _both(signals, traces):
                found[bias] += (signal * trace).sum_to_size(found[bias].shape)
        for k, traces in self.initial.items():
            for signal, trace in _both(signals, traces):
                found[k] += signal * trace
        for number, traces in self.same.items():
            for signal, trace in _both(signals, traces):
                one = signal * trace
                self.taught[number] = self.taught[number] + one if number in self.taught else one

    def of_same(self, extra: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
        """The values that are the same at every step, with what the traces of all steps teach them."""
        values = extra[len(self.shape.layers) :]
        return [(values[k], taught.sum_to_size(values[k].shape)) for k, taught in self.taught.items()]

    def follow(self, states: list[Tensor], extra: Sequence[Any]) -> None:
        """Take the traces one step further."""
        layers, same = len(self.shape.layers), self.shape.same
        read, xs = list(extra[: self.size - layers]), extra[self.size - layers :]
        for number in range(same):
            if read[layers + number].requires_grad:
                self.same.setdefault(number, [None] * len(states))
        like = states[0]
        with torch.enable_grad():
            olds = [state.detach().requires_grad_() for state in states]
            for number, value in enumerate(read):
                if number < layers or number - layers in self.same:
                    read[number] = value.detach().expand(like.shape).requires_grad_()
                elif isinstance(value, Tensor):
                    read[number] = value.detach()
            news = self.graph(*olds, *read)
            rows = [self._derivatives(new, [*olds, *read[: layers + same]]) for new in news]
        own = [row[: len(olds)] for row in rows]
        by = [[row[len(olds) + number] for row in rows] for number in range(layers + same)]
        self.weights = {n: _step(traces, own, by[n], xs[n].detach()) for n, traces in self.weights.items()}
        self.biases = {n: _step(traces, own, by[n]) for n, traces in self.biases.items()}
        self.same = {n: _step(traces, own, by[layers + n]) for n, traces in self.same.items()}
        self.initial = {k: _step(traces, own, [None] * len(olds)) for k, traces in self.initial.items()}

    def _derivatives(self, new: Any, leaves: list[Any]) -> list[Any]:
        """How a state's elements depend on the elements at their places; None where they do not."""
        found: list[Any] = [None] * len(leaves)
        wanted = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if _learns(new):
            gradients = torch.autograd.grad(
                new, [leaves[k] for k in wanted], torch.ones_like(new), retain_graph=True, allow_unused=True
            )
            for k, gradient in zip(wanted, gradients, strict=True):
                found[k] = gradient
        return found


def _learns(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _both(signals: list[Any], traces: list[Any]) -> list[tuple[Tensor, Tensor]]:
    return [(s, t) for s, t in zip(signals, traces, strict=True) if s is not None and t is not None]


def _step(traces: list[Any], own: list[list[Any]], by: list[Any], x: Tensor | None = None) -> list[Any]:
    """ε_i ← Σ_j own_ij ε_j + by_i ⊗ x."""
    found: list[Any] = []
    for row, direct in zip(own, by, strict=True):
        total: Any = None
        if direct is not None:
            total = direct if x is None else direct.unsqueeze(-1) * x.unsqueeze(-2)
        for factor, trace in zip(row, traces, strict=True):
            if factor is not None and trace is not None:
                one = trace * (factor if x is None else factor.unsqueeze(-1))
                total = one if total is None else total + one
        found.append(total)
    return found


__all__ = ["Population", "Traced", "plan", "run_eprop"]
