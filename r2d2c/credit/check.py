"""What a credit rule's ``check`` sees of a link, before anything is attached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from r2d2c.credit.options import options_of
from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Link, Region
from r2d2c.ops.record import Op
from r2d2c.source import Span
from r2d2c.types import TensorType


@dataclass(frozen=True, slots=True)
class LinkCheck:
    """A link, the typed graph around it, and a way to refuse it.

    active: the losses that train, by name.
    """

    graph: Graph
    link: Link
    rule: CreditRule
    ops: Mapping[str, Op]
    rules: Mapping[str, CreditRule]
    active: Mapping[str, object]
    sink: Sink

    def option(self, name: str) -> Any:
        return options_of(self.rule, self.link.credit)[name]

    @property
    def source(self) -> Region:
        """The behavior of the lower task."""
        return self.graph.regions[self.link.source_task]

    @property
    def target(self) -> Region:
        """The behavior of the upper task."""
        return self.graph.regions[self.link.target]

    @property
    def type(self) -> TensorType:
        """The type of the link's value."""
        return self.graph.types[self.link.source]

    def report(
        self,
        code: str,
        message: str,
        label: str = "",
        *,
        span: Span | None = None,
        also: Iterable[tuple[Span | None, str]] = (),
        notes: Iterable[str] = (),
        fix: str | None = None,
    ) -> None:
        """Report why the rule cannot stand here, at the link's credit unless ``span`` says where."""
        place = span or self.link.credit.origin or self.link.origin
        self.sink.report(code, place, message, label, also=also, notes=notes, fix=fix)
