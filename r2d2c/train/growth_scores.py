"""What the ops of an op graph are worth, by the model that is being trained and some batches of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2c.growth import OpGraph
from r2d2c.mutation_choice import score_magnitude, score_std, score_taylor
from r2d2c.opgraph import Ints, Topology
from r2d2c.ops.op_graph import OP_GRAPH
from r2d2c.train.measure import Batch

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from r2d2c.lower.graphs import Lowered
    from r2d2c.model import Model


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The columns of an op graph, f64[N, inputs + capacity], and the gradient of the loss in them, if that was asked for."""

    columns: Ints
    gradients: Ints | None = None

    @property
    def varies(self) -> Ints:
        """bool[columns]: which are not the same for all samples, and finite."""
        with np.errstate(all="ignore"):
            found: Ints = np.isfinite(self.columns).all(0) & (np.ptp(self.columns, axis=0) > 0)
        return found

    @property
    def strength(self) -> Ints:
        """f64[columns]: how much of a gradient each gets."""
        assert self.gradients is not None
        found: Ints = np.sqrt(np.square(self.gradients).mean(0))
        return found


class Watch:
    """Runs a model to see the columns of one of its op graphs, and changes nothing of it."""

    def __init__(self, model: Model, graph: OpGraph) -> None:
        self.model = model
        self.node = next(
            node
            for node in model._training_graph.body.nodes
            if node.op == OP_GRAPH.name and node.attrs["start"].name == graph.name
        )

    def look(self, batches: Sequence[Batch], *, slopes: bool) -> Seen:
        """slopes: with gradients, as the credit rules of a learning pass give them; the columns are those of learning then."""
        if not slopes:
            return Seen(np.concatenate([self._columns(batch) for batch in batches]))
        from r2d2c.tracing import value_name

        name = value_name(self.node, 0)
        assert name is not None
        values, gradients = [], []
        for batch in batches:
            given: dict[str, Any] = dict(batch)
            trace = self.model.trace(**given)
            values.append(_flat(trace.values[name]))
            delta = trace.deltas.get(name)
            gradients.append(np.zeros_like(values[-1]) if delta is None else _flat(delta) / len(batches))
        return Seen(np.concatenate(values), np.concatenate(gradients))

    @cached_property
    def _lowered(self) -> tuple[Lowered, GraphModule]:
        from torch.fx import GraphModule

        from r2d2c.lower.graphs import lower_forward

        model = self.model
        wanted = [("columns", self.node.value())]
        lowered = lower_forward(model._training_graph, model.spec.ops, wanted, False, model._float)
        return lowered, GraphModule(model, lowered.fx)

    def _columns(self, batch: Batch) -> Ints:
        """As the model is used: running statistics, no noise."""
        import torch

        lowered, run = self._lowered
        given, numbers = self.model._split(batch)
        given = dict(self.model._check_batch(given, self.model._training_graph))
        arguments = [numbers[name] for name in lowered.arguments]
        with torch.no_grad():
            (columns,) = run(*(given[name] for name in lowered.inputs), *arguments)
        return _flat(columns)


def _flat(tensor: Any) -> Ints:
    found: Ints = tensor.detach().double().numpy(force=True)
    return found.reshape(-1, found.shape[-1])


def scores(topology: Topology, seen: Seen, readouts: Sequence[Ints], at: int) -> dict[str, Ints]:
    """Every score that a formula may read, f64[capacity]. readouts: f64[outputs, columns] each. at: the round."""
    readout = np.concatenate([*readouts, np.zeros((0, topology.columns))])
    with np.errstate(all="ignore"):
        found = {"effect": score_std(seen.columns, readout), "magnitude": score_magnitude(readout)}
        if seen.gradients is not None:
            found["taylor"] = score_taylor(seen.columns, seen.gradients)
    by_row = {name: values[topology.inputs :] for name, values in found.items()}
    return {**by_row, "age": (at - topology.born).astype(np.float64)}
