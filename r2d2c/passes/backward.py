"""Backward as nodes: `vjp`, `accumulate` and `update`, by the equations of the design (§3).

Works on the flat training graph. With L_j the weighted losses, θ the parameters of behaviors and ỹ_i the
representatives (which enter losses as leaves a_i):

    θ   accumulates  Σ_j ∂L_j/∂θ
    φ_i accumulates  G_i·∂ỹ_i/∂φ_i   with   G_i = Σ_j c_ij ∂L_j/∂a_i   and   c_ij = ∂d_i/∂L_j

``merge=False`` writes this down loss by loss: the definition. ``merge=True`` joins what may be joined into one pass
a visit: all ∂L_j/∂θ there, and those ∂L_j/∂a_i whose c_ij are 1 for every loss of the visit that reaches a_i.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from r2d2c.graph import Graph, Node, Region, Value, Visit
from r2d2c.ops.record import Op
from r2d2c.passes.reach import Cone, Reach
from r2d2c.passes.schedule import schedule
from r2d2c.passes.teach import linear_form, mentioned
from r2d2c.passes.updates import add_updates
from r2d2c.source import Span
from r2d2c.types import TensorType


@dataclass(slots=True)
class Representative:
    """A leaf, the value behind it, its gradient's cone, and how much each loss teaches it.

    coefficients: c_ij by loss name; None where `teach` is not linear, and they are values of the graph.
    """

    leaf: Value
    value: Value
    task: str
    cone: Cone
    reached: list[str]
    coefficients: dict[str, float] | None


class Backward:
    """The pass."""

    def __init__(
        self, graph: Graph, ops: Mapping[str, Op], teach: Mapping[str, Region], merge: bool = True
    ) -> None:
        self.graph, self.ops, self.teach, self.merge = graph, ops, teach, merge
        self.types: dict[Value, TensorType] = dict(graph.types)
        self.rank = {name: number for number, name in enumerate(graph.storage)}
        self.forward = list(graph.body.nodes)
        self.emitted: list[list[Node]] = []
        self.parts: dict[Value, list[Value]] = {}
        self._origins: dict[str, Span | None] = {node.id: node.origin for node in self.forward}

    def run(self) -> Graph:
        graph = self.graph
        reach = Reach(graph, self.ops)
        self.cones = {name: reach.cone([loss.value]) for name, loss in graph.losses.items()}
        self.representatives = [
            self._representative(node, reach) for node in self.forward if node.op == "leaf"
        ]
        nonlinear = [
            [*r.reached, *mentioned(self.teach[r.task])]
            for r in self.representatives
            if r.coefficients is None
        ]
        together = [list(dict.fromkeys(n for n in names if n in self.cones)) for names in nonlinear]
        plan = schedule(graph, self.cones, together)
        self.place = plan.place
        self._split_leaves(len(plan.visits))
        count = max(len(plan.visits), 1)
        self.emitted = [[] for _ in range(count)]
        for node in self.forward:
            if node.id in self.place:
                self.emitted[self.place[node.id]].append(node)
        last_taught = self._last_taught()
        for number, losses in enumerate(plan.visits):
            self._backward_of_losses(number, losses)
            self._backward_of_representatives(number, [r for r, last in last_taught if last == number])
        return self._finish(plan.visits)

    # -- representatives
    def _representative(self, node: Node, reach: Reach) -> Representative:
        assert node.inputs[0] is not None
        leaf, task = Value(node.id), node.id.split(".")[0]
        reached = [name for name, cone in self.cones.items() if leaf in cone.leaves]
        cone = reach.cone([node.inputs[0]])
        coefficients: dict[str, float] | None = dict.fromkeys(reached, 1.0)
        if task in self.teach:
            linear = linear_form(self.teach[task])
            coefficients = None if linear is None else {n: c for n, c in linear.items() if n in reached and c}
        return Representative(leaf, node.inputs[0], task, cone, reached, coefficients)

    def _split_leaves(self, visits: int) -> None:
        """One leaf a visit, so that what each visit's backward leaves there is a value of its own."""
        self.copies: dict[tuple[Value, int], Value] = {}
        if visits < 2:
            return
        leaves = {r.leaf for r in self.representatives}
        result: list[Node] = []
        for node in self.forward:
            inputs = node.inputs
            here = self.place.get(node.id)
            if here is not None and any(v in leaves for v in inputs):
                inputs = tuple(self._copy(v, here, result) if v in leaves else v for v in inputs)
                node = replace(node, inputs=inputs)
            result.append(node)
        self.forward = result

    def _copy(self, leaf: Value | None, visit: int, result: list[Node]) -> Value | None:
        if leaf is None or self.place.get(leaf.node) == visit:
            return leaf
        key = (leaf, visit)
        if key not in self.copies:
            original = next(node for node in result if node.id == leaf.node)
            copy = replace(original, id=f"{original.id}@{visit}")
            at = len(result)
            result.insert(at, copy)
            self.place[copy.id] = visit
            self.copies[key] = Value(copy.id)
            self.types[Value(copy.id)] = self.types[leaf]
        return self.copies[key]

    def _last_taught(self) -> list[tuple[Representative, int]]:
        """Representatives with the visit of the last loss that teaches them."""
        number = {name: self.place[self.graph.losses[name].value.node] for name in self.cones}
        found = []
        for r in self.representatives:
            teachers = r.reached if r.coefficients is None else list(r.coefficients)
            if teachers and r.cone.params:
                found.append((r, max(number[name] for name in teachers)))
        return found

    # -- emitting
    def _add(
        self,
        visit: int,
        id_: str,
        op: str,
        inputs: tuple[Value, ...],
        attrs: dict[str, object],
        outputs: tuple[str, ...],
        types: list[TensorType],
    ) -> list[Value]:
        origin = self._origins[id_] = self._origin(inputs)
        self.emitted[visit].append(Node(id_, op, inputs, attrs, outputs, origin))
        values = [Value(id_, port) for port in range(len(outputs))]
        self.types.update(zip(values, types, strict=True))
        return values

    def _origin(self, inputs: tuple[Value, ...]) -> Span | None:
        """A backward node stands where its first input does: at the loss, or at the representative."""
        if not inputs:
            return None
        return self._origins.get(inputs[0].node)

    def _vjp(
        self,
        visit: int,
        id_: str,
        outputs: list[Value],
        cotangents: list[Value] | list[float],
        params: list[str],
        wrt: list[Value],
        retain: bool,
    ) -> None:
        """A `vjp` node; its gradients of ``params`` are accumulated, those of ``wrt`` returned."""
        weights = tuple(c for c in cotangents if isinstance(c, float))
        values = [c for c in cotangents if isinstance(c, Value)]
        attrs: dict[str, object] = {
            "outputs": len(outputs),
            "wrt": len(wrt),
            "params": tuple(params),
            "weights": weights,
            "retain": retain,
        }
        types = []
        for name in params:
            type_ = self.graph.storage[name].type
            assert type_ is not None
            types.append(type_)
        types += [self.types[value] for value in wrt]
        names = (*(f"d({p})" for p in params), *(f"d({v.node})" for v in wrt))
        made = self._add(visit, id_, "vjp", (*outputs, *wrt, *values), attrs, names, types)
        for name, gradient in zip(params, made, strict=False):
            origin = self.graph.storage[name].origin
            self.emitted[visit].append(
                Node(f"accumulate({name})<{id_}", "accumulate", (gradient,), {"storage": name}, (), origin)
            )
        for value, gradient in zip(wrt, made[len(params) :], strict=True):
            self.parts.setdefault(value, []).append(gradient)

    def _leaf_in(self, r: Representative, visit: int) -> Value:
        return self.copies.get((r.leaf, visit), r.leaf)

    def _sorted(self, names: set[str]) -> list[str]:
        return sorted(names, key=self.rank.__getitem__)

    def _backward_of_losses(self, visit: int, losses: tuple[str, ...]) -> None:
        graph = self.graph
        live = [name for name in losses if self.cones[name].params or self.cones[name].leaves]
        joined: list[Representative] = []
        for r in self.representatives:
            here = [name for name in live if name in r.reached]
            if not here or not r.cone.params:
                continue
            if (
                r.coefficients is not None
                and all(r.coefficients.get(name) == 1.0 for name in here)
                and self.merge
            ):
                joined.append(r)
                continue
            dynamic = self._dynamic_coefficients(visit, r) if r.coefficients is None else {}
            for name in here:
                weight, value = graph.losses[name].weight, graph.losses[name].value
                cotangents: list[Value] | list[float]
                if r.coefficients is None:
                    if name not in dynamic:
                        continue
                    cotangents = [dynamic[name]]
                elif name in r.coefficients:
                    cotangents = [r.coefficients[name] * weight]
                else:
                    continue
                self._vjp(
                    visit,
                    f"vjp({name} wrt {r.leaf.node})",
                    [value],
                    cotangents,
                    [],
                    [self._leaf_in(r, visit)],
                    True,
                )
        if self.merge:
            params = self._sorted(set().union(*(self.cones[name].params for name in live)))
            wrt = [self._leaf_in(r, visit) for r in joined]
            if params or wrt:
                values = [graph.losses[name].value for name in live]
                self._vjp(
                    visit,
                    f"vjp({' + '.join(live)})",
                    values,
                    [graph.losses[n].weight for n in live],
                    params,
                    wrt,
                    False,
                )
            return
        for name in live:
            params = self._sorted(self.cones[name].params)
            if params:
                self._vjp(
                    visit,
                    f"vjp({name})",
                    [graph.losses[name].value],
                    [graph.losses[name].weight],
                    params,
                    [],
                    True,
                )

    def _dynamic_coefficients(self, visit: int, r: Representative) -> dict[str, Value]:
        """w_j ∂d/∂l_j with l_j = w_j L_j, as values, for a `teach` that is not linear."""
        region, prefix = self.teach[r.task], f"{r.leaf.node}.teach"
        mapping: dict[Value, Value] = {}
        leaves: dict[str, Value] = {}
        for node in region.nodes:
            value, id_ = Value(node.id), f"{prefix}/{node.id}"
            if node.op == "port":
                loss = self.graph.losses[node.attrs["name"]]
                type_ = self.types[loss.value]
                source = loss.value
                if loss.weight != 1.0:
                    (number,) = self._add(
                        visit,
                        f"{id_}.weight",
                        "constant",
                        (),
                        {"value": loss.weight},
                        ("weight",),
                        [TensorType("float")],
                    )
                    (source,) = self._add(
                        visit, f"{id_}.weighted", "mul", (loss.value, number), {}, ("weighted",), [type_]
                    )
                (leaf,) = self._add(visit, f"{id_}.leaf", "leaf", (source,), {}, (f"{loss.name}",), [type_])
                mapping[value] = leaves[loss.name] = leaf
            else:
                inputs = tuple(mapping[v] for v in node.inputs if v is not None)
                made = self._add(
                    visit,
                    id_,
                    node.op,
                    inputs,
                    dict(node.attrs),
                    node.outputs,
                    [self.types[Value(node.id, p)] for p in range(len(node.outputs))],
                )
                mapping.update({Value(node.id, p): v for p, v in enumerate(made)})
        total = mapping[region.outputs[0].value]
        names = [name for name in leaves if name in r.reached]
        vjp = f"vjp({prefix})"
        self._vjp(visit, vjp, [total], [1.0], [], [leaves[name] for name in names], False)
        result = {}
        for name in names:
            (part,) = self.parts.pop(leaves[name])
            weight = self.graph.losses[name].weight
            if weight != 1.0:
                (number,) = self._add(
                    visit,
                    f"{vjp}.{name}.weight",
                    "constant",
                    (),
                    {"value": weight},
                    ("weight",),
                    [TensorType("float")],
                )
                (part,) = self._add(
                    visit, f"{vjp}.{name}", "mul", (part, number), {}, ("c",), [self.types[part]]
                )
            result[name] = part
        return result

    def _backward_of_representatives(self, visit: int, ready: list[Representative]) -> None:
        outputs, cotangents, params = [], [], set()
        for r in ready:
            leaves = [r.leaf, *(copy for (leaf, _), copy in self.copies.items() if leaf == r.leaf)]
            parts = [part for leaf in leaves for part in self.parts.get(leaf, [])]
            if not parts:
                continue
            total = parts[0]
            for number, part in enumerate(parts[1:]):
                (total,) = self._add(
                    visit,
                    f"G({r.leaf.node})_{number}",
                    "add",
                    (total, part),
                    {},
                    ("G",),
                    [self.types[r.leaf]],
                )
            outputs.append(r.value)
            cotangents.append(total)
            params |= r.cone.params
            if not self.merge:
                self._vjp(
                    visit,
                    f"vjp({r.value.node})_{r.leaf.node}",
                    [r.value],
                    [total],
                    self._sorted(r.cone.params),
                    [],
                    True,
                )
        if outputs and self.merge:
            later = [
                r
                for r in self.representatives
                if r not in ready and r.cone.nodes & set().union(*(q.cone.nodes for q in ready))
            ]
            # Retained only where another representative still has to go back through the same nodes.
            shared = any(not self._only_params(r, ready) for r in later)
            name = " + ".join(sorted({r.task for r in ready}))
            self._vjp(
                visit,
                f"vjp({name}.representative)_{visit}",
                outputs,
                cotangents,
                self._sorted(params),
                [],
                shared,
            )

    def _only_params(self, r: Representative, ready: list[Representative]) -> bool:
        nodes = {node.id: node.op for node in self.forward}
        shared = r.cone.nodes & set().union(*(q.cone.nodes for q in ready))
        return all(nodes[id_] == "param" for id_ in shared)

    # -- the result
    def _finish(self, losses: tuple[tuple[str, ...], ...]) -> Graph:
        graph, main = self.graph, self.graph.body
        finished = add_updates(self.emitted, self.forward, graph, self.ops)
        ports = [node for node in self.forward if node.op == "port"]
        visits, every = [], list(ports)
        for number, nodes in enumerate(self.emitted):
            body = [node for node in nodes if node.op != "port"]
            every += body
            names = losses[number] if number < len(losses) else ()
            tasks = tuple(dict.fromkeys(n for n in (graph.losses[name].owner for name in names) if n))
            ids = tuple(n.id for n in body)
            visits.append(Visit(" + ".join(names) or "forward", ids, tasks, names, finished[number]))
        region = Region(main.name, main.kind, main.inputs, main.outputs, tuple(every), main.origin)
        read = {n.attrs["storage"] for n in every if n.op == "param"}
        storage = {name: row for name, row in graph.storage.items() if name in read}
        return graph.with_(
            regions={main.name: region}, types=self.types, visits=tuple(visits), storage=storage
        )
