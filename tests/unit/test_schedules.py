"""Schedules against those of torch, epoch by epoch and batch by batch, and the clock that moves all rates."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from r2d2c.train.clock import Clock
from r2d2c.train.schedules import SCHEDULES, Part, build_schedule

Make = Callable[[torch.optim.Optimizer, int, int], Any]

# What torch says of the same, with `total` steps in all and `unit` an epoch.
TORCH: dict[str, tuple[list[Part], Make]] = {
    "linear": ([("linear", {"end": 0.1})], lambda o, t, u: lr_scheduler.LinearLR(o, 1.0, 0.1, t)),
    "cosine": ([("cosine", {})], lambda o, t, u: lr_scheduler.CosineAnnealingLR(o, t)),
    "step": ([("step", {"every": 2, "gamma": 0.3})], lambda o, t, u: lr_scheduler.StepLR(o, 2 * u, 0.3)),
    "multistep": (
        [("multistep", {"at": (1, 3, 4), "gamma": 0.3})],
        lambda o, t, u: lr_scheduler.MultiStepLR(o, [u, 3 * u, 4 * u], 0.3),
    ),
    "multistep of one": (
        [("multistep", {"at": 2})],
        lambda o, t, u: lr_scheduler.MultiStepLR(o, [2 * u], 0.1),
    ),
    "exponential": (
        [("exponential", {"gamma": 0.8})],
        lambda o, t, u: lr_scheduler.ExponentialLR(o, 0.8 ** (1 / u)),
    ),
    "polynomial": ([("polynomial", {"power": 2.0})], lambda o, t, u: lr_scheduler.PolynomialLR(o, t, 2.0)),
    "cosine_restarts": (
        [("cosine_restarts", {"every": 2, "times": 2, "minimum": 0.01})],
        lambda o, t, u: lr_scheduler.CosineAnnealingWarmRestarts(o, 2 * u, 2, 0.01),
    ),
    "one_cycle": (
        [("one_cycle", {})],
        lambda o, t, u: lr_scheduler.OneCycleLR(o, [0.5, 0.2], total_steps=t, cycle_momentum=False),
    ),
    "one_cycle in a line": (
        [("one_cycle", {"anneal_strategy": "linear", "pct_start": 0.5, "div_factor": 4.0, "final_div_factor": 10})],
        lambda o, t, u: lr_scheduler.OneCycleLR(
            o,
            [0.5, 0.2],
            total_steps=t,
            cycle_momentum=False,
            anneal_strategy="linear",
            pct_start=0.5,
            div_factor=4.0,
            final_div_factor=10,
        ),
    ),
    "one_cycle of three": (
        [("one_cycle", {"three_phase": True})],
        lambda o, t, u: lr_scheduler.OneCycleLR(
            o, [0.5, 0.2], total_steps=t, cycle_momentum=False, three_phase=True
        ),
    ),
    "cyclic": (
        [("cyclic", {"every": 2, "start": 0.2})],
        lambda o, t, u: lr_scheduler.CyclicLR(o, [0.1, 0.04], [0.5, 0.2], u, cycle_momentum=False),
    ),
    "cyclic that shrinks": (
        [("cyclic", {"every": 2, "start": 0.2, "shrink": 0.5})],
        lambda o, t, u: lr_scheduler.CyclicLR(
            o, [0.1, 0.04], [0.5, 0.2], u, mode="triangular2", cycle_momentum=False
        ),
    ),
}  # fmt: skip


def test_every_schedule_is_held_against_torch() -> None:
    held = {parts[0][0] for parts, _ in TORCH.values()}
    assert held == {schedule.name for schedule in SCHEDULES} - {"constant", "warmup", "plateau"}


def optimizer_of() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.5, 0.2)]
    return torch.optim.SGD(groups)


@pytest.mark.parametrize(("epochs", "unit"), [(8, 1), (6, 5)])
@pytest.mark.parametrize("name", TORCH)
def test_as_torch(name: str, epochs: int, unit: int) -> None:
    parts, make = TORCH[name]
    clock, theirs = Clock([0.5, 0.2]), optimizer_of()
    clock.start(parts, epochs, unit)
    schedule = make(theirs, epochs * unit, unit)
    seen = set()
    for _ in range(epochs * unit):
        wanted = [group["lr"] for group in theirs.param_groups]
        assert clock.rates == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        seen.add(clock.rates[0])
        clock.after_batch()
        theirs.step()
        schedule.step()
    assert len(seen) > 1


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("name", TORCH)
def test_few_steps_are_no_trouble(name: str, total: int) -> None:
    parts, _ = TORCH[name]
    clock = Clock([0.5])
    clock.start(parts, total, 1)
    for _ in range(total + 2):
        assert 0 <= clock.rates[0] <= 0.5
        clock.after_batch()


VALUES = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, float("nan"), 1.0, 0.99999, 0.9]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_plateau_is_that_of_torch(better: Any) -> None:
    values = [4 - value for value in VALUES] if better == "higher" else VALUES
    clock, theirs = Clock([0.5, 0.2]), optimizer_of()
    clock.start([("plateau", {"patience": 1, "factor": 0.5, "cooldown": 1, "minimum": 0.1})], 12, 3, better)
    mode: Any = "max" if better == "higher" else "min"
    schedule = lr_scheduler.ReduceLROnPlateau(theirs, mode, 0.5, 1, cooldown=1, min_lr=0.1)
    seen = set()
    for value in values:
        for _ in range(3):
            clock.after_batch()
        clock.after_epoch(value)
        schedule.step(value)
        assert clock.rates == [group["lr"] for group in theirs.param_groups]
        seen.add(clock.rates[0])
    assert (len(seen), clock.rates[1]) == (4, 0.1)


def test_a_plateau_begins_after_its_warmup() -> None:
    clock = Clock([0.5])
    clock.start([("warmup", {"epochs": 2, "start": 0.5}), ("plateau", {"patience": 0, "factor": 0.5})], 6, 2)
    seen = []
    for _ in range(6):
        for _ in range(2):
            seen.append(clock.rates[0])
            clock.after_batch()
        clock.after_epoch(1.0)
    assert seen == pytest.approx(
        [0.25, 0.3125, 0.375, 0.4375, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]
    )


MIXED: list[list[Part]] = [
    *([part] for parts, _ in TORCH.values() for part in parts),
    [("warmup", {"epochs": 2}), ("plateau", {"patience": 1})],
    [("plateau", {"patience": 0})],
    [("warmup", {"epochs": 2}), ("one_cycle", {})],
    [("warmup", {}), ("multistep", {"at": (2, 3)})],
]


@pytest.mark.parametrize("batches", [None, 3])
@pytest.mark.parametrize("parts", MIXED, ids=lambda parts: " ".join(name for name, _ in parts))
def test_a_clock_goes_on_from_its_state(parts: list[Part], batches: int | None) -> None:
    def clock_of() -> Clock:
        made = Clock([0.5, 0.2])
        made.start(parts, 6, batches)
        return made

    def run(at: int | None) -> list[list[float]]:
        clock, seen, count = clock_of(), [], 0
        for epoch in range(6):
            for _ in range(batches or 1):
                if count == at:
                    state = json.loads(json.dumps(clock.state()))
                    clock = clock_of()
                    clock.load(state, count)
                seen.append(clock.rates)
                clock.after_batch()
                count += 1
            clock.after_epoch(VALUES[epoch])
        return seen

    whole = run(None)
    for at in (1, 4, 5):
        assert run(at) == whole


def test_a_plateau_goes_on_with_more_epochs() -> None:
    clock = Clock([0.5])
    clock.start([("plateau", {"patience": 0, "factor": 0.5})], 2, 3)
    for _ in range(3):
        clock.after_epoch(1.0)
    more = Clock([0.5])
    more.start([("plateau", {"patience": 0, "factor": 0.5})], 9, 3)
    more.load(clock.state(), 9, same=False)
    assert more.rates == clock.rates == [0.125]


def test_no_schedule_is_none() -> None:
    assert build_schedule(optimizer_of(), [("plateau", {})], total=3) is None
    clock = Clock([0.5])
    clock.start([], 3, 2)
    clock.after_batch()
    assert (clock.rates, clock.state()) == ([0.5], None)
