"""How one candidate of a search is made: its parent's state, some mutations, some epochs, a measurement.

A candidate is a run folder, so `eval`, `predict`, `export` and `replay` take it. What comes out depends on the job
and the parent's checkpoint alone, not on the process that makes it.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2c import driver
from r2d2c.diagnostics import CompileError, Diagnostic, Sink
from r2d2c.driver import Checked
from r2d2c.formulas import evaluate, reads
from r2d2c.growth import OpGraph
from r2d2c.mutate import Limits, mutate
from r2d2c.mutation_choice import Bias, Draw, additions, generator, prunes
from r2d2c.mutations import Add, Mutation, MutationError, Prune, to_json
from r2d2c.plugins import collect
from r2d2c.source import Source
from r2d2c.train.evolve_store import Candidate
from r2d2c.train.growth import Count, Growth, op_graphs
from r2d2c.train.growth_scores import Watch, scores
from r2d2c.train.interrupt import Interrupted, Request
from r2d2c.train.load import Loaded, load_data
from r2d2c.train.load import Request as Asked
from r2d2c.train.refuse import refuse
from r2d2c.train.run import Origin, seen_from
from r2d2c.train.run_folder import Lock, RunFolder
from r2d2c.train.settings import Settings, overrides, read_settings

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from r2d2c.model import Model
    from r2d2c.train.loop import Trainer

# What ends one candidate, and not the search: a loss that is no number, and ops whose worth is none.
FATAL = {"E536", "E571"}
SPEC = "spec.yaml"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a search is, and of what. total: the epochs of the learning rate's schedule; epochs: of each candidate.

    origin: the folder of the spec that was given, where paths of data begin. data: the source, if it was not the
    spec that named it.
    """

    folder: Path
    origin: Path
    spec: str
    epochs: int
    total: int
    data: str | None = None
    plugins: tuple[Path, ...] = ()

    def run(self, number: int) -> Path:
        return self.folder / "candidates" / str(number)


@dataclass(frozen=True, slots=True)
class Job:
    """A candidate to be made. mutations: by op graph, where they are not to be drawn."""

    candidate: Candidate
    mutations: Mapping[str, Sequence[Mutation]] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    candidate: Candidate
    reasons: tuple[Diagnostic, ...] = field(default=())


class _Stopping:
    """A callback that stops a training after a batch."""

    def __init__(self, stop: Callable[[], bool], path: Path) -> None:
        self.stop, self.path = stop, path

    def on_step(self, step: Any) -> None:
        if self.stop():
            raise Interrupted(self.path, step.epoch, step.batch)


class Maker:
    """Makes candidates of a search, one after the other."""

    def __init__(self, place: Place, loaded: Loaded | None = None) -> None:
        self.place = place
        self.text = (place.folder / SPEC).read_bytes().decode()
        found = collect(place.plugins)
        self.checked: Checked = driver.check_source(
            Source(str(place.folder / SPEC), self.text),
            folder=place.folder,
            settings=tuple(overrides(epochs=place.total)),
            ops=found.ops,
            rules=found.rules,
        )
        sink = Sink()
        settings = read_settings(self.checked, sink)
        sink.stop_on_errors()
        assert settings is not None
        self.settings: Settings = settings
        if loaded is None:
            asked = Asked(place.data, place.origin, trusted=True)
            loaded = load_data(
                self.checked, asked, default=settings.data, span=settings.data_span, split=settings.split
            )
        self.loaded = loaded

    def model(self, number: int | None = None) -> Model:
        """A new model, with the weights of a candidate."""
        from r2d2c.model import Model
        from r2d2c.train.weights import load_weights

        model = Model(self.checked)
        if number is not None:
            load_weights(model, RunFolder(self.place.run(number)).load().model)
        return model

    def make(self, job: Job, stop: Callable[[], bool]) -> Result | None:
        """Make one; None if it was stopped. What is in its folder from before goes."""
        from r2d2c.train.checkpoint import pack_rng, unpack_rng

        path, before = self.place.run(job.candidate.id), pack_rng()
        if path.exists():
            shutil.rmtree(path)
        try:
            return Result(self._made(job, path, stop))
        except Interrupted:
            return None
        except CompileError as error:
            if not any(diagnostic.code in FATAL for diagnostic in error.diagnostics):
                raise
            return Result(replace(job.candidate, state="diverged"), error.diagnostics)
        finally:
            unpack_rng(before)

    def _made(self, job: Job, path: Path, stop: Callable[[], bool]) -> Candidate:
        from r2d2c.train.loop import Trainer

        candidate = job.candidate
        lock = Lock.of(self.text, seed=self.settings.seed, threads=1, device="cpu")
        run = RunFolder.create(path, spec=self.text, lock=lock)
        Origin(
            spec=self.place.spec,
            folder=seen_from(self.place.origin, path),
            data=self.place.data,
            classes=self.loaded.classes,
            shapes=self.loaded.bound.shapes,
        ).write(path)
        stopping = [_Stopping(stop, path)]
        trainer = Trainer(self.model(), self.settings, self.loaded.bound, run, callbacks=stopping)
        done: dict[str, list[Mutation]] = {}
        if candidate.parent is None:
            trainer._seed()
            trainer.stepper.zero_grad()
            self._begin_log(trainer)
        else:
            self._inherit(trainer, candidate.parent)
            self._begin_log(trainer)
            done = self._mutate(trainer, job)
        trainer.growth.growing = {}  # the search decides what changes, not the rounds of the spec
        last = trainer.epoch + self.place.epochs
        trainer.save()
        while trainer.epoch < last:
            trainer._run_epoch(Request())
        # What counts is the state in which it is measured, and that its children begin with.
        (run.checkpoints / "best.safetensors").unlink(missing_ok=True)
        metric = measure(trainer)
        if not np.isfinite(metric):
            return replace(candidate, state="diverged")
        return replace(
            candidate,
            state="done",
            metric=metric,
            mutations={name: [to_json(mutation) for mutation in one] for name, one in done.items()},
            ops={name: trainer.growth.topology(name).count for name in trainer.growth.graphs},
            checkpoint=f"candidates/{candidate.id}/checkpoints/last.safetensors",
        )

    def _inherit(self, trainer: Trainer, parent: int) -> None:
        """Begin with all that a parent had learned, as a run of its own."""
        checkpoint = RunFolder(self.place.run(parent)).load()
        counts = {name: {"rounds": 0, "added": 0, "pruned": 0, "stale": 0} for name in trainer.growth.growing}
        fresh = {"lines": 0, "best": None, "growth": {"lines": 0, "counts": counts}}
        trainer.restore(replace(checkpoint, state={**checkpoint.state, **fresh}))

    def _begin_log(self, trainer: Trainer) -> None:
        growth = trainer.growth
        starts = {name: growth.topology(name) for name in growth.growing}
        if starts:
            growth.lines = growth.log.create(hashlib.sha256(self.text.encode()).hexdigest(), starts)

    def _mutate(self, trainer: Trainer, job: Job) -> dict[str, list[Mutation]]:
        growth, at = trainer.growth, job.candidate.generation
        try:
            wanted = choose(trainer, job.candidate) if job.mutations is None else job.mutations
            for name, mutations in wanted.items():
                before = growth.topology(name)
                done = mutate(before, mutations, at=at)
                growth.apply(name, done)
                if name in growth.growing:
                    growth.log.append(
                        name, at, mutations, done.topology, epoch=trainer.epoch, step=trainer.batches
                    )
                    growth.lines += 1
                    added = sum(isinstance(mutation, Add) for mutation in mutations)
                    gone = before.count + added - done.topology.count
                    growth.counts[name] = Count(at, added, gone)
        except MutationError as error:
            refuse(
                "E571",
                f"candidate {job.candidate.id} cannot be made: {error.message}",
                fix=error.remedy or None,
            )
        return {name: list(mutations) for name, mutations in wanted.items()}


def measure(trainer: Trainer) -> float:
    """The monitored value on validation data, as the model is just now."""
    validation = trainer.data.validation
    assert validation is not None
    found = trainer.judge.measure(validation)
    return trainer.judge.value(trainer.judge.record("validation", found, trainer.epoch + 1))


def mutable(model: Model) -> dict[str, OpGraph]:
    """The op graphs that a search can change: something may grow in them, and linears read them."""
    return {name: graph for name, graph in op_graphs(model).items() if graph.kinds and graph.readers}


def choose(trainer: Trainer, candidate: Candidate) -> dict[str, list[Mutation]]:
    """Draw the mutations of a candidate: of one op graph some prunes, then some additions.

    How many at most is what `grow` of the op graph says, else an eighth of its ops. Worth little makes it likely to
    be pruned: the worth is multiplied with a random factor.
    """
    growth: Growth = trainer.growth
    random = generator(candidate.seed, candidate.generation)
    graphs = mutable(trainer.model)
    graph = graphs[list(graphs)[random.integers(len(graphs))]]
    growing, before = graph.growing, growth.topology(graph.name)
    eighth = max(1, before.count // 8)
    most_added, most_pruned = (growing.add, growing.prune) if growing else (eighth, eighth)
    add = int(random.integers(1, most_added + 1)) if most_added else 0
    prune = int(random.integers(0 if add else 1, most_pruned + 1)) if most_pruned else 0
    prune = min(max(prune, add - (before.capacity - before.count)), before.count - 1)

    by = growing.by if growing is not None else "effect"
    prefer = growing is not None and growing.prefer == "gradient"
    watch = Watch(trainer.model, graph)
    seen = watch.look(trainer.sample(), slopes=prefer or "taylor" in reads(by))
    gone: list[Prune] = []
    if prune > 0:
        weights = [growth._readout(reader.weight, reader.offset, graph) for reader in graph.readers]
        marks = evaluate(by, scores(before, seen, weights, candidate.generation))
        whole = growing is not None and growing.whole
        gone = prunes(before, marks * random.exponential(size=len(marks)), prune, leaves=not whole)
    after = mutate(before, gone).topology
    depth = growing.depth if growing is not None else watch.node.attrs["start"].depth
    bias = Bias(seen.varies, seen.strength if prefer else None)
    new = additions(after, add, random, Draw(kinds=graph.kinds, bias=bias), limits=Limits(depth=depth))
    return {graph.name: [*gone, *new]}


# -- in a process of its own
_here: list[tuple[Maker, Event]] = []


def begin(place: Place, stopped: Event) -> None:
    """Make a process ready. Ctrl-C goes to all processes of a terminal; the first one tells the others."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if not stopped.is_set():
        _here[:] = [(Maker(place), stopped)]


def ready() -> None:
    """A job of nothing: a process that is given it starts."""


def work(job: Job) -> Result | None:
    """`Maker.make` in a process that is ready."""
    maker, stopped = _here[0]
    return maker.make(job, stopped.is_set)
