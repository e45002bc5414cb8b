"""First numbers of storage, from hash(seed, name): an ablation, a resume or a grown network keeps every number it should."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from r2d2c.graph import Storage
from r2d2c.lower.builder import TORCH_DTYPES
from r2d2c.lower.wiring import wired_scale
from r2d2c.seeds import seed_of


def _fans(row: Storage, shape: tuple[int, ...]) -> tuple[int, int]:
    if row.fans is not None:
        return row.fans
    receptive = math.prod(shape[2:])
    return (
        (shape[1] * receptive, shape[0] * receptive)
        if len(shape) > 1
        else (shape[0], shape[0])
        if shape
        else (1, 1)
    )


@dataclass(frozen=True, slots=True)
class Draw:
    """What an initialiser comes to for one shape: a distribution and its one number."""

    kind: Literal["constant", "uniform", "normal", "orthogonal", "eye"]
    value: float = 0.0


# From an initialiser's arguments and (fan in, fan out); the formulas are those of torch.nn.init.
INITIALISERS: dict[str, Callable[[tuple[Any, ...], tuple[int, int]], Draw]] = {
    "zeros": lambda a, f: Draw("constant", 0.0),
    "ones": lambda a, f: Draw("constant", 1.0),
    "constant": lambda a, f: Draw("constant", a[0] if a else 0.0),
    "normal": lambda a, f: Draw("normal", a[0] if a else 1.0),
    "uniform": lambda a, f: Draw("uniform", a[0] if a else 1.0),
    # torch's defaults of linear and conv: kaiming_uniform(a=√5) and its bias both come to 1/√fan_in.
    "kaiming_uniform": lambda a, f: Draw("uniform", 1.0 / math.sqrt(max(f[0], 1))),
    "fan_in_uniform": lambda a, f: Draw("uniform", 1.0 / math.sqrt(max(f[0], 1))),
    "xavier": lambda a, f: Draw("uniform", math.sqrt(6.0 / (f[0] + f[1]))),
    "xavier_normal": lambda a, f: Draw("normal", math.sqrt(2.0 / (f[0] + f[1]))),
    "kaiming": lambda a, f: Draw("uniform", math.sqrt(6.0 / max(f[0], 1))),
    "kaiming_normal": lambda a, f: Draw("normal", math.sqrt(2.0 / max(f[0], 1))),
    "orthogonal": lambda a, f: Draw("orthogonal", a[0] if a else 1.0),
    "eye": lambda a, f: Draw("eye"),
    # Between places, before `wired_scale`: as another one, or from -1..1.
    "wired": lambda a, f: INITIALISERS[a[1].kind](a[1].args, f) if len(a) > 1 else Draw("uniform", 1.0),
}


def shape_of(row: Storage) -> tuple[int, ...]:
    assert row.type is not None
    return tuple(int(dim) for dim in row.type.dims)  # type: ignore[arg-type]


def draw_of(row: Storage) -> Draw:
    """The distribution that an entry's first value comes from."""
    return INITIALISERS[row.init.kind](row.init.args, _fans(row, shape_of(row)))


def fill(tensor: torch.Tensor, draw: Draw, generator: torch.Generator) -> None:
    if draw.kind == "uniform":
        tensor.uniform_(-draw.value, draw.value, generator=generator)
    elif draw.kind == "normal" or (draw.kind == "orthogonal" and tensor.dim() < 2):
        tensor.normal_(0.0, draw.value, generator=generator)
    elif draw.kind == "orthogonal":
        torch.nn.init.orthogonal_(tensor, draw.value, generator=generator)
    elif draw.kind == "eye":
        tensor.zero_()
        (tensor.reshape(tensor.shape[0], -1).diagonal() if tensor.dim() > 1 else tensor).fill_(1.0)
    else:
        tensor.fill_(draw.value)


def initial(row: Storage, seed: int) -> torch.Tensor:
    """The first value of a storage entry. The same seed and name give the same numbers in every model."""
    assert row.type is not None
    if row.init.kind == "module":
        # The first value that an nn.Module class of the user's gives it; see r2d2c/ops/module_op.py.
        drawn: torch.Tensor = row.init.args[0].draw(seed_of(seed, row.name))
        return drawn.to(TORCH_DTYPES[row.type.dtype])
    if row.init.kind == "topology":
        # The table of an op graph, one draw for all its buffers; see r2d2c/ops/op_graph.py.
        # A copy: the draw is kept for other models, and this one's table is written to while it grows.
        first = row.init.args[0]
        return torch.tensor(first.draw(seed), dtype=TORCH_DTYPES[row.type.dtype])
    if row.init.kind == "places":
        # Where points are, or who is wired to whom; see r2d2c/places.py.
        return torch.tensor(row.init.args[0].draw(seed), dtype=TORCH_DTYPES[row.type.dtype])
    tensor = torch.empty(shape_of(row), dtype=TORCH_DTYPES[row.type.dtype])
    if not tensor.is_floating_point():
        return tensor.fill_(int(row.init.args[0]) if row.init.args else 0)
    work = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
    with torch.no_grad():
        fill(work, draw_of(row), torch.Generator().manual_seed(seed_of(seed, row.name)))
        if row.init.kind == "wired":
            work *= torch.tensor(wired_scale(row, seed), dtype=work.dtype)
    return work.to(tensor.dtype)


class Rng:
    """Where the random ops of a training graph draw from: a generator for every (seed, node, step)."""

    __slots__ = ("place", "seed", "step")

    def __init__(self, seed: int, step: int, place: str = "") -> None:
        self.seed, self.step, self.place = seed, step, place

    def generator(self, node: str, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(seed_of(self.seed, f"{node}{self.place}", self.step))

    def at(self, place: str) -> Rng:
        """Where a step of a loop draws from."""
        return Rng(self.seed, self.step, f"{self.place}#{place}")
