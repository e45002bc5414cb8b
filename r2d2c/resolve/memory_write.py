"""Writing a memory: ``m = write(m, state=h, surprise=s)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.graph import Value
from r2d2c.loops import NEVER
from r2d2c.resolve.memories import AGE, COUNT, REPLACED, SURPRISE, Memory
from r2d2c.resolve.memory_use import add, call_rule, region_of
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, MemoryResult

if TYPE_CHECKING:
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.source import Span
    from r2d2c.syntax.ast import Expr


def call_write(evaluator: Evaluator, index: int, node: Expr) -> Any:
    """``m = write(m, state=h, …)``: the memory after the write."""
    sink, span = evaluator.sink, evaluator.span(index)
    given = [evaluator.results[i] for i in node.args[1:]]
    if any(isinstance(each, Failed) for each in given):
        return FAILED
    if not given or not isinstance(given[0], MemoryResult):
        if given and isinstance(evaluator.as_value(evaluator.placed(node.args[1])), Failed):
            return FAILED
        message = "`write` writes a memory, which is its first argument"
        sink.report("E286", span, message, fix="write `m = write(m, state=…)`")
        return FAILED
    found: MemoryResult = given[0]
    memory = evaluator.program.memories.get(evaluator.program, found.name)
    assert memory is not None
    name = memory.name
    shown = f"{name} = write({name}, {', '.join(f'{one}=…' for one in memory.fields)})"
    also: list[tuple[Span | None, str]] = [(memory.span, "the memory")]
    if memory.shared:
        message = f"the memory `{name}` is shared: it is trained, and the same for all samples, so nothing writes it"
        fix = "remove `shared: true` to have one for every sample"
        sink.report("E295", span, message, also=also, fix=fix)
        return FAILED
    evaluator.program.memories.written.add(name)
    if evaluator.target != name or evaluator.root != index:
        message = f"`write` gives the memory `{name}` after the write, and that is what `{name}` then is"
        sink.report("E286", span, message, also=also, fix=f"write `{shown}`")
        return FAILED
    if len(given) > 1:
        extra = evaluator.span(node.args[2])
        message = f"what is written into `{name}` is given by the names of its fields"
        sink.report("E287", extra, message, f"usage: {shown}", also=also)
        return FAILED
    values = _written(evaluator, index, node, memory, f"usage: {shown}")
    if values is None:
        return FAILED
    return _Write(evaluator.region, memory, found, span).run(values)


def _written(
    evaluator: Evaluator, index: int, node: Expr, memory: Memory, usage: str
) -> dict[str, tuple[Value, Span]] | None:
    """The values of the fields and where they are written, by name; None after a diagnostic."""
    sink = evaluator.sink
    values: dict[str, tuple[Value, Span]] = {}
    also: list[tuple[Span | None, str]] = [(memory.span, "the memory")]
    good = True
    for key, position in node.keywords:
        span = evaluator.keyword_span(key, position) if key else evaluator.span(position)
        if key in values:
            sink.report("E223", span, f"`{key}` is given twice to `write`", usage)
            good = False
        elif key not in memory.fields:
            message = (
                f"`{memory.name}` has no field `{key}`" if key else "a value without the name of its field"
            )
            sink.report("E287", span, message, usage, also=also, fix=suggest(key, memory.fields))
            return None
        else:
            value = evaluator.as_value(evaluator.placed(position))
            values[key] = value, evaluator.span(position)
            good = good and not isinstance(value, Failed)
    missing = [name for name in memory.fields if name not in values]
    if missing and good:
        message = f"`write` of `{memory.name}` needs {', '.join(f'`{name}`' for name in missing)}"
        sink.report("E287", evaluator.span(index), message, usage, also=also)
        return None
    return values if good else None


class _Write:
    """The nodes of one write."""

    def __init__(self, region: RegionBuilder, memory: Memory, found: MemoryResult, span: Span) -> None:
        self.region, self.memory, self.found, self.span = region, memory, found, span

    def _add(
        self,
        op: str,
        inputs: tuple[Value | None, ...],
        output: str = "",
        span: Span | None = None,
        **attrs: Any,
    ) -> Value:
        return add(self.region, self.memory, op, inputs, attrs, output or op, span or self.span)

    def run(self, given: dict[str, tuple[Value, Span]]) -> Any:
        memory, found, region = self.memory, self.found, self.region
        assert found.count is not None
        values = {name: self._value(name, *given[name]) for name in memory.fields}
        index = self._slot()
        if index is None:
            return FAILED
        when: Value | None = None
        if memory.syntax.when is not None:
            when = self._decides(values, index)
            if when is None:
                return FAILED
        fields = {
            name: self._add(
                "write_slot",
                (found.fields[name], index, value, when),
                f"{memory.name}.{name}",
                given[name][1],
                field=f"{memory.name}.{name}",
            )
            for name, value in values.items()
        }
        age = self._add("advance_age", (found.age, index, when), f"{memory.name}.{AGE}")
        count = self._add("add", (found.count, region.constant(1)), f"{memory.name}.{COUNT}")
        return MemoryResult(memory.name, fields, age, count)

    def _value(self, name: str, value: Value, span: Span) -> Value:
        """What is stored: a constant for learning unless the memory says otherwise; the first is no surprise."""
        if name == SURPRISE and self.memory.first_is_no_surprise:
            zero = self.region.constant(0)
            first = self._add("eq", (self.found.count, zero), "first")
            value = self._add("where", (first, self.region.constant(0.0), value), name, span)
        is_number = any(node.id == value.node and node.op == "constant" for node in self.region.nodes)
        if self.memory.backprop or is_number:
            return value
        return self._add("stop", (value,), name, span)

    def _slot(self) -> Value | None:
        """The slot of every sample that is replaced."""
        memory, found, age = self.memory, self.found, self.found.age
        if memory.policy == "random":
            score = self._add("random_scores", (age, found.count), "score")
        elif memory.policy in ("oldest", "ring"):
            score = self._add("neg", (age,), "score")
        else:
            callee = region_of(self.region, memory, "replace")
            if callee is None:
                return None
            known = {**found.fields, AGE: age}
            inputs = tuple(known[port.name] for port in callee.inputs)
            score = call_rule(self.region, memory, "replace", inputs, ("score",), self.span)
        return self._add("slot_to_replace", (score, age), "slot")

    def _decides(self, values: dict[str, Value], index: Value) -> Value | None:
        """Whether a sample writes, by the new values and those of the slot that is replaced."""
        callee = region_of(self.region, self.memory, "when")
        if callee is None:
            return None
        inputs = []
        for port in callee.inputs:
            prefix, _, part = port.name.partition(".")
            inputs.append(self._replaced(part, index) if prefix == REPLACED and part else values[port.name])
        return call_rule(self.region, self.memory, "when", tuple(inputs), ("when",), self.span)

    def _replaced(self, part: str, index: Value) -> Value:
        """What the slot holds; the numbers of one that was never written are lower than any other."""
        found, region = self.found, self.region
        age = self._add("read_slot", (found.age, index), f"{REPLACED}.{AGE}")
        if part == AGE:
            return age
        value = self._add("read_slot", (found.fields[part], index), f"{REPLACED}.{part}")
        if not self.memory.is_number(part):
            return value
        free = self._add("eq", (age, region.constant(NEVER)), "free")
        return self._add("where", (free, region.constant(float("-inf")), value), f"{REPLACED}.{part}")
