"""The angle between what a model learns from its credit rules and what backprop would have it learn.

At the start and after every epoch, one batch that stays the same goes through one learning pass of the model and
one of the same spec with `backprop` on every link, at the same parameters and with the same noise. The angle lies
between the two gradients (Lillicrap et al. 2016, figure 2b): 0° is backprop, 90° has nothing to do with it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from r2d2c import driver
from r2d2c.diagnostics import CompileError
from r2d2c.driver import Checked
from r2d2c.syntax.override import with_credit
from r2d2c.train.atomic import write_atomic
from r2d2c.train.checkpoint import pack_rng, unpack_rng
from r2d2c.train.data.bind import TableSplit
from r2d2c.train.measure import Batch

if TYPE_CHECKING:
    from r2d2c.model import Model
    from r2d2c.train.events import EpochInfo, Start
    from r2d2c.train.loop import Trainer

FILE = "angles.csv"
ALL = ""
"""The name under which the angle over all parameters stands, beside those of the tasks."""
SAMPLES = 128  # in the batch: an angle to a degree or so needs no more
Gradients = Mapping[str, torch.Tensor]
Degrees = dict[str, float]


def under_backprop(checked: Checked) -> Checked | None:
    """The same spec with `backprop` on every link; None if it cannot learn like that."""
    try:
        return driver.check_source(
            checked.spec.source,
            folder=checked.folder,
            settings=with_credit(checked.settings, "backprop"),
            ops=checked.ops.extra,
            rules=checked.rules,
            seed=checked.graph.seed,
        )
    except CompileError:
        return None


def gradients(model: Model, batch: Batch) -> Gradients:
    """What one learning pass adds to every ``.grad``; the model is afterwards as it was before."""
    with _same_generators(), _undisturbed(model):
        return _learned(model, batch)


def _learned(model: Model, batch: Batch) -> Gradients:
    # Always the noise of learning pass 0, in which losses with `every=n` train too: so the angles of a training
    # can be compared with each other, and those of several rules.
    model.__dict__["_step"] = 0
    for parameter in model.parameters():
        parameter.grad = None
    for _ in model.visits(**batch):  # not `learn`: of several processes each measures on all of the batch
        pass
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@contextmanager
def _undisturbed(model: Model) -> Iterator[None]:
    """Put back a model's gradients, statistics and count of learning passes."""
    step = model._step
    # The same tensors go back, not their values: an optimizer may know them as views of its own buffer.
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    frozen = {name for name, row in model._storage.items() if row.kind == "frozen"}
    buffers = {name: b.clone() for name, b in model.named_buffers() if name not in frozen}
    try:
        yield
    finally:
        for parameter, grad in before:
            parameter.grad = grad
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
        model.__dict__["_step"] = step


@contextmanager
def _same_generators() -> Iterator[None]:
    """Our own noise needs no global generator; ops and data of somebody's own may."""
    before = pack_rng()
    try:
        yield
    finally:
        unpack_rng(before)


def angles(mine: Gradients, backprop: Gradients, tasks: Sequence[str]) -> Degrees:
    """Degrees between two gradients: of every task both train, by its name, and of all parameters as `ALL`.

    All parameters are those that backprop trains; one that the other leaves as it is counts as zero there. A
    task whose parameters the other does not train at all has no angle.
    """
    products: dict[str, list[torch.Tensor]] = {}
    for name, theirs in backprop.items():
        ours = mine.get(name)
        if ours is not None and ours.shape != theirs.shape:
            continue  # a rule that rewrites inference may have made another layer of it
        one = (ours if ours is not None else torch.zeros_like(theirs)).flatten().double()
        two = theirs.flatten().double()
        task = name.split(".")[0]
        products.setdefault(task, []).append(torch.stack([one.dot(two), one.dot(one), two.dot(two)]))
    sums = {task: torch.stack(found).sum(0) for task, found in products.items()}
    if not sums:
        return {}
    wanted = {ALL: torch.stack(list(sums.values())).sum(0)} | {t: sums[t] for t in tasks if t in sums}
    numbers = torch.stack(list(wanted.values())).tolist()
    degrees = {task: _degrees(*row) for task, row in zip(wanted, numbers, strict=True)}
    return {task: value for task, value in degrees.items() if value is not None}


def _degrees(product: float, one: float, two: float) -> float | None:
    size = math.sqrt(one * two)
    if not size or not math.isfinite(size) or not math.isfinite(product):
        return None
    return math.degrees(math.acos(max(-1.0, min(1.0, product / size))))


class Angles:
    """A callback of a training: measures the angles, and writes them into ``angles.csv`` of its run.

    references: compiled models under `backprop`, by their seeds, which several trainings of one spec may share.
    backprop: the spec under `backprop`, if that is known already.
    """

    def __init__(
        self, backprop: Checked | None = None, references: MutableMapping[int, Model] | None = None
    ) -> None:
        self.backprop = backprop
        self.references = references if references is not None else {}
        self.history: dict[int, Degrees] = {}
        """Epoch -> degrees; 0 is before the first."""

    def on_ready(self, trainer: Trainer) -> None:
        self._model, self._path = trainer.model, trainer.run_folder.path / FILE
        self._writes = trainer.team.first
        self._tasks = list(trainer.model.graph.tasks)
        before = read_angles(self._path)
        self.history.clear()
        self.history.update({epoch: found for epoch, found in before.items() if epoch <= trainer.epoch})
        if self.history != before:
            self._write()
        self._batch = held_batch(trainer)
        self._reference = self._compiled(trainer)

    def on_start(self, start: Start) -> None:
        # Going on in the middle of an epoch, the moment to measure is over.
        if not start.batch and start.epoch not in self.history:
            self._measure(start.epoch)

    def on_epoch(self, info: EpochInfo) -> None:
        self._measure(info.epoch)

    def _compiled(self, trainer: Trainer) -> Model | None:
        from r2d2c.model import Model

        seed = trainer.model.graph.seed
        if seed not in self.references:
            checked = self.backprop or under_backprop(trainer.model.spec)
            if checked is None:
                return None
            # Seeds differ only in their noise here: every parameter is given the value of the trained one.
            checked = replace(checked, graph=replace(checked.graph, seed=seed))
            self.references[seed] = Model(checked, trainer.model._backend_name).to(trainer.device)
        return self.references[seed]

    def _measure(self, epoch: int) -> None:
        if self._reference is None:
            return
        mine, reference = self._model.state_dict(), self._reference
        with torch.no_grad():
            for name, tensor in reference.state_dict().items():
                if name in mine and mine[name].shape == tensor.shape:
                    tensor.copy_(mine[name])
        with _same_generators():
            theirs = _learned(reference, self._batch)
            with _undisturbed(self._model):
                found = angles(_learned(self._model, self._batch), theirs, self._tasks)
        self.history[epoch] = found
        if len(self.history) == 1:
            self._write()
            return
        if not self._writes:
            return
        with self._path.open("a", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(_rows({epoch: found}))

    def _write(self) -> None:
        if not self._writes:
            return
        lines = ["epoch,task,degrees", *(",".join(row) for row in _rows(self.history))]
        write_atomic(self._path, ("\n".join(lines) + "\n").encode())


def _rows(history: Mapping[int, Degrees]) -> list[tuple[str, str, str]]:
    return [(str(e), task, f"{value:.4f}") for e, found in history.items() for task, value in found.items()]


def read_angles(path: Path) -> dict[int, Degrees]:
    """The angles that a training wrote, up to a line that is cut off; nothing if there are none."""
    history: dict[int, Degrees] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for epoch, task, value in list(csv.reader(stream))[1:]:
                history.setdefault(int(epoch), {})[task] = float(value)
    except (OSError, ValueError, csv.Error):
        pass
    return history


def held_batch(trainer: Trainer) -> Batch:
    """The batch to measure on: of the validation split, else of training data; the same for every credit rule."""
    split: Any = trainer.data.validation or trainer.data.train
    if isinstance(split, TableSplit):
        size = min(SAMPLES, trainer.settings.batch_size)
        loader = split.loader(size, seed=trainer.settings.seed, shuffle=True)
        return next(iter(loader.epoch(-1)))
    with _same_generators():
        batch: Batch = next(iter(split.epoch(0)))
    return batch


__all__ = ["ALL", "Angles", "angles", "gradients", "read_angles", "under_backprop"]
