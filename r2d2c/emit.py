"""`compile --emit python`: one readable file that needs only torch.

It has the same parameters (names and first numbers), outputs, losses and gradients as the compiled model.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from math import lcm
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.fx as fx

from r2d2c import emit_op_graphs, emit_state, emit_storage
from r2d2c.diagnostics import Sink
from r2d2c.emit_loops import Loops, loop_calls, passed_on, said_of, usual_values
from r2d2c.graph import Argument
from r2d2c.lower.graphs import LoweredVisit, TrainingLowering, accumulate, lower_forward, lower_inference
from r2d2c.lower.loops import LoopCall
from r2d2c.ops import functions

if TYPE_CHECKING:
    from r2d2c.model import Model

_DELETIONS = re.compile(r";  \w+(?: = \w+)* = None$")
_BUILTIN = re.compile(r"torch\._C\._(?:nn|special)\.(\w+)")
_BACKWARD = re.compile(r"^    \w+ = torch\.autograd\.backward\(")
_RETURN = re.compile(r"^    return (.*)$")
# How fx names what the file defines itself.
_OURS = re.compile(r"\br2d2c_(?:lower_graphs|lower_opgraph_call|ops_functions)_(?=\w+\()")

_HEAD = '''"""{title}

Written by r2d2c {version} from {source}. It needs only torch.
{doc}"""

{imports}

{helpers}

class {name}(nn.Module):
    """{summary}"""

    def __init__(self) -> None:
        super().__init__()
{parameters}
'''

_HELPERS = {
    "make": '''
def make(shape, kind, value, seed, dtype=torch.float32):
    """First numbers of a parameter: constant, uniform(-value, value), normal(std=value), orthogonal or eye."""
    tensor = torch.empty(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    if kind == "uniform":
        return tensor.uniform_(-value, value, generator=generator)
    if kind == "normal" or (kind == "orthogonal" and tensor.dim() < 2):
        return tensor.normal_(0.0, value, generator=generator)
    if kind == "orthogonal":
        return nn.init.orthogonal_(tensor, value, generator=generator)
    if kind == "eye":
        tensor.zero_()
        (tensor.reshape(tensor.shape[0], -1).diagonal() if tensor.dim() > 1 else tensor).fill_(1.0)
        return tensor
    return tensor.fill_(value)


def put(root, name, tensor, kind="param"):
    """Register a tensor under a dotted name: trained, or as a buffer."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    if kind == "param":
        root.register_parameter(last, nn.Parameter(tensor))
    else:
        root.register_buffer(last, tensor)
''',
    "Rng": '''
class Rng:
    """Random numbers of a learning pass: a generator for every (seed, node, step)."""

    def __init__(self, seed, step, place=""):
        self.seed, self.step, self.place = seed, step, place

    def generator(self, node, device):
        key = f"{self.seed}\\0{node}{self.place}\\0{self.step}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
''',
    "Rng.at": '''
    def at(self, place):
        """Where a step of a loop draws from."""
        return Rng(self.seed, self.step, f"{self.place}#{place}")
''',
    "accumulate": '''
def accumulate(parameter, gradient):
    """Add to the gradient of a parameter, as backward() does."""
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
''',
}


def emit_python(model: Model) -> str:
    """The text of the file."""
    spec, graph = model.spec, model._training_graph
    ops = spec.ops
    inference = lower_inference(model._inference_graph, ops)
    shown = model._forward_losses
    losses = lower_forward(graph, ops, [(name, graph.losses[name].value) for name in shown], training=False)
    rhythms, passes = _passes(model)
    random = any(each.lowered.random for each in passes)
    every = [inference.fx, losses.fx, *(each.lowered.fx for each in passes)]
    inner = [call.fx for each in every for call in loop_calls(each)]
    _refuse_foreign(spec.name, *every, *inner)
    loops = Loops(lambda head, doc, step: _method(head, doc, step, None, loops), _names(*every))
    loops.add(every)
    arguments = usual_values(graph.arguments)
    taken = [p.name for p in model._inference_graph.body.inputs]
    inputs = ["self", *emit_state.parameters(graph, taken), *arguments]
    state = emit_state.fill_in(model.graph)
    given = emit_state.parameters(graph, [p.name for p in graph.body.inputs])
    methods = [
        _method(
            f"def forward({', '.join(inputs)}):",
            "The composed model: outputs by name.",
            inference.fx,
            None,
            loops,
            prelude=state,
        ),
        _method(
            f"def losses({', '.join(['self', *given, *arguments])}):",
            "The losses of a batch as the model is used, unweighted, by name.",
            losses.fx,
            lambda results: f"return {_dictionary(shown, results)}",
            loops,
            decorator="@torch.no_grad()",
            prelude=state,
        ),
        *_learning(
            rhythms, passes, given, [port.name for port in graph.body.outputs], graph.arguments, loops, state
        ),
    ]
    body = "".join(f"    {line}\n" if line else "\n" for text in methods for line in text.split("\n"))
    called = _called(*every, *inner)
    written = loops.written()
    helpers = [_HELPERS["make"]]
    imports = ["import torch", "from torch import nn"]
    if random:
        helpers.append(_HELPERS["Rng"] + (_HELPERS["Rng.at"] if inner else ""))
        imports.insert(0, "import hashlib\n")
    if "accumulate(" in body:
        helpers.append(_HELPERS["accumulate"])
    if called:
        helpers += [f"\n{inspect.getsource(function)}" for function in called]
        imports.insert(0, "from typing import Any\n")
    helpers += emit_storage.helpers(graph)
    helpers += [*emit_op_graphs.helpers([*every, *inner], ops.kinds.values()), *loops.helpers(), *written]
    own = loops.imports()
    imports += own[-1:] if own and "torch" in own[-1] else []
    if loops.halts:
        imports.insert(0, "\n".join(line for line in own if "torch" not in line) + "\n")
    if "math." in body or any("math." in text for text in written):
        imports.insert(0, "import math\n")
    if any(re.search(r"(?<![\w.])inf\b", text) for text in (body, *written)):
        imports.insert(0, "from math import inf\n")
    document = spec.spec.document
    head = _HEAD.format(
        title=f"{spec.name}, a compiled network.",
        version=_version(),
        source=spec.spec.source.name.replace("\\", "/").rpartition("/")[2],
        doc="".join(
            f"\n{text}\n" for text in ((document.doc or "").strip(), said_of(graph.arguments)) if text
        ),
        imports="\n".join(imports),
        helpers="\n".join(helpers).strip("\n") + "\n",
        name=_class_name(spec.name),
        summary=(document.doc or spec.name).strip().splitlines()[0].replace('"', "'"),
        parameters=emit_storage.statements(model, random or len(passes) > 1),
    )
    return head + "\n" + body.rstrip("\n") + "\n"


class _Pass(NamedTuple):
    """A learning pass: for every rhythm n of ``every=n`` whether its losses train, and the losses it has."""

    trains: tuple[bool, ...]
    lowered: LoweredVisit
    losses: list[str]


def _passes(model: Model) -> tuple[list[int], list[_Pass]]:
    """The rhythms of a model, and every learning pass that differs."""
    sometimes = [loss for loss in model._training_graph.losses.values() if loss.every > 1]
    rhythms = list(dict.fromkeys(loss.every for loss in sometimes))
    steps = {tuple(step % n == 0 for n in rhythms): step for step in reversed(range(lcm(*rhythms)))}
    found = []
    for trains, step in reversed(steps.items()):
        skip = frozenset(loss.name for loss in sometimes if step % loss.every)
        graph = model._training_graph_without(skip) if skip else model._training_graph
        found.append(_Pass(trains, TrainingLowering(graph, model.spec.ops).whole(), list(graph.losses)))
    return rhythms, found


def _learning(
    rhythms: list[int],
    passes: list[_Pass],
    batch: list[str],
    outputs: list[str],
    arguments: Mapping[str, Argument],
    loops: Loops,
    state: list[str],
) -> Iterator[str]:
    """The method `learn`; one for each pass, and `learn` to choose, if there are several."""
    given = ["self", *batch, *usual_values(arguments)]
    doc = "One learning pass: adds to every .grad; gives the losses and the outputs."
    if len(passes) > 1:
        trains = ", ".join(f"self.step % {n} == 0" for n in rhythms)
        table = ", ".join(f"{each.trains}: self.learn_{number}" for number, each in enumerate(passes))
        lines = [
            f"def learn({', '.join(given)}):",
            f'    """{doc} Some losses train now and then."""',
            f"    learn = {{{table}}}[{trains},]",
            f"    return learn({', '.join([*(p.partition('=')[0] for p in batch), *passed_on(arguments)])})",
        ]
        yield "\n".join(lines) + "\n"
    for number, each in enumerate(passes):
        name = "learn" if len(passes) == 1 else f"learn_{number}"
        prelude = [*state, "rng = Rng(self.seed, self.step)"] if each.lowered.random else [*state]
        prelude += ["self.step += 1"] if each.lowered.random or len(passes) > 1 else []

        def learned(results: list[str], losses: list[str] = each.losses) -> str:
            made = [f"{r}.detach()" for r in results]
            found = _dictionary(losses, made[len(outputs) :])
            return f"return {found}, {_dictionary(outputs, made[: len(outputs)])}"

        said = doc if len(passes) == 1 else f"With the losses {', '.join(each.losses)}."
        yield _method(
            f"def {name}({', '.join(given)}):", said, each.lowered.fx, learned, loops, prelude=prelude
        )


def _names(*graphs: fx.Graph) -> set[str]:
    """The local variables of some graphs."""
    return {name for graph in graphs for node in graph.nodes for name in (node.name, str(node.target))}


def _refuse_foreign(name: str, *graphs: fx.Graph) -> None:
    """The file can only call torch and what it defines: code of a plug-in cannot be written into it."""
    sink = Sink()
    for graph in graphs:
        for call in loop_calls(graph):
            if call.eprop is not None:
                first = next(carry for carry in call.loop.carries if carry.credit == "eprop")
                message = f"`{call.loop.name}` learns by eligibility traces, which a file that needs only torch does not hold"
                sink.report("E567", first.origin, message, fix="write the graphs: `--emit fx`")
        for node in graph.nodes:
            if node.op != "call_function" or node.target is accumulate or isinstance(node.target, LoopCall):
                continue
            module = getattr(node.target, "__module__", None) or "torch"
            if module in (functions.__name__, emit_op_graphs.ENGINE):
                continue
            if module.partition(".")[0] not in ("torch", "_operator", "operator", "builtins"):
                made = node.meta.get("r2d2c")
                op = made[0].op if made is not None else str(node.target)
                span = made[0].origin if made is not None else None
                message = f"`{op}` runs code of a plug-in, which a file that needs only torch cannot hold"
                sink.report("E613", span, message)
    sink.stop_on_errors()


def _called(*graphs: fx.Graph) -> list[Callable[..., object]]:
    """What of ours some graphs call, and what that calls, in the order it is defined in."""
    known = {
        name: made
        for name, made in vars(functions).items()
        if inspect.isfunction(made) or (inspect.isclass(made) and made.__module__ == functions.__name__)
    }
    waiting = [
        node.target.__name__
        for graph in graphs
        for node in graph.nodes
        if getattr(node.target, "__module__", None) == functions.__name__
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in _words(known[name]) if other in known]
    return sorted((known[name] for name in found), key=lambda made: inspect.getsourcelines(made)[1])


def _words(made: Any) -> list[str]:
    """The global names that a function, or the functions of a class, use."""
    parts = vars(made).values() if inspect.isclass(made) else [made]
    inner = [getattr(part, "__func__", part) for part in parts]
    return [word for f in inner if inspect.isfunction(f) for word in f.__code__.co_names]


def _version() -> str:
    from r2d2c import __version__

    return __version__


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"\W+|_", name) if part) or "Model"


def _dictionary(names: list[str], values: list[str]) -> str:
    return "{" + ", ".join(f'"{n}": {v}' for n, v in zip(names, values, strict=True)) + "}"


def _method(
    signature: str,
    doc: str,
    graph: fx.Graph,
    returns: Callable[[list[str]], str] | None,
    loops: Loops,
    decorator: str = "",
    prelude: list[str] | None = None,
) -> str:
    """A function from an fx graph: fx's own statements, with the place in the spec beside them."""
    places = {node.name: _place(node) for node in graph.nodes}
    lines = [decorator] if decorator else []
    lines += [signature, f'    """{doc}"""', *(f"    {line}" for line in prelude or [])]
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    reads = {node.name: f"self.{node.target}" for node in graph.nodes if node.op == "get_attr"}
    word = re.compile(
        r"(?<![\w.])(" + "|".join(map(re.escape, sorted(reads, key=len, reverse=True))) + r")(?!\w)"
    )
    shown = ""
    code = graph.python_code("self")
    for line in code.src.splitlines():
        if not line.startswith("    ") or not line.strip():
            continue
        line = loops.named(_OURS.sub("", _BUILTIN.sub(_public, _DELETIONS.sub("", line))), code.globals)
        variable = line.strip().partition(" = ")[0]
        if variable in reads:
            continue
        if reads:
            line = word.sub(lambda match: reads[match[1]], line)
        line = _BACKWARD.sub("    torch.autograd.backward(", line)
        found = _RETURN.match(line)
        if found is not None and returns is not None:
            line = f"    {returns([str(r) for r in result])}"
        place = places.get(variable, "")
        if place and place != shown:
            line = f"{line}  # {place}"
            shown = place
        lines.append(line)
    return "\n".join(lines) + "\n"


def _public(match: re.Match[str]) -> str:
    """The public name of a builtin that fx names by where it lives."""
    functional = getattr(torch.nn.functional, match[1], None)
    if functional is not None and functional is getattr(torch._C._nn, match[1], None):
        return f"torch.nn.functional.{match[1]}"
    return match[0]


def _place(node: fx.Node) -> str:
    trace = node.meta.get("stack_trace") or ""
    found = re.search(r'File "([^"]*)", line (\d+), in (.*)', trace)
    if found is None:
        return ""
    return f"{found[1].replace(chr(92), '/').rpartition('/')[2]}:{found[2]} {found[3]}"
