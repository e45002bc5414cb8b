"""`Growth`: rounds in which op graphs lose the ops that matter least and get new ones, in the midst of a training.

A round comes right before a batch is learned, so no checkpoint lies between the two: a training that goes on makes
the same round again. All that has a row per op moves with it: numbers, running statistics, the columns of the
read-outs, and the optimizer's state of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2c.formulas import evaluate, reads, spell
from r2d2c.graph import walk
from r2d2c.growth import Growing, OpGraph
from r2d2c.lower.init import seed_of
from r2d2c.mutate import Change, Limits, Mutated, mutate
from r2d2c.mutation_choice import Bias, Draw, additions, generator, prunes
from r2d2c.mutations import Add, Mutation, MutationError
from r2d2c.opgraph import Topology
from r2d2c.ops.op_graph import OP_GRAPH, STATISTICS, TABLE
from r2d2c.ops.op_graph_rows import rows_of, topology_of
from r2d2c.train import growth_rows
from r2d2c.train.growth_log import GrowthLog
from r2d2c.train.growth_scores import Seen, Watch, scores
from r2d2c.train.guard import last_good
from r2d2c.train.measure import Batch
from r2d2c.train.refuse import refuse
from r2d2c.verify.op_graphs import find_readers

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.diagnostics import Sink
    from r2d2c.model import Model
    from r2d2c.train.run_folder import RunFolder
    from r2d2c.train.stepper import Stepper


def op_graphs(model: Model) -> dict[str, OpGraph]:
    """The op graphs of a model by name, with the weights that read their columns."""
    graph = model.graph
    used = [node for _, node in walk(graph) if node.op == OP_GRAPH.name]
    found = find_readers(model._training_graph) if used else {}
    rows = {}
    for node in used:
        start, growing = node.attrs["start"], node.attrs["growing"]
        width = graph.types[node.value()].dims[-1]
        assert isinstance(width, int)
        readers = tuple(found[start.name].readers) if start.name in found else ()
        inputs = int(width) - start.capacity
        sizes = (start.name, inputs, start.capacity, start.kinds)
        rows[start.name] = OpGraph(*sizes, readers, growing, start.names, node.id, node.origin)
    return rows


@dataclass(slots=True)
class Count:
    """What has become of an op graph so far. stale: how many epochs have brought no progress since the last round."""

    rounds: int = 0
    added: int = 0
    pruned: int = 0
    stale: int = 0


class Growth:
    """The op graphs of one training that grow.

    sample: gives the batches that ops are judged by; without one it is the batch that comes next.
    """

    def __init__(
        self,
        model: Model,
        stepper: Stepper,
        run: RunFolder,
        sample: Callable[[], Sequence[Batch]] | None = None,
    ) -> None:
        self.model, self.stepper, self.run, self.sample = model, stepper, run, sample
        self.graphs = op_graphs(model)
        self.growing = {name: one.growing for name, one in self.graphs.items() if one.growing is not None}
        self.counts = {name: Count() for name in self.growing}
        self.log = GrowthLog(run.path)
        self.lines = 0
        self._watches: dict[str, Watch] = {}

    # -- what a training tells
    def begin(self, epochs: int, batches: int | None) -> None:
        """Before the first batch. Refuses (E352) a schedule that would leave an op graph empty."""
        if not self.growing:
            return
        starts = {name: self.topology(name) for name in self.growing}
        for name, start in starts.items():
            self._check(name, start.count, epochs, batches)
        self.lines = self.log.create(self.run.lock.spec_sha256, starts)

    def before_batch(self, given: Batch, epoch: int, batch: int, batches: int) -> None:
        """Make the rounds that are due before a batch. epoch, batch: its numbers; batches: how many were learned."""
        for name, growing in self.growing.items():
            if batches and self._due(name, growing, epoch, batch, batches):
                samples = self.sample() if self.sample is not None else [given]
                self.round(name, samples, epoch=epoch, step=batches)

    def after_epoch(self, better: bool) -> None:
        """better: whether the monitored metric is the best so far."""
        for count in self.counts.values():
            count.stale = 0 if better else count.stale + 1

    def sizes(self) -> dict[str, int]:
        """How many ops each op graph that grows has."""
        return {name: int((self._tensor(name, "kind") >= 0).sum()) for name in self.growing}

    def state(self) -> dict[str, Any]:
        return {"lines": self.lines, "counts": {name: asdict(count) for name, count in self.counts.items()}}

    def load(self, state: Mapping[str, Any], sink: Sink) -> None:
        """Go on from `state`; the topologies are in the weights. The log is cut to what the state knows."""
        if self.growing:
            self.counts = {name: Count(**count) for name, count in state["counts"].items()}
            self.lines = state["lines"]
            self.log.keep(self.lines, sink)

    # -- when
    def _due(self, name: str, growing: Growing, epoch: int, batch: int, batches: int) -> bool:
        if growing.epochs is not None and (epoch > growing.epochs or (epoch == growing.epochs and batch)):
            return False
        every = growing.every
        if every.unit == "steps":
            return batches % every.count == 0
        if batch:
            return False
        return epoch % every.count == 0 if every.unit == "epochs" else self.counts[name].stale >= every.count

    def _check(self, name: str, count: int, epochs: int, batches: int | None) -> None:
        growing, capacity = self.growing[name], self.graphs[name].capacity
        last = epochs - 1 if growing.epochs is None else min(growing.epochs, epochs - 1)
        unit = growing.every.unit
        if unit == "plateau" or (unit == "steps" and batches is None):
            return
        rounds = (last if unit == "epochs" else (last + 1) * (batches or 0) - 1) // growing.every.count
        for number in range(1, rounds + 1):
            if growing.prune and count - growing.prune < 1:
                refuse(
                    "E352",
                    f"round {number} of the growth of `{name}` would leave no op: {growing.prune} of {count} go",
                    growing.origin,
                    notes=[f"there are {rounds} rounds, and each adds {growing.add}"],
                    fix="prune fewer, or say when it stops with `epochs`",
                )
            after = min(capacity, count - growing.prune + growing.add)
            if after >= count:
                return
            count = after

    # -- a round
    def round(self, name: str, samples: Sequence[Batch], *, epoch: int, step: int) -> Mutated | None:
        """Prune, then add; None if nothing changed. Refuses (E571) scores that are no numbers; nothing has changed then."""
        graph, growing, count = self.graphs[name], self.growing[name], self.counts[name]
        before, at = self.topology(name), count.rounds + 1
        try:
            mutations, marks = self._choose(graph, growing, before, at, samples)
            done = mutate(before, mutations, at=at, limits=Limits(depth=growing.depth))
        except MutationError as error:
            refuse(
                "E571",
                f"round {at} of the growth of `{name}` cannot be made: {error.message}",
                growing.origin,
                notes=[f"ops are worth `{spell(growing.by)}`", last_good(self.run)],
                fix=error.remedy or None,
            )
        count.stale = 0
        if not mutations:
            return None
        self.apply(name, done)
        added = sum(isinstance(mutation, Add) for mutation in mutations)
        self.counts[name] = Count(
            at, count.added + added, count.pruned + before.count + added - done.topology.count
        )
        self.log.append(name, at, mutations, done.topology, epoch=epoch, step=step, worth=marks)
        self.lines += 1
        return done

    def _choose(
        self, graph: OpGraph, growing: Growing, before: Topology, at: int, samples: Sequence[Batch]
    ) -> tuple[list[Mutation], dict[str, float]]:
        """The mutations of a round, and what those that go were worth."""
        slopes = "taylor" in reads(growing.by) or growing.prefer == "gradient"
        if graph.name not in self._watches:
            self._watches[graph.name] = Watch(self.model, graph)
        seen = self._watches[graph.name].look(samples, slopes=slopes)
        found: list[Mutation] = []
        marks: dict[str, float] = {}
        after = before
        least = min(growing.prune, before.count - 1)
        if least > 0:
            weights = [self._readout(reader.weight, reader.offset, graph) for reader in graph.readers]
            marked = evaluate(growing.by, scores(before, seen, weights, at))
            gone = prunes(before, marked, least, leaves=not growing.whole)
            found += gone
            marks = {prune.name: float(marked[before.rows[prune.name]]) for prune in gone}
            after = mutate(before, gone, at=at).topology
        if growing.add:
            random = generator(seed_of(self.model.graph.seed, f"{graph.name}.grow"), at)
            draw = Draw(kinds=graph.kinds, bias=self._bias(graph, growing, seen))
            found += additions(after, growing.add, random, draw, limits=Limits(depth=growing.depth))
        return found, marks

    def _bias(self, graph: OpGraph, growing: Growing, seen: Seen) -> Bias:
        # A column that is the same for every sample has nothing to give; a node that goes is not read anyway.
        usable = seen.varies
        if growing.prefer == "gradient":
            return Bias(usable, seen.strength)
        return Bias(usable)

    def _readout(self, weight: str, offset: int, graph: OpGraph) -> np.ndarray[Any, Any]:
        """f64[outputs, columns]: the weights of a reader, of these columns."""
        found: np.ndarray[Any, Any] = (
            self._columns(self.model.get_parameter(weight), offset, graph).double().numpy(force=True)
        )
        return found.reshape(-1, found.shape[-1])

    def _columns(self, tensor: Tensor, offset: int, graph: OpGraph) -> Tensor:
        """The part of a read-out, or of its state, that belongs to the op graph; it shares its memory."""
        return tensor.detach().narrow(-1, offset, graph.inputs + graph.capacity)

    # -- rows
    def topology(self, name: str) -> Topology:
        """The table that the model's buffers have just now."""
        graph = self.graphs[name]
        rows = {part: self._tensor(name, part).numpy(force=True) for part in TABLE}
        return topology_of(rows, graph.inputs, graph.names)

    def _tensor(self, name: str, part: str) -> Tensor:
        return self.model.get_buffer(f"{self.graphs[name].node}.{part}")

    def apply(self, name: str, done: Mutated) -> None:
        """Write a batch of mutations into the model and the optimizers' state, in place."""
        import torch

        graph, change = self.graphs[name], done.change
        numbers = f"{graph.node}.numbers"
        parameters = dict(self.model.named_parameters())
        if numbers in parameters:  # a frozen task has them in a buffer
            growth_rows.numbers(parameters[numbers], change)
            self._move_state(numbers, parameters[numbers], change, "rows", graph, 0)
        else:
            growth_rows.numbers(self.model.get_buffer(numbers), change)
        buffers = dict(self.model.named_buffers())
        for part, fresh in zip(STATISTICS, (0.0, 1.0), strict=True):
            if f"{graph.node}.{part}" in buffers:
                growth_rows.move(buffers[f"{graph.node}.{part}"], change, "rows", fresh)
        for reader in graph.readers:
            weight = parameters.get(reader.weight)
            found = weight if weight is not None else buffers[reader.weight]
            growth_rows.mix(self._columns(found, reader.offset, graph), change)
            if weight is not None:
                self._move_state(reader.weight, weight, change, "columns", graph, reader.offset)
        with torch.no_grad():
            for part, rows in rows_of(done.topology, graph.names).items():
                self._tensor(name, part).copy_(torch.from_numpy(rows))

    def _move_state(
        self,
        name: str,
        parameter: Tensor,
        change: Change,
        axis: growth_rows.Axis,
        graph: OpGraph,
        offset: int,
    ) -> None:
        found = self.stepper.state_of(name)
        if found is None:
            return
        state, group = found
        if axis == "columns":
            state = {
                key: self._columns(value, offset, graph)
                if getattr(value, "shape", None) == parameter.shape
                else value
                for key, value in state.items()
            }
            parameter = self._columns(parameter, offset, graph)
        growth_rows.move_state(state, change, axis, parameter, group)
