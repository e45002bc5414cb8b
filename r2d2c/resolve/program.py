"""`Program`: what all of a model's regions share while they are resolved."""

from __future__ import annotations

from dataclasses import dataclass, field

from r2d2c.diagnostics import Sink
from r2d2c.graph import Argument, Region, Storage
from r2d2c.ops.registry import Ops
from r2d2c.places import Placing, Rule
from r2d2c.resolve.memories import Memories
from r2d2c.resolve.state import States
from r2d2c.source import Span
from r2d2c.syntax.ast import Signature, Syntax
from r2d2c.syntax.spec import HypernetSyntax, LoopSyntax, OpGraphSyntax
from r2d2c.types import DimLike


@dataclass(slots=True)
class Block:
    """A block's signature and body, and where it was written."""

    signature: Signature
    body: Syntax
    span: Span


@dataclass(slots=True)
class Program:
    """The tables that grow while a spec is resolved."""

    sink: Sink
    ops: Ops
    dims: dict[str, DimLike] = field(default_factory=dict)
    dim_spans: dict[str, Span] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    blocks: dict[str, Block] = field(default_factory=dict)
    loops: dict[str, LoopSyntax] = field(default_factory=dict)
    hypernets: dict[str, HypernetSyntax] = field(default_factory=dict)
    memories: Memories = field(default_factory=Memories)
    op_graphs: dict[str, OpGraphSyntax] = field(default_factory=dict)
    # Where each op graph is used.
    op_graph_uses: dict[str, Span] = field(default_factory=dict)
    # Sets of places, None after a diagnostic; and the storage of who is wired to whom.
    placings: dict[str, Placing | None] = field(default_factory=dict)
    masks: dict[Rule, str] = field(default_factory=dict)
    seed: int = 0
    arguments: dict[str, Argument] = field(default_factory=dict)
    states: States = field(default_factory=States)
    # The storage that hypernets generate.
    generated: set[str] = field(default_factory=set)
    # Loops and hypernets that were reported, so that what uses them stays silent.
    failed: set[str] = field(default_factory=set)
    usual: dict[str, int] = field(default_factory=dict)
    # The dims with a range that no port shows: they are given when the model runs.
    free: set[str] = field(default_factory=set)
    storage: dict[str, Storage] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    used_dims: set[str] = field(default_factory=set)
    used_blocks: set[str] = field(default_factory=set)
