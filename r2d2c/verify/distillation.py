"""Losses over the steps and the widths of a loop: teachers that learn, and steps that are not always there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import NamedTuple

from r2d2c.graph import Node, Region, Value
from r2d2c.loops import loop_of, stack_axis
from r2d2c.passes.reach import Reach
from r2d2c.resolve.step_ranges import STEPS, WIDTH, WIDTHS, is_mapped
from r2d2c.syntax.ast import Syntax
from r2d2c.syntax.spec import LossSyntax
from r2d2c.types import Dim, DimLike, TensorType, evaluate
from r2d2c.verify.context import Context


def check_distillation(c: Context) -> None:
    for region in c.graph.regions.values():
        for node in region.nodes:
            if node.op == "at_steps":
                _check_reach(c, node)
    for loss in c.spec.losses:
        made = loss.value is not None and is_mapped(loss) and f"{loss.name}.each" in c.graph.regions
        if made and _check_scalar(c, loss) and loss.name in c.losses:
            _check_teacher(c, loss)


def _check_reach(c: Context, node: Node) -> None:
    """A step that some run of the loop does not get to."""
    source = node.inputs[0]
    type_ = c.graph.types.get(source) if source is not None else None
    if type_ is None:
        return
    last, trips = node.attrs["last"], type_.dims[stack_axis(type_)]
    beyond = last - trips
    (_, most), (least, _) = _extent(c, last), _extent(c, trips)
    if beyond <= 0 if isinstance(beyond, int) else most is not None and most <= least:
        return
    goes = f", which may be {most or 'any number'}" if isinstance(last, Dim) else ""
    takes = f", which may be {least}" if isinstance(trips, Dim) else ""
    message = f"this goes to step {last}{goes}, and the loop takes {trips}{takes}"
    shown = trips if isinstance(trips, Dim) else int(trips)
    c.sink.report(
        "E284", node.origin, message, fix=f"go to the loop's last step: `{node.attrs['first']}..{shown}`"
    )


def _extent(c: Context, dim: DimLike) -> tuple[int, int | None]:
    """The least and the most that a dim may be."""
    if isinstance(dim, int):
        return int(dim), int(dim)
    ranges = c.graph.ranges
    if not dim.symbols() <= ranges.keys():
        return 1, None
    ends = [evaluate(dim, {name: ranges[name][end] for name in dim.symbols()}) for end in (0, 1)]
    return min(ends), max(ends)


def _check_scalar(c: Context, loss: LossSyntax) -> bool:
    """Whether the loss is one number at a step."""
    assert loss.value is not None
    type_ = c.graph.types.get(c.graph.regions[f"{loss.name}.each"].outputs[0].value)
    if type_ is None or not type_.rank:
        return True
    message = f"the loss `{loss.name}` is {type_} at a step, and must be a scalar"
    c.sink.report("E302", loss.value.span(loss.value.root), message, fix="take its `mean`")
    return False


# -- teachers


class _From(NamedTuple):
    """Where a gradient from a value goes: to loops at one of their steps, and to loops at the last one."""

    early: frozenset[str]
    late: frozenset[str]


def _check_teacher(c: Context, loss: LossSyntax) -> None:
    """A last step that is pulled towards earlier ones, or a full width towards a narrow one."""
    assert loss.value is not None
    told: set[str] = set()
    for nodes, types, source in _parts(c, loss.name):
        for node in nodes:
            read = {v for v in node.inputs if v is not None and v in types and types[v].rank}
            for student, teacher in permutations([source(v) for v in read], 2):
                if student.early & teacher.late and not teacher.early:
                    told.add("earlier steps")
                student_runs, teacher_runs = _runs(c, student), _runs(c, teacher)
                narrow = {name for name, is_narrow in student_runs if is_narrow}
                if any((n, False) in teacher_runs and (n, True) not in teacher_runs for n in narrow):
                    told.add("narrower widths")
    if told:
        c.sink.report(
            "W477",
            loss.value.span(loss.value.root),
            f"the teacher of `{loss.name}` is not stopped: it learns to be like its own {' and '.join(sorted(told))}",
            fix=f"stop it: `{_stopped(loss.value, STEPS if 'earlier steps' in told else WIDTHS)}`",
        )


def _stopped(value: Syntax, word: str) -> str:
    """The loss with its teacher stopped, if it is simply a distance of two values."""
    root = value.nodes[value.root]
    texts = [value.span(index).text for index in root.args]
    teachers = [text for text in texts[1:] if f".{word}" not in text]
    if root.kind != "call" or len(texts) != 3 or len(teachers) != 1:
        return f"mse(think.r.z.{word}, stop(think.r.z))"
    first, second = (f"stop({text})" if text in teachers else text for text in texts[1:])
    return f"{texts[0]}({first}, {second})"


def _parts(
    c: Context, loss: str
) -> Iterator[tuple[list[Node], Mapping[Value, TensorType], Callable[[Value], _From]]]:
    """The nodes that a loss is made of, and where gradients from their values go: outside of its steps, and inside."""
    nodes = c.training.body.nodes

    def outside(value: Value) -> _From:
        return _From(frozenset(), _loops(c, value))

    yield [n for n in nodes if n.id.startswith(f"{loss}.") and n.op != "loop"], c.training.types, outside
    for node in nodes:
        if node.op == "loop" and node.attrs["region"] == f"{loss}.each":
            step = c.training.regions[node.attrs["region"]]
            yield list(step.nodes), c.training.types, _inside(c, node, step)


def _inside(c: Context, node: Node, step: Region) -> Callable[[Value], _From]:
    reach = Reach(c.training.with_(main=step.name), c.ops, ports=True)
    given = {p.value: (k, v) for k, (p, v) in enumerate(zip(step.inputs, node.inputs, strict=True))}
    count = loop_of(node).sequences

    def source(value: Value) -> _From:
        read = [given[leaf] for leaf in reach.cone([value]).leaves if leaf in given]
        early, late = (
            frozenset[str]().union(*(_loops(c, v) for k, v in read if v is not None and (k < count) == first))
            for first in (True, False)
        )
        return _From(early, late)

    return source


def _loops(c: Context, value: Value) -> frozenset[str]:
    """The loops that a value's gradient goes through."""
    return frozenset(id_ for id_ in c.reach.cone([value]).nodes if c.nodes[id_].op == "loop")


def _runs(c: Context, found: _From) -> set[tuple[str, bool]]:
    """The steps of loops by name, each with whether it runs at a narrower width."""
    runs = set()
    for id_ in found.early | found.late:
        node = c.nodes[id_]
        ports = c.training.regions[node.attrs["region"]].inputs
        width = next((v for p, v in zip(ports, node.inputs, strict=True) if p.name == WIDTH), None)
        runs.add((node.attrs["region"], width is not None and c.nodes[width.node].op == "constant"))
    return runs
