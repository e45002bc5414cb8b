"""Processes that make candidates with this one: the same results, and ends of all kinds."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r2d2c.diagnostics import CompileError
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.evolve import evolve
from r2d2c.train.evolve_pool import Pool
from r2d2c.train.evolve_store import Candidate
from r2d2c.train.evolve_worker import Job, Maker, Place, Result
from r2d2c.train.interrupt import Request
from tests.unit.runs import write_table
from tests.unit.test_evolve import SPEC

TIMEOUT = 120  # seconds that a process may take to start


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    """A search with its first candidate."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("pool")
    draw = random.Random(0)
    write_table(folder / "data.csv", "abc", 60, lambda _: draw.choice(["yes", "no"]), draw)
    (folder / "sums.yaml").write_text(SPEC)
    evolve(folder / "sums.yaml", out=folder / "search", population=2, generations=0)
    yield Maker(Place(folder / "search", folder, "sums.yaml", 1, 1))
    torch.set_num_threads(threads)


@pytest.fixture
def pool(maker: Maker) -> Iterator[Pool]:
    made = Pool(maker.place, 1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def ready(maker: Maker) -> Iterator[Pool]:
    """One whose process has started, for tests after which it goes on."""
    made = Pool(maker.place, 1)
    made.starts[0].result(TIMEOUT)
    yield made
    made.close()


def jobs(count: int, first: int, parent: int = 0) -> list[Job]:
    """Children of the first candidate; the seeds are the same whatever their numbers."""
    return [Job(Candidate(first + number, parent, 1, number)) for number in range(count)]


def tensors(maker: Maker, number: int) -> dict[str, torch.Tensor]:
    path = maker.place.run(number) / "checkpoints" / "last.safetensors"
    return dict(load_checkpoint(path).model)


def test_another_process_makes_the_same(maker: Maker, ready: Pool) -> None:
    here = [maker.make(job, lambda: False) for job in jobs(3, 10)]
    wanted = jobs(3, 20)

    def make(job: Job, stop: Callable[[], bool]) -> Result | None:
        """This process takes one, and the other has made the rest before it begins."""
        others = [maker.place.run(one.candidate.id) / "checkpoints" for one in wanted if one is not job]
        until = time.monotonic() + TIMEOUT
        while not all(path.exists() for path in others) and time.monotonic() < until:
            time.sleep(0.01)
        return maker.make(job, stop)

    found = list(ready.run(wanted, make, Request()))
    by_seed = {result.candidate.seed: result.candidate for result in found}
    assert len(found) == 3
    for result in here:
        assert result is not None
        other = by_seed[result.candidate.seed]
        assert replace(other, id=0, checkpoint=None) == replace(result.candidate, id=0, checkpoint=None)
        one, two = tensors(maker, result.candidate.id), tensors(maker, other.id)
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_nobody_waits_for_a_process_that_is_still_starting(maker: Maker, pool: Pool) -> None:
    """This process alone makes what is done before the other is ready; one pool is for many generations."""
    for generation in range(3):
        found = list(pool.run(jobs(2, 30 + 2 * generation), maker.make, Request()))
        assert sorted(result.candidate.seed for result in found) == [0, 1]


def test_a_stop_reaches_all(maker: Maker, pool: Pool) -> None:
    request = Request()

    def make(job: Job, stop: Callable[[], bool]) -> Result | None:
        request.stop = True
        return maker.make(job, stop)

    pool.starts[0].result(TIMEOUT)
    found = list(pool.run(jobs(40, 50), make, request))
    assert len(found) < 5 and pool.stopped.is_set()


def test_what_goes_wrong_in_another_process_is_raised_here(maker: Maker, ready: Pool) -> None:

    def make(job: Job, stop: Callable[[], bool]) -> Result | None:
        time.sleep(0.2)
        return None

    with pytest.raises(CompileError, match="E520"):
        list(ready.run(jobs(8, 100, parent=99), make, Request()))


def test_a_process_that_ends_on_its_own_is_noticed(maker: Maker, pool: Pool) -> None:
    pool.starts[0].result(TIMEOUT)
    (process,) = pool.executor._processes.values()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(TIMEOUT)
    with pytest.raises(ChildProcessError, match="a worker ended on its own"):
        list(pool.run(jobs(8, 120), maker.make, Request()))
