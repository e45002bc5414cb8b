"""Training any rule on Fashion-MNIST: Adam, one linear decay, a validation set of the last tenth.

python -m bench.rules.fashion RULE [--seeds 3] [--epochs 10]
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from bench.rules.stack import Rule

FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIZES = (784, 256, 256, 256, 256, 10)


@dataclass(frozen=True)
class Images:
    x: Tensor
    y: Tensor


def load(split: str, folder: Path = FOLDER) -> Images:
    """`train` or `t10k`, pixels in 0..1."""
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as stream:
        pixels = numpy.frombuffer(stream.read(), numpy.uint8, offset=16).reshape(-1, 784)
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as stream:
        labels = numpy.frombuffer(stream.read(), numpy.uint8, offset=8)
    return Images(torch.from_numpy(pixels.copy()).float() / 255.0, torch.from_numpy(labels.copy()).long())


def accuracy(rule: Rule, images: Images, size: int = 2000) -> float:
    rule.eval()
    with torch.no_grad():
        parts = zip(images.x.split(size), images.y.split(size), strict=True)
        right = sum(int((rule.logits(x).argmax(1) == y).sum()) for x, y in parts)
    rule.train()
    return right / len(images.y)


def train(
    rule: Rule,
    data: Images,
    rate: float,
    epochs: int,
    seed: int,
    after: Callable[[int], None] | None = None,
    batch: int = 128,
) -> float:
    """The seconds of an epoch."""
    optimizer = torch.optim.Adam(rule.groups(rate), fused=True)
    per_epoch = -(-len(data.y) // batch)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * per_epoch)
    generator = torch.Generator().manual_seed(seed)
    spent = 0.0
    for epoch in range(epochs):
        start = time.process_time()
        for index in torch.randperm(len(data.y), generator=generator).split(batch):
            rule.learn(data.x[index], data.y[index])
            optimizer.step()
            optimizer.zero_grad()
            decay.step()
        spent += time.process_time() - start
        if after is not None:
            after(epoch)
    return spent / epochs


def study(
    build: Callable[[], Rule],
    rate: float,
    epochs: int,
    seed: int,
    train_on: Images,
    test_on: Images,
    each: bool = False,
) -> tuple[float, float]:
    """(accuracy, seconds an epoch) of one run."""
    torch.manual_seed(seed)
    rule = build()
    found: list[float] = []

    def after(epoch: int) -> None:
        if each or epoch == epochs - 1:
            found.append(accuracy(rule, test_on))
            if each:
                print(f"    epoch {epoch}: {found[-1]:.4f}", flush=True)

    seconds = train(rule, train_on, rate, epochs, seed, after)
    return found[-1], seconds


def main() -> None:
    """Train one rule, as it was settled, with several seeds and print its test accuracies."""
    from bench.rules.settled import SETTLED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rule", choices=SETTLED)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--validate", action="store_true", help="measure on the last tenth of the training images"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, settled = load("train"), SETTLED[options.rule]
    cut = len(images.y) * 9 // 10
    learn_from = Images(images.x[:cut], images.y[:cut])
    held = Images(images.x[cut:], images.y[cut:]) if options.validate else load("t10k")
    found = []
    for seed in range(options.seeds):
        right, seconds = study(
            lambda: settled.build(SIZES), settled.rate, options.epochs, seed, learn_from, held
        )
        found.append(right)
        print(f"{options.rule}, seed {seed}: {right:.4f}, {seconds:.1f} s an epoch", flush=True)
    print(f"{options.rule}: {statistics.mean(found):.4f}")


if __name__ == "__main__":
    main()
