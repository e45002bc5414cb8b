"""The checks of the typed graph: what would run and silently do nothing, or the wrong thing."""

from __future__ import annotations

from collections.abc import Mapping

from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph
from r2d2c.ops.record import Op
from r2d2c.syntax.spec import Spec


def verify(graph: Graph, spec: Spec, ops: Mapping[str, Op], rules: tuple[CreditRule, ...], sink: Sink) -> Graph:
    """The same graph, after reporting to the sink."""
    return graph
