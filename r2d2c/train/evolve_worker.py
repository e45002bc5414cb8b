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
from r2d2c.formulas import reads
from r2d2c.growth import Every, Growing, OpGraph
from r2d2c.mutate import mutate
from r2d2c.mutation_choice import generator
from r2d2c.mutations import Mutation, MutationError, to_json
from r2d2c.plugins import collect
from r2d2c.source import Source
from r2d2c.train.evolve_store import Candidate
from r2d2c.train.growth import Count, Growth, op_graphs
from r2d2c.train.growth_choice import Chosen
from r2d2c.train.growth_choice import choose as choose_round
from r2d2c.train.growth_places import points
from r2d2c.train.growth_scores import Watch
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
            asked = Asked(place.data, place.origin, trusted=True, plugins=place.plugins)
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
            scaling=self.loaded.bound.scaling,
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
        growth = trainer.growth.state()
        frozen = checkpoint.state["growth"].get("frozen", {})
        fresh = {"lines": 0, "best": None, "growth": {**growth, "frozen": frozen}}
        trainer.restore(replace(checkpoint, state={**checkpoint.state, **fresh}))

    def _begin_log(self, trainer: Trainer) -> None:
        if trainer.growth.growing:
            trainer.growth.open_log(hashlib.sha256(self.text.encode()).hexdigest())

    def _mutate(self, trainer: Trainer, job: Job) -> dict[str, list[Mutation]]:
        growth, at = trainer.growth, job.candidate.generation
        try:
            if job.mutations is None:
                wanted = choose(trainer, job.candidate)
            else:
                wanted = {name: Chosen(list(given)) for name, given in job.mutations.items()}
            for name, chosen in wanted.items():
                before, mutations = growth.topology(name), chosen.mutations
                done = mutate(before, mutations, at=at, frozen=growth.frozen.get(name, frozenset()))
                growth.apply(name, done, chosen.fits)
                if name in growth.growing:
                    growth.log.append(
                        name, at, mutations, done.topology, epoch=trainer.epoch, step=trainer.batches
                    )
                    growth.lines += 1
                    growth.counts[name] = Count().after(at, mutations, before, done.topology)
        except MutationError as error:
            refuse(
                "E571",
                f"candidate {job.candidate.id} cannot be made: {error.message}",
                fix=error.remedy or None,
            )
        return {name: chosen.mutations for name, chosen in wanted.items()}


def measure(trainer: Trainer) -> float:
    """The monitored value on validation data, as the model is just now."""
    validation = trainer.data.validation
    assert validation is not None
    found = trainer.judge.measure(validation)
    return trainer.judge.value(trainer.judge.record("validation", found, trainer.epoch + 1))


def mutable(model: Model) -> dict[str, OpGraph]:
    """The op graphs that a search can change: something may grow in them, and linears read them."""
    return {name: graph for name, graph in op_graphs(model).items() if graph.kinds and graph.readers}


def choose(trainer: Trainer, candidate: Candidate) -> dict[str, Chosen]:
    """Draw the mutations of a candidate: of one op graph some prunes, then some additions, and merges and splits.

    How many at most is what `grow` of the op graph says, else an eighth of its ops. Worth little makes it likely to
    be pruned: the worth is multiplied with a random factor, and `below` is no bound.
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

    watch = Watch(trainer.model, graph)
    wanted = growing or Growing(Every("epochs", 1), depth=watch.node.attrs["start"].depth)
    slopes = wanted.prefer == "gradient" or "taylor" in reads(wanted.by)
    luck = random.exponential(size=before.capacity) if prune > 0 else None
    chosen = choose_round(
        graph,
        replace(wanted, add=add, prune=prune, below=None),
        before,
        watch.look(trainer.sample(), slopes=slopes),
        growth.readouts(graph),
        random,
        at=candidate.generation,
        frozen=growth.frozen.get(graph.name, frozenset()),
        luck=luck,
        points=points(trainer.model, graph),
    )
    return {graph.name: chosen}


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
