"""Which mutations to make: random additions, the nodes that matter least, and the scores that say so.

All choices come from what is given and a generator made from a seed and the count of mutations so far, so a run that
goes on after a stop chooses the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from r2d2c.formulas import Formula
from r2d2c.mutate_checks import Readers, commutes, is_constant
from r2d2c.mutations import Add, Limits, Prune, refuse
from r2d2c.op_places import AXES, Space, above
from r2d2c.opgraph import KINDS, NUMBER, OP_KINDS, Ints, Topology, depths
from r2d2c.opkinds import kind_of

_TRIES = 20
_ADDABLE = tuple(kind.name for kind in OP_KINDS if kind.drawn)


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """What random additions lean to. All arrays have an entry (or row) per column: inputs, then node rows.

    usable: columns that may be read (a column that is always the same should not be). scores: columns are drawn in
    proportion to them, the size of their gradient, say. places: coordinates, f64[columns, 3]; the new node lies above
    the middle of what it reads (see `op_places`). reach: further arguments are drawn in proportion to
    exp(-d² / (2 reach²)) of their distance d to the first, and are other columns than that. wire: a formula of
    `places.QUANTITIES` that must hold from every column that a node reads to the node.
    """

    usable: Ints | None = None
    scores: Ints | None = None
    places: Ints | None = None
    reach: float | None = None
    wire: Formula | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """How new nodes are drawn. kinds: the ops. number: how probable it is that an argument is the node's own number.

    At least one argument is a column. Numbers start at ±0.5 to ±1.5: away from zero, where a product never learns.
    """

    kinds: tuple[str, ...] = _ADDABLE
    number: float = 0.25
    bias: Bias = field(default_factory=Bias)


def generator(seed: int, at: int) -> np.random.Generator:
    """The generator of the mutation number `at`: from its number alone, so nothing has to be kept."""
    return np.random.default_rng([seed, at])


def additions(
    topology: Topology,
    count: int,
    random: np.random.Generator,
    draw: Draw | None = None,
    *,
    limits: Limits | None = None,
    accept: Callable[[Add], bool] | None = None,
) -> list[Add]:
    """Random new nodes that read columns there are now; none is constant or computes what another one does.

    accept: what else is asked of one. Fewer than `count` where there is no room, a limit is reached, or 20 tries found
    nothing new. Raises `MutationError` (`nan`) for scores that are no numbers, and (`kind`) for unknown ops.
    """
    draw, limits = draw or Draw(), limits or Limits()
    for kind in draw.kinds:
        if kind not in KINDS:
            refuse("kind", f"there is no op `{kind}`", remedy=f"ops: {', '.join(KINDS)}")
    weights = _weights(topology, draw.bias, limits)
    space = _space(topology, draw.bias)
    room = topology.capacity - topology.count
    if limits.nodes is not None:
        room = min(room, limits.nodes - topology.count)
    found: list[Add] = []
    if not weights.any():
        return found
    total, known = np.cumsum(weights), _Known(topology)
    for _ in range(max(0, min(count, room))):
        for _ in range(_TRIES):
            kind = draw.kinds[random.integers(len(draw.kinds))]
            columns = _arguments(kind_of(KINDS[kind]).arity, weights, total, random, draw, space)
            if columns is None:
                continue
            new = Add(
                f"n{topology.next + len(found)}",
                kind,
                tuple(_start(random) if column == NUMBER else _name(topology, column) for column in columns),
                None if space is None else above(columns, space.places),
            )
            if is_constant(new) or (accept is not None and not accept(new)):
                continue
            if known.take(kind, columns):
                found.append(new)
                break
    return found


def _weights(topology: Topology, bias: Bias, limits: Limits) -> Ints:
    """f64[columns]: how probable it is that a column is read, up to a factor."""
    read = np.concatenate([np.ones(topology.inputs, bool), topology.live])
    if bias.usable is not None:
        read &= np.asarray(bias.usable, bool)
    if limits.depth is not None:
        read[topology.inputs :] &= depths(topology) < limits.depth
        read &= limits.depth > 0
    if bias.scores is None:
        return read.astype(np.float64)
    scores = np.asarray(bias.scores, np.float64)
    check_scores(scores, "scores of additions", read, topology)
    weights: Ints = np.where(read, scores, 0.0)
    if (weights < 0).any() or np.isinf(weights).any():
        refuse("range", "scores of additions must be finite and not negative")
    # By the largest, so that tiny or huge scores neither vanish nor overflow.
    return weights / weights.max() if weights.any() else weights


def _space(topology: Topology, bias: Bias) -> Space | None:
    if bias.places is None:
        return None
    places = np.asarray(bias.places, np.float64)
    if places.shape != (topology.columns, AXES):
        shape = f"places of columns have the shape {list(places.shape)}, not {[topology.columns, AXES]}"
        refuse("shape", shape)
    return Space(places, topology.inputs, bias.reach, bias.wire)


def _arguments(
    arity: int, weights: Ints, whole: Ints, random: np.random.Generator, draw: Draw, space: Space | None
) -> list[int] | None:
    """Columns, or NUMBER, for one op; at least one is a column. None where no further column fits the first.

    weights: f64[columns]; whole: their running sum.
    """
    own = random.random(arity) < draw.number
    own[random.integers(arity)] = False
    columns: list[int] = []
    chosen: list[int] = []
    reads = arity - int(own.sum())
    for is_own in own.tolist():
        if is_own:
            columns.append(NUMBER)
            continue
        left = weights if space is None else space.weights(weights, chosen, len(chosen) + 1 < reads)
        total = whole if left is weights else np.cumsum(left)
        if not total[-1] > 0:
            return None
        column = int(np.searchsorted(total, random.random() * total[-1], side="right"))
        chosen.append(column)
        columns.append(column)
    return columns


class _Known:
    """What nodes compute: those of a topology, and those that were taken since."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        # By their first argument: few nodes have one in common, and only these are looked at.
        firsts = topology.args[:, 0]
        self._rows = np.argsort(firsts, kind="stable")
        self._starts = np.searchsorted(
            firsts[self._rows], np.arange(topology.columns + 1, dtype=firsts.dtype)
        )
        self._taken: set[tuple[str, tuple[int, ...]]] = set()

    def take(self, kind: str, columns: list[int]) -> bool:
        """Whether no node computes this; if so it is taken. Nodes with numbers of their own are never the same."""
        if NUMBER in columns:
            return True
        orders = {tuple(columns)} | ({(columns[1], columns[0])} if commutes(kind) else set())
        if any((kind, order) in self._taken or self._is_there(kind, order) for order in orders):
            return False
        self._taken.update((kind, order) for order in orders)
        return True

    def _is_there(self, kind: str, order: tuple[int, ...]) -> bool:
        rows = self._rows[self._starts[order[0]] : self._starts[order[0] + 1]]
        rows = rows[self._topology.kind[rows] == KINDS[kind]]
        return bool((self._topology.args[rows, : len(order)] == order).all(1).any())


def _start(random: np.random.Generator) -> float:
    """What a number starts at; one that f32 holds exactly, so a log rebuilds it."""
    return float(np.float32(random.choice([-1.0, 1.0]) * random.uniform(0.5, 1.5)))


def _name(topology: Topology, column: int) -> str:
    return f"x{column}" if column < topology.inputs else str(topology.names[column - topology.inputs])


def prunes(
    topology: Topology,
    scores: Ints,
    count: int,
    *,
    leaves: bool = True,
    frozen: frozenset[str] = frozenset(),
    least: int = 1,
    below: float | None = None,
    ties: Ints | None = None,
) -> list[Prune]:
    """The nodes that matter least, f64[capacity] says how much each matters; equal ones by `ties`, then their rows.

    below: only nodes that matter less. ties: f64[capacity], the least first.

    leaves: only nodes that no other reads, where one that was read only by pruned nodes counts as a leaf. Otherwise
    a node goes with all that depends on it, unless that would be more than `count` nodes together, or a frozen one.
    Raises `MutationError`: `nan` for scores that are no numbers, `empty` if fewer than `least` nodes would be left.
    """
    check_scores(scores, "prune scores", topology.live, topology)
    if count > 0 and topology.count - count < least:
        left = f"pruning {count} of {topology.count} nodes would leave fewer than {least}"
        refuse("empty", left, remedy="prune fewer, or add some first")
    held = {row for name, row in topology.rows.items() if name in frozen}
    if below is not None:
        held.update(np.flatnonzero(topology.live & (scores >= below)).tolist())
    ties = np.zeros(topology.capacity) if ties is None else ties
    return (_leaves if leaves else _branches)(topology, scores, ties, count, held)


def _leaves(topology: Topology, scores: Ints, ties: Ints, count: int, held: set[int]) -> list[Prune]:
    reads = topology.args - topology.inputs
    read = np.bincount(reads[reads >= 0], minlength=topology.capacity)
    heap = [
        (float(scores[row]), float(ties[row]), row)
        for row in np.flatnonzero(topology.live & (read == 0)).tolist()
        if row not in held
    ]
    heapq.heapify(heap)
    found: list[Prune] = []
    while heap and len(found) < count:
        *_, row = heapq.heappop(heap)
        found.append(Prune(str(topology.names[row])))
        for node in reads[row][reads[row] >= 0].tolist():
            read[node] -= 1
            if not read[node] and node not in held:
                heapq.heappush(heap, (float(scores[node]), float(ties[node]), node))
    return found


def _branches(topology: Topology, scores: Ints, ties: Ints, count: int, held: set[int]) -> list[Prune]:
    rows, readers = np.flatnonzero(topology.live), Readers(topology.args, topology.inputs)
    gone: set[int] = set()
    found: list[Prune] = []
    for row in rows[np.lexsort((ties[rows], scores[rows]))].tolist():
        if len(gone) >= count:
            break
        if row in gone:
            continue
        new = set(readers.downstream(row, count)) - gone
        if len(gone) + len(new) <= count and not new & held:
            gone |= new
            found.append(Prune(str(topology.names[row]), dependents=True))
    return found


def check_scores(scores: Ints, what: str, read: Ints, topology: Topology) -> None:
    """Refuse scores of another shape, and NaN where they are read, a bool per score."""
    if scores.shape != read.shape:
        refuse("shape", f"{what} have the shape {list(scores.shape)}, not {list(read.shape)}")
    wrong = np.flatnonzero(np.isnan(scores) & read)
    if len(wrong):
        column = wrong[0] + (topology.inputs if len(read) == topology.capacity else 0)
        of = f" (the first: `{_name(topology, column)}`)"
        few = f"{len(wrong)} of the {what} are no numbers{of}"
        refuse("nan", few, remedy="look for an overflow in the op graph, or use another score")


def score_std(columns: Ints, readout: Ints) -> Ints:
    """f64[columns]: the deviation of what each column adds to the output, over a batch and all outputs together.

    columns: [B, columns]; readout: [outputs, columns].
    """
    effect: Ints = np.std(columns, axis=0) * score_magnitude(readout)
    return effect


def score_magnitude(readout: Ints) -> Ints:
    """f64[columns]: the norm of each column of the read-out, [outputs, columns]."""
    norm: Ints = np.sqrt(np.square(np.asarray(readout, np.float64)).sum(0))
    return norm


def score_taylor(columns: Ints, gradients: Ints) -> Ints:
    """f64[columns]: how much the loss would change, to first order, if a column became zero.

    columns, gradients: [B, columns], the values and the gradient of the batch's loss in them.
    """
    change: Ints = np.abs((np.asarray(columns, np.float64) * gradients).sum(0))
    return change
