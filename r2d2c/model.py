"""`Model`: a compiled spec as an nn.Module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx as fx

from r2d2c.backend import find_backend
from r2d2c.compiled import CompiledSpec
from r2d2c.graph import Graph, Value, Visit
from r2d2c.inputs import (
    check_ranges,
    complete,
    explain,
    split_arguments,
    state_of,
    takes_ports,
    with_state,
)
from r2d2c.lower.builder import identifier
from r2d2c.lower.graphs import (
    LoweredVisit,
    TrainingLowering,
    forward_only,
    lower_forward,
)
from r2d2c.lower.processes import learn_together, shares_of
from r2d2c.lower.rows import drawing
from r2d2c.pause import paused_collector
from r2d2c.wiring import Matrix, wiring

Tensors = dict[str, torch.Tensor]


@dataclass(slots=True)
class Step:
    """What one learning pass gives.

    losses: unweighted scalars by name. outputs: what the tasks made of this pass, in training mode; below a link with
    `feed` they come from the representative, so metrics of the composed model are those of ``model(x=x)``.
    state: what the model keeps, by the names of the carries; nothing of one that keeps none.
    """

    losses: Tensors
    outputs: Tensors
    state: Tensors = field(default_factory=dict)


@dataclass(slots=True)
class VisitResult:
    """One visit of a learning pass. ``finished``: the parameters that may be updated now.

    state: after the last visit, that of a model which has one.
    """

    name: str
    losses: Tensors
    finished: tuple[str, ...]
    tasks: tuple[str, ...]
    state: Tensors = field(default_factory=dict)


@dataclass(slots=True)
class Trace:
    """Every value and every δ (the gradient of the weighted losses there) by its name in the spec."""

    values: Tensors
    deltas: Tensors
    losses: Tensors


@dataclass(frozen=True, slots=True)
class _Visit:
    """A visit ready to run. freed: the values that no later visit reads."""

    plan: Visit
    run: Callable[..., Any]
    lowered: LoweredVisit
    freed: tuple[Value, ...]
    losses: tuple[tuple[str, Value], ...]


class Model(CompiledSpec):
    """A compiled spec. ``model(x=x)`` runs the composed model; ``model.learn(x=x, y=y)`` adds to every ``.grad``."""

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"<Model {self._spec.name}: {len(self.graph.tasks)} tasks, {count:,} parameters>"

    def _repr_html_(self) -> str:
        from r2d2c.html import model_html

        return model_html(self._spec)

    # -- inference
    def forward(self, **inputs: Any) -> dict[str, Any]:
        """The composed model: no representative, no target. Inputs by name; outputs by name.

        A model with a state takes one as ``state``, what an earlier call gave as ``state`` beside its outputs; samples
        of which ``reset`` (bool[B]) is true start anew, as all do without one. No gradient goes into a state.
        """
        graph = self.graph
        if graph.ranges:
            check_ranges(self._spec.name, graph, inputs)
        if graph.arguments:
            inputs = self._with_arguments(inputs)
        plan = self._plan
        if plan is not None and takes_ports(plan, inputs):
            plan = None
        if plan is not None:
            inputs = complete(plan, inputs, self._float)
        run = self._compiled.get("inference")
        if run is None:
            with paused_collector():
                run = self._compiled["inference"] = self._backend.inference(self, self._inference_lowered)
        try:
            outputs = run(**inputs)
        except (TypeError, RuntimeError, IndexError) as error:
            self._explain(inputs, self._inference_graph, error)
            raise
        return outputs if plan is None else with_state(plan, outputs, self._float)

    def _split(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return split_arguments(self._spec.name, self.graph, given)

    def _with_arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        rest, found = self._split(inputs)
        return {**rest, **{name: found[name] for name in self._inference_lowered.arguments}}

    def _complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a call gives, with a tensor for every port of the state."""
        return dict(given) if self._plan is None else complete(self._plan, given, self._float)

    def _explain(self, given: Mapping[str, Any], graph: Graph, error: Exception) -> None:
        explain(self._spec.name, graph, given, self.graph.arguments, self._float, error)

    # -- learning
    def _visits(self, outputs: bool = True) -> list[_Visit]:
        """outputs: whether to compute those too that learning has no need of."""
        skip = self._skipped()
        shares = shares_of(self, skip)
        made: list[_Visit] | None = self._compiled.get(("visits", skip, outputs, shares is None))
        if made is None:
            if self._backend.visit is None:
                raise TypeError(f"the backend `{self._backend.name}` is for inference only")
            graph = self._training_graph_without(skip) if skip else self._training_graph
            with paused_collector():
                # Backwards that are written out would leave parameters gradients of as few bits as their products.
                plain = self._precision == "f32"
                lowering = TrainingLowering(graph, self._spec.ops, self._float, plain, self._scaler, shares)
                lowered = lowering.visits(outputs)
            last = {value: k for k, visit in enumerate(lowered) for value in visit.reads}
            keep = set(self._result_values(outputs))
            made = []
            for k, (visit, plan) in enumerate(zip(lowered, graph.visits, strict=True)):
                freed = tuple(v for v in visit.reads if last[v] == k and v not in keep)
                losses = tuple(
                    (name, graph.losses[name].value) for name in plan.losses if name in graph.losses
                )
                made.append(_Visit(plan, self._backend.visit(self, visit), visit, freed, losses))
            self._compiled["visits", skip, outputs, shares is None] = made
        return made

    def _result_values(self, outputs: bool) -> list[Value]:
        graph = self._training_graph
        found = [loss.value for loss in graph.losses.values()]
        return [*found, *(p.value for p in graph.body.outputs if outputs or p.name in graph.hidden)]

    def visits(self, **batch: Any) -> Iterator[VisitResult]:
        """A learning pass visit by visit, for updates in between: after each, its ``finished`` parameters may change."""
        yield from self._run(batch, {}, False)

    def _run(
        self, batch: Mapping[str, torch.Tensor], slots: dict[Value, Any], outputs: bool
    ) -> Iterator[VisitResult]:
        graph = self._training_graph
        batch, numbers = self._split(batch) if graph.arguments else (batch, {})
        batch = self._check_batch(batch, graph)
        for port in graph.body.inputs:
            slots[port.value] = batch[port.name]
        visits = self._visits(outputs)
        rng, around = drawing(self._share, graph, self._step, self._compiled)
        # As `self._step += 1`, without the search through all kinds of attributes that nn.Module makes of it.
        self.__dict__["_step"] += 1
        for visit in visits:
            lowered = visit.lowered
            arguments = [slots[value] for value in lowered.reads]
            for value in visit.freed:
                del slots[value]
            if lowered.random:
                arguments.append(rng)
            if lowered.arguments:
                arguments.extend(numbers[name] for name in lowered.arguments)
            try:
                if torch.is_grad_enabled() and around is None:
                    results = visit.run(*arguments)
                else:
                    with torch.enable_grad(), around or torch.enable_grad():
                        results = visit.run(*arguments)
            except RuntimeError as error:
                self._explain(batch, graph, error)
                self._explain_frozen(error)
                raise
            del arguments
            slots.update(zip(lowered.writes, results, strict=True))
            del results
            losses = {name: slots[value].detach() for name, value in visit.losses}
            plan = visit.plan
            state = self._state(slots) if visit is visits[-1] else {}
            yield VisitResult(plan.name, losses, plan.finished, plan.tasks, state)

    def _state(self, slots: Mapping[Value, Any]) -> Tensors:
        if self._plan is None:
            return {}
        outputs = self._training_graph.body.outputs
        hidden = {p.name: slots[p.value] for p in outputs if p.name in self._plan.hidden}
        return state_of(self._plan, hidden, self._float)

    def _check_batch(self, batch: Mapping[str, Any], graph: Graph) -> Mapping[str, Any]:
        """The batch, with the state."""
        if self._plan is not None:
            batch = self._complete(batch)
        if graph.ranges:
            check_ranges(self._spec.name, graph, batch)
        if batch.keys() != {port.name for port in graph.body.inputs}:
            self._explain(batch, graph, TypeError("wrong inputs"))
        return batch

    def _explain_frozen(self, error: Exception) -> None:
        frozen = [name for name, p in self.named_parameters() if not p.requires_grad]
        if frozen:
            raise TypeError(
                f"{frozen[0]} has requires_grad=False, and the spec trains it: write `frozen=true` in the spec instead"
            ) from error

    def learn(self, **batch: Any) -> Step:
        """One learning pass: adds to every ``.grad`` as the wiring says, as ``backward()`` does.

        Under torch.distributed each process gives its rows of a batch, and the gradients (and losses) of all of them are
        those of the whole batch.
        """
        slots: dict[Value, Any] = {}
        losses: Tensors = {}
        with learn_together(self, batch, losses):
            for result in self._run(batch, slots, True):
                losses.update(result.losses)
        graph = self._training_graph
        shown = [port for port in graph.body.outputs if port.name not in graph.hidden]
        outputs = {port.name: slots[port.value].detach() for port in shown}
        return Step(losses, outputs, self._state(slots))

    @property
    def _forward_losses(self) -> list[str]:
        """The losses that need no gradient to be computed."""
        graph = self._training_graph
        made = forward_only(graph)
        return [name for name, loss in graph.losses.items() if loss.value.node in made]

    def losses(self, **batch: Any) -> Tensors:
        """The losses of a batch, without gradients and as the model is used: no dropout, running statistics.

        Losses that credit rules made from gradients, such as that of a synthetic predictor, are left out.
        """
        graph = self._training_graph
        given, numbers = self._split(batch)
        given = dict(self._check_batch(given, graph))
        if "losses" not in self._compiled:
            wanted = [(name, graph.losses[name].value) for name in self._forward_losses]
            lowered = lower_forward(graph, self._spec.ops, wanted, False, self._float)
            visit = LoweredVisit(lowered.fx, "losses", (), (), False)
            compile_visit = self._backend.visit or find_backend("eager").visit
            assert compile_visit is not None
            self._compiled["losses"] = (lowered, compile_visit(self, visit))
        lowered, run = self._compiled["losses"]
        with torch.no_grad():
            results = run(
                *(given[name] for name in lowered.inputs), *(numbers[name] for name in lowered.arguments)
            )
        return dict(zip(lowered.outputs, results, strict=True))

    # -- looking inside
    def wiring(self) -> Matrix:
        """``{loss: {parameter: "gradient" | "rule:…" | "plastic" | None}}``, from the graph alone."""
        trained = {n: row for n, row in self._storage.items() if row.kind == "param"}
        losses = {**self.graph.losses, **self._training_graph.losses}
        return wiring(self._training_graph, self._spec.ops, losses, trained)

    @property
    def graphs(self) -> dict[str, fx.GraphModule]:
        """The inference and the training graph as torch.fx GraphModules over this model's parameters."""
        return {"inference": self._graph_module("inference"), "training": self._graph_module("training")}

    def _graph_module(self, which: str) -> fx.GraphModule:
        if which == "inference":
            graph = self._inference_lowered.fx
        else:
            graph = TrainingLowering(self._training_graph, self._spec.ops, self._float).whole().fx
        return fx.GraphModule(self, graph, f"{identifier(self._spec.name)}_{which}")

    def trace(self, *, breakpoints: tuple[str, ...] = (), **batch: Any) -> Trace:
        """Every value and every δ by its name in the spec. At a name in ``breakpoints`` the debugger opens."""
        from r2d2c.tracing import trace

        return trace(self, batch, breakpoints)
