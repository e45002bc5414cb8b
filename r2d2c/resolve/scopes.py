"""What a name means in each kind of region: behaviors, representatives, losses, teach and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from r2d2c.diagnostics import Sink
from r2d2c.graph import Credit, Link, Loss, Value
from r2d2c.resolve.order import reads, topological
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import Failed, Forbidden, Path
from r2d2c.syntax.spec import Spec, TaskSyntax
from r2d2c.types import Dim, TensorType, symbol


def _sized(types: Iterable[TensorType]) -> frozenset[str]:
    """The run-time dims that are the size of an axis of some port, so that the model knows them when it runs."""
    dims = {dim for type_ in types for dim in type_.dims if isinstance(dim, Dim)}
    return frozenset(s for dim in dims for s in dim.symbols() if dim == symbol(s))


class ModelScopes:
    """Makes the regions of a model's tasks and losses, and remembers what crosses their boundaries."""

    def __init__(self, spec: Spec, main: RegionBuilder, types: Mapping[str, TensorType]) -> None:
        self.spec, self.main = spec, main
        self._sized = _sized([types[p.name] for p in spec.inputs]), _sized(types.values())
        self.inputs = {port.name for port in spec.inputs}
        self.targets = {port.name for port in spec.targets}
        self.tasks = {task.name: task for task in spec.tasks}
        # Builders by region name; a representative's region is `TASK.representative`.
        self.builders: dict[str, RegionBuilder] = {}
        self._losses: dict[str, Loss] = {}
        # Losses that were reported, so that what names them stays silent.
        self.failed_losses: set[str] = set()
        # Regions with a statement that gives nothing a name although it should.
        self.broken: set[str] = set()

    # -- what crosses
    def main_value(self, port: str) -> Value:
        """The value in the main region that a port's name stands for."""
        if port in self.inputs or port in self.targets or self.main.program.states.hidden(port):
            return self.main.port(port)
        if port in self._losses:
            return self._losses[port].value
        task, _, name = port.partition(".")
        region = self._owner(task, name)
        assert region is not None, port
        position = region.expose(name, region.names[name])
        return Value(region.name, position)

    def _owner(self, task: str, name: str) -> RegionBuilder | None:
        for region in (self.builders.get(task), self.builders.get(f"{task}.representative")):
            if region is not None and isinstance(region.own(name), Value):
                return region
        return None

    def failed(self, task: str, name: str) -> bool:
        """Whether a value of a task has been reported, and what reads it stays silent."""
        names = (task, f"{task}.representative")
        regions = [self.builders[n] for n in names if n in self.builders]
        # `r.z` too where `r`, what a loop gives, has failed.
        if any(
            isinstance(region.names.get(n), Failed)
            for region in regions
            for n in (name, name.partition(".")[0])
        ):
            return True
        return not any(name in region.names for region in regions) and any(n in self.broken for n in names)

    def _is_representative(self, task: str, name: str) -> bool:
        region = self.builders.get(f"{task}.representative")
        return region is not None and name in region.names

    def _representative_declares(self, task: str, name: str) -> bool:
        return self._declares(task, name, behaviors=False)

    def _declares(self, task: str, name: str, behaviors: bool) -> bool:
        syntaxes = self.tasks.get(task)
        if syntaxes is None:
            return False
        syntax = syntaxes.behavior if behaviors else syntaxes.representative
        return syntax is not None and any(t[0] == name for s in syntax.statements for t in s.targets)

    def _make(self, name: str, kind: Any, place: str, outside: Any, origin: Any) -> RegionBuilder:
        region = RegionBuilder(self.main.program, name, kind, place, origin=origin)
        region.outside = lambda wanted: outside(region, wanted)
        region.sized = self._sized[0 if kind in ("behavior", "output") else 1]
        self.builders[name] = region
        return region

    # -- regions
    def behavior(self, task: TaskSyntax) -> RegionBuilder:
        def outside(region: RegionBuilder, name: str) -> Any:
            if name == "*":
                return [*self.inputs, *self._value_names(behaviors=True)]
            if name in self.inputs:
                return region.port(name)
            if name in self.targets:
                return Forbidden(
                    "E401",
                    f"the target `{name}` cannot be read by a behavior: it would be missing when the model is used",
                    "read it in the representative or the distance",
                )
            return self._task_value(region, name, task.name, behaviors=True)

        return self._make(task.name, "behavior", task.name, outside, task.span)

    def representative(self, task: TaskSyntax) -> RegionBuilder:
        def outside(region: RegionBuilder, name: str) -> Any:
            if name == "*":
                return [*self.inputs, *self.targets, *self._value_names(behaviors=False)]
            if name in self.inputs or name in self.targets:
                return region.port(name)
            return self._task_value(region, name, task.name, behaviors=False)

        return self._make(f"{task.name}.representative", "representative", task.name, outside, task.span)

    def _task_value(self, region: RegionBuilder, name: str, own: str, behaviors: bool) -> Any:
        task, dot, value = name.partition(".")
        if task not in self.tasks:
            return None
        if not dot:
            return Path(name)
        if self.failed(task, value):
            return Failed()
        unmade = task if behaviors else f"{task}.representative"
        if unmade not in self.builders and task != own and self._declares(task, value, behaviors):
            return Failed()  # tasks that read each other in a circle
        is_representative = self._representative_declares(task, value) and not self._declares(
            task, value, True
        )
        if behaviors and is_representative:
            return Forbidden(
                "E402",
                f"a behavior cannot read the representative `{name}`: it comes from the target",
                f"train on it with `links: {task}.… -> {own}: {{credit: local, feed: {name}}}`",
            )
        if not behaviors and not is_representative and self._owner(task, value) is not None:
            return Forbidden(
                "E403",
                f"a representative cannot read the behavior's value `{name}`: it is made from targets, inputs and other representatives",
                None,
            )
        if self._owner(task, value) is None or (task == own and behaviors):
            return None
        return region.port(name)

    def loss(self, name: str, place: str) -> RegionBuilder:
        own = place if place in self.tasks else None

        def outside(region: RegionBuilder, wanted: str) -> Any:
            if wanted == "*":
                local = [
                    n
                    for r in (own, f"{own}.representative")
                    if r in self.builders
                    for n in self.builders[r].names
                ]
                return [
                    *local,
                    *self.inputs,
                    *self.targets,
                    *self._value_names(True),
                    *self._value_names(False),
                ]
            if own is not None and self._owner(own, wanted) is not None:
                return region.port(f"{own}.{wanted}")
            if own is not None and "." not in wanted and self.failed(own, wanted):
                return Failed()
            if wanted in self.inputs or wanted in self.targets:
                return region.port(wanted)
            task, dot, value = wanted.partition(".")
            if task in self.tasks:
                if not dot:
                    return Path(wanted)
                if self.failed(task, value):
                    return Failed()
                return region.port(wanted) if self._owner(task, value) is not None else None
            return None

        return self._make(name, "loss", place, outside, None)

    def teach(self, task: str, losses: dict[str, Loss]) -> RegionBuilder:
        self._losses = losses

        def outside(region: RegionBuilder, wanted: str) -> Any:
            if wanted == "*":
                return list(losses)
            if wanted in self.failed_losses:
                return Failed()
            if wanted in self.tasks and wanted not in losses:
                return Forbidden(
                    "E419",
                    f"`{wanted}` has no distance, so it teaches nothing",
                    "name tasks with a distance, and losses",
                )
            return region.port(wanted) if wanted in losses else None

        return self._make(f"{task}.teach", "teach", f"{task}.teach", outside, None)

    def output(self, name: str) -> RegionBuilder:
        def outside(region: RegionBuilder, wanted: str) -> Any:
            if wanted == "*":
                return [*self.inputs, *self._value_names(behaviors=True)]
            if wanted in self.inputs:
                return region.port(wanted)
            if wanted in self.targets:
                return Forbidden(
                    "E401",
                    f"the target `{wanted}` cannot be part of an output: it is missing when the model is used",
                    None,
                )
            task, dot, value = wanted.partition(".")
            if (
                task in self.tasks
                and dot
                and self._representative_declares(task, value)
                and not self._declares(task, value, True)
            ):
                return Forbidden(
                    "E402",
                    f"the representative `{wanted}` cannot be part of an output: it comes from the target",
                    None,
                )
            return self._task_value(region, wanted, "", behaviors=True)

        return self._make(f"outputs.{name}", "output", f"outputs.{name}", outside, None)

    def credit(self, name: str, origin: Any) -> RegionBuilder:
        """A behavior that an option of a credit rule names: it sees dims, blocks, ops and storage alone."""

        def outside(region: RegionBuilder, wanted: str) -> Any:
            task, _, value = wanted.partition(".")
            if wanted in self.inputs or wanted in self.targets or self._owner(task, value) is not None:
                message = f"`{wanted}` cannot be read here: what an option of a credit rule names is applied to what the rule gives it, and reads nothing else"
                return Forbidden("E201", message, None)
            return None

        return self._make(name, "credit", name, outside, origin)

    # -- queries
    def direct(self, result: Any) -> Value | None:
        """The main region's value of an output that is just a task's value."""
        if not isinstance(result, Path):
            return None
        task, _, value = result.name.partition(".")
        if task not in self.tasks or self._owner(task, value) is None or self._is_representative(task, value):
            return None
        return self.main_value(result.name)

    def _value_names(self, behaviors: bool) -> list[str]:
        names = []
        for task in self.tasks:
            region = self.builders.get(task if behaviors else f"{task}.representative")
            names += [f"{task}.{name}" for name in region.defined] if region is not None else []
        return names

    def representative_names(self) -> list[str]:
        return self._value_names(behaviors=False)

    def representative_value(self, name: str) -> tuple[Value, str] | None:
        task, _, value = name.partition(".")
        if not self._is_representative(task, value) or self._owner(task, value) is None:
            return None
        return self.main_value(name), task

    def representative_order(self, sink: Sink) -> list[str]:
        names = list(self.tasks)
        edges = {}
        for task in self.tasks.values():
            found = reads(task.representative, names)
            found.pop(task.name, None)
            edges[task.name] = found
        return topological(edges, "representatives", sink)

    def links(self, default: Credit) -> list[tuple[Link, str]]:
        """An edge for every value of a task that another task's behavior reads, with the value's name."""
        found = []
        for name in self.tasks:
            region = self.builders.get(name)
            for position, port in enumerate(region.inputs if region is not None else ()):
                source, dot, _ = port.name.partition(".")
                if dot:
                    link = Link(source, self.main_value(port.name), name, position, default)
                    found.append((link, port.name))
        return found
