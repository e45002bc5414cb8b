"""Layers whose weights are generated for every sample: forward and backward, against shared layers and against bmm."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import torch
from torch import Tensor, nn

from bench.measure import Result, Setting, Work, interleaved
from bench.specs import compiled
from r2d2c.model import Model

CONTEXT = 64


def spec(width: int, options: str, below: str = "") -> str:
    """A generated layer, and the mean square of what it gives as its loss. ``below``: what its input goes through."""
    return (
        f"r2d2c: 1\nmodel: hyper\ndims: {{D: {width}, S: {CONTEXT}}}\n"
        "inputs:\n  x: f32[B, D]\n  c: f32[B, S]\n"
        f"hypernets:\n  view: {{makes: linear(D), {options}}}\n"
        f"tasks:\n  t:\n    behavior: h = x{below} |> view(from=c)\n    distance: mean(h ^ 2)\n"
        "outputs:\n  h: t.h\n"
    )


class Batched(nn.Module):
    """The same layer as one usually writes it: a matrix a sample, then `bmm`. It stands above a shared layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width, self.code, self.below = width, nn.Linear(CONTEXT, hidden), nn.Linear(width, width)
        self.weight, self.bias = nn.Linear(hidden, width * width), nn.Linear(hidden, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = torch.tanh(self.code(c / math.sqrt(CONTEXT))) / math.sqrt(self.code.out_features)
        weight = self.weight(h).view(len(x), self.width, self.width)
        x = self.below(x)
        return torch.bmm(weight, x.unsqueeze(2)).squeeze(2) + self.bias(h)


def inputs(width: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(size, n, generator=generator).to(device) for n in (width, CONTEXT))
    return x, c


def learn(model: Model, x: Tensor, c: Tensor) -> Work:
    """A learning pass of ours."""

    def run() -> None:
        model.learn(x=x, c=c)
        model.zero_grad()

    return run


def by_hand(module: nn.Module, *given: Tensor) -> Work:
    """Forward and backward of a module."""

    def run() -> None:
        module(*given).square().mean().backward()
        module.zero_grad()

    return run


class Shared(nn.Module):
    """So many shared layers, one after the other."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def shared(setting: Setting, width: int, size: int, options: str, layers: int) -> Result:
    """A generated layer against ``layers`` shared ones."""
    if setting.quick:
        width, size = 16, 8
    x, c = inputs(width, size, setting.device)
    ours = learn(compiled(spec(width, options), setting.device), x, c)
    theirs = by_hand(Shared(width, layers).to(setting.device), x)
    return interleaved(ours, theirs, setting, seconds=8.0)


def batched(setting: Setting, width: int, size: int, hidden: int) -> Result:
    """A generated layer against the same one by `bmm`, in a process that allocates as a user's does.

    The benchmarks' processes keep freed memory, so there half a gigabyte of generated weights costs no fresh pages.
    """
    if setting.quick:
        width, size = 16, 8
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    given = json.dumps([width, size, hidden, setting.device, setting.quick])
    command = [sys.executable, "-m", "bench.hyper", given]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return Result(*json.loads(done.stdout.splitlines()[-1]))


def _batched(width: int, size: int, hidden: int, device: str, quick: bool) -> Result:
    torch.set_num_threads(1)
    x, c = inputs(width, size, device)
    ours = learn(compiled(spec(width, f"hidden: {hidden}", " |> linear(D)"), device), x, c)
    theirs = by_hand(Batched(width, hidden).to(device), x, c)
    return interleaved(ours, theirs, Setting(device, quick), seconds=12.0)


def saved(setting: Setting, width: int, size: int, hidden: int) -> Result:
    """What is stored between forward and backward, parameters and inputs apart, against `bmm`."""
    x, c = inputs(width, size, setting.device)
    ours = compiled(spec(width, f"hidden: {hidden}", " |> linear(D)"), setting.device)
    theirs = Batched(width, hidden).to(setting.device)
    return Result(
        _stored(lambda: ours.learn(x=x, c=c), ours, x, c),
        _stored(lambda: theirs(x, c).square().mean().backward(), theirs, x, c),
        "B",
    )


def _stored(work: Work, module: nn.Module, *given: Tensor) -> float:
    """Bytes of the storages that autograd saves, each once."""
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), *given)}
    found: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return float(sum(found.values()))


if __name__ == "__main__":
    found = _batched(*json.loads(sys.argv[1]))
    print(json.dumps([found.ours, found.theirs]))
