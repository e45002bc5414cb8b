"""What a round of growth does to an op graph: which ops are merged, pruned, split and added, by what they are worth.

Nothing of a model is changed here. What read-outs have to make up for comes out as `Fit`s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from r2d2c.formulas import evaluate, reads
from r2d2c.growth import Growing, OpGraph
from r2d2c.mutate import Limits, mutate
from r2d2c.mutate_checks import Readers, downstream
from r2d2c.mutate_checks import evaluate as evaluate_kind
from r2d2c.mutation_choice import Bias, Draw, additions, prunes
from r2d2c.mutations import Add, Mutation, Prune, Split
from r2d2c.op_places import columns_of, lengths, wired
from r2d2c.opgraph import NUMBER, Ints, Topology, depths, used
from r2d2c.train.growth_pairs import merges
from r2d2c.train.growth_scores import Seen, scores, sound, useful, worth_of_finite
from r2d2c.train.growth_surgeon import Surgeon


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What is added to a read-out before ops go. weight: f64[outputs, columns]; bias: f64[outputs]."""

    weight: Ints
    bias: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The mutations of a round, what the ops that are pruned were worth, and a fit for each read-out, if any changes."""

    mutations: list[Mutation] = field(default_factory=list)
    worth: Mapping[str, float] = field(default_factory=dict)
    fits: tuple[Fit, ...] = ()


def choose(
    graph: OpGraph,
    growing: Growing,
    before: Topology,
    seen: Seen,
    readouts: Sequence[Ints],
    random: np.random.Generator,
    *,
    at: int,
    frozen: frozenset[str] = frozenset(),
    settling: bool = False,
    luck: Ints | None = None,
    points: Ints | None = None,
) -> Chosen:
    """The mutations of the round number `at`: merges, prunes, splits, additions.

    readouts: f64[outputs, columns], of each of the graph's readers. random: what is drawn comes from it. settling:
    nothing is split or added. luck: f64[capacity], what ops are worth is multiplied with it. points: f64[inputs, 3],
    where the input columns are, if the op graph has places. Raises `MutationError` (`nan`) for what is worth no number.
    """
    copies = [np.array(one) for one in readouts]
    round_ = _Round(graph, growing, before, seen, copies, at, frozen, luck, points)
    round_.merge(growing.merge)
    round_.prune(growing.prune)
    if not settling:
        round_.split(growing.split, random)
        round_.add(growing.add, random)
    return Chosen(round_.done, round_.worth, round_.fits())


def bias_of(
    growing: Growing | None,
    seen: Seen,
    topology: Topology,
    points: Ints | None = None,
) -> Bias:
    """What new ops of a round lean to, and what they may read. points: as for `choose`."""
    # A column that is the same for every sample has nothing to give; a node that goes is not read anyway.
    usable = seen.varies
    prefer = "any" if growing is None else growing.prefer
    strength = seen.strength if prefer == "gradient" else None
    if prefer == "shallow":
        strength = shallow(topology, usable)
    places = None if points is None else columns_of(topology, points)
    if growing is None or points is None:
        return Bias(usable, strength, places)
    reach = growing.reach if prefer == "near" else None
    return Bias(usable, strength, places, reach, growing.wire)


def is_copy(new: Add) -> bool:
    """Whether an op only gives what it reads, as max(a, a) does."""
    if len(new.args) < 2 or len(set(new.args)) > 1:
        return False
    value = np.linspace(-3.0, 3.0, 64)
    return bool(np.array_equal(evaluate_kind(new.kind, [value] * len(new.args)), value))


def shallow(topology: Topology, usable: Ints) -> Ints:
    """f64[columns]: how probable a column is, where every depth is as probable as any other; inputs are at depth 0."""
    depth = np.concatenate([np.zeros(topology.inputs, np.int32), depths(topology)])
    there = usable & np.concatenate([np.ones(topology.inputs, bool), topology.live])
    many = np.bincount(depth[there], minlength=int(depth.max(initial=0)) + 1)
    found: Ints = np.where(there, 1 / np.maximum(many[depth], 1), 0.0)
    return found


def choose_start(
    graph: OpGraph,
    growing: Growing,
    before: Topology,
    seen: Seen,
    random: np.random.Generator,
    points: Ints | None = None,
) -> list[Mutation]:
    """What replaces random first ops that are of no use on the data, with all that depends on them, by others."""
    useless = before.live & ~useful(seen.columns[:, before.inputs :])
    round_ = _Round(graph, growing, before, seen, [], 0, frozenset(), None, points)
    readers, gone = Readers(before.args, before.inputs), set[int]()
    steps: list[Mutation] = []
    for row in np.flatnonzero(useless).tolist():
        name = before.names[row]
        if row in gone or name in graph.names or name in growing.frozen:
            continue
        # What reads a node that is gone is gone too, so a way to any other leads through none that is.
        more = set(readers.downstream(row)) - gone
        if len(gone) + len(more) < before.count:
            gone |= more
            steps.append(Prune(str(name), dependents=True))
    round_.do(*steps)
    round_.add(before.count - round_.topology.count, random)
    return round_.done


class _Round:
    """An op graph while a round is chosen: what it has become so far, and its read-outs."""

    def __init__(
        self,
        graph: OpGraph,
        growing: Growing,
        before: Topology,
        seen: Seen,
        readouts: list[Ints],
        at: int,
        frozen: frozenset[str],
        luck: Ints | None,
        points: Ints | None,
    ) -> None:
        self.graph, self.growing, self.topology, self.seen = graph, growing, before, seen
        self.readouts, self.at, self.frozen, self.luck = readouts, at, frozen, luck
        self.points = points
        self.worth: dict[str, float] = {}
        self.done: list[Mutation] = []
        self.weights = [np.zeros_like(one) for one in readouts]
        self.biases = [np.zeros(len(one)) for one in readouts]
        self.fitted = False

    def do(self, *mutations: Mutation) -> None:
        if mutations:
            made = mutate(self.topology, mutations, at=self.at, frozen=self.frozen)
            self.topology, self.seen = made.topology, self.seen.moved(made.change)
            self.done += mutations

    def fits(self) -> tuple[Fit, ...]:
        if not self.fitted:
            return ()
        return tuple(Fit(weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True))

    # -- merging
    def merge(self, count: int) -> None:
        count = min(count, self.topology.count - 1)
        if count < 1:
            return
        shifts = all(reader.bias is not None for reader in self.graph.readers)
        found = merges(
            self.topology,
            self.seen.columns,
            count,
            frozen=self.frozen,
            shifts=shifts,
            limits=Limits(depth=self.growing.depth),
            fits=self.stays_wired,
        )
        rows, inputs = self.topology.rows, self.topology.inputs
        for step, shift in found:
            row, gone = inputs + rows[step.name], inputs + rows[step.gone]
            for readout, bias in zip(self.readouts, self.biases, strict=True):
                readout[:, row] += step.scale * readout[:, gone]
                bias += shift * readout[:, gone]
                readout[:, gone] = 0
            self.fitted |= shift != 0
        self.do(*(step for step, _ in found))

    def stays_wired(self, made: Topology) -> bool:
        """Whether what ops read in `made` is as `wire` wants it, where it is now."""
        wire, points = self.growing.wire, self.points
        if wire is None or points is None:
            return True
        return bool((wired(made, points, wire) | ~wired(self.topology, points, wire)).all())

    # -- pruning
    def prune(self, count: int) -> None:
        count = min(count, self.topology.count - 1)
        if count < 1:
            return
        growing = self.growing
        if not growing.compensate and "saliency" not in reads(growing.by):
            marks = self.marks(None)
            gone = self.prunes(marks, count)
            rows = self.topology.rows
            self.worth = {prune.name: float(marks[rows[prune.name]]) for prune in gone}
            self.do(*gone)
            return
        # One at a time, as every one that goes changes what others are worth.
        kept = np.concatenate([np.ones(self.topology.inputs, bool), self.topology.live])
        surgeon = Surgeon(self.seen.columns, kept)
        while count > 0:
            marks = self.marks(surgeon)
            least = self.prunes(marks, count, -depths(self.topology))[:1]
            if not least:
                return
            (step,) = least
            row = self.topology.rows[step.name]
            rows_gone = downstream(self.topology.args, self.topology.inputs, [row])
            self.worth[step.name] = float(marks[row])
            for one in rows_gone:
                self.make_up(self.topology.inputs + one, surgeon)
            self.do(step)
            count -= len(rows_gone)

    def prunes(self, marks: Ints, count: int, ties: Ints | None = None) -> list[Prune]:
        return prunes(
            self.topology,
            marks,
            count,
            leaves=not self.growing.whole,
            frozen=self.frozen,
            below=self.growing.below,
            ties=ties,
        )

    def marks(self, surgeon: Surgeon | None) -> Ints:
        """f64[capacity], what each op is worth just now."""
        by = self.growing.by
        found = scores(self.topology, self.seen, self.readouts, self.at, wanted=reads(by), surgeon=surgeon)
        if self.points is not None:
            found["length"] = lengths(self.topology, self.points)
        marks = evaluate(by, found)
        return worth_of_finite(marks if self.luck is None else marks * self.luck, self.seen, self.topology)

    def make_up(self, column: int, surgeon: Surgeon) -> None:
        """Take a column away, and let the others make up for it if they should."""
        surgeon.drop(column)
        fits: dict[bool, tuple[Ints, float]] = {}
        for number, (reader, readout) in enumerate(zip(self.graph.readers, self.readouts, strict=True)):
            if self.growing.compensate and readout[:, column].any():
                constant = reader.bias is not None
                if constant not in fits:
                    fits[constant] = surgeon.explain(column, constant=constant)
                parts, level = fits[constant]
                change = np.outer(readout[:, column], parts)
                readout += change
                self.weights[number] += change
                self.biases[number] += readout[:, column] * level
                self.fitted = True
            readout[:, column] = 0

    # -- adding
    def add(self, count: int, random: np.random.Generator) -> None:
        """Add random ops. With `shallow` in two halves, of which the second may read the first."""
        limits, growing = Limits(depth=self.growing.depth), self.growing
        first = (count + 1) // 2 if growing.prefer == "shallow" else count
        for many in (first, count - first):
            if many:
                bias = bias_of(growing, self.seen, self.topology, self.points)
                draw = Draw(kinds=self.graph.kinds, bias=bias)
                found = additions(self.topology, many, random, draw, limits=limits, accept=self.accepts())
                self.do(*found)
                self.seen = self.seen.joined(found, self.topology)

    def accepts(self) -> Callable[[Add], bool]:
        """Tells whether a new op is neither a copy nor without a use."""
        is_sound = sound(self.seen, self.topology)
        return lambda new: not is_copy(new) and is_sound(new)

    # -- splitting
    def split(self, count: int, random: np.random.Generator) -> None:
        """Split those that are worth most, of those with a number of their own."""
        topology = self.topology
        count = min(count, topology.capacity - topology.count)
        if count < 1:
            return
        own = (used(topology) & (topology.args == NUMBER)).any(1)
        held = np.array([name in self.frozen for name in topology.names])
        most = self.growing.depth
        fits = topology.live if most is None else depths(topology) <= most
        rows = np.flatnonzero(own & fits & ~held)
        if not len(rows):
            return
        marks = self.marks(None)
        steps = []
        for number, row in enumerate(rows[np.argsort(-marks[rows], kind="stable")][:count].tolist()):
            readers = np.flatnonzero((topology.args == topology.inputs + row).any(1) & ~held)
            moved = readers[random.random(len(readers)) < 0.5]
            names = tuple(str(topology.names[reader]) for reader in moved)
            steps.append(Split(str(topology.names[row]), f"n{topology.next + number}", names))
        self.do(*steps)
