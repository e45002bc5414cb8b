"""`Team`: processes that train together, joined by torch.distributed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.train.distributed.alone import Alone
from r2d2c.train.distributed.silent import SilentFolder
from r2d2c.train.measure import Batch, Measurement, measured_sums, size_of
from r2d2c.train.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

    from r2d2c.model import Model
    from r2d2c.train.settings import Measured

T = TypeVar("T")
STARTED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_BROKEN = ("connection", "gloo", "nccl", "socket", "timed out", "broken pipe", "process group")


# Set when another process was found to be gone.
_gone = threading.Event()


class ProcessLostError(CompileError):
    """Another process of the training is gone (E635). The run can be resumed."""


def started_by_torchrun() -> bool:
    """Whether this process is one of several that `torchrun` (or something that sets the same variables) started."""
    return all(name in os.environ for name in STARTED) and int(os.environ["WORLD_SIZE"]) > 1


def rank_here() -> int:
    """This process's number among those of a training; 0 where it is alone."""
    return int(os.environ["RANK"]) if started_by_torchrun() else 0


def restarted() -> bool:
    """Whether `torchrun` has started this training again, after a process of it failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") or 0) > 0


def end_in_order() -> None:
    """Let a process that has lost another one say so, though `torchrun` ends it with a SIGTERM as soon as it sees that too."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not _gone.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    alone = threading.current_thread() is threading.main_thread()
    if alone and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, handle)


@contextmanager
def joined(device: torch.device, timeout: float = 1800.0) -> Iterator[None]:
    """Join the processes: over gloo on the CPU, over NCCL on CUDA. One that was joined before stays so."""
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with guarded():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def guarded(run: Path | None = None) -> Iterator[None]:
    """What torch.distributed says when another process is gone, as `ProcessLostError`."""
    try:
        yield
    except RuntimeError as error:
        if not is_broken(error):
            raise
        raise lost(error, run) from error


def is_broken(error: BaseException) -> bool:
    """Whether an error says that a message did not get through."""
    text = str(error).lower()
    return type(error).__name__.startswith("Dist") or any(word in text for word in _BROKEN)


def lost(error: BaseException, run: Path | None = None) -> ProcessLostError:
    """What to raise for an error of torch.distributed."""
    _gone.set()
    sink = Sink()
    first, *_ = str(error).strip().splitlines() or [""]
    if first.startswith("["):  # where in its source that is
        first = first.partition("] ")[2] or first
    first = first.partition(". This is")[0]
    notes = [f"torch.distributed says: {first[:200]}"]
    fix = None
    if run is not None:
        fix = f"go on with the same processes: r2d2c train --resume {run}"
    rank = rank_here()
    sink.report(
        "E635", None, f"another process of the training is gone; process {rank} stops", notes=notes, fix=fix
    )
    return ProcessLostError(sink.diagnostics)


class Team(Alone):
    """Several processes; what all of their kinds have in common."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        cuda = dist.get_backend() == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        self.run: Path | None = None

    def folder(self, run: RunFolder) -> RunFolder:
        self.run = run.path
        return run if self.first else SilentFolder(run.path)

    def flags(self, *values: bool) -> tuple[bool, ...]:
        """Which of some flags is set in any process."""
        import torch

        from r2d2c.lower.gathering import summed

        found = torch.tensor([float(value) for value in values], device=self.device)
        with guarded(self.run):
            return tuple(value > 0 for value in summed(found).tolist())

    def agree(self, stop: bool, due: bool) -> tuple[bool, bool]:
        # Clocks differ: the first process says when it is time.
        found = self.flags(stop, due and self.first)
        return found[0], found[1]

    def all_agree(self, stop: bool) -> bool:
        return self.flags(stop)[0]

    def decide(self, value: T) -> T:
        import torch.distributed as dist

        found = [value]
        with guarded(self.run):
            dist.broadcast_object_list(found, src=0, device=self.device)
        return found[0]

    def collect(self, value: T) -> list[T]:
        """What every process has, in the order of their numbers."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        with guarded(self.run):
            dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        self.flags(False)

    def measure(self, model: Model, batches: Iterable[Batch], metrics: Sequence[Measured]) -> Measurement:
        from r2d2c.lower.processes import ways_of_shares

        # Losses that couple samples are those of whole batches.
        coupled = ways_of_shares(model) is not None
        mine = islice(batches, self.rank, None, self.world) if coupled else map(self._mine, batches)
        found = measured_sums(model, mine, metrics)
        samples = sum(self.collect(found.samples))
        losses = add_states(self.collect({"sums": found.weighted()}))["sums"]
        return found.result(samples, losses, add_states(self.collect(found.states())))

    def _mine(self, batch: Batch) -> Batch:
        first, count = bounds(size_of(batch), self.world, self.rank)
        return {
            name: tensor[first : first + count] if tensor.dim() else tensor for name, tensor in batch.items()
        }


def bounds(total: int, world: int, rank: int) -> tuple[int, int]:
    """First row and number of rows of a process: as even as can be, the first processes have one more."""
    each, more = divmod(total, world)
    return rank * each + min(rank, more), each + (rank < more)


def add_states(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Sums by name and key over processes."""
    total: dict[str, dict[str, float]] = {}
    for one in found:
        for name, values in one.items():
            into = total.setdefault(name, {})
            for key, value in values.items():
                into[key] = into.get(key, 0.0) + value
    return total
