"""Backward as nodes: `vjp`, `accumulate` and `update`, by the equations of the design (§3).

Works on the flat training graph. With L_j the weighted losses, θ the parameters of behaviors, ỹ_i the representatives
(which enter losses as leaves a_i), and (h_k, δ_k) the signals of credit rules:

    θ   accumulates  Σ_j ∂L_j/∂θ + Σ_k δ_kᵀ·∂h_k/∂θ
    φ_i accumulates  G_i·∂ỹ_i/∂φ_i   with   G_i = Σ_j c_ij ∂L_j/∂a_i   and   c_ij = ∂d_i/∂L_j
    gradient(a) is   Σ_j ∂L_j/∂a + Σ_k δ_kᵀ·∂h_k/∂a   for the leaf a of a link

``merge=False`` writes this down root by root: the definition. ``merge=True`` joins what may be joined into one pass
a visit: all roots there, and those ∂L_j/∂a_i whose c_ij are 1 for every loss of the visit that reaches a_i.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from r2d2c.graph import Graph, Node, Region, Value, Visit
from r2d2c.ops.record import Op
from r2d2c.passes.gradients import Gradients, release
from r2d2c.passes.reach import Reach
from r2d2c.passes.representatives import Representative, dynamic_coefficients, find_representatives
from r2d2c.passes.schedule import Event, Root, schedule
from r2d2c.passes.teach import mentioned
from r2d2c.passes.updates import add_updates


class Backward:
    """The pass. ``skip``: losses that do not train in this learning pass; their visits stay, empty."""

    def __init__(
        self,
        graph: Graph,
        ops: Mapping[str, Op],
        teach: Mapping[str, Region],
        merge: bool = True,
        skip: Collection[str] = (),
    ) -> None:
        self.graph, self.ops, self.teach, self.merge, self.skip = graph, ops, teach, merge, frozenset(skip)
        self.rank = {name: number for number, name in enumerate(graph.storage)}
        self.nodes = {node.id: node for node in graph.body.nodes}

    def run(self) -> Graph:
        graph = self.graph
        self.reach = Reach(graph, self.ops)
        roots = [*self._losses(), *self._signals(), *self._plastic()]
        self.cones = {root.name: root.cone for root in roots}
        self.representatives = find_representatives(graph, self.reach, roots, self.teach)
        nonlinear = [
            [*r.reached, *mentioned(self.teach[r.task])]
            for r in self.representatives
            if r.coefficients is None
        ]
        together = [list(dict.fromkeys(n for n in names if n in self.cones)) for names in nonlinear]
        plan = schedule(graph, roots, together, self.merge)
        self.group, self.events = plan.group, plan.events
        self.used: set[str] = set()
        for event in self.events:
            event.roots = [root for root in event.roots if root.name not in self.skip]
        if self.skip:
            self._forget_what_is_skipped()
        self.out = Gradients(graph, len(self.events))
        self.copies: dict[tuple[Value, str], Value] = {}
        self.replaced: dict[Value, Value] = {}
        self._assign_leaves()
        last_taught = self._last_taught()
        for number, event in enumerate(self.events):
            self._forward(number, event)
            self._backward(number, event)
            self._teach(number, [r for r, last in last_taught if last == number])
        return self._finish()

    # -- what learning starts from
    def _losses(self) -> Iterable[Root]:
        for name, loss in self.graph.losses.items():
            shown = (loss.value,) if loss.root != loss.value else ()
            cotangent = loss.weight if loss.closed is None else loss.closed[1]
            # A loss of weight 0 is measured and trains nothing: what it costs is its forward.
            cone = self.reach.cone([loss.root] if loss.weight else [])
            yield Root(name, loss.root, cotangent, cone, True, shown)

    def _signals(self) -> Iterable[Root]:
        for node in self.graph.body.nodes:
            if node.op == "signal":
                value, delta = node.inputs
                assert value is not None and delta is not None
                yield Root(node.id, value, delta, self.reach.cone([value]), rule=node.attrs["rule"])

    def _plastic(self) -> Iterable[Root]:
        found: dict[str, list[Node]] = {}
        for node in self.graph.body.nodes:
            if node.op in ("accumulate", "update"):
                found.setdefault(node.attrs["link"], []).append(node)
        for link, nodes in found.items():
            yield Root(link, None, 1.0, self.reach.cone([]), plastic=tuple(nodes))

    def _forget_what_is_skipped(self) -> None:
        """Leave out the nodes that only skipped losses need."""
        wanted = [value for event in self.events for root in event.roots for value in root.needs]
        wanted += [port.value for port in self.graph.body.outputs]
        wanted += [loss.value for loss in self.graph.losses.values() if loss.every == 1]
        needed: set[str] = set()
        stack = [value.node for value in wanted]
        while stack:
            id_ = stack.pop()
            if id_ not in needed:
                needed.add(id_)
                stack.extend([v.node for v in self.nodes[id_].inputs if v is not None])
        for event in self.events:
            event.nodes = [node for node in event.nodes if node.id in needed]

    # -- leaves
    def _assign_leaves(self) -> None:
        """One leaf a group, so that what each backward leaves there is a value of its own."""
        self.wanted = {
            node.inputs[0] for event in self.events for node in event.nodes if node.op == "gradient"
        }
        leaves = {r.leaf for r in self.representatives} | self.wanted
        first: dict[Value, str] = {}
        for number, event in enumerate(self.events):
            for node in event.nodes:
                group = self.group.get(node.id)
                for value in node.inputs:
                    if value not in leaves or value is None or group is None:
                        continue
                    if first.setdefault(value, group) != group and (value, group) not in self.copies:
                        self.copies[value, group] = Value(f"{value.node}@{number}")

    def _copies_of(self, leaf: Value, groups: Collection[str] | None = None) -> list[Value]:
        """A leaf and its copies; of certain groups only those that they read."""
        copies = [
            copy
            for (of, group), copy in self.copies.items()
            if of == leaf and (groups is None or group in groups)
        ]
        if groups is not None and copies and all((leaf, group) in self.copies for group in groups):
            return copies
        return [leaf, *copies]

    # -- forward
    def _forward(self, number: int, event: Event) -> None:
        emitted, made = self.out.emitted[number], set[Value]()
        for node in event.nodes:
            if node.op == "gradient":
                self._gradient(number, node)
                continue
            inputs, group = node.inputs, self.group.get(node.id, "")
            for value in inputs:
                copy = self.copies.get((value, group)) if value is not None else None
                if copy is not None and copy not in made and copy not in self.out.types:
                    made.add(copy)
                    original = self.nodes[value.node]  # type: ignore[union-attr]
                    given = tuple(self.replaced.get(v, v) if v is not None else None for v in original.inputs)
                    emitted.append(replace(original, id=copy.node, inputs=given))
                    self.out.types[copy] = self.out.types[value]  # type: ignore[index]
            if self.copies or self.replaced:
                found = tuple(
                    None if v is None else self.copies.get((v, group)) or self.replaced.get(v, v)
                    for v in inputs
                )
                if found != inputs:
                    node = replace(node, inputs=found)
            if node.op == "vjp":
                self.used.add(node.id)
            emitted.append(node)

    def _gradient(self, number: int, node: Node) -> None:
        """A `gradient` node is what the backward passes have left at its leaf."""
        leaf = node.inputs[0]
        assert leaf is not None
        parts = [part for copy in self._copies_of(leaf) for part in self.out.parts.get(copy, [])]
        value = Value(node.id)
        if parts:
            self.replaced[value] = self.out.sum(number, f"G({node.id})", parts, self.out.types[leaf])
            return
        zero = self.out.number(number, f"{node.id}.zero", 0.0)
        (self.replaced[value],) = self.out.add(
            number, node.id, "mul", (leaf, zero), {}, ("G",), [self.out.types[leaf]]
        )

    def _value(self, value: Value) -> Value:
        return self.replaced.get(value, value)

    # -- backward
    def _sorted(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=self.rank.__getitem__)

    def _wanted_leaves(self, roots: Sequence[Root]) -> list[Value]:
        """The link leaves whose gradient somebody asks for and that roots reach."""
        found: dict[Value, None] = {}
        for root in roots:
            for leaf in sorted(root.cone.leaves & self.wanted):
                for copy in self._copies_of(leaf, {self._group_of(root)}):
                    found[copy] = None
        return list(found)

    def _group_of(self, root: Root) -> str:
        assert root.value is not None
        return self.group.get(root.value.node, "")

    def _backward(self, visit: int, event: Event) -> None:
        live = [r for r in event.roots if r.value is not None and (r.cone.params or r.cone.leaves)]
        joined: list[Representative] = []
        for r in self.representatives:
            here = [root for root in live if root.name in r.reached]
            if not here or not r.cone.params:
                continue
            whole = r.coefficients is not None and all(r.coefficients.get(root.name) == 1.0 for root in here)
            if whole and self.merge:
                joined.append(r)
            else:
                self._weighted(visit, r, here)
        for roots in [live] if self.merge else [[root] for root in live]:
            params = self._sorted(set().union(*(root.cone.params for root in roots)))
            wrt = [leaf for r in joined for leaf in self._leaves_in(r, roots)]
            wrt += self._wanted_leaves(roots)
            if params or wrt:
                values = [root.value for root in roots if root.value is not None]
                cotangents = [self._cotangent(root) for root in roots]
                name = f"vjp({title(roots)})"
                signals = tuple((root.name, root.rule) if not root.loss else None for root in roots)
                self.out.vjp(visit, name, values, cotangents, params, wrt, not self.merge, signals)
        for root in event.roots:
            self.out.emitted[visit] += [
                replace(n, inputs=tuple(self._value(v) for v in n.inputs if v is not None))
                for n in root.plastic
            ]

    def _cotangent(self, root: Root) -> Value | float:
        return self._value(root.cotangent) if isinstance(root.cotangent, Value) else root.cotangent

    def _leaves_in(self, r: Representative, roots: Sequence[Root]) -> list[Value]:
        groups = {self._group_of(root) for root in roots if r.leaf in root.cone.leaves}
        return self._copies_of(r.leaf, groups) if groups else []

    def _weighted(self, visit: int, r: Representative, here: Sequence[Root]) -> None:
        """The gradients at a representative's leaf, root by root, each times its coefficient."""
        dynamic: dict[str, Value] = {}
        if r.coefficients is None:
            dynamic = dynamic_coefficients(self.out, visit, r, self.teach[r.task])
        for root in here:
            cotangent: Value | float
            if r.coefficients is None:
                if root.name not in dynamic:
                    continue
                cotangent = dynamic[root.name]
            elif root.name not in r.coefficients:
                continue
            elif isinstance(root.cotangent, Value):
                name = f"vjp({root.name} wrt {r.leaf.node}).cotangent"
                given = self._value(root.cotangent)
                cotangent = self.out.times(visit, name, given, r.coefficients[root.name], "c")
            else:
                cotangent = r.coefficients[root.name] * root.cotangent
            assert root.value is not None
            name = f"vjp({root.name} wrt {r.leaf.node})"
            self.out.vjp(visit, name, [root.value], [cotangent], [], self._leaves_in(r, [root]), True)

    # -- representatives
    def _last_taught(self) -> list[tuple[Representative, int]]:
        """Representatives with the visit of the last loss that teaches them."""
        number = {root.name: k for k, event in enumerate(self.events) for root in event.roots}
        found = []
        for r in self.representatives:
            teachers = r.reached if r.coefficients is None else list(r.coefficients)
            visits = [number[name] for name in teachers if name in number]
            if visits and r.cone.params:
                found.append((r, max(visits)))
        return found

    def _teach(self, visit: int, ready: list[Representative]) -> None:
        outputs: list[Value] = []
        cotangents: list[Value | float] = []
        params: set[str] = set()
        for r in ready:
            parts = [part for leaf in self._copies_of(r.leaf) for part in self.out.parts.get(leaf, [])]
            if not parts:
                continue
            total = self.out.sum(visit, f"G({r.leaf.node})", parts, self.out.types[r.leaf])
            outputs.append(r.value)
            cotangents.append(total)
            params |= r.cone.params
            if not self.merge:
                name = f"vjp({r.value.node})_{r.leaf.node}"
                self.out.vjp(visit, name, [r.value], [total], self._sorted(r.cone.params), [], True)
        if outputs and self.merge:
            name = f"vjp({' + '.join(sorted({r.task for r in ready}))}.representative)_{visit}"
            self.out.vjp(visit, name, outputs, cotangents, self._sorted(params), [], False)

    # -- the result
    def _finish(self) -> Graph:
        graph, main = self.graph, self.graph.body
        emitted = self.out.emitted
        ports = [node for node in main.nodes if node.op == "port"]
        flat = [*ports, *(node for nodes in emitted for node in nodes if node.op != "port")]
        region = Region(main.name, main.kind, main.inputs, main.outputs, tuple(flat), main.origin)
        made = graph.with_(regions={**graph.steps, main.name: region}, types=self.out.types)
        reach = Reach(made, self.ops)
        if self.merge:
            emitted = release(emitted, reach)
        finished = add_updates(emitted, flat, graph, self.ops, reach)
        visits, every = [], list(ports)
        for event, nodes, done in zip(self.events, emitted, finished, strict=True):
            body = [node for node in nodes if node.op != "port"]
            every += body
            names = tuple(root.name for root in event.roots if root.loss)
            owners = [self.graph.losses[name].owner for name in names]
            tasks = tuple(dict.fromkeys(owner for owner in owners if owner))
            visits.append(
                Visit(title(event.roots) or "forward", tuple(n.id for n in body), tasks, names, done)
            )
        region = Region(main.name, main.kind, main.inputs, main.outputs, tuple(every), main.origin)
        read = {n.attrs["storage"] for n in every if n.op == "param"}
        storage = {name: row for name, row in graph.storage.items() if name in read}
        losses = {
            name: loss.mapped(self._value) for name, loss in graph.losses.items() if name not in self.skip
        }
        return graph.with_(
            regions={**graph.steps, main.name: region},
            types=self.out.types,
            visits=tuple(visits),
            storage=storage,
            losses=losses,
        )


def title(roots: Sequence[Root]) -> str:
    """The name of a backward pass; of many signals, the first and the last."""
    names = [root.name for root in roots]
    if len(names) > 3 and not any(root.loss for root in roots):
        names = [names[0], "…", names[-1]]
    return " + ".join(names)
