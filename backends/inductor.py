"""The inductor backend: torch.compile. Opt-in, since it gains little on a CPU and compiles for minutes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx

from r2d2c.backend import Backend
from r2d2c.lower.codegen import compile_function
from r2d2c.lower.graphs import Lowered, LoweredVisit
from r2d2c.model import Model


def _inference(model: Model, lowered: Lowered) -> Callable[..., dict[str, Any]]:
    compiled: Callable[..., dict[str, Any]] = torch.compile(fx.GraphModule(model, lowered.fx), dynamic=True)
    return compiled


def _visit(model: Model, visit: LoweredVisit) -> Callable[..., tuple[Any, ...]]:
    # A visit takes gradients, which dynamo cannot trace: the graph breaks there and the rest is compiled.
    compiled: Callable[..., tuple[Any, ...]] = torch.compile(
        compile_function(visit.fx, model, f"{model.spec.name} {visit.name}"), dynamic=True
    )
    return compiled


BACKEND = Backend("inductor", "torch.compile with its default backend.", inference=_inference, visit=_visit)
