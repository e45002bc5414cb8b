"""What computes the kinds of op graphs: their formulas as calls that write where they are told, and the arrays they take.

On a CPU numpy makes the calls: where groups are small, the time is that of calls, and numpy's take half as long as
torch's. Elsewhere, for other types and under torch's tracing, torch makes them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from r2d2c.opgraph import OP_KINDS, OpKind

_LETTERS = "abc"
_BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.GtE: "ge",
    ast.LtE: "le",
    ast.Gt: "gt",
}


class _Writer:
    """Statements that compute a formula into a tensor, with calls that write where they are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.calls = {"empty_like"}
        self.fresh = 0

    def into(self, text: str, target: str) -> None:
        value = self.value(ast.parse(text, mode="eval").body, target)
        if value != target:
            self.call("copy", target, value)

    def value(self, node: ast.expr, target: str) -> str:
        """The name or number that has the value; what has to be computed is, into ``target``."""
        match node:
            case ast.Name(name):
                return name
            case ast.Constant(number):
                return repr(number)
            case ast.UnaryOp(ast.USub(), inner):
                return self.call("neg", target, self.value(inner, target))
            case ast.Call(ast.Name(name), [inner]):
                return self.call(name, target, self.value(inner, target))
            case ast.BinOp(left, op, right):
                return self.binary(_BINARY[type(op)], left, right, target)
            case ast.Compare(left, [op], [right]):
                return self.binary(_BINARY[type(op)], left, right, target)
            case ast.Call(ast.Name(name), [left, right]):
                return self.binary(name, left, right, target)
        raise NotImplementedError(ast.unparse(node))

    def binary(self, name: str, left: ast.expr, right: ast.expr, target: str) -> str:
        first = self.value(left, target)
        other = target
        if first == target and not isinstance(right, ast.Name | ast.Constant):
            self.fresh += 1
            other = f"t{self.fresh}"
            self.lines.append(f"{other} = empty_like({target})")
        second = self.value(right, other)
        if isinstance(right, ast.Constant) and name == "maximum":
            name = "clamp_min"
        if isinstance(left, ast.Constant):
            if name == "sub":
                second, name = self.call("neg", target, second), "add"
            elif name not in ("add", "mul"):
                raise NotImplementedError(f"{first} {name} {second}")
            first, second = second, first
        return self.call(name, target, first, second)

    def call(self, name: str, target: str, *values: str) -> str:
        self.calls.add(name)
        self.lines.append(f"{name}({', '.join(values)}, out={target})")
        return target


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kind's forward(parts, i, v), which fills v, and backward(parts, i, v, g, places), which fills places.

    Its arguments are parts[i], parts[i+1], …, and what they get goes to the places at the same numbers. reads:
    whether the backward reads the value.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]
    reads: bool


def _kernel(kind: OpKind, calls: Callable[[str], Any]) -> Kernel:
    """calls: the functions by torch's names; `copy` is of no library."""
    letters = _LETTERS[: kind.arity]
    forward, backward = _Writer(), _Writer()
    forward.into(kind.formula, "v")
    for letter, text in zip(letters, kind.gradients, strict=True):
        backward.into(text, f"d{letter}")
    taken = [f"{letter} = parts[i + {number}]" for number, letter in enumerate(letters)]
    given = [f"d{letter} = places[i + {number}]" for number, letter in enumerate(letters)]
    source = "\n    ".join(["def forward(parts, i, v):", *taken, *forward.lines])
    source += "\n" + "\n    ".join(["def backward(parts, i, v, g, places):", *taken, *given, *backward.lines])
    names = {
        node.id for text in kind.gradients for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)
    }
    scope: dict[str, Any] = {name: calls(name) for name in forward.calls | backward.calls}
    exec(compile(source, f"<op kind {kind.name}>", "exec"), scope)
    return Kernel(scope["forward"], scope["backward"], "v" in names)


class Cuts(NamedTuple):
    """Where the rows of an array are cut: how many each part has, and the same as slices."""

    sizes: list[int]
    slices: list[slice]


def cuts(sizes: Sequence[int]) -> Cuts:
    """The cuts between parts that follow each other."""
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    return Cuts(list(sizes), [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)])


class Rows(NamedTuple):
    """Numbers of rows, and on a CPU the same for numpy."""

    tensor: Tensor
    array: Any


@dataclass(frozen=True, slots=True)
class Arrays:
    """What the engine does with arrays besides kernels, for one library. All arrays have two dimensions.

    of: from a tensor, on the same memory. take: rows, by their numbers. empty: like another array. split: by cuts. means:
    of each row, [rows, 1], whose bits do not depend on how many rows there are.
    """

    kernels: tuple[Kernel, ...]
    of: Callable[[Tensor], Any]
    tensor: Callable[[Any], Tensor]
    take: Callable[[Any, Rows], Any]
    empty: Callable[[Any], Any]
    split: Callable[[Any, Cuts], Sequence[Any]]
    means: Callable[[Any], Any]


@cache
def torch_arrays() -> Arrays:
    """Tensors as they are."""

    def copy(value: Tensor, out: Tensor) -> None:
        out.copy_(value)

    def means(block: Tensor) -> Tensor:
        # A long row alone is added up in another order, by several threads: so it never is alone.
        if len(block) == 1:
            return torch.cat([block, block]).mean(1, keepdim=True)[:1]
        return block.mean(1, keepdim=True)

    def same(tensor: Tensor) -> Tensor:
        return tensor

    return Arrays(
        tuple(
            _kernel(kind, lambda name: copy if name == "copy" else getattr(torch, name)) for kind in OP_KINDS
        ),
        same,
        same,
        lambda array, rows: array.index_select(0, rows.tensor),
        torch.empty_like,
        lambda array, cuts: torch.split_with_sizes(array, cuts.sizes),
        means,
    )


_NUMPY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "neg": "negative",
    "ge": "greater_equal",
    "le": "less_equal",
    "gt": "greater",
    "clamp_min": "maximum",
    "copy": "positive",
}


@cache
def numpy_arrays() -> Arrays:
    """Arrays of numpy on the memory of tensors of a CPU."""
    return Arrays(
        tuple(_kernel(kind, lambda name: getattr(np, _NUMPY.get(name, name))) for kind in OP_KINDS),
        Tensor.numpy,
        torch.from_numpy,
        lambda array, rows: array.take(rows.array, 0),
        np.empty_like,
        lambda array, cuts: [array[part] for part in cuts.slices],
        lambda block: np.add.reduce(block, 1, keepdims=True) / max(block.shape[1], 1),
    )


def arrays_for(x: Tensor) -> Arrays:
    """Those with which an op graph on ``x`` is computed."""
    plain = type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu"
    return numpy_arrays() if plain and x.dtype in (torch.float32, torch.float64) else torch_arrays()
