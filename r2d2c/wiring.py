"""Which loss trains which parameter, read off the training graph: `wiring`."""

from __future__ import annotations

from collections.abc import Mapping

from r2d2c.graph import Graph, Node, Value
from r2d2c.ops.record import Op
from r2d2c.passes.reach import Cone, Reach

Matrix = dict[str, dict[str, str | None]]


def wiring(
    training: Graph, ops: Mapping[str, Op], losses: Mapping[str, object], storage: Mapping[str, object]
) -> Matrix:
    """``{loss: {parameter: "gradient" | "rule:NAME" | "plastic" | None}}``.

    ``losses`` and ``storage`` are those of the whole model: a loss that trains nothing has only None.
    """
    teachers = Teachers(training, ops).by_parameter()
    return {
        loss: {name: ("gradient" if loss in teachers.get(name, ()) else None) for name in storage}
        for loss in losses
    }


class Teachers:
    """Walks back from every `accumulate` to the losses its gradient comes from."""

    def __init__(self, graph: Graph, ops: Mapping[str, Op]) -> None:
        self.graph = graph
        self.nodes = {node.id: node for node in graph.body.nodes}
        self.reach = Reach(graph, ops)
        self.loss_of = {loss.value: name for name, loss in graph.losses.items()}
        self._cones: dict[Value, Cone] = {}
        self._sources: dict[Value, frozenset[str]] = {}

    def by_parameter(self) -> dict[str, set[str]]:
        """The losses that teach each parameter."""
        found: dict[str, set[str]] = {}
        for node in self.graph.body.nodes:
            if node.op != "accumulate" or node.inputs[0] is None:
                continue
            name = node.attrs["storage"]
            found.setdefault(name, set()).update(self._of_gradient(node.inputs[0], name))
        return found

    def _cone(self, value: Value) -> Cone:
        if value not in self._cones:
            self._cones[value] = self.reach.cone([value])
        return self._cones[value]

    def _of_gradient(self, gradient: Value, parameter: str) -> frozenset[str]:
        """The losses behind a vjp's gradient of a parameter."""
        vjp = self.nodes[gradient.node]
        assert vjp.op == "vjp"
        return self._through(vjp, lambda cone: parameter in cone.params)

    def _through(self, vjp: Node, reaches: object) -> frozenset[str]:
        count, wrt = vjp.attrs["outputs"], vjp.attrs["wrt"]
        outputs, cotangents = vjp.inputs[:count], vjp.inputs[count + wrt :]
        found: frozenset[str] = frozenset()
        for position, output in enumerate(outputs):
            if output is None or not reaches(self._cone(output)):  # type: ignore[operator]
                continue
            if output in self.loss_of:
                found |= {self.loss_of[output]}
            if position < len(cotangents) and cotangents[position] is not None:
                found |= self.sources(cotangents[position])  # type: ignore[arg-type]
        return found

    def sources(self, value: Value) -> frozenset[str]:
        """The losses that a cotangent depends on."""
        if value not in self._sources:
            self._sources[value] = frozenset()  # a cotangent never depends on itself
            self._sources[value] = self._find(value)
        return self._sources[value]

    def _find(self, value: Value) -> frozenset[str]:
        node = self.nodes[value.node]
        if value in self.loss_of:
            return frozenset((self.loss_of[value],))
        if node.op == "vjp":
            count = node.attrs["outputs"]
            leaf = node.inputs[count + value.port - len(node.attrs["params"])]
            found = self._through(node, lambda cone: leaf in cone.leaves)
            for output in node.inputs[:count]:
                # d of a `teach` that is not linear: its coefficients depend on every loss it is made of.
                if output is not None and output not in self.loss_of:
                    found |= self._upstream(output)
            return found
        return frozenset().union(*(self.sources(v) for v in node.inputs if v is not None))

    def _upstream(self, value: Value) -> frozenset[str]:
        found: set[str] = set()
        stack, seen = [value], set()
        while stack:
            here = stack.pop()
            if here in seen:
                continue
            seen.add(here)
            if here in self.loss_of:
                found.add(self.loss_of[here])
                continue
            stack.extend(v for v in self.nodes[here.node].inputs if v is not None)
        return frozenset(found)


def groups(matrix: Matrix, storage: Mapping[str, object]) -> dict[str, list[str]]:
    """Parameters that the same losses train and that share a place, under the name of the place."""
    found: dict[str, list[str]] = {}
    for name in storage:
        found.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return found
