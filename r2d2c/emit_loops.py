"""Loops in the file that `compile --emit python` writes: a function for one step, and one with a plain `for`."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.fx as fx

from r2d2c.graph import Argument
from r2d2c.loops import Given
from r2d2c.lower import halting
from r2d2c.lower.builder import identifier
from r2d2c.lower.loops import LoopCall, Tied

# Stands for the name of a function in its text, until it has one.
_NAME = "\0"
_FREED = re.compile(r";  (?:\w+ = )+None$", re.MULTILINE)
# Writes a function from its signature, its docstring and its graph.
Body = Callable[[str, str, fx.Graph], str]

TIED = """
def tied(value, *inputs):
    \'\'\'A value whose gradient with respect to these inputs is 0, not missing, where it does not depend on them.\'\'\'
    found = [x for x in inputs if isinstance(x, torch.Tensor)]
    return Tied.apply(value, *found) if found and torch.is_grad_enabled() else value
""".replace("'''", '"""')


def source_of(what: Any) -> str:
    """The code of a class, or of a whole module without its imports, as it was written but for the types."""
    text = inspect.getsource(what)
    lines, tree = text.splitlines(), ast.parse(text)
    for start, end in sorted(_left_out(tree), reverse=True):
        (line, column), (last, behind) = start, end
        lines[line - 1 : last] = [lines[line - 1][:column] + lines[last - 1][behind:]]
    return "\n" + re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines).strip()) + "\n"


Place = tuple[int, int]


def _left_out(tree: ast.Module) -> Iterator[tuple[Place, Place]]:
    """Where the types of functions stand, and what a file needs only for them and for its imports: line and column."""
    for each in tree.body:
        alias = isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) in ("Tensors", "History")
        if alias or isinstance(each, ast.Import | ast.ImportFrom | ast.Expr):
            yield _start(each), _end(each)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        arguments = function.args
        every = [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ]
        for argument in every:
            if argument is not None and argument.annotation is not None:
                line, column = _start(argument)
                yield (line, column + len(argument.arg)), _end(argument)
        if function.returns is not None:
            line, column = _start(function.returns)
            yield (line, column - len(" -> ")), _end(function.returns)
        for each in function.body:
            if isinstance(each, ast.AnnAssign) and each.value is not None:
                yield _end(each.target), _end(each.annotation)


def _start(node: ast.stmt | ast.expr | ast.arg) -> Place:
    return node.lineno, node.col_offset


def _end(node: ast.stmt | ast.expr | ast.arg) -> Place:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


def usual_values(arguments: Mapping[str, Argument]) -> list[str]:
    """Parameters such as ``depth=3``, behind a bare ``*``."""
    if not arguments:
        return []
    return ["*", *(f"{identifier(a.name)}={_number(a)}" for a in arguments.values())]


def passed_on(arguments: Mapping[str, Argument]) -> list[str]:
    return [f"{identifier(name)}={identifier(name)}" for name in arguments]


def said_of(arguments: Mapping[str, Argument]) -> str:
    """What the docstring of the file says of a model's arguments."""
    lines = []
    for a in arguments.values():
        allowed = ", ".join(f"{v:g}" for v in a.allowed) if a.allowed else f"{a.low:g} to {a.high:g}"
        lines.append(f"{identifier(a.name)}, {_number(a)} where it is not given, may be {allowed}.")
    return "\n".join(lines)


def _number(argument: Argument) -> str:
    return str(int(argument.usual)) if argument.kind == "size" else repr(float(argument.usual))


def loop_calls(graph: fx.Graph) -> list[LoopCall]:
    """The loops that a graph calls, those inside of them first."""
    found: list[LoopCall] = []
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, LoopCall):
            found += [*loop_calls(node.target.fx), node.target]
    return found


def fx_text(graphs: Mapping[str, fx.GraphModule]) -> str:
    """The code of fx graphs, for `compile --emit fx`; the steps of the loops they call come before them."""
    parts: dict[str, None] = {}
    for name, module in graphs.items():
        for call in loop_calls(module.graph):
            code = call.fx.python_code("self").src.replace("def forward(self, ", "def forward(")
            parts[f"# {name}: one step of run_{call.__name__}\n{_code(code)}"] = None
        parts[f"# {name}\n{_code(module.code)}"] = None
    return "\n\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    # fx frees values as it goes (`a = None`); that is no part of what the code says.
    return _FREED.sub("", text).strip().replace("r2d2c_lower_loops_", "run_")


@dataclass(slots=True)
class Loops:
    """The functions of all loops of a file. ``body`` writes a function, ``taken`` are names that it cannot have."""

    body: Body
    taken: set[str]
    names: dict[int, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    halts: bool = False
    tied: bool = False

    def add(self, graphs: Iterable[fx.Graph]) -> None:
        """Write the loops of some graphs; functions that come to the same text are one."""
        calls = [call for graph in graphs for call in loop_calls(graph)]
        for call in calls:
            for node in call.fx.nodes:
                self.taken.update((node.name, str(node.target)))
        for call in calls:
            if id(call) not in self.names:
                ports = [str(node.target) for node in call.fx.nodes if node.op == "placeholder"]
                base, said = identifier(call.loop.name), f"One step of the loop `{call.loop.name}`."
                step = self._function(
                    f"{base}_step", self.body(f"def {_NAME}({', '.join(ports)}):", said, call.fx)
                )
                self.names[id(call)] = self._function(f"run_{base}", _Run(call, step, ports).text())
        self.halts = any(call.loop.halt is not None for call in calls)
        self.tied = any(any(call.sometimes) for call in calls)

    def helpers(self) -> list[str]:
        """The code that all loops need."""
        found = [source_of(Tied), TIED] if self.tied else []
        return [*found, *([source_of(halting)] if self.halts else [])]

    def imports(self) -> list[str]:
        again = any("checkpoint(" in text for text in self.texts.values())
        until = ["from dataclasses import dataclass, field"]
        last = ["from torch.utils.checkpoint import checkpoint"] if again else []
        return [*(until if self.halts else []), *last]

    def _function(self, base: str, text: str) -> str:
        """The name of a function with this text."""
        found = next((name for name, known in self.texts.items() if known == text), None)
        if found is None:
            number, found = 1, base
            while found in self.texts or found in self.taken:
                number, found = number + 1, f"{base}_{number + 1}"
            self.texts[found] = text
        return found

    def written(self) -> list[str]:
        return [f"\n{text.replace(_NAME, name)}" for name, text in self.texts.items()]

    def named(self, line: str, scope: Mapping[str, Any]) -> str:
        """A line of code in which fx's names of loops are ours."""
        for name, target in scope.items():
            if isinstance(target, LoopCall) and name in line:
                line = line.replace(f"{name}(", f"{self.names[id(target)]}(")
        return line


class _Run:
    """The function that runs a loop; ``step`` is what runs one of its steps."""

    def __init__(self, call: LoopCall, step: str, ports: list[str]) -> None:
        self.call, self.loop, self.step = call, call.loop, step
        first, read = len(self.loop.carries), len(self.loop.carries) + self.loop.sequences
        self.carries, self.sequences, rest = ports[:first], ports[first:read], ports[read:]
        self.sizes = rest[len(rest) - call.sizes :] if call.sizes else []
        self.random = call.random
        self.plain = bool(rest[: len(rest) - call.sizes - call.random])
        self.results: tuple[Any, ...] = next(n for n in call.fx.nodes if n.op == "output").args[0]
        self.used = {"trips", "number", "rest", "rng", "inputs", *ports}
        self.outputs = [self._output(k) for k in range(len(self.results))]
        self.every = {
            k: self._fresh(f"every_{self.outputs[g.port]}")
            for k, g in enumerate(self.loop.gives)
            if g.kind == "steps"
        }

    def _output(self, position: int) -> str:
        if position < len(self.carries):
            return self.carries[position]
        if not any(g.port == position for g in self.loop.gives):
            return "_"
        result = self.results[position]
        return self._fresh(result.name if isinstance(result, fx.Node) else "value")

    def _fresh(self, base: str) -> str:
        name, number = base, 1
        while name in self.used:
            number += 1
            name = f"{base}_{number}"
        self.used.add(name)
        return name

    def text(self) -> str:
        rest = ["*rest"] if self.plain or self.random or self.sizes else []
        given = [*self.carries, *self.sequences, *rest]
        lines = [f"def {_NAME}({', '.join(['trips', *given])}):", f'    """{self._doc()}"""']
        if any(self.call.sometimes):
            lines.append(f"    inputs = ({', '.join(given)}{',' if len(given) == 1 else ''})")
        if not self.carries and not isinstance(self.loop.trips, int):
            lines += self._none(given)
        lines += [
            f"    {name} = {name}.unbind({axis})"
            for name, axis in zip(self.sequences, self.call.axes, strict=True)
        ]
        lines += self._halting(bool(rest)) if self.loop.halt is not None else self._stepping()
        return "\n".join(lines) + "\n"

    def _none(self, given: list[str]) -> list[str]:
        """Of a loss over steps at a depth that has none of them."""
        learning = f"[x for x in ({', '.join(given)},) if isinstance(x, torch.Tensor) and x.requires_grad]"
        return [
            "    if trips < 1:",
            f"        learning = {learning}",
            "        empty = torch.cat([x.reshape(-1)[:0] for x in learning]) if learning else torch.zeros(0)",
            f"        return (empty,) * {len(self.loop.gives)}",
        ]

    def _stepping(self) -> list[str]:
        lines = [f"    {line}" for line in self._unpacked()]
        lines += [f"    {name} = []" for name in self.every.values()]
        lines.append("    for number in range(trips):")
        targets = f"{', '.join(self.outputs)}{',' if len(self.outputs) == 1 else ''}"
        given = [f"{name}[number]" for name in self.sequences]
        lines += [
            f"        {line}"
            for line in [*self._cuts("(trips - number)"), f"{targets} = {self._call(given)}"]
        ]
        lines += [
            f"        {name}.append({self.outputs[self.loop.gives[k].port]})"
            for k, name in self.every.items()
        ]
        returned = [self._tied(k, self._given(k, given)) for k, given in enumerate(self.loop.gives)]
        return [*lines, f"    return ({', '.join(returned)}{',' if len(returned) == 1 else ''})"]

    def _halting(self, rest: bool) -> list[str]:
        loop, halt, call = self.loop, self.loop.halt, self.call
        assert halt is not None
        names = f"{', '.join(self.carries)}{',' if len(self.carries) == 1 else ''}"
        body = [f"{names} = carries", *self._unpacked(), *self._cuts("number")]
        elements = f"[{', '.join(self.sequences)}]"
        lines = [
            "",
            "    def step(number, carries, elements, rest):",
            *(f"        {line}" for line in body),
            f"        return {self._call(['*elements'] if self.sequences else [])}",
            "",
        ]
        options = {
            "gives": [(given.kind, given.port) for given in loop.gives],
            "halt": halt.port,
            "epsilon": halt.epsilon,
            "samples": call.samples,
            "stacks": call.stacks,
            "default": "torch.float32",
        }
        given = ["step", "trips", f"({names})", elements, "rest" if rest else "()"]
        written = [*given, *(f"{name}={value}" for name, value in options.items())]
        result = "\n".join(["run_until(", *(f"        {each}," for each in written), "    )"])
        if not any(call.sometimes):
            return [*lines, f"    return {result}"]
        returned = [self._tied(k, f"found[{k}]") for k in range(len(loop.gives))]
        return [*lines, f"    found = {result}", f"    return ({', '.join(returned)},)"]

    def _unpacked(self) -> list[str]:
        if not (self.random or self.sizes):
            return []
        names = [*(["*rest"] if self.plain else []), *(["rng"] if self.random else []), *self.sizes]
        return [f"{', '.join(names)}{',' if len(names) == 1 else ''} = rest"]

    def _doc(self) -> str:
        loop = self.loop
        runs = (
            "until every sample has halted, `trips` times at the most"
            if loop.halt is not None
            else "`trips` times"
        )
        said = f"The loop `{loop.name}`: its step {runs}."
        if loop.recompute:
            said += " The inside of a step is computed again for its backward."
        return said

    def _cuts(self, left: str) -> list[str]:
        """Where no gradient goes back over a step."""
        lines = []
        for name, carry in zip(self.carries, self.loop.carries, strict=True):
            if carry.credit == "truncate":
                lines += [f"if number and {left} % {carry.every} == 0:", f"    {name} = {name}.detach()"]
            elif carry.credit == "local":
                lines += ["if number:", f"    {name} = {name}.detach()"]
        return lines

    def _call(self, elements: list[str]) -> str:
        given = [*self.carries, *elements, *(["*rest"] if self.plain else [])]
        given += [f'rng.at(f"{self.call.place}.{{number}}")'] if self.random else []
        given += self.sizes
        if not self.loop.recompute:
            return f"{self.step}({', '.join(given)})"
        return (
            f"checkpoint({', '.join([self.step, *given, 'use_reentrant=False', 'preserve_rng_state=False'])})"
        )

    def _given(self, position: int, given: Given) -> str:
        if given.kind != "steps":
            return self.outputs[given.port]
        values = self.every[position]
        if not _is_tensor(self.results[given.port]):
            values = f"[torch.as_tensor(value) for value in {values}]"
        return f"torch.stack({values}, {self.call.stacks[position]})"

    def _tied(self, position: int, value: str) -> str:
        some = self.call.sometimes[position] if self.call.sometimes else ()
        return f"tied({value}, {', '.join(f'inputs[{k}]' for k in some)})" if some else value


def _is_tensor(result: Any) -> bool:
    """Whether a step gives a tensor here, and no plain number."""
    if not isinstance(result, fx.Node):
        return False
    module = getattr(result.target, "__module__", "") if result.op == "call_function" else ""
    item = getattr(result.target, "__name__", "") == "getitem"
    return result.target != "size" and (module not in ("_operator", "operator") or item)


__all__ = ["Loops", "fx_text", "loop_calls", "passed_on", "said_of", "usual_values"]
