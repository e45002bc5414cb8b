"""`Op`: all that r2d2c knows of an operation, in one record.

An op record is used by the resolver (argument signature), the shape pass (`shape`, `storage`), the verifier (`mixes`,
`traits`), the lowering to torch.fx (`lower`), the ONNX backend (`onnx`), `plan` (`cost`), the op reference and the
conformance tests (`examples`). Torch is named by strings or imported inside `lower`, so that checking a spec never
imports it.

The functions of a record take a context and a namespace ``a`` with one attribute per argument:

* ``shape(s, a)``: value arguments are `TensorType` (or None), others Python values. Returns a `TensorType`, or a tuple
  for several outputs. Raises `ShapeError`. ``s.unify(x, y)`` makes dims equal.
* ``lower(b, a)``: value arguments are fx nodes (Python numbers for constants). ``b("torch.tanh", a.x)`` adds a call,
  ``b.type(name)`` gives an argument's type, ``b.training`` tells which graph is built.
* ``onnx(o, a)``: value arguments are `onnx_ir.Value`. ``o("Tanh", a.x)`` adds a node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from r2d2c.graph import Init, StorageKind
from r2d2c.types import DimLike, TensorType, Unifier

ArgKind = Literal[
    "value",  # a tensor
    "values",  # any number of tensors; comes last among the values
    "param",  # a tensor that the op makes storage for unless one is given
    "size",  # a dim: known, or symbolic where the op allows it
    "sizes",  # a size or a tuple of sizes
    "int",
    "ints",  # an int or a tuple of ints
    "float",
    "bool",
    "axis",  # an int, negative from the end
    "axes",  # an axis or a tuple of axes; None is all
    "choice",  # one of `choices`, written as a bare name
    "text",  # a quoted string
    "formula",  # a predicate on places, as a `Rule`
    "named",  # every keyword the signature lacks, as a dict of sizes: `h=4`
]
REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "required"})()

Namespace = SimpleNamespace


class ShapeError(Exception):
    """The types of the arguments do not fit. ``argument`` names the one to mark, ``other`` a second one."""

    def __init__(
        self, message: str, argument: str | None = None, other: str | None = None, fix: str | None = None
    ) -> None:
        self.argument, self.other, self.fix = argument, other, fix
        super().__init__(message)


class Shapes:
    """What a shape rule may ask of the shape pass."""

    def __init__(self, unifier: Unifier | None = None, batch: frozenset[str] = frozenset({"B"})) -> None:
        self.unifier = unifier or Unifier()
        self.batch = batch
        self.bounds: list[tuple[str, DimLike]] = []

    def unify(self, left: DimLike, right: DimLike) -> bool:
        return left is right or self.unifier.unify(left, right)

    def resolve(self, dim: DimLike) -> DimLike:
        return self.unifier.resolve(dim)

    def bound(self, argument: str, limit: DimLike) -> None:
        """Say that the integers of ``argument`` must be at least 0 and less than ``limit``."""
        self.bounds.append((argument, limit))


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument. ``choices`` are the names a "choice" allows."""

    name: str
    kind: ArgKind = "value"
    default: Any = REQUIRED
    doc: str = ""
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """Storage that an op makes for a "param" argument.

    fans: fan in and fan out, for initialisers that scale with them. dtype: None is that of the op's floats.
    """

    dims: tuple[DimLike, ...]
    init: Init
    axes: tuple[str, ...]
    kind: StorageKind = "param"
    fans: tuple[DimLike, DimLike] | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A call of the op for the reference and the conformance tests.

    call: an expression in the language over the names of ``inputs``.
    inputs: types by name, ``"f32[2, 3]"``; ``"i64[4] < 10"`` bounds integers.
    range: floats are drawn from it (some ops need positive arguments).
    """

    call: str
    inputs: dict[str, str]
    range: tuple[float, float] = (-2.0, 2.0)
    tolerance: float = 1e-5
    gradient: bool = True


Trait = Literal[
    "distance",  # gives a scalar to be minimised
    "random",  # draws numbers: from (seed, node, step)
    "no_gradient",  # its outputs do not depend on its inputs differentiably
    "train_only",  # the identity in an inference graph
    "internal",  # a spec cannot call it by name
]


@dataclass(frozen=True, slots=True)
class Op:
    """A record. See the module's docstring for the functions' contexts.

    params: for every argument of kind "param", the storage to make, given the namespace (types of values, attributes).
        A name that is missing from the result means that the op does without (``bias=false``).
    mixes: the axes along which one output element depends on several elements of an input, as ``(argument, axis)``;
        the verifier warns when such an axis is the batch. The default is none.
    changes_credit: the credit rule by which the gradient of its first input is another than the true one.
    onnx: None means no ONNX form: the exporter then asks torch.onnx.export for this op alone.
    cost: floating point operations, given the namespace of types; the default is one per output element.
    """

    name: str
    doc: str
    args: tuple[Arg, ...]
    shape: Callable[[Shapes, Any], TensorType | tuple[TensorType, ...]]
    lower: Callable[[Any, Any], Any] | str
    onnx: Callable[[Any, Any], Any] | str | None = None
    outputs: tuple[str, ...] = ("out",)
    params: Callable[[Shapes, Any], dict[str, ParamSpec]] | None = None
    mixes: Callable[[Any], list[tuple[str, int]]] | None = None
    traits: frozenset[Trait] = frozenset()
    cost: Callable[[Any], DimLike] | None = None
    examples: tuple[Example, ...] = ()
    family: str = ""
    changes_credit: str | None = None

    @property
    def values(self) -> tuple[Arg, ...]:
        """The arguments that are tensors, in the order of a node's inputs."""
        return tuple(arg for arg in self.args if arg.kind in ("value", "values", "param"))

    @property
    def attributes(self) -> tuple[Arg, ...]:
        return tuple(arg for arg in self.args if arg.kind not in ("value", "values", "param"))


def normalise_axis(axis: int, rank: int, argument: str = "axis") -> int:
    """A non-negative axis. Raises `ShapeError` if there is no such axis."""
    if not -rank <= axis < rank:
        raise ShapeError(f"there is no axis {axis}: the value has {rank} dims", argument)
    return axis % rank
