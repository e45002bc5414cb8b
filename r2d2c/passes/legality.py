"""What is legal in a graph at each point of the pipeline, and a check of it.

A graph that breaks a rule here is a bug of ours, never a mistake in a spec, so it raises instead of
reporting. The check runs after every pass while the environment has ``R2D2C_CHECK=1``, as it does in the
tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from r2d2c.graph import CORE_OPS, USES, Graph, Node, Region, RegionKind, Stage, Value
from r2d2c.loops import loop_of

Form = Literal["resolved", "typed", "attached", "flat", "training", "inference"]

FORWARD = frozenset({"port", "param", "constant", "size", "stop", "argument", "loop"})
CREDIT = frozenset({"leaf", "gradient", "signal", "vjp", "accumulate", "update"})
BACKWARD = frozenset({"vjp", "accumulate", "update"})
KINDS: frozenset[RegionKind] = frozenset(get_args(RegionKind))


class IllegalGraph(Exception):  # noqa: N818
    """A pass made a graph that its stage does not allow."""


@dataclass(frozen=True, slots=True)
class Legal:
    """A row of the table.

    core: the core ops that may appear; ops with a record may appear everywhere.
    kinds: the kinds its regions may have. flat: beside the main region there are steps of loops at the most.
    types: every value and all storage has a type.
    credit: every link's rule is one of those known. Before `verify`, it may still be a misspelling.
    visits: the visits hold every node but the ports, once, in order.
    targets: whether there may be targets, losses and what only learning needs.
    """

    form: Form
    stage: Stage
    core: frozenset[str]
    kinds: frozenset[RegionKind] = KINDS
    flat: bool = False
    types: bool = True
    credit: bool = False
    visits: bool = False
    targets: bool = True


_ONE: frozenset[RegionKind] = frozenset({"model", "step"})
TABLE: tuple[Legal, ...] = (
    Legal("resolved", "resolved", FORWARD | {"call", "code", "generate"}, types=False),
    Legal("typed", "typed", FORWARD | {"call"}),
    Legal("attached", "training", FORWARD | CREDIT | {"call"}, credit=True),
    Legal("flat", "training", FORWARD | CREDIT | {"probe"}, _ONE, flat=True, credit=True),
    Legal(
        "training",
        "training",
        FORWARD | BACKWARD | {"leaf", "probe"},
        _ONE,
        flat=True,
        credit=True,
        visits=True,
    ),
    Legal("inference", "inference", FORWARD, _ONE, flat=True, targets=False),
)
BY_FORM: Mapping[Form, Legal] = {row.form: row for row in TABLE}


def enabled() -> bool:
    return os.environ.get("R2D2C_CHECK") == "1"


def check_after(
    graph: Graph, ops: Iterable[str] | None, form: Form | None = None, rules: Iterable[str] | None = None
) -> Graph:
    """The same graph, checked if checking is on."""
    if enabled():
        check(graph, ops, form, rules)
    return graph


def check(
    graph: Graph,
    ops: Iterable[str] | None = None,
    form: Form | None = None,
    rules: Iterable[str] | None = None,
) -> None:
    """Raise `IllegalGraph` with everything that is wrong with a graph.

    ops, rules: the names of the ops and credit rules that exist; None leaves their names unchecked.
    form: where in the pipeline the graph comes from; by default its stage, for training what it looks like.
    """
    row = BY_FORM[form or _form(graph)]
    known = None if ops is None else set(ops), None if rules is None else set(rules)
    problems = list(_problems(graph, row, *known))
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:20])
        raise IllegalGraph(f"the {row.form} graph of `{graph.name}` is not legal:\n{shown}")


def _form(graph: Graph) -> Form:
    if graph.stage != "training":
        return graph.stage
    if graph.visits:
        return "training"
    calls = any(node.op == "call" for region in graph.regions.values() for node in region.nodes)
    return "attached" if calls else "flat"


def _problems(graph: Graph, row: Legal, ops: set[str] | None, rules: set[str] | None) -> Iterator[str]:
    if graph.stage != row.stage:
        yield f"its stage is {graph.stage}, not {row.stage}"
    if graph.main not in graph.regions:
        yield f"there is no region {graph.main}"
        return
    if row.flat and len(graph.regions) - len(graph.steps) != 1:
        yield f"it has {len(graph.regions)} regions and should be flat"
    seen: set[str] = set()
    for name, region in graph.regions.items():
        if region.kind not in row.kinds:
            yield f"the region {name} is a {region.kind}"
        yield from _region(graph, row, region, ops, seen)
    yield from _tables(graph, row, rules)
    yield from _recursion(graph)
    if row.visits:
        yield from _visits(graph)
    if not row.targets:
        yield from _inference(graph)


def _region(graph: Graph, row: Legal, region: Region, ops: set[str] | None, seen: set[str]) -> Iterator[str]:
    made: dict[str, int] = {}
    for node in region.nodes:
        if node.id in seen:
            yield f"the id {node.id} is taken twice"
        seen.add(node.id)
        if node.op in CORE_OPS:
            if node.op not in row.core:
                yield f"{node.id}: `{node.op}` may not be part of it"
        elif ops is not None and node.op not in ops:
            yield f"{node.id}: there is no op `{node.op}`"
        for value in node.inputs:
            if value is None:
                continue
            if value.node not in made:
                yield f"{node.id} reads {value.node}, which is not made before it in {region.name}"
            elif not 0 <= value.port < made[value.node]:
                yield f"{node.id} reads output {value.port} of {value.node}, which has {made[value.node]}"
        made[node.id] = len(node.outputs)
        if node.op in _NODES:
            yield from _NODES[node.op](graph, node)
        if row.types and node.op not in ("accumulate", "update", "signal"):
            for port in range(len(node.outputs)):
                if Value(node.id, port) not in graph.types:
                    yield f"output {port} of {node.id} has no type"
    ports = {node.id for node in region.nodes if node.op == "port"}
    for port_ in region.inputs:
        if port_.value.node not in ports:
            yield f"the input {port_.name} of {region.name} is no port of it"
    if len(ports) != len(region.inputs) and (row.targets or region.kind == "step"):
        yield f"{region.name} has {len(ports)} port nodes and {len(region.inputs)} inputs"
    for port_ in region.outputs:
        if not 0 <= port_.value.port < made.get(port_.value.node, 0):
            yield f"the output {port_.name} of {region.name} is not made in it"


def _call(graph: Graph, node: Node) -> Iterator[str]:
    callee = graph.regions.get(node.attrs["region"])
    if callee is None:
        yield f"{node.id} calls {node.attrs['region']}, which does not exist"
        return
    if len(callee.inputs) != len(node.inputs):
        yield f"{node.id} gives {len(node.inputs)} inputs to {callee.name}, which has {len(callee.inputs)}"
    if len(callee.outputs) != len(node.outputs):
        yield f"{node.id} has {len(node.outputs)} outputs, and {callee.name} gives {len(callee.outputs)}"


def _loop(graph: Graph, node: Node) -> Iterator[str]:
    step, loop = graph.regions.get(node.attrs["region"]), loop_of(node)
    if step is None:
        yield f"{node.id} repeats {node.attrs['region']}, which does not exist"
        return
    if len(step.inputs) != len(node.inputs):
        yield f"{node.id} gives {len(node.inputs)} inputs to {step.name}, which has {len(step.inputs)}"
    if len(step.outputs) < len(loop.carries):
        yield f"{step.name} has {len(step.outputs)} outputs for {len(loop.carries)} carries"
    if len(loop.gives) != len(node.outputs) or any(g.port >= len(step.outputs) for g in loop.gives):
        yield f"{node.id} has {len(node.outputs)} outputs, and its loop gives {len(loop.gives)}"


def _param(graph: Graph, node: Node) -> Iterator[str]:
    if node.attrs["storage"] not in graph.storage:
        yield f"{node.id} reads the storage {node.attrs['storage']}, which does not exist"


def _accumulate(graph: Graph, node: Node) -> Iterator[str]:
    row = graph.storage.get(node.attrs["storage"])
    if row is None or row.kind != "param":
        yield f"{node.id} accumulates into {node.attrs['storage']}, which is {row.kind if row else 'nothing'}"


def _update(graph: Graph, node: Node) -> Iterator[str]:
    row = graph.storage.get(node.attrs["storage"])
    if row is None or row.kind != ("statistic" if node.inputs else "param"):
        yield f"{node.id} updates {node.attrs['storage']}, which is {row.kind if row else 'nothing'}"


def _vjp(graph: Graph, node: Node) -> Iterator[str]:
    outputs, wrt, params = node.attrs["outputs"], node.attrs["wrt"], node.attrs["params"]
    cotangents = len(node.inputs) - outputs - wrt
    weights = sum(weight is not None for weight in node.attrs["weights"])
    if cotangents + weights != outputs:
        yield f"{node.id} has {cotangents} cotangents and {weights} weights for {outputs} values"
    if len(node.outputs) != len(params) + wrt:
        yield f"{node.id} has {len(node.outputs)} outputs for {len(params) + wrt} gradients"
    for name in params:
        if name not in graph.storage:
            yield f"{node.id} takes the gradient of {name}, which does not exist"


_NODES = {
    "call": _call,
    "loop": _loop,
    "param": _param,
    "accumulate": _accumulate,
    "update": _update,
    "vjp": _vjp,
}


def _tables(graph: Graph, row: Legal, rules: set[str] | None) -> Iterator[str]:
    made = {node.id: len(node.outputs) for node in graph.body.nodes}
    for name, loss in graph.losses.items():
        for value in (loss.value, *(loss.closed or ())):
            if not 0 <= value.port < made.get(value.node, 0):
                yield f"the loss {name} is {value.node}, which is not made"
    if row.form in ("resolved", "typed"):
        for link in graph.links:
            if link.source.node not in made:
                yield f"the link {link.name} starts at {link.source.node}, which is not made"
    for link in graph.links:
        if row.credit and rules is not None and link.credit.rule not in rules:
            yield f"the link {link.name} has the credit {link.credit.rule}, which no rule is called"
    hidden = graph.hidden
    names = tuple(port.name for port in graph.body.outputs if port.name not in hidden)
    if names != tuple(graph.outputs):
        yield f"its outputs are {', '.join(names)}, and its table says {', '.join(graph.outputs)}"
    for name, storage in graph.storage.items():
        if name != storage.name:
            yield f"the storage {storage.name} is filed as {name}"
        if row.types and storage.type is None:
            yield f"the storage {name} has no type"


def _recursion(graph: Graph) -> Iterator[str]:
    called = {
        name: {node.attrs["region"] for node in region.nodes if node.op in USES} & graph.regions.keys()
        for name, region in graph.regions.items()
    }
    left = dict(called)
    while left:
        ready = [name for name, names in left.items() if not names & left.keys()]
        if not ready:
            yield f"regions call each other in a circle: {', '.join(left)}"
            return
        for name in ready:
            del left[name]


def _visits(graph: Graph) -> Iterator[str]:
    order = [id_ for visit in graph.visits for id_ in visit.nodes]
    wanted = [node.id for node in graph.body.nodes if node.op != "port"]
    if order != wanted:
        missing = [id_ for id_ in wanted if id_ not in set(order)]
        yield f"its visits do not hold its nodes in order{f': {missing[0]} is in none' if missing else ''}"
    for visit in graph.visits:
        yield from (f"the visit {visit.name} has the loss {n}" for n in visit.losses if n not in graph.losses)
        yield from (f"the visit {visit.name} finishes {n}" for n in visit.finished if n not in graph.storage)


def _inference(graph: Graph) -> Iterator[str]:
    if graph.losses:
        yield f"it has the losses {', '.join(graph.losses)}"
    if graph.targets:
        yield f"it has the targets {', '.join(graph.targets)}"
    inputs = {port.value.node for port in graph.body.inputs}
    for node in graph.body.nodes:
        if node.op == "port" and node.id not in inputs:
            yield f"{node.id} is a port that is no input: a target?"
    read = {node.attrs["storage"] for node in graph.body.nodes if node.op == "param"}
    yield from (f"the storage {name} is not read" for name in graph.storage if name not in read)
