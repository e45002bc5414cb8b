"""Coordinates of places as values, and the ops that are wired by predicates on them.

Where a set is read it is storage: `retina.points`, f32[64, 3].
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from r2d2c.formulas import Formula, evaluate, reads
from r2d2c.graph import Init, Storage, Value
from r2d2c.ops.wiring import NEIGHBOURS, PREDICATED, WIRED, formula_at
from r2d2c.places import QUANTITIES, Placing, Reads, Rule, says_whether
from r2d2c.resolve.bind import bind_call
from r2d2c.resolve.formulas import read_formula
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, PlacesRef, Quoted
from r2d2c.types import TensorType

if TYPE_CHECKING:
    from r2d2c.ops.record import Op
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.source import Span
    from r2d2c.syntax.ast import Expr

# The most pairs of points: the table of a predicate, and a weight, have an entry for each.
PAIRS = 1 << 25
# Where a point reads at most one of so many, and there are as many pairs, a layer is computed by the wires alone.
FEW, LARGE = 8, 1 << 14


# -- as values


def coordinates_value(region: RegionBuilder, name: str) -> Value | Failed:
    """The coordinates of a set, f32[n, 3]; `FAILED` after a diagnostic."""
    program = region.program
    placing = program.placings[name]
    if placing is None:
        return FAILED
    if placing.storage not in program.storage:
        kind: Any = "param" if placing.learned else "frozen"
        type_ = TensorType("f32", (placing.count, 3))
        init = Init("places", (placing,))
        program.storage[placing.storage] = Storage(
            placing.storage, kind, init, placing.name, type_, ("point", "axis"), placing.origin
        )
    value = region.read(placing.storage)
    reader = region.nodes[-1]
    if reader.id == value.node and reader.origin is None:  # so that messages can show the set
        region.nodes[-1] = replace(reader, origin=placing.origin)
    return value


# -- ops with a predicate


def quoted(evaluator: Evaluator, first: int, root: int) -> set[int]:
    """The parts of expressions that are predicates on places, and so are read and not evaluated."""
    nodes, program = evaluator.syntax.nodes, evaluator.program
    found: set[int] = set()
    for index in range(first, root + 1):
        node = nodes[index]
        if node.kind != "call" or nodes[node.args[0]].value not in PREDICATED:
            continue
        op = program.ops[str(nodes[node.args[0]].value)]
        position = formula_at(op)
        if position is None or evaluator.region.lookup(op.name) is not None:
            continue
        if any(op.name in named for named in (program.blocks, program.loops, program.hypernets)):
            continue
        whole = _where(node, op, position)
        todo = [whole] if whole is not None else []
        while todo:
            part = todo.pop()
            found.add(part)
            todo += [*nodes[part].args, *(at for _, at in nodes[part].keywords)]
    return found


def _where(node: Expr, op: Op, position: int) -> int | None:
    """Where the predicate of a call stands."""
    named = [at for name, at in node.keywords if name == op.args[position].name]
    return named[0] if named else node.args[1 + position] if len(node.args) > 1 + position else None


def call_wiring(evaluator: Evaluator, index: int, node: Expr, op: Op) -> Any:
    """A node of an op that has a predicate on places; `FAILED` after a diagnostic."""
    position = formula_at(op)
    assert position is not None
    for name, at in node.keywords:
        if name == "mask":
            message = f"`mask` of `{op.name}` is made of its predicate"
            evaluator.sink.report("E362", evaluator.keyword_span(name, at), message, fix="say it in `where`")
            return FAILED
    whole = _where(node, op, position)
    rule: Rule | None = None
    if whole is not None and isinstance(evaluator.results[whole], Quoted):
        formula = _predicate(evaluator, whole, op)
        if formula is None:
            return FAILED
        source, target = (_argument(evaluator, node, op, name) for name in ("source", "target"))
        pairs = source.count * target.count if source is not None and target is not None else 0
        if source is not None and target is not None and pairs > PAIRS:
            message = f"`{source.name}` and `{target.name}` make {pairs:,} pairs of points, and {PAIRS:,} is the most"
            also = [(source.origin, f"{source.count:,} points"), (target.origin, f"{target.count:,} points")]
            evaluator.sink.report("E361", evaluator.span(index), message, also=also)
            return FAILED
        rule = Rule(formula, source, target, evaluator.span(whole))
        evaluator.results[whole] = rule
    result = bind_call(evaluator, index, node, op)
    if isinstance(result, Failed) or rule is None:
        return result
    return _known(evaluator.region, rule, op)


def _argument(evaluator: Evaluator, node: Expr, op: Op, name: str) -> Placing | None:
    """The set of places that an argument names, if it is one."""
    position = next(number for number, arg in enumerate(op.args) if arg.name == name)
    at = _where(node, op, position)
    given = evaluator.results[at] if at is not None else None
    return evaluator.program.placings[given.name] if isinstance(given, PlacesRef) else None


def _predicate(evaluator: Evaluator, whole: int, op: Op) -> Formula | None:
    """The predicate that stands at an index, with the spec's numbers in place of their names."""
    numbers = {}
    for index, node in enumerate(evaluator.syntax.nodes):
        name = str(node.value)
        if index <= whole and isinstance(evaluator.results[index], Quoted) and node.kind == "name":
            value = None if name in QUANTITIES else _number(evaluator, name)
            if value is not None:
                numbers[name] = value
    what = f"`where` of `{op.name}`"
    formula = read_formula(
        evaluator.sink,
        evaluator.syntax,
        [*QUANTITIES, *numbers],
        code="E362",
        what=what,
        quantity="measure of two points",
        root=whole,
    )
    if formula is None:
        return None
    made = _folded(formula, numbers)
    if says_whether(made):
        return made
    span, fix = evaluator.span(whole), "compare: `distance < 1.5`"
    if not reads(made):
        message = f"{what} is the same for all points: it reads nothing of them"
    else:
        message = f"{what} says of two points whether they are wired, and `{span.text}` is a number"
    evaluator.sink.report("E362", span, message, fix=fix)
    return None


def _number(evaluator: Evaluator, name: str) -> float | None:
    """The number that a name stands for: of a dim, or of a parameter of a block."""
    found = evaluator.region.lookup(name)
    if found is None and name in evaluator.program.dims:
        evaluator.program.used_dims.add(name)
        found = evaluator.program.dims[name]
    if isinstance(found, int | float) and not isinstance(found, bool):
        return float(found)
    return None


def _folded(formula: Formula, numbers: dict[str, float]) -> Formula:
    """A formula whose parts without a quantity are numbers."""
    if isinstance(formula, str):
        return numbers.get(formula, formula)
    if not isinstance(formula, tuple):
        return formula
    made = (formula[0], *(_folded(part, numbers) for part in formula[1:]))
    if reads(made):
        return made
    import numpy as np

    return float(evaluate(made, {"distance": np.zeros(())}))


def _known(region: RegionBuilder, rule: Rule, op: Op) -> Value:
    """The value of the newest node, with what is known before the model runs: its mask, and where it has weights."""
    program, node = region.program, region.nodes[-1]
    names = [arg.name for arg in op.values]
    if op.name == WIRED and rule.known and region.generator is None:
        for name in ("weight", "bias"):
            value = node.inputs[names.index(name)]
            storage = f"{node.id}.{name}"
            if value is not None and storage in program.storage:
                row = program.storage[storage]
                inner = () if row.init == Init("default") else (row.init,)
                program.storage[storage] = replace(row, init=Init("wired", (rule, *inner)))
    if not rule.fixed:
        if op.name == WIRED:
            _stop(region, rule)
        return Value(node.id)
    region.nodes.pop()
    mask = _mask(region, rule, f"{node.id}.mask", node.origin)
    if op.name == NEIGHBOURS:
        return mask
    inputs = list(node.inputs)
    inputs[names.index("mask")] = mask
    if op.name == WIRED and region.generator is None:
        inputs[names.index("reads")] = _reads(region, rule)
    region.nodes.append(replace(node, inputs=tuple(inputs)))
    return Value(node.id)


def _stop(region: RegionBuilder, rule: Rule) -> None:
    """Where points are says who is wired, and has no gradient from that: say so in the graph."""
    node = region.nodes.pop()
    inputs, made = list(node.inputs), dict[Value, Value]()
    for position, placing in ((1, rule.source), (2, rule.target)):
        value = inputs[position]
        if value is None or (placing is not None and not placing.learned):
            continue
        if value not in made:
            origin = node.origin if placing is None else placing.origin
            made[value] = region.add(region.fresh(f"{node.id}.stop"), "stop", (value,), {}, ("stop",), origin)
        inputs[position] = made[value]
    region.nodes.append(replace(node, inputs=tuple(inputs)))


def _mask(region: RegionBuilder, rule: Rule, name: str, origin: Span | None) -> Value:
    """Who reads whom, as storage; one for all that are wired alike."""
    program = region.program
    assert rule.source is not None and rule.target is not None
    name = program.masks.setdefault(rule, name)
    if name not in program.storage:
        type_ = TensorType("bool", (rule.target.count, rule.source.count))
        program.storage[name] = Storage(
            name, "frozen", Init("places", (rule,)), region.name, type_, ("target", "source"), origin
        )
    return region.read(name)


def _reads(region: RegionBuilder, rule: Rule) -> Value | None:
    """The indices of the points that each reads, as storage beside its mask; None where they are many."""
    program, reads = region.program, Reads(rule)
    assert rule.source is not None and rule.target is not None
    n, m = rule.source.count, rule.target.count
    width = reads.width(program.seed) if n * m >= LARGE else 0
    if not 1 <= width <= n // FEW:
        return None
    mask = program.storage[program.masks[rule]]
    name = f"{mask.name.removesuffix('mask')}reads"
    if name not in program.storage:
        type_, init = TensorType("i64", (m, width)), Init("places", (reads,))
        program.storage[name] = replace(mask, name=name, init=init, type=type_, axes=("target", "wire"))
    return region.read(name)
