"""What a run costs beside its learning: writing checkpoints, and coming back to one. An MLP 2×256 on Fashion-MNIST."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import r2d2c
from bench.measure import Result, Setting, interleaved
from r2d2c.train.interrupt import Interrupted

SPEC = Path(__file__).parents[1] / "specs" / "baselines" / "mlp.yaml"
GIVEN: dict[str, Any] = {
    "data": "fashion_mnist",
    "settings": ("dims.D=784", "dims.H=256"),
    "batch_size": 128,
    "threads": 1,
}


class _Saves:
    """Times epochs, and further writings of the same checkpoint after each, as the last and as the best one."""

    def __init__(self, writings: int) -> None:
        self.writings, self.saved = writings, list[float]()
        self.trainer: Any = None

    def on_ready(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_epoch(self, info: Any) -> None:
        for _ in range(self.writings):
            began = time.perf_counter()
            self.trainer.save(best=True)
            self.saved.append(time.perf_counter() - began)


def checkpoint(setting: Setting) -> Result:
    """Writing the checkpoint of an epoch's end, by the clock, against the learning of the epoch."""
    saves = _Saves(2 if setting.quick else 8)
    with tempfile.TemporaryDirectory() as folder:
        limit = 3 if setting.quick else None
        run = r2d2c.train(
            SPEC,
            out=Path(folder) / "run",
            epochs=1 if setting.quick else 4,
            limit_batches=limit,
            callbacks=[saves],
            **GIVEN,
        )
        epochs = [record["seconds"] for record in run.metrics if record["split"] == "train"]
    return Result(statistics.median(saves.saved), statistics.median(epochs))


class _Stop:
    """Ends a training after its first batch."""

    def on_step(self, step: Any) -> None:
        raise Interrupted(Path(), 0, 0)


def resume(setting: Setting) -> Result:
    """From the call to the first batch learned: going on with a run against beginning a new one."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()
        r2d2c.train(SPEC, out=Path(folder) / "run", epochs=1, limit_batches=20, **GIVEN)

        def until_first(**given: Any) -> Callable[[], None]:
            def call() -> None:
                where = {} if "resume" in given else {"out": Path(folder) / f"new{next(numbers)}"}
                try:
                    r2d2c.train(callbacks=[_Stop()], threads=1, **where, **given)
                except Interrupted:
                    return
                raise AssertionError("it did not learn")

            return call

        fresh = {key: value for key, value in GIVEN.items() if key != "threads"}
        return interleaved(
            until_first(resume=Path(folder) / "run", epochs=3),
            until_first(spec=SPEC, epochs=3, **fresh),
            setting,
            seconds=8.0,
            wall=True,
        )
