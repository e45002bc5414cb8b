"""What the ops of an op graph are worth, by the model that is being trained and some batches of its data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2c.graph import walk
from r2d2c.growth import SCORES, OpGraph
from r2d2c.mutate import Change
from r2d2c.mutate_checks import evaluate
from r2d2c.mutation_choice import score_magnitude, score_taylor
from r2d2c.mutations import Add
from r2d2c.opgraph import Ints, Topology, depths
from r2d2c.ops.op_graph import OP_GRAPH
from r2d2c.train.growth_surgeon import Surgeon
from r2d2c.train.measure import Batch

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from r2d2c.lower.graphs import Lowered
    from r2d2c.model import Model
    from r2d2c.tracing_loops import Steps

RARE = (
    0.01  # without this share of the samples, the farthest ones, an op still has this share of its variance
)

PART = 4096  # columns that are looked at at a time


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The columns of an op graph, [N, inputs + capacity], and the gradient of the loss in them, if that was asked for.

    Both are in the precision of the model: in f64 they would be its largest part.
    """

    columns: Ints
    gradients: Ints | None = None

    @property
    def varies(self) -> Ints:
        """bool[columns]: which are not the same for all samples, and finite."""
        with np.errstate(all="ignore"):
            found: Ints = np.isfinite(self.columns).all(0) & (np.ptp(self.columns, axis=0) > 0)
        return found

    def moved(self, change: Change) -> Seen:
        """The columns after a batch of mutations: nodes that were split off show what the others showed."""
        copied = (change.source >= 0) & (change.source != change.touched)
        if not copied.any():
            return self
        order = np.arange(self.columns.shape[1])
        order[change.inputs[1] + change.touched[copied]] = change.inputs[0] + change.source[copied]
        gradients = None if self.gradients is None else self.gradients[:, order]
        return Seen(self.columns[:, order], gradients)

    def joined(self, new: Sequence[Add], topology: Topology) -> Seen:
        """The columns with those of ops that were just added to the topology; no gradient reaches them yet."""
        columns, rows = self.columns.copy(order="K"), topology.rows
        for op in new:
            columns[:, topology.inputs + rows[op.name]] = value_of(op, self, topology, rows)
        return replace(self, columns=columns)

    @property
    def strength(self) -> Ints:
        """f64[columns]: how much of a gradient each gets."""
        assert self.gradients is not None
        return by_parts(lambda gradients: np.sqrt(np.square(gradients).mean(0)), self.gradients)


class Watch:
    """Runs a model to see the columns of one of its op graphs, and changes nothing of it.

    Of one in a loop these are the columns of all steps, each a sample.
    """

    def __init__(self, model: Model, graph: OpGraph) -> None:
        from r2d2c.tracing import value_name

        self.model = model
        region, self.node = next(
            (region, node)
            for region, node in walk(model._training_graph)
            if node.op == OP_GRAPH.name and node.attrs["start"].name == graph.name
        )
        self.in_loop = region.kind == "step"
        self.name = str(value_name(self.node, 0))

    def look(self, batches: Sequence[Batch], *, slopes: bool) -> Seen:
        """slopes: with gradients, as the credit rules of a learning pass give them; the columns are those of learning then."""
        if not slopes:
            return Seen(_joined([self._columns(batch) for batch in batches]))
        values, gradients = [], []
        for batch in batches:
            given: dict[str, Any] = dict(batch)
            trace = self.model.trace(**given)
            for name, value in self._mine(trace.values):
                values.append(_flat(value))
                delta = trace.deltas.get(name)
                gradients.append(np.zeros_like(values[-1]) if delta is None else _flat(delta) / len(batches))
        return Seen(_joined(values), _joined(gradients))

    def _mine(self, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Of values by name, the columns: one, or one a step."""
        if not self.in_loop:
            return [(self.name, values[self.name])]
        return [(name, value) for name, value in values.items() if name.startswith(f"{self.name}@")]

    @cached_property
    def _lowered(self) -> tuple[Lowered, GraphModule]:
        from torch.fx import GraphModule

        from r2d2c.lower.graphs import lower_forward
        from r2d2c.tracing import value_name

        model, graph = self.model, self.model._training_graph
        wanted = [("columns", self.node.value())]
        if self.in_loop:  # then loops are run, and their steps are watched
            wanted = [(node.id, node.value()) for node in graph.body.nodes if node.op == "loop"]
        lowered = lower_forward(graph, model.spec.ops, wanted, False, model._float)
        if self.in_loop:
            self._steps.watch(lowered.fx, value_name)
        return lowered, GraphModule(model, lowered.fx)

    @cached_property
    def _steps(self) -> Steps:
        from r2d2c.tracing_loops import Steps

        return Steps()

    def _columns(self, batch: Batch) -> Ints:
        """As the model is used: running statistics, no noise."""
        import torch

        lowered, run = self._lowered
        given, numbers = self.model._split(batch)
        given = dict(self.model._check_batch(given, self.model._training_graph))
        arguments = [numbers[name] for name in lowered.arguments]
        with torch.no_grad():
            found = run(*(given[name] for name in lowered.inputs), *arguments)
        if not self.in_loop:
            return _flat(found[0])
        columns = np.concatenate([_flat(value) for _, value in self._mine(self._steps.values)])
        self._steps.values.clear()
        return columns


def _flat(tensor: Any) -> Ints:
    found: Ints = tensor.detach().numpy(force=True)
    return found.reshape(-1, found.shape[-1])


def _joined(tables: Sequence[Ints]) -> Ints:
    """The rows of all tables, each column in one piece: new ops are tried on a few columns, one after the other."""
    shape = sum(len(table) for table in tables), tables[0].shape[1]
    found: Ints = np.concatenate(tables, out=np.empty(shape, tables[0].dtype, order="F"))
    return found


def by_parts(score: Callable[..., Ints], *tables: Ints) -> Ints:
    """What a score, [columns], is of some tables, [N, columns], in f64: of some columns at a time, to save memory."""
    parts = [
        score(*(table[:, start : start + PART].astype(np.float64) for table in tables))
        for start in range(0, tables[0].shape[1], PART)
    ]
    found: Ints = np.concatenate(parts) if parts else np.zeros(0)
    return found


def overflows(seen: Seen, topology: Topology) -> Ints:
    """bool[capacity]: ops with a value among the samples that is no finite number, as chains of squares come to."""
    found: Ints = topology.live & ~np.isfinite(seen.columns[:, topology.inputs :]).all(0)
    return found


def worth_of_finite(worth: Ints, seen: Seen, topology: Topology) -> Ints:
    """What ops are worth, f64[capacity], with the least there is for those that overflow: they go first."""
    found: Ints = np.where(overflows(seen, topology), np.finfo(np.float64).min, worth)
    return found


def value_of(new: Add, seen: Seen, topology: Topology, rows: Mapping[str, int]) -> Ints:
    """f32[N], what a new op gives for the samples: in f32, as it will be used, and not normalised. rows: the topology's."""

    def column(arg: str | float) -> Ints:
        if not isinstance(arg, str):
            return np.full(len(seen.columns), arg, np.float32)
        place = topology.inputs + rows[arg] if arg in rows else int(arg[1:])
        found: Ints = seen.columns[:, place].astype(np.float32)
        return found

    with np.errstate(all="ignore"):
        found: Ints = evaluate(new.kind, [column(arg) for arg in new.args])
    return found


def useful(columns: Ints) -> Ints:
    """bool[columns]: which have finite values for all samples, and tell more than a few of these apart.

    What is nearly always the same, a product of rare pixels say, has hardly any variance in most batches; what is then
    normalised by it is huge when it comes.
    """
    return by_parts(_useful, columns).astype(bool)


def _useful(found: Ints) -> Ints:
    few = int(RARE * len(found))
    with np.errstate(all="ignore"):
        finite = np.isfinite(found).all(0)
        away = np.square(found - _median(found))
        rest = np.partition(away, len(away) - 1 - few, axis=0)[: len(away) - few] if few else away
        there: Ints = finite & (away.sum(0) > 0) & (rest.sum(0) >= RARE * away.sum(0))
    return there


def _median(columns: Ints) -> Ints:
    """f64[columns]. np.median looks for NaN first, which takes longer than all the rest for a single column."""
    low, high = (len(columns) - 1) // 2, len(columns) // 2
    sorted_there = np.partition(columns, (low, high), axis=0)
    found: Ints = (sorted_there[low] + sorted_there[high]) / 2
    return found


def sound(seen: Seen, topology: Topology) -> Callable[[Add], bool]:
    """Tells whether a new op is `useful`. Its arguments are columns of the topology."""
    rows = topology.rows
    return lambda new: bool(useful(value_of(new, seen, topology, rows)[:, None])[0])


def scores(
    topology: Topology,
    seen: Seen,
    readouts: Sequence[Ints],
    at: int,
    *,
    wanted: Collection[str] = tuple(SCORES),
    surgeon: Surgeon | None = None,
) -> dict[str, Ints]:
    """Scores that a formula may read, f64[capacity]; `age` is always there.

    readouts: f64[outputs, columns] each. at: the round. wanted: the others that are needed. surgeon: knows which
    columns are there, if that are not all.
    """
    readout = np.concatenate([*readouts, np.zeros((0, topology.columns))])
    found: dict[str, Ints] = {}
    with np.errstate(all="ignore"):
        if "effect" in wanted:
            found["effect"] = by_parts(
                lambda columns: np.std(columns, axis=0), seen.columns
            ) * score_magnitude(readout)
        if "magnitude" in wanted:
            found["magnitude"] = score_magnitude(readout)
        if "taylor" in wanted and seen.gradients is not None:
            found["taylor"] = by_parts(score_taylor, seen.columns, seen.gradients)
        if "saliency" in wanted:
            if surgeon is None:
                kept = np.concatenate([np.ones(topology.inputs, bool), topology.live])
                surgeon = Surgeon(seen.columns, kept)
            found["saliency"] = surgeon.unexplained() * score_magnitude(readout)
    by_row = {name: values[topology.inputs :] for name, values in found.items()}
    if "depth" in wanted:
        by_row["depth"] = depths(topology).astype(np.float64)
    return {**by_row, "age": (at - topology.born).astype(np.float64)}
