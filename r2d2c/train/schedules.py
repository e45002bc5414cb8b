"""Schedules of the learning rate, as records over `torch.optim.lr_scheduler`.

Some of torch's cannot be restored from plain numbers, or fail where there are few steps; those are factors of the
step's number here, which the tests hold against torch's.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import Sink, suggest
from r2d2c.source import Span
from r2d2c.train.optimizers import check_arguments

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

Part = tuple[str, Mapping[str, Any]]
"""A schedule's name and its arguments; several in a row follow each other."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule: ``build(optimizer, arguments, total, unit)`` makes it.

    There are ``total`` calls of `step` in all, ``unit`` of them an epoch. Arguments called ``epochs``, ``every``,
    ``at``, ``patience`` or ``cooldown`` count epochs. Factors are of the optimizer's own ``lr``. A schedule without
    ``build`` looks at the monitor: see `Clock`.
    """

    name: str
    doc: str
    arguments: Mapping[str, Any]
    build: Callable[[Optimizer, Mapping[str, Any], int, int], LRScheduler] | None


def _constant(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import ConstantLR

    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _linear(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import LinearLR

    return LinearLR(optimizer, start_factor=1.0, end_factor=arguments["end"], total_iters=max(1, total))


def _cosine(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import CosineAnnealingLR

    return CosineAnnealingLR(optimizer, T_max=max(1, total), eta_min=arguments["minimum"])


def _step(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import StepLR

    return StepLR(optimizer, step_size=max(1, int(arguments["every"]) * unit), gamma=arguments["gamma"])


def _exponential(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import ExponentialLR

    return ExponentialLR(optimizer, gamma=arguments["gamma"] ** (1.0 / unit))


def _warmup(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import LinearLR

    return LinearLR(optimizer, start_factor=arguments["start"], total_iters=int(arguments["epochs"]) * unit)


def _multistep(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import LambdaLR

    places = sorted(int(epoch) * unit for epoch in epochs_of(arguments["at"]))
    return LambdaLR(optimizer, lambda step: arguments["gamma"] ** bisect_right(places, step))


def epochs_of(at: Any) -> tuple[Any, ...]:
    """The epochs of ``at``: one number, or a tuple of them."""
    return tuple(at) if isinstance(at, tuple | list) else (at,)


def _polynomial(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import PolynomialLR

    return PolynomialLR(optimizer, total_iters=max(1, total), power=arguments["power"])


def _restarts(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

    first, times = int(arguments["every"]) * unit, int(arguments["times"])
    return CosineAnnealingWarmRestarts(optimizer, T_0=first, T_mult=times, eta_min=arguments["minimum"])


def _one_cycle(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import LambdaLR

    start = 1 / arguments["div_factor"]
    end = start / arguments["final_div_factor"]
    peak, last = arguments["pct_start"] * total - 1, total - 1
    # Where each phase ends, and the factors between which it goes.
    phases = [(peak, start, 1.0), (last, 1.0, end)]
    if arguments["three_phase"]:
        phases = [(peak, start, 1.0), (2 * peak, 1.0, start), (last, start, end)]

    def factor(step: int) -> float:
        begin = 0.0
        for stop, low, high in phases:
            if step <= stop or stop == last:
                done = (step - begin) / (stop - begin) if stop > begin else 1.0
                return _between(low, high, min(done, 1.0), arguments["anneal_strategy"])
            begin = max(stop, 0.0)
        return float(end)

    return LambdaLR(optimizer, factor)


def _between(low: float, high: float, done: float, way: str) -> float:
    if way == "linear":
        return low + (high - low) * done
    return high + (low - high) / 2 * (1 + math.cos(math.pi * done))


def _cyclic(optimizer: Optimizer, arguments: Mapping[str, Any], total: int, unit: int) -> LRScheduler:
    from torch.optim.lr_scheduler import LambdaLR

    start, shrink = arguments["start"], arguments["shrink"]
    length = int(arguments["every"]) * unit

    def factor(step: int) -> float:
        cycle, place = divmod(step / length, 1.0)
        return float(start + (1 - start) * (1 - abs(2 * place - 1)) * shrink**cycle)

    return LambdaLR(optimizer, factor)


ONE_CYCLE = {
    "pct_start": 0.3,
    "anneal_strategy": "cos",
    "div_factor": 25.0,
    "final_div_factor": 1e4,
    "three_phase": False,
}
PLATEAU = {"factor": 0.1, "patience": 10, "threshold": 1e-4, "cooldown": 0, "minimum": 0.0}

SCHEDULES: tuple[Schedule, ...] = (
    Schedule("constant", "the same rate throughout", {}, _constant),
    Schedule("linear", "falls in a straight line to `end` times the rate", {"end": 0.0}, _linear),
    Schedule("cosine", "falls along half a cosine to the rate `minimum`", {"minimum": 0.0}, _cosine),
    Schedule("step", "times `gamma` after every `every` epochs", {"every": 10, "gamma": 0.1}, _step),
    Schedule(
        "multistep", "times `gamma` after each of the epochs `at`", {"at": (30, 60), "gamma": 0.1}, _multistep
    ),
    Schedule("exponential", "times `gamma` each epoch", {"gamma": 0.95}, _exponential),
    Schedule("polynomial", "falls to 0 as the rest to the power `power`", {"power": 1.0}, _polynomial),
    Schedule(
        "cosine_restarts",
        "cosine of `every` epochs again and again, each `times` as long as the one before",
        {"every": 10, "times": 1, "minimum": 0.0},
        _restarts,
    ),
    Schedule(
        "one_cycle",
        "rises to the rate and falls far below where it began; not momentum",
        ONE_CYCLE,
        _one_cycle,
    ),
    Schedule(
        "cyclic",
        "rises from `start` times the rate and falls back, `every` epochs; the next cycle is `shrink` as high",
        {"every": 10, "start": 0.1, "shrink": 1.0},
        _cyclic,
    ),
    Schedule(
        "plateau",
        "times `factor` when the monitor has brought nothing new for more than `patience` epochs",
        PLATEAU,
        None,
    ),
    Schedule(
        "warmup",
        "rises from `start` times the rate in `epochs` epochs; another follows",
        {"epochs": 1, "start": 0.01},
        _warmup,
    ),
)


def check_schedule(parts: Sequence[Part], sink: Sink, spans: Sequence[Span | None] = ()) -> bool:
    """Whether every part is sound: E533 for an unknown name or order, E531 and E532 for arguments."""
    known = {schedule.name: schedule for schedule in SCHEDULES}
    sound = True
    for at, (name, arguments) in enumerate(parts):
        span = spans[at] if at < len(spans) else None
        if name not in known:
            sound = False
            listed = f"schedules: {', '.join(known)}"
            sink.report(
                "E533", span, f"there is no schedule `{name}`", notes=[listed], fix=suggest(name, known)
            )
            continue
        what = f"schedule `{name}`"
        # `at` is a tuple of any length, or one number.
        plain = {
            key: value for key, value in arguments.items() if key != "at" or "at" not in known[name].arguments
        }
        sound &= check_arguments(what, plain, known[name].arguments, sink, dict.fromkeys(arguments, span))
        for key, test, wanted in _RANGES if sound else ():
            if key in arguments and not test(arguments[key]):
                sound = False
                sink.report("E532", span, f"argument `{key}` of {what} must {wanted}, not {arguments[key]!r}")
        if (name == "warmup") != (at == 0 and len(parts) > 1) or at > 1:
            sound = False
            message = f"schedule `{name}` cannot stand at place {at + 1} of {len(parts)}"
            sink.report("E533", span, message, fix="write one schedule, or warmup and then one other")
    return sound


def _in_unit(value: Any) -> bool:
    return bool(0 < value <= 1)


def _epochs(value: Any) -> bool:
    return all(
        isinstance(epoch, int | float) and not isinstance(epoch, bool) and epoch >= 1 and epoch == int(epoch)
        for epoch in epochs_of(value)
    )


_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    *((key, _in_unit, "lie in 0 … 1 (not 0)") for key in ("start", "gamma", "shrink")),
    *((key, lambda value: value >= 1, "be at least 1") for key in ("every", "epochs", "times")),
    ("at", _epochs, "be an epoch or a tuple of epochs, from 1 on"),
    ("factor", lambda value: 0 < value < 1, "lie between 0 and 1"),
    ("pct_start", lambda value: 0 <= value <= 1, "lie in 0 … 1"),
    *((key, lambda value: value > 0, "be greater than 0") for key in ("div_factor", "final_div_factor")),
    ("anneal_strategy", lambda value: value in ("cos", "linear"), "be cos or linear"),
    *((key, lambda value: value >= 0, "not be negative") for key in ("power", "threshold")),
)


def build_schedule(
    optimizer: Optimizer, parts: Sequence[Part], *, total: int, unit: int = 1
) -> LRScheduler | None:
    """A schedule of torch's from parts that `check_schedule` found sound; None for ``constant`` or ``plateau`` alone.

    Call its `step` once per epoch with ``total`` epochs and ``unit=1``, or once per batch with ``unit``
    batches an epoch and ``total`` batches in all. Its `state_dict` is plain numbers and lists, and restores
    it exactly.
    """
    known = {schedule.name: schedule for schedule in SCHEDULES}
    filled = [
        (build, {**known[name].arguments, **arguments})
        for name, arguments in parts
        if (build := known[name].build) is not None and (name != "constant" or len(parts) > 1)
    ]
    if not filled:
        return None
    if len(filled) == 1:
        build, arguments = filled[0]
        return build(optimizer, arguments, total, unit)
    from torch.optim.lr_scheduler import SequentialLR

    (first, warm), (second, arguments) = filled
    rise = int(warm["epochs"]) * unit
    # Each starts from the optimizer's own rate: the first has already lowered it when the second is made.
    schedulers = [
        first(optimizer, warm, total, unit),
        second(optimizer, arguments, max(1, total - rise), unit),
    ]
    return SequentialLR(optimizer, schedulers, milestones=[rise])
