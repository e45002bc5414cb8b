"""The network that every rule trains: linear or convolutional layers, one activation, a linear layer on top."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Activation] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "elu": F.elu,
    "identity": identity,
}


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Every sample divided by the root of the mean of its squares."""
    return F.rms_norm(x, x.shape[1:], eps=eps)


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[1:])


NORMS: dict[str, Activation] = {"none": identity, "rms": rms_norm, "layer": layer_norm}


def initialise(weight: Tensor, init: str) -> None:
    """`default` is what nn.Linear and nn.Conv2d do; the rest is named as in torch.nn.init."""
    if init == "xavier":
        nn.init.xavier_uniform_(weight)
    elif init == "kaiming":
        nn.init.kaiming_uniform_(weight, nonlinearity="relu")
    elif init == "orthogonal":
        nn.init.orthogonal_(weight)
    elif init != "default":
        raise ValueError(f"unknown init {init}")


class Layer(nn.Module):
    """norm -> activation of a linear map; a linear layer flattens what it is given."""

    def __init__(self, op: nn.Linear | nn.Conv2d, activation: str, norm: str = "none") -> None:
        super().__init__()
        self.op = op
        self.linear = isinstance(op, nn.Linear)
        self.activation = ACTIVATIONS[activation]
        self.norm = None if norm == "none" else NORMS[norm]

    def pre(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x.flatten(1) if self.linear and x.dim() > 2 else x)
        return out

    def post(self, z: Tensor) -> Tensor:
        return self.activation(z if self.norm is None else self.norm(z))

    def forward(self, x: Tensor) -> Tensor:
        return self.post(self.pre(x))


class Stack(nn.Module):
    """Hidden layers, and the layer that gives the logits. `shapes[l]` is one sample of what goes into layer l."""

    def __init__(self, layers: Sequence[Layer], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.shapes = [shape]
        with torch.no_grad():
            x = torch.zeros(1, *shape)
            for layer in layers:
                x = layer(x)
                self.shapes.append(tuple(x.shape[1:]))
        self.classes = self.shapes[-1][0]

    @property
    def hidden(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)][:-1]

    @property
    def top(self) -> Layer:
        layer = self.layers[-1]
        assert isinstance(layer, Layer)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def mlp(sizes: Sequence[int], activation: str = "relu", init: str = "default", norm: str = "none") -> Stack:
    """784-256-256-256-256-10, say."""
    layers = []
    for k, (before, after) in enumerate(itertools.pairwise(sizes)):
        last = k == len(sizes) - 2
        op = nn.Linear(before, after)
        initialise(op.weight, init)
        layers.append(Layer(op, "identity" if last else activation, "none" if last else norm))
    return Stack(layers, (sizes[0],))


def convnet(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    classes: int,
    activation: str = "relu",
    init: str = "default",
) -> Stack:
    """3x3 convolutions, each halving the image, and a linear layer on the flattened rest."""
    layers: list[Layer] = []
    before, height, width = shape
    for after in channels:
        op = nn.Conv2d(before, after, 3, stride=2, padding=1)
        initialise(op.weight, init)
        layers.append(Layer(op, activation))
        before, height, width = after, (height + 1) // 2, (width + 1) // 2
    top = nn.Linear(before * height * width, classes)
    initialise(top.weight, init)
    return Stack([*layers, Layer(top, "identity")], shape)


class Rule(nn.Module, ABC):
    """What every rule shares. `rates` maps a prefix of parameter names to a factor on the learning rate."""

    rates: dict[str, float]

    def __init__(self, net: Stack) -> None:
        super().__init__()
        self.net = net
        self.rates = {}

    @abstractmethod
    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        """Leave the update of one batch in ``.grad``; the loss, detached, for the log."""

    def logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer, one a rate."""
        found: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            factor = next((f for prefix, f in self.rates.items() if name.startswith(prefix)), 1.0)
            found.setdefault(factor, []).append(parameter)
        return [{"params": parameters, "lr": rate * factor} for factor, parameters in found.items()]


def output_error(logits: Tensor, y: Tensor) -> Tensor:
    """∂CE/∂logits for each sample: softmax minus one-hot (not divided by the batch)."""
    error = torch.softmax(logits, 1)
    error[torch.arange(len(y), device=y.device), y] -= 1.0
    return error
