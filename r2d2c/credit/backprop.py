"""Backpropagation: the upper task's gradient reaches the lower one."""

from __future__ import annotations

from r2d2c.credit.record import CreditRule, Edge
from r2d2c.graph import Value


def _attach(edge: Edge) -> Value:
    return edge.value


BACKPROP = CreditRule(
    "backprop",
    "The gradient of everything above flows back over the link (Rumelhart, Hinton and Williams, 1986).",
    "∂L/∂h",
    _attach,
    colour="#1f77b4",
)
