"""Loops over a sequence whose carries take no gradient, in two phases.

First the carries alone go from step to step, without a gradient and without what no carry needs. Then everything else
of all steps is computed at once, with n·B samples in the place of B: for a step of which nothing learns from a later
one that is the same, and autograd records one step for a piece of the sequence, whatever its length. What runs them is
in `phase_run`; of memories see `slots`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.loops import Loop, loop_of
from r2d2c.lower.entries import AdvanceBuilder, Computed, Stores, computed, sources_of
from r2d2c.lower.independent import free_carries, independent, of_samples
from r2d2c.lower.parts import Part, Source, build_part
from r2d2c.lower.phase_run import Advance, Phases, Result
from r2d2c.lower.readout import Readout, split_readouts
from r2d2c.lower.slots import Memory, Rep, memories_of
from r2d2c.lower.tidy import quick_ops, tidied

if TYPE_CHECKING:
    from r2d2c.lower.builder import FxBuilder


def plan(graph: Graph, node: Node, whole: FxBuilder, new: Callable[[Graph], FxBuilder]) -> Phases | None:
    """How a loop of a graph runs in phases; None if it cannot.

    ``whole`` has built its step, and ``new`` makes a builder for parts of it.
    """
    loop, signatures = loop_of(node), whole.signatures
    step = graph.regions[node.attrs["region"]]
    if not loop.over or loop.halt is not None or loop.recompute or whole.samples:
        return None
    free = free_carries(graph, node, signatures)
    if free is None or not independent(graph, node, signatures, whole.training):
        return None
    given: dict[Value, Source] = {}
    first, after = len(loop.carries), len(loop.carries) + loop.sequences
    for k, port in enumerate(step.inputs):
        rest = "same" if of_samples(graph.types[port.value]) else "rest"
        kind, number = (
            ("carry", k) if k < first else ("element", k - first) if k < after else (rest, k - after)
        )
        given[port.value] = Source(kind, number)
    nexts = [port.value for port in step.outputs[:first]]
    memories = memories_of(graph, node, free)
    fixed = [value for value, source in given.items() if source.kind == "rest"]
    graph, readouts = split_readouts(graph, step, memories, fixed)
    if readouts:
        step = graph.regions[step.name]
        nexts = [port.value for port in step.outputs[:first]]
        memories = memories_of(graph, node, free)
    maker = _Maker(loop, step, memories, readouts, given, nexts, lambda: new(graph))
    carries = maker.advance("carries", ())
    known = {value: Source("next", k) for k, value in enumerate(nexts) if k in maker.kept and k in free}
    known = {**known, **sources_of(memories, readouts), **given}
    wanted: list[Value] = []
    results: list[Result] = []
    for g in loop.gives:
        value = step.outputs[g.port].value
        if g.port in free:
            results.append(Result("next", g.port))
            continue
        if value not in wanted:
            wanted.append(value)
        results.append(Result("out", wanted.index(value), of_samples(graph.types[value])))
    finish = build_part(maker.builder(True), f"{loop.name} steps", step, wanted, known) if wanted else None
    stores = Stores(memories, readouts, maker.read(finish), maker.count, maker.weights)
    ways = [carries, *([maker.advance("outputs", wanted)] if memories else [])]
    parts = [part for way in ways for part in (way.tidy.part, *(c.part for c in way.live if c is not None))]
    parts += [*([finish] if finish is not None else []), *(c.part for c in stores.each if c is not None)]
    for part in parts:
        for name in part.sizes:
            whole.argument(name)
    last_only = all(g.kind == "last" for g, r in zip(loop.gives, results, strict=True) if r.kind == "out")
    return Phases(
        carries,
        ways[1] if memories else None,
        finish,
        tuple(results),
        maker.kept,
        stores,
        last_only,
        tuple(whole.wanted),
    )


class _Maker:
    """Makes the parts of a loop's step."""

    def __init__(
        self,
        loop: Loop,
        step: Region,
        memories: tuple[Memory, ...],
        readouts: tuple[Readout, ...],
        given: dict[Value, Source],
        nexts: list[Value],
        new: Callable[[], FxBuilder],
    ) -> None:
        self.loop, self.step, self.memories, self.readouts = loop, step, memories, readouts
        self.given, self.nexts, self.new = given, nexts, new
        self.count = sum(len(memory.reps) for memory in memories)
        self.weights = tuple(given[readout.weight].number for readout in readouts)
        unread = frozenset[int]().union(*(memory.unread for memory in memories))
        self.kept = tuple(k for k in range(len(nexts)) if k not in unread)

    def builder(self, learning: bool) -> FxBuilder:
        b = self.new()
        b.quick = quick_ops(self.step, self.loop, learning)
        return b

    def advance(self, name: str, more: Sequence[Value]) -> Advance:
        """Going on by a step, with ``more`` than the carries."""
        ages = {self.step.outputs[store.age].value for store in self.loop.memories}
        made = AdvanceBuilder(
            self.builder(False),
            self.step,
            self.memories,
            self.readouts,
            self.given,
            self.nexts,
            ages,
            self.kept,
        )
        tidy = tidied(made.run(f"{self.loop.name} {name}", more), self.kept)
        live = []
        for k, reps in enumerate(made.live):
            sums = [(n, r) for n, r in self._sums(k) if r in made.read]
            live.append(self._computed(k, [*reps, *((n, Rep(r.source)) for n, r in sums)]))
        return Advance(tidy, tuple(live))

    def read(self, part: Part | None) -> tuple[Computed | None, ...]:
        """What a part reads of the slots of every memory."""
        used = part.sources if part is not None else ()
        found, first = [], 0
        for k, memory in enumerate(self.memories):
            reps = [(first + n, r) for n, r in enumerate(memory.reps) if Source("slots", first + n) in used]
            first += len(memory.reps)
            sums = [(n, r) for n, r in self._sums(k) if Source("readout", n - self.count) in used]
            found.append(self._computed(k, [*reps, *((n, Rep(r.source)) for n, r in sums)]))
        return tuple(found)

    def _sums(self, memory: int) -> list[tuple[int, Readout]]:
        return [(self.count + n, r) for n, r in enumerate(self.readouts) if r.memory == memory]

    def _computed(self, memory: int, reps: list[tuple[int, Rep]]) -> Computed | None:
        name = f"{self.loop.name} slots"
        return computed(self.new(), name, self.step, self.memories[memory], reps, self.given)
