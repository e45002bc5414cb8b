"""Local learning: nothing comes back; a task learns from its own losses alone."""

from __future__ import annotations

from r2d2c.credit.record import CreditRule, Edge
from r2d2c.graph import Value


def _attach(edge: Edge) -> Value:
    return edge.feed if edge.feed is not None else edge.stop(edge.value)


LOCAL = CreditRule(
    "local",
    "Nothing comes back: the lower task learns from its own losses alone. With `feed`, the upper task reads the "
    "lower one's representative while it learns.",
    "0",
    attach=_attach,
    keeps_distance=True,
    takes_feed=True,
    colour="#2ca02c",
)
