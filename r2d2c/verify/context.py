"""What the checks share: the graph, and what follows from it, computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Loss, Node, Region, Value
from r2d2c.ops.record import Op
from r2d2c.passes.credit import AttachCredit, active_losses
from r2d2c.passes.eprop import cut_recurrence
from r2d2c.passes.inline import flatten
from r2d2c.passes.layers import Rewire, owners_of
from r2d2c.passes.reach import Cone, Reach
from r2d2c.passes.teach import linear_form, mentioned
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.syntax.spec import LinkSyntax, Spec, TaskSyntax


class Check(NamedTuple):
    """One check. ``first``: the later ones cannot run if it reports an error."""

    name: str
    run: Callable[[Context], None]
    first: bool = False


@dataclass(frozen=True, slots=True)
class Pupil:
    """A representative where losses read it, as a leaf of the training graph.

    teachers: the losses and signals whose gradient its parameters get; reached: those that depend on it at all.
    """

    task: str
    leaf: Value
    value: Value
    cone: Cone
    reached: frozenset[str]
    teachers: frozenset[str]


class Context:
    """What a check looks at."""

    def __init__(
        self, graph: Graph, spec: Spec, ops: Mapping[str, Op], rules: Mapping[str, CreditRule], sink: Sink
    ) -> None:
        self.graph, self.spec, self.ops, self.rules, self.sink = graph, spec, ops, rules, sink

    # -- the spec
    @cached_property
    def tasks(self) -> dict[str, TaskSyntax]:
        return {task.name: task for task in self.spec.tasks}

    def representative_name(self, task: str) -> str | None:
        """``encode.r``: what a link would feed, the last value of a representative."""
        syntax = self.tasks[task].representative
        names = syntax.statements[-1].targets if syntax is not None and syntax.statements else ()
        return f"{task}.{names[0][0]}" if names else None

    def link_syntax(self, origin: Span | None) -> LinkSyntax | None:
        """The entry of `links:` that a link got its credit from."""
        return next((entry for entry in self.spec.links if entry.span == origin), None)

    def bodies(self) -> Iterable[tuple[Region, Syntax]]:
        """Every region that was written as statements, with its syntax; of a block, one instance."""
        regions = self.graph.regions
        for task in self.spec.tasks:
            for name, syntax in (
                (task.name, task.behavior),
                (f"{task.name}.representative", task.representative),
            ):
                if syntax is not None and name in regions:
                    yield regions[name], syntax
        for loss in self.spec.losses:
            # What differs between steps or widths of a loop is a region of its own.
            for name in (f"{loss.name}.loss", f"{loss.name}.each"):
                if loss.body is not None and name in regions:
                    yield regions[name], loss.body
        bodies = {block.signature.name: block.body for block in self.spec.blocks}
        for region in list(regions.values()):
            for node in region.nodes:
                if node.op == "call" and node.attrs.get("block") in bodies:
                    yield regions[node.attrs["region"]], bodies.pop(node.attrs["block"])

    # -- the training graph, before its gradients
    @cached_property
    def attached(self) -> Graph:
        return AttachCredit(self.graph, self.rules, self.ops).run()

    @cached_property
    def training(self) -> Graph:
        flat = cut_recurrence(flatten(self.attached))
        return Rewire(flat, self.rules, self.ops, owners_of(self.graph)).run()

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The nodes of the flat training graph."""
        return {node.id: node for node in self.training.body.nodes}

    @cached_property
    def reach(self) -> Reach:
        return Reach(self.training, self.ops)

    @cached_property
    def losses(self) -> dict[str, Loss]:
        """The losses that train, as values of the flat training graph."""
        return dict(self.training.losses)

    @cached_property
    def cones(self) -> dict[str, Cone]:
        """What the gradient of each loss runs through."""
        return {name: self.reach.cone([loss.root]) for name, loss in self.losses.items()}

    @cached_property
    def signals(self) -> dict[str, Cone]:
        """What the δ of each signal of a credit rule runs through; a gradient that nothing sends is no δ."""
        cones, deltas = dict[str, Cone](), dict[str, Node | None]()
        for node in self.training.body.nodes:
            if node.op == "signal" and node.inputs[0] is not None and node.inputs[1] is not None:
                cones[node.id] = self.reach.cone([node.inputs[0]])
                deltas[node.id] = self.nodes.get(node.inputs[1].node)
        gone: set[str] | bool = True
        while gone:
            sent = {leaf for cone in (*self.cones.values(), *cones.values()) for leaf in cone.leaves}
            gone = {
                name
                for name, node in deltas.items()
                if name in cones and node is not None and node.op == "gradient" and node.inputs[0] not in sent
            }
            for name in gone:
                del cones[name]
        return cones

    @cached_property
    def sent(self) -> set[Value]:
        """The leaves that a gradient comes back to."""
        return {leaf for cone in (*self.cones.values(), *self.signals.values()) for leaf in cone.leaves}

    @cached_property
    def plastic(self) -> set[str]:
        """The parameters that change by themselves."""
        return {
            node.attrs["storage"]
            for node in self.training.body.nodes
            if node.op == "accumulate" and "rule" in node.attrs
        }

    @cached_property
    def asked(self) -> set[Value]:
        """The leaves whose gradient a credit rule takes to go on with."""
        found: set[Value] = set()
        for node in self.training.body.nodes:
            if node.op == "gradient":
                found.update(v for v in node.inputs if v is not None)
            elif node.op == "vjp":
                count = node.attrs["outputs"]
                found.update(v for v in node.inputs[count : count + node.attrs["wrt"]] if v is not None)
        return found

    @cached_property
    def dropped(self) -> set[str]:
        """The tasks whose distance does not train, because of the credit of a link."""
        active = active_losses(self.graph, self.rules)
        return {loss.owner for name, loss in self.graph.losses.items() if name not in active and loss.owner}

    @cached_property
    def pupils(self) -> list[Pupil]:
        found = []
        for node in self.training.body.nodes:
            if node.op != "leaf" or node.attrs.get("cut") or node.inputs[0] is None:
                continue
            leaf, task = Value(node.id), node.id.split(".")[0]
            every = {**self.cones, **self.signals}
            reached = frozenset(name for name, cone in every.items() if leaf in cone.leaves)
            teachers = reached
            region = self.graph.tasks[task].teach if task in self.graph.tasks else None
            if region is not None:
                teach = self.graph.regions[region]
                factors = linear_form(teach)
                named = mentioned(teach) if factors is None else [n for n, c in factors.items() if c]
                teachers = reached & frozenset(named)
            cone = self.reach.cone([node.inputs[0]])
            found.append(Pupil(task, leaf, node.inputs[0], cone, reached, teachers))
        return found

    @cached_property
    def trained(self) -> set[str]:
        """The parameters that some loss or credit rule trains."""
        found = set(self.plastic)
        for cone in (*self.cones.values(), *self.signals.values()):
            found |= cone.params
        for pupil in self.pupils:
            if pupil.teachers:
                found |= pupil.cone.params
        return found

    @cached_property
    def live(self) -> set[str]:
        """The nodes of the training graph that a loss, an output or a credit rule needs."""
        wanted = [value for loss in self.losses.values() for value in (loss.value, loss.root)]
        wanted += [port.value for port in self.training.body.outputs]
        for node in self.training.body.nodes:
            if node.op in ("signal", "accumulate", "update"):
                wanted += [v for v in node.inputs if v is not None]
        return self.behind(wanted)

    def behind(self, values: Iterable[Value]) -> set[str]:
        """The nodes of the training graph that values are computed from, whether or not gradients flow."""
        return closure(self.nodes, values)


def closure(nodes: Mapping[str, Node], values: Iterable[Value]) -> set[str]:
    """The nodes that values depend on."""
    found: set[str] = set()
    stack = [value.node for value in values]
    while stack:
        id_ = stack.pop()
        if id_ not in found:
            found.add(id_)
            stack.extend([v.node for v in nodes[id_].inputs if v is not None])
    return found


def listed(names: Iterable[str]) -> str:
    """`` `a`, `b` and `c` ``."""
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}" if first else last
