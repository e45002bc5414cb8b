"""`Stepper`: optimizer steps in between the visits of a learning pass.

Parameters are grouped by the visit after which they may change. Groups of consecutive visits are joined
until they have `GROUP` elements, so that many small tasks make one fused step; a large one is stepped,
and its gradients freed, right after its visit. The result is that of one step at the end, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2d2c.graph import Visit
from r2d2c.train.calls import Call
from r2d2c.train.checkpoint import Packed, pack_optimizer, unpack_optimizer
from r2d2c.train.flat import SMALL, FlatStep
from r2d2c.train.optimizers import OptimizerRecord, build_optimizer
from r2d2c.train.schedules import build_schedule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

GROUP = 65_536  # elements; below, the call of a step costs more than the memory it would free


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are stepped after the visit of this number."""

    visit: int
    names: tuple[str, ...]


def plan_groups(visits: Sequence[Visit], sizes: Mapping[str, int], *, early: bool = True) -> list[Group]:
    """Which parameters are stepped after which visit. Those that no visit finishes are not trained at all."""
    groups: list[Group] = []
    waiting: list[str] = []
    for number, visit in enumerate(visits):
        waiting += [name for name in visit.finished if name in sizes]
        last = number == len(visits) - 1
        if waiting and (last or (early and sum(sizes[name] for name in waiting) >= GROUP)):
            groups.append(Group(number, tuple(waiting)))
            waiting = []
    return groups


class Stepper:
    """The optimizers of all groups, and their common schedule.

    clip: a bound for the norm of all gradients together, which forbids steps before the last visit.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        visits: Sequence[Visit],
        record: OptimizerRecord,
        optimizer: Call,
        *,
        early: bool = True,
        clip: float | None = None,
    ) -> None:
        self.parameters, self.clip = parameters, clip
        self.last = len(visits) - 1
        sizes = {name: tensor.numel() for name, tensor in parameters.items()}
        self.groups = plan_groups(visits, sizes, early=early and clip is None)
        self._steps: list[FlatStep | _Plain] = []
        self._at: dict[int, FlatStep | _Plain] = {}
        for group in self.groups:
            members = {name: parameters[name] for name in group.names}
            step: FlatStep | _Plain
            if record.elementwise:
                step = FlatStep(members, record, optimizer.arguments, span=optimizer.span)
            else:
                step = _Plain(
                    members, build_optimizer(record, optimizer.arguments, members.values(), optimizer.span)
                )
            self._steps.append(step)
            self._at[group.visit] = step
        self._free = {
            group.visit: [p for name in group.names if (p := parameters[name]).numel() > SMALL]
            for group in self.groups
        }
        self._schedule: Any = None
        self._per_batch = False

    def set_schedule(self, parts: Iterable[Call], epochs: int, batches: int | None) -> None:
        """Change the rate by a schedule: each batch if it is known how many there are, else each epoch."""
        if not self._steps:
            return
        self._per_batch = batches is not None
        unit = batches or 1
        named = [(call.name, call.arguments) for call in parts]
        self._schedule = build_schedule(self._steps[0].optimizer, named, total=epochs * unit, unit=unit)
        self._spread_rate()

    @property
    def rate(self) -> float | None:
        """The present learning rate."""
        return float(self._steps[0].optimizer.param_groups[0]["lr"]) if self._steps else None

    def zero_grad(self) -> None:
        """Before the first batch: no gradients from elsewhere."""
        for tensor in self.parameters.values():
            tensor.grad = None
        for step in self._steps:
            step.zero_grad()

    def after(self, visit: int) -> None:
        """Step and free what the visit of this number finishes."""
        if self.clip is not None and visit == self.last:
            import torch

            trained = [self.parameters[name] for group in self.groups for name in group.names]
            torch.nn.utils.clip_grad_norm_(trained, self.clip)
        step = self._at.get(visit)
        if step is None:
            return
        step.step()
        for parameter in self._free[visit]:
            parameter.grad = None
        step.zero_grad()

    def after_batch(self) -> None:
        if self._schedule is not None and self._per_batch:
            self._advance()

    def after_epoch(self) -> None:
        if self._schedule is not None and not self._per_batch:
            self._advance()

    def _advance(self) -> None:
        self._schedule.step()
        self._spread_rate()

    def _spread_rate(self) -> None:
        # One schedule for all: the other optimizers take over the rate of the first.
        if self._schedule is not None:
            rate = self._steps[0].optimizer.param_groups[0]["lr"]
            for step in self._steps[1:]:
                for group in step.optimizer.param_groups:
                    group["lr"] = rate

    def pack(self) -> dict[str, Packed]:
        """The state of every optimizer, by the number of its visit."""
        return {str(group.visit): step.pack() for group, step in zip(self.groups, self._steps, strict=True)}

    def schedule_state(self) -> dict[str, Any] | None:
        return dict(self._schedule.state_dict()) if self._schedule is not None else None

    def unpack(self, packed: Mapping[str, Packed], schedule: Mapping[str, Any] | None, done: int = 0) -> None:
        """Go on from `pack`. Without its state the schedule runs anew for ``done`` batches or epochs."""
        if self._schedule is not None and schedule is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch misses the optimizer's steps between these
                for _ in range(done):
                    self._schedule.step()
        rates = [float(rate) for rate in self._schedule.get_last_lr()] if self._schedule is not None else []
        for group, step in zip(self.groups, self._steps, strict=True):
            if str(group.visit) in packed:
                step.unpack(packed[str(group.visit)])
        if self._schedule is None:
            return
        if schedule is not None:
            self._schedule.load_state_dict(dict(schedule))
        else:
            self._steps[0].optimizer.param_groups[0]["lr"] = rates[0]
        self._spread_rate()

    @property
    def per_batch(self) -> bool:
        """Whether the schedule counts batches, not epochs."""
        return self._per_batch


class _Plain:
    """An optimizer that must see whole matrices, with the methods of a `FlatStep`."""

    def __init__(self, parameters: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self.parameters, self.optimizer = parameters, optimizer

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        self.optimizer.step()

    def pack(self) -> Packed:
        return pack_optimizer(self.optimizer, self.parameters)

    def unpack(self, packed: Packed) -> None:
        unpack_optimizer(self.optimizer, self.parameters, packed)
