"""The inductor backend: torch.compile. Opt-in, since it gains little on a CPU and compiles for minutes.

Inference is compiled whole. Of a visit, the stretches of plain forward operations are compiled, each as one
differentiable function; what lies between them (leaves, backward, random numbers, updates, feedback) runs eagerly,
since dynamo cannot trace calls of the autograd engine, nor see its nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch.fx.passes.split_module import split_module

from r2d2c.backend import Backend
from r2d2c.lower.graphs import Lowered, LoweredVisit, accumulate
from r2d2c.lower.loops import LoopCall
from r2d2c.model import Model
from r2d2c.ops import functions

_EAGER_FUNCTIONS = (torch.autograd.backward, torch.autograd.grad, accumulate, getattr)
_OP_GRAPHS = "r2d2c.lower.opgraph_call"
_AFFIX = "r2d2c_part"
_PART = f"submod_{_AFFIX}_"
_EAGER_METHODS = ("detach", "requires_grad_", "copy_", "generator")


def _inference(model: Model, lowered: Lowered) -> Callable[..., dict[str, Any]]:
    _keep_eager(lowered.fx)
    compiled: Callable[..., dict[str, Any]] = torch.compile(fx.GraphModule(model, lowered.fx), dynamic=True)
    return compiled


def _visit(model: Model, visit: LoweredVisit) -> Callable[..., tuple[Any, ...]]:
    _keep_eager(visit.fx)
    whole = fx.GraphModule(model, visit.fx)
    passes = _passes_through(whole.graph)
    stretch: dict[fx.Node, int] = {}
    compiled: set[int] = set()
    drawn: set[fx.Node] = set()
    current, before = 0, frozenset[fx.Node]()
    for node in whole.graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        here = frozenset() if _runs_eagerly(node, drawn) else passes.get(node, frozenset())
        if here != before:
            current, before = current + 1, here
        if here:
            compiled.add(current)
        stretch[node] = current
    split = split_module(whole, model, lambda node: stretch.get(node, 0), partition_affix=_AFFIX)
    for name, part in list(split.named_children()):
        if name.startswith(_PART) and int(name.removeprefix(_PART)) in compiled:
            setattr(split, name, torch.compile(part, dynamic=True))
    run: Callable[..., tuple[Any, ...]] = split
    return run


def _keep_eager(graph: fx.Graph) -> None:
    """Let dynamo stop at op graphs: what they compute is in a table that changes, and their engine compiles nothing."""
    for node in graph.nodes:
        if isinstance(node.target, LoopCall):
            _keep_eager(node.target.fx)
        elif node.op == "call_function" and getattr(node.target, "__module__", "") == _OP_GRAPHS:
            node.target = torch.compiler.disable(node.target)


def _passes_through(graph: fx.Graph) -> dict[fx.Node, frozenset[fx.Node]]:
    """The backward passes of this visit that go through each node.

    A compiled stretch is one function to autograd, whose saved values the first backward through it frees; so only
    nodes that the same passes go through may share one. A node that none goes through here (a representative that a
    later visit teaches) stays eager.
    """
    found: dict[fx.Node, set[fx.Node]] = {}
    for call in graph.nodes:
        if call.op != "call_function" or call.target not in (torch.autograd.backward, torch.autograd.grad):
            continue
        stack = [value for value in call.args[0] if isinstance(value, fx.Node)]
        seen: set[fx.Node] = set()
        while stack:
            node = stack.pop()
            if node in seen or (node.op == "call_method" and node.target == "detach"):
                continue
            seen.add(node)
            found.setdefault(node, set()).add(call)
            stack.extend(node.all_input_nodes)
    return {node: frozenset(calls) for node, calls in found.items()}


def _runs_eagerly(node: fx.Node, drawn: set[fx.Node]) -> bool:
    """Whether a node cannot be compiled, or takes a random generator. ``drawn`` collects the generators."""
    if node.op == "call_method" and node.target == "generator":
        drawn.add(node)
    return (
        (node.op == "call_function" and node.target in _EAGER_FUNCTIONS)
        or getattr(node.target, "__module__", None) == functions.__name__
        or (node.op == "call_method" and node.target in _EAGER_METHODS)
        or not drawn.isdisjoint(node.all_input_nodes)
    )


BACKEND = Backend("inductor", "torch.compile with its default backend.", inference=_inference, visit=_visit)
