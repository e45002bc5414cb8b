"""Schedules of the learning rate, as records over `torch.optim.lr_scheduler`."""

from __future__ import annotations

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

    There are ``total`` calls of `step` in all, ``unit`` of them an epoch. Arguments called ``epochs`` or
    ``every`` count epochs. Factors are of the optimizer's own ``lr``.
    """

    name: str
    doc: str
    arguments: Mapping[str, Any]
    build: Callable[[Optimizer, Mapping[str, Any], int, int], LRScheduler]


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


SCHEDULES: tuple[Schedule, ...] = (
    Schedule("constant", "the same rate throughout", {}, _constant),
    Schedule("linear", "falls in a straight line to `end` times the rate", {"end": 0.0}, _linear),
    Schedule("cosine", "falls along half a cosine to the rate `minimum`", {"minimum": 0.0}, _cosine),
    Schedule("step", "times `gamma` after every `every` epochs", {"every": 10, "gamma": 0.1}, _step),
    Schedule("exponential", "times `gamma` each epoch", {"gamma": 0.95}, _exponential),
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
        sound &= check_arguments(what, arguments, known[name].arguments, sink, dict.fromkeys(arguments, span))
        for key in ("start", "gamma"):
            value = arguments.get(key, 1)
            if sound and not 0 < value <= 1:
                sound = False
                sink.report(
                    "E532", span, f"argument `{key}` of {what} must lie in 0 … 1 (not 0), not {value!r}"
                )
        for key in ("every", "epochs"):
            if sound and arguments.get(key, 1) < 1:
                sound = False
                sink.report(
                    "E532", span, f"argument `{key}` of {what} must be at least 1, not {arguments[key]!r}"
                )
        if (name == "warmup") != (at == 0 and len(parts) > 1) or at > 1:
            sound = False
            message = f"schedule `{name}` cannot stand at place {at + 1} of {len(parts)}"
            sink.report("E533", span, message, fix="write one schedule, or warmup and then one other")
    return sound


def build_schedule(
    optimizer: Optimizer, parts: Sequence[Part], *, total: int, unit: int = 1
) -> LRScheduler | None:
    """A schedule of torch's from parts that `check_schedule` found sound; None for ``constant`` alone.

    Call its `step` once per epoch with ``total`` epochs and ``unit=1``, or once per batch with ``unit``
    batches an epoch and ``total`` batches in all. Its `state_dict` is plain numbers and lists, and restores
    it exactly.
    """
    known = {schedule.name: schedule for schedule in SCHEDULES}
    filled = [(known[name], {**known[name].arguments, **arguments}) for name, arguments in parts]
    if not filled or (len(filled) == 1 and filled[0][0].name == "constant"):
        return None
    if len(filled) == 1:
        schedule, arguments = filled[0]
        return schedule.build(optimizer, arguments, total, unit)
    from torch.optim.lr_scheduler import SequentialLR

    (first, warm), (second, arguments) = filled
    rise = int(warm["epochs"]) * unit
    # Each starts from the optimizer's own rate: the first has already lowered it when the second is made.
    schedulers = [
        first.build(optimizer, warm, total, unit),
        second.build(optimizer, arguments, max(1, total - rise), unit),
    ]
    return SequentialLR(optimizer, schedulers, milestones=[rise])
