"""The passes after `verify`, in literal tuples: what runs, in which order, and what each gives.

A pass is a frozen dataclass with ``run(graph, sink) -> Graph``. It never edits its input. ``gives`` is the
row of the legality table that its result is held against while checking is on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Region
from r2d2c.ops.record import Op
from r2d2c.passes import layers
from r2d2c.passes.backward import Backward
from r2d2c.passes.credit import AttachCredit
from r2d2c.passes.eprop import cut_recurrence
from r2d2c.passes.hoist import hoist
from r2d2c.passes.inline import flatten
from r2d2c.passes.layers import owners_of
from r2d2c.passes.legality import Form, check_after


@dataclass(frozen=True, slots=True)
class Tables:
    """What passes look things up in.

    teach: the `teach` regions by task, and owners: the task of every node, which a flat graph no longer has.
    skip: the losses that do not train in this learning pass.
    """

    ops: Mapping[str, Op]
    rules: Mapping[str, CreditRule]
    teach: Mapping[str, Region]
    owners: Mapping[str, str] = field(default_factory=dict)
    merge: bool = True
    skip: frozenset[str] = frozenset()


class Pass(Protocol):
    """A pass, made with the tables. ``gives`` is what its result is held against."""

    gives: ClassVar[Form]

    def __init__(self, tables: Tables) -> None: ...

    def run(self, graph: Graph, sink: Sink) -> Graph: ...


@dataclass(frozen=True, slots=True)
class Attach:
    """Every link's credit rule says what the upper task reads while the model learns."""

    tables: Tables
    gives: ClassVar[Form] = "attached"

    def run(self, graph: Graph, sink: Sink) -> Graph:
        return AttachCredit(graph, self.tables.rules, self.tables.ops).run()


@dataclass(frozen=True, slots=True)
class Flatten:
    """One region out of the main one and all it calls."""

    tables: Tables
    gives: ClassVar[Form] = "flat"

    def run(self, graph: Graph, sink: Sink) -> Graph:
        return cut_recurrence(flatten(graph))


@dataclass(frozen=True, slots=True)
class Hoist:
    """What is the same at every step of a loop is computed once, before it."""

    tables: Tables
    gives: ClassVar[Form] = "flat"

    def run(self, graph: Graph, sink: Sink) -> Graph:
        return hoist(graph, self.tables.ops)


@dataclass(frozen=True, slots=True)
class Rewire:
    """Credit rules that change ops do so."""

    tables: Tables
    gives: ClassVar[Form] = "flat"

    def run(self, graph: Graph, sink: Sink) -> Graph:
        return layers.Rewire(graph, self.tables.rules, self.tables.ops, self.tables.owners).run()


@dataclass(frozen=True, slots=True)
class Differentiate:
    """Backward as nodes, and the schedule of visits."""

    tables: Tables
    gives: ClassVar[Form] = "training"

    def run(self, graph: Graph, sink: Sink) -> Graph:
        tables = self.tables
        return Backward(graph, tables.ops, tables.teach, tables.merge, tables.skip).run()


PREPARE: tuple[type[Pass], ...] = (Attach, Flatten, Hoist, Rewire)
TRAINING: tuple[type[Pass], ...] = (*PREPARE, Differentiate)


def run_passes(
    passes: Sequence[type[Pass]],
    graph: Graph,
    ops: Mapping[str, Op],
    rules: Mapping[str, CreditRule],
    merge: bool = True,
    sink: Sink | None = None,
    skip: Collection[str] = (),
) -> Graph:
    """The graph after passes over a typed graph."""
    sink = sink or Sink()
    teach = {t.name: graph.regions[t.teach] for t in graph.tasks.values() if t.teach is not None}
    tables = Tables(ops, rules, teach, owners_of(graph), merge, frozenset(skip))
    for each in passes:
        graph = check_after(each(tables).run(graph, sink), ops, each.gives, rules)
        sink.stop_on_errors()
    return graph
