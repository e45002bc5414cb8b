"""Running a loop in its phases. See `phases`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd import forward_ad

from r2d2c.loops import Given
from r2d2c.lower.entries import Computed, Entries, Stores, run_each
from r2d2c.lower.independent import BATCH
from r2d2c.lower.parts import Part, Source
from r2d2c.lower.readout import at_first
from r2d2c.lower.tidy import Tidy

if TYPE_CHECKING:
    from r2d2c.lower.loops import LoopCall

Tensors = tuple[Any, ...]
# How many steps are computed at once, at the most.
PIECE = 256
# Whether loops run in phases where they may, and memories by entries. Without it a loop runs as it is defined.
ENABLED = True


def _transformed() -> bool:
    """Whether this runs inside of a transform of `torch.func`."""
    return torch._C._functorch.peek_interpreter_stack() is not None


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
        """Whether this is the better way now. It is not for what follows values otherwise than by a backward."""
        if not ENABLED or not (torch.is_grad_enabled() or self.whole is not None):
            return False
        return not (_transformed() or torch.compiler.is_compiling() or forward_ad._current_level >= 0)

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
                self.every[position].append(value if self.at_once else _apart(value, count, result.samples))

    # -- the carries
    def _advance(self, first: int, count: int, entries: Sequence[Entries]) -> list[list[Any]]:
        """Go on by some steps: every carry before the first of them and after each."""
        phases = self.phases
        way = phases.whole if self.at_once and phases.whole is not None else phases.carries
        advance = way.tidy.part
        self.stepped = []
        history = [[carry] for carry in self.carries]
        narrowed = {k: self._narrowed(k, first, count) for kind, k in advance.sources if kind == "element"}
        elements = {k: x.unbind(0) for k, x in narrowed.items()}
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
        fixed = way.tidy.before(*arguments, *last)
        early = self._ahead(way.tidy, arguments, narrowed, fixed, count)
        last += fixed
        buffers = {
            value.untyped_storage().data_ptr() for s, value in slots.items() if s.kind.endswith("buffer")
        }
        views: list[int] = []
        for number in range(count):
            for place, kind, k in changing:
                arguments[place] = carries[k] if kind == "carry" else elements[k][number]
            outputs = advance(*arguments, *last, *(value[number] for value in early))
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
        for k in way.tidy.counters:  # not a view of those of all steps
            carries[k] = carries[k].clone()
        for each in entries:
            for k in each.memory.unread:
                carries[k] = each.after(k)
        return history

    def _ahead(
        self, tidy: Tidy, arguments: Sequence[Any], narrowed: Mapping[int, Any], fixed: Tensors, count: int
    ) -> list[Tensors]:
        """What is computed for all steps at once, by step."""
        whole = list(arguments)
        for place, (kind, k) in enumerate(tidy.part.sources):
            if kind == "element":
                whole[place] = narrowed[k].flatten(0, 1)
            elif kind == "carry" and k in tidy.counters:
                start = self.carries[k]
                steps = torch.arange(count, device=start.device) * tidy.counters[k]
                whole[place] = (steps.reshape(-1, *[1] * start.dim()) + start).flatten(0, 1)
        sizes = [self.sizes[name] for name in tidy.ahead.sizes]
        found = tidy.ahead(*whole, *sizes, *fixed)
        return [value.unflatten(0, (count, len(value) // count)).unbind(0) for value in found]

    def _slots(self, entries: Sequence[Entries], lives: Sequence[Computed | None]) -> dict[Source, Any]:
        """What is kept of the slots, before the first step."""
        stores = self.phases.stores
        found: dict[Source, Any] = {}
        for k, (each, live) in enumerate(zip(entries, lives, strict=True)):
            found[Source("base", k)], found[Source("bin", k)] = each.base, each.bin
            if each.memory.scores is not None:
                found[Source("score_buffer", k)], found[Source("scores", k)] = each.scores(self.carries)
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
