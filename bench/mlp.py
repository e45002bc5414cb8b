"""Compiled MLPs against an nn.Module: inference, and a training step end to end."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.measure import Result, Setting, interleaved
from bench.specs import RATE, HandMLP, batch, compiled, mlp


def inference(setting: Setting, width: int, size: int) -> Result:
    """``model(x=x)`` against ``module(x)``."""
    model, hand = compiled(mlp(width), setting.device), HandMLP(width).to(setting.device)
    x, _ = batch(size, width, width, setting.device)
    with torch.inference_mode():
        return interleaved(lambda: model(x=x)["logits"], lambda: hand(x), setting)


def training(setting: Setting, width: int, size: int) -> Result:
    """``model.learn`` and a fused Adam step against forward, loss, backward and the same step."""
    model, hand = compiled(mlp(width), setting.device), HandMLP(width).to(setting.device)
    x, y = batch(size, width, width, setting.device)
    ours_step = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    hand_step = torch.optim.Adam(hand.parameters(), lr=RATE, fused=True)

    def ours() -> None:
        model.learn(x=x, y=y)
        ours_step.step()
        ours_step.zero_grad()

    def theirs() -> None:
        F.cross_entropy(hand(x), y).backward()
        hand_step.step()
        hand_step.zero_grad()

    return interleaved(ours, theirs, setting)
