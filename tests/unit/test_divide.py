"""Which visits go to which process."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys

import pytest
import torch

import r2d2c
from r2d2c.lower.rows import Share
from r2d2c.train.distributed.divide import divide, find_pieces
from r2d2c.train.distributed.pipe import END, Message, pack, unpack
from r2d2c.train.distributed.team import add_states, bounds


def sets(*given: str) -> list[frozenset[str]]:
    return [frozenset(names.split()) for names in given]


def test_visits_that_share_a_parameter_stay_together():
    pieces = find_pieces(
        sets("a", "b r", "c", "d r"), [frozenset(s) for s in ([], [0], [1], [])], [1, 2, 3, 4]
    )
    assert [piece.visits for piece in pieces] == [(0,), (1, 3), (2,)]
    assert [piece.cost for piece in pieces] == [1, 6, 3]


def test_pieces_that_read_each_other_become_one():
    # 0 and 2 share `a`; 1 reads of 0, and 2 of 1.
    pieces = find_pieces(sets("a", "b", "a", "c"), [frozenset(s) for s in ([], [0], [1], [2])], [1, 1, 1, 1])
    assert [piece.visits for piece in pieces] == [(0, 1, 2), (3,)]


def test_each_piece_comes_after_those_that_it_reads():
    # visit 0 shares `z` with visit 3, which reads 2.
    needs = [frozenset(s) for s in ([], [], [1], [2])]
    pieces = find_pieces(sets("z", "b", "c", "z"), needs, [1.0] * 4)
    assert [piece.visits for piece in pieces] == [(1,), (2,), (0, 3)]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_most_that_a_process_has_is_as_little_as_can_be(world):
    costs = [5.0, 1.0, 1.0, 3.0, 8.0, 2.0, 2.0]
    found = divide(costs, world)
    assert [k for part in found for k in part] == list(range(len(costs)))
    assert all(len(part) > 0 for part in found)
    best = min(
        max(sum(costs[a:b]) for a, b in itertools.pairwise((0, *cuts, len(costs))))
        for cuts in itertools.combinations(range(1, len(costs)), world - 1)
    )
    assert max(sum(costs[k] for k in part) for part in found) == best


@pytest.mark.parametrize(("total", "world"), [(8, 2), (7, 2), (5, 3), (3, 3)])
def test_shares_are_even_and_make_up_the_batch(total, world):
    rows = torch.arange(total)
    shares = [Share(*bounds(total, world, rank), total) for rank in range(world)]
    assert torch.equal(torch.cat([share.rows(rows) for share in shares]), rows)
    assert max(s.count for s in shares) - min(s.count for s in shares) <= 1
    assert sum(share.part for share in shares) == pytest.approx(1)


def test_a_message_comes_as_it_was_sent():
    values = (
        torch.randn(3, 2),
        torch.tensor([True, False, True]),
        torch.tensor(5),
        torch.randn(2, dtype=torch.float64),
    )
    found = unpack(*pack(Message(3, values), len(values)), len(values))
    assert found.flags == 3
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found.values, values, strict=True))
    assert unpack(*pack(Message(END, ()), 4), 4) == Message(END, ())


def test_states_are_added_key_by_key():
    found = add_states([{"m": {"sum": 1.0, "count": 2.0}}, {}, {"m": {"sum": 3.0, "count": 1.0}}])
    assert found == {"m": {"sum": 4.0, "count": 3.0}}


@pytest.mark.parametrize("option", [{"parallel": "tasks"}, {"shard_optimizer": True}, {"parallel": "rows"}])
def test_one_process_is_not_several(option, tmp_path):
    with pytest.raises(r2d2c.CompileError, match="E631"):
        r2d2c.train("specs/tasks/two_tasks.yaml", epochs=1, out=tmp_path / "run", **option)


def test_a_training_that_may_start_again_needs_a_folder(monkeypatch, tmp_path):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "x"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    with pytest.raises(r2d2c.CompileError, match="E634"):
        r2d2c.train("specs/tasks/two_tasks.yaml", epochs=1)
    archive = tmp_path / "run.r2d2c"  # not even opened
    archive.write_bytes(b"")
    with pytest.raises(r2d2c.CompileError, match="E634"):
        r2d2c.train(resume=archive)


@pytest.mark.parametrize(("lost", "code"), [(True, 0), (False, -signal.SIGTERM)])
def test_who_has_lost_another_process_says_so_before_torchrun_ends_it(lost, code):
    program = f"""
import os, signal
from r2d2c.train.distributed.team import end_in_order, lost
from r2d2c.train.interrupt import catching

end_in_order()
with catching():  # a training, whose handlers go when it fails
    if {lost}:
        found = lost(RuntimeError("gloo: connection reset"))
os.kill(os.getpid(), signal.SIGTERM)
print(found.diagnostics[0].code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "E635\n" if lost else ""), done.stderr
