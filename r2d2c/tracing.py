"""`Model.trace`: a learning pass with every value and every δ kept by name."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from r2d2c.graph import Graph, Node, Value
from r2d2c.lower.builder import FxBuilder
from r2d2c.lower.graphs import LoweredVisit, TrainingLowering
from r2d2c.lower.init import Rng
from r2d2c.passes.inline import prune
from r2d2c.tracing_loops import Steps, loop_name, starts
from r2d2c.wiring import outputs_of

if TYPE_CHECKING:
    from r2d2c.model import Model, Trace


def value_name(node: Node, port: int) -> str | None:
    """The name in the spec of a node's value: ``encode.h``, or its place for a value without a name."""
    silent = ("param", "constant", "size", "argument", "vjp", "accumulate", "update")
    if node.op in silent or node.id.startswith("G("):
        return None
    if node.op == "loop":
        return loop_name(node, port)
    if node.op == "port":
        return str(node.attrs["name"])
    place, at, run = node.id.partition("@")  # a further run of a region
    base, dot, last = place.rpartition(".")
    name = node.outputs[port]
    if dot and base.endswith(f".{name}") and not last.startswith(name):
        return f"{base}{at}{run}"
    return node.id if len(node.outputs) == 1 else f"{place}.{name}{at}{run}"


def trace(model: Model, batch: Mapping[str, torch.Tensor], breakpoints: tuple[str, ...]) -> Trace:
    """Run the training graph without its updates, then take every δ in one backward pass from all its roots."""
    from r2d2c.model import Trace

    graph, ops = model._training_graph, model.spec.ops
    batch, numbers = model._split(batch)
    batch = model._check_batch(batch, graph)
    roots = _roots(graph)
    results = [loss.value for loss in graph.losses.values()] + [port.value for port in graph.body.outputs]
    nodes = prune(graph.body.nodes, [*results, *(v for root in roots for v in root.values)])
    names: dict[str, Value] = {}
    first: set[str] = set()
    for node in nodes:
        if node.op == "loop":
            for start, value in starts(node).items():
                # `refine.c` is what the loop gives, not what it starts as.
                plain = start.removesuffix("0")[:-1]
                if names.get(plain) == value:
                    del names[plain]
                names[start] = value
                first.add(start)
        for port in range(len(node.outputs)):
            name = value_name(node, port)
            if name is not None and Value(node.id, port) in graph.types:
                names[name] = Value(node.id, port)
    unknown = [name for name in breakpoints if name not in names]
    if unknown:
        raise KeyError(f"there is no value `{unknown[0]}` to stop at; there are {', '.join(names)}")
    wanted = list(dict.fromkeys([*names.values(), *results, *(v for root in roots for v in root.values)]))
    lowered = _Lowering(graph, ops, model._float, written_out=False).traced(nodes, wanted)
    if breakpoints:
        _insert_breakpoints(lowered.fx, {names[name] for name in breakpoints})
    arguments: list[object] = [batch[port.name] for port in graph.body.inputs]
    if lowered.random:
        arguments.append(Rng(graph.seed, model._step))
    arguments += [numbers[name] for name in lowered.arguments]
    steps = Steps()
    steps.watch(lowered.fx, value_name)
    module = torch.fx.GraphModule(model, lowered.fx)
    with torch.enable_grad():
        # What is computed of sizes alone is a number of Python.
        found = {v: torch.as_tensor(x) for v, x in zip(wanted, module(*arguments), strict=True)}
        values = {name: found[value] for name, value in names.items()}
        deltas = _deltas(roots, steps.values | values, found)
    return Trace(
        {name: value.detach() for name, value in (values | steps.values).items()},
        _with_copies(deltas, first | steps.values.keys()),
        {name: found[loss.value].detach() for name, loss in graph.losses.items()},
    )


class _Lowering(TrainingLowering):
    """The part of a training graph that gives certain values: it adds to no gradient and changes no statistic."""

    def traced(self, nodes: Sequence[Node], wanted: Sequence[Value]) -> LoweredVisit:
        ids = [node.id for node in nodes if node.op != "port"]
        return self._lower("trace", ids, [port.value for port in self.graph.body.inputs], list(wanted))

    def _vjp(self, b: FxBuilder, node: Node) -> None:
        attrs = {**node.attrs, "params": (), "retain": True}
        super()._vjp(b, replace(node, attrs=attrs))
        for port in reversed(range(attrs["wrt"])):
            b.env[Value(node.id, len(node.attrs["params"]) + port)] = b.env[Value(node.id, port)]


class _Root(NamedTuple):
    """A value that δ is known of: a loss with its weight, or what a signal or a representative's teachers say."""

    value: Value
    delta: Value | float

    @property
    def values(self) -> tuple[Value, ...]:
        return (self.value, self.delta) if isinstance(self.delta, Value) else (self.value,)


def _roots(graph: Graph) -> list[_Root]:
    """What a learning pass starts from, each once: all else follows from it."""
    losses = {loss.root: loss.closed[1] if loss.closed else loss.weight for loss in graph.losses.values()}
    taught = {n.inputs[0] for n in graph.body.nodes if n.op == "leaf" and not n.attrs.get("cut")}
    found: dict[object, _Root] = {value: _Root(value, delta) for value, delta in losses.items()}
    for node in graph.body.nodes:
        if node.op != "vjp" or not node.attrs["params"]:
            continue
        signals = node.attrs.get("signals") or (None,) * node.attrs["outputs"]
        for position, output, cotangent in outputs_of(node):
            if cotangent is None:
                continue
            if signals[position] is not None:
                found[signals[position]] = _Root(output, cotangent)
            elif output in taught:
                found[node.id, position] = _Root(output, cotangent)
    return list(found.values())


def _deltas(
    roots: Sequence[_Root], named: Mapping[str, torch.Tensor], found: Mapping[Value, torch.Tensor]
) -> dict[str, torch.Tensor]:
    live = [root for root in roots if found[root.value].requires_grad]
    wanted = [name for name, value in named.items() if value.requires_grad]
    if not live or not wanted:
        return {}
    outputs = [found[root.value] for root in live]
    cotangents = [
        found[root.delta].detach() if isinstance(root.delta, Value) else torch.full_like(output, root.delta)
        for root, output in zip(live, outputs, strict=True)
    ]
    gradients = torch.autograd.grad(outputs, [named[n] for n in wanted], cotangents, allow_unused=True)
    return {name: g for name, g in zip(wanted, gradients, strict=True) if g is not None}


def _with_copies(deltas: dict[str, torch.Tensor], steps: Container[str]) -> dict[str, torch.Tensor]:
    """A value that learns only where a rule runs its task again has the sum of what comes to these runs."""
    more: dict[str, torch.Tensor] = {}
    for name, delta in deltas.items():
        base, at, _ = name.partition("@")
        if (
            at
            and name not in steps
            and base not in deltas
            and (base not in more or more[base].shape == delta.shape)
        ):
            more[base] = more[base] + delta if base in more else delta
    return deltas | more


def _stop_here(name: str, value: torch.Tensor) -> torch.Tensor:
    """Where the debugger opens: ``value`` is the value of ``name``."""
    breakpoint()
    return value


def _insert_breakpoints(graph: torch.fx.Graph, values: set[Value]) -> None:
    for node in list(graph.nodes):
        meta = node.meta.get("r2d2c")
        if meta is not None and Value(meta[0].id, meta[1]) in values:
            with graph.inserting_after(node):
                stop = graph.call_function(_stop_here, (meta[0].id, node))
            node.replace_all_uses_with(stop, delete_user_cb=lambda user, stop=stop: user is not stop)
