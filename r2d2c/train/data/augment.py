"""Augmentations: changes to the samples of training batches that are drawn anew in every epoch.

What a sample gets depends on the seed, the epoch, its row and the port alone: not on the batch it is in, the process
that makes it, or where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.draws import Draws

if TYPE_CHECKING:
    from torch import Tensor

Image = tuple[int, int, int]
"""Channels, height and width of a sample."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One augmentation: ``apply(values, draws, arguments)`` gives new values of the same shape.

    Values are ``[B, C, H, W]`` where ``image`` says so, else ``[B, ...]``; ``floats``: they must be floats.
    ``ranges`` are the least and the greatest value of an argument; ``pixels`` are arguments that count pixels, each at
    most the greater side of the image.
    """

    name: str
    doc: str
    arguments: Mapping[str, Any]
    apply: Callable[[Tensor, Draws, Mapping[str, Any]], Tensor]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    image: bool = True
    floats: bool = False
    pixels: tuple[str, ...] = ()


def _crop(values: Tensor, draws: Draws, arguments: Mapping[str, Any]) -> Tensor:
    """The image with a border of zeros, and of that a window of the image's size at a random place."""
    import torch

    pad = int(arguments["pad"])
    count, channels, height, width = values.shape
    padded = torch.nn.functional.pad(values, (pad, pad, pad, pad))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, places, places, H, W], a view
    samples = torch.arange(count, device=values.device)
    down, right = (draws.below(number, 2 * pad + 1) for number in (0, 1))
    return windows.permute(0, 2, 3, 1, 4, 5)[samples, down, right].view(count, channels, height, width)


def _flip(values: Tensor, draws: Draws, arguments: Mapping[str, Any]) -> Tensor:
    import torch

    chosen = draws.uniform(0) < arguments["chance"]
    axis = 2 if arguments["vertical"] else 3
    return torch.where(chosen.view(-1, 1, 1, 1), values.flip(axis), values)


def _jitter(values: Tensor, draws: Draws, arguments: Mapping[str, Any]) -> Tensor:
    by = arguments["by"]
    shape = (-1, *[1] * (values.ndim - 1))
    factor = draws.uniform(0, 1.0 - by, 1.0 + by).to(values.dtype).view(shape)
    shift = draws.uniform(1, -by, by).to(values.dtype).view(shape)
    # Not `addcmul`: fused or not, by the lane of the processor, its rounding differs.
    return (values * factor).add_(shift)


def _cutout(values: Tensor, draws: Draws, arguments: Mapping[str, Any]) -> Tensor:
    """Zeros in a square about a random pixel; at the edges it is cut off (DeVries and Taylor 2017)."""
    import torch

    size = int(arguments["size"])
    inside = []
    for number, length in enumerate(values.shape[2:]):
        first = draws.below(number, length) - size // 2
        places = torch.arange(length, device=values.device)
        inside.append((places >= first[:, None]) & (places < first[:, None] + size))
    down, right = inside
    return values.masked_fill((down[:, :, None] & right[:, None, :])[:, None], 0)


def _noise(values: Tensor, draws: Draws, arguments: Mapping[str, Any]) -> Tensor:
    drawn = draws.normal(prod(values.shape[1:]), values.dtype).mul_(arguments["std"])
    return drawn.view(values.shape).add_(values)


AUGMENTATIONS: tuple[Augmentation, ...] = (
    Augmentation(
        "crop",
        "a window of the image's own size, out of the image with `pad` pixels of zeros on each side",
        {"pad": 4},
        _crop,
        ranges={"pad": (1, 4096)},
        pixels=("pad",),
    ),
    Augmentation(
        "flip",
        "left and right change places, or with `vertical` top and bottom, in `chance` of the samples",
        {"chance": 0.5, "vertical": False},
        _flip,
        ranges={"chance": (0.0, 1.0)},
    ),
    Augmentation(
        "jitter",
        "all values of a sample times a factor in 1 ± `by`, and then a shift in ± `by`",
        {"by": 0.1},
        _jitter,
        ranges={"by": (0.0, 1e6)},
        image=False,
        floats=True,
    ),
    Augmentation(
        "cutout",
        "zeros in a square of `size` pixels a side, about a random pixel",
        {"size": 8},
        _cutout,
        ranges={"size": (1, 4096)},
        pixels=("size",),
    ),
    Augmentation(
        "noise",
        "normal noise of deviation `std`, for each value its own",
        {"std": 0.05},
        _noise,
        ranges={"std": (0.0, 1e6)},
        image=False,
        floats=True,
    ),
)


Step = tuple[Augmentation, Mapping[str, Any]]
"""An augmentation with all of its arguments."""


@dataclass(frozen=True, slots=True, eq=False)
class Augmenter:
    """What is done to the samples of one port; ``image`` is their shape as images, where they are such."""

    port: str
    steps: Sequence[Step]
    image: Image | None

    def __call__(self, values: Tensor, rows: Tensor, seed: int, epoch: int) -> Tensor:
        """New values ``[B, ...]`` for those of the samples in ``rows`` i64[B] of the training data."""
        if values.device.type == "mps":  # it has no float64
            return self(values.cpu(), rows.cpu(), seed, epoch).to(values.device)
        shape = values.shape
        for number, (augmentation, arguments) in enumerate(self.steps):
            if augmentation.image:
                assert self.image is not None
                values = values.reshape(len(rows), *self.image)
            draws = Draws.of(rows, "augment", seed, epoch, self.port, number)
            values = augmentation.apply(values, draws, arguments)
        return values.reshape(shape)


def image_of(sample: tuple[int, ...], known: tuple[int, ...] | None) -> Image | None:
    """The shape of a sample as an image: its own, or that of the column ``image`` if it is that one, flat."""
    if len(sample) == 2:
        return (1, *sample)
    if len(sample) == 3:
        return sample
    if len(sample) == 1 and known is not None and len(known) in (2, 3) and prod(known) == prod(sample):
        return image_of(known, None)
    return None
