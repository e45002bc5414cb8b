"""`CreditRule`: all that r2d2c knows of a credit rule, in one record.

A rule is a rewrite of the training graph. Its `attach` is called for every link that names it, with an `Edge`
that can add nodes, storage and losses; it returns the value that the upper task reads while the model learns.
What it adds are ordinary nodes, so that wiring, printing, lowering and export need to know nothing of the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from r2d2c.graph import Credit, Init, Link, Loss, Task, Value
from r2d2c.types import TensorType


class Edge(Protocol):
    """What a rule sees of the link it is attached to."""

    @property
    def link(self) -> Link: ...

    @property
    def credit(self) -> Credit: ...

    @property
    def value(self) -> Value:
        """h: the value of the lower task."""

    @property
    def feed(self) -> Value | None:
        """The representative to read instead, as a constant from which its own gradient is taken back."""

    def type(self, value: Value) -> TensorType: ...

    def task(self, name: str) -> Task: ...

    def node(self, op: str, *inputs: Value, name: str = "", **attrs: object) -> Value:
        """Add a node to the training graph."""

    def stop(self, value: Value) -> Value:
        """The value as a constant."""

    def storage(
        self, name: str, type_: TensorType, init: Init, kind: Literal["param", "frozen", "statistic"]
    ) -> Value:
        """Add storage that belongs to this edge and read it."""

    def loss(self, loss: Loss) -> None:
        """Add an auxiliary loss."""


@dataclass(frozen=True, slots=True)
class CreditRule:
    """A record.

    attaches: where it may stand.
    delta: what reaches h from above, in words for `r2d2c ops --credit` and the reference.
    keeps_distance: whether a lower task that is not an output keeps its own distance under this rule.
    takes_feed: whether a link with this rule may have `feed`.
    arguments: the names of its arguments, ``truncate(k)``.
    phases: the phases in which the training graph runs, for rules that need several.
    """

    name: str
    doc: str
    delta: str
    attach: Callable[[Edge], Value]
    attaches: tuple[Literal["edge", "region", "op", "carry"], ...] = ("edge",)
    keeps_distance: bool = False
    takes_feed: bool = False
    arguments: tuple[str, ...] = ()
    phases: tuple[str, ...] = ("learn",)
    colour: str = "#555555"
