"""Op graphs of many ops: what is drawn, pruned and measured takes time in proportion to their ops, and is the same."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from r2d2c.mutate import Prune, mutate
from r2d2c.mutate_checks import Readers, commutes, downstream
from r2d2c.mutation_choice import Draw, additions, generator
from r2d2c.opgraph import NUMBER, OP_KINDS, Topology, empty
from r2d2c.ops.op_graph import Start
from r2d2c.ops.op_graph_rows import first_rows, topology_of
from r2d2c.train.growth_pairs import merges
from r2d2c.train.growth_scores import PART, RARE, Seen, by_parts, scores, useful

KINDS = ("add", "sub", "mul", "max", "gauss", "gated")


def grown(inputs: int, capacity: int, rounds: int, many: int, seed: int = 0) -> Topology:
    topology = empty(inputs, capacity)
    for at in range(rounds):
        topology = mutate(topology, additions(topology, many, generator(seed, at))).topology
    return topology


def test_readers_are_those_of_the_table_also_after_rows_went() -> None:
    topology = grown(4, 300, 10, 25)
    readers = Readers(topology.args, topology.inputs)
    for row in range(300):
        column = topology.inputs + row
        assert readers.of(row) == np.flatnonzero((topology.args == column).any(1)).tolist()
        assert readers.downstream(row) == downstream(topology.args, topology.inputs, [row])
        assert len(readers.downstream(row, 5)) >= min(6, len(readers.downstream(row)))
    # Many prunes at once are those one by one.
    names = [str(name) for name in topology.names[3:250:7]]
    together, one_by_one = topology, topology
    steps = []
    for name in names:
        if name in one_by_one.rows:
            steps.append(Prune(name, dependents=True))
            one_by_one = mutate(one_by_one, steps[-1:]).topology
    together = mutate(topology, steps).topology
    assert len(steps) > 10 and one_by_one.count > 5
    for part in ("kind", "args", "born"):
        assert np.array_equal(getattr(together, part), getattr(one_by_one, part))
    assert together.names == one_by_one.names


def test_nothing_is_drawn_that_is_there() -> None:
    """Of two inputs and three kinds most is soon there: what is drawn then is new, by a look at every op."""
    topology = empty(2, 60)
    draw = Draw(("add", "mul", "sub"), number=0.0)
    for at in range(8):
        topology = mutate(topology, additions(topology, 6, generator(3, at), draw)).topology
    computed = []
    for row in np.flatnonzero(topology.live).tolist():
        kind = OP_KINDS[topology.kind[row]].name
        args = [arg for arg in topology.args[row].tolist() if arg != NUMBER]
        computed.append((kind, tuple(sorted(args) if commutes(kind) else args)))
    assert len(set(computed)) == len(computed) > 25


def test_scores_by_parts_are_those_of_the_whole() -> None:
    random = np.random.default_rng(0)
    columns = random.normal(size=(40, PART + 9)).astype(np.float32)
    columns[:, 5], columns[3, 7], columns[:, PART + 2] = 1.0, np.inf, 0.0
    columns[0, PART + 2] = 50.0  # one sample of 40 that is apart from all others
    wide = columns.astype(np.float64)
    assert np.array_equal(by_parts(lambda some: some.std(0), columns[:, 8:]), wide[:, 8:].std(0))
    with np.errstate(all="ignore"):
        away = np.square(wide - np.median(wide, axis=0))
    few = int(RARE * len(wide))
    assert few == 0
    wanted = np.isfinite(wide).all(0) & (away.sum(0) > 0)
    assert np.array_equal(useful(columns), wanted) and not wanted[[5, 7]].any()
    for table in (columns, np.asfortranarray(columns)):
        topology = empty(9, PART)
        found = scores(topology, Seen(table, wide), [wide[:2]], 0, wanted=("effect", "taylor"))
        with np.errstate(all="ignore"):
            effect = wide.std(0) * np.sqrt(np.square(wide[:2]).sum(0))
            taylor = np.abs((wide * wide).sum(0))
        assert np.allclose(found["effect"], effect[9:], rtol=1e-12, equal_nan=True)
        assert np.allclose(found["taylor"], taylor[9:], rtol=1e-12, equal_nan=True)


def test_a_sample_of_a_hundred_that_is_apart_is_of_no_use() -> None:
    columns = np.zeros((300, 2), np.float32)
    columns[:3, 0] = 1.0  # a hundredth
    columns[:4, 1] = 1.0
    assert useful(columns).tolist() == [False, True]


def best(act: Callable[[], object]) -> float:
    """Seconds, of three tries: others may be busy."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.parametrize("what", ["draw", "prune", "merge"])
def test_four_times_the_ops_take_about_four_times_as_long(what: str) -> None:
    """Proportional work takes 4 times as long, work for each pair of ops 16 times."""

    def seconds(count: int) -> float:
        start = Start("g", count, KINDS, (), count)
        if what == "draw":
            return best(lambda: first_rows.__wrapped__(start, 16, 0))
        topology = topology_of(first_rows(start, 16, 0), 16, ())
        if what == "prune":
            rows = np.flatnonzero(topology.live)[::-1]
            steps = [Prune(str(topology.names[row]), dependents=True) for row in rows[: count // 2].tolist()]
            return best(lambda: mutate(topology, steps))
        columns = np.random.default_rng(0).normal(size=(8, 16 + count)).astype(np.float32)
        return best(lambda: merges(topology, columns, 4, shifts=True))

    seconds(500)
    assert seconds(16_000) < 9 * seconds(4_000)
