"""`Model.trace`: a learning pass with every value and every δ kept by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from r2d2c.graph import Node, Value
from r2d2c.lower.graphs import lower_forward
from r2d2c.lower.init import Rng
from r2d2c.passes.inline import prune

if TYPE_CHECKING:
    from r2d2c.model import Model, Trace


def value_name(node: Node, port: int) -> str | None:
    """The name in the spec of a node's value: ``encode.h``, or its place for a value without a name."""
    if node.op in ("param", "constant", "size", "vjp", "accumulate", "update"):
        return None
    if node.op == "port":
        return str(node.attrs["name"])
    base, dot, last = node.id.rpartition(".")
    name = node.outputs[port]
    if dot and base.endswith(f".{name}") and not last.startswith(name):
        return base
    return node.id if len(node.outputs) == 1 else f"{node.id}.{name}"


def trace(model: Model, batch: Mapping[str, torch.Tensor], breakpoints: tuple[str, ...]) -> Trace:
    """Run the forward part of the training graph, then take every δ in one backward pass."""
    from r2d2c.model import Trace

    graph, ops = model._training_graph, model.spec.ops
    model._check_batch(batch, graph)
    values = [loss.value for loss in graph.losses.values()] + [port.value for port in graph.body.outputs]
    names: dict[str, Value] = {}
    for node in prune(graph.body.nodes, values):
        for port in range(len(node.outputs)):
            name = value_name(node, port)
            if name is not None and Value(node.id, port) in graph.types:
                names[name] = Value(node.id, port)
    unknown = [name for name in breakpoints if name not in names]
    if unknown:
        raise KeyError(f"there is no value `{unknown[0]}` to stop at; there are {', '.join(names)}")
    lowered = lower_forward(graph, ops, list(names.items()), True, model._float)
    if breakpoints:
        _insert_breakpoints(lowered.fx, {names[name] for name in breakpoints})
    arguments: list[object] = [batch[name] for name in lowered.inputs]
    if lowered.random:
        arguments.append(Rng(graph.seed, model._step))
    module = torch.fx.GraphModule(model, lowered.fx)
    with torch.enable_grad():
        found = dict(zip(names, module(*arguments), strict=True))
        losses = {name: found[_name_of(names, loss.value)] for name, loss in graph.losses.items()}
        total = sum(losses[name] * loss.weight for name, loss in graph.losses.items())
        wanted = [name for name, value in found.items() if value.requires_grad]
        deltas: dict[str, torch.Tensor] = {}
        if isinstance(total, torch.Tensor) and total.requires_grad:
            gradients = torch.autograd.grad(total, [found[name] for name in wanted], allow_unused=True)
            deltas = {name: g for name, g in zip(wanted, gradients, strict=True) if g is not None}
    return Trace(
        {n: v.detach() for n, v in found.items()}, deltas, {n: v.detach() for n, v in losses.items()}
    )


def _name_of(names: Mapping[str, Value], value: Value) -> str:
    return next(name for name, candidate in names.items() if candidate == value)


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
