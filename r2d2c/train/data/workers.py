"""Worker processes that read and augment, while this one trains.

Each is forked for one epoch, makes every n-th unit of its batches, and writes them into memory that it shares
with this process: two units for each worker, one that is read while the next one is made. Batches come in their own
order, and are those that this process would make.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.diagnostics import CompileError
from r2d2c.train.data.convert import torch_dtype
from r2d2c.train.data.table_split import Spans, cut, size_of
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

    from torch import Tensor

    from r2d2c.train.data.table_split import BoundColumn, TableLoader

SLOTS = 2
_PATIENCE = 2.0  # seconds that a worker has to end by itself


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    process: ForkProcess
    pipe: Connection
    slots: Sequence[Mapping[str, Tensor]]


def run_workers(loader: TableLoader, epoch: int, start: int) -> Iterator[dict[str, Tensor]]:
    """The batches of an epoch from number ``start`` on, made by ``loader.workers`` processes.

    Refuses (E654) where one of them dies; a diagnostic of one is raised here. However the iteration ends, so do they.
    """
    if not can_fork():
        refuse(
            "E655", "this system cannot fork processes, so there are no workers", fix="leave out `workers`"
        )
    units = list(loader.units(start))
    order = loader.orders(epoch)
    rows = max(map(size_of, units), default=0)
    workers: list[_Worker] = []
    try:
        for number in range(min(loader.workers, len(units))):
            workers.append(_start(loader, epoch, order, units[number :: loader.workers], rows, workers))
        for number, spans in enumerate(units):
            worker, slot = workers[number % len(workers)], (number // len(workers)) % SLOTS
            _receive(worker)
            for batch in cut({port: v[: size_of(spans)] for port, v in worker.slots[slot].items()}, spans):
                yield {port: values.clone() for port, values in batch.items()}
            with suppress(OSError):  # it may be through, and gone
                worker.pipe.send_bytes(b"free")
    finally:
        _stop(workers)


def can_fork() -> bool:
    return "fork" in multiprocessing.get_all_start_methods()


def _start(
    loader: TableLoader,
    epoch: int,
    order: Any,
    units: Sequence[Spans],
    rows: int,
    others: Sequence[_Worker],
) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    slots = [
        {port: _shared(column, rows) for port, column in loader.split.columns.items()} for _ in range(SLOTS)
    ]
    inherited = [ours, *(other.pipe for other in others)]
    process = context.Process(
        target=_work, args=(loader, epoch, order, units, theirs, slots, inherited), daemon=True
    )
    with warnings.catch_warnings():
        # From Python 3.12 on it warns where threads run; a worker takes no lock that another thread may hold.
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        process.start()
    theirs.close()
    return _Worker(process, ours, slots)


def _shared(column: BoundColumn, rows: int) -> Tensor:
    """Memory for samples of a port that stays the same memory in a forked process; no file system has a part in it."""
    import torch

    dtype = torch_dtype(column.dtype)
    count = rows * math.prod(column.shape)
    memory = mmap.mmap(-1, max(1, count) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype)[:count].view(rows, *column.shape)


def _work(
    loader: TableLoader,
    epoch: int,
    order: Any,
    units: Sequence[Spans],
    pipe: Connection,
    slots: Sequence[Mapping[str, Tensor]],
    inherited: Sequence[Connection],
) -> None:
    """What a worker does. It ends when its units are made, or the other end of its pipe is gone."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training decides when to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    torch.set_num_threads(1)
    try:
        for number, spans in enumerate(units):
            if number >= SLOTS:
                pipe.recv_bytes()
            made = loader.unit(epoch, order, spans)
            for port, values in slots[number % SLOTS].items():
                values[: len(made[port])].copy_(made[port])
            pipe.send(True)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except CompileError as error:
        _send(pipe, error.diagnostics)
    except Exception:
        _send(pipe, traceback.format_exc())


def _send(pipe: Connection, message: Any) -> None:
    with suppress(OSError):
        pipe.send(message)


def _receive(worker: _Worker) -> None:
    """Wait until a worker's next unit is made."""
    wait([worker.pipe, worker.process.sentinel])
    try:
        message = worker.pipe.recv() if worker.pipe.poll() else None
    except (EOFError, OSError):
        message = None
    if message is True:
        return
    if isinstance(message, str):
        raise RuntimeError(f"a worker process that reads data failed:\n{message}")
    if message is not None:
        raise CompileError(message)
    _died(worker)


def _died(worker: _Worker) -> NoReturn:
    worker.process.join(_PATIENCE)
    code = worker.process.exitcode
    how = f"ended with {code}"
    notes = []
    if code is not None and code < 0:
        with suppress(ValueError):
            how = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            notes = ["the system kills processes when memory runs out"]
    refuse(
        "E654",
        f"a worker process that reads data {how}",
        notes=notes,
        fix="go on from the last checkpoint with fewer workers: --resume RUN --workers 0",
    )


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
    for worker in workers:
        # One that waits sees the pipe closed; one in the middle of a unit has nothing to save.
        if worker.process.is_alive():
            worker.process.terminate()
    for worker in workers:
        worker.process.join(_PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
