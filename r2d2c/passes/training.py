"""From the typed graph to the training graph."""

from __future__ import annotations

from collections.abc import Mapping

from r2d2c.credit.record import CreditRule
from r2d2c.graph import Graph
from r2d2c.ops.record import Op
from r2d2c.passes.backward import Backward
from r2d2c.passes.credit import AttachCredit
from r2d2c.passes.inline import flatten


def training_graph(graph: Graph, ops: Mapping[str, Op], rules: Mapping[str, CreditRule], merge: bool = True) -> Graph:
    """Losses, stops, leaves, gradients and visits. ``merge=False`` gives the definition, loss by loss."""
    teach = {t.name: graph.regions[t.teach] for t in graph.tasks.values() if t.teach is not None}
    attached = AttachCredit(graph, rules).run()
    return Backward(flatten(attached), ops, teach, merge).run()
