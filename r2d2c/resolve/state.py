"""The state of a model: the carries of its stateful loops go in as ports, and come out as outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from r2d2c.graph import RESET, Port, State, Value
from r2d2c.loops import Carry
from r2d2c.source import Span
from r2d2c.types import Dim, TensorType, symbol

if TYPE_CHECKING:
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.resolve.program import Program
    from r2d2c.resolve.region import RegionBuilder
    from r2d2c.resolve.results import LoopResult
    from r2d2c.resolve.scopes import ModelScopes
    from r2d2c.resolve.widths import Narrow
    from r2d2c.syntax.spec import Spec

# What the call of a model, and what it gives, have for the state.
STATE = "state"


class _Kept(NamedTuple):
    """A carry that is state, and its port of the region around the loop."""

    carry: str
    inner: str
    state: State
    type: TensorType


class _Home(NamedTuple):
    """The one call of a stateful loop: the region that it stands in, and what it gives."""

    region: str
    result: LoopResult | None
    span: Span


@dataclass(slots=True)
class States:
    """The state of the program, by loops. taken: the names of the main region's ports."""

    taken: set[str] = field(default_factory=set)
    kept: dict[str, list[_Kept]] = field(default_factory=dict)
    homes: dict[str, _Home] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, TensorType]:
        """The hidden ports of the main region."""
        found = {kept.state.port: kept.type for each in self.kept.values() for kept in each}
        return {RESET: TensorType("bool", (symbol("B"),)), **found} if found else {}

    def hidden(self, name: str) -> bool:
        """Whether a port of a behavior is one of these."""
        return bool(self.kept) and name in self.types

    def given(self, loop: str, region: RegionBuilder) -> dict[str, Value]:
        """What a call of a loop in a region gives to the ports that its state comes from."""
        each = self.kept.get(loop)
        if not each:
            return {}
        found = {kept.inner: region.port(kept.state.port) for kept in each}
        return {_INNER_RESET: region.port(RESET), **found}

    def _fresh(self, loop: str, carry: str) -> str:
        wanted = name = f"{loop}_{carry}_{STATE}".replace(".", "_")
        number = 1
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name


# No name of a spec has a dot, so it is not one of a parameter of the loop.
_INNER_RESET = f"{STATE}.{RESET}"


def may_keep(evaluator: Evaluator, loop: str, index: int) -> bool:
    """Whether a stateful loop may be called here. False after a diagnostic."""
    program, region, span = evaluator.program, evaluator.region, evaluator.span(index)
    syntax = program.loops[loop]
    also: list[tuple[Span | None, str]] = [(syntax.span, "it is stateful")]
    home = program.states.homes.get(loop)
    if home is not None:
        message = f"the loop `{loop}` keeps its state from call to call of the model, and is used twice in it"
        fix = "give the second its own loop, with the same body"
        evaluator.sink.report("E553", span, message, also=[*also, (home.span, "used here first")], fix=fix)
        return False
    if region.kind != "behavior":
        inside = f"the {region.kind} `{region.name}`" if region.kind in ("block", "representative") else None
        where = inside or ("another loop" if region.kind == "step" else f"`{region.name}`")
        message = f"the loop `{loop}` is stateful, and is used in {where}"
        fix = "use it in the behavior of a task itself, and pass on what it gives"
        evaluator.sink.report("E553", span, message, also=also, fix=fix)
        return False
    program.states.homes[loop] = _Home(region.name, None, span)
    return True


def remember(evaluator: Evaluator, loop: str, result: LoopResult) -> None:
    """Keep what the call of a stateful loop gives."""
    homes = evaluator.program.states.homes
    homes[loop] = homes[loop]._replace(result=result)


def keep_state(
    around: RegionBuilder,
    loop: str,
    carries: Sequence[Carry],
    starts: Sequence[Value],
    narrow: Mapping[str, Narrow],
) -> list[Value] | None:
    """Where the carries of a stateful loop start: as the state says, and anew where a sample is reset.

    None after a diagnostic, of a carry that cannot be state.
    """
    states, sink = around.program.states, around.program.sink
    good = bool(carries)
    if not carries:
        message = f"the loop `{loop}` is stateful and carries nothing, so there is no state"
        sink.report("E554", around.origin, message, fix="remove `stateful`, or give the loop a carry")
    for carry in carries:
        problem = _problem(carry.type)
        if problem is not None:
            message = f"the carry `{carry.name}` of the stateful loop `{loop}` is {carry.type}: {problem}"
            fix = "its first axis is `B`, and its others have known sizes: `f32[B, 64]`"
            sink.report("E554", carry.origin, message, fix=fix)
            good = False
    if not good:
        return None
    fresh: dict[int, Value] = {1: around.port(_INNER_RESET)}
    kept, found = [], []
    for carry, start in zip(carries, starts, strict=True):
        inner = f"{carry.name}.{STATE}"
        for rank in range(2, carry.type.rank + 1):
            if rank not in fresh:
                id_ = around.fresh(f"{loop}.{RESET}.unsqueeze")
                fresh[rank] = around.add(id_, "unsqueeze", (fresh[rank - 1],), {"axis": rank - 1}, (RESET,))
        given = around.port(inner, carry.origin)
        id_ = around.fresh(f"{loop}.{carry.name}.where")
        inputs = (fresh[carry.type.rank], start, given)
        value = around.add(id_, "where", inputs, {}, (carry.name,), carry.origin)
        if carry.name in narrow:
            value = narrow[carry.name].apply(around, value, carry.origin)
        found.append(value)
        state = State(f"{loop}.{carry.name}", states._fresh(loop, carry.name))
        kept.append(_Kept(carry.name, inner, state, carry.type))
    states.kept[loop] = kept
    return found


def _problem(type_: TensorType) -> str | None:
    if not type_.dims or type_.dims[0] != symbol("B"):
        return "a state has one entry a sample"
    for dim in type_.dims[1:]:
        if isinstance(dim, Dim) and any(not name.startswith("?") for name in dim.symbols()):
            return f"a state has the same size in every call, and `{dim}` may differ"
    return None


def check_names(program: Program, spec: Spec) -> None:
    """Of a model with a state, nothing else may be called as what a call takes and gives for it."""
    stateful = next((loop for loop in spec.loops if loop.stateful), None)
    if stateful is None:
        return
    named = [("input", p.name, p.span) for p in spec.inputs] + [
        ("target", p.name, p.span) for p in spec.targets
    ]
    named += [("dim", dim.name, dim.span) for dim in spec.dims if dim.name in program.ranges]
    program.states.taken |= {name for _, name, _ in named} | {STATE, RESET}
    named += [("output", output.name, output.span) for output in spec.outputs]
    for kind, name, span in named:
        if name == STATE or (name == RESET and kind != "output"):
            message = f"the {kind} `{name}` has the name of what a model with a state takes or gives for it"
            also = [(stateful.span, "it is stateful")]
            program.sink.report("E555", span, message, also=also, fix="use another name")


def resolve_states(
    program: Program, scopes: ModelScopes, types: Mapping[str, TensorType], spec: Spec
) -> tuple[list[Port], tuple[State, ...]]:
    """The outputs of the state, and the state."""
    ports: list[Port] = []
    states: list[State] = []
    for loop, each in program.states.kept.items():
        home = program.states.homes.get(loop)
        if home is None or home.result is None or home.region not in scopes.builders:
            continue
        builder = scopes.builders[home.region]
        for kept in each:
            position = builder.expose(f"{kept.state.name}.{STATE}", home.result.values[kept.carry])
            ports.append(Port(kept.state.port, Value(home.region, position)))
            states.append(kept.state)
    shown = any(symbol("B") in types[port.name].dims for port in spec.inputs)
    if states and not shown:
        message = "the model has a state for every sample, and no input shows how many there are"
        program.sink.report(
            "E554", spec.inputs[0].span if spec.inputs else None, message, fix="give an input the axis `B`"
        )
    return ports, tuple(states)
