"""What a run costs beside its learning, and what an epoch takes. An MLP 2×256 on Fashion-MNIST."""

from __future__ import annotations

import contextlib
import gc
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

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
                    gc.collect()  # or it is chance which of the two is given the other's memory, and no fresh pages
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


class _Beside:
    """After every epoch, runs another loop's epoch too: what each takes, of the processor, is measured side by side."""

    def __init__(self, other: Callable[[], None]) -> None:
        self.other, self.ours, self.theirs = other, list[float](), list[float]()
        self.began = 0.0

    def on_start(self, start: Any) -> None:
        self.began = time.process_time()

    def on_epoch(self, info: Any) -> None:
        ended = time.process_time()
        self.other()
        again = time.process_time()
        self.ours.append(ended - self.began)
        self.theirs.append(again - ended)
        self.began = time.process_time()


def epoch(setting: Setting, loader: bool = False) -> Result:
    """An epoch of `r2d2c train`, with its losses, metrics, checkpoint and progress, against a loop written by hand.

    loader: whether that is as one usually writes it: a `DataLoader` of images as torchvision's data set gives them (a
    picture of pillow's, made a tensor of 0..1), Adam as it comes. Else all images are one tensor, and Adam is fused.
    """
    from r2d2c.cli.progress import choose
    from r2d2c.train.data import open_data

    data = open_data("fashion_mnist").train
    images, labels = data.columns["x"], torch.from_numpy(data["y"]).long()
    work = (
        _by_loader(images.array, labels) if loader else _by_tensor(torch.from_numpy(images.values()), labels)
    )
    beside = _Beside(work)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        r2d2c.train(
            SPEC,
            out=Path(folder) / "run",
            epochs=2 if setting.quick else 6,
            callbacks=[choose(False), beside],
            **GIVEN,
        )
    return Result(statistics.median(beside.ours), statistics.median(beside.theirs))


def _step(fused: bool) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A learning step of the same MLP, written by hand; it gives the loss."""
    model = torch.nn.Sequential(
        *(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU()),
        torch.nn.Linear(256, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _by_tensor(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    step, size = _step(True), GIVEN["batch_size"]

    def run() -> None:
        total = torch.zeros(())
        for rows in torch.randperm(len(images)).split(size):
            total += step(images[rows], labels[rows])
        assert torch.isfinite(total)

    return run


def _by_loader(images: Any, labels: torch.Tensor) -> Callable[[], None]:
    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
            picture = Image.fromarray(images[row].reshape(28, 28))
            return torch.from_numpy(np.array(picture)).flatten().float().div(255), labels[row]

    step = _step(False)
    batches = torch.utils.data.DataLoader(Images(), GIVEN["batch_size"], shuffle=True)

    def run() -> None:
        total = torch.zeros(())
        for x, y in batches:
            total += step(x, y)
        assert torch.isfinite(total)

    return run
