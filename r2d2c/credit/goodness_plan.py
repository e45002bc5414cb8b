"""What `goodness` finds in a typed graph: whose goodness it is, and where labels and negatives come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from r2d2c.credit.record import Labels
from r2d2c.graph import Graph, Link, Loss, Value
from r2d2c.ops.dims import product
from r2d2c.types import INTEGERS, Dim, DimLike, TensorType

DRAWN = ("uniform", "hard")


@dataclass(frozen=True, slots=True)
class Layer:
    """A value that its goodness trains. name: of the value in its task's behavior."""

    task: str
    value: Value
    name: str
    threshold: float
    link: Link


@dataclass(frozen=True)
class Plan:
    """The goodness links of a graph, and the options that they share: those of the first."""

    graph: Graph
    links: tuple[Link, ...]
    options: Mapping[str, Any]
    thresholds: tuple[float, ...]

    @cached_property
    def pending(self) -> bool:
        """Whether sizes are still to be inferred from data: nothing can be built before."""
        dims = self.graph.dims.values()
        return any(name.startswith("?") for dim in dims if isinstance(dim, Dim) for name in dim.symbols())

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """One for every value that a goodness link starts at."""
        found: dict[Value, Layer] = {}
        for link, threshold in zip(self.links, self.thresholds, strict=True):
            name = self.graph.regions[link.source.node].outputs[link.source.port].name
            found.setdefault(link.source, Layer(link.source_task, link.source, name, threshold, link))
        order = list(self.graph.tasks)
        return tuple(sorted(found.values(), key=lambda layer: order.index(layer.task)))

    @cached_property
    def incoming(self) -> dict[str, list[Link]]:
        """The links by the task they lead to."""
        found: dict[str, list[Link]] = {name: [] for name in self.graph.tasks}
        for link in self.graph.links:
            found[link.target].append(link)
        return found

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the layers and all they read, lower ones first: what runs on both streams."""
        below: set[str] = set()
        stack = [layer.task for layer in self.layers]
        while stack:
            name = stack.pop()
            if name not in below:
                below.add(name)
                stack += [link.source_task for link in self.incoming[name]]
        return tuple(name for name in self.graph.tasks if name in below)

    @cached_property
    def above(self) -> tuple[str, ...]:
        return tuple(name for name in self.graph.tasks if name not in self.tasks)

    # -- ports
    def port(self, name: str) -> Value | None:
        return next((port.value for port in self.graph.body.inputs if port.name == name), None)

    def type(self, value: Value) -> TensorType:
        return self.graph.types[value]

    @property
    def classifies(self) -> bool:
        return bool(self.options["infer"] == "classifier")

    @cached_property
    def negative(self) -> Value | None:
        """The declared stream of negative data."""
        name = self.options["negatives"]
        return None if name in DRAWN else self.port(name)

    @cached_property
    def labels(self) -> Labels | None:
        """The class label to write; None where negative data is declared, or where there is none."""
        if self.negative is not None:
            return None
        wanted = self.options["target"]
        for port in self.graph.body.inputs:
            type_, bound = self.type(port.value), self.graph.bounds.get(port.value)
            if port.name not in self.graph.targets or (wanted is not None and port.name != wanted):
                continue
            if type_.dtype in INTEGERS and type_.rank == 1 and isinstance(bound, int) and bound > 1:
                return Labels(port.value, int(bound))
        return None

    def read(self) -> set[Value]:
        """What the tasks of the streams read."""
        return {v for n in self.graph.body.nodes if n.id in self.tasks for v in n.inputs if v is not None}

    @cached_property
    def candidates(self) -> tuple[str, ...]:
        """The inputs into which a label could be written."""
        read = self.read()
        found = []
        for port in self.graph.body.inputs:
            type_ = self.type(port.value)
            if port.name in self.graph.hidden:
                continue
            if port.name not in self.graph.targets and port.value in read and port.value != self.negative:
                found += [port.name] if type_.floating and type_.rank > 1 else []
        return tuple(found)

    @cached_property
    def input(self) -> Value | None:
        name = self.options["input"]
        if name is not None:
            return self.port(name) if name in self.candidates else None
        return self.port(self.candidates[0]) if len(self.candidates) == 1 else None

    @cached_property
    def batch(self) -> DimLike:
        assert self.input is not None
        return self.type(self.input).dims[0]

    def batched(self, value: Value) -> bool:
        return bool(self.type(value).rank) and self.type(value).dims[0] == self.batch

    @cached_property
    def room(self) -> DimLike:
        """How many numbers of the input a label can take."""
        assert self.input is not None
        return places(self.type(self.input))

    # -- answers
    @cached_property
    def answer(self) -> Value | None:
        """The model's own prediction of the label, ``[B, C]``: an output, else a value of a task above."""
        if self.labels is None or self.input is None:
            return None
        wanted = (self.batch, self.labels.classes)
        values = [port.value for port in self.graph.body.outputs]
        values += [
            Value(n.id, port)
            for n in self.graph.body.nodes
            if n.id in self.above
            for port in range(len(n.outputs))
        ]
        for value in values:
            if value.node in self.above and self.type(value).dims == wanted and self.type(value).floating:
                return value
        return None

    def kept(self) -> dict[str, Loss]:
        """The losses that train beside goodness where no task above is left: `keep: own`, and those of `losses:`."""
        tasks = self.graph.tasks
        return {
            name: loss
            for name, loss in self.graph.losses.items()
            if loss.owner is None or (loss.owner in self.tasks and tasks[loss.owner].keep_own)
        }

    def behind(self, values: Iterable[Value]) -> set[str]:
        """The nodes of the main region that values are computed from."""
        nodes = {node.id: node for node in self.graph.body.nodes}
        found: set[str] = set()
        stack = [value.node for value in values]
        while stack:
            id_ = stack.pop()
            if id_ not in found:
                found.add(id_)
                stack += [v.node for v in nodes[id_].inputs if v is not None]
        return found


def places(type_: TensorType) -> DimLike:
    """The size of the axis that a label is written along: all pixels of a channel, else the last axis."""
    if type_.rank < 4:
        return type_.dims[-1]
    return product(type_.dims[2:])


def plan_of(graph: Graph, links: Sequence[Link], options: Sequence[Mapping[str, Any]]) -> Plan:
    """The plan of a graph's goodness links, given the options of each."""
    return Plan(graph, tuple(links), options[0], tuple(float(o["threshold"]) for o in options))


__all__ = ["DRAWN", "Layer", "Plan", "places", "plan_of", "product"]
