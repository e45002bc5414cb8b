"""The inductor backend: torch.compile. Opt-in, since it gains little on a CPU and compiles for minutes.

Inference is compiled whole. Of a visit, the stretches of plain forward operations are compiled, each as one
differentiable function; what lies between them (leaves, backward, random numbers, updates) runs eagerly, since
dynamo cannot trace a call of the autograd engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch.fx.passes.split_module import split_module

from r2d2c.backend import Backend
from r2d2c.lower.graphs import Lowered, LoweredVisit, accumulate
from r2d2c.model import Model

_EAGER_FUNCTIONS = (torch.autograd.backward, torch.autograd.grad, accumulate, getattr)
_EAGER_METHODS = ("detach", "requires_grad_", "copy_", "generator")


def _inference(model: Model, lowered: Lowered) -> Callable[..., dict[str, Any]]:
    compiled: Callable[..., dict[str, Any]] = torch.compile(fx.GraphModule(model, lowered.fx), dynamic=True)
    return compiled


def _visit(model: Model, visit: LoweredVisit) -> Callable[..., tuple[Any, ...]]:
    whole = fx.GraphModule(model, visit.fx)
    stretch: dict[fx.Node, int] = {}
    eager: set[int] = set()
    drawn: set[fx.Node] = set()
    current, before = 0, False
    for node in whole.graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        here = _runs_eagerly(node, drawn)
        if here != before:
            current, before = current + 1, here
        if here:
            eager.add(current)
        stretch[node] = current
    split = split_module(whole, model, lambda node: stretch.get(node, 0))
    for name, part in split.named_children():
        number = int(name.removeprefix("submod_"))
        if number not in eager:
            setattr(split, name, torch.compile(part, dynamic=True))
    run: Callable[..., tuple[Any, ...]] = split
    return run


def _runs_eagerly(node: fx.Node, drawn: set[fx.Node]) -> bool:
    """Whether a node cannot be compiled, or takes a random generator. ``drawn`` collects the generators."""
    if node.op == "call_method" and node.target == "generator":
        drawn.add(node)
    return (
        (node.op == "call_function" and node.target in _EAGER_FUNCTIONS)
        or (node.op == "call_method" and node.target in _EAGER_METHODS)
        or not drawn.isdisjoint(node.all_input_nodes)
    )


BACKEND = Backend("inductor", "torch.compile with its default backend.", inference=_inference, visit=_visit)
