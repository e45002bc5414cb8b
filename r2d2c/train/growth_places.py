"""Where the input columns of an op graph are in a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from r2d2c.growth import OpGraph
from r2d2c.opgraph import Ints
from r2d2c.ops.op_graph_rows import points_of

if TYPE_CHECKING:
    from r2d2c.model import Model


def points(model: Model, graph: OpGraph) -> Ints | None:
    """f64[inputs, 3], where they are just now; None without places. Places that are learned are read from the model."""
    places = graph.places
    if places is None:
        return None
    if places.learned:
        # A parameter, or a buffer of a task that is frozen.
        known = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        found: Ints = known[places.storage].numpy(force=True).astype(np.float32).astype(np.float64)
        return found
    return points_of(places, model.graph.seed)
