"""Reading and writing memories: ``m.state``, ``m.newest.rep``, ``m = write(m, state=h, surprise=s)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.graph import Init, Storage, Value
from r2d2c.loops import NEVER
from r2d2c.resolve.memories import AGE, COUNT, REPLACED, SLOTS, SURPRISE, WRITTEN, Memory
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, MemoryResult, Placed, SlotResult
from r2d2c.types import TensorType, symbol

if TYPE_CHECKING:
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.source import Span
    from r2d2c.syntax.ast import Syntax


# What the fields of a shared memory are drawn from.
SHARED = Init("normal", (0.02,))


def find_memory(evaluator: Evaluator, index: int, name: str) -> Any:
    """What the name of a memory means in a region that does not carry it."""
    region = evaluator.region
    memories = region.program.memories
    memory = memories.get(region.program, name)
    if memory is None:
        return FAILED
    if memory.shared:
        return _shared(region, memory)
    kind = (
        region.kind if region.kind in ("block", "behavior", "representative", "loss", "output") else "place"
    )
    message = f"the memory `{name}` is used in the body of a loop that carries it, and this {kind} is none"
    also: list[tuple[Span | None, str]] = [(memory.span, "the memory")]
    fix = f"pass on what is needed: a loop `r = …` gives `r.{name}.{next(iter(memory.fields))}`, and blocks have parameters"
    evaluator.sink.report("E285", evaluator.span(index), message, also=also, fix=fix)
    return FAILED


def _shared(region: RegionBuilder, memory: Memory) -> MemoryResult:
    """A shared memory: its fields are parameters of the model."""
    program, fields = region.program, {}
    for name, type_ in memory.fields.items():
        storage = f"{memory.name}.{name}"
        if storage not in program.storage:
            kind: Any = "frozen" if region.frozen else "param"
            made = TensorType(type_.dtype, (memory.slots, *type_.dims))
            row = Storage(storage, kind, SHARED, memory.name, made, origin=memory.span)
            program.storage[storage] = row
        fields[name] = region.read(storage)
    found = MemoryResult(memory.name, fields)
    region.names[memory.name] = found  # what `each_slot` gives is computed once in a region
    return found


def memory_part(evaluator: Evaluator, index: int, base: MemoryResult | SlotResult, name: str) -> Any:
    """What a memory, or one slot of it, has under a name."""
    region, span = evaluator.region, evaluator.span(index)
    memory = region.program.memories.get(
        region.program, base.name if isinstance(base, MemoryResult) else base.memory
    )
    assert memory is not None
    if isinstance(base, SlotResult):
        if name in base.known:
            return base.read(name)
        whose, known = f"`{base.which}` of the memory `{base.memory}`", list(base.known)
    else:
        if name in memory.parts():
            return _Reads(region, memory, base, span).part(name)
        whose, known = f"the memory `{memory.name}`", memory.parts()
    shown = ", ".join(f"`{one}`" for one in known)
    message = f"{whose} has no `{name}`"
    evaluator.sink.report("E294", span, message, fix=suggest(name, known), notes=[f"it has {shown}"])
    return FAILED


class _Reads:
    """The nodes that read a memory in a region; each is made once for one state of the memory."""

    def __init__(self, region: RegionBuilder, memory: Memory, found: MemoryResult, span: Span) -> None:
        self.region, self.memory, self.found, self.span = region, memory, found, span

    def part(self, name: str) -> Any:
        if name in SLOTS:
            known = tuple(one for one in self.memory.parts() if one not in (*SLOTS, COUNT, WRITTEN))
            return SlotResult(self.memory.name, name, lambda part: self._in_slot(name, part), known)
        return self._whole(name)

    def _whole(self, name: str) -> Any:
        found = self.found
        if name in found.fields:
            return found.fields[name]
        if name == AGE:
            return found.age
        if name == COUNT:
            return found.count
        if name == WRITTEN:
            never = self.region.constant(NEVER)
            return self._once(WRITTEN, "lt", (found.age, never))
        return self._each(name)

    def _in_slot(self, which: str, name: str) -> Any:
        index = self._once(which, f"{which}_slot", (self.found.age,))
        value = self._whole(name)
        if value is FAILED:
            return FAILED
        return self._once(f"{which}.{name}", "read_slot", (value, index))

    def _once(
        self, key: str, op: str, inputs: tuple[Value | None, ...], attrs: dict[str, Any] | None = None
    ) -> Value:
        made = self.found.each
        if key not in made:
            made[key] = add(self.region, self.memory, op, inputs, attrs or {}, key, self.span)
        return made[key]

    def _each(self, name: str) -> Any:
        """A value of `each_slot`: every slot as a sample of its own, through one region."""
        memory, found = self.memory, self.found
        callee = region_of(self.region, memory, "each")
        if callee is None:
            return FAILED
        known = {**found.fields, AGE: found.age}
        samples = {
            port.name: known[port.name]
            if memory.shared
            else self._once(f"{port.name}.samples", "slots_as_samples", (known[port.name],))
            for port in callee.inputs
        }
        if "each" not in found.each:
            outputs = tuple(port.name for port in callee.outputs)
            inputs = tuple(samples[port.name] for port in callee.inputs)
            found.each["each"] = call_rule(self.region, memory, "each", inputs, outputs, self.span)
        made = Value(found.each["each"].node, callee.output(name))
        if memory.shared:
            return made
        attrs = {"slots": memory.slots, "samples": symbol("B")}
        return self._once(name, "samples_as_slots", (made,), attrs)


def add(
    region: RegionBuilder,
    memory: Memory,
    op: str,
    inputs: tuple[Value | None, ...],
    attrs: dict[str, Any],
    output: str,
    span: Span,
) -> Value:
    """A node that reads or writes a memory."""
    id_ = region.fresh(f"{region.place}.{memory.name}.{op}")
    return region.add(id_, op, inputs, attrs, (output,), span)


def call_rule(
    region: RegionBuilder,
    memory: Memory,
    part: str,
    inputs: tuple[Value | None, ...],
    outputs: tuple[str, ...],
    span: Span,
) -> Value:
    place = region.fresh(f"{region.place}.{memory.name}.{part}")
    attrs = {"region": f"{memory.name}.{part}", "memory": memory.name}
    return region.add(f"{place}()", "call", inputs, attrs, outputs, span)


# -- the rules of a memory, as regions


def region_of(region: RegionBuilder, memory: Memory, part: str) -> Any:
    """The region of `each_slot`, `replace` or `when`, made when first used; None after a diagnostic."""
    program, name = region.program, f"{memory.name}.{part}"
    if name not in program.regions and name not in program.failed:
        place = memory.name if part == "each" else name
        inner = RegionBuilder(program, name, "block", place, origin=memory.span)
        inner.active_blocks, inner.frozen = region.active_blocks, region.frozen
        inner.sized = region.sized
        before = len(program.sink.diagnostics)
        good = {"each": _each_slot, "replace": _score, "when": _when}[part](inner, memory)
        if not good or any(d.severity == "error" for d in program.sink.diagnostics[before:]):
            program.failed.add(name)
        else:
            program.regions[name] = inner.finish()
    return None if name in program.failed else program.regions[name]


def _ports(
    inner: RegionBuilder, syntax: Syntax, names: Iterable[str], first: int = 0, last: int = -1
) -> None:
    """Give a region a port for each of the names that its expression reads."""
    nodes = syntax.nodes[first : None if last < 0 else last + 1]
    read = {node.value for node in nodes if node.kind == "name"}
    for name in names:
        if name in read:
            inner.names[name] = inner.port(name, inner.origin)


def _each_slot(inner: RegionBuilder, memory: Memory) -> bool:
    from r2d2c.resolve.evaluate import Evaluator

    syntax = memory.syntax.each_slot
    assert syntax is not None
    known = memory.fields if memory.shared else (*memory.fields, AGE)
    _ports(inner, syntax, known)
    evaluator = Evaluator(inner, syntax)
    for statement in syntax.statements:
        evaluator.statement(statement)
        span = evaluator.span(statement.root)
        if statement.returns or not statement.targets:
            code, message = (
                ("E236", "`return` is for blocks")
                if statement.returns
                else ("E234", "this value is computed and not used")
            )
            inner.program.sink.report(code, span, message, fix="give the value a name: `rep = …`")
            return False
        for name, *_ in statement.targets:
            value = evaluator.as_value(Placed(inner.names[name], span))
            if value is FAILED:
                return False
            inner.names[name] = value
    for name in memory.made():
        inner.expose(name, inner.names[name])
    return True


def _score(inner: RegionBuilder, memory: Memory) -> bool:
    """What slots are worth: the expression in `argmin` or `argmax`, or the surprise that they have."""
    from r2d2c.resolve.evaluate import Evaluator

    syntax = memory.syntax.replace
    if memory.score is None or syntax is None:
        value: Any = inner.port(SURPRISE, memory.span)
    else:
        first, root = memory.score
        _ports(inner, syntax, (*memory.fields, AGE), first, root)
        evaluator = Evaluator(inner, syntax)
        evaluator.target = "score"
        value = evaluator.as_value(Placed(evaluator.run(first, root), evaluator.span(root)))
        if value is FAILED:
            return False
    if memory.policy == "argmax":
        value = inner.add(inner.fresh(f"{inner.place}.neg"), "neg", (value,), {}, ("neg",), memory.span)
    inner.expose("score", value)
    return True


def _when(inner: RegionBuilder, memory: Memory) -> bool:
    from r2d2c.resolve.evaluate import Evaluator

    syntax = memory.syntax.when
    assert syntax is not None
    _ports(inner, syntax, memory.fields)
    known = (*memory.fields, AGE)
    inner.names[REPLACED] = SlotResult(
        memory.name, REPLACED, lambda part: inner.port(f"{REPLACED}.{part}", memory.span), known
    )
    evaluator = Evaluator(inner, syntax)
    span = evaluator.span(syntax.root)
    value = evaluator.as_value(Placed(evaluator.expression(syntax.root, "when"), span))
    if value is FAILED:
        return False
    inner.expose("when", value)
    return True


def not_a_memory(evaluator: Evaluator, name: str, result: Any, span: Span) -> bool:
    """Report a memory under another name, or something else under a memory's. False if neither is so."""
    before = evaluator.region.names.get(name)
    if isinstance(result, MemoryResult):
        if result.name == name:
            return False
        message = f"the memory `{result.name}` has one name, and here it gets another"
        fix = f"read a part of it: `{result.name}.{next(iter(result.fields))}`"
    elif isinstance(result, SlotResult):
        message = f"a slot of the memory `{result.memory}` is no value: a part of it is"
        fix = f"name a part: `{result.memory}.{result.which}.{result.known[0]}`"
    elif isinstance(before, MemoryResult) and not isinstance(result, Failed):
        message = f"`{name}` is a memory, and here it gets another value"
        fix = f"write it with `{name} = write({name}, …)`, or use another name"
    else:
        return False
    evaluator.sink.report("E286", span, message, fix=fix)
    return True
