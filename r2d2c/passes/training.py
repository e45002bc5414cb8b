"""From the typed graph to the training graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from r2d2c.credit.record import CreditRule
from r2d2c.graph import Graph
from r2d2c.ops.record import Op
from r2d2c.passes.pipeline import TRAINING, run_passes


def training_graph(
    graph: Graph,
    ops: Mapping[str, Op],
    rules: Mapping[str, CreditRule],
    merge: bool = True,
    skip: Collection[str] = (),
) -> Graph:
    """Losses, stops, leaves, gradients and visits.

    ``merge=False`` gives the definition, root by root; ``skip`` the pass in which some losses do not train.
    """
    return run_passes(TRAINING, graph, ops, rules, merge, skip=skip)
