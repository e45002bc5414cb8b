"""Credit rules: a training step of ours against the same rule by hand, and against backprop.

The networks: MLPs 784-256×4-10, 784-800×2-10 and 784-1024×8-10, and three convolutions that each halve a 32 × 32
image. Every hidden layer is a task, so a rule stands between every two layers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from bench.local import training_step
from bench.measure import Result, Setting, Work, interleaved
from bench.rules.goodness import Goodness
from bench.rules.gradient import Backprop, Direct, Feedback
from bench.rules.hebbian import Hebbian
from bench.rules.stack import Layer, Rule, Stack, convnet, mlp
from bench.rules.synthetic import Synthetic
from bench.rules.target import Target
from bench.specs import CLASSES, RATE, compiled, head
from r2d2c.model import Model

BATCH = 128
MLPS = {
    "4x256": (784, 256, 256, 256, 256, CLASSES),
    "2x800": (784, 800, 800, CLASSES),
    "8x1024": (784, *[1024] * 8, CLASSES),
}
CHANNELS, SIDE = (8, 16, 32), 32
SECONDS = 2.0
GOODNESS = "goodness(threshold=1, label_scale=1, split=true"

# What a rule is called here: its spelling in a spec, its activation, and the rule by hand.
RULES: dict[str, tuple[str, str, Callable[[Stack], Rule]]] = {
    "backprop": ("backprop", "tanh", Backprop),
    "feedback": ("feedback", "tanh", Feedback),
    "direct": ("direct", "tanh", Direct),
    "direct, recomputed": ("direct(recompute=true)", "tanh", Direct),
    "synthetic": ("synthetic(labels=y)", "tanh", Synthetic),
    "target": ("target", "tanh", lambda net: Target(net, "tanh")),
    "hebbian": ("hebbian", "tanh", lambda net: HebbianAny(net)),
    "goodness": (f"{GOODNESS})", "relu", lambda net: Goodness(net, half=True)),
    "goodness, by labels": (
        f"{GOODNESS}, negatives=uniform, infer=labels)",
        "relu",
        lambda net: Goodness(net, half=True, negatives="uniform", infer="labels"),
    ),
}


# -- the networks, as specs and by hand
def spec(net: str, rule: str) -> str:
    credit, activation, _ = RULES[rule]
    blocks = links = ""
    if net in MLPS:
        hidden = [f"linear({size})" for size in MLPS[net][1:-1]]
        text, last = head("net", {"D": MLPS[net][0]}), f"linear({CLASSES})"
        back = f"linear({MLPS[net][1]}, init=orthogonal) |> tanh"
        if rule == "target":
            blocks = f"blocks:\n  back(v): return v |> {back}\n"
            credit = "target(inverse=back)"
    else:
        hidden = [f"conv2d({channels}, 3, stride=2, padding=1)" for channels in CHANNELS]
        text, last = head("net", {"S": SIDE}, "f32[B, 1, S, S]"), f"flatten |> linear({CLASSES})"
        if rule == "target":
            credit = "backprop"
            blocks, links = _inverses()
    tasks, before = "", "x"
    for k, layer in enumerate(hidden):
        tasks += f"  t{k}:\n    behavior: h = {before} |> {layer} |> {activation}\n"
        before = f"t{k}.h"
    tasks += f"  out:\n    behavior: logits = {before} |> {last}\n    distance: cross_entropy(logits, y)\n"
    return f"{text}credit: {credit}\n{blocks}tasks:\n{tasks}{links}outputs:\n  logits: out.logits\n"


def _inverses() -> tuple[str, str]:
    """Of the convolutions: the inverse of each, and the links that use them."""
    side = SIDE >> len(CHANNELS)
    width = CHANNELS[-1] * side**2
    blocks = (
        f"blocks:\n  wide(v): return v |> linear({width}, init=orthogonal) |> tanh"
        f" |> reshape((B, {CHANNELS[-1]}, {side}, {side}))\n"
        "  up(v, c): return v |> conv_transpose2d(c, 4, stride=2, padding=1, init=orthogonal) |> tanh\n"
    )
    links = "links:\n"
    for k, channels in enumerate(CHANNELS):
        last = k == len(CHANNELS) - 1
        above, inverse = ("out", "wide") if last else (f"t{k + 1}", f"up({channels})")
        links += f"  t{k}.h -> {above}: {{credit: target(inverse={inverse})}}\n"
    return blocks, links


def stack(net: str, activation: str) -> Stack:
    if net in MLPS:
        return mlp(MLPS[net], activation)
    return convnet((1, SIDE, SIDE), CHANNELS, CLASSES, activation)


class HebbianAny(Hebbian):
    """Oja's rule for convolutions as well: y xᵀ is the gradient of the kernels with y as their δ."""

    def __init__(self, net: Stack) -> None:
        torch.nn.Module.__init__(self)
        self.net, self.rates, self.rule = net, {}, "oja"

    def _plastic(self, k: int, layer: Layer, x: Tensor, z: Tensor) -> None:
        op = layer.op
        if isinstance(op, torch.nn.Linear):
            super()._plastic(k, layer, x, z)
            return
        rows = z.transpose(1, -1).flatten(0, 2)
        hebb = torch.nn.grad.conv2d_weight(x, op.weight.shape, z, op.stride, op.padding)  # type: ignore[arg-type]
        decay = (rows.t() @ rows) @ op.weight.flatten(1)
        op.weight.grad = (decay.view_as(op.weight) - hebb) / len(rows)


# -- a step of each
def data(net: str, setting: Setting) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = 8 if setting.quick else BATCH
    shape = (size, MLPS[net][0]) if net in MLPS else (size, 1, SIDE, SIDE)
    x = torch.randn(shape, generator=generator)
    y = torch.randint(0, CLASSES, (size,), generator=generator)
    return {"x": x.to(setting.device), "y": y.to(setting.device)}


def ours(net: str, rule: str, setting: Setting) -> Work:
    model: Model = compiled(spec(net, rule), setting.device)
    return training_step(model, data(net, setting))


def by_hand(net: str, rule: str, setting: Setting) -> Work:
    _, activation, make = RULES[rule]
    torch.manual_seed(0)
    hand = make(stack(net, activation)).to(setting.device)
    inputs = data(net, setting)
    optimizer = torch.optim.Adam(hand.groups(RATE), lr=RATE, fused=True)

    def step() -> None:
        hand.learn(**inputs)
        optimizer.step()
        optimizer.zero_grad()

    return step


def hand(setting: Setting, net: str, rule: str) -> Result:
    """A training step of a rule, against hand-written PyTorch of it."""
    return interleaved(ours(net, rule, setting), by_hand(net, rule, setting), setting, seconds=SECONDS)


def backprop(setting: Setting, net: str, rule: str) -> Result:
    """A training step of a rule, against one of backprop, both ours."""
    return interleaved(ours(net, rule, setting), ours(net, "backprop", setting), setting, seconds=SECONDS)


def written_out(setting: Setting, net: str) -> Result:
    """Goodness by labels with its gradients written out and nothing recorded, against our backprop.

    What the rule's products and kernels take by themselves: no loss, no wrong label and no weight is left out.
    """
    sizes, inputs = MLPS[net][:-1], data(net, setting)
    torch.manual_seed(0)
    weights = [torch.randn(n, m, device=setting.device).div_(m**0.5) for m, n in pairwise(sizes)]
    parameters = [(torch.nn.Parameter(w), torch.nn.Parameter(torch.zeros_like(w[:, 0]))) for w in weights]
    optimizer = torch.optim.Adam([p for pair in parameters for p in pair], lr=RATE, fused=True)
    given, y = inputs["x"], inputs["y"]
    sign = torch.ones_like(given[:, 0])
    sign[len(sign) // 2 :] = -1

    @torch.no_grad()
    def step() -> list[Tensor]:
        wrong = (y + torch.randint_like(y, 1, CLASSES)) % CLASSES
        label = torch.where(sign > 0, y, wrong)
        x = torch.cat([torch.nn.functional.one_hot(label, CLASSES).to(given.dtype), given[:, CLASSES:]], 1)
        losses = []
        for weight, bias in parameters:
            h = torch.addmm(bias, x, weight.t()).relu_()
            g = torch.linalg.vector_norm(h, dim=1).square_().div_(h.shape[1])
            margin = sign * (1.0 - g)
            losses.append(torch.nn.functional.softplus(margin).mean())
            slope = torch.sigmoid(margin).mul_(sign).mul_(-4.0 / h.numel())
            delta = h * slope[:, None]
            weight.grad, bias.grad = delta.t() @ x, delta.sum(0)
            x = h * torch.rsqrt(g + 1e-6)[:, None]
        optimizer.step()
        return losses

    return interleaved(step, ours(net, "backprop", setting), setting, seconds=SECONDS)
