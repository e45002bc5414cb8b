"""`Trainer`: epochs of seeded batches, a learning pass visit by visit, measuring, checkpoints, exact resume."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from r2d2c.diagnostics import Sink
from r2d2c.train.augmentation import augmented
from r2d2c.train.checkpoint import Checkpoint, pack_rng, unpack_rng
from r2d2c.train.data import BoundData, Loader, stable_seed
from r2d2c.train.data.bind import TableSplit
from r2d2c.train.distributed.alone import Alone
from r2d2c.train.events import Callbacks, EarlyStop, EpochInfo, Progress, Start, StepInfo
from r2d2c.train.growth import Growth
from r2d2c.train.guard import check_losses, check_parameters
from r2d2c.train.interrupt import Interrupted, Request, catching
from r2d2c.train.judge import Judge
from r2d2c.train.measure import (
    Batch,
    Spread,
    Sums,
    Width,
    measure,
    warn_of_collapse,
    weighted,
)
from r2d2c.train.precision import check_device, prepare
from r2d2c.train.refuse import refuse
from r2d2c.train.run_folder import RunFolder
from r2d2c.train.settings import Settings
from r2d2c.train.stepper import Stepper
from r2d2c.train.weights import load_weights

if TYPE_CHECKING:
    from r2d2c.model import Model

SHOW_EVERY = 0.1  # seconds between two looks at the losses: each waits for the device
DRAW_EVERY = 60.0  # seconds between two drawings of the curves


@dataclass(frozen=True, slots=True)
class Limits:
    """limit_batches: of an epoch, of training and of every split that is measured. checkpoint_every: seconds."""

    limit_batches: int | None = None
    checkpoint_every: float = 120.0


class Trainer:
    """One training of a model on bound data into a run folder."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        data: BoundData,
        run: RunFolder,
        *,
        callbacks: Iterable[Any] = (),
        limits: Limits | None = None,
        team: Alone | None = None,
    ) -> None:
        self.team = team or Alone()
        self.model, self.settings, self.data = model, settings, data
        self.run_folder = run = self.team.folder(run)
        self.limits = limits or Limits()
        self.callbacks, self.sink = Callbacks(callbacks), Sink()
        self.device = next((t.device for t in model.parameters()), torch.device("cpu"))
        self.losses = tuple(model._training_graph.losses)  # a distance that credit drops is none
        if data.train is None:
            refuse("E539", f"{data.name} has no training data")
        self.data = data = augmented(data, settings.augment, self.sink)
        self.sink.stop_on_errors()
        assert data.train is not None
        loader: Loader = data.train.loader(
            settings.batch_size, seed=settings.seed, shuffle=True, augment=True, workers=settings.workers
        )
        self.loader = self.team.loader(loader)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        parameters = self.team.prepare(model, trained)
        visits = model._training_graph.visits
        self.stepper = Stepper(
            parameters,
            visits,
            settings.record,
            settings.optimizer,
            sometimes=model._sometimes,
            rates=settings.rates,
            others=settings.others,
            undecayed=settings.undecayed,
            clips=settings.clips,
            accumulate=settings.accumulate,
            sharded=self.team.sharded,
        )
        self.team.adopt(self.stepper)
        check_device(settings.precision, self.device, settings.precision_span)
        prepare(model, settings.precision)
        self.judge = Judge(model, settings, data, loader, self.limits.limit_batches, self.sink, self.team)
        sample = self.sample if isinstance(data.train, TableSplit) else None
        better = self.judge.monitor.better
        self.stepper.set_schedule(settings.schedule, settings.epochs, self._batches(), better)
        self.growth = Growth(model, self.stepper, run, sample)
        self.sums = Sums(self.losses, self.device)
        self.spread = Spread(model)
        self.epoch = self.batch = self.batches = self.lines = 0
        self.seconds = 0.0
        self.best: dict[str, Any] | None = None
        self.finished = False
        # For how many epochs the monitor has brought nothing new, and after which one training stopped early.
        self.stale = 0
        self.stopped: int | None = None
        self.warned: set[str] = set()
        self.widest: dict[str, Width] = {}
        self._recent: list[torch.Tensor] = []
        self._told = 0

    def _batches(self) -> int | None:
        """Batches of one epoch, if that is known."""
        count, limit = self.loader.count, self.limits.limit_batches
        return count if limit is None else limit if count is None else min(count, limit)

    # -- running
    def run(self, resume: Checkpoint | None = None) -> None:
        """Train to the last epoch and measure the test split. Raises `Interrupted` after a signal, having saved."""
        before = pack_rng()
        try:
            self.team.begin(self)
            if resume is not None:
                self.restore(resume)
            else:
                self._seed()
                self.growth.begin(self.settings.epochs, self._batches())
                self.stepper.zero_grad()
                self.save()
            self._announce()
            with catching() as request:
                while self.epoch < self.settings.epochs and self.stopped is None:
                    self._run_epoch(request)
                    self._stop_if(self.team.all_agree(request.stop))
                self.team.close()
                self._finish()
        finally:
            self.callbacks("on_close", self.finished)
            unpack_rng(before)

    def _seed(self) -> None:
        """Our own noise needs no global generator; ops of plug-ins may."""
        import random

        import numpy

        number = stable_seed("global", self.settings.seed)
        torch.manual_seed(number)
        random.seed(number)
        numpy.random.seed(number % 2**32)

    def _announce(self) -> None:
        self.callbacks("on_ready", self)
        train = self.data.train
        assert train is not None
        self.callbacks(
            "on_start",
            Start(
                str(self.run_folder.path),
                self.model.spec.name,
                self.data.name,
                str(self.device),
                self.settings.epochs,
                self.epoch,
                self.batch,
                self._batches(),
                train.samples,
                sum(tensor.numel() for tensor in self.stepper.trained),
                len(self.stepper.groups),
            ),
        )
        self._tell_warnings()

    def _run_epoch(self, request: Request) -> None:
        began = shown = saved = time.perf_counter()
        first = self.sums.samples
        limit = self.limits.limit_batches
        for batch in self.loader.epoch(self.epoch, self.batch):
            if limit is not None and self.batch >= limit:
                break
            self._learn(batch)
            now = time.perf_counter()
            if now - shown >= SHOW_EVERY:
                shown = now
                self._look()
                if self.callbacks.wants("on_progress"):
                    rate = (self.sums.samples - first) / (now - began)
                    self.callbacks("on_progress", Progress(self.epoch, self.batch, self.sums.means(), rate))
            stop, due = self.team.agree(request.stop, now - saved >= self.limits.checkpoint_every)
            if stop or due:
                saved = now
                before, self.seconds = self.seconds, self.seconds + now - began
                self.save()
                self.seconds = before
            self._stop_if(stop)
        self.stepper.flush()
        self._look()
        self.seconds += time.perf_counter() - began
        self._end_epoch()

    def _learn(self, batch: Batch) -> None:
        settings = self.settings
        self.growth.before_batch(batch, self.epoch, self.batch, self.batches)
        sizes = settings.sizes_at(self.model._step) if settings.sizes else {}
        losses, samples = self.team.learn(self, batch, sizes)
        self.stepper.after_batch()
        self._recent.append(self.sums.add(losses, samples))
        self.batch += 1
        self.batches += 1
        if self.callbacks.wants("on_step"):
            self.callbacks("on_step", StepInfo(self.epoch, self.batch, self.model._step, losses))

    def _where(self) -> str:
        return f"epoch {self.epoch + 1}"

    def _look(self) -> None:
        """Wait for the device and look at the losses since the last look."""
        rows, self._recent = self._recent, []
        check_losses(self, rows, self._where())

    def _stop_if(self, stop: bool) -> None:
        if stop:
            self.team.close()
            self.run_folder.draw_curves()
            raise Interrupted(self.run_folder.path, self.epoch + (self.batch > 0), self.batch)

    # -- measuring
    def sample(self) -> list[Batch]:
        """Some batches of training data; see `Judge.sample`."""
        return self.judge.sample(self.epoch)

    def _end_epoch(self) -> None:
        self.team.gather(self)
        sums = self.team.sums(self.sums)
        losses = sums.means()
        train: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "split": "train",
            "step": self.model._step,
            "loss": weighted(self.model, losses),
            "losses": losses,
        }
        sample = self.sample()
        if self.data.validation is None and self.settings.metrics and isinstance(self.data.train, TableSplit):
            found = measure(self.model, sample, self.settings.metrics, losses=False)
            train |= {"metrics": found.metrics, "metrics_on": found.samples}
        spread = self.spread.of(next(iter(sample))) if self.spread.names else {}
        if spread:
            train["spread"] = {name: width.relative for name, width in spread.items()}
            self._warn_of_collapse(spread)
        train |= {
            **({"ops": self.growth.sizes()} if self.growth.growing else {}),
            "lr": self.stepper.rate,
            **({"rates": rates} if (rates := self.stepper.rates) else {}),
            "samples": sums.samples,
            "seconds": self.seconds,
            "rate": sums.samples / self.seconds if self.seconds else None,
        }
        validation = None
        if self.data.validation is not None:
            found = self.judge.measure(self.data.validation)
            validation = self.judge.record("validation", found, self.epoch + 1)
        value = self.judge.value(validation or train)
        better = self.judge.improves(value, None if self.best is None else self.best["value"])
        if better:
            self.best = {"value": value, "epoch": self.epoch + 1, "monitor": self.judge.monitor.name}
        self.stepper.after_epoch(value)
        self.stale = 0 if better else self.stale + 1
        if self.settings.early_stop is not None and self.stale >= self.settings.early_stop:
            self.stopped = self.epoch + 1
        self.growth.after_epoch(better)
        self._append(*([train] if validation is None else [train, validation]))
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        self.sums = Sums(self.losses, self.device)
        self.save(best=better)
        stop = None
        if self.stopped is not None and self.stopped < self.settings.epochs:
            stop = EarlyStop(self.stopped, self.judge.monitor.name, self.stale)
        self.callbacks("on_epoch", EpochInfo(self.epoch, train, validation, better, stop))
        self._tell_warnings()
        self._draw_sometimes()

    def _warn_of_collapse(self, spread: Mapping[str, Width]) -> None:
        for name, width in spread.items():
            widest = self.widest[name] = width.wider(self.widest.get(name, width))
            if name in self.warned or not width.collapsed(widest):
                continue
            self.warned.add(name)
            warn_of_collapse(self.sink, self.model.graph, name, self._where(), width, widest)

    def _tell_warnings(self) -> None:
        for diagnostic in self.sink.diagnostics[self._told :]:
            self.callbacks("on_warning", diagnostic)
        self._told = len(self.sink.diagnostics)

    # -- the end
    def _finish(self) -> None:
        if self.finished:
            return
        test = None
        if self.data.test is not None:
            which = "best" if self.data.validation is not None and self.run_folder.has("best") else "last"
            last = None
            if which == "best":
                last = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
                load_weights(self.model, self.run_folder.load("best").model)
            test = self.judge.record("test", self.judge.measure(self.data.test), self.epoch)
            test["checkpoint"] = which
            if last is not None:
                load_weights(self.model, last)
            self._append(test)
        self.finished = True
        self.save()
        self.run_folder.draw_curves()
        self.callbacks("on_end", test)

    def _draw_sometimes(self) -> None:
        now = time.monotonic()
        if not hasattr(self, "_drawn"):
            self._drawn = now
        if now - self._drawn >= DRAW_EVERY:
            self._drawn = now
            self.run_folder.draw_curves()

    # -- state
    def _append(self, *records: Mapping[str, Any]) -> None:
        self.run_folder.append(*records)
        self.lines += len(records)

    def save(self, *, best: bool = False) -> None:
        """Write the checkpoint, from which `restore` goes on exactly."""
        self._look()
        self.team.gather(self)
        check_parameters(self, self._where())
        state = {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.model._step,
            "batches": self.batches,
            "epochs": self.settings.epochs,
            "lines": self.lines,
            "sums": self.team.sums(self.sums).state(),
            "seconds": self.seconds,
            "schedule": self.stepper.schedule_state(),
            "best": self.best,
            "finished": self.finished,
            **({"scale": self.model._scaler.state()} if self.model._scaler is not None else {}),
            "stale": self.stale,
            "stopped": self.stopped,
            "warned": sorted(self.warned),
            "widest": {name: list(width) for name, width in self.widest.items()},
            "validated": self.data.validation is not None,
            "growth": self.growth.state(),
        }
        checkpoint = Checkpoint(self.model.state_dict(), self.team.pack(self.stepper), pack_rng(), state)
        self.run_folder.save(checkpoint, best=best)
        self.team.wait()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint was saved; ``metrics.jsonl`` is cut to what it knows."""
        state = checkpoint.state
        load_weights(self.model, checkpoint.model)
        self.stepper.zero_grad()
        # With more epochs than before, a schedule that ends with them has to be another one.
        same = state["epochs"] == self.settings.epochs
        self.batches = state["batches"] if "batches" in state else state["step"]
        done = self.batches if self.stepper.per_batch else state["epoch"]
        packed = self.team.unpack(checkpoint.optimizers, self.stepper)
        self.stepper.unpack(packed, state["schedule"], done, same=same)
        self.model._step = state["step"]
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
        self.sums.load(state["sums"])
        self.team.restore(self.sums)
        self.best, self.warned = state["best"], set(state["warned"])
        self.widest = {name: Width(*width) for name, width in state["widest"].items()}
        if self.model._scaler is not None and "scale" in state:
            self.model._scaler.load(state["scale"])
        if same:  # with more epochs, it goes on
            self.stale, self.stopped = state.get("stale", 0), state.get("stopped")
        over = self.stopped is not None or self.epoch >= self.settings.epochs
        self.finished = state["finished"] and over
        self.lines = self.run_folder.keep_metrics(state["lines"], self.sink)
        self.growth.load(state.get("growth", {}), self.sink)
        unpack_rng(checkpoint.rng)
