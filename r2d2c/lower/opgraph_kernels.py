"""What computes the kinds of op graphs: their formulas as calls that write where they are told, and the arrays they take.

On a CPU numpy makes the calls: where groups are small, the time is that of calls, and numpy's take half as long as
torch's. Elsewhere, for other types and under torch's tracing, torch makes them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from r2d2c.opkind_formulas import LETTERS, tree
from r2d2c.opkinds import OpKind, kind_of

_BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.GtE: "ge",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.Lt: "lt",
}
# What may change places, and what a comparison is from the other side.
_TURNED = {
    "add": "add",
    "mul": "mul",
    "maximum": "maximum",
    "minimum": "minimum",
    "ge": "le",
    "le": "ge",
    "gt": "lt",
    "lt": "gt",
}
_CLAMP = {"maximum": "clamp_min", "minimum": "clamp_max"}


class _Writer:
    """Statements that compute a formula into a tensor, with calls that write where they are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.calls = {"empty_like"}
        self.fresh = 0

    def into(self, text: str, target: str) -> None:
        body = tree(text)
        value = self.value(body, target)
        if isinstance(body, ast.Constant):
            self.call("fill", target, value)
        elif value != target:
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
            case ast.Call(ast.Name("where"), [held, left, right]):
                # What is written last is not where the others are.
                first, second = (self.value(part, self.beside(target, part)) for part in (held, left))
                return self.call("where", target, first, second, self.value(right, target))
        raise NotImplementedError(ast.unparse(node))

    def binary(self, name: str, left: ast.expr, right: ast.expr, target: str) -> str:
        if isinstance(left, ast.Constant):
            if name in _TURNED:
                return self.binary(_TURNED[name], right, left, target)
            if name == "sub":
                return self.call(
                    "add", target, self.call("neg", target, self.value(right, target)), repr(left.value)
                )
            # The libraries share no such call whose first argument is a number.
            first = self.call("fill", self.new(target), repr(left.value))
            return self.call(name, target, first, self.value(right, target))
        first = self.value(left, target)
        second = self.value(right, self.beside(target, right) if first == target else target)
        if isinstance(right, ast.Constant) and name in _CLAMP:
            name = _CLAMP[name]
        return self.call(name, target, first, second)

    def beside(self, target: str, node: ast.expr) -> str:
        """Where to put the value of a part while ``target`` is taken; names and numbers take no room."""
        return target if isinstance(node, ast.Name | ast.Constant) else self.new(target)

    def new(self, target: str) -> str:
        self.fresh += 1
        self.lines.append(f"t{self.fresh} = empty_like({target})")
        return f"t{self.fresh}"

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
    """calls: the functions by torch's names; `copy`, `fill` and `where` are of no library."""
    letters = LETTERS[: kind.arity]
    forward, backward = _Writer(), _Writer()
    forward.into(kind.formula, "v")
    for letter, text in zip(letters, kind.slopes, strict=True):
        backward.into(text, f"d{letter}")
    taken = [f"{letter} = parts[i + {number}]" for number, letter in enumerate(letters)]
    given = [f"d{letter} = places[i + {number}]" for number, letter in enumerate(letters)]
    source = "\n    ".join(["def forward(parts, i, v):", *taken, *forward.lines])
    source += "\n" + "\n    ".join(["def backward(parts, i, v, g, places):", *taken, *given, *backward.lines])
    names = {node.id for text in kind.slopes for node in ast.walk(tree(text)) if isinstance(node, ast.Name)}
    scope: dict[str, Any] = {name: calls(name) for name in forward.calls | backward.calls}
    exec(compile(source, f"<op kind {kind.name}>", "exec"), scope)
    return Kernel(scope["forward"], scope["backward"], "v" in names)


class Kernels(dict[int, Kernel]):
    """The kernels of one library by the numbers of kinds, each made when it is first used."""

    def __init__(self, calls: Callable[[str], Any]) -> None:
        super().__init__()
        self.calls = calls

    def __missing__(self, number: int) -> Kernel:
        found = self[number] = _kernel(kind_of(number), self.calls)
        return found


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

    kernels: Mapping[int, Kernel]
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

    def fill(value: float, out: Tensor) -> None:
        out.fill_(value)

    def where(held: Tensor, first: Tensor | float, second: Tensor | float, out: Tensor) -> None:
        one, other = (
            part if isinstance(part, Tensor) else out.new_full((), part) for part in (first, second)
        )
        torch.where(held != 0, one, other, out=out)

    own = {"copy": copy, "fill": fill, "where": where}

    def means(block: Tensor) -> Tensor:
        # A long row alone is added up in another order, by several threads: so it never is alone.
        if len(block) == 1:
            return torch.cat([block, block]).mean(1, keepdim=True)[:1]
        return block.mean(1, keepdim=True)

    def same(tensor: Tensor) -> Tensor:
        return tensor

    return Arrays(
        Kernels(lambda name: own.get(name) or getattr(torch, name)),
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
    "lt": "less",
    "clamp_min": "maximum",
    "clamp_max": "minimum",
    "copy": "positive",
}


@cache
def numpy_arrays() -> Arrays:
    """Arrays of numpy on the memory of tensors of a CPU."""

    def fill(value: float, out: Any) -> None:
        out[...] = value

    def where(held: Any, first: Any, second: Any, out: Any) -> None:
        np.copyto(out, second)
        np.copyto(out, first, where=held != 0)

    own = {"fill": fill, "where": where}
    return Arrays(
        Kernels(lambda name: own.get(name) or getattr(np, _NUMPY.get(name, name))),
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
