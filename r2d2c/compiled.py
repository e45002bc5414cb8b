"""What a model has: its spec, parameters and buffers by name, and the graphs that are made of the spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self

import torch

from r2d2c.backend import Backend, find_backend
from r2d2c.credit.record import CreditRule
from r2d2c.credit.registry import rules as credit_rules
from r2d2c.driver import Checked
from r2d2c.graph import Graph, Storage
from r2d2c.inputs import plan_state
from r2d2c.lower.graphs import Lowered, lower_inference
from r2d2c.lower.init import initial
from r2d2c.lower.rows import Share
from r2d2c.lower.scaling import Scaler
from r2d2c.passes.inline import inference_graph
from r2d2c.passes.pipeline import PREPARE, run_passes
from r2d2c.passes.training import training_graph
from r2d2c.pause import paused_collector


class CompiledSpec(torch.nn.Module):
    """A spec's parameters and graphs; `r2d2c.model.Model` runs them.

    A copy or a pickle has the spec, the parameters and the count of learning passes: graphs and what a backend compiled
    are derived, and made again where they are needed.
    """

    def __init__(self, checked: Checked, backend: str = "eager") -> None:
        super().__init__()
        self._spec = checked
        self._backend_name = find_backend(backend).name
        self._step = 0
        # Which rows of a batch that several processes learn together; None: all.
        self._share: Share | None = None
        # Whether each of its values is followed to find what couples samples, though nothing seems to.
        self._share_all = False
        self._float = torch.float32
        # Those of a training: see `r2d2c.train.precision`.
        self._precision = "f32"
        self._scaler: Scaler | None = None
        self._plan = plan_state(checked.graph)
        with paused_collector():
            for name, row in self._storage.items():
                tensor = initial(row, checked.graph.seed)
                trained = row.kind == "param"
                self._put(name, torch.nn.Parameter(tensor, requires_grad=trained) if trained else tensor)
        self._compiled: dict[Any, Any] = {}

    def _put(self, name: str, tensor: torch.Tensor) -> None:
        module: torch.nn.Module = self
        *path, last = name.split(".")
        for part in path:
            if part not in module._modules:
                module._modules[part] = torch.nn.Module()
            module = module._modules[part]  # type: ignore[assignment]
        if isinstance(tensor, torch.nn.Parameter):
            module._parameters[last] = tensor
        else:
            module._buffers[last] = tensor

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions hold this module's own dicts, and graphs come from the spec: a copy makes its own.
        derived = ("_training_graph", "_inference_graph", "_storage", "_sometimes")
        return {k: v for k, v in self.__dict__.items() if k not in derived} | {"_compiled": {}}

    @property
    def _backend(self) -> Backend:
        return find_backend(self._backend_name)

    @property
    def spec(self) -> Checked:
        """The checked spec this was compiled from."""
        return self._spec

    @property
    def graph(self) -> Graph:
        """The typed graph."""
        return self._spec.graph

    def _credit_rules(self) -> Mapping[str, CreditRule]:
        return credit_rules(self._spec.rules)

    @cached_property
    def _storage(self) -> Mapping[str, Storage]:
        """The spec's storage, and what its credit rules add."""
        attached = run_passes(PREPARE, self._spec.graph, self._spec.ops, self._credit_rules())
        return attached.storage

    @cached_property
    def _inference_graph(self) -> Graph:
        return inference_graph(self._spec.graph, self._spec.ops)

    @cached_property
    def _training_graph(self) -> Graph:
        return training_graph(self._spec.graph, self._spec.ops, self._credit_rules())

    def _training_graph_without(self, skip: frozenset[str]) -> Graph:
        """The training graph of the learning passes in which some losses (``every=n``) do not train."""
        return training_graph(self._spec.graph, self._spec.ops, self._credit_rules(), skip=skip)

    def _skipped(self) -> frozenset[str]:
        """The losses that do not train in this learning pass."""
        losses = self._training_graph.losses.values()
        if "sometimes" not in self._compiled:
            self._compiled["sometimes"] = [(loss.name, loss.every) for loss in losses if loss.every > 1]
        return frozenset(name for name, every in self._compiled["sometimes"] if self._step % every)

    @cached_property
    def _sometimes(self) -> frozenset[str]:
        """The parameters that only losses with ``every=n`` train."""
        rare = frozenset(name for name, loss in self._training_graph.losses.items() if loss.every > 1)
        if not rare:
            return rare
        trained, always = (
            {node.attrs["storage"] for node in graph.body.nodes if node.op == "accumulate"}
            for graph in (self._training_graph, self._training_graph_without(rare))
        )
        return frozenset(trained - always)

    @property
    def _inference_lowered(self) -> Lowered:
        if "lowered" not in self._compiled:
            self._compiled["lowered"] = lower_inference(self._inference_graph, self._spec.ops, self._float)
        return self._compiled["lowered"]  # type: ignore[no-any-return]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # `.double()`, `.to(torch.bfloat16)`: what the spec calls f32 is now of that dtype, constants too.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._float = fn(torch.empty(0, dtype=self._float)).dtype
        self._compiled = {}  # a backend may hold on to tensors that have been replaced
        return self
