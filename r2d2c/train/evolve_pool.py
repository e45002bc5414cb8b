"""Processes that make the candidates of a search together with this one."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeAlias

from r2d2c.train.evolve_worker import Job, Place, Result, begin, ready, work
from r2d2c.train.interrupt import Request

POLL = 0.1  # seconds between two looks for Ctrl-C, or whether there is still something to do
Done: TypeAlias = "SimpleQueue[Result | BaseException | None]"
Make = Callable[[Job, Callable[[], bool]], Result | None]


class Pool:
    """Other processes, which start at once, while this one goes on.

    This process takes jobs, too: with two workers it waits for one start and one reading of the data, which happen
    while it makes the first candidates.
    """

    def __init__(self, place: Place, others: int) -> None:
        from multiprocessing import get_context

        # Forked processes would share torch's threads and locks with this one.
        context = get_context("spawn")
        self.stopped = context.Event()
        self.executor = ProcessPoolExecutor(
            others, mp_context=context, initializer=begin, initargs=(place, self.stopped)
        )
        with holding_back():
            self.starts = [self.executor.submit(ready) for _ in range(others)]

    def run(self, jobs: Sequence[Job], make: Make, request: Request) -> Iterator[Result]:
        """What becomes of the jobs, as they are done. After a stop only those that were nearly done.

        make: makes a candidate here, in between. `ChildProcessError`: another process has ended on its own.
        """
        waiting = deque(jobs)
        done: Done = SimpleQueue()

        def stop() -> bool:
            if request.stop:
                waiting.clear()
                self.stopped.set()
            return request.stop

        # A thread waits for each process, so that it has its next job at once.
        for start in self.starts:
            Thread(target=self._feed, args=(start, waiting, done), daemon=True).start()
        fed = len(self.starts)
        try:
            while not stop() and (job := _next(waiting)) is not None:
                result = make(job, stop)
                if result is not None:
                    yield result
                while not done.empty():
                    found = done.get()
                    fed -= found is None
                    yield from _taken(found, request)
            while fed:
                stop()
                try:
                    found = done.get(timeout=POLL)
                except Empty:
                    continue
                fed -= found is None
                yield from _taken(found, request)
        finally:
            waiting.clear()

    def _feed(self, start: Future[None], waiting: deque[Job], done: Done) -> None:
        """Give one process a job after the other, once it has started; at the end say None."""
        try:
            while waiting and not start.done():
                wait([start], POLL)
            if start.done():
                start.result()
            while (job := _next(waiting)) is not None:
                result = self.executor.submit(work, job).result()
                if result is not None:
                    done.put(result)
        except BaseException as error:  # for the search to raise
            done.put(error)
        finally:
            done.put(None)

    def close(self) -> None:
        self.stopped.set()
        self.executor.shutdown(cancel_futures=True)


@contextmanager
def holding_back() -> Iterator[None]:
    """Processes that start in here get no Ctrl-C of the terminal, before `begin` makes them ignore it; ours comes after."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _next(waiting: deque[Job]) -> Job | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _taken(found: Result | BaseException | None, request: Request) -> Iterator[Result]:
    if isinstance(found, BrokenProcessPool):
        if not request.stop:
            lost = (
                'a worker ended on its own: out of memory, or a script without `if __name__ == "__main__":`'
            )
            raise ChildProcessError(lost) from None
    elif isinstance(found, BaseException):
        raise found
    elif found is not None:
        yield found
