"""`SharedNodes`: the part of a builder that lowers nodes for a share of a batch, the ways that `shares` found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from r2d2c.graph import Node, Value
from r2d2c.lower.shares import Calls, Shares, Way


class SharedNodes:
    """shares: how nodes are lowered that couple samples; None where a pass has the whole batch, or nothing does.

    way: that of the node at hand.
    """

    env: dict[Value, Any]

    def __init__(self) -> None:
        self.shares: Shares | None = None
        self.way: Way | None = None
        # Values as an op needs them that is not for shares; made once for all that read them.
        self._exact: dict[tuple[Value, Calls], Any] = {}

    if TYPE_CHECKING:  # of `FxBuilder`

        def __call__(self, target: str, *args: Any, **kwargs: Any) -> Any: ...
        def _begin(self, node: Node) -> None: ...

    @contextmanager
    def sharing(self, node: Node) -> Iterator[None]:
        """While a node is lowered: for a share of the batch, if that takes another way than for all of it."""
        way = self.shares.ways.get(node.id) if self.shares is not None else None
        if way is None or self.way is not None:
            yield
            return
        self._begin(node)
        kept = {}
        for value, calls in zip(node.inputs, way.given, strict=False):
            if value is not None and calls:
                kept[value] = self.env[value]
                if (value, calls) not in self._exact:
                    self._exact[value, calls] = self._called(calls, kept[value])
                self.env[value] = self._exact[value, calls]
        self.way = way
        try:
            yield
        finally:
            self.way = None
        self.env.update(kept)
        for port, calls in enumerate(way.outputs):
            if calls:
                made = Value(node.id, port)
                self.env[made] = self._called(calls, self.env[made])
                self.env[made].meta["r2d2c"] = (node, port)

    def _called(self, calls: Calls, value: Any) -> Any:
        for name, axis in calls:
            value = self(f"r2d2c.lower.gathering.{name}", value, *([] if axis is None else [axis]))
        return value

    def counted(self, count: Any) -> Any:
        """A count over samples, of all processes if that is what the node divides by."""
        if self.way is None or not self.way.counted:
            return count
        return self("r2d2c.lower.gathering.counts", count)
