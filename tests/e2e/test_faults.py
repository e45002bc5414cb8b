"""Kills, full disks, damaged files and folders that cannot be written to: a resume is exact, or the message is clear."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.train.checkpoint import load_checkpoint

HERE = Path(__file__).parent
TWO = HERE.parents[1] / "specs" / "tasks" / "two_tasks.yaml"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
SMALL: dict[str, Any] = {"epochs": 2, "limit_batches": 2, "threads": 1}


def command(
    *arguments: object, before: Callable[[], None] | None = None, wrap: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrap, sys.executable, "-m", "r2d2c", *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=before,
    )


def same(one: Path, two: Path) -> None:
    """Two runs ended the same: parameters and optimizers bit for bit, and every line of metrics."""
    a, b = (load_checkpoint(run / "checkpoints" / "last.safetensors") for run in (one, two))
    assert {**a.state, "seconds": 0} == {**b.state, "seconds": 0}
    assert a.optimizers.keys() == b.optimizers.keys()
    pairs = [(packed.tensors, b.optimizers[key].tensors) for key, packed in a.optimizers.items()]
    for mine, theirs in ((a.model, b.model), *pairs):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    times = ("seconds", "rate")
    x, y = (
        [{k: v for k, v in record.items() if k not in times} for record in r2d2c.open_run(run).metrics]
        for run in (one, two)
    )
    assert x == y


def test_thirty_kills_at_random_moments(tmp_path: Path) -> None:
    """A checkpoint is written after every batch, so that many kills meet one that is half written."""
    done = subprocess.run(
        [sys.executable, str(HERE / "fault_server.py"), str(TWO), str(tmp_path / "cut"), "30", "7"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lives) == 31
    counts = [life["batches"] for life in lives]
    assert counts == sorted(counts), "a checkpoint that was there was lost"
    assert len(set(counts)) > 8, "the kills came too early to mean anything"
    assert any(life["partial"] for life in lives), "no kill met a file that was being written"
    assert lives[-1]["finished"] and not lives[-1]["partial"]
    same(tmp_path / "whole", tmp_path / "cut")


def test_a_disk_that_is_full_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flush of every file fails once; after each the run goes on and ends as if nothing had happened."""
    tiny = {**SMALL, "limit_batches": 1}
    r2d2c.train(TWO, out=tmp_path / "whole", checkpoint_every=0.0, **tiny)
    flush, calls, fails = os.fsync, [0], [-1]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] == fails[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    r2d2c.train(TWO, out=tmp_path / "again", checkpoint_every=0.0, **tiny)
    total, stopped = calls[0], 0
    assert total > 12
    for number in range(1, total + 1):
        run = tmp_path / f"full{number}"
        calls[0], fails[0] = 0, number
        try:
            r2d2c.train(TWO, out=run, checkpoint_every=0.0, **tiny)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert str(run) in str(error.filename) and "partial" not in str(error.filename)
            stopped += 1
        fails[0] = -1
        assert not list(run.rglob("*.partial")), "what could not be written whole is gone"
        last = run / "checkpoints" / "last.safetensors"
        if not last.is_file():
            continue  # nothing was saved yet: the run is started anew
        if not load_checkpoint(last).state["finished"]:
            r2d2c.train(resume=run, threads=1)
        same(tmp_path / "whole", run)
    # The flush of a folder, after each rename, is the only one that may fail without a loss.
    assert stopped > total // 3


def test_a_disk_that_is_full_is_said(tmp_path: Path) -> None:
    """No file may grow beyond a limit: the checkpoint, of 200 kB, cannot be written."""
    r2d2c.train(TWO, out=tmp_path / "run", **SMALL)
    before = (tmp_path / "run" / "checkpoints" / "last.safetensors").read_bytes()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = command("train", "--resume", tmp_path / "run", "--epochs", "3", before=limit)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert "last.safetensors: file too large" in done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").read_bytes() == before
    done = command("train", "--resume", tmp_path / "run", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    r2d2c.train(TWO, out=tmp_path / "whole", **SMALL)
    r2d2c.train(resume=tmp_path / "whole", epochs=3, threads=1)
    same(tmp_path / "whole", tmp_path / "run")


def test_a_small_disk_that_fills_up(tmp_path: Path) -> None:
    """A file system of 1.5 MB with a mount of its own, filled but for 100 kB: the kernel says that it is full."""
    own = ("unshare", "--map-root-user", "--mount", "sh", "-c")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1500k none {disk}"
    if not shutil.which("unshare") or subprocess.run([*own, mount], capture_output=True).returncode:
        pytest.skip("this machine lets no process mount a file system of its own")
    r2d2c.train(TWO, out=tmp_path / "run", **SMALL)
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    r2d2c.train(resume=tmp_path / "whole", epochs=3, threads=1)
    resume = f"{sys.executable} -m r2d2c train --resume {disk}/run --epochs 3"
    script = f"""
        {mount} && cp -r {tmp_path}/run {disk} && free=$(df --output=avail -k {disk} | tail -1)
        head -c $(((free - 100) * 1024)) /dev/zero > {disk}/filler
        {resume}; echo "exit $?" >&2
        cmp {tmp_path}/run/checkpoints/last.safetensors {disk}/run/checkpoints/last.safetensors && echo same >&2
        find {disk} -name '*.partial' >&2
        rm {disk}/filler && {resume} && cp -r {disk}/run {tmp_path}/after
    """
    done = subprocess.run([*own, script], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "exit 3" in done.stderr and "Traceback" not in done.stderr
    assert "last.safetensors: the disk is full" in done.stderr
    assert "same" in done.stderr and ".partial" not in done.stderr
    same(tmp_path / "whole", tmp_path / "after")


def test_damaged_checkpoints(tmp_path: Path) -> None:
    r2d2c.train(TWO, out=tmp_path / "run", **SMALL)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    whole = last.read_bytes()
    best = (tmp_path / "run" / "checkpoints" / "best.safetensors").read_bytes()
    middle = len(whole) // 2
    for damaged in (
        b"",
        whole[:100],
        whole[:-1],
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        b"PK\x03\x04" + whole[4:],
    ):
        last.write_bytes(damaged)
        with pytest.raises(CompileError) as caught:
            r2d2c.train(resume=tmp_path / "run", epochs=3, threads=1)
        (found,) = caught.value.diagnostics
        assert (found.code, str(last) in found.message) == ("E520", True)
        assert found.fix is not None
        assert found.fix.text.endswith(f"cp {last.with_name('best.safetensors')} {last}")
        assert (last.read_bytes(), last.with_name("best.safetensors").read_bytes()) == (damaged, best)
    done = command("train", "--resume", tmp_path / "run", "--epochs", "3")
    assert (done.returncode, "error[E520]" in done.stderr) == (1, True)
    # What the message says works.
    shutil.copy(last.with_name("best.safetensors"), last)
    assert len(r2d2c.train(resume=tmp_path / "run", epochs=3, threads=1).metrics) == 4
    last.unlink()
    last.with_name("best.safetensors").unlink()
    with pytest.raises(CompileError) as caught:
        r2d2c.train(resume=tmp_path / "run", epochs=4)
    assert "start it anew" in str(caught.value.diagnostics[0].fix)


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    r2d2c.train(TWO, out=tmp_path / "run", **SMALL)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (tmp_path / "file").write_text("")
    for out in (Path("/proc/nothing/run"), tmp_path / "file" / "run"):
        done = command("train", TWO, "--out", out, "--limit-batches", "1", "--epochs", "1")
        assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
        assert done.stderr.startswith("r2d2c: ") and str(out.parent) in done.stderr
    # Read-only for this process: by a mount of its own where that is allowed, by permissions for who they bind.
    run = tmp_path / "run"
    mount = f'mount --bind "{run}" "{run}" && mount -o remount,ro,bind "{run}" && exec "$@"'
    wrap: tuple[str, ...] = ("unshare", "-m", "sh", "-c", mount, "sh")
    if os.getuid() != 0 or subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode:
        wrap = ()
        for folder in (run, run / "checkpoints"):
            folder.chmod(0o555)
    done = command("train", "--resume", run, "--epochs", "3", wrap=wrap)
    if not wrap and os.getuid() == 0:
        assert done.returncode == 0  # the superuser of a container without mounts: nothing binds it
        return
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
    assert "read-only" in done.stderr or "permission denied" in done.stderr
    for path, raw in before.items():
        assert path.read_bytes() == raw
    for folder in (run, run / "checkpoints"):
        folder.chmod(0o755)
    assert command("train", "--resume", run, "--epochs", "3").returncode == 0
