"""Random batches that fit a graph's ports: for `wiring --prove`, for verifying exports, for tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from r2d2c.graph import Graph
from r2d2c.lower.builder import TORCH_DTYPES
from r2d2c.types import Dim, evaluate

# Sizes for dims that are known only at run time; odd and different, so that mixed-up axes show.
DEFAULT_SIZES = {"B": 5, "T": 7}


def run_time_sizes(graph: Graph, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for every run-time dim: as given, else from its range, else a default."""
    found = dict(DEFAULT_SIZES)
    for name, (low, high) in graph.ranges.items():
        found[name] = (low + high) // 2
    for port in graph.body.inputs:
        for dim in graph.types[port.value].dims:
            if isinstance(dim, Dim):
                for name in sorted(dim.symbols()):
                    found.setdefault(name, 3)
    return found | dict(sizes or {})


def random_batch(
    graph: Graph, seed: int = 0, sizes: Mapping[str, int] | None = None, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """A tensor for every port of the graph's main region: normal floats, integers below their bounds.

    dtype: replaces f32, for models converted by ``.double()``.
    """
    generator = torch.Generator().manual_seed(seed)
    values = run_time_sizes(graph, sizes)
    batch = {}
    for port in graph.body.inputs:
        type_ = graph.types[port.value]
        shape = tuple(evaluate(dim, values) for dim in type_.dims)
        kind = TORCH_DTYPES[type_.dtype]
        if type_.floating:
            kind = dtype if dtype is not None and kind == torch.float32 else kind
            batch[port.name] = torch.randn(shape, generator=generator, dtype=torch.float64).to(kind)
        elif type_.dtype == "bool":
            batch[port.name] = torch.rand(shape, generator=generator) < 0.5
        else:
            bound = graph.bounds.get(port.value)
            limit = evaluate(bound, values) if bound is not None else 4
            batch[port.name] = torch.randint(0, max(limit, 1), shape, generator=generator).to(kind)
    return batch
