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

from r2d2c.graph import Graph, Node, Value
from r2d2c.loops import Given, loop_of
from r2d2c.lower.entries import AdvanceBuilder, Entries, Stores, computed, run_each, sources_of
from r2d2c.lower.independent import BATCH, free_carries, independent, of_samples
from r2d2c.lower.parts import Part, Source, build_part
from r2d2c.lower.readout import at_first, split_readouts
from r2d2c.lower.slots import Rep, memories_of
from r2d2c.lower.tidy import Tidy, quick_ops, tidied

if TYPE_CHECKING:
    from r2d2c.lower.builder import FxBuilder
    from r2d2c.lower.loops import LoopCall

Tensors = tuple[Any, ...]
# How many steps are computed at once.
PIECE = 64
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
class Phases:
    """How a loop runs in phases.

    advance: the carries ``kept`` after a step, and what it writes. finish: what else the loop gives, which may need the
    last step alone. sizes: the names of the sizes that come last among the loop's inputs.
    """

    advance: Tidy
    finish: Part | None
    results: tuple[Result, ...]
    kept: tuple[int, ...]
    stores: Stores
    last_only: bool
    sizes: tuple[Any, ...]

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
        last = first + count == self.trips
        if phases.finish is None or (phases.last_only and not last):
            return
        if phases.last_only:
            history, first, count = [h[-2:] for h in history], first + count - 1, 1
        found = self._finish(history, entries, first, count)
        for position, result in enumerate(phases.results):
            if result.kind == "out":
                self.every[position].append(_apart(found[result.number], count, result.samples))

    # -- the carries
    def _advance(self, first: int, count: int, entries: Sequence[Entries]) -> list[list[Any]]:
        """Go on by some steps: every carry before the first of them and after each."""
        phases, advance = self.phases, self.phases.advance.part
        history = [[carry] for carry in self.carries]
        elements = {
            k: self._narrowed(k, first, count).unbind(0) for kind, k in advance.sources if kind == "element"
        }
        slots = self._slots(entries)
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
        last += phases.advance.before(*arguments, *last)
        buffers = {value.untyped_storage().data_ptr() for s, value in slots.items() if s.kind == "buffer"}
        views: list[int] = []
        for number in range(count):
            for place, kind, k in changing:
                arguments[place] = carries[k] if kind == "carry" else elements[k][number]
            outputs = advance(*arguments, *last)
            if buffers:
                if not number:
                    views = [k for k, v in enumerate(outputs) if v.untyped_storage().data_ptr() in buffers]
                if views:
                    outputs = tuple(v.clone() if k in views else v for k, v in enumerate(outputs))
            for k, value in zip(phases.kept, outputs, strict=False):
                carries[k] = value
                history[k].append(value)
            place = len(phases.kept)
            for each in entries:
                place += each.add(outputs[place:])
        for each in entries:
            for k in each.memory.unread:
                carries[k] = each.after(k)
        return history

    def _slots(self, entries: Sequence[Entries]) -> dict[Source, Any]:
        """What carries need of the slots, before the first step."""
        stores = self.phases.stores
        found: dict[Source, Any] = {}
        for k, (each, live) in enumerate(zip(entries, stores.live, strict=True)):
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
            found[Source("base", k)], found[Source("bin", k)] = each.base, each.bin
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
    b = new(graph)
    b.quick = quick_ops(step, loop, learning=False)
    ages = {step.outputs[store.age].value for store in loop.memories}
    advance = AdvanceBuilder(b, step, memories, readouts, given, nexts, ages)
    carries = tidied(advance.run(f"{loop.name} carries"))

    known = {value: Source("next", k) for k, value in enumerate(nexts) if k in advance.kept and k in free}
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
    b = new(graph)
    b.quick = quick_ops(step, loop, learning=True)
    finish = build_part(b, f"{loop.name} steps", step, wanted, known) if wanted else None
    used = finish.sources if finish is not None else ()
    live, each, number = [], [], 0
    count = sum(len(memory.reps) for memory in memories)
    for k, memory in enumerate(memories):
        sums = [(count + n, r) for n, r in enumerate(readouts) if r.memory == k]
        numbered = [(number + n, rep) for n, rep in enumerate(memory.reps)]
        number += len(numbered)
        reps = [*advance.live[k], *((n, Rep(r.source)) for n, r in sums if r in advance.read)]
        live.append(computed(new(graph), f"{loop.name} slots", step, memory, reps, given))
        reps = [(n, rep) for n, rep in numbered if Source("slots", n) in used]
        reps += [(n, Rep(r.source)) for n, r in sums if Source("readout", n - count) in used]
        each.append(computed(new(graph), f"{loop.name} entries", step, memory, reps, given))
    weights = tuple(given[readout.weight].number for readout in readouts)
    stores = Stores(memories, readouts, tuple(live), tuple(each), count, weights)
    for part in (carries.part, finish, *stores.parts()):
        for name in part.sizes if part is not None else ():
            whole.argument(name)
    last_only = all(g.kind == "last" for g, r in zip(loop.gives, results, strict=True) if r.kind == "out")
    return Phases(carries, finish, tuple(results), advance.kept, stores, last_only, tuple(whole.wanted))
