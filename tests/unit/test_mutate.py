"""Mutations of op graphs, against functions of numbers written by hand and evaluated a node at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from r2d2c.lower.opgraph import columns, load
from r2d2c.mutate import (
    Add,
    AddInputs,
    Freeze,
    Limits,
    Merge,
    Mutation,
    MutationError,
    Prune,
    Split,
    Thaw,
    Widen,
    apply,
    mutate,
)
from r2d2c.mutate_checks import build, commutes, constant, evaluate, problems
from r2d2c.mutation_log import digest
from r2d2c.opgraph import ARITY, KINDS, OP_KINDS, Topology, depths, plan
from r2d2c.train import growth_rows
from tests.unit.mutation_oracle import FORMULAS, NODES, make, outputs, some_x, weights


def engine(topology: Topology, numbers: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    zeros, ones = torch.zeros(topology.capacity).to(x), torch.ones(topology.capacity).to(x)
    return columns(load(plan(topology)), x, numbers, zeros, ones)[0]


def refused(reason: str, topology: Topology, *mutations: Mutation, **options: object) -> MutationError:
    before = digest(topology)
    with pytest.raises(MutationError) as caught:
        mutate(topology, mutations, **options)  # type: ignore[arg-type]
    assert caught.value.reason == reason, caught.value
    assert digest(topology) == before
    return caught.value


def test_explicit_nodes_in_any_order_compute_what_they_say():
    topology, numbers = make()
    shuffled, other = build(3, 10, NODES[::-1])
    x, [a, b, c] = torch.tensor([[0.3, -1.2, 0.8]], dtype=torch.float64), [0.3, -1.2, 0.8]
    total = (a + b) * 0.5
    near = math.exp(-((c - total) ** 2))
    by_hand = {"gate": math.sin(total) / (1 + math.exp(-near)), "side": b * -0.75 + c, "n1": near}
    for table, own in ((topology, numbers), (shuffled, torch.tensor(other))):
        shown = engine(table, own, x)[0]
        for name, value in by_hand.items():
            assert shown[3 + table.rows[name]].item() == pytest.approx(value, abs=1e-12)
        assert not problems(table)


@pytest.mark.parametrize(
    ("reason", "nodes", "words"),
    [
        (
            "cycle",
            [Add("a", "add", ("x0", "c")), Add("b", "sin", ("a",)), Add("c", "cos", ("b",))],
            "`a` reads",
        ),
        ("cycle", [Add("a", "add", ("x0", "a"))], "`a` reads `a`"),
        ("arity", [Add("a", "add", ("x0",))], "takes 2 arguments, not 1"),
        ("arity", [Add("a", "sin", ("x0", 1.0))], "takes 1 argument, not 2"),
        ("kind", [Add("a", "plus", ("x0", "x1"))], "no op `plus`"),
        ("unknown", [Add("a", "add", ("x0", "x3"))], "there are 3 inputs"),
        ("unknown", [Add("a", "add", ("x0", "b"))], "no input and no node"),
        ("dead", [Add("a", "add", (1.0, 2.0))], "reads no column"),
        ("dead", [Add("a", "sub", ("x0", "x0"))], "the same for all inputs"),
        ("dead", [Add("a", "gauss", ("x1", "x1"))], "the same for all inputs"),
        ("dead", [Add("a", "mul", ("x0", 0.0))], "the same for all inputs"),
        ("number", [Add("a", "mul", ("x0", math.nan))], "starts at nan"),
        ("name", [Add("a", "sin", ("x0",)), Add("a", "cos", ("x0",))], "there is a node `a` already"),
        ("name", [Add("x7", "sin", ("x0",))], "the name of an input"),
        ("name", [Add("a b", "sin", ("x0",))], "no name"),
        ("full", [Add(f"a{at}", "sin", ("x0",)) for at in range(11)], "11 nodes, and room for 10"),
    ],
)
def test_explicit_nodes_that_cannot_be_are_refused(reason, nodes, words):
    with pytest.raises(MutationError, match=words) as caught:
        build(3, 10, nodes)
    assert caught.value.reason == reason


def test_a_cycle_is_shown_in_reading_order():
    nodes = [Add("a", "add", ("x0", "c")), Add("b", "sin", ("a",)), Add("c", "cos", ("b",))]
    with pytest.raises(MutationError) as caught:
        build(3, 10, [*nodes, Add("behind", "sin", ("c",))])
    assert "`a` reads `c` reads `b` reads `a`" in caught.value.message


def test_constants_and_swaps_are_found_by_trying():
    assert constant("sub", ("a", "a")) and constant("mul", ("a", 0.0)) and constant("tanh", (0.5,))
    assert (
        not constant("sub", ("a", "b")) and not constant("max", ("a", 5.0)) and not constant("relu", ("a",))
    )
    assert [kind.name for kind in OP_KINDS if commutes(kind.name)] == [
        "add",
        "mul",
        "max",
        "min",
        "gauss",
        "mean",
        "hypot",
    ]
    for kind, formula in FORMULAS.items():
        args = np.array([[0.7, -1.5], [-0.2, 0.4], [2.0, 1.1]])[: ARITY[KINDS[kind]]]
        expected = [formula(*column) for column in args.T]
        np.testing.assert_allclose(evaluate(kind, list(args)), expected, rtol=1e-12)


def test_adding_keeps_the_function_to_the_last_bit_and_the_new_column_can_learn():
    topology, numbers = make()
    readout, x = weights(topology).float(), some_x(64).float()
    numbers = numbers.float()
    before = engine(topology, numbers, x)
    result = before @ readout.T
    new = [Add("n2", "mul", ("gate", 1.25)), Add("n3", "max", ("n2", "side"))]
    grown = mutate(topology, new, at=7)
    growth_rows.numbers(numbers, grown.change)
    growth_rows.mix(readout, grown.change)
    after = engine(grown.topology, numbers, x)
    kept = torch.cat([torch.ones(3, dtype=torch.bool), torch.from_numpy(topology.live)])
    assert torch.equal(after[:, kept], before[:, kept])
    assert torch.equal(after @ readout.T, result)
    assert numbers[6].tolist() == [0.0, 1.25, 0.0]
    assert grown.topology.born[[6, 7]].tolist() == [7, 7] and grown.topology.next == 4
    weight = readout.clone().requires_grad_()
    (engine(grown.topology, numbers, x) @ weight.T).square().sum().backward()
    assert weight.grad is not None
    assert (weight.grad[:, [9, 10]] != 0).all()


def test_pruning_a_leaf_equals_zeroing_its_column():
    topology, numbers = make()
    readout, x = weights(topology), some_x()
    zeroed = readout.clone()
    zeroed[:, 3 + topology.rows["gate"]] = 0
    expected = engine(topology, numbers, x) @ zeroed.T
    pruned = mutate(topology, [Prune("gate")])
    growth_rows.mix(readout, pruned.change)
    growth_rows.numbers(numbers, pruned.change)
    assert torch.equal(engine(pruned.topology, numbers, x) @ readout.T, expected)
    assert torch.equal(readout, zeroed)


def test_pruning_with_dependents_takes_all_that_reads_it_and_no_more():
    topology, numbers = make()
    error = refused("read", topology, Prune("n0"))
    assert "`n0` is read by `wave` and 1 more" in error.message
    numbers[topology.rows["n0"]] = 3.0
    pruned = mutate(topology, [Prune("n0", dependents=True)])
    assert set(pruned.topology.rows) == {"total", "side"}
    growth_rows.numbers(numbers, pruned.change)
    assert not numbers[1].any() and numbers[5].tolist() == [0.0, -0.75, 0.0]
    assert not problems(pruned.topology)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_splitting_keeps_the_function_and_the_readers_move(share):
    topology, numbers = make()
    readout, x = weights(topology), some_x()
    numbers[1, 1] = 0.625  # learned since
    expected = outputs(topology, numbers, readout, x)
    split = mutate(topology, [Split("n0", "n2", readers=("n1",), share=share)])
    growth_rows.numbers(numbers, split.change)
    growth_rows.mix(readout, split.change)
    old, new = split.topology.rows["n0"], split.topology.rows["n2"]
    assert split.topology.args[split.topology.rows["n1"]].tolist() == [2, 3 + new, -1]
    assert split.topology.args[split.topology.rows["wave"]].tolist() == [3 + old, -1, -1]
    assert numbers[new].tolist() == [0.0, 0.625, 0.0]
    torch.testing.assert_close(outputs(split.topology, numbers, readout, x), expected, rtol=1e-12, atol=1e-12)
    whole = weights(topology)[:, 3 + old]
    torch.testing.assert_close(readout[:, 3 + new], whole * share)
    torch.testing.assert_close(readout[:, 3 + old], whole * (1 - share))


def test_merging_twins_keeps_the_function():
    topology, numbers = make()
    numbers[1, 1] = 0.625
    split = mutate(topology, [Split("n0", "n2", readers=("n1",))])
    readout = weights(split.topology)
    growth_rows.numbers(numbers, split.change)
    expected = outputs(split.topology, numbers, readout, some_x())
    merged = mutate(split.topology, [Merge("n2", "n0")])
    growth_rows.numbers(numbers, merged.change)
    growth_rows.mix(readout, merged.change)
    assert "n0" not in merged.topology.rows and merged.topology.count == topology.count
    assert numbers[merged.topology.rows["n2"]].tolist() == [0.0, 0.625, 0.0]
    actual = outputs(merged.topology, numbers, readout, some_x())
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_batch_does_what_its_mutations_do_one_by_one():
    steps: list[Mutation] = [
        Split("n0", "n2", readers=("wave",), share=0.5),
        Add("n3", "mul", ("n2", 2.0)),
        Split("n3", "n4"),
        Prune("gate"),
        Add("n5", "relu", ("side",)),
        Merge("n4", "n3"),
        Merge("n2", "n0"),
        Prune("n5"),
        Freeze("side"),
        Widen(12),
        AddInputs(2),
        Add("n6", "sub", ("n4", "x4")),
    ]
    topology, start = make()
    together = mutate(topology, steps, at=3)
    one, frozen = topology, frozenset[str]()
    numbers, readout = start.clone(), weights(topology)
    joint_numbers, joint_readout = start.clone(), weights(topology)
    for step in steps:
        single = mutate(one, [step], at=3, frozen=frozen)
        numbers = growth_rows.grown(numbers, single.change, "rows")
        readout = growth_rows.grown(readout, single.change, "columns")
        growth_rows.numbers(numbers, single.change)
        growth_rows.mix(readout, single.change)
        one, frozen = single.topology, single.frozen
    joint_numbers = growth_rows.grown(joint_numbers, together.change, "rows")
    joint_readout = growth_rows.grown(joint_readout, together.change, "columns")
    growth_rows.numbers(joint_numbers, together.change)
    growth_rows.mix(joint_readout, together.change)
    assert digest(one) == digest(together.topology) and frozen == together.frozen == {"side"}
    assert torch.equal(numbers, joint_numbers)
    torch.testing.assert_close(readout, joint_readout)
    assert one.inputs == 5 and one.capacity == 12 and not problems(one)
    assert joint_readout[:, 3:5].eq(0).all() and joint_readout[:, :3].equal(weights(topology)[:, :3])


def test_what_cannot_be_is_refused_and_changes_nothing():
    topology, _ = make()
    refused("empty", topology, *[Prune(name, dependents=True) for name in ("total", "side")])
    refused("empty", topology, Prune("gate"), limits=Limits(least=6))
    refused("unknown", topology, Prune("gone"))
    refused("unknown", topology, Prune("gate"), Add("n2", "sin", ("gate",)))
    refused("cycle", topology, Merge("gate", "n0"))
    refused("same", topology, Merge("gate", "gate"))
    refused("same", topology, Split("wave", "n2"))
    refused("unknown", topology, Split("n0", "n2", readers=("gate",)))
    refused("share", topology, Split("n0", "n2", share=1.5))
    refused("name", topology, Add("n1", "sin", ("x0",)))
    refused("name", topology, Prune("n1", dependents=True), Add("n1", "sin", ("x0",)))
    refused("arity", topology, Add("n2", "mul", ("x0",)))
    refused("limit", topology, Add("n2", "sin", ("x0",)), limits=Limits(nodes=6))
    refused("limit", topology, Add("n2", "sin", ("gate",)), limits=Limits(depth=4))
    deeper = Add("n2", "sin", ("side",))
    refused("limit", topology, deeper, Merge("gate", "side"), limits=Limits(depth=4))
    assert (
        depths(mutate(topology, [deeper, Merge("gate", "side")], limits=Limits(depth=5)).topology).max() == 5
    )
    refused("dead", topology, Add("n2", "sub", ("n1", "wave")), Merge("wave", "n1"))
    refused("frozen", topology, Freeze("gate"), Prune("gate"))
    refused("frozen", topology, Prune("n0", dependents=True), frozen=frozenset({"gate"}))
    refused("capacity", topology, Widen(10))
    refused("inputs", topology, AddInputs(0))
    four = [Add(f"n{at}", "sin", (f"x{at % 3}",)) for at in range(2, 6)]
    assert apply(topology, *four).count == 10
    refused("full", topology, *four, Add("n6", "cos", ("x0",)))
    assert mutate(topology, [Freeze("gate"), Thaw("gate"), Prune("gate")]).frozen == frozenset()
