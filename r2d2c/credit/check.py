"""What a credit rule's ``check`` sees of a link, before anything is attached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from r2d2c.credit.options import options_of
from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Link, Loss, Region
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

    @property
    def name(self) -> str:
        """The name of the link's value, ``encode.h``."""
        return f"{self.link.source_task}.{self.source.outputs[self.link.source.port].name}"

    @property
    def links(self) -> list[Link]:
        """All links of the rule."""
        return [link for link in self.graph.links if link.credit.rule == self.rule.name]

    @property
    def first(self) -> bool:
        """Whether this is the first of them: what is true of all is said there."""
        return self.link == self.links[0]

    @property
    def flat(self) -> Graph:
        """The graph with its main region as one list of nodes; its links start at the same values."""
        from r2d2c.passes.inline import flatten

        return flatten(self.graph)

    @property
    def ends(self) -> list[Loss]:
        """The losses that train, of the tasks that give an output."""
        from r2d2c.passes.credit import output_tasks

        tasks = output_tasks(self.graph)
        losses = [self.graph.losses[name] for name in self.active if name in self.graph.losses]
        return [loss for loss in losses if loss.owner in tasks and loss.rule is None]

    @property
    def labels(self) -> int | None:
        """How many classes the first target of class labels has; None if there is none."""
        for port in self.graph.body.inputs:
            classes = self.graph.bounds.get(port.value)
            if port.name in self.graph.targets and isinstance(classes, int):
                return classes
        return None

    def refuse(self, message: str, fix: str | None = None) -> None:
        """As `report`, for rules of plug-ins, which have no codes of their own."""
        self.report("E253", f"the credit `{self.rule.name}` cannot stand here: {message}", fix=fix)

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
