"""Ops that overflow, and new ones that would: they go first, and are not added."""

from __future__ import annotations

import numpy as np
import pytest

from r2d2c.mutate import Add, mutate
from r2d2c.mutate_checks import build
from r2d2c.mutation_choice import Draw, additions, prunes
from r2d2c.opgraph import Topology
from r2d2c.train.growth_scores import Seen, overflows, sound, worth_of_finite

NODES = [
    Add("near", "gauss", ("x0", "x1")),
    Add("one", "square", ("x0",)),
    Add("two", "square", ("one",)),
    Add("three", "mul", ("two", "two")),
]


def looked_at(scale: float = 1e7) -> tuple[Seen, Topology]:
    """The columns as f32 has them; x2 is the same for all."""
    topology, _ = build(3, 9, NODES)
    x = np.random.default_rng(0).normal(size=(20, 3)) * [scale, 1, 0] + [0, 0, 0.5]
    with np.errstate(all="ignore"):
        one = np.square(x[:, 0].astype(np.float32))
        two = np.square(one)
        values = [np.exp(-np.square(x[:, 0] - x[:, 1])), one, two, two * two]
    columns = np.concatenate([x, np.stack(values, 1), np.zeros((20, 5))], 1)
    return Seen(columns.astype(np.float64)), topology


def test_ops_that_overflow_are_worth_least_and_go_first() -> None:
    seen, topology = looked_at()
    assert overflows(seen, topology).tolist() == [False, False, False, True, *[False] * 5]
    worth = np.array([0.1, 5.0, 6.0, np.nan, *[0.0] * 5])
    found = worth_of_finite(worth, seen, topology)
    assert np.isfinite(found).all() and found[:3].tolist() == [0.1, 5.0, 6.0]
    assert [prune.name for prune in prunes(topology, found, 1)] == ["three"]
    fine, topology = looked_at(1.0)
    assert not overflows(fine, topology).any()


@pytest.mark.parametrize(
    ("new", "good"),
    [
        (Add("n9", "sin", ("one",)), True),
        (Add("n9", "square", ("two",)), False),  # 1e28 squared: more than f32 holds, less than f64
        (Add("n9", "mul", ("two", 1e12)), False),
        (Add("n9", "mul", ("two", "x1")), True),
        (Add("n9", "tanh", ("three",)), False),  # 1 where it is infinite: one value
        (Add("n9", "mul", ("near", 0.0)), False),
        (Add("n9", "relu", ("x2",)), False),
        (Add("n9", "sub", ("three", "three")), False),
        (Add("n9", "max", ("x2", "x1")), True),
    ],
    ids=str,
)
def test_new_ops_are_tried_on_the_samples(new: Add, good: bool) -> None:
    seen, topology = looked_at()
    assert sound(seen, topology)(new) is good


def test_what_is_added_is_finite_and_not_the_same_for_all_samples() -> None:
    seen, topology = looked_at()
    accept = sound(seen, topology)
    draw = Draw(kinds=("square", "mul", "div", "relu", "exp"))
    plain = additions(topology, 5, np.random.default_rng(3), draw)
    found = additions(topology, 5, np.random.default_rng(3), draw, accept=accept)
    assert len(found) == 5 and all(map(accept, found)) and not all(map(accept, plain))
    assert mutate(topology, found).topology.count == 9
    assert additions(topology, 5, np.random.default_rng(3), draw, accept=lambda new: True) == plain
    assert additions(topology, 5, np.random.default_rng(3), draw, accept=lambda new: False) == []
