"""Measuring a model on a split: losses, metrics of the composed model, and the spread of representatives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from r2d2c.backend import find_backend
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Value
from r2d2c.lower.graphs import LoweredVisit, lower_forward
from r2d2c.train.ports import input_names
from r2d2c.train.precision import around
from r2d2c.train.settings import Measured

if TYPE_CHECKING:
    from r2d2c.model import Model
    from r2d2c.train.metrics import State

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured on so many samples; losses are unweighted means over samples."""

    samples: int
    losses: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Sums:
    """Sums of losses over batches, weighted by their sizes, on the device: nothing waits for it until
    `means`.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = tuple(names)
        # mps has no float64
        self._kind = torch.float32 if device.type == "mps" else torch.float64
        self.total = torch.zeros(len(self.names), dtype=self._kind, device=device)
        self.samples = 0
        self._missed = dict.fromkeys(self.names, 0)

    def add(self, losses: Mapping[str, torch.Tensor], samples: int) -> torch.Tensor:
        """Add the losses of a batch, and give them as one tensor. One that was not computed this time is 0 in it."""
        if len(losses) < len(self.names):
            for name in self.names:
                if name not in losses:
                    self._missed[name] += samples
            missing = self.total.new_zeros(())
            losses = {name: losses.get(name, missing) for name in self.names}
        scalars = [losses[name] for name in self.names]
        if any(scalar.dtype != scalars[0].dtype for scalar in scalars):
            scalars = [scalar.to(self._kind) for scalar in scalars]
        row = torch.stack(scalars) if scalars else self.total.new_zeros(0)
        self.total.add_(row, alpha=samples)
        self.samples += samples
        return row

    def means(self) -> dict[str, float]:
        counts = [max(self.samples - self._missed[name], 1) for name in self.names]
        return {n: v / c for n, v, c in zip(self.names, self.total.tolist(), counts, strict=True)}

    def state(self) -> dict[str, object]:
        return {"total": self.total.tolist(), "samples": self.samples, "missed": dict(self._missed)}

    def load(self, state: Mapping[str, object]) -> None:
        self.total.copy_(torch.tensor(state["total"], dtype=self._kind))
        self.samples = int(str(state["samples"]))
        missed = state.get("missed")
        if isinstance(missed, dict):
            self._missed |= missed


def size_of(batch: Batch) -> int:
    """The number of samples in a batch."""
    return next((len(tensor) for tensor in batch.values() if tensor.dim()), 1)


def measure(
    model: Model,
    batches: Iterable[Batch],
    metrics: Sequence[Measured],
    *,
    losses: bool = True,
    sizes: Mapping[str, Any] | None = None,
) -> Measurement:
    """Losses and metrics over batches; metrics see the outputs of the composed model, and nothing else
    does. ``sizes``: the model's arguments, their usual values where they are not given.
    """
    found = measured_sums(model, batches, metrics, losses=losses, sizes=sizes)
    values = {m.label: m.metric.compute(found.metrics[m.label]) for m in metrics}
    return Measurement(found.samples, found.sums.means() if losses else {}, values)


@dataclass(slots=True)
class Counted:
    """What was added up over batches: the losses, and the states of the metrics by their labels."""

    samples: int
    sums: Sums
    metrics: dict[str, State]
    measured: Sequence[Measured]

    def weighted(self) -> dict[str, float]:
        """The losses, each times the samples."""
        return {name: mean * self.samples for name, mean in self.sums.means().items()}

    def states(self) -> dict[str, dict[str, float]]:
        return {label: {key: float(v) for key, v in state.items()} for label, state in self.metrics.items()}

    def result(
        self, samples: int, losses: Mapping[str, float], states: Mapping[str, Mapping[str, float]]
    ) -> Measurement:
        """The measurement of several such, given their sums."""
        values = {
            m.label: m.metric.compute(
                {key: torch.tensor(v, dtype=torch.float64) for key, v in states.get(m.label, {}).items()}
            )
            for m in self.measured
        }
        return Measurement(samples, {name: value / max(samples, 1) for name, value in losses.items()}, values)


def measured_sums(
    model: Model,
    batches: Iterable[Batch],
    metrics: Sequence[Measured],
    *,
    losses: bool = True,
    sizes: Mapping[str, Any] | None = None,
) -> Counted:
    """As `measure`, before the sums are divided. A batch without samples counts for nothing."""
    given = dict(sizes or {})
    graph = model.graph
    inputs = input_names(graph)
    sums = Sums(model._forward_losses if losses else [], _device(model))
    states: dict[str, State] = {m.label: m.metric.init() for m in metrics}
    samples = 0
    for batch in batches:
        count = size_of(batch)
        if not count:
            continue
        samples += count
        if losses:
            with around(model):
                found = model.losses(**batch, **given)
            sums.add(found, count)
        if not metrics:
            continue
        with torch.no_grad(), around(model):
            outputs = model(**{name: batch[name] for name in inputs}, **given)
        if model._precision != "f32":
            # Metrics add up in f32. A state is a dict, and none of them looks at it.
            outputs = {
                name: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
                for name, v in outputs.items()
            }
        known = {**batch, **outputs}
        for m in metrics:
            first, second, *mask = (known[name] for name in m.args)
            weights = mask[0] if mask else None
            states[m.label] = m.metric.update(states[m.label], first, second, weights, m.options)
    return Counted(samples, sums, states, metrics)


def weighted(model: Model, losses: Mapping[str, float]) -> float:
    """The weighted sum of losses."""
    return sum(model._training_graph.losses[name].weight * value for name, value in losses.items())


class Spread:
    """How far the representatives of a batch lie apart: see `Width`."""

    def __init__(self, model: Model) -> None:
        graph, self._model = model._training_graph, model
        found: dict[str, Value] = {}
        for node in graph.body.nodes:
            # The leaves of representatives, as losses see them; `@k` marks a copy for another visit.
            if node.op != "leaf" or node.attrs.get("cut"):
                continue
            if node.id.endswith(".leaf") and node.inputs[0] is not None:
                task = graph.tasks.get(node.id.split(".")[0])
                if task is not None and task.representative is not None:
                    found[node.id.removesuffix(".leaf")] = node.inputs[0]
        self.names = tuple(found)
        if found:
            lowered = lower_forward(graph, model.spec.ops, list(found.items()), False)
            visit = find_backend("eager").visit
            assert visit is not None
            self._inputs = lowered.inputs
            usual = model._split({})[1]
            self._numbers = [usual[name] for name in lowered.arguments]
            self._run = visit(model, LoweredVisit(lowered.fx, "representatives", (), (), False))

    def of(self, batch: Batch) -> dict[str, Width]:
        """The width of every representative; nothing for a batch of one sample."""
        if not self.names or size_of(batch) < 2:
            return {}
        with torch.no_grad():
            given = self._model._complete(batch) if self._model.graph.states else batch
            values = self._run(*(given[name] for name in self._inputs), *self._numbers)
        named = zip(self.names, values, strict=True)
        return {name: _width(value) for name, value in named if value.dim() and value.is_floating_point()}


class Width(NamedTuple):
    """The spread of one representative.

    deviation: the standard deviation over the samples of a batch. relative: the same, as a part of the root
    of the mean square: near 1 for codes that differ, 0 for a constant.
    """

    deviation: float
    relative: float

    def collapsed(self, widest: Width) -> bool:
        """Whether it is nearly a constant, or has lost much of the most that it ever had, by both
        measures.
        """
        narrowed = self.deviation < 0.5 * widest.deviation and self.relative < 0.6 * widest.relative
        return self.relative < 0.02 or narrowed

    def wider(self, other: Width) -> Width:
        return Width(max(self.deviation, other.deviation), max(self.relative, other.relative))


def warn_of_collapse(sink: Sink, graph: Graph, name: str, where: str, width: Width, widest: Width) -> None:
    """W546 for a representative. where: in which epoch; widest: the widest that it was."""
    task = graph.tasks[name.split(".", maxsplit=1)[0]]
    region = graph.regions.get(task.representative or "")
    part = width.deviation / widest.deviation if widest.deviation else 0.0
    sink.report(
        "W546",
        region.origin if region is not None else task.origin,
        f"the representative `{name}` collapses: it is more and more the same for every sample",
        f"in {where} its spread is {part:.0%} of the widest it was",
        notes=["a constant is easy to hit, so the loss looks good while the task learns nothing"],
        fix=f"let the tasks above see and teach it: `feed: {name}` on the links from `{task.name}`, "
        "and a `teach` that names more than this task's own loss",
    )


def _width(value: torch.Tensor) -> Width:
    flat = value.float().flatten(1) if value.dim() > 1 else value.float().unsqueeze(1)
    scale = float(flat.square().mean().sqrt())
    deviation = float(flat.var(0, correction=0).mean().sqrt())
    return Width(deviation, deviation / scale if scale > 0 else 0.0)


def _device(model: Model) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
