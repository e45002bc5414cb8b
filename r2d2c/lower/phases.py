"""Loops over a sequence whose carries take no gradient, in two phases.

First the carries alone go from step to step, without a gradient and without what no carry needs. Then everything else
of all steps is computed at once, with n·B samples in the place of B: for a step of which nothing learns from a later
one that is the same, and autograd records one step, however long the sequence is. Pieces of `PIECE` steps bound what
is kept besides. Of memories see `slots`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.loops import Given, Loop, loop_of
from r2d2c.lower.entries import AdvanceBuilder, Computed, Entries, Stores, computed, run_each, sources_of
from r2d2c.lower.independent import BATCH, free_carries, independent, of_samples
from r2d2c.lower.parts import Part, Source, build_part
from r2d2c.lower.readout import Readout, at_first, split_readouts
from r2d2c.lower.slots import Memory, Rep, memories_of
from r2d2c.lower.tidy import Tidy, quick_ops, tidied

if TYPE_CHECKING:
    from r2d2c.lower.builder import FxBuilder
    from r2d2c.lower.loops import LoopCall

Tensors = tuple[Any, ...]
# How many steps are computed at once, at the most.
PIECE = 256
# Whether loops run in phases where they may, and memories by entries. Without it a loop runs as it is defined.
ENABLED = True


class Result(NamedTuple):
    """Where something that a loop gives comes from: ``next``, a carry after a step, or ``out``, of the second phase.

    samples: whether it has an axis of them.
    """

    kind: str
    number: int
    samples: bool = True


@dataclass(frozen=True, slots=True)
class Advance:
    """Going on by a step: the carries ``kept``, what is written, and more; ``live``: what is kept of slots."""

    tidy: Tidy
    live: tuple[Computed | None, ...]


@dataclass(frozen=True, slots=True)
class Phases:
    """How a loop runs in phases.

    carries: a step of the carries alone. whole: all of it, for where nothing learns; None without a memory. finish: what
    else the loop gives, which may need the last step alone. sizes: the names of the sizes that come last among the loop's
    inputs.
    """

    carries: Advance
    whole: Advance | None
    finish: Part | None
    results: tuple[Result, ...]
    kept: tuple[int, ...]
    stores: Stores
    last_only: bool
    sizes: tuple[Any, ...]

    @property
    def ready(self) -> bool:
        """Whether this is the better way now."""
        return ENABLED and (torch.is_grad_enabled() or self.whole is not None)

    def run(self, call: LoopCall, trips: int, inputs: Tensors) -> Tensors:
        """What the loop gives. ``inputs`` are those of the loop."""
        count = len(inputs) - len(self.sizes)
        sizes = dict(zip(self.sizes, inputs[count:], strict=True))
        return _Run(self, call, trips, inputs[:count], sizes).all()


class _Run:
    """One run of a loop."""

    def __init__(
        self, phases: Phases, call: LoopCall, trips: int, inputs: Tensors, sizes: Mapping[Any, int]
    ) -> None:
        first = len(call.loop.carries)
        after = first + call.loop.sequences
        self.phases, self.call, self.trips, self.sizes = phases, call, trips, sizes
        self.carries: list[Any] = list(inputs[:first])
        self.sequences, self.rest = inputs[first:after], inputs[after:]
        self.every: list[list[Any]] = [[] for _ in phases.results]
        # Without a gradient one phase does all.
        self.at_once = phases.whole is not None and not torch.is_grad_enabled()
        self.stepped: list[Tensors] = []

    def all(self) -> Tensors:
        trips = self.trips
        for first in range(0, trips, PIECE):
            self._piece(first, min(PIECE, trips - first))
        gives = zip(self.call.loop.gives, self.phases.results, strict=True)
        return tuple(self._whole(k, given, result) for k, (given, result) in enumerate(gives))

    def _piece(self, first: int, count: int) -> None:
        phases, gives = self.phases, self.call.loop.gives
        with torch.no_grad():
            entries = [Entries(memory, self.carries) for memory in phases.stores.memories]
            history = self._advance(first, count, entries)
        for position, result in enumerate(phases.results):
            if result.kind == "next" and gives[position].kind == "steps":
                self.every[position] += history[result.number][1:]
        if phases.finish is None:
            return
        if self.at_once:
            found = tuple(map(_stack, zip(*self.stepped, strict=True)))
        elif not phases.last_only:
            found = self._finish(history, entries, first, count)
        elif first + count == self.trips:
            found = self._finish([h[-2:] for h in history], entries, first + count - 1, 1)
            count = 1
        else:
            return
        for position, result in enumerate(phases.results):
            if result.kind == "out":
                value = found[result.number]
                self.every[position].append(
                    value if self.at_once else _apart(value, count, result.samples)
                )

    # -- the carries
    def _advance(self, first: int, count: int, entries: Sequence[Entries]) -> list[list[Any]]:
        """Go on by some steps: every carry before the first of them and after each."""
        phases = self.phases
        way = phases.whole if self.at_once and phases.whole is not None else phases.carries
        advance = way.tidy.part
        self.stepped = []
        history = [[carry] for carry in self.carries]
        elements = {
            k: self._narrowed(k, first, count).unbind(0) for kind, k in advance.sources if kind == "element"
        }
        slots = self._slots(entries, way.live)
        arguments: list[Any] = [
            self.rest[s.number] if s.kind in ("rest", "same") else slots.get(s) for s in advance.sources
        ]
        changing = [
            (place, kind, k)
            for place, (kind, k) in enumerate(advance.sources)
            if kind in ("carry", "element")
        ]
        carries = self.carries
        for place, kind, k in changing:
            arguments[place] = carries[k] if kind == "carry" else elements[k][0]
        last: list[Any] = [self.sizes[name] for name in advance.sizes]
        last += way.tidy.before(*arguments, *last)
        buffers = {value.untyped_storage().data_ptr() for s, value in slots.items() if s.kind.endswith("buffer")}
        views: list[int] = []
        for number in range(count):
            for place, kind, k in changing:
                arguments[place] = carries[k] if kind == "carry" else elements[k][number]
            outputs = advance(*arguments, *last)
            if buffers:
                if not number:
                    views = [k for k, v in enumerate(outputs) if _in(v, buffers)]
                if views:
                    outputs = tuple(v.clone() if k in views else v for k, v in enumerate(outputs))
            for k, value in zip(phases.kept, outputs, strict=False):
                carries[k] = value
                history[k].append(value)
            place = len(phases.kept)
            for each in entries:
                place += each.add(outputs[place:])
            if self.at_once:
                self.stepped.append(outputs[place:])
        for each in entries:
            for k in each.memory.unread:
                carries[k] = each.after(k)
        return history

    def _slots(
        self, entries: Sequence[Entries], lives: Sequence[Computed | None]
    ) -> dict[Source, Any]:
        """What is kept of the slots, before the first step."""
        stores = self.phases.stores
        found: dict[Source, Any] = {}
        for k, (each, live) in enumerate(zip(entries, lives, strict=True)):
            found[Source("base", k)], found[Source("bin", k)] = each.base, each.bin
            if live is None:
                continue
            starts = {field: value.flatten(0, 1) for field, value in each.starts.items()}
            values = run_each(live.part, starts, self.rest, self.sizes)
            for (number, rep), value in zip(live.reps, values, strict=True):
                readout = number - stores.count
                if readout >= 0:
                    weights = stores.readouts[readout].weights(self.rest[stores.weights[readout]])
                    products = at_first(weights, value).flatten(0, 1)
                    buffer, view = each.buffer(products)
                    found[Source("weights", readout)] = weights.contiguous()
                    found[Source("product_buffer", readout)] = buffer
                    found[Source("products", readout)] = each.by_slot(view)
                else:
                    buffer, view = each.buffer(value)
                    found[Source("buffer", number)] = buffer
                    found[Source("slots", number)] = view if rep.field is None else each.by_slot(view)
        return found

    def _narrowed(self, number: int, first: int, count: int) -> Any:
        """Some steps of a sequence, the steps first."""
        x, axis = self.sequences[number], self.call.axes[number]
        if x.shape[axis] != self.trips:
            name = self.call.loop.name
            raise ValueError(
                f"the loop `{name}` takes {self.trips} steps, and a sequence has {x.shape[axis]}"
            )
        return x.narrow(axis, first, count).movedim(axis, 0)

    # -- the rest
    def _finish(
        self, history: Sequence[Sequence[Any]], entries: Sequence[Entries], first: int, count: int
    ) -> Tensors:
        finish = self.phases.finish
        assert finish is not None
        slots = self._computed(entries, count)
        arguments = []
        for kind, k in finish.sources:
            if kind == "carry":
                arguments.append(_together(history[k][:count]))
            elif kind == "next":
                arguments.append(_together(history[k][1:]))
            elif kind == "element":
                arguments.append(self._narrowed(k, first, count).flatten(0, 1))
            elif kind in ("slots", "readout"):
                arguments.append(slots[Source(kind, k)])
            elif kind in ("index", "when"):
                chosen = entries[k].index if kind == "index" else entries[k].when
                arguments.append(_together(chosen[-count:]))
            elif kind == "same" and count > 1:
                x = self.rest[k]
                arguments.append(x.expand(count, *x.shape).flatten(0, 1))
            else:
                arguments.append(self.rest[k])
        sizes = [self.sizes[name] * (count if name == BATCH else 1) for name in finish.sizes]
        return finish(*arguments, *sizes)

    def _computed(self, entries: Sequence[Entries], count: int) -> dict[Source, Any]:
        """What is read of the slots after each of the last ``count`` steps."""
        stores = self.phases.stores
        found: dict[Source, Any] = {}
        for each, made in zip(entries, stores.each, strict=True):
            if made is None:
                continue
            fields = {s.number: each.field(s.number) for s in made.part.sources if s.kind == "entry"}
            for (number, rep), value in zip(
                made.reps, run_each(made.part, fields, self.rest, self.sizes), strict=True
            ):
                readout = number - stores.count
                if readout >= 0:
                    weight = self.rest[stores.weights[readout]]
                    sums = each.sums(stores.readouts[readout], value, weight, count)
                    found[Source("readout", readout)] = sums
                    continue
                slots = each.slots_of(value, count)
                found[Source("slots", number)] = (
                    slots if rep.field is None else slots.unflatten(0, (-1, each.slots))
                )
        return found

    def _whole(self, position: int, given: Given, result: Result) -> Any:
        """What the loop gives, from its pieces."""
        every = self.every[position]
        if result.kind == "next":
            if given.kind == "last":
                return self.carries[result.number]
            return self.call.stack(given, every, position)
        if given.kind == "last":
            return every[-1][-1]
        whole = every[0] if len(every) == 1 else torch.cat(every)
        return whole.movedim(0, self.call.stacks[position])


def _together(values: Sequence[Any]) -> Any:
    """Steps of samples as one batch, the steps outermost."""
    return values[0] if len(values) == 1 else torch.cat(list(values))


def _in(value: Any, buffers: set[int]) -> bool:
    return isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in buffers


def _stack(values: Sequence[Any]) -> torch.Tensor:
    return torch.stack([v if isinstance(v, torch.Tensor) else torch.tensor(v) for v in values])


def _apart(value: Any, count: int, samples: bool) -> Any:
    """``[count·B, …]`` as ``[count, B, …]``; what has no samples is the same at every step."""
    if not isinstance(value, torch.Tensor):
        value = torch.tensor(value)
    return value.unflatten(0, (count, -1)) if samples else value.expand(count, *value.shape)


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
        kind, number = ("carry", k) if k < first else ("element", k - first) if k < after else (rest, k - after)
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
            self.builder(False), self.step, self.memories, self.readouts, self.given, self.nexts, ages, self.kept
        )
        tidy = tidied(made.run(f"{self.loop.name} {name}", more))
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
