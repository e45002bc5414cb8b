"""`module_op`: an nn.Module class as an op.

The class is a recipe: what is trained are values of the graph, as for every other op. So its parameters have
places in the spec, can be frozen, show in `wiring`, and are saved with the model; the module itself is only
called, with `torch.func.functional_call`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from r2d2c.graph import Init, StorageKind
from r2d2c.ops.record import Arg, Example, Namespace, Op, ParamSpec, ShapeError, Shapes, Trait
from r2d2c.types import DimLike, TensorType


@dataclass(frozen=True, eq=False)
class _Recipe:
    """A class with one choice of its arguments."""

    cls: Callable[..., torch.nn.Module]
    kwargs: Mapping[str, Any]

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.kwargs.items())
        return f"{getattr(self.cls, '__name__', 'module')}({arguments})"

    def make(self, seed: int = 0) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.cls(**self.kwargs)


@dataclass(frozen=True, eq=False)
class _First:
    """Where a parameter's first value comes from: the class itself, seeded by the parameter's name."""

    recipe: _Recipe
    name: str

    def __str__(self) -> str:
        return f"{self.recipe}.{self.name}"

    def draw(self, seed: int) -> torch.Tensor:
        return _tensors(self.recipe.make(seed))[self.name][0].detach().clone()


def _tensors(module: torch.nn.Module) -> dict[str, tuple[torch.Tensor, StorageKind]]:
    """The parameters and buffers of a module by name, shared ones once."""
    found: dict[str, tuple[torch.Tensor, StorageKind]] = {}
    for name, parameter in module.named_parameters():
        found[name] = (parameter, "param" if parameter.requires_grad else "frozen")
    for name, buffer in module.named_buffers():
        found[name] = (buffer, "frozen")
    return found


@dataclass(eq=False)
class _Module:
    """The functions of the record."""

    name: str
    cls: Callable[..., torch.nn.Module]
    inputs: tuple[str, ...]
    storage: tuple[str, ...]
    attributes: tuple[str, ...]
    construct: Callable[[Any], Mapping[str, Any]] | None
    made: dict[tuple[tuple[str, Any], ...], tuple[_Recipe, torch.nn.Module]] = field(default_factory=dict)

    def of(self, space: Any) -> tuple[_Recipe, torch.nn.Module]:
        """The module for a call, from the types of its inputs and its attributes."""
        given = self.construct(space) if self.construct is not None else vars(space)
        kwargs = {k: v for k, v in given.items() if self.construct is not None or k in self.attributes}
        for key, value in kwargs.items():
            if isinstance(value, int) and not isinstance(value, bool):
                kwargs[key] = int(value)
            elif not isinstance(value, (int, float, str, bool, tuple, type(None))):
                message = f"the size `{key}` of `{self.name}` must be known, and is {value}"
                raise ShapeError(message, self.inputs[0])
        table = tuple(sorted(kwargs.items()))
        if table not in self.made:
            recipe = _Recipe(self.cls, kwargs)
            self.made[table] = recipe, recipe.make()
        return self.made[table]

    def params(self, s: Shapes, a: Any) -> dict[str, ParamSpec]:
        resolved = {
            k: s.unifier.resolve_type(v) if isinstance(v, TensorType) else v for k, v in vars(a).items()
        }
        recipe, module = self.of(Namespace(**resolved))
        found = _tensors(module)
        if set(found) != set(self.storage):
            extra = ", ".join(sorted(set(found) ^ set(self.storage)))
            message = f"`{recipe}` has other parameters than the sample that `{self.name}` was made with"
            raise ShapeError(f"{message}: {extra}")
        return {
            name: ParamSpec(tuple(tensor.shape), Init("module", (_First(recipe, name),)), (), kind)
            for name, (tensor, kind) in found.items()
        }

    def lower(self, b: Any, a: Any) -> Any:
        types = {name: b.type(name) for name in self.inputs if getattr(a, name) is not None}
        _, module = self.of(Namespace(**{**vars(a), **types}))
        call = _caller(self.name, module, self.storage, b.training)
        tensors = [getattr(a, name) for name in (*self.storage, *self.inputs)]
        result = b.python(call, *tensors)
        if len(b.out) == 1:
            return result
        return tuple(b.item(result, port) for port in range(len(b.out)))


def _caller(
    name: str, module: torch.nn.Module, storage: tuple[str, ...], training: bool
) -> Callable[..., Any]:
    count = len(storage)

    def call(*tensors: torch.Tensor) -> Any:
        module.train(training)
        values = dict(zip(storage, tensors[:count], strict=True))
        return torch.func.functional_call(module, values, tensors[count:])

    call.__name__ = call.__qualname__ = name
    return call


def module_op(
    name: str,
    cls: Callable[..., torch.nn.Module],
    *,
    shape: Callable[[Shapes, Any], TensorType | tuple[TensorType, ...]],
    args: Iterable[str | Arg] = ("x",),
    construct: Callable[[Any], Mapping[str, Any]] | None = None,
    sample: Mapping[str, Any] | None = None,
    doc: str = "",
    outputs: tuple[str, ...] = ("out",),
    onnx: Callable[[Any, Any], Any] | None = None,
    mixes: Callable[[Any], list[tuple[str, int]]] | None = None,
    traits: Iterable[Trait] = (),
    cost: Callable[[Any], DimLike] | None = None,
    examples: tuple[Example, ...] = (),
) -> Op:
    """An op that calls an nn.Module class (or a function that makes one).

    args: what `forward` takes, by position, as names; then `Arg`s for what the class takes.
    construct: the arguments of the class, from the namespace of types and attributes; by default the `Arg`s
        by name.
    sample: arguments with which the class can be made now, to learn the names of its parameters. The names
        must not depend on the arguments.
    shape: the type of what it gives; the other functions are those of `Op`.

    Its buffers are saved with the model and never change; a module with running statistics is refused.
    """
    arguments = tuple(Arg(arg) if isinstance(arg, str) else arg for arg in args)
    inputs = tuple(arg.name for arg in arguments if arg.kind == "value")
    if not inputs or any(arg.kind in ("values", "param") for arg in arguments):
        message = "`args` are the tensors that `forward` takes, and what the class takes"
        raise TypeError(f"module_op({name!r}): {message}")
    try:
        found = _tensors(_Recipe(cls, dict(sample or {})).make())
    except TypeError as error:
        message = f"module_op({name!r}): give `sample`, arguments with which the class can be made"
        raise TypeError(f"{message}: {error}") from error
    for key, (tensor, _) in found.items():
        if not tensor.is_floating_point():
            message = f"the buffer `{key}` counts or keeps statistics; state has to be a value of the graph"
            raise TypeError(f"module_op({name!r}): {message}")
    attributes = tuple(arg.name for arg in arguments if arg.kind != "value")
    made = _Module(name, cls, inputs, tuple(found), attributes, construct)
    return Op(
        name,
        doc or (cls.__doc__ or "").strip() or f"The module `{getattr(cls, '__name__', name)}`.",
        (*arguments, *(Arg(key, "param") for key in found)),
        shape,
        made.lower,
        onnx,
        outputs,
        made.params,
        mixes,
        frozenset(traits),
        cost,
        examples,
        "modules",
    )
