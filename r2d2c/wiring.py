"""Which loss trains which parameter, and how, read off the training graph: `wiring`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from r2d2c.graph import Graph, Node, Value
from r2d2c.ops.record import Op
from r2d2c.passes.reach import Cone, Reach


class Matrix(dict[str, dict[str, str | None]]):
    """A mapping of losses to parameters to what trains them, which shows itself as a table in a notebook."""

    def _repr_html_(self) -> str:
        from r2d2c.html import wiring_html

        return wiring_html(self)


GRADIENT = "gradient"
PLASTIC = "plastic"
_NOTHING: frozenset[str] = frozenset()


def wiring(training: Graph, ops: Mapping[str, Op], losses: Collection[str], storage: Iterable[str]) -> Matrix:
    """``{loss: {parameter: "gradient" | "rule:NAME" | "plastic" | None}}``.

    ``losses`` and ``storage`` are those of the whole model: a loss that trains nothing has only None. What a credit
    rule trains from no loss at all has rows of its own below, task by task: ``t1.synthetic.delta``, ``t1.hebbian``.
    """
    found = Teachers(training, ops).by_parameter()
    storage, tasks = list(storage), list(training.tasks)
    rows = dict.fromkeys([*losses, *(row for teachers in found.values() for row in teachers)])
    own = [
        row
        for row in rows
        if row in losses and (row not in training.losses or training.losses[row].rule is None)
    ]

    def place(row: str) -> tuple[int, str]:
        task = row.partition(".")[0]
        return (tasks.index(task) if task in tasks else len(tasks)), row

    ordered = [*own, *sorted(rows.keys() - set(own), key=place)]
    return Matrix({row: {name: found.get(name, {}).get(row) for name in storage} for row in ordered})


def explained(training: Graph, row: str) -> str:
    """What a row of the matrix is, if it is none of the spec's own losses."""
    loss = training.losses.get(row)
    if loss is not None:
        return f"a loss that the credit `{loss.rule}` adds" if loss.rule is not None else ""
    for node in training.body.nodes:
        for signal in node.attrs.get("signals", ()) if node.op == "vjp" else ():
            if signal is not None and signal[0] == row:
                return f"δ of the credit `{signal[1]}`, which no loss is behind"
        if node.op == "accumulate" and node.attrs.get("link") == row:
            return f"the plastic change of the credit `{node.attrs['rule']}`"
    return ""


class Teachers:
    """Walks back from every `accumulate` to the losses its gradient comes from.

    A loss whose own gradient arrives is marked "gradient". If it only arrives changed by a credit rule, or if the
    gradient merely depends on it (a target that was made from it), it is marked "rule:NAME".
    """

    def __init__(self, graph: Graph, ops: Mapping[str, Op]) -> None:
        self.graph = graph
        self.nodes = {node.id: node for node in graph.body.nodes}
        self.reach = Reach(graph, ops)
        self.changing = {name: op.changes_credit for name, op in ops.items() if op.changes_credit}
        self.loss_of = {value: name for name, loss in graph.losses.items() for value in loss.evaluations}
        self._cones: dict[Value, Cone] = {}
        self._plain: dict[Value, set[str]] = {}
        self._sources = self._find_sources()

    def by_parameter(self) -> dict[str, dict[str, str]]:
        """The rows that teach each parameter, and how."""
        found: dict[str, dict[str, str]] = {}
        for node in self.graph.body.nodes:
            if node.op != "accumulate" or node.inputs[0] is None:
                continue
            name = node.attrs["storage"]
            entries = found.setdefault(name, {})
            if "rule" in node.attrs:
                entries[node.attrs["link"]] = PLASTIC
                continue
            for row, entry in self._of_gradient(self.nodes[node.inputs[0].node], name):
                if entries.get(row) != GRADIENT:
                    entries[row] = entry
        return found

    def _cone(self, value: Value) -> Cone:
        if value not in self._cones:
            self._cones[value] = self.reach.cone([value])
        return self._cones[value]

    def _of_gradient(self, vjp: Node, parameter: str) -> Iterable[tuple[str, str]]:
        """The rows behind a vjp's gradient of a parameter."""
        for position, output, cotangent in outputs_of(vjp):
            if parameter not in self._cone(output).params:
                continue
            changed = self._changed(output, parameter)
            if cotangent is None:
                own = self.loss_of.get(output)
                if own is not None:
                    yield own, changed or GRADIENT
                loss = self.graph.losses.get(own or "")
                rule = (loss.rule or loss.through) if loss is not None else None
                for name in self._sources.get(output, _NOTHING) - {own}:
                    yield name, f"rule:{rule}" if rule else GRADIENT
                continue
            name, rule = self._signal(vjp, position)
            sources = self._sources.get(cotangent, _NOTHING)
            if rule is not None:
                sources |= self._sources.get(output, _NOTHING)
            for source in sources or ({name} if rule is not None else ()):
                yield source, f"rule:{rule}" if rule is not None else changed or GRADIENT

    def _signal(self, vjp: Node, position: int) -> tuple[str, str | None]:
        """The name and rule of the signal that a vjp starts from; the rule is None if it is a true gradient."""
        signals = vjp.attrs.get("signals")
        found: tuple[str, str | None] | None = signals[position] if signals else None
        return found or ("", None)

    def _changed(self, output: Value, parameter: str) -> str | None:
        """ "rule:NAME" if the gradient comes to a parameter only by ways that an op of a credit rule changes."""
        if not self.changing:
            return None
        if output not in self._plain:
            self._plain[output] = self._without_changes(output)
        if parameter in self._plain[output]:
            return None
        cone = self._cone(output)
        rules = {
            self.changing[self.nodes[id_].op] for id_ in cone.nodes if self.nodes[id_].op in self.changing
        }
        return f"rule:{'+'.join(sorted(rules))}"

    def _without_changes(self, output: Value) -> set[str]:
        """The parameters that a gradient reaches without passing the first input of an op that changes it."""
        params: set[str] = set()
        seen: set[Value] = set()
        stack = [output]
        while stack:
            value = stack.pop()
            if value in seen or not self.reach.needs_gradient(value):
                continue
            seen.add(value)
            node = self.nodes[value.node]
            if node.op == "param":
                params.add(node.attrs["storage"])
            elif node.op != "leaf":
                first = 1 if node.op in self.changing else 0
                stack.extend(v for v in self.reach.inputs(value)[first:] if v is not None)
        return params

    def _find_sources(self) -> dict[Value, frozenset[str]]:
        """The losses that a value depends on because a gradient was taken on the way to it; empty ones left out."""
        found: dict[Value, frozenset[str]] = {}
        for node in self.graph.body.nodes:
            if node.op == "vjp":
                self._sources_of_vjp(node, found)
                continue
            sources = _NOTHING
            for value in node.inputs:
                if value is not None and value in found:
                    sources |= found[value]
            for port in range(len(node.outputs)):
                value = Value(node.id, port)
                own = sources | {self.loss_of[value]} if value in self.loss_of else sources
                if own:
                    found[value] = own
        return found

    def _sources_of_vjp(self, vjp: Node, found: dict[Value, frozenset[str]]) -> None:
        count, wrt = vjp.attrs["outputs"], vjp.attrs["wrt"]
        for number, leaf in enumerate(vjp.inputs[count : count + wrt]):
            sources = _NOTHING
            for position, output, cotangent in outputs_of(vjp):
                cone = self._cone(output)
                if leaf is None or not (leaf in cone.leaves or leaf.node in cone.nodes):
                    continue
                sources |= found.get(output, _NOTHING)
                if cotangent is not None:
                    name, rule = self._signal(vjp, position)
                    alone = frozenset((name,)) if rule is not None else _NOTHING
                    sources |= found.get(cotangent, alone)
            if sources:
                found[Value(vjp.id, len(vjp.attrs["params"]) + number)] = sources


def outputs_of(vjp: Node) -> Iterator[tuple[int, Value, Value | None]]:
    """The outputs of a vjp with their positions and cotangents, None where that is a number."""
    count, wrt = vjp.attrs["outputs"], vjp.attrs["wrt"]
    given = iter(vjp.inputs[count + wrt :])
    weights = vjp.attrs["weights"] or (None,) * count
    for position, (output, weight) in enumerate(zip(vjp.inputs[:count], weights, strict=True)):
        cotangent = next(given) if weight is None else None
        if output is not None:
            yield position, output, cotangent


def groups(matrix: Matrix, storage: Mapping[str, object]) -> dict[str, list[str]]:
    """Parameters that the same losses train and that share a place, under the name of the place."""
    found: dict[str, list[str]] = {}
    for name in storage:
        found.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return found
