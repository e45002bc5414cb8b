"""Local losses and learned representatives: the time of a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from bench.measure import Result, Setting, Work, interleaved
from bench.specs import RATE, HandChain, HandStack, batch, chain, compiled, local_stack
from r2d2c.model import Model
from r2d2c.train.calls import Call
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.stepper import Stepper

ADAM = next(record for record in OPTIMIZERS if record.name == "adam")


def training_step(model: Model, inputs: dict[str, torch.Tensor]) -> Work:
    """A step as the training loop makes it: what a visit finishes is updated, its gradients freed at once."""
    parameters = dict(model.named_parameters())
    optimizer = Call("adam", {"lr": RATE})
    stepper = Stepper(parameters, model._training_graph.visits, ADAM, optimizer)

    def step() -> None:
        for number, _ in enumerate(model.visits(**inputs)):
            stepper.after(number)
        stepper.after_batch()

    return step


def end_to_end_step(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Work:
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)

    def step() -> None:
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def stack(setting: Setting, layers: int, width: int, size: int) -> Result:
    """Every layer with a loss of its own, against the same stack with one loss on top."""
    if setting.quick:
        width, size = 16, 8
    x, y = batch(size, width, 10, setting.device)
    ours = training_step(compiled(local_stack(layers, width), setting.device), {"x": x, "y": y})
    theirs = end_to_end_step(HandStack(layers, width).to(setting.device), x, y)
    return interleaved(ours, theirs, setting, seconds=8.0)


def representatives(setting: Setting, width: int, size: int) -> Result:
    """Four tasks with learned representatives: `learn` and a fused step, against the equations by hand."""
    model, hand = compiled(chain(width), setting.device), HandChain(width).to(setting.device)
    x, y = batch(size, width, 10, setting.device)

    def step(parameters: list[torch.nn.Parameter], learn: Callable[[], object]) -> Work:
        optimizer = torch.optim.Adam(parameters, lr=RATE, fused=True)

        def run() -> None:
            learn()
            optimizer.step()
            optimizer.zero_grad()

        return run

    ours = step(list(model.parameters()), lambda: model.learn(x=x, y=y))
    theirs = step(list(hand.parameters()), lambda: hand.learn(x, y))
    return interleaved(ours, theirs, setting)
