"""Rows of parameters and of optimizer state follow their nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from r2d2c.mutate import (
    Add,
    AddInputs,
    Mutation,
    Prune,
    Split,
    Widen,
    mutate,
)
from r2d2c.opgraph import Topology
from r2d2c.train import growth_rows
from r2d2c.train.flat import FlatStep
from r2d2c.train.optimizers import OPTIMIZERS, OptimizerRecord, build_optimizer
from tests.unit.mutation_oracle import make, weights


def parameters(topology: Topology) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.arange(1.0, 3 * topology.capacity + 1).view(-1, 3)
    numbers[torch.from_numpy(~topology.live)] = 0
    return torch.nn.Parameter(numbers), torch.nn.Parameter(weights(topology).float())


ELEMENTWISE = [record for record in OPTIMIZERS if record.elementwise]
RESHAPING: list[Mutation] = [Widen(13), AddInputs(1)]


@pytest.mark.parametrize("record", ELEMENTWISE, ids=lambda record: record.name)
@pytest.mark.parametrize("wider", [False, True])
def test_optimizer_state_follows_its_nodes_and_new_ones_start_as_in_a_new_optimizer(
    record: OptimizerRecord, wider: bool
) -> None:
    arguments = {"momentum": 0.9} if record.name == "sgd" else {}
    if record.name == "adagrad":
        arguments = {"initial_accumulator_value": 0.25}
    topology, _ = make()
    numbers, readout = parameters(topology)
    both: list[tuple[torch.Tensor, growth_rows.Axis]] = [(numbers, "rows"), (readout, "columns")]
    optimizer = build_optimizer(record, arguments, [numbers, readout])
    generator_ = torch.Generator().manual_seed(5)
    for _ in range(3):
        for parameter, axis in both:
            parameter.grad = torch.randn(parameter.shape, generator=generator_)
            free = parameter.grad if axis == "rows" else parameter.grad[:, 3:].T
            free[torch.from_numpy(~topology.live)] = 0
        optimizer.step()
    steps: list[Mutation] = [
        Prune("gate"),
        Add("n2", "sin", ("wave",)),
        Prune("side"),
        Split("n0", "n3", ("n1",)),
    ]
    made = mutate(topology, [*steps, *(RESHAPING if wider else [])])
    old = [
        {key: value.clone() for key, value in optimizer.state[p].items() if value is not None}
        for p, _ in both
    ]
    for at, (parameter, axis) in enumerate(both):
        group = optimizer.param_groups[0]
        whole = growth_rows.grown(parameter, made.change, axis)
        if wider:
            grown = torch.nn.Parameter(whole)
            growth_rows.regrow(optimizer, parameter, grown, made.change, axis)
            parameter = grown
        (growth_rows.numbers if axis == "rows" else growth_rows.mix)(parameter, made.change)
        growth_rows.move_state(optimizer.state[parameter], made.change, axis, parameter, group)
        assert any(entry is parameter for entry in group["params"])
        # The oracle of what is new: a new optimizer after a step without gradients.
        twin = torch.nn.Parameter(parameter.detach().clone())
        fresh = build_optimizer(
            record, {**arguments, "lr": 0.0} if record.name != "rprop" else arguments, [twin]
        )
        twin.grad = torch.zeros_like(twin)
        fresh.step()
        names = ["total", "n0", "wave", "n1", "n2", "n3"]
        before = {**topology.rows, "n3": topology.rows["n0"]}
        first_old, first = (3, made.topology.inputs) if axis == "columns" else (0, 0)
        for key, value in old[at].items():
            now, new = optimizer.state[parameter][key], fresh.state[twin][key]
            if key == "exp_inf":  # the steps of adamax have put their eps where no gradient was
                now, new, value = (torch.where(t <= 1e-8, 0.0, t) for t in (now, new, value))
            if value.ndim == 0:
                assert torch.equal(now, value)
                continue
            now, value, new = (t if axis == "rows" else t.T for t in (now, value, new))
            assert len(now) == first + made.topology.capacity
            for name in names:
                place = first + made.topology.rows[name]
                there = value[first_old + before[name]] if name in before else new[place]
                assert torch.equal(now[place], there), (key, name)
            for row in np.flatnonzero(~made.topology.live) + first:
                assert torch.equal(now[row], new[row]), (key, row)
            if axis == "columns":
                assert torch.equal(now[:3], value[:3])
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_a_flat_optimizer_does_as_a_plain_one():
    record = next(record for record in OPTIMIZERS if record.name == "adamw")
    topology, _ = make()
    plain, flat = parameters(topology), parameters(topology)
    one = build_optimizer(record, {"lr": 0.1}, plain)
    other = FlatStep({"numbers": flat[0], "readout": flat[1]}, record, {"lr": 0.1})
    made = mutate(topology, [Prune("gate"), Add("n2", "mul", ("wave", 0.75)), Split("n0", "n3", ("n1",))])
    generator_ = torch.Generator().manual_seed(5)
    for step in range(4):
        if step == 2:
            for numbers, readout in (plain, flat):
                growth_rows.numbers(numbers, made.change)
                growth_rows.mix(readout, made.change)
            states = other.state()
            for at, (name, axis) in enumerate((("numbers", "rows"), ("readout", "columns"))):
                group = one.param_groups[0]
                growth_rows.move_state(one.state[plain[at]], made.change, axis, plain[at], group)
                growth_rows.move_state(states[name], made.change, axis, flat[at], group)
            other.check()
        for left, right in zip(plain, flat, strict=True):
            left.grad = torch.randn(left.shape, generator=generator_)
            right.grad = left.grad.clone()
        one.step()
        other.step()
        for left, right in zip(plain, flat, strict=True):
            # Not to the bit: torch's kernels round otherwise in a padded buffer.
            torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


def test_frozen_entries_stay_through_momentum_and_decay():
    topology, _ = make()
    numbers, readout = parameters(topology)
    optimizer = torch.optim.AdamW([numbers, readout], lr=0.1, weight_decay=0.5)
    rows = torch.tensor([topology.rows["n0"], topology.rows["side"]])
    before = numbers.detach().clone(), readout.detach().clone()
    for _ in range(3):
        for parameter in (numbers, readout):
            parameter.grad = torch.ones_like(parameter)
        held = [growth_rows.hold(numbers, rows, "rows"), growth_rows.hold(readout, rows + 3, "columns")]
        optimizer.step()
        for put_back in held:
            put_back()
    same = (numbers == before[0]).all(1)
    assert same.nonzero().flatten().tolist() == sorted(rows.tolist())
    assert (readout == before[1]).all(0).nonzero().flatten().tolist() == sorted((rows + 3).tolist())


def test_tensors_of_another_shape_are_refused():
    topology, _ = make()
    change = mutate(topology, [Prune("gate"), Widen(12)]).change
    with pytest.raises(ValueError, match="a tensor with 10 rows cannot follow a change of 12"):
        growth_rows.numbers(torch.zeros(10, 3), change)
    with pytest.raises(ValueError, match="a tensor with 12 columns cannot follow a change of 15"):
        growth_rows.mix(torch.zeros(2, 12), change)
    with pytest.raises(ValueError, match="does not train"):
        other = torch.nn.Parameter(torch.zeros(10, 3))
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        growth_rows.regrow(optimizer, other, other, change, "rows")
