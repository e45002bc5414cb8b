"""A test double of the lowering context: runs an op's `lower` at once on real tensors, without the pipeline.

`run_example(op, example)` gives what the shape rule says and what torch gives, for tests of op records.
"""

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from r2d2c.diagnostics import Sink
from r2d2c.lower.builder import function
from r2d2c.ops.record import Example, Op, Shapes
from r2d2c.source import Source
from r2d2c.syntax.expressions import parse_expression
from r2d2c.syntax.lexer import Region
from r2d2c.types import TensorType

DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64,
    "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_TYPE = re.compile(r"(\w+)\[([\d, ]*)\](?:\s*<\s*(\d+))?")


@dataclass
class Eager:
    """The context `b` of `Op.lower`, with tensors in place of fx nodes."""

    arguments: dict[str, Any]
    out: tuple[TensorType, ...]
    training: bool = True
    called: list[str] = field(default_factory=list)

    def __call__(self, target: str, *args: Any, **keywords: Any) -> Any:
        self.called.append(target)
        return function(target)(*args, **keywords)

    def method(self, name: str, x: Any, *args: Any, **keywords: Any) -> Any:
        self.called.append(name)
        return getattr(x, name)(*args, **keywords)

    def python(self, target: Any, *args: Any) -> Any:
        return target(*args)

    def item(self, x: Any, index: int) -> Any:
        return x[index]

    def type(self, name: str) -> Any:
        return type_of(self.arguments[name])

    def types(self, name: str) -> tuple[Any, ...]:
        return tuple(type_of(x) for x in self.arguments[name])

    def size(self, dim: Any) -> int:
        return int(dim)

    def sizes(self, dims: Any) -> tuple[int, ...]:
        return tuple(int(dim) for dim in dims)

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[name]

    def generator(self, like: Any) -> torch.Generator:
        return torch.Generator(like.device).manual_seed(0)


def type_of(value: Any) -> TensorType | None:
    """The type of a tensor or of a Python number."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return TensorType(NAMES[value.dtype], tuple(value.shape))
    return TensorType("bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float")


def random_tensor(text: str, example: Example, generator: torch.Generator) -> torch.Tensor:
    """A tensor of a type such as ``i64[4] < 10``."""
    found = _TYPE.fullmatch(text.strip())
    assert found is not None, f"not a type: {text}"
    dtype = DTYPES[found[1]]
    dims = [int(d) for d in found[2].split(",") if d.strip()]
    if dtype == torch.bool:
        return torch.rand(dims, generator=generator) < 0.5
    low, high = example.range
    if not dtype.is_floating_point:
        first = 1 if low > 0 else 0
        return torch.randint(first, int(found[3] or 5), dims, generator=generator).to(dtype)
    return (torch.rand(dims, generator=generator, dtype=torch.float64) * (high - low) + low).to(dtype)


def evaluate(call: str, values: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of ``op(…)``: positional ones and those by name. Unknown names are choices."""
    sink = Sink()
    syntax = parse_expression(Region(Source("example", call), 0, call), sink)
    assert syntax is not None, [str(d) for d in sink.diagnostics]
    results: list[Any] = []
    for node in syntax.nodes:
        parts = [results[i] for i in node.args]
        match node.kind:
            case "name":
                results.append(None if node.value == "none" else values.get(str(node.value), node.value))
            case "number" | "bool" | "string":
                results.append(node.value)
            case "tuple":
                results.append(tuple(parts))
            case "unary":
                results.append(-parts[0])
            case "call":
                results.append((parts[1:], {name: results[i] for name, i in node.keywords}))
            case _:
                raise AssertionError(f"{call}: an example is one call with plain arguments")
    return results[-1]


def bind(op: Op, example: Example, seed: int = 0) -> SimpleNamespace:
    """A namespace with one attribute per argument, values being random tensors; params still missing are absent."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: random_tensor(text, example, generator) for name, text in example.inputs.items()}
    positional, named = evaluate(example.call, inputs)
    bound: dict[str, Any] = {}
    if op.args and op.args[0].kind == "values":
        single = len(positional) == 1 and isinstance(positional[0], tuple)
        bound[op.args[0].name] = tuple(positional[0] if single else positional)
    else:
        assert len(positional) <= len(op.args), f"{example.call}: too many arguments"
        bound.update(zip((arg.name for arg in op.args), positional, strict=False))
    unknown = named.keys() - {arg.name for arg in op.args}
    assert not unknown, f"{example.call}: no argument {unknown}"
    bound.update(named)
    for arg in op.args:
        if arg.name not in bound:
            if arg.kind == "param" and arg.required:
                continue
            assert not arg.required, f"{example.call}: `{arg.name}` is missing"
            bound[arg.name] = arg.default
            continue
        value = bound[arg.name]
        if arg.kind == "choice":
            assert value in arg.choices or (value is None and not arg.required), (
                f"{example.call}: `{value}` is not one of {arg.choices}"
            )
        elif arg.kind in ("axes", "sizes") and value is not None and not isinstance(value, tuple):
            bound[arg.name] = (value,)
        elif arg.kind == "float" and value is not None:
            bound[arg.name] = float(value)
        elif arg.kind == "param" and value is False:
            bound[arg.name] = None
    _make_params(op, bound, example, generator)
    return SimpleNamespace(**bound)


def _make_params(op: Op, bound: dict[str, Any], example: Example, generator: torch.Generator) -> None:
    missing = [arg.name for arg in op.args if arg.name not in bound]
    if missing and op.params is not None:
        made = op.params(Shapes(), SimpleNamespace(**{**types_of(op, bound), **dict.fromkeys(missing)}))
        for name in missing:
            spec = made.get(name)
            dims = ", ".join(str(int(d)) for d in spec.dims) if spec else ""
            bound[name] = random_tensor(f"f32[{dims}]", example, generator) if spec else None


def types_of(op: Op, bound: dict[str, Any]) -> dict[str, Any]:
    """The namespace that a shape rule sees."""
    seen = dict(bound)
    for arg in op.values:
        if arg.name in seen:
            value = seen[arg.name]
            seen[arg.name] = tuple(map(type_of, value)) if arg.kind == "values" else type_of(value)
    return seen


@dataclass
class Outcome:
    """What the shape rule says, and what torch gives."""

    arguments: SimpleNamespace
    types: tuple[TensorType, ...]
    results: tuple[Any, ...]
    shapes: Shapes
    called: list[str]


def run_example(op: Op, example: Example, seed: int = 0, training: bool = True) -> Outcome:
    """Run an example through the shape rule and the lowering."""
    a = bind(op, example, seed)
    shapes = Shapes()
    said = op.shape(shapes, SimpleNamespace(**types_of(op, vars(a))))
    types = said if isinstance(said, tuple) else (said,)
    b = Eager(vars(a), types, training)
    if isinstance(op.lower, str):
        # A dotted name takes the arguments in the order of the signature.
        result = b(op.lower, *vars(a).values())
    else:
        result = op.lower(b, a)
    results = tuple(result) if isinstance(result, (tuple, list)) and len(types) > 1 else (result,)
    return Outcome(a, types, results, shapes, b.called)


def check_example(op: Op, example: Example, seed: int = 0) -> Outcome:
    """Assert that the shape rule says what torch gives. Weak types are those of Python numbers."""
    outcome = run_example(op, example, seed)
    assert len(outcome.types) == len(outcome.results) == len(op.outputs) or "parts" in vars(outcome.arguments)
    for type_, result in zip(outcome.types, outcome.results, strict=True):
        assert type_of(result) == type_, (
            f"{example.call}: {type_of(result)} from torch, {type_} from the rule"
        )
    return outcome
