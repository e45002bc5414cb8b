"""The specs that are measured, as text, and the hand-written PyTorch of the same work."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import r2d2c
from r2d2c.model import Model

CLASSES = 10
RATE = (
    1e-6  # so small that no number changes much: repeated steps on one batch would end in denormal gradients
)


def compiled(text: str, device: str = "cpu") -> Model:
    return r2d2c.compile(r2d2c.loads(text)).to(device)


def head(name: str, dims: dict[str, int], x: str = "f32[B, D]", y: str = "i64[B]") -> str:
    sizes = ", ".join(f"{name}: {size}" for name, size in dims.items())
    return f"r2d2c: 1\nmodel: {name}\ndims: {{{sizes}}}\ninputs:\n  x: {x}\ntargets:\n  y: {y}\n"


def batch(size: int, width: int, classes: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, width, generator=generator)
    y = torch.randint(0, classes, (size,), generator=generator)
    return x.to(device), y.to(device)


# -- an MLP of four layers
def mlp(width: int) -> str:
    layers = "linear(D) |> relu |> linear(D) |> relu |> linear(D) |> relu |> linear(D)"
    return (
        head("mlp", {"D": width})
        + f"tasks:\n  t:\n    behavior: logits = x |> {layers}\n    distance: cross_entropy(logits, y)\n"
        + "outputs:\n  logits: t.logits\n"
    )


class HandMLP(nn.Module):
    """As a person writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, width)
        self.fc4 = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = F.relu(self.fc3(x))
        out: torch.Tensor = self.fc4(x)
        return out


# -- a stack whose every layer learns from a read-out of its own
def local_stack(layers: int, width: int) -> str:
    tasks = ""
    for k in range(layers):
        before = f"t{k - 1}.h" if k else "x"
        if k < layers - 1:
            tasks += f"  t{k}:\n    behavior: h = {before} |> linear(D) |> relu\n"
            tasks += "    distance: cross_entropy(linear(h, C), y)\n"
        else:
            tasks += f"  t{k}:\n    behavior: |\n      h = {before} |> linear(D) |> relu\n"
            tasks += "      logits = linear(h, C)\n    distance: cross_entropy(logits, y)\n"
    dims = {"D": width, "C": CLASSES}
    return head("stack", dims) + f"credit: local\ntasks:\n{tasks}outputs:\n  logits: t{layers - 1}.logits\n"


class HandStack(nn.Module):
    """The same stack with one read-out on top, to be trained end to end."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.read_out = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        out: torch.Tensor = self.read_out(x)
        return out


# -- the same of convolutions, for memory
def local_conv(layers: int, channels: int) -> str:
    tasks = ""
    for k in range(layers):
        before = f"t{k - 1}.h" if k else "x"
        name = "logits" if k == layers - 1 else "seen"
        tasks += f"  t{k}:\n    behavior: |\n      h = {before} |> conv2d(C, 3, padding=1) |> relu\n"
        tasks += (
            f"      {name} = h |> mean(axes=(2, 3)) |> linear(K)\n    distance: cross_entropy({name}, y)\n"
        )
    dims = {"C": channels, "K": CLASSES, "S": 32}
    text = head("conv", dims, "f32[B, C, S, S]")
    return f"{text}credit: local\ntasks:\n{tasks}outputs:\n  logits: t{layers - 1}.logits\n"


def credit_conv(layers: int, channels: int, credit: str, activation: str) -> str:
    """The same with a credit rule between every two layers, and one read-out on top."""
    tasks, before = "", "x"
    for k in range(layers):
        tasks += f"  t{k}:\n    behavior: h = {before} |> conv2d(C, 3, padding=1) |> {activation}\n"
        before = f"t{k}.h"
    tasks += f"  out:\n    behavior: logits = {before} |> mean(axes=(2, 3)) |> linear(K)\n"
    tasks += "    distance: cross_entropy(logits, y)\n"
    text = head("conv", {"C": channels, "K": CLASSES, "S": 16}, "f32[B, C, S, S]")
    return f"{text}credit: {credit}\ntasks:\n{tasks}outputs:\n  logits: out.logits\n"


class HandConv(nn.Module):
    """The convolutions with one read-out on top."""

    def __init__(self, layers: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers))
        self.read_out = nn.Linear(channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        out: torch.Tensor = self.read_out(x.mean((2, 3)))
        return out


# -- four tasks with learned representatives, each fed with the one before
def chain(width: int) -> str:
    tasks = ""
    for k in range(3):
        before = f"t{k - 1}.h" if k else "x"
        after = f"t{k + 1}.r" if k < 2 else "one_hot(y, C)"
        tasks += f"  t{k}:\n    behavior: h = {before} |> linear(D) |> relu |> linear(D)\n"
        tasks += f"    representative: r = {after} |> linear(D) |> tanh\n    distance: mse(h, r)\n"
    tasks += "  t3:\n    behavior: logits = linear(t2.h, C)\n    distance: cross_entropy(logits, y)\n"
    links = "".join(f"  t{k}.h -> t{k + 1}: {{feed: t{k}.r}}\n" for k in range(3))
    dims = {"D": width, "C": CLASSES}
    return (
        head("chain", dims) + f"credit: local\ntasks:\n{tasks}links:\n{links}outputs:\n  logits: t3.logits\n"
    )


class HandChain(nn.Module):
    """The same equations by hand, each loss's backward right after its forward.

    Representatives are leaves to the losses. What two losses leave there goes into their own backward.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.top = nn.Linear(width, CLASSES)
        sizes = (width, width, CLASSES)
        self.codes = nn.ModuleList(nn.Linear(size, width) for size in sizes)

    def learn(self, x: torch.Tensor, y: torch.Tensor) -> None:
        made: list[torch.Tensor] = []
        above = F.one_hot(y, CLASSES).float()
        for code in reversed(self.codes):
            above = torch.tanh(code(above.detach()))
            made.insert(0, above)
        leaves = [r.detach().requires_grad_() for r in made]
        for k in range(3):
            # What feeds a task is a constant to its loss's parameters, and a leaf to the representative.
            fed = leaves[k - 1] if k else x
            h = self.second[k](F.relu(self.first[k](fed)))
            F.mse_loss(h, leaves[k]).backward()
        F.cross_entropy(self.top(leaves[2]), y).backward()
        torch.autograd.backward(made, [leaf.grad for leaf in leaves])
