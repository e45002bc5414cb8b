"""`Stepper`: optimizer steps in between the visits of a learning pass.

Parameters are grouped by the visit after which they may change. Groups of consecutive visits are joined
until they have `GROUP` elements, so that many small tasks make one fused step; a large one is stepped,
and its gradients freed, right after its visit. The result is that of one step at the end, bit for bit.
Parameters whose learning rates have different factors make different groups; one schedule is for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from r2d2c.graph import Visit
from r2d2c.train.calls import Call
from r2d2c.train.checkpoint import Packed, pack_optimizer, state_by_name, unpack_optimizer
from r2d2c.train.flat import SMALL, FlatStep
from r2d2c.train.optimizers import OptimizerRecord, build_optimizer
from r2d2c.train.schedules import build_schedule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

GROUP = 262_144  # elements; below, the call of a step costs more than the memory it would free


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are stepped after the visit of this number; ``sometimes``: if they have a gradient.

    factor: what the learning rate is multiplied with for them; with 0 they are not stepped at all.
    """

    visit: int
    names: tuple[str, ...]
    sometimes: bool = False
    factor: float = 1.0

    @property
    def key(self) -> str:
        """Its name in a checkpoint."""
        factor = f".x{self.factor!r}" if self.factor != 1 else ""
        return f"{self.visit}{'.sometimes' if self.sometimes else ''}{factor}"


def plan_groups(
    visits: Sequence[Visit],
    sizes: Mapping[str, int],
    *,
    early: bool = True,
    sometimes: Collection[str] = (),
    rates: Mapping[str, float] | None = None,
) -> list[Group]:
    """Which parameters are stepped after which visit. Those that no visit finishes are not trained at all.

    sometimes: those that do not learn in every step; they make groups of their own after all others.
    rates: the factors of those whose factor is not 1; each factor makes groups of its own.
    """
    groups: list[Group] = []
    waiting: dict[float, list[str]] = {}
    rare: dict[float, list[str]] = {}
    for number, visit in enumerate(visits):
        for name in visit.finished:
            if name in sizes:
                factor = float(rates.get(name, 1.0)) if rates else 1.0
                (rare if name in sometimes else waiting).setdefault(factor, []).append(name)
        last = number == len(visits) - 1
        for factor, names in list(waiting.items()):
            if last or (early and sum(sizes[name] for name in names) >= GROUP):
                groups.append(Group(number, tuple(names), factor=factor))
                del waiting[factor]
    for factor, names in rare.items():
        groups.append(Group(len(visits) - 1, tuple(names), sometimes=True, factor=factor))
    return groups


class Stepper:
    """The optimizers of all groups, and their common schedule.

    clip: a bound for the norm of all gradients together, which forbids steps before the last visit.
    sometimes: the parameters that do not learn in every step, and are then left alone by the optimizer too.
    rates: factors on the learning rate by parameters' names, 1 for those that are not there.
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
        sometimes: Collection[str] = (),
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.parameters, self.clip = parameters, clip
        self.last = len(visits) - 1
        sizes = {name: tensor.numel() for name, tensor in parameters.items()}
        self.groups = plan_groups(
            visits, sizes, early=early and clip is None, sometimes=sometimes, rates=rates
        )
        base = {**record.arguments, **optimizer.arguments}["lr"]
        self._clock = _clock(base)
        self._steps: list[_Step] = []
        # After each visit: what steps, and the parameters whose gradients are then freed.
        self._at: dict[int, list[tuple[_Step, list[Tensor]]]] = {}
        for group in self.groups:
            members = {name: parameters[name] for name in group.names}
            arguments = optimizer.arguments
            if group.factor != 1:
                arguments = {**arguments, "lr": base * group.factor}
            step: _Step
            if group.factor == 0:
                step = _Still(members)
            elif record.elementwise and not group.sometimes:
                step = FlatStep(members, record, arguments, span=optimizer.span)
            else:
                step = _Plain(members, build_optimizer(record, arguments, members.values(), optimizer.span))
            large = [] if group.sometimes else [p for p in members.values() if p.numel() > SMALL]
            self._steps.append(step)
            self._at.setdefault(group.visit, []).append((step, large))
        self._schedule: Any = None
        self._per_batch = False

    def set_schedule(self, parts: Iterable[Call], epochs: int, batches: int | None) -> None:
        """Change the rate by a schedule: each batch if it is known how many there are, else each epoch."""
        if not self._steps:
            return
        self._per_batch = batches is not None
        unit = batches or 1
        named = [(call.name, call.arguments) for call in parts]
        self._schedule = build_schedule(self._clock, named, total=epochs * unit, unit=unit)
        self._clock.step()  # of nothing; torch wants one before the schedule's first
        self._spread_rate()

    @property
    def rate(self) -> float | None:
        """The present learning rate, that of a factor of 1."""
        return float(self._clock.param_groups[0]["lr"]) if self._steps else None

    @property
    def trained(self) -> list[Tensor]:
        """The parameters that a step may change."""
        return [self.parameters[name] for group in self.groups if group.factor for name in group.names]

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

            torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        for step, large in self._at.get(visit, ()):
            step.step()
            for parameter in large:
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
        # One schedule for all: the optimizers take over its rate.
        if self._schedule is not None:
            rate = self._clock.param_groups[0]["lr"]
            for group, step in zip(self.groups, self._steps, strict=True):
                for part in step.optimizer.param_groups if not isinstance(step, _Still) else ():
                    part["lr"] = rate * group.factor

    def state_of(self, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        """A parameter's optimizer state, whose tensors may be written to, and its hyperparameters; None without state."""
        for group, step in zip(self.groups, self._steps, strict=True):
            if name in group.names and not isinstance(step, _Still):
                state = step.state().get(name)
                return None if not state else (state, step.optimizer.param_groups[0])
        return None

    def pack(self) -> dict[str, Packed]:
        """The state of every optimizer, by the number of its visit."""
        return {group.key: step.pack() for group, step in zip(self.groups, self._steps, strict=True)}

    def schedule_state(self) -> dict[str, Any] | None:
        return dict(self._schedule.state_dict()) if self._schedule is not None else None

    def unpack(self, packed: Mapping[str, Packed], schedule: Mapping[str, Any] | None, done: int = 0) -> None:
        """Go on from `pack`. Without its state the schedule runs anew for ``done`` batches or epochs."""
        for group, step in zip(self.groups, self._steps, strict=True):
            if group.key in packed:
                step.unpack(packed[group.key])
        if self._schedule is None:
            return
        if schedule is not None:
            self._schedule.load_state_dict(dict(schedule))
            self._clock.param_groups[0]["lr"] = self._schedule.get_last_lr()[0]
        else:
            for _ in range(done):
                self._schedule.step()
        self._spread_rate()

    @property
    def per_batch(self) -> bool:
        """Whether the schedule counts batches, not epochs."""
        return self._per_batch


def _clock(rate: float) -> Optimizer:
    """An optimizer of nothing, whose rate is the base rate: a schedule moves it, and all others follow."""
    import torch

    return torch.optim.SGD([torch.nn.Parameter(torch.empty(0))], lr=rate)


class _Plain:
    """An optimizer that must see whole matrices, with the methods of a `FlatStep`."""

    def __init__(self, parameters: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self.parameters, self.optimizer = parameters, optimizer

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        self.optimizer.step()

    def state(self) -> dict[str, dict[str, Any]]:
        return state_by_name(self.optimizer, self.parameters)

    def pack(self) -> Packed:
        return pack_optimizer(self.optimizer, self.parameters)

    def unpack(self, packed: Packed) -> None:
        unpack_optimizer(self.optimizer, self.parameters, packed)


class _Still:
    """Parameters whose rate is 0, with the methods of a `FlatStep`. No optimizer at all: some would move them."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters

    def zero_grad(self) -> None:
        for tensor in self.parameters.values():
            tensor.grad = None

    def step(self) -> None:
        pass

    def pack(self) -> Packed:
        return Packed()

    def unpack(self, packed: Packed) -> None:
        pass


_Step: TypeAlias = FlatStep | _Plain | _Still
