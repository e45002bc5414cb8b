"""A process that trains in children of its own and kills them: torch is loaded once, not once for each kill.

    python fault_server.py SPEC FOLDER KILLS SEED

Prints a JSON line for every kill: how many batches the last checkpoint has then, and whether a file was half written.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import r2d2c
from r2d2c.train.checkpoint import load_checkpoint


class Tell:
    """Writes a byte when the training is about to run, and one after each batch, before its checkpoint is written."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_start(self, start: Any) -> None:
        os.write(self.pipe, b"x")

    def on_step(self, step: Any) -> None:
        os.write(self.pipe, b"x")


def child(folder: Path, pipe: int) -> None:
    """Go on with the run, writing a checkpoint after every batch."""
    try:
        r2d2c.train(resume=folder, checkpoint_every=0.0, threads=1, callbacks=[Tell(pipe)])
    finally:
        os._exit(0)


def main() -> None:
    """Begin, kill, and kill again; the last child runs to the end."""
    spec, folder, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    settings: dict[str, Any] = {"epochs": 10, "batch_size": 48, "threads": 1}
    r2d2c.train(spec, out=folder.with_name("whole"), **settings)

    class Stop:
        def on_step(self, step: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with suppress(KeyboardInterrupt):
        r2d2c.train(spec, out=folder, callbacks=[Stop()], **settings)
    last = folder / "checkpoints" / "last.safetensors"
    for number in range(kills + 1):
        read, write = os.pipe()
        process = os.fork()
        if not process:
            child(folder, write)
        os.close(write)
        if number < kills:
            for _ in range(chance.randint(1, 12)):
                os.read(read, 1)
            # However slow the machine is: somewhere in the writing, or in the batch after it.
            time.sleep(chance.uniform(0.0, 0.012))
            os.kill(process, signal.SIGKILL)
            os.close(read)
        os.waitpid(process, 0)
        left = sum(1 for _ in folder.rglob("*.partial"))
        state = load_checkpoint(last).state  # E520 if it were damaged
        print(
            json.dumps({"batches": state["batches"], "partial": left, "finished": state["finished"]}),
            flush=True,
        )


if __name__ == "__main__":
    main()
