"""Pieces that several credit rules are built from."""

from __future__ import annotations

from math import prod

from r2d2c.credit.record import Builder
from r2d2c.graph import Init, Value
from r2d2c.types import TensorType


def numel(type_: TensorType) -> int | None:
    """How many numbers a sample has; None if that is known only when the model runs."""
    sizes = [dim for dim in type_.dims[1:] if isinstance(dim, int)]
    return prod(sizes) if len(sizes) == len(type_.dims) - 1 else None


def flat(b: Builder, value: Value) -> Value:
    """[B, …] as [B, n]."""
    rank = b.type(value).rank
    if rank == 1:
        return b.node("reshape", value, name="flat", sizes=(-1, 1))
    return value if rank == 2 else b.node("flatten", value, name="flat")


def shaped(b: Builder, value: Value, like: Value) -> Value:
    """[B, n] in the shape of another value."""
    dims = b.type(like).dims
    return value if len(dims) == 2 else b.node("reshape", value, name="shaped", sizes=(-1, *dims[1:]))


def add(b: Builder, values: list[Value], name: str) -> Value:
    total = values[0]
    for value in values[1:]:
        total = b.node("add", total, value, name=name)
    return total


def per_sample(b: Builder, gradient: Value) -> Value:
    """δ of every sample, B times the gradient of a mean over the batch."""
    return b.node("mul", gradient, b.batch(gradient), name="per_sample")


def of_batch(b: Builder, delta: Value) -> Value:
    """The gradient of a mean over the batch, from δ of every sample."""
    return b.node("div", delta, b.batch(delta), name="of_batch")


def linear(b: Builder, value: Value, out: int, name: str, init: Init, like: TensorType) -> Value:
    """A trained linear layer of the rule's own, over [B, n]."""
    width = b.type(value).dims[-1]
    weight = b.storage(f"{name}.weight", TensorType(like.dtype, (out, width)), init, "param")
    bias = b.storage(f"{name}.bias", TensorType(like.dtype, (out,)), Init("zeros"), "param")
    return b.node("linear", value, weight, bias, name=name, out=out)


def half_square(b: Builder, made: Value, wanted: Value, name: str) -> tuple[Value, float]:
    """½ mean_b ‖made − wanted‖² as a value and the weight of its loss: half the mean, times the numbers of a sample."""
    width = numel(b.type(made))
    if width is not None:
        return b.node("mse", made, wanted, name=name), 0.5 * width
    square = b.node("square", b.node("sub", made, wanted, name="apart"), name="apart")
    return b.node("div", b.node("sum", square, name="apart"), b.batch(made), name=name), 0.5
