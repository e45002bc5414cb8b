"""Data on its way to a training: orders for data on disk, and arrays larger than memory."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2c.diagnostics import CompileError
from r2d2c.train.data import LazyRows, Port, open_data, parquet, stored, table_split
from r2d2c.train.data.lazy import Taken, edges_of
from r2d2c.train.data.order import Blocks, blocks_for
from r2d2c.train.data.plan import BatchPlan
from tests.unit.data_files import CLI, said
from tests.unit.data_rows import Noted, bound, noted, same, train_of

# Orders


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(1, 17),
    st.integers(1, 200),
    st.integers(0, 99),
)
def test_block_orders_are_permutations_with_few_blocks_in_a_window(
    sizes: list[int], batch: int, memory: int, seed: int
) -> None:
    edges = np.cumsum([0, *sizes])
    blocks = blocks_for(edges, 1, batch, memory)
    assert blocks.window % batch == 0 and blocks.window >= batch
    order = blocks.order(seed, 3)
    assert sorted(order.tolist()) == list(range(edges[-1]))
    assert torch.equal(order, blocks.order(seed, 3))
    block = np.searchsorted(edges, order.numpy(), side="right") - 1
    windows = np.split(block, range(blocks.window, len(block), blocks.window))
    # A block is read for one window, or for those that it reaches over.
    reads = sum(len(np.unique(window)) for window in windows)
    assert reads <= len(sizes) + len(windows) - 1


def test_block_orders_part_neighbours_and_differ() -> None:
    blocks = Blocks(np.arange(0, 1001, 10), 200)
    order = blocks.order(0, 0)
    assert not torch.equal(order, blocks.order(0, 1)) and not torch.equal(order, blocks.order(1, 0))
    first = order[:200]
    assert len(set((first // 10).tolist())) == 20, "a window is of 20 blocks"
    assert int((first // 100).unique().numel()) >= 8, "from all over the data"
    neighbours = (order.diff() == 1).sum()
    assert neighbours < 30


@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 5), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_batches_of_blocks_resume(n: int, size: int, windows: int, seed: int) -> None:
    blocks = blocks_for(np.append(np.arange(0, n, 4), n), 1, size, windows * size)
    plan = BatchPlan(n, size, seed, True, blocks=blocks)
    batches = list(plan.batches(2))
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    start = seed % (len(plan) + 1)
    assert all(map(torch.equal, batches[start:], plan.batches(2, start)))


# What is on disk


def test_a_window_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_split, "WINDOW", 60 * (24 + 12 + 16))
    rows, split = noted()
    assert rows.reads, "values are looked at when they are bound"
    for shuffle in (True, False):
        loader = split.loader(20, seed=1, shuffle=shuffle)
        assert loader.plan.unit == 3
        rows.reads.clear()
        batches = list(loader.epoch(2))
        assert [len(batch["y"]) for batch in batches] == [20] * 11 + [10]
        assert [len(read) for read in rows.reads] == [60, 60, 60, 50]
        assert sorted(row for read in rows.reads for row in read) == list(range(230))
        for batch in batches:
            assert torch.equal(batch["x"][:, 0].long(), 3 * batch["y"])
        assert shuffle is not torch.equal(torch.cat([b["y"] for b in batches]), torch.arange(230))
        for start in (1, 3, 7, 12):
            assert same(batches[start:], list(loader.epoch(2, start)))
        assert same(batches, list(replace(loader, workers=2).epoch(2)))


def test_blocks_of_some_rows_lie_where_those_of_the_file_do() -> None:
    rows = Noted(np.zeros((100, 1)), rows=30)
    kept = np.flatnonzero(np.arange(100) % 5 != 0)
    taken = Taken(rows, kept)
    edges = edges_of(taken)
    assert [int(kept[k]) // 30 for k in edges[:-1]] == [0, 1, 2, 3]
    assert edges.tolist() == [0, 24, 48, 72, 80]
    assert edges_of(Taken(rows, kept[::-1])).tolist() == list(range(81))


def test_a_row_group_of_parquet_is_read_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    table = {"a": rng.random(4000), "b": rng.random(4000), "y": rng.integers(0, 3, 4000)}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet", row_group_size=500)
    monkeypatch.setattr(parquet, "LARGE", 0)
    monkeypatch.setattr(parquet, "CACHE", 1)  # which holds one column of one row group
    data = open_data(f"parquet:{tmp_path}/a.parquet?features=a,b&test=0", CLI)
    split = train_of(bound(data, {"x": ("f32", (None, 2)), "y": ("i64", (None,))}))
    groups: list[int] = []
    reader = parquet._Reader.group

    def group(self: Any, name: str, number: int) -> Any:
        groups.append(number)
        return reader(self, name, number)

    monkeypatch.setattr(parquet._Reader, "group", group)
    batches = list(split.loader(100, seed=3, shuffle=True).epoch(0))
    assert sorted(groups) == sorted([*range(8)] * 2)
    found = torch.cat([batch["x"] for batch in batches]).double().numpy()
    wanted = np.stack([table["a"], table["b"]], 1).astype(np.float32)
    assert np.array_equal(found[np.argsort(found[:, 0])], wanted[np.argsort(wanted[:, 0])])


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", "?"])
def test_large_arrays_stay_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    x = (rng.random((300, 2, 5)) * 200).astype(dtype)
    y = np.arange(300) % 4
    path = tmp_path / "a.npz"
    np.savez(path, x=x, y=y, z=np.asfortranarray(rng.random((300, 7))))
    if kind == "npy":
        path = tmp_path / "arrays"
        path.mkdir()
        np.save(path / "x.npy", x)
        np.save(path / "y.npy", y)
    whole = open_data(f"{kind}:{path}", CLI)
    monkeypatch.setattr(stored, "LARGE", 2500)
    monkeypatch.setattr(stored, "BLOCK", 7 * x[0].nbytes)
    lazy = open_data(f"{kind}:{path}", CLI)
    assert isinstance(lazy.train.columns["x"].array, LazyRows)
    assert isinstance(whole.train.columns["x"].array, np.ndarray)
    assert lazy.train.columns["x"].type_text == whole.train.columns["x"].type_text
    assert edges_of(open_data(f"{kind}:{path}?test=0", CLI).train.columns["x"].array).tolist()[:3] == [
        0,
        7,
        14,
    ]
    assert lazy.test is not None and whole.test is not None
    for name in whole.train:
        assert np.array_equal(lazy.train[name], whole.train[name])
        assert np.array_equal(lazy.test[name], whole.test[name])
    rows = lazy.train.columns["x"].array
    some = np.array([7, 3, 3, 4, 239, 0])
    assert np.array_equal(rows[some], whole.train["x"][some]) and len(rows[some[:0]]) == 0
    ports: dict[str, Port] = {"x": ("f32", (None, 2, 5)), "y": ("i64", (None,))}
    one, other = (train_of(bound(each, ports)).loader(64) for each in (lazy, whole))
    assert same(list(one.epoch(0)), list(other.epoch(0)))


def test_damaged_arrays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "LARGE", 100)
    x = np.random.default_rng(0).random((40, 5))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "o.npy", np.array([{}, []], dtype=object))
    assert said(f"npy:{tmp_path}").startswith(f"E508: {tmp_path}/o.npy holds Python objects")
    (tmp_path / "o.npy").write_bytes(b"hello")
    assert said(f"npy:{tmp_path}") == f"E505: {tmp_path}/o.npy is no npy file"
    (tmp_path / "o.npy").unlink()
    data = open_data(f"npy:{tmp_path}?test=0", CLI)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-8])
    with pytest.raises(CompileError, match=r"E505.*cut off: row 39"):
        data.train["x"]
    assert re.match(f"E505: {tmp_path}/x.npy cannot be read", said(f"npy:{tmp_path}"))
    (tmp_path / "x.npy").unlink()
    assert said(f"npy:{tmp_path}") == f"E506: {tmp_path} has no .npy files in it"
    x[31, 2] = np.nan
    np.savez(tmp_path / "a.npz", x=x)
    assert (
        said(f"npz:{tmp_path}/a.npz") == f"E509: array `x` of {tmp_path}/a.npz has NaN or infinity in row 31"
    )


LARGE_SPEC = """
r2d2c: 1
model: large
dims: {C: 4}
inputs: {x: "f32[B, 256]"}
targets: {y: "i64[B]"}
tasks:
  t:
    behavior: logits = linear(x, C)
    distance: cross_entropy(logits, y)
outputs: {logits: t.logits}
train: {data: "npy:large?test=0", epochs: 1, batch_size: 2048, optimizer: sgd(lr=0.01)}
"""

LARGE_TRAINING = """
import numpy, resource, sys, torch, r2d2c
torch.set_num_threads(1)

def used():
    with open("/proc/self/status") as file:
        return {line.split(":")[0]: int(line.split()[1]) for line in file if line.startswith("Vm")}

r2d2c.train(sys.argv[1], out=sys.argv[2] + "0", data="random?samples=2000")  # what torch and the run need
cap = (used()["VmData"] << 10) + (192 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
try:
    numpy.ones(320 << 20, numpy.uint8)
except MemoryError:
    pass
else:
    raise SystemExit("the limit does not hold")
before = used()["VmHWM"]
run = r2d2c.train(sys.argv[1], out=sys.argv[2])
print(run.metrics[-1]["samples"], used()["VmHWM"] - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux does")
def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    """320 MiB in a process that may have 192 MiB more than before; the file has holes, so the disk hardly sees it."""
    folder = tmp_path / "large"
    folder.mkdir()
    rows = 5 << 16
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, 256))
    x[:: rows // 8] = 1
    x.flush()
    del x
    assert (folder / "x.npy").stat().st_size > 320 << 20
    np.save(folder / "y.npy", (np.arange(rows) % 4).astype(np.uint8))
    (tmp_path / "large.yaml").write_text(LARGE_SPEC)
    command = [sys.executable, "-c", LARGE_TRAINING, str(tmp_path / "large.yaml"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    samples, grown = map(int, done.stdout.split())
    assert samples == rows
    assert grown < 100 << 10, f"{grown >> 10} MiB more than before"
