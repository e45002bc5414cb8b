"""`evolve`: a search over the op graphs of a spec, by mutants of the best that go on from their parents' weights.

evolve.db  spec.yaml          what was asked for, and all candidates
candidates/N/                 a run folder for each one of the population
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import CompileError, Diagnostic, Sink
from r2d2c.train.atomic import write_atomic
from r2d2c.train.data import stable_seed
from r2d2c.train.events import Callbacks
from r2d2c.train.evolve_ensemble import Ensemble, formulas
from r2d2c.train.evolve_pool import Pool
from r2d2c.train.evolve_store import FILE, Candidate, Store, ranked
from r2d2c.train.evolve_worker import SPEC, Job, Maker, Place, Result, mutable
from r2d2c.train.interrupt import Interrupted, Request, catching
from r2d2c.train.load import Request as Asked
from r2d2c.train.load import check_for_training, load_data
from r2d2c.train.refuse import refuse
from r2d2c.train.resolved import resolved_text
from r2d2c.train.run import Run, next_folder, open_run
from r2d2c.train.settings import Settings, overrides, read_settings

if TYPE_CHECKING:
    from r2d2c.driver import Checked


@dataclass(slots=True)
class Search:
    """What is searched, for those who watch. better: `higher` or `lower` of the monitored value."""

    model: str
    folder: Path
    population: int
    generations: int
    epochs: int
    monitor: str
    better: str
    candidates: dict[int, Candidate] = field(default_factory=dict)

    def best(self, before: int | None = None) -> list[Candidate]:
        """The population, the best first. before: as it was when this generation began."""
        found = [c for c in self.candidates.values() if before is None or c.generation < before]
        return ranked(found, self.better)[: self.population]


class EvolveCallback:
    """The methods that a callback of a search may have."""

    def on_search(self, search: Search) -> None: ...

    def on_candidate(self, search: Search, candidate: Candidate) -> None:
        """One was made: it is done, or diverged."""

    def on_generation(self, search: Search, generation: int) -> None:
        """All of a generation are made."""

    def on_warning(self, diagnostic: Diagnostic) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Evolution:
    """A search that is over. best: the candidates of the ensemble, the best first.

    test: the metrics of the ensemble, and of the best alone, on test; empty if the data has none.
    """

    search: Search
    best: tuple[Candidate, ...]
    ensemble: Ensemble = field(repr=False)
    test: Mapping[str, Mapping[str, float]]
    plugins: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def folder(self) -> Path:
        return self.search.folder

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that were made, by their numbers."""
        return tuple(found for _, found in sorted(self.search.candidates.items()))

    def run(self, candidate: Candidate | int) -> Run:
        """The run of a candidate that is still in the population."""
        number = candidate if isinstance(candidate, int) else candidate.id
        return open_run(self.folder / "candidates" / str(number), plugins=self.plugins)

    def formulas(self, most: int = 8) -> dict[str, dict[str, str]]:
        """The ops of the best candidate with the largest weights in the read-outs, by op graph and name."""
        return formulas(self.ensemble.models[0], most)


def evolve(
    spec: str | Path,
    *,
    population: int = 8,
    generations: int = 5,
    epochs: int = 1,
    workers: int = 1,
    keep: int = 3,
    seed: int | None = None,
    data: str | None = None,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    plugins: Iterable[Path] = (),
    callbacks: Iterable[Any] = (),
) -> Evolution:
    """Search for better op graphs: in every generation `population` mutants of the best, each trained for `epochs`.

    The spec's own op graphs, trained as long, are the first candidate. keep: of how many the ensemble is. workers:
    processes of one thread, this one included; the result is the same whatever their number. A folder `out` that has a search is gone
    on with; E575 if that is another one. callbacks: objects with methods of `EvolveCallback`.
    Ctrl-C finishes the batch and raises `KeyboardInterrupt`; what was made is kept. A script that asks for several
    workers needs ``if __name__ == "__main__":`` around the call.
    """
    numbers = {"population": population, "epochs": epochs, "workers": workers, "keep": keep}
    for name, value in (numbers | {"generations": generations + 1}).items():
        if value < 1:
            raise ValueError(f"{name} is too small")
    named = [*overrides(seed=seed, data=data), *settings]
    source = Asked(data, plugins=tuple(plugins))
    checked = check_for_training(spec, named, tuple(plugins), source)
    wanted = _settings(checked)
    loaded = load_data(checked, source, default=wanted.data, span=wanted.data_span, split=wanted.split)
    if loaded.bound.train is None or loaded.bound.validation is None:
        refuse(
            "E577",
            f"{loaded.name} has no {'validation' if loaded.bound.train else 'train'} split",
            fix="hold out a share of the training data: --set train.split=0.2",
        )
    folder, made = _folder(checked, out)
    text = resolved_text(checked)
    store = Store(folder)
    try:
        asked = {
            "seed": wanted.seed,
            "spec": hashlib.sha256(text.encode()).hexdigest(),
            "population": population,
            "epochs": epochs,
            # A schedule is spread over all generations; without one there may be more of them later.
            **({"generations": generations} if wanted.schedule else {}),
        }
        store.claim(asked)
        write_atomic(folder / SPEC, text.encode())
        place = Place(
            folder=folder,
            origin=checked.folder,
            spec=checked.spec.source.name.rpartition("/")[2],
            epochs=epochs,
            total=epochs * (generations + 1),
            data=data,
            plugins=tuple(plugins),
        )
        maker = Maker(place, loaded)
        _check_mutable(maker)
        monitor = wanted.monitor
        numbers_of = (population, generations, epochs)
        search = Search(checked.name, folder, *numbers_of, monitor.name, monitor.better)
        searching = _Searching(search, store, maker, workers, Callbacks(callbacks, EvolveCallback))
        for diagnostic in checked.diagnostics:
            if diagnostic.severity == "warning":
                searching.tell("on_warning", diagnostic)
        return searching.run(wanted.seed, min(keep, population))
    except Exception:
        if made and not (folder / "candidates").exists():
            store.close()
            with suppress(OSError):
                shutil.rmtree(folder)
        raise
    finally:
        store.close()


def _settings(checked: Checked) -> Settings:
    sink = Sink()
    found = read_settings(checked, sink)
    sink.stop_on_errors()
    assert found is not None
    return found


def _folder(checked: Checked, out: str | Path | None) -> tuple[Path, bool]:
    """The folder of a search, and whether it is new. E522 if something else is in it."""
    if out is None:
        return next_folder(f"evolve-{checked.name}"), True
    path = Path(out)
    if path.exists() and not (path / FILE).exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty and has no search" if path.is_dir() else "is a file"
        refuse("E522", f"the folder {path} {what}", fix="choose another with --out")
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    return path, made


def _check_mutable(maker: Maker) -> None:
    from r2d2c.verify.op_graphs import find_readers

    model = maker.model()
    if mutable(model):
        return
    refused = [one for found in find_readers(model._training_graph).values() for one in found.refused]
    refuse(
        "E576",
        f"`{maker.checked.name}` has no op graph that can change",
        notes=[one.what for one in refused[:3]],
        fix="give it an op graph with `ops`, whose columns a `linear` reads",
    )


class _Searching:
    """One search while it runs."""

    def __init__(self, search: Search, store: Store, maker: Maker, workers: int, tell: Callbacks) -> None:
        self.search, self.store, self.maker, self.workers, self.tell = search, store, maker, workers, tell
        self.request = Request()
        self.pool: Pool | None = None
        self.reasons: tuple[Diagnostic, ...] = ()

    def run(self, seed: int, keep: int) -> Evolution:
        import torch

        threads = torch.get_num_threads()
        # Sums depend on the number of threads: here as many as a worker has.
        torch.set_num_threads(1)
        try:
            with catching() as self.request:
                self._all(seed)
                return self._finish(keep)
        finally:
            self._close()
            torch.set_num_threads(threads)

    def _all(self, seed: int) -> None:
        search = self.search
        search.candidates = {c.id: c for c in self.store.candidates()}
        self.tell("on_search", search)
        for generation in range(search.generations + 1):
            wanted = self._planned(generation, seed)
            self.store.add(wanted)
            jobs = []
            for candidate in wanted:
                known = search.candidates.setdefault(candidate.id, candidate)
                if known.state == "waiting":
                    jobs.append(Job(known))
            others = min(self.workers, search.population) - 1
            # They start while the first candidate, which has none beside it, is made here.
            if jobs and others and self.pool is None and (generation or search.generations):
                self.pool = Pool(self.maker.place, others)
            for result in self._made(jobs):
                self._note(result)
            if self.request.stop:
                raise Interrupted(search.folder, 0, 0)
            if not search.best():
                if self.reasons:
                    raise CompileError(self.reasons)
                refuse(
                    "E536", "no candidate could be measured: all have diverged", fix="lower the learning rate"
                )
            if jobs:
                self.tell("on_generation", search, generation)
            self._forget(generation)
        self._close()

    def _close(self) -> None:
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def _planned(self, generation: int, seed: int) -> list[Candidate]:
        """The candidates of a generation: every one of the better half has as many children."""
        if not generation:
            return [Candidate(0, None, 0, stable_seed("evolve", seed, 0, 0))]
        best = self.search.best(generation)
        parents = best[: (len(best) + 1) // 2]
        first = 1 + (generation - 1) * self.search.population
        return [
            Candidate(
                first + number,
                parents[number % len(parents)].id,
                generation,
                stable_seed("evolve", seed, generation, number),
            )
            for number in range(self.search.population)
        ]

    def _made(self, jobs: Sequence[Job]) -> Iterator[Result]:
        if self.pool is not None and len(jobs) > 1:
            yield from self.pool.run(jobs, self.maker.make, self.request)
            return
        for job in jobs:
            if self.request.stop:
                return
            result = self.maker.make(job, lambda: self.request.stop)
            if result is not None:
                yield result

    def _note(self, result: Result) -> None:
        found = result.candidate
        self.store.write(found)
        self.search.candidates[found.id] = found
        self.reasons = result.reasons or self.reasons
        self.tell("on_candidate", self.search, found)

    def _forget(self, generation: int) -> None:
        """Remove the checkpoints of those that fell out of the population."""
        # Counted by generation, so that a search that goes on forgets what it forgot the first time.
        best = {c.id for c in self.search.best(generation + 1)}
        gone = [
            c.id
            for c in self.search.candidates.values()
            if c.generation <= generation and c.id not in best and c.state != "waiting"
        ]
        self.store.forget(gone)
        for number in gone:
            path = self.maker.place.run(number)
            if path.exists():
                shutil.rmtree(path)
        self.search.candidates = {c.id: c for c in self.store.candidates()}

    def _finish(self, keep: int) -> Evolution:
        best = tuple(self.search.best()[:keep])
        ensemble = Ensemble([self.maker.model(c.id) for c in best])
        split, metrics = self.maker.loaded.bound.test, self.maker.settings.metrics
        test = {}
        if split is not None and metrics:
            loader = split.loader(self.maker.settings.batch_size)
            alone = Ensemble(ensemble.models[:1])
            test = {
                "ensemble": ensemble.measure(loader.epoch(0), metrics),
                "best": alone.measure(loader.epoch(0), metrics),
            }
        return Evolution(self.search, best, ensemble, test, self.maker.place.plugins)


__all__ = ["Candidate", "Ensemble", "Evolution", "EvolveCallback", "Search", "evolve"]
