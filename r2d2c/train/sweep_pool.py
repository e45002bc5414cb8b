"""Processes that train the settings of a sweep; this one gives them jobs and listens to what they say."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from r2d2c.train.evolve_pool import holding_back
from r2d2c.train.interrupt import Request
from r2d2c.train.sweep_board import Outcome
from r2d2c.train.sweep_worker import Job, Place, Said, Tell, train_one

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Event

POLL = 0.1  # seconds between two looks for Ctrl-C
Next = Callable[[], Job | None]
Ended = Callable[[Job, Outcome], None]


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None


class Pool:
    """Some processes, which start at once."""

    def __init__(self, place: Place, count: int) -> None:
        # Forked processes would share torch's threads and locks with this one.
        context: Any = get_context("spawn")
        self.stopped: Event = context.Event()
        self.workers: list[_Worker] = []
        with holding_back():
            for _ in range(count):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(place, there, self.stopped), daemon=True)
                process.start()
                there.close()  # so that the end of the process is the end of the pipe
                self.workers.append(_Worker(process, here))

    def run(self, following: Next, tell: Tell, ended: Ended, request: Request) -> None:
        """Give out jobs until there are none; after a stop until the processes have saved.

        `ChildProcessError`: one has ended on its own. What went wrong in one is raised here.
        """
        while True:
            if request.stop:
                self.stopped.set()
            for worker in self.workers:
                if worker.job is None and not request.stop and (job := following()) is not None:
                    worker.job = job
                    worker.pipe.send(job)
            busy = [worker for worker in self.workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy], POLL)
            for worker in busy:
                if worker.pipe in ready:
                    self._hear(worker, tell, ended, request)

    def _hear(self, worker: _Worker, tell: Tell, ended: Ended, request: Request) -> None:
        job = worker.job
        assert job is not None
        try:
            found = worker.pipe.recv()
            if isinstance(found, Said):
                worker.pipe.send(tell(job, found))
                return
        except (EOFError, OSError):
            worker.job = None
            if request.stop:
                return
            lost = (
                'a worker ended on its own: out of memory, or a script without `if __name__ == "__main__":`'
            )
            raise ChildProcessError(lost) from None
        worker.job = None
        if isinstance(found, BaseException):
            raise found
        if found is not None:
            ended(job, found)

    def close(self) -> None:
        """Stop the processes; those that train save before."""
        self.stopped.set()
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join()


def _serve(place: Place, pipe: Connection, stopped: Event) -> None:
    """Train what comes through a pipe, until it is closed."""
    # Ctrl-C goes to all processes of a terminal; the first one tells the others, once.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(job: Job, said: Said) -> bool:
        try:
            pipe.send(said)
            return bool(pipe.recv())
        except (EOFError, OSError):  # the first process is gone
            stopped.set()
            return False

    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            found: Any = train_one(place, job, tell, stopped.is_set, ask=True)
        except KeyboardInterrupt:
            found = None
        except BaseException as error:  # for the sweep to raise
            found = error
        try:
            pipe.send(found)
        except (EOFError, OSError):
            return
        except Exception:  # an exception that cannot be sent
            pipe.send(RuntimeError(f"{type(found).__name__}: {found}"))


__all__ = ["Pool"]
