"""Loops and the complete R2D2 model: the time of a step."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import r2d2c
from bench.local import training_step
from bench.measure import Result, Setting, clock, interleaved
from bench.specs import CLASSES, RATE, batch, compiled, head

R2D2 = Path(__file__).parents[1] / "specs" / "r2d2" / "fashion.yaml"


def spec(width: int, recompute: bool = False, repeat: str = "depth", layers: int = 1) -> str:
    """A loop that carries one value through ``layers`` hidden layers a step."""
    dims = {"D": width}
    text = head("loop", dims).replace("}", ", depth: 1..64 = 8}") if repeat == "depth" else head("loop", dims)
    hidden = " |> ".join(["linear(D) |> gelu"] * layers)
    return text + (
        f"loops:\n  refine(data):\n    repeat: {repeat}\n    carry:\n      c: f32[B, D] = zeros\n"
        + ("    recompute: true\n" if recompute else "")
        + f"    body: c = layer_norm(c + (data + c |> {hidden} |> linear(D)))\n"
        + f"tasks:\n  t:\n    behavior: logits = refine(x) |> linear({CLASSES})\n    distance: cross_entropy(logits, y)\n"
        + "outputs:\n  logits: t.logits\n"
    )


class Hand(nn.Module):
    """The same loop by hand."""

    def __init__(self, width: int, layers: int = 1) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers + 1))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor, depth: int) -> Tensor:
        c = torch.zeros_like(x)
        for _ in range(depth):
            h = x + c
            for layer in self.hidden[:-1]:
                h = F.gelu(layer(h))
            c = self.norm(c + self.hidden[-1](h))
        logits: Tensor = self.out(c)
        return logits


def against_hand(setting: Setting, width: int, size: int, depth: int) -> Result:
    """A learning pass and a fused Adam step, at a depth that is an argument, against the loop by hand."""
    x, y = batch(size, width, CLASSES, setting.device)
    ours = training_step(compiled(spec(width), setting.device), {"x": x, "y": y, "depth": depth})  # type: ignore[dict-item]
    hand = Hand(width).to(setting.device)
    optimizer = torch.optim.Adam(hand.parameters(), lr=RATE, fused=True)

    def theirs() -> None:
        F.cross_entropy(hand(x, depth), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return interleaved(ours, theirs, setting)


def linear_in_depth(setting: Setting, width: int, size: int, shallow: int, deep: int) -> Result:
    """A learning pass at a large depth, against as many at a small one as make the same number of steps."""
    x, y = batch(size, width, CLASSES, setting.device)
    model = compiled(spec(width), setting.device)
    found = interleaved(
        lambda: model.learn(x=x, y=y, depth=deep),  # type: ignore[arg-type]
        lambda: model.learn(x=x, y=y, depth=shallow),  # type: ignore[arg-type]
        setting,
    )
    return Result(found.ours, found.theirs * deep / shallow)


def batched(setting: Setting, size: int) -> Result:
    """The complete R2D2 model: a learning pass a sample in batches, against one sample at a time."""
    model = r2d2c.compile(r2d2c.load(R2D2)).to(setting.device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 1, 28, 28, generator=generator).to(setting.device)
    y = torch.randint(0, CLASSES, (size,), generator=generator).to(setting.device)
    rounds = 1 if setting.quick else 7
    for count in (1, size):
        model.learn(image=x[:count], y=y[:count])
    whole = [clock(lambda: model.learn(image=x, y=y), 1, setting) for _ in range(rounds)]
    single = [
        clock(lambda: model.learn(image=x[:1], y=y[:1]), 1 if setting.quick else 8, setting)
        for _ in range(rounds)
    ]
    return Result(statistics.median(whole) / size, statistics.median(single))
