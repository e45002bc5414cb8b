"""What comes out of a search: an ensemble of models, and the formulas of the best one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2c.mutation_choice import score_magnitude
from r2d2c.ops.op_graph import parts_of
from r2d2c.ops.op_graph_rows import topology_of
from r2d2c.train.evolve_worker import mutable
from r2d2c.train.growth_log import formula
from r2d2c.train.settings import Measured

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model
    from r2d2c.train.measure import Batch


class Ensemble:
    """Several models as one: its outputs are the means of theirs. Integers are those of the first, the best one."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)

    def __call__(self, **inputs: Any) -> dict[str, Tensor]:
        import torch

        with torch.no_grad():
            each = [model(**inputs) for model in self.models]
        return {
            name: torch.stack([outputs[name] for outputs in each]).mean(0)
            if value.is_floating_point()
            else value
            for name, value in each[0].items()
        }

    def measure(self, batches: Iterable[Batch], metrics: Sequence[Measured]) -> dict[str, float]:
        """The metrics of the mean outputs over batches."""
        from r2d2c.train.ports import input_names

        inputs = input_names(self.models[0].graph)
        states = {m.label: m.metric.init() for m in metrics}
        for batch in batches:
            known = {**batch, **self(**{name: batch[name] for name in inputs})}
            for m in metrics:
                first, second, *mask = (known[name] for name in m.args)
                weights = mask[0] if mask else None
                states[m.label] = m.metric.update(states[m.label], first, second, weights, m.options)
        return {m.label: m.metric.compute(states[m.label]) for m in metrics}


def formulas(model: Model, most: int) -> dict[str, dict[str, str]]:
    """By op graph, what `most` of its nodes compute, by their names. An op counts by the norm of its read-out weights."""
    tensors = model.state_dict()
    found = {}
    for name, graph in mutable(model).items():
        rows = {part: tensors[f"{graph.node}.{part}"].numpy(force=True) for part in parts_of(graph)}
        topology = topology_of(rows, graph.inputs, graph.names)
        numbers = tensors[f"{graph.node}.numbers"].double().numpy(force=True)
        squares = np.zeros(graph.capacity)
        for reader in graph.readers:
            weight = tensors[reader.weight].double().numpy(force=True)
            columns = weight.reshape(-1, weight.shape[-1])[:, reader.offset + graph.inputs :]
            squares += np.square(score_magnitude(columns[:, : graph.capacity]))
        nodes = sorted(topology.rows.items(), key=lambda item: (-squares[item[1]], item[1]))
        found[name] = {node: formula(topology, row, numbers) for node, row in nodes[:most]}
    return found
