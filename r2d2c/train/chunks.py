"""`train.chunk`: long sequences are learned in parts, and the state goes on from part to part.

Memory then depends on the length of a part, not on that of the sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import Graph, Node, walk
from r2d2c.loops import loop_of
from r2d2c.source import Span
from r2d2c.train.precision import around
from r2d2c.types import Dim, symbol

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model
    from r2d2c.train.stepper import Stepper

Tensors: TypeAlias = "dict[str, Tensor]"


class Part(NamedTuple):
    """Some steps of a batch. ``share``: how large a part of all its steps."""

    batch: Mapping[str, Tensor]
    share: float


@dataclass(frozen=True, slots=True)
class Chunks:
    """``steps`` of the dim ``dim`` are learned at once. axes: of each port that has the dim, its axis."""

    steps: int
    dim: str
    axes: Mapping[str, int]

    def parts(self, batch: Mapping[str, Tensor]) -> Iterator[Part]:
        """The parts of a batch in their order; a batch that is no longer than one part is whole."""
        lengths = {batch[name].shape[axis] for name, axis in self.axes.items()}
        length = max(lengths)
        if len(lengths) > 1 or length <= self.steps:  # lengths that differ are for the model to refuse
            yield Part(batch, 1.0)
            return
        for first in range(0, length, self.steps):
            steps = min(self.steps, length - first)
            cut = {name: batch[name].narrow(axis, first, steps) for name, axis in self.axes.items()}
            yield Part({**batch, **cut}, steps / length)


def learn_pass(model: Model, stepper: Stepper, given: Mapping[str, Any]) -> tuple[Tensors, Tensors]:
    """One learning pass and its updates: the losses, and the model's state after it."""
    losses: Tensors = {}
    state: Tensors = {}
    with around(model):
        for number, visit in enumerate(model.visits(**given)):
            losses.update(visit.losses)
            stepper.after(number)
            state = visit.state
    return losses, state


def learn_batch(
    model: Model,
    stepper: Stepper,
    batch: Mapping[str, Tensor],
    sizes: Mapping[str, Any],
    chunks: Chunks | None,
) -> Tensors:
    """Learn a batch, part by part where it is cut; each part goes on with the state of the one before. The losses."""
    from r2d2c.train.measure import size_of

    samples = size_of(batch)
    if chunks is None:
        stepper.begin(samples)
        return learn_pass(model, stepper, {**batch, **sizes})[0]
    means, state = Means(), None
    left = 1.0
    for part, share in chunks.parts(batch):
        left -= share
        stepper.begin(samples, share, whole=left < 1e-9)
        given = {**part, **sizes} if state is None else {**part, **sizes, "state": state}
        losses, state = learn_pass(model, stepper, given)
        means.add(losses, share)
    return means.means()


@dataclass(slots=True)
class Means:
    """Losses of a batch out of those of its parts, each as much as it has steps."""

    _total: dict[str, Any] = field(default_factory=dict)
    _shares: dict[str, float] = field(default_factory=dict)

    def add(self, losses: Mapping[str, Tensor], share: float) -> None:
        for name, value in losses.items():
            part = value * share
            self._total[name] = self._total[name] + part if name in self._total else part
            self._shares[name] = self._shares.get(name, 0.0) + share

    def means(self) -> Tensors:
        """A loss that some parts do not have, for it trains now and then, is the mean over the others."""
        shares = self._shares
        return {
            n: total if abs(shares[n] - 1) < 1e-9 else total / shares[n] for n, total in self._total.items()
        }


def read_chunks(checked: Checked, sink: Sink) -> Chunks | None:
    """How a spec's sequences are learned in parts; None if they are not, or after a diagnostic."""
    train = checked.spec.document.train
    if train is None or train.chunk is None:
        return None
    return _Reader(checked.graph, train.chunk, train.at("chunk"), sink).read()


@dataclass(frozen=True, slots=True)
class _Reader:
    graph: Graph
    steps: int
    span: Span | None
    sink: Sink

    def read(self) -> Chunks | None:
        loops = {
            loop_of(node).name: node
            for _, node in walk(self.graph)
            if node.op == "loop" and loop_of(node).over
        }
        stateful = [node for node in loops.values() if loop_of(node).stateful]
        if not stateful:
            named = next(iter(loops), None)
            fix = f"say `stateful: true` in the loop `{named}`" if named else None
            self._report("no loop over a sequence keeps its state from part to part", fix)
            return None
        trips = loop_of(stateful[0]).trips
        name = str(trips)
        if not isinstance(trips, Dim) or trips != symbol(name):
            message = f"`{loop_of(stateful[0]).name}` takes {name} steps, and the model takes no fewer"
            self._report(
                message, "run it over a dim of the inputs that has no number: `f32[B, T, 8]`", stateful[0]
            )
            return None
        if not self._alone(trips, loops):
            return None
        axes = self._axes(trips)
        return None if axes is None else Chunks(self.steps, name, axes)

    def _alone(self, trips: Dim, loops: Mapping[str, Node]) -> bool:
        """Whether all that runs over the sequences can run over a part of them."""
        for name, node in loops.items():
            loop = loop_of(node)
            if loop.trips == trips and not loop.stateful:
                message = f"the loop `{name}` runs over {trips} too, and would start anew in every part"
                self._report(message, f"say `stateful: true` in `{name}`", node)
                return False
            if loop.stateful and loop.trips != trips:
                message = f"`{name}` runs over {loop.trips}, and another stateful loop over {trips}"
                self._report(message, "let both run over the same dim", node)
                return False
        low, high = self.graph.ranges.get(str(trips), (1, self.steps))
        if low > 1 or self.steps > high:
            message = f"{trips} is {low}..{high}, and a part has 1 to {self.steps} steps"
            self._report(message, f"`dims: {{{trips}: 1..{max(high, self.steps)}}}`")
            return False
        return True

    def _axes(self, trips: Dim) -> dict[str, int] | None:
        """The axis of the sequences of each port that has one."""
        graph, axes = self.graph, {}
        origins = {node.id: node for node in graph.body.nodes}
        for port in graph.body.inputs:
            dims = graph.types[port.value].dims
            here = [
                axis for axis, dim in enumerate(dims) if isinstance(dim, Dim) and str(trips) in dim.symbols()
            ]
            if not here:
                if port.name in graph.targets:
                    message = (
                        f"the target `{port.name}` is {graph.types[port.value]}: it says nothing about a part"
                    )
                    fix = f"give it one entry a step, `[B, {trips}]`, and leave out the others with a mask"
                    self._report(message, fix, origins[port.value.node])
                    return None
                continue
            if len(here) > 1 or dims[here[0]] != trips:
                message = (
                    f"`{port.name}` is {graph.types[port.value]}, which cannot be cut into parts of {trips}"
                )
                self._report(message, f"give it one axis that is {trips} long", origins[port.value.node])
                return None
            axes[port.name] = here[0]
        if not axes:
            self._report(f"no input and no target has the axis {trips}", None)
            return None
        return axes

    def _report(self, message: str, fix: str | None, node: Node | None = None) -> None:
        also = [(node.origin, "here")] if node is not None else []
        whole = f"sequences cannot be learned in parts of {self.steps} steps: {message}"
        self.sink.report("E556", self.span, whole, also=also, fix=fix)
