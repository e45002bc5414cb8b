"""`replay`: the op graphs of a run, rebuilt from the log of their growth, and held against a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.graph import walk
from r2d2c.mutations import MutationError
from r2d2c.opgraph import Ints, Topology
from r2d2c.opkinds import kind_of
from r2d2c.ops.op_graph import OP_GRAPH, parts_of
from r2d2c.ops.op_graph_rows import topology_of
from r2d2c.train.growth_log import NAME, GrowthLog, arguments, differences, formula, place_of, rebuild
from r2d2c.train.refuse import refuse
from r2d2c.train.run import Run, Which, open_run

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """One op graph after so many rounds of growth.

    differences: from the checkpoint, node by node; None where it was not compared. numbers: f[capacity, 3], those of
    the checkpoint, where the op graph is the same there.
    """

    name: str
    rounds: int
    topology: Topology
    differences: tuple[str, ...] | None = None
    numbers: Ints | None = None

    def formulas(self) -> dict[str, str]:
        """What every node computes, by its name, in the order of their birth."""
        topology = self.topology
        rows = sorted(topology.rows.items(), key=lambda item: (topology.born[item[1]], item[1]))
        return {name: formula(topology, row, self.numbers) for name, row in rows}

    def places(self) -> dict[str, tuple[float, ...]]:
        """Where the nodes are; none where the op graph has no places."""
        rows = self.topology.rows.items()
        return {name: place for name, row in rows if (place := place_of(self.topology, row)) is not None}

    def json(self) -> dict[str, Any]:
        topology, rows, places = self.topology, self.topology.rows, self.places()
        nodes = [
            {
                "name": name,
                "row": rows[name],
                "kind": kind_of(topology.kind[rows[name]]).name,
                "args": arguments(topology, rows[name]),
                "round": int(topology.born[rows[name]]),
                "formula": text,
                **({"place": list(places[name])} if name in places else {}),
            }
            for name, text in self.formulas().items()
        ]
        compared = self.differences is not None
        return {
            "rounds": self.rounds,
            "inputs": topology.inputs,
            "capacity": topology.capacity,
            "equal": not self.differences if compared else None,
            "differences": list(self.differences or ()),
            "nodes": nodes,
        }


def replay(
    run: Run | str | Path, *, at: int | None = None, checkpoint: Which = "last", plugins: Iterable[Any] = ()
) -> dict[str, Replay]:
    """The op graphs that grow in a run, by name, rebuilt from its log up to a checkpoint, and compared with that.

    at: after so many rounds of growth, which are then not compared. Refuses (E572) a log that is missing, of another
    spec or changed, and (E573) rounds that were never made.
    """
    run = run if isinstance(run, Run) else open_run(run, plugins=plugins)
    log = GrowthLog(run.folder)
    if not log.path.is_file():
        refuse("E572", f"{run.folder} has no {NAME}: no op graph grows in it")
    saved = run.files.load(checkpoint)
    known = int(saved.state["growth"]["lines"])
    lines = log.lines()
    if len(lines) < known:
        refuse("E572", f"{log.path} has {len(lines)} whole lines, and the checkpoint knows {known}")
    try:
        found = rebuild(lines[:known], run.files.lock.spec_sha256, until=at)
    except MutationError as error:
        refuse("E572", f"{log.path} cannot be replayed: {error.message}", fix=error.remedy or None)
    most = max(one.rounds for one in found.values())
    if at is not None and at > most:
        rounds = f"{most} round{'s' if most != 1 else ''}"
        refuse("E573", f"there is no round {at} of growth: the {checkpoint} checkpoint is after {rounds}")
    if at is not None:
        return {name: Replay(name, min(at, one.rounds), one.topology) for name, one in found.items()}
    tables = _tables(run, saved.model)
    made = {}
    for name, one in found.items():
        if name not in tables:
            refuse("E572", f"{log.path} is of an op graph `{name}`, and the spec has none")
        there, numbers = tables[name]
        wrong = tuple(differences(one.topology, there))
        made[name] = Replay(name, one.rounds, one.topology, wrong, None if wrong else numbers)
    return made


def placed(run: Run, checkpoint: Which = "last") -> tuple[dict[str, Topology], dict[str, list[list[float]]]]:
    """What a run's op graphs have become, by name, and where points are that are learned, by the name of their set."""
    tensors = run.files.load(checkpoint).model
    learned = {
        row.init.args[0].name: tensors[name].double().tolist()
        for name, row in run.spec.graph.storage.items()
        if row.init.kind == "places" and getattr(row.init.args[0], "learned", False)
    }
    return {name: topology for name, (topology, _) in _tables(run, tensors).items()}, learned


def _tables(run: Run, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Topology, Ints]]:
    """The op graphs of a checkpoint, and their numbers."""
    found = {}
    graph = run.spec.graph
    for _, node in walk(graph):
        if node.op == OP_GRAPH.name:
            start = node.attrs["start"]
            rows = {part: tensors[f"{node.id}.{part}"].numpy() for part in parts_of(start)}
            width = graph.types[node.value()].dims[-1]
            assert isinstance(width, int)
            table = topology_of(rows, int(width) - start.capacity, start.names)
            found[start.name] = table, tensors[f"{node.id}.numbers"].double().numpy()
    return found
