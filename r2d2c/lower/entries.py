"""Running a loop with memories in phases: what is kept of the slots while the carries go from step to step.

See `slots` for what an entry is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.fx as fx

from r2d2c.graph import Region, Value
from r2d2c.loops import NEVER
from r2d2c.lower.independent import BATCH, slice_of
from r2d2c.lower.parts import Part, Source
from r2d2c.lower.readout import Readout, at_first, over_steps, pick
from r2d2c.lower.slots import AS_SAMPLES, Memory, Rep, by_sample, fresh_of, lower_each
from r2d2c.lower.tidy import quick_choice

if TYPE_CHECKING:
    from r2d2c.lower.builder import FxBuilder

Tensors = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Computed:
    """What entries are computed to: a function, and the reps that it gives, with their numbers in the loop."""

    part: Part
    reps: tuple[tuple[int, Rep], ...]


@dataclass(frozen=True, slots=True)
class Stores:
    """The memories of a loop that runs in phases, and what is read of the slots of each for learning.

    The first ``count`` reps are values of slots, the others those of ``readouts``, whose ``weights`` are in the rest.
    """

    memories: tuple[Memory, ...]
    readouts: tuple[Readout, ...]
    each: tuple[Computed | None, ...]
    count: int
    weights: tuple[int, ...]


def sources_of(memories: Sequence[Memory], readouts: Sequence[Readout]) -> dict[Value, Source]:
    """What the second phase is given besides carries and sequences."""
    found = {readout.value: Source("readout", k) for k, readout in enumerate(readouts)}
    number = 0
    for k, memory in enumerate(memories):
        found[memory.index] = Source("index", k)
        if memory.when is not None:
            found[memory.when] = Source("when", k)
        for rep in memory.reps:
            found[rep.value] = Source("slots", number)
            number += 1
    return found


class AdvanceBuilder:
    """The carries after a step, with memories whose slots are kept in place.

    The part gives back the carries ``kept``, of every memory the slot that is written, whether, and the entry; then what
    is ``wanted`` besides.
    """

    def __init__(
        self,
        b: FxBuilder,
        step: Region,
        memories: Sequence[Memory],
        readouts: Sequence[Readout],
        given: Mapping[Value, Source],
        nexts: Sequence[Value],
        ages: Collection[Value],
        kept: tuple[int, ...],
    ) -> None:
        self.b, self.step, self.memories, self.given, self.nexts = b, step, memories, given, nexts
        self.readouts = readouts
        self.kept = kept
        self.home = {rep.value: k for k, memory in enumerate(memories) for rep in memory.reps}
        self.home |= {readout.value: readout.memory for readout in readouts}
        self.fresh = fresh_of(step, memories, ages)
        self.home |= {value: number for value, (number, _) in self.fresh.items()}
        b.quick = {**b.quick, **{m.index.node: quick_choice for m in memories if m.scores is not None}}
        self.written: set[int] = set()
        self.done: set[str] = set()

    def entry(self, memory: Memory) -> list[Value]:
        """What a step says of a memory."""
        when = [] if memory.when is None else [memory.when]
        return [memory.index, *when, *(memory.write(k).value for k in memory.fields)]

    def run(self, name: str, more: Sequence[Value] = ()) -> Part:
        """The part. ``more``: what is wanted besides."""
        b, step, given = self.b, self.step, self.given
        wanted = [self.nexts[k] for k in self.kept]
        for memory in self.memories:
            wanted += self.entry(memory)
        wanted += more
        read = set(slice_of(step, wanted, {*given, *self.home})[1])
        self.read = [readout for readout in self.readouts if readout.value in read]
        self.new = {value: found for value, found in self.fresh.items() if value in read}
        inside: set[Value] = set()
        self.live: list[list[tuple[int, Rep]]] = []
        number = 0
        for k, memory in enumerate(self.memories):
            reps = [(number + n, rep) for n, rep in enumerate(memory.reps) if rep.value in read]
            self.live.append(reps)
            number += len(memory.reps)
            inside.update(fixed_of(step, memory, self._computed(k), given))
        names = {port.value: port.name for port in step.inputs}
        scores = {step.inputs[m.scores.carry].value: k for k, m in enumerate(self.memories) if m.scores}
        sources: list[Source] = []
        for value in given:
            if value in read or value in inside:
                b.placeholder(names[value], value)
                sources.append(Source("scores", scores[value]) if value in scores else given[value])

        def placed(kind: str, place: int, value: Value | None = None) -> Any:
            sources.append(Source(kind, place))
            return b.placeholder(f"{kind}_{place}", value)

        self.views: dict[Value, Any] = {}
        self.buffers: dict[Value, Any] = {}
        self.places: dict[int, tuple[Any, Any]] = {}
        self.weights: dict[Value, Any] = {}
        self.scores: dict[int, Any] = {}
        for k, reps in enumerate(self.live):
            for place, rep in reps:
                self.views[rep.value] = placed("slots", place, rep.value)
                self.buffers[rep.value] = placed("buffer", place)
            if self._computed(k) or self.memories[k].scores:
                self.places[k] = placed("base", k), placed("bin", k)
            if self.memories[k].scores:
                self.scores[k] = placed("score_buffer", k)
        for place, readout in enumerate(self.readouts):
            if readout in self.read:
                self.views[readout.value] = placed("products", place)
                self.buffers[readout.value] = placed("product_buffer", place)
                self.weights[readout.value] = placed("weights", place)
        for value in self.views:  # what is read of slots is there once they are written
            b.env.pop(value, None)
        self._emit(wanted)
        for number in self.scores:
            self._write(number)
        b.fx.output(tuple(b.env[value] for value in wanted))
        self._types(given)
        return Part(name, b.fx, tuple(sources), tuple(b.wanted), tuple(wanted))

    def _types(self, given: Mapping[Value, Source]) -> None:
        """Say of nodes what types they have."""
        types = self.b.graph.types
        for node in self.b.fx.nodes:
            label = node.meta.get("r2d2c")
            if label is not None:
                node.meta["type"] = types.get(Value(label[0].id, label[1]))
        for value in given:
            node = self.b.env.get(value)
            if isinstance(node, fx.Node):
                node.meta["type"] = types.get(value)

    def _computed(self, number: int) -> list[Rep]:
        """What is computed of an entry of a memory, for itself and for sums over slots."""
        sources = [Rep(readout.source) for readout in self.read if readout.memory == number]
        new = [rep for k, rep in self.new.values() if k == number]
        return [*(rep for _, rep in self.live[number]), *sources, *new]

    def _emit(self, wanted: Sequence[Value]) -> None:
        nodes, read = slice_of(self.step, list(wanted), {*self.given, *self.home})
        for value in read:
            if value in self.home:
                self._write(self.home[value])
        for node in nodes:
            if node.id not in self.done:
                self.done.add(node.id)
                self.b.add(node)

    def _write(self, number: int) -> None:
        """Write a step's entry in its slot, and give what is read of the slots from here on."""
        if number in self.written:
            return
        self.written.add(number)
        b, memory, reps = self.b, self.memories[number], self._computed(number)
        self._emit(self.entry(memory))
        entries = {k: b.env[memory.write(k).value] for k in memory.fields}
        found = iter(lower_each(b, self.step, memory, reps, entries))
        base, last = self.places[number]
        index = b.env[memory.index]
        rows = b("torch.add", index, base)
        if memory.when is not None:
            rows = b("torch.where", b.env[memory.when], rows, last)
        for _, rep in self.live[number]:
            b.method("index_copy_", self.buffers[rep.value], 0, rows, next(found))
            b.env[rep.value] = self.views[rep.value]
        for readout in self.read:
            if readout.memory == number:
                weights = b("torch.index_select", self.weights[readout.value], 0, index)
                row = b("torch.unsqueeze", b("torch.flatten", next(found), 1), 1)
                product = b("torch.squeeze", b("torch.bmm", row, weights), 1)
                b.method("index_copy_", self.buffers[readout.value], 0, rows, product)
                b.env[readout.value] = b("torch.sum", self.views[readout.value], 1)
        for value, (k, _) in self.new.items():
            if k == number:
                b.env[value] = next(found)
        if memory.scores is not None:
            b.method("index_copy_", self.scores[number], 0, rows, entries[memory.scores.carry])


def fixed_of(step: Region, memory: Memory, reps: Sequence[Rep], given: Mapping[Value, Source]) -> list[Value]:
    """What is the same at every step and read where slots are computed."""
    wanted = [rep.value for rep in reps if rep.field is None]
    entries = {write.after for write in memory.writes}
    return [value for value in slice_of(step, wanted, {*given, *entries})[1] if value in given]


def computed(
    b: FxBuilder,
    name: str,
    step: Region,
    memory: Memory,
    numbered: Sequence[tuple[int, Rep]],
    given: Mapping[Value, Source],
) -> Computed | None:
    """What entries are computed to, as a function of their fields ``[N, …]``."""
    reps = [rep for _, rep in numbered]
    if not reps:
        return None
    fixed = set(fixed_of(step, memory, reps, given))
    names = {port.value: port.name for port in step.inputs}
    whole = b.graph
    b.graph = by_sample(whole, memory)
    used = _fields_of(step, memory, reps)
    rows = {node.inputs[0]: Value(node.id) for node in step.nodes if node.op == AS_SAMPLES}
    entries: dict[int, Any] = {}
    sources: list[Source] = []
    for write in memory.writes:
        if write.carry in used:
            entries[write.carry] = b.placeholder(names[step.inputs[write.carry].value], rows.get(write.after))
            sources.append(Source("entry", write.carry))
    for value, source in given.items():
        if value in fixed:
            b.placeholder(names[value], value)
            sources.append(source)
    found = lower_each(b, step, memory, reps, entries)
    b.fx.output(tuple(found))
    b.graph = whole
    part = Part(name, b.fx, tuple(sources), tuple(b.wanted), tuple(rep.value for rep in reps))
    return Computed(part, tuple(numbered))


def _fields_of(step: Region, memory: Memory, reps: Sequence[Rep]) -> set[int]:
    """The carries that some reps are made of."""
    carries = {write.after: write.carry for write in memory.writes}
    wanted = [rep.value for rep in reps if rep.field is None]
    read = slice_of(step, wanted, set(carries))[1]
    return {carries[value] for value in read} | {rep.field for rep in reps if rep.field is not None}


# -- running


class Entries:
    """The entries of a memory in some steps: K that its slots hold before, and one more a step.

    Of every field, ``[(K + n)·B, …]``, the samples innermost.
    """

    def __init__(self, memory: Memory, carries: Sequence[Any]) -> None:
        self.memory = memory
        self.starts: dict[int, torch.Tensor] = {k: carries[k] for k in memory.fields}
        first = next(iter(self.starts.values()))
        self.samples, self.slots = first.shape[:2]
        self.device = first.device
        self.base = torch.arange(self.samples, device=self.device) * self.slots
        self.bin = torch.full((), self.samples * self.slots, device=self.device)
        self.index: list[torch.Tensor] = []
        self.when: list[torch.Tensor] = []
        self.values: dict[int, list[torch.Tensor]] = {k: [] for k in memory.fields}
        self._fields: dict[int, torch.Tensor] = {}
        self._table: torch.Tensor | None = None
        self._rows: dict[int, torch.Tensor] = {}

    # -- while carries go from step to step
    def scores(self, carries: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """A place for that by which slots are chosen; what was never written comes first."""
        assert self.memory.scores is not None
        score, age = (carries[k] for k in self.memory.scores)
        buffer, view = self.buffer(score.masked_fill(age == NEVER, -torch.inf).flatten(0, 1))
        return buffer, self.by_slot(view)

    def buffer(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A place for ``[B·K, …]`` to be kept in, with one row more for what a sample does not write; and a view without."""
        count = self.samples * self.slots
        buffer = value.new_empty((count + 1, *value.shape[1:]))
        buffer[:count] = value
        return buffer, buffer[:count]

    def by_slot(self, rows: torch.Tensor) -> torch.Tensor:
        """``[B·K, …]`` as ``[B, K, …]``."""
        return rows.reshape(self.samples, self.slots, *rows.shape[1:])

    def add(self, outputs: Sequence[Any]) -> int:
        """Take what a step has written, at the start of ``outputs``; how many of them that were."""
        self.index.append(outputs[0])
        place = 1
        if self.memory.when is not None:
            self.when.append(outputs[1])
            place = 2
        for k in self.memory.fields:
            self.values[k].append(outputs[place])
            place += 1
        return place

    # -- then
    def field(self, carry: int) -> torch.Tensor:
        """A field of all entries."""
        if carry not in self._fields:
            start = self.starts[carry].transpose(0, 1).flatten(0, 1)
            self._fields[carry] = torch.cat([start, *self.values[carry]])
        return self._fields[carry]

    @property
    def table(self) -> torch.Tensor:
        """i64[n, B, K]: the entry that a slot holds after each step."""
        if self._table is None:
            count = len(self.index)
            places = torch.arange(self.slots, device=self.device).unsqueeze(1)
            numbers = torch.arange(self.slots, self.slots + count, device=self.device)
            chosen = torch.stack(self.index, 1).unsqueeze(1) == places
            if self.when:
                chosen &= torch.stack(self.when, 1).unsqueeze(1)
            # Along the last axis, where a running maximum is fast.
            self._table = torch.where(chosen, numbers, places).cummax(2).values.permute(2, 0, 1)
        return self._table

    def rows(self, count: int) -> torch.Tensor:
        """Where the entries after each of the last ``count`` steps stand in a field, by step, sample and slot."""
        if count not in self._rows:
            samples = torch.arange(self.samples, device=self.device)[:, None]
            table = self.last() if count == 1 else self.table[-count:]
            self._rows[count] = (table * self.samples + samples).flatten()
        return self._rows[count]

    def last(self) -> torch.Tensor:
        """i64[B, K]: the entry that a slot holds after all steps."""
        index = torch.stack(self.index, 1)
        numbers = torch.arange(self.slots, self.slots + len(self.index), device=self.device).expand_as(index)
        if self.when:
            numbers = torch.where(torch.stack(self.when, 1), numbers, 0)
        places = torch.arange(self.slots, device=self.device).expand(self.samples, -1)
        return places.scatter_reduce(1, index, numbers, "amax")

    def after(self, carry: int) -> torch.Tensor:
        """A field after the last step: ``[B, K, …]``."""
        return self.by_slot(pick(self.field(carry), self.rows(1)))

    def slots_of(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """What entries are computed to, as it is in all slots after each of the last ``count`` steps: ``[n·B·K, …]``."""
        return pick(values, self.rows(count))

    def sums(self, readout: Readout, values: torch.Tensor, weight: torch.Tensor, count: int) -> torch.Tensor:
        """Of what entries are computed to, a layer's sum over slots after each of the last ``count`` steps: ``[n·B, V]``."""
        weights = readout.weights(weight)
        if count < len(self.index):
            slots = at_first(weights, self.slots_of(values, count))
            return slots.sum(1)
        when = torch.stack(self.when) if self.when else None
        return over_steps(weights, values, torch.stack(self.index), when)


def run_each(
    part: Part, fields: Mapping[int, torch.Tensor], rest: Sequence[Any], sizes: Mapping[Any, int]
) -> list[torch.Tensor]:
    """Entries ``[N, …]`` as they are computed."""
    arguments = [fields[k] if kind == "entry" else rest[k] for kind, k in part.sources]
    number = len(next(iter(fields.values())))
    return list(part(*arguments, *(number if name == BATCH else sizes[name] for name in part.sizes)))
