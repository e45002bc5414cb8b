"""First numbers of storage, from hash(seed, name): an ablation, a resume or a grown network keeps every number it should."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch

from r2d2c.graph import Storage
from r2d2c.lower.builder import TORCH_DTYPES


def seed_of(seed: int, name: str, step: int = 0) -> int:
    """A 63-bit seed that depends on nothing but its arguments."""
    digest = hashlib.blake2b(f"{seed}\0{name}\0{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _fans(row: Storage, shape: tuple[int, ...]) -> tuple[int, int]:
    if row.fans is not None:
        return row.fans
    receptive = math.prod(shape[2:])
    return (shape[1] * receptive, shape[0] * receptive) if len(shape) > 1 else (shape[0], shape[0]) if shape else (1, 1)


def _uniform(tensor: torch.Tensor, bound: float, g: torch.Generator) -> None:
    tensor.uniform_(-bound, bound, generator=g)


def _orthogonal(tensor: torch.Tensor, gain: float, g: torch.Generator) -> None:
    if tensor.dim() < 2:
        tensor.normal_(0.0, gain, generator=g)
    else:
        torch.nn.init.orthogonal_(tensor, gain, generator=g)


def _eye(tensor: torch.Tensor) -> None:
    tensor.zero_()
    diagonal = tensor.reshape(tensor.shape[0], -1).diagonal() if tensor.dim() > 1 else tensor
    diagonal.fill_(1.0)


# (tensor, arguments, (fan in, fan out), generator); formulas as in torch.nn.init.
INITIALISERS: dict[str, Callable[[torch.Tensor, Any, tuple[int, int], torch.Generator], None]] = {
    "zeros": lambda t, a, f, g: t.zero_() and None,
    "ones": lambda t, a, f, g: t.fill_(1.0) and None,
    "constant": lambda t, a, f, g: t.fill_(a[0] if a else 0.0) and None,
    "normal": lambda t, a, f, g: t.normal_(0.0, a[0] if a else 1.0, generator=g) and None,
    "uniform": lambda t, a, f, g: _uniform(t, a[0] if a else 1.0, g),
    "kaiming_uniform": lambda t, a, f, g: _uniform(t, 1.0 / math.sqrt(max(f[0], 1)), g),  # torch's default of linear and conv
    "fan_in_uniform": lambda t, a, f, g: _uniform(t, 1.0 / math.sqrt(max(f[0], 1)), g),
    "xavier": lambda t, a, f, g: _uniform(t, math.sqrt(6.0 / (f[0] + f[1])), g),
    "xavier_normal": lambda t, a, f, g: t.normal_(0.0, math.sqrt(2.0 / (f[0] + f[1])), generator=g) and None,
    "kaiming": lambda t, a, f, g: _uniform(t, math.sqrt(6.0 / max(f[0], 1)), g),
    "kaiming_normal": lambda t, a, f, g: t.normal_(0.0, math.sqrt(2.0 / max(f[0], 1)), generator=g) and None,
    "orthogonal": lambda t, a, f, g: _orthogonal(t, a[0] if a else 1.0, g),
    "eye": lambda t, a, f, g: _eye(t),
}  # fmt: skip


def initial(row: Storage, seed: int) -> torch.Tensor:
    """The first value of a storage entry. The same seed and name give the same numbers in every model."""
    assert row.type is not None
    shape = tuple(int(d) for d in row.type.dims)  # type: ignore[arg-type]
    tensor = torch.empty(shape, dtype=TORCH_DTYPES[row.type.dtype])
    if not tensor.is_floating_point():
        return tensor.fill_(int(row.init.args[0]) if row.init.args else 0)
    generator = torch.Generator().manual_seed(seed_of(seed, row.name))
    work = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
    with torch.no_grad():
        INITIALISERS[row.init.kind](work, row.init.args, _fans(row, shape), generator)
    return work.to(tensor.dtype)


class Rng:
    """Where the random ops of a training graph draw from: a generator for every (seed, node, step)."""

    __slots__ = ("seed", "step")

    def __init__(self, seed: int, step: int) -> None:
        self.seed, self.step = seed, step

    def generator(self, node: str, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(seed_of(self.seed, node, self.step))
