"""Memories: slots that a loop carries. What they are made of, and what a loop has to carry for them.

``m.state`` in a step is a value `[B, K, …]`, ``m = write(m, …)`` gives the memory after a write, and the rules of a memory
(`replace`, `when`, `each_slot`) are regions of their own that its reads and writes call: see `resolve/memory_use.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.graph import Value
from r2d2c.loops import NEVER, Carry, Store
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import Failed, MemoryResult, kind_of
from r2d2c.source import Span
from r2d2c.types import Dim, DimLike, TensorType, symbol

if TYPE_CHECKING:
    from r2d2c.resolve.program import Program
    from r2d2c.syntax.ast import Syntax
    from r2d2c.syntax.spec import LoopSyntax, MemorySyntax

AGE, COUNT, WRITTEN = "age", "count", "written"
SLOTS = ("newest", "oldest")
# What a memory has besides its fields and the values of `each_slot`.
OWN = (AGE, COUNT, WRITTEN, *SLOTS)
SURPRISE = "surprise"
# In `when`: the slot that would be replaced.
REPLACED = "replaced"
POLICIES = ("argmin", "argmax", "oldest", "ring", "random")


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory of the spec. fields: the types of what one slot holds, in order.

    policy: one of `POLICIES`, ``score``: where the argument of `argmin` and `argmax` stands in its arena.
    """

    name: str
    span: Span
    slots: DimLike
    fields: dict[str, TensorType]
    syntax: MemorySyntax
    policy: str
    score: tuple[int, int] | None
    backprop: bool

    @property
    def shared(self) -> bool:
        return self.syntax.shared

    @property
    def first_is_no_surprise(self) -> bool:
        return self.is_number(SURPRISE)

    def is_number(self, name: str) -> bool:
        """Whether a field is one floating number a slot."""
        type_ = self.fields.get(name)
        return type_ is not None and type_.floating and not type_.dims

    def made(self) -> list[str]:
        """The values that `each_slot` gives names to."""
        syntax = self.syntax.each_slot
        if syntax is None:
            return []
        return list(dict.fromkeys(name for s in syntax.statements for name, *_ in s.targets))

    def parts(self) -> list[str]:
        """All that may be read of it."""
        own = () if self.shared else OWN
        return [*self.fields, *self.made(), *own]


@dataclass(slots=True)
class Memories:
    """The memories of a program, by name: their syntax, and when first used what it comes to.

    homes: the loop that each is used in. written: those that some body writes, or tries to.
    """

    syntaxes: dict[str, MemorySyntax] = field(default_factory=dict)
    made: dict[str, Memory | None] = field(default_factory=dict)
    homes: dict[str, tuple[str, Span]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.syntaxes

    @property
    def shared(self) -> set[str]:
        return {name for name, syntax in self.syntaxes.items() if syntax.shared}

    def get(self, program: Program, name: str) -> Memory | None:
        """The memory of this name; None after a diagnostic."""
        if name not in self.made:
            self.made[name] = _Reader(program, self.syntaxes[name]).read()
        return self.made[name]


# -- in a loop


@dataclass(frozen=True, slots=True)
class Held:
    """The memories that a loop carries: their carries and where these start, and which carry is what."""

    memories: tuple[Memory, ...]
    carries: tuple[Carry, ...]
    starts: tuple[Value, ...]

    @property
    def names(self) -> list[str]:
        return [carry.name for carry in self.carries]

    def stores(self, first: int) -> tuple[Store, ...]:
        """The record for the loop, whose own carries are the ``first`` ones."""
        place = {name: first + number for number, name in enumerate(self.names)}
        return tuple(
            Store(
                memory.name,
                memory.slots,
                tuple((name, place[f"{memory.name}.{name}"]) for name in memory.fields),
                place[f"{memory.name}.{AGE}"],
                place[f"{memory.name}.{COUNT}"],
            )
            for memory in self.memories
        )

    def enter(self, step: RegionBuilder) -> None:
        """Let the body see the memories as the ports of a step have them."""
        for memory in self.memories:
            values = {name: step.names[f"{memory.name}.{name}"] for name in (*memory.fields, AGE, COUNT)}
            fields = {name: values[name] for name in memory.fields}
            step.names[memory.name] = MemoryResult(memory.name, fields, values[AGE], values[COUNT])

    def leave(self, step: RegionBuilder) -> bool:
        """Name what the memories are after the body. False after a diagnostic."""
        good = True
        for memory in self.memories:
            found = step.names[memory.name]
            if not isinstance(found, MemoryResult) or found.age is None or found.count is None:
                good = False
                continue
            if (
                found.age == step.port(f"{memory.name}.{AGE}")
                and memory.name in step.program.memories.written
            ):
                good = False  # the write has been reported
            elif memory.name not in step.program.memories.written:
                message = f"the memory `{memory.name}` is read and never written"
                values = ", ".join(f"{name}=…" for name in memory.fields)
                fix = f"write it in the body of the loop: `{memory.name} = write({memory.name}, {values})`"
                step.program.sink.report("E292", memory.span, message, fix=fix)
                good = False
            for name, value in {**found.fields, AGE: found.age, COUNT: found.count}.items():
                step.names[f"{memory.name}.{name}"] = value
        return good


def hold(program: Program, loop: LoopSyntax, around: RegionBuilder, taken: Sequence[str]) -> Held | None:
    """The memories that the body of a loop mentions. None after a diagnostic."""
    name, memories = loop.signature.name, program.memories
    until = loop.until.nodes if loop.until is not None else []
    named = [str(node.value) for node in (*loop.body.nodes, *until) if node.kind == "name"]
    mentioned = dict.fromkeys(name for name in named if name in memories)
    found: list[Memory] = []
    good = True
    for one in mentioned:
        memory = memories.get(program, one)
        if memory is None:
            good = False
            continue
        if memory.shared:
            continue
        if one in taken:
            message = f"`{one}` is a value of the loop `{name}` and a memory that its body uses"
            also: list[tuple[Span | None, str]] = [(memory.span, "the memory")]
            program.sink.report("E211", loop.span, message, also=also, fix="use another name")
            good = False
            continue
        home = memories.homes.setdefault(one, (name, loop.span))
        if home[0] != name:
            message = (
                f"the memory `{one}` is used by two loops, `{home[0]}` and `{name}`: each would carry its own"
            )
            also = [(home[1], "the first one"), (memory.span, "the memory")]
            program.sink.report(
                "E291", loop.span, message, also=also, fix="give the second loop a memory of its own"
            )
            good = False
            continue
        found.append(memory)
    if not good:
        return None
    carries = [carry for memory in found for carry in _carries(memory)]
    starts = [_start(around, name, carry) for carry in carries]
    return Held(tuple(found), tuple(carries), tuple(starts))


def _carries(memory: Memory) -> list[Carry]:
    credit: Any = "backprop" if memory.backprop else "local"
    slots = (symbol("B"), memory.slots)
    types = {name: TensorType(t.dtype, (*slots, *t.dims)) for name, t in memory.fields.items()}
    types |= {AGE: TensorType("i64", slots), COUNT: TensorType("i64", slots[:1])}
    return [
        Carry(f"{memory.name}.{name}", type_, credit, origin=memory.span) for name, type_ in types.items()
    ]


def _start(around: RegionBuilder, loop: str, carry: Carry) -> Value:
    attrs: dict[str, Any] = {"sizes": carry.type.dims, "dtype": carry.type.dtype}
    op = "zeros"
    if carry.name.endswith(f".{AGE}"):
        op, attrs = "full", {**attrs, "value": float(NEVER)}
    return around.add(around.fresh(f"{loop}.{carry.name}.{op}"), op, (), attrs, (carry.name,), carry.origin)


# -- from the spec


class _Reader:
    """Reads one memory of the spec. Mistakes go to the sink."""

    def __init__(self, program: Program, syntax: MemorySyntax) -> None:
        self.program, self.sink, self.syntax, self.good = program, program.sink, syntax, True

    def read(self) -> Memory | None:
        syntax = self.syntax
        slots = self._slots()
        fields = self._fields()
        policy, score = self._policy(fields)
        backprop = self._credit()
        memory = Memory(syntax.name, syntax.span, slots, fields, syntax, policy, score, backprop)
        self._each_slot(memory)
        if syntax.name in self.program.dims:
            self._bad(
                "E211", syntax.span, f"the name `{syntax.name}` is that of a dim too", "use another name"
            )
        if syntax.when is not None:
            self._names("when", syntax.when, [*fields, REPLACED])
        if memory.shared:
            self._shared(memory)
        return memory if self.good else None

    def _bad(self, code: str, span: Span, message: str, fix: Any = None) -> None:
        self.sink.report(code, span, message, fix=fix)
        self.good = False

    def _slots(self) -> DimLike:
        from r2d2c.resolve.evaluate import Evaluator

        syntax = self.syntax.slots
        scratch = RegionBuilder(self.program, "dims", "model", "dims")
        result: Any = Evaluator(scratch, syntax).expression(syntax.root)
        span = syntax.span(syntax.root)
        if isinstance(result, Failed):
            self.good = False
        elif isinstance(result, Dim) and {"B", "T"} & result.symbols():
            message = f"`slots` of `{self.syntax.name}` is {result}, and every sample has as many slots as every other"
            self._bad("E288", span, message, "give a number, or a dim with a size")
        elif isinstance(result, (int, Dim)) and not isinstance(result, bool):
            if isinstance(result, Dim) or result > 0:
                return result
            self._bad("E288", span, f"a memory has a slot at least, and `slots` is {int(result)}")
        else:
            self._bad("E288", span, f"`slots` is a number or the name of a dim, not {kind_of(result)}")
        return 1

    def _fields(self) -> dict[str, TensorType]:
        from r2d2c.resolve.dims import tensor_type

        fields = {}
        for entry in self.syntax.fields:
            before = len(self.sink.diagnostics)
            type_ = fields[entry.name] = tensor_type(entry.syntax, entry.span, self.program)
            self.good = self.good and len(self.sink.diagnostics) == before
            run_time = [str(d) for d in type_.dims if isinstance(d, Dim) and {"B", "T"} & d.symbols()]
            if entry.name in OWN or entry.name == REPLACED:
                message = f"a field cannot be named `{entry.name}`: every memory has one of that name"
                self._bad("E293", entry.span, message, "use another name")
            elif run_time:
                message = f"the field `{entry.name}` is what one slot of one sample holds, and {type_} has the dim `{run_time[0]}`"
                self._bad(
                    "E293", entry.span, message, f"leave `{run_time[0]}` out: a memory adds `[B, slots, …]`"
                )
        return fields

    def _each_slot(self, memory: Memory) -> None:
        syntax = self.syntax.each_slot
        if syntax is None:
            return
        for statement in syntax.statements:
            for name, start, end in statement.targets:
                if name in memory.fields or name in OWN:
                    message = (
                        f"`each_slot` cannot name a value `{name}`: it is a field, or every memory has one"
                    )
                    self._bad("E293", Span(syntax.source, start, end), message, "use another name")

    def _policy(self, fields: dict[str, TensorType]) -> tuple[str, tuple[int, int] | None]:
        syntax = self.syntax.replace
        if syntax is None:
            known = fields.get(SURPRISE)
            by = known is not None and not known.dims and known.dtype != "bool"
            return ("argmin" if by else "oldest"), None
        root = syntax.nodes[syntax.root]
        span = syntax.span(syntax.root)
        if root.kind == "name" and root.value in ("oldest", "ring", "random"):
            return str(root.value), None
        head = syntax.nodes[root.args[0]] if root.kind == "call" else root
        if head.kind == "name" and head.value in ("argmin", "argmax"):
            if root.kind == "call" and len(root.args) == 2 and not root.keywords:
                self._names("replace", syntax, [*fields, AGE])
                return str(head.value), (root.args[0] + 1, root.args[1])
            message = f"`{head.value}` in `replace` has one argument, what a slot is worth"
            self._bad("E289", span, message, f"write `{head.value}(surprise)`, of any fields and `age`")
            return "oldest", None
        shown = "`argmin(…)`, `argmax(…)`, `oldest`, `ring` or `random`"
        text = str(head.value) if head.kind == "name" else ""
        fix = suggest(text, POLICIES) or (f"write `argmin({text})`" if text in fields else None)
        self._bad("E289", span, f"`replace` is {shown}, not `{span.text}`", fix)
        return "oldest", None

    def _names(self, key: str, syntax: Syntax, known: list[str]) -> None:
        """Refuse names that are no fields, where a rule of the memory is read."""
        program = self.program
        for index, node in enumerate(syntax.nodes):
            if node.kind != "name" or node.value in known:
                continue
            name = str(node.value)
            if name in program.dims or name in program.blocks or name in program.ops or name in _NUMBERS:
                continue
            fields = ", ".join(f"`{one}`" for one in known)
            message = f"`{key}` of the memory `{self.syntax.name}` reads `{name}`, which is no field of it"
            fix = suggest(name, known) or f"it may read {fields}"
            self._bad("E289", syntax.span(index), message, fix)

    def _credit(self) -> bool:
        syntax = self.syntax.credit
        if syntax is None:
            return False
        root = syntax.nodes[syntax.root]
        if root.kind == "name" and root.value in ("local", "backprop"):
            return root.value == "backprop"
        span = syntax.span(syntax.root)
        message = f"the credit of a memory is `local` or `backprop`, not `{span.text}`"
        self._bad("E290", span, message, suggest(span.text, ("local", "backprop")))
        return False

    def _shared(self, memory: Memory) -> None:
        syntax = self.syntax
        for key, given in (("replace", syntax.replace), ("when", syntax.when), ("credit", syntax.credit)):
            if given is not None:
                message = f"the memory `{memory.name}` is shared, so it is trained and not written: it has no `{key}`"
                self._bad("E295", given.span(given.root), message, f"remove `{key}`, or `shared: true`")
        for entry in syntax.fields:
            type_ = memory.fields[entry.name]
            if not type_.floating:
                message = f"the fields of a shared memory are trained, and `{entry.name}` is {type_}"
                self._bad("E295", entry.span, message, "give it a floating type, such as `f32[16]`")
        if isinstance(memory.slots, Dim) and any(not s.startswith("?") for s in memory.slots.symbols()):
            message = (
                f"a shared memory is a parameter, and `slots` is {memory.slots}, which only the run knows"
            )
            self._bad("E295", syntax.slots.span(syntax.slots.root), message, "give it a number")


_NUMBERS = ("pi", "e", "inf")
