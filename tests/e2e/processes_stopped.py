"""Run by `torchrun` from test_processes.py: a training in which one process gets a SIGTERM after so many batches."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import r2d2c
from r2d2c.train.interrupt import Interrupted


class StopAt:
    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_step(self, step: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    spec, out, rank, batch, epochs, size = sys.argv[1:]
    mine = int(os.environ["RANK"]) == int(rank)
    try:
        r2d2c.train(
            spec,
            out=out,
            threads=1,
            epochs=int(epochs),
            batch_size=int(size),
            callbacks=[StopAt(int(batch))] if mine else [],
        )
    except Interrupted as end:
        print(f"process {os.environ['RANK']} stopped after batch {end.batch} of epoch {end.epoch}")
    else:
        raise AssertionError("it was not stopped")


main()
