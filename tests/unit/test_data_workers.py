"""Worker processes that read and augment: the same batches, and what happens when one of them fails."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.train.distributed.data import SharePlan
from r2d2c.train.interrupt import Interrupted
from tests.unit.data_rows import SPEC, Noted, digits, noted, same


@pytest.fixture(autouse=True)
def no_children() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_make_the_same_batches(tmp_path: Path, workers: int) -> None:
    split = digits(tmp_path)
    state = torch.get_rng_state()
    for shuffle, start in ((True, 0), (True, 8), (False, 0)):
        alone, many = (
            split.loader(128, seed=4, shuffle=shuffle, augment=True, workers=n) for n in (0, workers)
        )
        assert many.workers == workers
        kept = list(many.epoch(1, start))
        assert same(list(alone.epoch(1, start)), kept), "also when they are kept"
    assert torch.equal(state, torch.get_rng_state())
    plain = split.loader(128, seed=4, shuffle=True, workers=2)
    assert plain.workers == 0, "what is in memory and stays as it is needs none"


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_shares_of_processes_are_the_batches(tmp_path: Path, shuffle: bool, workers: int) -> None:
    """What each of several processes gathers, put together, is the batch of one; augmented too."""
    _, split = noted(rows=4)
    for each, size in ((digits(tmp_path), 100), (split, 30)):
        loader = each.loader(size, seed=2, shuffle=shuffle, augment=True, workers=workers)
        kept = {f.name: getattr(loader.plan, f.name) for f in fields(loader.plan)}
        plans = [SharePlan(**kept, world=3, rank=rank) for rank in range(3)]
        parts = [list(replace(loader, plan=plan).epoch(1, 2)) for plan in plans]
        joined = [
            {port: torch.cat([part[port] for part in of]) for port in of[0]}
            for of in zip(*parts, strict=True)
        ]
        assert same(joined, list(loader.epoch(1, 2)))


def test_a_loop_that_ends_early_leaves_no_process(tmp_path: Path) -> None:
    epoch = digits(tmp_path).loader(50, seed=4, shuffle=True, augment=True, workers=2).epoch(0)
    next(epoch)
    assert len(multiprocessing.active_children()) == 2
    epoch.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies(workers: int) -> None:
    _, split = noted(rows=1, die=177)
    got = []
    with pytest.raises(CompileError) as caught:
        for batch in split.loader(10, workers=workers).epoch(0):
            got.append(batch)
    assert len(got) <= 17
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E654"
    assert diagnostic.message == "a worker process that reads data was killed by SIGKILL"
    assert diagnostic.notes == ("the system kills processes when memory runs out",)


def test_a_mistake_that_a_worker_finds() -> None:
    _, split = noted(rows=1, bad=177)
    with pytest.raises(CompileError, match=r"E505.*row 177 is damaged"):
        list(split.loader(10, workers=2).epoch(0))


def test_a_worker_with_a_bug_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    _, split = noted(rows=1)

    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("in a worker")

    monkeypatch.setattr(Noted, "read", broken)
    with pytest.raises(RuntimeError, match=r"(?s)a worker process.*ZeroDivisionError: in a worker"):
        list(split.loader(10, workers=2).epoch(0))


def test_systems_without_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(CompileError, match="E655"):
        list(digits(tmp_path).loader(50, augment=True, workers=2).epoch(0))


class StopAt:
    def __init__(self, epoch: int, batch: int) -> None:
        self.place = (epoch, batch)

    def on_step(self, info: Any) -> None:
        if (info.epoch, info.batch) == self.place:
            os.kill(os.getpid(), signal.SIGINT)


def parameters(run: Path) -> dict[str, torch.Tensor]:
    return dict(r2d2c.open_run(run).load("last").state_dict())


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 2), (2, 1)])
def test_resume_with_augmentation_is_exact_with_any_workers(tmp_path: Path, before: int, after: int) -> None:
    (tmp_path / "few.yaml").write_text(SPEC)
    whole = r2d2c.train(tmp_path / "few.yaml", out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        r2d2c.train(
            tmp_path / "few.yaml", out=tmp_path / "run", workers=before, callbacks=[StopAt(1, 6)], threads=1
        )
    assert not multiprocessing.active_children()
    r2d2c.train(resume=tmp_path / "run", workers=after)
    one, other = parameters(whole.folder), parameters(tmp_path / "run")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_workers_of_a_process_that_has_threads(tmp_path: Path) -> None:
    """A forked process has none of the threads that OpenMP has started before, and must not wait for them."""
    split, before = digits(tmp_path), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        table = torch.rand(600, 600)
        assert (table @ table).sum() > 0 and (table + table).sum() > 0
        loaders = [split.loader(500, seed=1, shuffle=True, augment=True, workers=n) for n in (0, 2)]
        assert same(*(list(loader.epoch(0)) for loader in loaders))
    finally:
        torch.set_num_threads(before)
