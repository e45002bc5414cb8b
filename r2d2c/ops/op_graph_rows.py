"""The table of an op graph as a model's buffers have it, and as `Topology`. numpy, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from r2d2c.mutate import mutate
from r2d2c.mutate_checks import build
from r2d2c.mutation_choice import Bias, Draw, additions
from r2d2c.mutations import Add, Limits
from r2d2c.op_places import columns_of, place
from r2d2c.opgraph import FREE, Ints, Topology, empty
from r2d2c.ops.op_graph import PLACE, Start, Written
from r2d2c.places import Placing, coordinates
from r2d2c.seeds import seed_of

# What an op's own number begins at that the spec does not say: from a normal distribution.
SPREAD = 1.0


def table_of(kind: Ints, args: Ints, inputs: int) -> Topology:
    """What is computed, without the names of ops. kind: i64[capacity]; args: i64[capacity, 3]."""
    table = empty(inputs, len(kind))
    return replace(table, kind=kind.astype(np.int32), args=args.astype(np.int32))


def topology_of(rows: Mapping[str, Ints], inputs: int, written: Sequence[str]) -> Topology:
    """The table of buffers, by their names in `ops.op_graph.parts_of`. written: the names that the spec gives (`Start.names`)."""
    table = table_of(rows["kind"], rows["args"], inputs)
    numbers = np.where(table.live, rows["number"], FREE).tolist()
    names = tuple(None if number < 0 else name_of(number, written) for number in numbers)
    born, following = rows["born"].astype(np.int32), int(rows["next"][0])
    places = rows[PLACE].astype(np.float32) if PLACE in rows else None
    return replace(table, born=born, names=names, next=following, places=places)


def name_of(number: int, written: Sequence[str]) -> str:
    """The name of the op with a number: the first ones are those that the spec writes."""
    return written[number] if number < len(written) else f"n{number}"


def rows_of(topology: Topology, written: Sequence[str]) -> dict[str, Ints]:
    """The buffers that say the same as a topology."""
    numbers = {name: number for number, name in enumerate(written)}
    found = [
        FREE if name is None else numbers[name] if name in numbers else int(name[1:])
        for name in topology.names
    ]
    rows = {
        "kind": topology.kind.astype(np.int64),
        "args": topology.args.astype(np.int64),
        "number": np.array(found, np.int64),
        "born": topology.born.astype(np.int64),
        "next": np.array([topology.next], np.int64),
    }
    return rows if topology.places is None else {**rows, PLACE: topology.places}


@lru_cache(64)
def first_rows(start: Start, inputs: int, seed: int) -> dict[str, Ints]:
    """The buffers and the numbers, f64[capacity, 3], with which an op graph begins. The same seed gives the same.

    seed: that of the model; the ops and the places draw from its hashes with their names.
    """
    generator = np.random.default_rng(seed_of(seed, start.name))
    nodes = [_added(node, generator) for node in start.nodes]
    topology, numbers = build(inputs, start.capacity, nodes)
    topology = replace(topology, next=len(nodes))
    points = None
    if start.places is not None:
        points = points_of(start.places, seed)
        topology = replace(topology, places=place(topology, points))
    if start.random:
        topology, numbers = _grown(topology, numbers, start, generator, points)
    return {**rows_of(topology, start.names), "numbers": numbers}


def points_of(places: Placing, seed: int) -> Ints:
    """f64[n, 3], the points of a set as f32 holds them; ``seed`` is that of the model."""
    found: Ints = coordinates(places, seed).astype(np.float32).astype(np.float64)
    return found


def _added(node: Written, generator: np.random.Generator) -> Add:
    drawn = generator.normal(0.0, SPREAD, len(node.args)).tolist()
    return Add(
        node.name,
        node.kind,
        tuple(number if arg is None else arg for arg, number in zip(node.args, drawn, strict=True)),
    )


def _grown(
    topology: Topology, numbers: Ints, start: Start, generator: np.random.Generator, points: Ints | None
) -> tuple[Topology, Ints]:
    """With the random ops; fewer where nothing new is found. They come in batches, so that they read each other."""
    limits = Limits(depth=start.depth)
    missing, numbers = start.random, numbers.copy()
    while missing:
        many = min(missing, max(1, (topology.inputs + topology.count) // 4))
        bias = Bias()
        if points is not None:
            bias = Bias(places=columns_of(topology, points), reach=start.reach, wire=start.wire)
        found = additions(topology, many, generator, Draw(start.kinds, bias=bias), limits=limits)
        if not found:
            break
        done = mutate(topology, found)
        topology, change = done.topology, done.change
        numbers[change.touched] = change.numbers
        missing -= len(found)
    return topology, numbers
