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

from r2d2c.formulas import reads, spell
from r2d2c.graph import walk
from r2d2c.growth import Growing, OpGraph
from r2d2c.mutate import Change, Limits, Mutated, mutate
from r2d2c.mutation_choice import generator
from r2d2c.mutations import Add, Freeze, Merge, Mutation, MutationError, Split
from r2d2c.opgraph import Topology
from r2d2c.ops.op_graph import OP_GRAPH, STATISTICS, parts_of
from r2d2c.ops.op_graph_rows import rows_of, topology_of
from r2d2c.seeds import seed_of
from r2d2c.train import growth_rows
from r2d2c.train.growth_choice import Chosen, Fit, choose, choose_start
from r2d2c.train.growth_frozen import ancestors, hold, named
from r2d2c.train.growth_log import GrowthLog
from r2d2c.train.growth_places import points
from r2d2c.train.growth_refit import refit
from r2d2c.train.growth_scores import Watch
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
        rows[start.name] = OpGraph(*sizes, readers, growing, start.names, node.id, node.origin, start.places)
    return rows


@dataclass(slots=True)
class Count:
    """What has become of an op graph so far. stale: how many epochs have brought no progress since the last round."""

    rounds: int = 0
    added: int = 0
    pruned: int = 0
    stale: int = 0
    split: int = 0
    merged: int = 0

    def after(self, at: int, done: Sequence[Mutation], before: Topology, topology: Topology) -> Count:
        """What it is after the round number `at`, which made of an op graph another."""
        added, split, merged = (sum(isinstance(one, kind) for one in done) for kind in (Add, Split, Merge))
        gone = before.count + added + split - merged - topology.count
        return Count(
            at,
            self.added + added,
            self.pruned + gone,
            split=self.split + split,
            merged=self.merged + merged,
        )


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
        self.frozen: dict[str, frozenset[str]] = {}
        self.log = GrowthLog(run.path)
        self.lines = 0
        self.fresh = True  # not from another run
        # Of several processes, one decides for all.
        self.decide: Callable[[Chosen], Chosen] = lambda chosen: chosen
        self._watches: dict[str, Watch] = {}

    # -- what a training tells
    def begin(self, epochs: int, batches: int | None) -> None:
        """Before the first batch. Refuses a schedule that would leave an op graph empty (E352), and frozen ops that
        are not there (E578)."""
        if not self.growing:
            return
        starts = {name: self.topology(name) for name in self.growing}
        for name, start in starts.items():
            self._check(name, start.count, epochs, batches)
            if self.fresh and self.sample is not None and start.count > len(self.graphs[name].names):
                self._mend(name, self.sample())
        self.open_log(self.run.lock.spec_sha256)

    def _mend(self, name: str, samples: Sequence[Batch]) -> None:
        """Draw the random ops again that have nothing to give on the data. This is how the op graph begins: no round."""
        graph, growing, before = self.graphs[name], self.growing[name], self.topology(name)
        seen = Watch(self.model, graph).look(samples, slopes=False)
        random = generator(seed_of(self.model.graph.seed, f"{name}.grow"), 0)
        found = choose_start(graph, growing, before, seen, random, points(self.model, graph))
        chosen = self.decide(Chosen(found))
        if chosen.mutations:
            self.apply(name, mutate(before, chosen.mutations, at=0))

    def open_log(self, fingerprint: str) -> None:
        """Begin the log with the op graphs as they are, and freeze what the spec wants frozen."""
        starts = {name: self.topology(name) for name in self.growing}
        wanted = {name: named(growing, starts[name], name) for name, growing in self.growing.items()}
        self.frozen = {
            name: self.frozen.get(name, frozenset()) or ancestors(starts[name], wanted[name])
            for name in starts
        }
        self.lines = self.log.create(fingerprint, starts)
        for name, frozen in self.frozen.items():
            if frozen:
                rows = starts[name].rows
                steps = [Freeze(one) for one in sorted(frozen, key=rows.__getitem__)]
                self.log.append(name, 0, steps, starts[name], epoch=0, step=0)
                self.lines += 1
        self._hold()

    def before_batch(self, given: Batch, epoch: int, batch: int, batches: int) -> None:
        """Make the rounds that are due before a batch. epoch, batch: its numbers; batches: how many were learned."""
        for name, growing in self.growing.items():
            if batches and self._due(name, growing, epoch, batch, batches):
                self.stepper.flush()
                samples = self.sample() if self.sample is not None else [given]
                settling = _settles(growing, epoch, batch)
                self.round(name, samples, epoch=epoch, step=batches, settling=settling)

    def after_epoch(self, better: bool) -> None:
        """better: whether the monitored metric is the best so far."""
        for count in self.counts.values():
            count.stale = 0 if better else count.stale + 1

    def sizes(self) -> dict[str, int]:
        """How many ops each op graph that grows has."""
        return {name: int((self._tensor(name, "kind") >= 0).sum()) for name in self.growing}

    def state(self) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "counts": {name: asdict(count) for name, count in self.counts.items()},
            "frozen": {name: sorted(names) for name, names in self.frozen.items() if names},
        }

    def load(self, state: Mapping[str, Any], sink: Sink) -> None:
        """Go on from `state`; the topologies are in the weights. The log is cut to what the state knows."""
        if self.growing:
            self.counts = {name: Count(**count) for name, count in state["counts"].items()}
            self.lines = state["lines"]
            self.frozen = {name: frozenset(names) for name, names in state.get("frozen", {}).items()}
            self.log.keep(self.lines, sink)
            self._hold()

    def _hold(self) -> None:
        """From now on, every step of the optimizer leaves frozen ops as they are."""
        held = [name for name, frozen in self.frozen.items() if frozen]
        if held:
            self.stepper.pinned = [
                put_back
                for name in held
                for put_back in hold(
                    self.model, self.graphs[name].node, self.topology(name), self.frozen[name]
                )
            ]

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
        if unit == "plateau" or (unit == "steps" and batches is None) or growing.below is not None:
            return
        rounds = (last if unit == "epochs" else (last + 1) * (batches or 0) - 1) // growing.every.count
        for number in range(1, rounds + 1):
            done = number * growing.every.count
            epoch, batch = (done, 0) if unit == "epochs" else divmod(done, batches or 1)
            more = 0 if _settles(growing, epoch, batch) else growing.add + growing.split
            if growing.prune and count - growing.prune < 1:
                refuse(
                    "E352",
                    f"round {number} of the growth of `{name}` would leave no op: {growing.prune} of {count} go",
                    growing.origin,
                    notes=[
                        f"there are {rounds} rounds, and each adds {growing.add}"
                        + (f", those of the last {growing.settle} epochs none" if growing.settle else "")
                    ],
                    fix="prune fewer, or say when it stops with `epochs`",
                )
            after = min(capacity, count - growing.prune + more)
            if after >= count and not growing.settle:
                return
            count = after

    # -- a round
    def round(
        self, name: str, samples: Sequence[Batch], *, epoch: int, step: int, settling: bool = False
    ) -> Mutated | None:
        """Merge, prune, split and add; None if nothing changed. settling: only merge and prune.

        Refuses (E571) scores that are no numbers; nothing has changed then.
        """
        graph, growing, count = self.graphs[name], self.growing[name], self.counts[name]
        frozen, before, at = self.frozen.get(name, frozenset()), self.topology(name), count.rounds + 1
        undo = refit(self.model, graph, before, samples) if growing.refit else None
        try:
            chosen = self.decide(self._choose(graph, growing, before, at, samples, settling))
            limits = Limits(depth=growing.depth)
            done = mutate(before, chosen.mutations, at=at, frozen=frozen, limits=limits)
        except MutationError as error:
            if undo is not None:
                undo()
            refuse(
                "E571",
                f"round {at} of the growth of `{name}` cannot be made: {error.message}",
                growing.origin,
                notes=[f"ops are worth `{spell(growing.by)}`", last_good(self.run)],
                fix=error.remedy or None,
            )
        count.stale = 0
        if not chosen.mutations:
            return None
        self.apply(name, done, chosen.fits)
        self.counts[name] = count.after(at, chosen.mutations, before, done.topology)
        self.log.append(name, at, chosen.mutations, done.topology, epoch=epoch, step=step, worth=chosen.worth)
        self.lines += 1
        return done

    def _choose(
        self,
        graph: OpGraph,
        growing: Growing,
        before: Topology,
        at: int,
        samples: Sequence[Batch],
        settling: bool,
    ) -> Chosen:
        slopes = "taylor" in reads(growing.by) or growing.prefer == "gradient"
        if graph.name not in self._watches:
            self._watches[graph.name] = Watch(self.model, graph)
        return choose(
            graph,
            growing,
            before,
            self._watches[graph.name].look(samples, slopes=slopes),
            self.readouts(graph),
            generator(seed_of(self.model.graph.seed, f"{graph.name}.grow"), at),
            at=at,
            frozen=self.frozen.get(graph.name, frozenset()),
            settling=settling,
            points=points(self.model, graph),
        )

    def readouts(self, graph: OpGraph) -> list[np.ndarray[Any, Any]]:
        """f64[outputs, columns]: the weights that each reader has for the columns."""
        return [self._readout(reader.weight, reader.offset, graph) for reader in graph.readers]

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
        rows = {part: self._tensor(name, part).numpy(force=True) for part in parts_of(graph)}
        return topology_of(rows, graph.inputs, graph.names)

    def _tensor(self, name: str, part: str) -> Tensor:
        return self.model.get_buffer(f"{self.graphs[name].node}.{part}")

    def apply(self, name: str, done: Mutated, fits: Sequence[Fit] = ()) -> None:
        """Write a batch of mutations into the model and the optimizers' state, in place.

        fits: what is added before to the weights and biases of the readers, in their order.
        """
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
        with torch.no_grad():
            for reader, fit in zip(graph.readers, fits, strict=False):
                columns = self._columns({**buffers, **parameters}[reader.weight], reader.offset, graph)
                columns += torch.from_numpy(fit.weight).to(columns).view(columns.shape)
                if reader.bias is not None:
                    bias = {**buffers, **parameters}[reader.bias].detach()
                    bias += torch.from_numpy(fit.bias).to(bias).view(bias.shape)
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


def _settles(growing: Growing, epoch: int, batch: int) -> bool:
    """Whether a round at this time, before the batch of this number, only merges and prunes."""
    return (
        growing.settle > 0
        and growing.epochs is not None
        and (epoch, batch) > (growing.epochs - growing.settle, 0)
    )
