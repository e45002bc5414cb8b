"""Loops: one instance each, called like a block, with a region around it and a region for one step.

``r = refine(h)`` in a behavior gives the loop's values as ``r.z`` (after the last step) and ``r.z.steps`` (at every
step). The region around has the initial values of the carries and the sequences; calls share it, and its parameters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import suggest
from r2d2c.graph import Value
from r2d2c.loops import Carry, CarryCredit, Given, Halt, Loop
from r2d2c.resolve.carry import initial_value, next_values
from r2d2c.resolve.loop_arguments import loop_arguments
from r2d2c.resolve.memories import Held, hold
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, LoopResult, Placed, kind_of
from r2d2c.resolve.state import keep_state, may_keep, remember
from r2d2c.resolve.widths import Narrow, narrow_of
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.types import Dim, DimLike, TensorType, symbol

if TYPE_CHECKING:
    from r2d2c.resolve.evaluate import Evaluator
    from r2d2c.syntax.ast import Expr
    from r2d2c.syntax.spec import CarrySyntax, LoopSyntax

STEP = "step"
WIDTH = "width"
HALT = "until"


def call_loop(evaluator: Evaluator, index: int, node: Expr, name: str) -> Any:
    """What a loop gives where it is used."""
    program = evaluator.program
    loop = program.loops[name]
    program.used_blocks.add(name)
    active = evaluator.region.active_blocks
    if name in active:
        chain = " → ".join([*active[active.index(name) :], name])
        also = [(loop.span, "defined here")]
        span = evaluator.span(node.args[0])
        evaluator.sink.report("E230", span, f"the loop `{name}` uses itself: {chain}", also=also)
        return FAILED
    if name in program.failed:
        return FAILED
    if usual := [parameter for parameter, default in loop.signature.parameters if default >= 0]:
        message = f"a parameter of a loop has no default, and `{usual[0]}` has one"
        evaluator.sink.report("E260", loop.span, message, fix="pass it where the loop is used")
        program.failed.add(name)
        return FAILED
    arguments = loop_arguments(evaluator, index, node, name, loop)
    if arguments is None:
        return FAILED
    if loop.stateful and not may_keep(evaluator, name, index):
        return FAILED
    if name not in program.regions and name not in program.failed:
        _build(evaluator, name, loop, active)
    if name in program.failed:
        return FAILED
    result = use_loop(evaluator.region, evaluator.place, name, arguments, evaluator.span(index))
    if loop.stateful:
        remember(evaluator, name, result)
    return result


def use_loop(
    region: RegionBuilder,
    at: str,
    name: str,
    arguments: dict[str, Value],
    span: Span,
    width: float | None = None,
) -> LoopResult:
    """A call of a loop's region in another. ``width``: that of its narrow carries, if not the model's."""
    program = region.program
    callee = program.regions[name]
    place = region.fresh(f"{at}.{name}")
    given = {**arguments, **program.states.given(name, region)}
    if any(port.name == WIDTH for port in callee.inputs):
        given[WIDTH] = region.argument(WIDTH) if width is None else region.constant(width)
    inputs = tuple(given[port.name] for port in callee.inputs)
    outputs = tuple(port.name for port in callee.outputs)
    attrs = {"region": name, "loop": name}
    region.add(f"{place}()", "call", inputs, attrs, outputs, span)
    values = {port.name: Value(f"{place}()", number) for number, port in enumerate(callee.outputs)}
    carries = [carry.name for carry in program.loops[name].carry]
    return LoopResult(name, values, carries[0] if len(carries) == 1 else None, tuple(arguments.items()))


def _build(evaluator: Evaluator, name: str, loop: LoopSyntax, active: tuple[str, ...]) -> None:
    """The region around a loop and that of its step. A mistake leaves the loop in ``program.failed``."""
    program = evaluator.program
    before = len(program.sink.diagnostics)
    made = _Builder(evaluator, name, loop, active).run()
    if not made or any(d.severity == "error" for d in program.sink.diagnostics[before:]):
        program.failed.add(name)
        program.regions.pop(name, None)


class _Builder:
    def __init__(self, evaluator: Evaluator, name: str, loop: LoopSyntax, active: tuple[str, ...]) -> None:
        self.program, self.sink, self.name, self.syntax = evaluator.program, evaluator.sink, name, loop
        self.around = RegionBuilder(self.program, name, "loop", name, origin=loop.span)
        self.step = RegionBuilder(self.program, f"{name}.step", "step", name, self._outside, loop.span)
        for region in (self.around, self.step):
            region.active_blocks = (*active, name)
            region.frozen = evaluator.region.frozen
            region.sized = evaluator.region.sized

    def _outside(self, name: str) -> Any:
        """Inside a step: the loop's parameters, which are the same at every step."""
        if name == "*":
            return list(self.around.names)
        return self.step.port(name) if name in self.around.names and "." not in name else None

    def run(self) -> bool:
        syntax, around, step = self.syntax, self.around, self.step
        trips, over = self._trips()
        if trips is None:
            return False
        for parameter, _ in syntax.signature.parameters:
            around.names[parameter] = around.port(parameter, syntax.span)
        carries = [self._carry(carry) for carry in syntax.carry]
        narrow = narrow_of(self.program, syntax, {c.name: type_ for c, type_ in carries}, around)
        starts = [self._start(carry, type_, narrow) for carry, type_ in carries]
        sequences = {entry.name: self._sequence(entry.syntax) for entry in syntax.each}
        names = [carry.name for carry, _ in carries]
        held = hold(self.program, syntax, around, [*around.names, *names, *sequences])
        if FAILED in starts or FAILED in sequences.values() or held is None:
            return False
        names, starts = names + held.names, [*starts, *held.starts]
        if sequences and not over:
            entry = syntax.each[0]
            message = "`each` reads one element a step of what `over` names, and this loop has no `over`"
            self.sink.report("E261", entry.span, message, fix="say `over: T`")
            return False
        if any(n.kind == "name" and n.value == STEP for n in self._body_nodes()) and STEP not in sequences:
            sequences[STEP] = self._numbers(trips)
        for name in [*names, *sequences]:
            step.names[name] = step.port(name)
        known = set(self.program.storage)
        halt = self._body(narrow, carries, held)
        if halt is FAILED or (syntax.per_step and not self._stack(known, trips)):
            return False
        rest = [port.name for port in step.inputs[len(names) + len(sequences) :]]
        described = Loop(
            self.name,
            (*(self._described(carry, type_) for carry, type_ in carries), *held.carries),
            len(sequences),
            trips,
            self._gives(halt),
            over,
            halt,
            syntax.recompute,
            syntax.stateful,
            held.stores(len(carries)),
        )
        if syntax.stateful:
            starts = keep_state(around, self.name, described.carries, starts, narrow) or []
            if not starts:
                return False
        self._finish(described, [*starts, *sequences.values(), *(self._given(name) for name in rest)])
        return True

    def _start(self, carry: CarrySyntax, type_: TensorType, narrow: dict[str, Narrow]) -> Any:
        start = initial_value(self.around, carry, type_, self.name)
        if start is not FAILED and carry.name in narrow:
            start = narrow[carry.name].apply(self.around, start, carry.span)
        return start

    def _given(self, name: str) -> Value:
        value: Value = self.around.names[name]
        return value

    def _body_nodes(self) -> list[Any]:
        until = self.syntax.until
        return [*self.syntax.body.nodes, *(until.nodes if until is not None else ())]

    # -- how often
    def _trips(self) -> tuple[DimLike | None, bool]:
        syntax = self.syntax
        kinds = {"repeat": syntax.repeat, "over": syntax.over, "until": syntax.until}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            said = " and ".join(f"`{g}`" for g in given) or "none of them"
            message = f"a loop has one of `repeat`, `over` and `until`; `{self.name}` has {said}"
            fix = "keep one of them" if given else "say how often it runs: `repeat: 3`"
            self.sink.report("E262", syntax.span, message, fix=fix)
            return None, False
        for key, value in (("max", syntax.maximum), ("epsilon", syntax.epsilon)):
            if value is not None and given[0] != "until":
                message = f"`{key}` goes with `until`, and `{self.name}` has `{given[0]}`"
                self.sink.report("E262", value.span(value.root), message, fix=f"remove `{key}`")
                return None, False
        if given[0] == "until" and syntax.maximum is None:
            message = f"`{self.name}` runs until its samples halt, and some may never: it needs a `max`"
            self.sink.report("E263", syntax.span, message, fix="say how many steps at the most: `max: 20`")
            return None, False
        which = syntax.maximum if given[0] == "until" else kinds[given[0]]
        assert which is not None
        return self._size(which, given[0]), given[0] == "over"

    def _size(self, syntax: Syntax, what: str) -> DimLike | None:
        from r2d2c.resolve.evaluate import Evaluator

        scratch = RegionBuilder(self.program, "dims", "model", "dims")
        scratch.sized = self.around.sized
        result: Any = Evaluator(scratch, syntax).expression(syntax.root)
        span = syntax.span(syntax.root)
        if isinstance(result, Failed):
            return None
        if isinstance(result, (int, Dim)) and not isinstance(result, bool):
            if isinstance(result, int) and result < 1:
                self.sink.report("E264", span, f"a loop runs at least once, and `{what}` is {int(result)}")
                return None
            return result
        wanted = "the name of a dim" if what == "over" else "a number or the name of a dim"
        self.sink.report("E264", span, f"`{what}` is {wanted}, not {kind_of(result)}")
        return None

    # -- what goes in
    def _carry(self, carry: CarrySyntax) -> tuple[CarrySyntax, TensorType]:
        from r2d2c.resolve.dims import tensor_type

        return carry, tensor_type(carry.type, carry.span, self.program)

    def _described(self, carry: CarrySyntax, type_: TensorType) -> Carry:
        rule: CarryCredit = "backprop"
        every = 0
        if carry.credit is not None:
            root = carry.credit.nodes[carry.credit.root]
            called = root.kind == "call"
            head = carry.credit.nodes[root.args[0]] if called else root
            number = carry.credit.nodes[root.args[1]].value if called and len(root.args) == 2 else None
            span = carry.credit.span(carry.credit.root)
            name = head.value if head.kind == "name" else None
            if name in ("backprop", "local", "eprop") and not called:
                rule = "local" if name == "local" else "eprop" if name == "eprop" else "backprop"
            elif (
                name == "truncate"
                and isinstance(number, int)
                and not isinstance(number, bool)
                and number >= 1
            ):
                rule, every = "truncate", int(number)
            elif name == "truncate":
                self.sink.report(
                    "E265", span, "`truncate(k)` says over how many steps gradients go back, 1 or more"
                )
            else:
                message = f"the credit of a carry is `backprop`, `truncate(k)`, `local` or `eprop`, not `{span.text}`"
                fix = suggest(str(name or ""), ("backprop", "truncate", "local", "eprop"))
                self.sink.report("E265", span, message, fix=fix)
        return Carry(carry.name, type_, rule, every, carry.span)

    def _sequence(self, syntax: Syntax) -> Any:
        from r2d2c.resolve.evaluate import Evaluator

        evaluator = Evaluator(self.around, syntax)
        evaluator.place = f"{self.name}.each"
        return evaluator.as_value(Placed(evaluator.expression(syntax.root), syntax.span(syntax.root)))

    def _numbers(self, trips: DimLike) -> Value:
        """1, 2, …: the number of the step."""
        around = self.around
        counted = around.add(around.fresh(f"{self.name}/arange"), "arange", (), {"n": trips}, ("arange",))
        one = around.constant(1)
        return around.add(around.fresh(f"{self.name}/step"), "add", (counted, one), {}, (STEP,))

    def _stack(self, known: set[str], trips: DimLike) -> bool:
        """Give every step parameters of its own: those of the body get an axis of steps."""
        most = max(
            (high for name, (_, high) in self.program.ranges.items() if trips == symbol(name)), default=0
        )
        count = int(trips) if isinstance(trips, int) else most
        if not count:
            message = f"`parameters: per_step` needs to know the most steps, and `{trips}` has no bound"
            self.sink.report(
                "E270", self.syntax.span, message, fix=f"give it a range: `dims: {{{trips}: 1..8}}`"
            )
            return False
        # These are one instance, wherever they are used first.
        nets = {*self.program.hypernets, *self.program.memories.shared}
        for name, row in self.program.storage.items():
            one = row.owner.partition(".")[0] in nets or row.init.kind == "places"
            if name not in known and row.stack is None and not one:
                self.program.storage[name] = replace(row, stack=(self.step.name, count))
        return True

    # -- the body
    def _body(
        self, narrow: dict[str, Narrow], carries: list[tuple[CarrySyntax, TensorType]], held: Held
    ) -> Any:
        """Evaluate the statements of a step; how it halts, None, or `FAILED`."""
        from r2d2c.resolve.evaluate import Evaluator

        step, syntax = self.step, self.syntax
        ports = dict(step.names)
        held.enter(step)
        evaluator = Evaluator(step, syntax.body)
        for statement in syntax.body.statements:
            evaluator.statement(statement)
            span = evaluator.span(statement.root)
            if statement.returns:
                fix = "give the value a name: `h = …`"
                self.sink.report("E236", span, "`return` is for blocks", fix=fix)
                return FAILED
            if not statement.targets:
                self.sink.report(
                    "E234", span, "this value is computed and not used", fix="give it a name: `h = …`"
                )
                return FAILED
            for name, *_ in statement.targets:
                found = step.names.get(name)
                if isinstance(found, (bool, int, float)):
                    step.names[name] = step.constant(found)
                elif isinstance(found, LoopResult) and any(c.name == name for c, _ in carries):
                    step.names[name] = evaluator.as_value(Placed(found, span))
                if name in narrow and isinstance(step.names[name], Value):
                    step.names[name] = narrow[name].apply(step, step.names[name], span)
        halt: Any = None
        if syntax.until is not None:
            rule = Evaluator(step, syntax.until)
            rule.place = f"{self.name}.{HALT}"
            value = rule.as_value(
                Placed(rule.expression(syntax.until.root), syntax.until.span(syntax.until.root))
            )
            if value is FAILED:
                return FAILED
            halt = value
        own = [(carry.name, carry.span) for carry, _ in carries]
        kept = [(carry.name, carry.origin) for carry in held.carries]
        if not held.leave(step) or not next_values(step, ports, [*own, *kept], self.name):
            return FAILED
        if halt is None:
            return None
        return Halt(step.expose(HALT, halt), self._epsilon())

    def _epsilon(self) -> float:
        syntax = self.syntax.epsilon
        if syntax is None:
            return 0.01
        value = syntax.nodes[syntax.root].value
        if syntax.nodes[syntax.root].kind == "number" and isinstance(value, (int, float)) and 0 <= value < 1:
            return float(value)
        span = syntax.span(syntax.root)
        self.sink.report("E264", span, f"`epsilon` is at least 0 and less than 1, not `{span.text}`")
        return 0.01

    def _gives(self, halt: Any) -> tuple[Given, ...]:
        ports = range(len(self.step.outputs))
        found = [Given("last", port) for port in ports] + [Given("steps", port) for port in ports]
        if isinstance(halt, Halt):
            found += [Given("mean", port) for port in ports if port != halt.port]
            found += [Given("count", halt.port), Given("ponder", halt.port)]
        return tuple(found)

    def _finish(self, described: Loop, inputs: list[Value]) -> None:
        around, step = self.around, self.step
        names = [port.name for port in step.outputs]
        outputs = []
        for given in described.gives:
            name = names[given.port]
            outputs.append(name if given.kind == "last" else f"{name}.{given.kind}")
            if given.kind in ("count", "ponder"):
                outputs[-1] = given.kind
        attrs = {"region": step.name, "loop": described}
        node = around.add(f"{self.name}/loop", "loop", tuple(inputs), attrs, tuple(outputs), self.syntax.span)
        for number, output in enumerate(outputs):
            around.expose(output, Value(node.node, number))
        self.program.regions[step.name] = step.finish()
        self.program.regions[self.name] = around.finish()
