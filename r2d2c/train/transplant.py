"""A model that goes on from a checkpoint of another spec: tensors by name, wider layers that compute the same.

Of a tensor that grew, old entries keep their values. What is new and makes an old unit read a new one is zero, and
all else that is new is as in a new model: so the old outputs stay what they were, and new units have something to
learn. (Net2Net, Chen et al. 2016, copies units instead; network morphism, Wei et al. 2016, is the general case.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from r2d2c.credit.registry import rules
from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import Graph, Node, Value
from r2d2c.mutate import AddInputs, Mutation, Widen, mutate
from r2d2c.op_places import place
from r2d2c.opgraph import Ints, Topology
from r2d2c.ops.op_graph import OP_GRAPH, parts_of
from r2d2c.ops.op_graph_rows import points_of, rows_of, topology_of
from r2d2c.passes.pipeline import PREPARE, run_passes
from r2d2c.train.checkpoint import Checkpoint
from r2d2c.train.transplant_axes import Doubt, plain, renamed
from r2d2c.train.transplant_ops import find_axes
from r2d2c.train.transplant_report import Entry, Report
from r2d2c.train.transplant_shapes import Axes
from r2d2c.train.transplant_state import move_states

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model
    from r2d2c.train.stepper import Stepper

LISTED = 10


@dataclass(frozen=True, slots=True)
class Place:
    """Where the old entries of a tensor are in the new one. places: per axis, i64[old]; zero: axes that read."""

    before: str
    places: tuple[Ints, ...]
    inner: frozenset[int]

    def put(self, old: Tensor, new: Tensor, *, zero: bool = True) -> Tensor:
        """``new`` with the old entries in it, and zeros where an old unit would read a new one."""
        made = new.clone()
        if zero and self.inner:
            made[self._reads(made)] = 0
        # Each axis's places stand along it: they are broadcast, and never laid out in full.
        shapes = [[-1 if k == axis else 1 for k in range(made.ndim)] for axis in range(made.ndim)]
        places = [
            torch.from_numpy(p).to(made.device).view(s) for p, s in zip(self.places, shapes, strict=True)
        ]
        made[tuple(places)] = old.to(made.device, made.dtype)
        return made

    def _reads(self, tensor: Tensor) -> Tensor:
        """bool, of the tensor's shape: an old unit's weights of new ones."""
        found = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
        fresh = torch.zeros_like(found)
        for axis, places in enumerate(self.places):
            old = torch.zeros(tensor.shape[axis], dtype=torch.bool, device=tensor.device)
            old[torch.from_numpy(places).to(tensor.device)] = True
            shape = [-1 if k == axis else 1 for k in range(tensor.ndim)]
            if axis in self.inner:
                fresh |= ~old.view(shape)
            else:
                found &= old.view(shape)
        return found & fresh


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What goes where. kept: new names to old ones; grown: by the new name; tables: of op graphs, by the buffers' names.

    axes: of the flat graphs, for the outputs too.
    """

    old: Checked
    checkpoint: Checkpoint
    kept: Mapping[str, str]
    grown: Mapping[str, Place]
    tables: Mapping[str, Tensor]
    axes: Axes
    names: Mapping[str, str]

    @property
    def taken(self) -> set[str]:
        """The old tensors that something goes on from."""
        tables = {renamed(name, self.names) for name in self.tables}
        return {*self.kept.values(), *(place.before for place in self.grown.values()), *tables}


def flat_graph(checked: Checked) -> Graph:
    """The graph with all that credit rules add, as one region, and the steps of loops."""
    return run_passes(PREPARE, checked.graph, checked.ops, rules(checked.rules))


def transplant(
    model: Model,
    stepper: Stepper | None,
    old: Checked,
    checkpoint: Checkpoint,
    *,
    names: Mapping[str, str] | None = None,
    source: str = "the checkpoint",
) -> Report:
    """Let a new model go on from a checkpoint of the spec ``old``, in place.

    names: what is called otherwise in the old spec, by its new name or the beginning of that. Raises `CompileError`
    (E581 to E586), and then nothing has changed.
    """
    return apply(plan_transplant(model, old, checkpoint, names or {}), model, stepper, source)


def plan_transplant(model: Model, old: Checked, checkpoint: Checkpoint, names: Mapping[str, str]) -> Plan:
    """What would go where. Refuses what cannot be moved, all of it at once."""
    sink = Sink()
    own = model.state_dict()
    new_graph = flat_graph(model.spec)
    axes = find_axes(flat_graph(old), new_graph, model.spec.ops, names)
    _check_names(own, checkpoint, names, sink)
    tables = _tables(axes, checkpoint, names, sink)
    rows = {Value(node.id): node.attrs["storage"] for node in new_graph.body.nodes if node.op == "param"}
    values = {name: value for value, name in reversed(rows.items())}
    kept: dict[str, str] = {}
    grown: dict[str, Place] = {}
    shrunk: list[str] = []
    for name, tensor in own.items():
        before = renamed(name, names)
        if name in tables or before not in checkpoint.model:
            continue
        was = checkpoint.model[before]
        if was.shape == tensor.shape and was.is_floating_point() == tensor.is_floating_point():
            kept[name] = before
        elif was.ndim != tensor.ndim or was.is_floating_point() != tensor.is_floating_point():
            shrunk.append(f"`{name}` is {_shown(was)} in the run and {_shown(tensor)} in the spec")
        elif any(a > b for a, b in zip(was.shape, tensor.shape, strict=True)):
            shrunk.append(
                f"`{name}` is {list(was.shape)} in the run and only {list(tensor.shape)} in the spec"
            )
        else:
            place = _place(name, before, values.get(name), was, tensor, axes, sink)
            if place is not None:
                grown[name] = place
    shrunk += _smaller_inputs(axes, names)
    if shrunk:
        more = [f"and {len(shrunk) - LISTED} more"] if len(shrunk) > LISTED else []
        fix = "keep the sizes of the run or take larger ones, or give what changed another name"
        message = "the spec has no room for what the run has learned"
        sink.report("E581", None, message, notes=[*shrunk[:LISTED], *more], fix=fix)
    sink.stop_on_errors()
    return Plan(old, checkpoint, kept, grown, tables, axes, names)


def _smaller_inputs(axes: Axes, names: Mapping[str, str]) -> list[str]:
    """Inputs with fewer columns: what is joined behind them would be taken for others."""
    old, new = axes.pairs.old, axes.pairs.new
    values = {port.name: port.value for port in old.body.inputs}
    found = []
    for port in new.body.inputs:
        value = values.get(renamed(port.name, names))
        pairs = axes.pairs.sizes(port.value, value) or ()
        sizes = [(plain(a), plain(b)) for a, b in pairs]
        if value is not None and any(a is not None and b is not None and a > b for a, b in sizes):
            found.append(
                f"`{port.name}` is {old.types[value]} in the run and {new.types[port.value]} in the spec"
            )
    return found


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _check_names(
    own: Mapping[str, Tensor], checkpoint: Checkpoint, names: Mapping[str, str], sink: Sink
) -> None:
    """Whether anything goes on, and every new name is about something."""
    for new, old in names.items():
        ours = [name for name in own if renamed(name, {new: old}) != name or name == new]
        theirs = [name for name in checkpoint.model if name == old or name.startswith(f"{old}.")]
        if not ours or not theirs:
            where = "spec" if not ours else "run"
            message = (
                f"`{old}={new}`: the {where} has no parameter `{old if ours else new}`, or one that begins so"
            )
            sink.report(
                "E586", None, message, fix="write --rename OLD=NEW, as `r2d2c inspect RUN` shows names"
            )
    if not any(renamed(name, names) in checkpoint.model for name in own):
        message = "nothing of the run is in the spec: they share no parameter's name"
        notes = [f"the run has {', '.join(f'`{n}`' for n in list(checkpoint.model)[:3])}, …"]
        fix = "start anew without it, or say what is called otherwise with --rename OLD=NEW"
        sink.report("E585", None, message, notes=notes, fix=fix)


def _place(
    name: str, before: str, value: Value | None, was: Tensor, now: Tensor, axes: Axes, sink: Sink
) -> Place | None:
    """Where the old entries of a parameter are; E582 if that cannot be known."""
    places: list[Ints] = []
    for axis, (old, new) in enumerate(zip(was.shape, now.shape, strict=True)):
        var = axes.pairs.var(value, axis) if value is not None else None
        found: Ints | Doubt = np.arange(old)
        if old != new and var is not None:
            found = axes.system.places(var)
        elif old != new and value is not None:
            found = Doubt("the run's model reads it elsewhere", None)
        if isinstance(found, Doubt):
            message = f"cannot tell which entries of `{name}` are the old ones: {found.what}"
            notes = [
                f"it is {list(was.shape)} in the run and {list(now.shape)} in the spec, axis {axis} grew"
            ]
            fix = "keep this size, or give what is wider another name, so that it starts anew"
            span = found.origin or axes.pairs.new.storage[name].origin
            sink.report("E582", span, message, notes=notes, fix=fix)
            return None
        places.append(found)
    return Place(before, tuple(places), frozenset(axes.inner.get(name, ())))


# -- op graphs


def _tables(axes: Axes, checkpoint: Checkpoint, names: Mapping[str, str], sink: Sink) -> dict[str, Tensor]:
    """The buffers of the op graphs' tables, where they read more columns or have more room."""
    found: dict[str, Tensor] = {}
    for region in axes.pairs.new.regions.values():
        for node in region.nodes:
            before = axes.pairs.node(node, region.name) if node.op == OP_GRAPH.name else None
            if before is None or f"{before.id}.kind" not in checkpoint.model:
                continue
            start, was = node.attrs["start"], before.attrs["start"]
            if start.names != was.names:
                message = f"the op graph `{start.name}` has other ops of its own than in the run"
                notes = [f"{_listed(was.names)} in the run, {_listed(start.names)} in the spec"]
                fix = "let the spec write the same `nodes`; those that were pruned stay away"
                sink.report("E584", node.origin, message, notes=notes, fix=fix)
                continue
            topology = _grown(axes, node, before, checkpoint.model)
            if isinstance(topology, Doubt):
                message = f"the op graph `{start.name}` cannot go on: {topology.what}"
                fix = "let it read at least the run's columns, in their order, and keep its capacity or raise it"
                sink.report("E582", topology.origin or node.origin, message, fix=fix)
                continue
            # Rounds count from 1 again: what came in the run's last one came in round 0, so ages are what they were.
            counts = checkpoint.state.get("growth", {}).get("counts", {})
            rounds = counts.get(was.name, {}).get("rounds", 0)
            born = np.where(topology.live, topology.born - rounds, 0).astype(topology.born.dtype)
            topology = replace(topology, born=born)
            rows = rows_of(topology, start.names)
            found |= {f"{node.id}.{part}": torch.from_numpy(array) for part, array in rows.items()}
    return found


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _grown(axes: Axes, node: Node, before: Node, tensors: Mapping[str, Tensor]) -> Topology | Doubt:
    """The run's op graph, with the spec's inputs and room; a doubt if there is less of these or nobody knows which."""
    start, was = node.attrs["start"], before.attrs["start"]
    old, new = (
        int(graph.types[Value(one.id)].dims[-1]) - capacity  # type: ignore[arg-type]
        for graph, one, capacity in (
            (axes.pairs.old, before, was.capacity),
            (axes.pairs.new, node, start.capacity),
        )
    )
    if old > new:
        return Doubt(f"it reads {new} columns, and {old} in the run", node.origin)
    if was.capacity > start.capacity:
        return Doubt(f"it has room for {start.capacity} ops, and for {was.capacity} in the run", node.origin)
    parts = [part for part in parts_of(start) if part in parts_of(was)]
    topology = topology_of({p: tensors[f"{before.id}.{p}"].numpy() for p in parts}, old, was.names)
    columns: Ints | Doubt = np.arange(old)
    var = axes.pairs.var(node.inputs[0], -1)
    if var is not None:
        columns = axes.system.places(var)
    if isinstance(columns, Doubt):
        return columns
    steps: list[Mutation] = [AddInputs(new - old)] if new > old else []
    steps += [Widen(start.capacity)] if start.capacity > was.capacity else []
    grown = mutate(topology, steps).topology if steps else topology
    # The first inputs are now the first columns; where a `concat` has them elsewhere, they are read there.
    args = grown.args.copy()
    given = (args >= 0) & (args < old)
    args[given] = columns[args[given]]
    grown = replace(grown, args=args)
    if start.places is not None and grown.places is None:
        grown = replace(grown, places=place(grown, points_of(start.places, axes.pairs.new.seed)))
    return grown


# -- doing it


def apply(plan: Plan, model: Model, stepper: Stepper | None, source: str) -> Report:
    """Write what was planned into the model and the optimizers, in place."""
    own, old = model.state_dict(), plan.checkpoint.model
    numbers = {f"{name.removesuffix('.kind')}.numbers" for name in plan.tables if name.endswith(".kind")}
    with torch.no_grad():
        for name, before in plan.kept.items():
            own[name].copy_(old[before])
        for name, place in plan.grown.items():
            # Rows of no node have no numbers of their own.
            fresh = torch.zeros_like(own[name]) if name in numbers else own[name]
            own[name].copy_(place.put(old[place.before], fresh))
        for name, table in plan.tables.items():
            own[name].copy_(table)
    trained = dict(stepper.parameters) if stepper is not None else {}
    states, optimizer = move_states(plan, model, stepper) if stepper is not None else ({}, "none")
    entries = []
    for name, tensor in own.items():
        before = renamed(name, plan.names)
        shape = tuple(tensor.shape)
        state = states.get(name, "new" if name in trained else "")
        if name in plan.kept:
            entries.append(Entry(name, "kept", shape, shape, state))
        elif name in plan.grown:
            entries.append(Entry(name, "widened", tuple(old[before].shape), shape, state))
        elif name in plan.tables and before in old:  # places may be new
            was = tuple(old[before].shape)
            entries.append(Entry(name, "moved" if was != shape else "kept", was, shape, state))
        else:
            entries.append(Entry(name, "new", None, shape, state))
    gone = [name for name in old if name not in plan.taken]
    entries += [Entry(name, "gone", tuple(old[name].shape), None) for name in gone]
    return Report(source, tuple(entries), optimizer)
