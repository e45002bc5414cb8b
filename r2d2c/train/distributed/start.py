"""Which processes a training runs in, where each runs, and what `torchrun` has started again."""

from __future__ import annotations

import atexit
import functools
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.diagnostics import CompileError
from r2d2c.train.device import find_device
from r2d2c.train.distributed.alone import Alone
from r2d2c.train.distributed.team import (
    Team,
    end_in_order,
    guarded,
    rank_here,
    restarted,
    started_by_torchrun,
)
from r2d2c.train.pack import unpack_run
from r2d2c.train.refuse import refuse
from r2d2c.train.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

Parallel = Literal["data", "tasks"]
KINDS = ("data", "tasks")
TIMEOUT = timedelta(minutes=30)


def find_team(parallel: str | None = None, sharded: bool = False, device: str | None = None) -> Alone:
    """The processes that `torchrun` started, joined; `Alone` where there is one.

    parallel: ``data`` (the default) or ``tasks``. Refuses what needs several processes (E631) and what is no such kind.
    """
    if parallel not in (None, *KINDS):
        refuse(
            "E631", f"processes do not share `{parallel}`", fix="write --parallel data, or --parallel tasks"
        )
    if not started_by_torchrun():
        if parallel is not None or sharded:
            what = f"--parallel {parallel}" if parallel is not None else "--shard-optimizer"
            fix = f"start several: torchrun --nproc-per-node 2 -m r2d2c train … {what}"
            refuse("E631", f"`{what}` needs several processes, and this is one", fix=fix)
        return Alone()
    if parallel == "tasks" and sharded:
        refuse("E631", "with `--parallel tasks` each process has the optimizers of its own tasks already")
    _join(place_here(device))
    if parallel == "tasks":
        from r2d2c.train.distributed.tasks import TaskParallel

        return TaskParallel()
    from r2d2c.train.distributed.data import DataParallel

    return DataParallel(sharded=sharded)


def place_here(device: str | None) -> torch.device:
    """This process's device: of several GPUs the one with its number on this machine."""
    if (device or "").partition(":")[0] == "cuda" and started_by_torchrun():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    place = find_device(device)
    if place.type == "cuda" and started_by_torchrun():
        import torch

        torch.cuda.set_device(place)
    return place


def _join(device: torch.device) -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return
    store, rank, world = _meet()
    end_in_order()
    with guarded():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    atexit.register(_leave)


@functools.cache
def _meet() -> tuple[Any, int, int]:
    """What processes can tell each other by names before they are joined, this one's number, and how many there are."""
    import torch.distributed as dist

    if not dist.is_available():
        refuse("E631", "this build of torch has no torch.distributed")
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    with guarded():
        store, rank, world = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    # Of an earlier start the store still has addresses, at which nobody is any more.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"r2d2c/{start}", store), rank, world


def unpack_once(archive: Path, out: str | Path | None, device: str | None) -> Path:
    """The run folder to which an archive was unpacked, by the first process; or that of a start before this one."""
    path = Path(out) if out is not None else None
    if not started_by_torchrun():
        return unpack_run(archive, path)
    check_out(path)
    again = run_to_go_on(path, device)
    if again is not None:
        return again
    store, rank, _ = _meet()
    if rank:
        with guarded():
            told = json.loads(store.get("unpacked"))
        if "code" in told:
            refuse(told["code"], told["message"])
        return Path(told["folder"])
    try:
        folder = unpack_run(archive, path)
    except CompileError as error:
        first = error.diagnostics[0]
        store.set("unpacked", json.dumps({"code": first.code, "message": first.message}))
        raise
    store.set("unpacked", json.dumps({"folder": str(folder)}))
    return folder


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def check_out(out: Path | None) -> None:
    """Refuses (E634) a training that `torchrun` may start again, and could then not find."""
    more = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") or 0)
    if started_by_torchrun() and more and out is None:
        refuse(
            "E634",
            "`torchrun` may start this training again, and nothing says where its run is",
            fix="name the run's folder: --out runs/mine",
        )


def run_to_go_on(out: Path | None, device: str | None) -> Path | None:
    """The run that an earlier start of this training has left in ``out``, as the first process finds it.

    One that never got to a checkpoint is removed.
    """
    if out is None or not started_by_torchrun() or not restarted():
        return None
    _join(place_here(device))
    found = None
    if rank_here() == 0 and (out / "lock.json").is_file():
        if RunFolder(out).has("last"):
            found = out
        else:
            _clear(out)
    return Team().decide(found)


def _clear(out: Path) -> None:
    known = {"spec.yaml", "lock.json", "metrics.jsonl", "checkpoints", "run.json"}
    if all(
        entry.name in known or entry.name.startswith((".", "events.out.tfevents")) for entry in out.iterdir()
    ):
        RunFolder(out).remove()
