"""``mutations.jsonl`` of a run: what its op graphs began as, and every round of their growth.

A line an op graph that grows, then a line a round, in the order things happened. A torn last line, of a machine that
stopped, counts as not written; a checkpoint knows how many lines belong to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from r2d2c.diagnostics import Sink
from r2d2c.mutation_log import Replayed, head, line, replay
from r2d2c.mutations import Mutation, MutationError, refuse
from r2d2c.opgraph import FREE, KINDS, NUMBER, Topology, empty
from r2d2c.opkinds import kind_of
from r2d2c.train.atomic import write_atomic

NAME = "mutations.jsonl"
_SIGNS = {"add": "+", "sub": "-", "mul": "*"}


@dataclass(frozen=True, slots=True)
class GrowthLog:
    """The log in a run's folder; ``OSError`` comes through."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / NAME

    def create(self, fingerprint: str, starts: Mapping[str, Topology]) -> int:
        """Begin it, with a line an op graph; how many lines there are. fingerprint: of the run's spec."""
        lines = [
            head(fingerprint, start, op_graph=name, began=to_data(start)) for name, start in starts.items()
        ]
        write_atomic(self.path, "".join(f"{text}\n" for text in lines).encode())
        return len(lines)

    def append(self, name: str, at: int, mutations: Sequence[Mutation], after: Topology, **more: Any) -> None:
        """Add a round, and have it on disk."""
        text = line(at, mutations, after, op_graph=name, **more)
        with self.path.open("ab") as stream:
            stream.write(f"{text}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())  # a checkpoint that counts this line must not be older than it is

    def lines(self) -> list[str]:
        """The whole lines; none where there is no log."""
        if not self.path.is_file():
            return []
        whole = self.path.read_bytes().split(b"\n")[:-1]
        return [text.decode("utf-8", "replace") for text in whole]

    def keep(self, count: int, sink: Sink) -> int:
        """Cut it to the lines that a checkpoint knows; how many are left. Warns (W574) if there are fewer."""
        lines = self.lines()
        if len(lines) > count or not self._ends():
            write_atomic(self.path, "".join(f"{text}\n" for text in lines[:count]).encode())
        if len(lines) < count:
            there = f"{self.path} has {len(lines)} whole lines, the checkpoint knows {count}"
            sink.report("W574", None, there)
        return min(len(lines), count)

    def _ends(self) -> bool:
        return not self.path.is_file() or self.path.read_bytes()[-1:] in (b"", b"\n")


@dataclass(frozen=True, slots=True, eq=False)
class Rebuilt:
    """What a log makes of one op graph. rounds: how many of growth there were."""

    replayed: Replayed
    rounds: int

    @property
    def topology(self) -> Topology:
        return self.replayed.topology


def rebuild(lines: Iterable[str], fingerprint: str, *, until: int | None = None) -> dict[str, Rebuilt]:
    """The op graphs of a log by name, after all rounds, or after the first ``until`` of each.

    Raises `MutationError`: `other` for a log of another spec, `damaged` for one that was changed.
    """
    heads: dict[str, str] = {}
    rounds: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for number, text in enumerate(lines, 1):
        data = _read(text, number)
        name = data["op_graph"]
        if "mutations" in data and name not in heads:
            heads[name], rounds[name], counts[name] = text, [], 0
        elif name in rounds:
            rounds[name].append(text)
            counts[name] += data.get("at") != 0  # what is frozen at first is no round
        else:
            refuse("damaged", f"line {number} of the log is of `{name}`, and nothing says how that began")
    if not heads:
        refuse("damaged", "the log is empty")
    found = {}
    for name, first in heads.items():
        start = of_data(json.loads(first).get("began"))
        made = replay([first, *rounds[name]], fingerprint, start, until=until)
        found[name] = Rebuilt(made, counts[name])
    return found


def _read(text: str, number: int) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("op_graph"), str):
        refuse("damaged", f"line {number} of the log is cut off or no line of it")
    return data


def to_data(topology: Topology) -> dict[str, Any]:
    """A topology as what JSON can hold: the nodes with their rows, arguments by name, None for an own number.

    With places, every node has its own as well.
    """
    nodes: list[list[Any]] = [
        [row, name, kind_of(topology.kind[row]).name, arguments(topology, row), int(topology.born[row])]
        for name, row in sorted(topology.rows.items(), key=lambda item: item[1])
    ]
    if topology.places is not None:
        for node in nodes:
            node.append(topology.places[node[0]].tolist())
    whole = {"inputs": topology.inputs, "capacity": topology.capacity, "next": topology.next}
    return {**whole, "nodes": nodes, **({} if topology.places is None else {"places": True})}


def arguments(topology: Topology, row: int) -> list[str | None]:
    """What a node reads: names of inputs and nodes, None for a number of its own."""
    columns = topology.args[row, : kind_of(topology.kind[row]).arity].tolist()
    return [None if column == NUMBER else column_name(topology, column) for column in columns]


def column_name(topology: Topology, column: int) -> str:
    if column < topology.inputs:
        return f"x{column}"
    return str(topology.names[column - topology.inputs])


def of_data(data: Any) -> Topology:
    """The topology that `to_data` wrote. Raises `MutationError` (`damaged`) for anything else."""
    try:
        start = empty(data["inputs"], data["capacity"])
        kind, args, born = start.kind.copy(), start.args.copy(), start.born.copy()
        places = np.zeros((start.capacity, 3), np.float32) if data.get("places") else None
        names: list[str | None] = [None] * start.capacity
        columns = {f"x{column}": column for column in range(start.inputs)}
        columns |= {name: start.inputs + row for row, name, *_ in data["nodes"]}
        for row, name, word, given, birth, *where in data["nodes"]:
            if places is not None:
                (places[row],) = where
            names[row], kind[row], born[row] = name, KINDS[word], birth
            for place, arg in enumerate(given):
                args[row, place] = NUMBER if arg is None else columns[arg]
        if (kind != FREE).sum() != len(data["nodes"]):
            raise ValueError("two nodes in a row")
        return replace(
            start, kind=kind, args=args, born=born, names=tuple(names), next=int(data["next"]), places=places
        )
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise MutationError("damaged", f"the log does not say how the op graph began ({error})") from None


def differences(one: Topology, other: Topology) -> list[str]:
    """What two op graphs do not share, node by node."""
    found = []
    mine, theirs = one.rows, other.rows
    for name in sorted({*mine, *theirs}, key=lambda name: (len(name), name)):
        if name not in mine or name not in theirs:
            found.append(f"`{name}` is in the {'checkpoint' if name in theirs else 'log'} alone")
            continue
        here, there = (formula(topology, topology.rows[name]) for topology in (one, other))
        if here != there:
            found.append(f"`{name}` is {here} by the log, {there} in the checkpoint")
        elif mine[name] != theirs[name]:
            found.append(
                f"`{name}` is in row {mine[name]} by the log, in row {theirs[name]} in the checkpoint"
            )
        elif (places := tuple(map(place_of, (one, other), (mine[name], theirs[name]))))[0] != places[1]:
            found.append(f"`{name}` is at {places[0]} by the log, at {places[1]} in the checkpoint")
        elif one.born[mine[name]] != other.born[theirs[name]]:
            births = int(one.born[mine[name]]), int(other.born[theirs[name]])
            found.append(
                f"`{name}` came in round {births[0]} by the log, in round {births[1]} in the checkpoint"
            )
    if not found and (one.inputs, one.capacity, one.next) != (other.inputs, other.capacity, other.next):
        found.append("they have other sizes, or another next name")
    return found


def place_of(topology: Topology, row: int) -> tuple[float, ...] | None:
    """Where a node is; None where there are no places."""
    return None if topology.places is None else tuple(topology.places[row].tolist())


def formula(topology: Topology, row: int, numbers: np.ndarray[Any, Any] | None = None) -> str:
    """A node as text, ``gauss(x3, o1)``; its own numbers as `p`, or by their values, f[capacity, 3]."""
    values = [
        (f"{numbers[row, place]:.4g}" if numbers is not None else "p") if name is None else name
        for place, name in enumerate(arguments(topology, row))
    ]
    word = kind_of(topology.kind[row]).name
    return f" {_SIGNS[word]} ".join(values) if word in _SIGNS else f"{word}({', '.join(values)})"
