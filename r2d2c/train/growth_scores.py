"""What the ops of an op graph are worth, by the model that is being trained and some batches of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2c.growth import OpGraph
from r2d2c.mutation_choice import score_magnitude, score_std, score_taylor
from r2d2c.opgraph import Ints, Topology
from r2d2c.ops.op_graph import OP_GRAPH
from r2d2c.train.measure import Batch

if TYPE_CHECKING:
    from r2d2c.graph import Node
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


def look(model: Model, graph: OpGraph, batches: Sequence[Batch], *, slopes: bool) -> Seen:
    """Run the model on some batches, and change nothing of it.

    slopes: take gradients too, as the credit rules of a learning pass give them; then the columns are those of learning.
    """
    node = next(
        node
        for node in model._training_graph.body.nodes
        if node.op == OP_GRAPH.name and node.attrs["start"].name == graph.name
    )
    if not slopes:
        return Seen(np.concatenate(_columns(model, node, batches)))
    from r2d2c.tracing import value_name

    name = value_name(node, 0)
    assert name is not None
    values, gradients = [], []
    for batch in batches:
        given: dict[str, Any] = dict(batch)
        trace = model.trace(**given)
        value = _flat(trace.values[name])
        delta = trace.deltas.get(name)
        values.append(value)
        gradients.append(np.zeros_like(value) if delta is None else _flat(delta) / len(batches))
    return Seen(np.concatenate(values), np.concatenate(gradients))


def _columns(model: Model, node: Node, batches: Sequence[Batch]) -> list[Ints]:
    """The columns of each batch, as the model is used: running statistics, no noise."""
    import torch

    from r2d2c.lower.graphs import lower_forward

    graph = model._training_graph
    lowered = lower_forward(graph, model.spec.ops, [("columns", node.value())], False, model._float)
    run = torch.fx.GraphModule(model, lowered.fx)
    found = []
    for batch in batches:
        given, numbers = model._split(batch)
        given = dict(model._check_batch(given, graph))
        with torch.no_grad():
            (columns,) = run(
                *(given[name] for name in lowered.inputs), *(numbers[n] for n in lowered.arguments)
            )
        found.append(_flat(columns))
    return found


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
