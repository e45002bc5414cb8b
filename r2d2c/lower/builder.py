"""`FxBuilder`: builds a torch.fx graph from the nodes of a flat graph. It is the context `b` of the records' `lower`."""

from __future__ import annotations

import functools
import importlib
import keyword
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.fx as fx

from r2d2c.graph import CORE_OPS, Graph, Node, Value
from r2d2c.infer import NodeTypes, Signatures
from r2d2c.loops import Loop, loop_of, sequence_axis, stack_axis
from r2d2c.lower.eprop import plan as plan_eprop
from r2d2c.lower.halting_sizes import Size, Whole, sample_axes, samples_of, split
from r2d2c.lower.loops import LoopCall
from r2d2c.lower.phases import plan
from r2d2c.lower.shares import BATCH
from r2d2c.lower.sharing import SharedNodes
from r2d2c.ops.record import Op
from r2d2c.passes.building import AGAIN
from r2d2c.passes.reach import sometimes
from r2d2c.source import Span
from r2d2c.types import Dim, DimLike

TORCH_DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64,
    "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool,
}  # fmt: skip


@functools.cache
def function(name: str) -> Callable[..., Any]:
    """The function of a dotted name such as ``torch.nn.functional.linear``."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


_NOT_WORD = re.compile(r"\W+")


def identifier(name: str) -> str:
    """A Python name for a place: ``encode.h.linear_2`` becomes ``encode_h_linear_2``."""
    word = _NOT_WORD.sub("_", name).strip("_") or "value"
    return f"_{word}" if word[0].isdigit() or keyword.iskeyword(word) else word


def trace_of(span: Span | None, what: str) -> str | None:
    """A span the way fx keeps stack traces; the source is named as the user named it."""
    if span is None:
        return None
    return f'  File "{span.source.name}", line {span.line}, in {what}'


def draws(graph: Graph, nodes: Iterable[Node], signatures: Signatures) -> bool:
    """Whether some node draws random numbers, in the step of a loop too."""
    for node in nodes:
        if node.op == "loop":
            if draws(graph, graph.regions[node.attrs["region"]].nodes, signatures):
                return True
        elif node.op not in CORE_OPS and "random" in signatures[node.op].op.traits:
            return True
    return False


def _drawing_place(node: Node) -> str:
    """By what name a node draws: that of the first run, in a second one that is to give the same."""
    place, at, run = node.id.rpartition("@")
    return place if at and run.rpartition(".")[2] == AGAIN else node.id


class FxBuilder(SharedNodes, NodeTypes):
    """One fx graph under construction.

    training: whether ops that differ lower to their training form.
    default: what f32 stands for, in a model converted by ``.double()`` or ``.bfloat16()``.
    inside: this is the step of a loop.
    samples: the dims that count samples which halt, in this step or in one around it.
    """

    def __init__(
        self,
        graph: Graph,
        signatures: Signatures,
        training: bool,
        default: torch.dtype | None = None,
        inside: bool = False,
        samples: Iterable[Dim] = (),
    ) -> None:
        SharedNodes.__init__(self)
        self.graph, self.signatures, self.training, self.inside = graph, signatures, training, inside
        self.samples = tuple(samples)
        # By node, another way to lower it.
        self.quick: Mapping[str, Callable[[Any, Any], Any]] = {}
        # Placeholders of numbers that are no ports: the model's arguments, in a step the sizes that it asks for.
        self.wanted: dict[Size, fx.Node] = {}
        self.default = default or torch.float32
        self.fx = fx.Graph()
        self.env: dict[Value, Any] = {}
        self.rng: fx.Node | None = None
        self.sizes_of: dict[Size, tuple[Any, int]] = {}
        self._sizes: dict[Size, Any] = {}
        self._node: Node | None = None
        self._name = ""
        self._trace: str | None = None
        self._parameters: dict[str, fx.Node] = {}
        self._placeholders: set[str] = set()
        self._origins: dict[str, Span | None] = {}
        self._create = self.fx.create_node

    # -- what records call
    def __call__(self, target: str, *args: Any, **kwargs: Any) -> fx.Node:
        node = self._create("call_function", function(target), args, kwargs, self._name)
        node.meta["stack_trace"] = self._trace
        return node

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        node = self._create("call_method", name, args, kwargs, self._name)
        node.meta["stack_trace"] = self._trace
        return node

    def item(self, value: Any, position: int) -> fx.Node:
        node = self._create("call_function", operator.getitem, (value, position), {}, self._name)
        node.meta["stack_trace"] = self._trace
        return node

    def python(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a Python function that is not a torch op (operators, getattr)."""
        node = self._create("call_function", target, args, kwargs, self._name)
        node.meta["stack_trace"] = self._trace
        return node

    def dtype(self, name: str) -> torch.dtype:
        return self.default if name == "f32" else TORCH_DTYPES[name]

    def size(self, dim: DimLike) -> Any:
        """An int, or an fx node that computes a dim known only at run time."""
        if not isinstance(dim, Dim):
            return int(dim)
        total: Any = None
        for atoms, factor in dim.terms:
            product: Any = None
            samples = split(Dim(((atoms, factor),)), self.samples)
            if samples is not None:
                product = self._symbol(samples[0])
                atoms, factor = samples[1].terms[0]
            for atom in atoms:
                if isinstance(atom, str):
                    part = self._symbol(atom)
                else:
                    target = operator.mod if atom.remainder else operator.floordiv
                    part = self.python(target, self.size(atom.numerator), self.size(atom.denominator))
                product = part if product is None else self.python(operator.mul, product, part)
            if product is None:
                product = factor
            elif factor != 1:
                product = self.python(operator.mul, product, factor)
            total = product if total is None else self.python(operator.add, total, product)
        return total

    def sizes(self, dims: Iterable[DimLike]) -> tuple[Any, ...]:
        return tuple(self.size(dim) for dim in dims)

    def _symbol(self, name: Size) -> Any:
        if name == BATCH and self.way is not None and self.way.whole:
            return self("r2d2c.lower.gathering.total")
        if name not in self._sizes:
            if name not in self.sizes_of:
                if not self.inside and name not in self.graph.arguments:
                    raise KeyError(f"no input has the dim {name}")
                return self.argument(name)
            tensor, axis = self.sizes_of[name]
            self._sizes[name] = self.method("size", tensor, axis)
        return self._sizes[name]

    def generator(self, like: Any) -> fx.Node:
        """A torch.Generator on the device of ``like``, for this node at this step; a second run draws as the first."""
        assert self._node is not None and self.rng is not None, "random ops draw only in training"
        device = self.python(getattr, like, "device")
        return self.method("generator", self.rng, _drawing_place(self._node), device)

    def device(self) -> Any:
        """The device of the inputs, for ops that make tensors of their own; None if there is no input."""
        first = next((n for n in self.fx.nodes if n.op == "placeholder" and n is not self.rng), None)
        return None if first is None else self.python(getattr, first, "device")

    # -- building
    def parameter(self, name: str) -> fx.Node:
        """The fx node that reads a storage entry, one a graph."""
        node = self._parameters.get(name)
        if node is None:
            node = self._parameters[name] = self._create("get_attr", name, (), {}, identifier(name))
            node.meta["stack_trace"] = trace_of(self.graph.storage[name].origin, name)
        return node

    def placeholder(self, name: str, value: Value | None = None) -> fx.Node:
        word = identifier(name)
        while word in self._placeholders:
            word += "_"
        self._placeholders.add(word)
        node = self._create("placeholder", word, (), {}, word)
        if value is not None:
            self.env[value] = node
            node.meta["stack_trace"] = trace_of(self._origin(value), name)
            type_ = self.graph.types.get(value)
            for axis, dim in enumerate(type_.dims if type_ is not None else ()):
                if dim in self.samples:
                    self.sizes_of.setdefault(dim, (node, axis))
                if isinstance(dim, Dim) and len(dim.terms) == 1 and dim.terms[0][1] == 1:
                    atoms = dim.terms[0][0]
                    if len(atoms) == 1 and isinstance(atoms[0], str):
                        self.sizes_of.setdefault(atoms[0], (node, axis))
        return node

    def _origin(self, value: Value) -> Span | None:
        if not self._origins:
            self._origins = {node.id: node.origin for node in self.graph.body.nodes}
        return self._origins.get(value.node)

    def add(self, node: Node) -> None:
        """Lower one node of the flat graph."""
        if self.shares is not None and self.way is None and node.id in self.shares.ways:
            with self.sharing(node):
                self.add(node)
            return
        op, env = node.op, self.env
        if op == "param":
            env[Value(node.id)] = self.parameter(node.attrs["storage"])
            return
        if op == "constant":
            env[Value(node.id)] = node.attrs["value"]
            return
        self._begin(node)
        if op == "size":
            env[Value(node.id)] = self._whole(node.attrs["dim"])
            return
        if op == "argument":
            env[Value(node.id)] = self.argument(node.attrs["name"])
            return
        if op == "loop":
            self._loop(node)
            return
        if op == "stop":
            env[Value(node.id)] = self.method("detach", env[node.inputs[0]])  # type: ignore[index]
            return
        if op == "leaf":
            env[Value(node.id)] = self.method("requires_grad_", self.method("detach", env[node.inputs[0]]))  # type: ignore[index]
            return
        self._lower(node)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the numbers that are given when the model runs."""
        return tuple(name for name in self.wanted if isinstance(name, str))

    def _whole(self, dim: DimLike) -> Any:
        """A size as a number to compute with, which is the same for a sample whoever has halted beside it."""
        if isinstance(dim, Dim) and any(dim.symbols() & samples.symbols() for samples in self.samples):
            return self.argument(Whole(dim))
        return self.size(dim)

    def _asked(self, name: Size) -> Any:
        """A size that the step of a loop asks for."""
        if isinstance(name, str):
            return self._symbol(name)
        return self._whole(name.dim) if isinstance(name, Whole) else self.size(name)

    def argument(self, name: Size) -> Any:
        """A number that is given when the model runs, or in a step the size of a dim that the loop sees."""
        found = self.wanted.get(name)
        if found is None:
            label = name if isinstance(name, str) else "batch" if isinstance(name, Whole) else "samples"
            last = [n for n in self.fx.nodes if n.op == "placeholder"][-1:]
            with self.fx.inserting_after(*last) if last else self.fx.inserting_before():
                found = self.wanted[name] = self.placeholder(label)
        return found

    def _loop(self, node: Node) -> None:
        """A call of the loop, whose step is an fx graph of its own."""
        loop, step = loop_of(node), self.graph.regions[node.attrs["region"]]
        graph = self.graph.with_(main=step.name)
        halting = samples_of(self.graph, loop, step)
        samples = dict.fromkeys([*self.samples, *([halting] if halting is not None else [])])
        inner = FxBuilder(graph, self.signatures, self.training, self.default, True, samples)
        inner.shares = self.shares
        for port in step.inputs:
            inner.placeholder(port.name, port.value)
        random = draws(self.graph, step.nodes, self.signatures)
        if random and self.training:
            inner.rng = inner.placeholder("rng")
        for each in step.nodes:
            if each.op != "port":
                inner.add(each)
        inner.fx.output(tuple(inner.env[port.value] for port in step.outputs))
        phases = plan(
            self.graph,
            node,
            inner,
            lambda whole: FxBuilder(
                whole.with_(main=step.name), self.signatures, self.training, self.default, True
            ),
        )
        call = LoopCall(
            loop,
            inner.fx,
            *self._axes(node, loop),
            inner.rng is not None,
            len(inner.wanted),
            _drawing_place(node),
            sometimes(self.graph, node, self.signatures.ops) if self.training else (),
            sample_axes(graph, halting, step, inner.rng is not None, inner.wanted)
            if halting is not None
            else (),
            self.default,
            phases,
        )
        if self.training:
            call.eprop = plan_eprop(
                loop, step, inner, lambda: FxBuilder(graph, self.signatures, True, self.default, inside=True)
            )
        inputs = [self.env[value] for value in node.inputs if value is not None]
        rng = [] if inner.rng is None else [self.rng]
        result = self.python(call, self.size(loop.trips), *inputs, *rng, *map(self._asked, inner.wanted))
        for number in range(len(node.outputs)):
            part = self.env[Value(node.id, number)] = self.item(result, number)
            part.meta["r2d2c"] = (node, number)

    def _axes(self, node: Node, loop: Loop) -> tuple[list[int], list[int]]:
        """The axis of steps of every sequence and of every output."""
        types, first = self.graph.types, len(loop.carries)
        axes = []
        for value in node.inputs[first : first + loop.sequences]:
            axis = sequence_axis(types[value], loop.trips) if value is not None else None
            assert axis is not None, value
            axes.append(axis)
        return axes, [stack_axis(types[Value(node.id, port)]) for port in range(len(node.outputs))]

    def _begin(self, node: Node) -> None:
        self._node = node
        place = node.id
        base, dot, last = place.rpartition(".")
        # The op that gives a statement its value is named after the statement.
        self._name = identifier(
            base
            if dot
            and node.outputs
            and node.outputs[0] != last.split("_")[0]
            and base.endswith(node.outputs[0])
            else place
        )
        self._trace = trace_of(node.origin, place)

    def _lower(self, node: Node) -> None:
        env, signature = self.env, self.signatures[node.op]
        op: Op = signature.op
        inputs = [env[v] if v is not None else None for v in node.inputs]
        lower = self.quick.get(node.id, op.lower)
        if type(lower) is str:
            result: Any = self._create("call_function", function(lower), tuple(inputs), None, self._name)
            result.meta["stack_trace"] = self._trace
        else:
            result = lower(self, signature.namespace(node, inputs))  # type: ignore[operator]
        if isinstance(result, (tuple, list)):
            for port, part in enumerate(result):
                env[Value(node.id, port)] = part
                if isinstance(part, fx.Node):
                    part.meta.setdefault("r2d2c", (node, port))
        else:
            env[Value(node.id)] = result
            if isinstance(result, fx.Node):
                # An op that gives its argument back leaves the argument's own label.
                result.meta.setdefault("r2d2c", (node, 0))
