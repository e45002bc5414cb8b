"""`Stepper`: optimizer steps in between the visits of a learning pass.

Parameters are grouped by the visit after which they may change (see `plan_groups`). Groups of consecutive visits are
joined until they have `GROUP` elements, so that many small tasks make one fused step; a large one is stepped, and its
gradients freed, right after its visit. The result is that of one step at the end, bit for bit. Parameters that are
stepped in another way (a factor on the rate, another optimizer, no decay, a clip) make groups of their own; one
schedule moves the rates of all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

from r2d2c.graph import Visit
from r2d2c.train.accumulating import Accumulator
from r2d2c.train.calls import Call
from r2d2c.train.checkpoint import Packed, pack_optimizer, state_by_name, unpack_optimizer
from r2d2c.train.clipping import Clip, clip_
from r2d2c.train.clock import Clock
from r2d2c.train.flat import SMALL, FlatStep
from r2d2c.train.groups import GROUP, Group, Kind, plan_groups
from r2d2c.train.optimizers import OptimizerRecord, build_optimizer
from r2d2c.train.plans import Choice

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from r2d2c.train.distributed.shard import ShardedStep

__all__ = ["GROUP", "Group", "Kind", "Stepper", "plan_groups"]
ACCUMULATED = "accumulated"
"""The name in a checkpoint of gradients that no step has used yet."""


class Stepper:
    """The optimizers of all groups, and their common schedule.

    clip: a bound for the norm of all gradients together, which forbids steps before the last visit.
    sometimes: the parameters that do not learn in every step, and are then left alone by the optimizer too.
    rates: factors on the learning rate by parameters' names, 1 for those that are not there.
    others: the optimizers of those parameters that have another one. undecayed: those without weight decay.
    clips: bounds by parameter. accumulate: how many batches make a step. sharded: each of several processes keeps a
    part of the optimizers' state.
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
        others: Mapping[str, Choice] | None = None,
        undecayed: Collection[str] = (),
        clips: Mapping[str, Clip] | None = None,
        accumulate: int = 1,
        sharded: bool = False,
    ) -> None:
        self.parameters, self.clip = parameters, clip
        self.last = len(visits) - 1
        sizes = {name: tensor.numel() for name, tensor in parameters.items()}
        usual = Choice("", optimizer, record)
        choices = {name: (others or {}).get(name, usual) for name in parameters}
        bounds = {**dict.fromkeys(parameters, Clip("", "norm", clip))} if clip is not None else clips or {}
        kinds = {
            name: Kind(
                float((rates or {}).get(name, 1.0)),
                choice.key,
                name not in undecayed or not choice.decay,
                bounds.get(name),
            )
            for name, choice in choices.items()
        }
        self.groups = plan_groups(visits, sizes, early=early, sometimes=sometimes, kinds=kinds)
        self._choices = {choice.key: choice for choice in (usual, *choices.values())}
        self._places = {key: place for place, key in enumerate(self._choices)}
        self._clock = Clock([choice.rate for choice in self._choices.values()])
        self._scheduled = False
        self._steps: list[_Step] = []
        # After each visit: what steps, and the parameters whose gradients are then freed.
        self._at: dict[int, list[tuple[_Step, list[Tensor]]]] = {}
        # After each visit, before all steps: of which steps the gradients are clipped together.
        self._clips: dict[int, dict[Clip, list[_Step]]] = {}
        for group in self.groups:
            self._add(group, sharded)
        self._accumulated = self._accumulator(accumulate) if accumulate > 1 else None
        # What is put back after every step, such as the numbers of frozen ops.
        self.pinned: list[Callable[[], None]] = []

    def _add(self, group: Group, sharded: bool) -> None:
        members = {name: self.parameters[name] for name in group.names}
        choice = self._choices[group.kind.optimizer]
        record, span = choice.record, choice.call.span
        arguments = choice.call.arguments
        if group.factor != 1:
            arguments = {**arguments, "lr": choice.rate * group.factor}
        if not group.kind.decays:
            arguments = {**arguments, "weight_decay": 0}
        step: _Step
        if group.factor == 0:
            step = _Still(members)
        elif sharded:
            from r2d2c.train.distributed.shard import ShardedStep

            step = ShardedStep(members, record, arguments)
        elif record.elementwise and not group.sometimes:
            step = FlatStep(members, record, arguments, span=span)
        else:
            step = _Plain(members, build_optimizer(record, arguments, members.values(), span))
        large = [] if group.sometimes else [p for p in members.values() if p.numel() > SMALL]
        self._steps.append(step)
        self._at.setdefault(group.visit, []).append((step, large))
        if group.kind.clip is not None and group.factor:
            self._clips.setdefault(group.visit, {}).setdefault(group.kind.clip, []).append(step)

    def _accumulator(self, every: int) -> Accumulator:
        rare: dict[str, Tensor] = {}
        always: dict[str, Tensor] = {}
        for group in self.groups:
            if group.factor:
                (rare if group.sometimes else always).update({n: self.parameters[n] for n in group.names})
        return Accumulator(every, always, rare)

    def set_schedule(
        self,
        parts: Iterable[Call],
        epochs: int,
        batches: int | None,
        better: Literal["higher", "lower"] = "lower",
    ) -> None:
        """Change the rate by a schedule: each batch if it is known how many there are, else each epoch.

        better: values of the monitor, which `plateau` looks at.
        """
        if not self._steps:
            return
        self._clock.start([(call.name, call.arguments) for call in parts], epochs, batches, better)
        self._scheduled = self._clock.moves
        self._spread_rates(self._clock.rates)

    @property
    def rate(self) -> float | None:
        """The present learning rate, that of a factor of 1."""
        return self._clock.rates[0] if self._steps else None

    @property
    def rates(self) -> dict[str, float]:
        """The present learning rates of `optimizers`, by their keys."""
        return dict(zip(list(self._choices)[1:], self._clock.rates[1:], strict=True))

    @property
    def trained(self) -> list[Tensor]:
        """The parameters that a step may change."""
        return [self.parameters[name] for group in self.groups if group.factor for name in group.names]

    @property
    def pending(self) -> bool:
        """Whether there are gradients that no step has used yet."""
        return self._accumulated is not None and self._accumulated.pending

    def zero_grad(self) -> None:
        """Before the first batch: no gradients from elsewhere."""
        for tensor in self.parameters.values():
            tensor.grad = None
        for step in self._steps:
            step.zero_grad()
        if self._accumulated is not None:
            self._accumulated.reset()

    def begin(self, samples: int, share: float = 1.0, *, whole: bool = True) -> None:
        """Before a pass, which matters only where batches are accumulated. share: the part of its steps that the pass
        learns of a batch; whole: whether it is the last of them.
        """
        if self._accumulated is not None:
            self._accumulated.begin(samples * share, whole)

    def after(self, visit: int) -> None:
        """Step and free what the visit of this number finishes, if a step is due."""
        kept = self._accumulated
        if kept is None:
            self._step(visit, 1.0)
            return
        if visit == self.last:
            kept.end()
        if kept.due:
            if visit == self.last:
                kept.give_back()
            self._step(visit, kept.scale)
            if visit == self.last:
                kept.reset()

    def flush(self) -> None:
        """Step with the gradients that there are, though there are fewer batches than `accumulate` says."""
        kept = self._accumulated
        if kept is None or not kept.pending:
            return
        kept.give_back()
        for visit in range(self.last + 1):
            self._step(visit, kept.scale)
        kept.reset()
        if self._scheduled:
            self._spread_rates(self._clock.rates)

    def due(self, visit: int) -> Sequence[tuple[_Step, list[Tensor]]]:
        """What steps after the visit of this number, and the parameters whose gradients are then freed."""
        return self._at.get(visit, ())

    def _step(self, visit: int, scale: float) -> None:
        steps = self.due(visit)
        if scale != 1:
            for gradient in [gradient for step, _ in steps for gradient in step.gradients()]:
                gradient.mul_(scale)
        for clip, clipped in self._clips.get(visit, {}).items():
            gradients = [gradient for step in clipped for gradient in step.gradients()]
            if gradients:
                clip_(gradients, clip)
        for step, large in steps:
            step.step()
            for parameter in large:
                parameter.grad = None
            step.zero_grad()
        for put_back in self.pinned:
            put_back()

    def after_batch(self) -> None:
        if self._scheduled and self._clock.per_batch:
            self._clock.after_batch()
            if not self.pending:  # batches of one step have one rate
                self._spread_rates(self._clock.rates)

    def after_epoch(self, value: float | None = None) -> None:
        """value: of the monitor."""
        if self._scheduled:
            self._clock.after_epoch(value)
            self._spread_rates(self._clock.rates)

    def _spread_rates(self, rates: Sequence[float]) -> None:
        # One schedule for all: the optimizers take over its rates.
        for group, step in zip(self.groups, self._steps, strict=True):
            for part in step.optimizer.param_groups if not isinstance(step, _Still) else ():
                part["lr"] = rates[self._places[group.kind.optimizer]] * group.factor

    def state_of(self, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        """A parameter's optimizer state, whose tensors may be written to, and its hyperparameters; None without state."""
        for group, step in zip(self.groups, self._steps, strict=True):
            if name in group.names and not isinstance(step, _Still):
                state = step.state().get(name)
                return None if not state else (state, step.optimizer.param_groups[0])
        return None

    def pack(self) -> dict[str, Packed]:
        """The state of every optimizer, by the number of its visit, and gradients that wait for a step."""
        packed = {group.key: step.pack() for group, step in zip(self.groups, self._steps, strict=True)}
        if self._accumulated is not None and self._accumulated.pending:
            packed[ACCUMULATED] = self._accumulated.pack(self._present_rates())
        return packed

    def _present_rates(self) -> list[float]:
        """The rates that the optimizers have, which are those of the clock at their last step."""
        rates = self._clock.rates
        for group, step in zip(self.groups, self._steps, strict=True):
            if not isinstance(step, _Still):
                rates[self._places[group.kind.optimizer]] = (
                    step.optimizer.param_groups[0]["lr"] / group.factor
                )
        return rates

    def schedule_state(self) -> dict[str, Any] | None:
        return self._clock.state() if self._scheduled else None

    def unpack(
        self,
        packed: Mapping[str, Packed],
        schedule: Mapping[str, Any] | None,
        done: int = 0,
        *,
        same: bool = True,
    ) -> None:
        """Go on from `pack`. A schedule runs anew for ``done`` batches or epochs if it is not the ``same`` any more."""
        for group, step in zip(self.groups, self._steps, strict=True):
            if group.key in packed:
                step.unpack(packed[group.key])
        rates = None
        if self._accumulated is not None and ACCUMULATED in packed:
            rates = self._accumulated.unpack(packed[ACCUMULATED])
        if self._scheduled:
            self._clock.load(schedule, done, same=same)
            self._spread_rates(self._clock.rates if rates is None else rates)

    @property
    def per_batch(self) -> bool:
        """Whether the schedule counts batches, not epochs."""
        return self._clock.per_batch


class _Plain:
    """An optimizer that must see whole matrices, with the methods of a `FlatStep`."""

    def __init__(self, parameters: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self.parameters, self.optimizer = parameters, optimizer

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        return [tensor.grad for tensor in self.parameters.values() if tensor.grad is not None]

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

    def gradients(self) -> list[Tensor]:
        return []

    def step(self) -> None:
        pass

    def pack(self) -> Packed:
        return Packed()

    def unpack(self, packed: Packed) -> None:
        pass


_Step: TypeAlias = Union[FlatStep, "ShardedStep", _Plain, _Still]
