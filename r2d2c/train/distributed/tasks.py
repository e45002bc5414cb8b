"""`TaskParallel`: each process trains some of the tasks, and is a batch ahead of the one that trains what follows.

Only values go forward. Every parameter is stepped in one process, which sees the batches in their order, so the result is
that of one process bit for bit.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from r2d2c.credit.registry import rules as credit_rules
from r2d2c.graph import Value
from r2d2c.lower.gathering import summed
from r2d2c.lower.init import Rng
from r2d2c.lower.rows import written_by
from r2d2c.plan import plan
from r2d2c.train.distributed.divide import divide, find_pieces, refuse_few
from r2d2c.train.distributed.merge import absent, merge
from r2d2c.train.distributed.pipe import END, Message, Receiver, Sender
from r2d2c.train.distributed.team import Team, guarded
from r2d2c.train.measure import Batch, Sums, size_of
from r2d2c.train.precision import around
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model
    from r2d2c.train.checkpoint import Packed
    from r2d2c.train.loop import Trainer
    from r2d2c.train.stepper import Stepper

STOP, SAVE = 1, 2


class TaskParallel(Team):
    """Some visits of every learning pass. `prepare` divides them."""

    def __init__(self) -> None:
        super().__init__()
        self.flags_sent = self.flags_next = 0
        self.busy = 0.0
        self.sender: Sender | None = None
        self.receiver: Receiver | None = None

    # -- who does what
    def prepare(self, model: Model, trained: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        graph, visits = model._training_graph, model._visits(False)
        if model._sometimes or any(loss.every > 1 for loss in graph.losses.values()):
            rare = next(name for name, loss in graph.losses.items() if loss.every > 1)
            self._refuse(f"the loss `{rare}` does not train at every step", graph.losses[rare].origin)
        used = [
            frozenset(str(n.target) for n in visit.lowered.fx.nodes if n.op == "get_attr") for visit in visits
        ]
        learned = set(trained) | set(written_by(graph.body.nodes))
        changed = [names & learned for names in used]
        made = {value: k for k, visit in enumerate(visits) for value in visit.lowered.writes}
        needs = [
            frozenset(made[v] for v in visit.lowered.reads if made.get(v, k) != k)
            for k, visit in enumerate(visits)
        ]
        rules = credit_rules(model.spec.rules)
        costs = [float(max(v.flops, 1)) for v in plan(model.spec, rules).visits]
        pieces = find_pieces(changed, needs, costs)
        if len(pieces) < self.world:
            refuse_few(model.graph, graph, pieces, changed, self.world)
        parts = divide([piece.cost for piece in pieces], self.world)
        self.at = {visit: rank for rank, part in enumerate(parts) for k in part for visit in pieces[k].visits}
        self.mine = sorted(visit for visit, rank in self.at.items() if rank == self.rank)
        self.owner = {name: self.at[visit] for visit, names in enumerate(changed) for name in sorted(names)}
        # What goes over each border between processes: all that is made before it and read behind it.
        self.over = [
            [
                value
                for value, visit in made.items()
                if self.at[visit] <= border
                and any(
                    value in other.lowered.reads and self.at[k] > border for k, other in enumerate(visits)
                )
            ]
            for border in range(self.world - 1)
        ]
        self.names = [graph.visits[visit].name for visit in self.mine]
        return trained

    def _refuse(self, why: str, span: Any = None) -> None:
        refuse(
            "E636",
            f"`--parallel tasks` cannot train this: {why}",
            span,
            fix="take `--parallel data`, or one process",
        )

    def adopt(self, stepper: Stepper) -> None:
        mine = {name for name, rank in self.owner.items() if rank == self.rank}
        absent(stepper, mine)

    def begin(self, trainer: Trainer) -> None:
        settings = trainer.settings
        if trainer.growth.growing:
            self._refuse(f"the op graph `{next(iter(trainer.growth.growing))}` grows")
        if settings.chunks is not None:
            self._refuse("`train.chunk` learns sequences in parts")
        if trainer.stepper._accumulated is not None:
            self._refuse("`train.accumulate` learns several batches in a step")
        for clips in trainer.stepper._clips.values():
            if any(clip.kind == "norm" for clip in clips):
                self._refuse("`train.clip` bounds a norm of gradients of all tasks")
        self._check(trainer)
        # A group for each border, so that its messages do not wait for what all processes do together.
        groups = [dist.new_group([k, k + 1], backend="gloo") for k in range(self.world - 1)]
        if self.rank + 1 < self.world:
            self.sender = Sender(self.rank + 1, groups[self.rank], len(self.over[self.rank]))
        if self.rank:
            before = self.rank - 1
            self.receiver = Receiver(before, groups[before], len(self.over[before]))

    def close(self) -> None:
        if self.sender is not None and self.sender.error is None:
            self.sender.put(Message(END, ()))
            self.sender.join(10)

    def _check(self, trainer: Trainer) -> None:
        """Whether no gradient would have to come back over a border: with values cut there, all get the same."""
        from r2d2c.sampling import random_batch

        model = trainer.model
        batch = random_batch(model.graph, model.graph.seed, {"B": 4}, model._float)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        found = []
        for cut in (False, True):
            one = copy.deepcopy(model)
            for parameter in one.parameters():
                parameter.grad = None
            slots = _ports(one, batch)
            try:
                for number in range(len(one._visits(False))):
                    _run(one, number, slots, one._step, self._cut(slots, number) if cut else slots)
            except RuntimeError:
                if not cut:
                    raise
                self._refuse("a gradient comes back from one process to another")
            found.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
        whole, parts = found
        for name, gradient in whole.items():
            if name not in parts or not torch.equal(gradient, parts[name]):
                self._refuse(f"the gradient of `{name}` comes back from one process to another")

    def _cut(self, slots: dict[Value, Any], number: int) -> dict[Value, Any]:
        """Values as a visit gets them from other processes."""
        rank = self.at[number]
        border = {value for values in self.over[:rank][-1:] for value in values}
        return {
            v: x.detach().clone() if v in border and isinstance(x, torch.Tensor) else x
            for v, x in slots.items()
        }

    # -- a batch
    def learn(
        self, trainer: Trainer, batch: Batch, sizes: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], int]:
        began = time.perf_counter()
        model, stepper = trainer.model, trainer.stepper
        visits = model._visits(False)
        slots = _ports(model, {**batch, **sizes})
        device = next((t.device for t in batch.values()), self.device)
        self.flags_sent, self.flags_next = self.flags_next, 0
        stepper.begin(size_of(batch))
        with guarded(self.run):
            if self.receiver is not None:
                message = self.receiver.get()
                self.flags_sent = message.flags
                values = (value.to(device) for value in message.values)
                slots.update(zip(self.over[self.rank - 1], values, strict=True))
            step, done = model._step, 0
            model.__dict__["_step"] += 1
            losses: dict[str, Tensor] = {}
            for number in self.mine:
                _run(model, number, slots, step, slots)
                losses.update({name: slots[value].detach() for name, value in visits[number].losses})
                while done <= number:
                    stepper.after(done)
                    done += 1
            while done < len(visits):
                stepper.after(done)
                done += 1
            if self.sender is not None:
                given = tuple(slots[value].detach() for value in self.over[self.rank])
                self.sender.put(Message(self.flags_sent, given))
        # Losses of other processes are nought here, and theirs there.
        zero = torch.zeros((), device=device)
        every = {name: losses.get(name, zero) for name in trainer.losses}
        self.busy += time.perf_counter() - began
        return every, size_of(batch)

    def agree(self, stop: bool, due: bool) -> tuple[bool, bool]:
        # What the first process decides goes with the next batch, after which all do it.
        if self.first:
            self.flags_next |= STOP * stop | SAVE * due
        return bool(self.flags_sent & STOP), bool(self.flags_sent & SAVE)

    # -- together again
    def gather(self, trainer: Trainer) -> None:
        tensors = {**dict(trainer.model.named_parameters()), **dict(trainer.model.named_buffers())}
        with torch.no_grad(), guarded(self.run):
            for rank in range(self.world):
                kinds: dict[torch.dtype, list[Tensor]] = {}
                for name, owner in self.owner.items():
                    if owner == rank and tensors[name].numel():
                        kinds.setdefault(tensors[name].dtype, []).append(tensors[name].detach())
                for members in kinds.values():
                    flat = torch.cat([tensor.reshape(-1) for tensor in members])
                    dist.broadcast(flat, src=rank)
                    if rank != self.rank:
                        for tensor, part in zip(
                            members, flat.split([t.numel() for t in members]), strict=True
                        ):
                            tensor.copy_(part.view(tensor.shape))

    def sums(self, sums: Sums) -> Sums:
        whole = Sums(sums.names, sums.total.device)
        whole.load(sums.state())
        with guarded(self.run):
            summed(whole.total)
        return whole

    def restore(self, sums: Sums) -> None:
        if not self.first:
            sums.total.zero_()

    def pack(self, stepper: Stepper) -> dict[str, Packed]:
        found = self.collect({key: _to_cpu(packed) for key, packed in stepper.pack().items()})
        return merge(found, self.owner) if self.first else {}

    def report(self) -> list[str]:
        waits = [pipe.waited for pipe in (self.sender, self.receiver) if pipe is not None]
        share = sum(waits) / self.busy if self.busy else 0.0
        each = self.collect((self.names, share))
        return [f"{', '.join(names)}: {waited:.0%} of the time spent waiting" for names, waited in each]


def _ports(model: Model, batch: Mapping[str, Any]) -> dict[Value, Any]:
    graph = model._training_graph
    given, numbers = model._split(batch) if graph.arguments else (batch, {})
    ports = model._check_batch(given, graph)
    slots: dict[Any, Any] = {port.value: ports[port.name] for port in graph.body.inputs}
    slots["numbers"] = numbers
    return slots


def _run(model: Model, number: int, slots: dict[Value, Any], step: int, reads: Mapping[Any, Any]) -> None:
    """Run one visit on what it reads, and put what it writes into the slots."""
    visit = model._visits(False)[number]
    lowered = visit.lowered
    arguments = [reads[value] for value in lowered.reads]
    if lowered.random:
        arguments.append(Rng(model._training_graph.seed, step))
    arguments.extend(reads["numbers"][name] for name in lowered.arguments)
    with torch.enable_grad(), around(model):
        slots.update(zip(lowered.writes, visit.run(*arguments), strict=True))


def _to_cpu(packed: Packed) -> Packed:
    from r2d2c.train.checkpoint import Packed as Made

    return Made({name: tensor.cpu() for name, tensor in packed.tensors.items()}, packed.scalars)
