"""A thousand small tasks: their optimizer's step, and the visits of a learning pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.local import ADAM
from bench.measure import Result, Setting, interleaved
from bench.specs import CLASSES, RATE, batch, compiled, local_stack
from r2d2c.train.flat import FlatStep

WIDTH = 16


def flat_step(setting: Setting, tasks: int) -> Result:
    """`FlatStep` over the tasks' parameters, against torch's step over one tensor of as many numbers."""
    shapes = [(WIDTH, WIDTH), (WIDTH,)] * tasks
    parameters = {
        f"p{k}": torch.nn.Parameter(torch.zeros(shape, device=setting.device))
        for k, shape in enumerate(shapes)
    }
    generator = torch.Generator(setting.device).manual_seed(0)
    step = FlatStep(parameters, ADAM, {"lr": RATE})
    for parameter in parameters.values():
        gradient = torch.randn(parameter.shape, generator=generator, device=setting.device)
        assert parameter.grad is not None
        parameter.grad.copy_(gradient)
    one = torch.nn.Parameter(torch.zeros(sum(p.numel() for p in parameters.values()), device=setting.device))
    one.grad = torch.randn(one.shape, generator=generator, device=setting.device)
    fused = torch.optim.Adam([one], lr=RATE, fused=True)
    return interleaved(step.step, fused.step, setting)


def against_many(setting: Setting, tasks: int) -> Result:
    """`FlatStep` against torch's fused step over the parameters as they are, two a task."""
    shapes = [(WIDTH, WIDTH), (WIDTH,)] * tasks
    parameters, apart = (
        [torch.nn.Parameter(torch.zeros(shape, device=setting.device)) for shape in shapes] for _ in range(2)
    )
    step = FlatStep({f"p{k}": p for k, p in enumerate(parameters)}, ADAM, {"lr": RATE})
    for parameter in apart:
        parameter.grad = torch.ones_like(parameter)
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.fill_(1.0)
    return interleaved(step.step, torch.optim.Adam(apart, lr=RATE, fused=True).step, setting)


def visits(setting: Setting, tasks: int) -> Result:
    """`learn` of many tiny tasks, a visit each, against a loop by hand with a backward for each loss."""
    count = 10 if setting.quick else tasks
    model = compiled(local_stack(count, WIDTH), setting.device)
    layers = [torch.nn.Linear(WIDTH, WIDTH).to(setting.device) for _ in range(count)]
    heads = [torch.nn.Linear(WIDTH, CLASSES).to(setting.device) for _ in range(count)]
    x, y = batch(32, WIDTH, CLASSES, setting.device)

    def ours() -> None:
        model.learn(x=x, y=y)
        for parameter in ours_parameters:
            parameter.grad = None

    def theirs() -> None:
        h = x
        for layer, head in zip(layers, heads, strict=True):
            h = F.relu(layer(h.detach()))
            F.cross_entropy(head(h), y).backward()
        for parameter in hand_parameters:
            parameter.grad = None

    ours_parameters = list(model.parameters())
    hand_parameters = [p for module in (*layers, *heads) for p in module.parameters()]
    return interleaved(ours, theirs, setting)
