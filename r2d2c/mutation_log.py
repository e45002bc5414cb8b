"""The log of mutations: JSON lines from which the topology is rebuilt exactly.

The first line says of which spec the log is and what the op graph began as; each further one is a batch, with a
checksum of the table after it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from r2d2c.mutate import mutate
from r2d2c.mutations import Mutation, MutationError, from_json, refuse, to_json
from r2d2c.opgraph import Topology, per_kind

FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What a log rebuilds. at: the number of the last batch, -1 if there was none."""

    topology: Topology
    frozen: frozenset[str]
    at: int


def digest(topology: Topology) -> str:
    """A checksum of a table: equal tables have equal ones, also where ops were registered in another order."""
    codes = per_kind(topology.kind, lambda kind: zlib.crc32(kind.name.encode()))
    total = zlib.crc32(f"{topology.inputs} {topology.capacity} {topology.next}".encode())
    total = zlib.crc32(codes.astype("<i8").tobytes(), total)
    total = zlib.crc32(topology.args.astype("<i4").tobytes(), total)
    total = zlib.crc32(topology.born.astype("<i4").tobytes(), total)
    total = zlib.crc32("\n".join(name or "" for name in topology.names).encode(), total)
    if topology.places is not None:
        total = zlib.crc32(topology.places.astype("<f4").tobytes(), total)
    return f"{total:08x}"


def head(fingerprint: str, start: Topology, **more: Any) -> str:
    """The first line. fingerprint: of the spec, any text that other specs do not have; more: what else readers want."""
    return _dump({"mutations": FORMAT, "fingerprint": fingerprint, **more, "start": digest(start)})


def line(at: int, mutations: Sequence[Mutation], after: Topology, **more: Any) -> str:
    """One batch. at: its number; after: the topology it gave; more: what else a reader may want, such as the step."""
    steps = [to_json(mutation) for mutation in mutations]
    return _dump({"at": at, **more, "do": steps, "after": digest(after)})


def replay(lines: Iterable[str], fingerprint: str, start: Topology, *, until: int | None = None) -> Replayed:
    """Rebuild a topology from its log and what it began as. until: the number of the last batch to take.

    Raises `MutationError`: `other` for a log of another spec or beginning, `damaged` for lines that cannot be what
    was written.
    """
    rest = iter(lines)
    first = _read(next(rest, ""), 1)
    if first.get("mutations") != FORMAT:
        refuse("damaged", "this is no log of mutations, or of another version of r2d2c")
    if first.get("fingerprint") != fingerprint:
        other = f"the log is of another spec: it has the fingerprint {first.get('fingerprint')}, not {fingerprint}"
        refuse("other", other, remedy="replay it with the spec in its own run folder")
    if first.get("start") != digest(start):
        refuse("other", "the log is of an op graph that began as another one")
    found = Replayed(start, frozenset(), -1)
    for number, text in enumerate(rest, 2):
        data = _read(text, number)
        at, steps = data.get("at"), data.get("do")
        if not isinstance(at, int) or not isinstance(steps, list) or at <= found.at:
            refuse("damaged", f"line {number} of the log is no batch of mutations, or out of order")
        if until is not None and at > until:
            break
        try:
            made = mutate(found.topology, [from_json(step) for step in steps], at=at, frozen=found.frozen)
        except MutationError as error:
            refuse("damaged", f"line {number} of the log: {error.message}", name=error.name)
        if data.get("after") != digest(made.topology):
            refuse("damaged", f"line {number} of the log gives another op graph than it did in its run")
        found = Replayed(made.topology, made.frozen, at)
    return found


def _read(text: str, number: int) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        refuse("damaged", f"line {number} of the log is cut off or no JSON")
    return data


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
