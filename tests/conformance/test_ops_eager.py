"""Every example of every op, compiled: its shape rule against FakeTensor, its numbers, dtypes and gradients."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
import torch.fx as fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from r2d2c.graph import Value
from r2d2c.model import Model
from r2d2c.ops.record import Example, Op
from r2d2c.ops.registry import builtin
from r2d2c.types import TensorType, evaluate
from tests.conformance.models import (
    BATCHED_CASES,
    FLOAT_CASES,
    INFERENCE_CASES,
    batch_of,
    inputs_of,
    model_of,
)
from tests.unit.eager_double import type_of

BATCH = 6
# torch 2.13 has no symbolic form of these: their fake tensors are of known sizes, two of them.
NO_SYMBOLIC_FORM = {"bilinear"}
# Inputs that torch takes as constants.
CONSTANTS = {"batch_norm": {"m", "v"}}


class Faked(fx.Interpreter):
    """Runs an inference graph on fake tensors and keeps what every value of the IR graph became."""

    def __init__(self, model: Model, mode: FakeTensorMode) -> None:
        super().__init__(model.graphs["inference"])
        self.mode = mode
        self.seen: dict[Value, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        made = n.meta.get("r2d2c")
        if made is not None and n.op not in ("placeholder", "get_attr"):
            self.seen[Value(made[0].id, made[1])] = result
        return result

    def fetch_attr(self, target: str) -> Any:
        return self.mode.from_tensor(super().fetch_attr(target), static_shapes=True)


def fake_types(
    model: Model, batch: dict[str, torch.Tensor], symbolic: bool
) -> list[tuple[Value, TensorType, Any]]:
    """What the shape rules said and what the fake tensors are, for every value and the outputs."""
    shape_env = ShapeEnv()
    with FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True) as mode:
        runner = Faked(model, mode)
        fakes = []
        for name in model._inference_lowered.inputs:
            tensor = batch[name]
            dims = [
                DimDynamic.DYNAMIC if symbolic and axis == 0 else DimDynamic.STATIC
                for axis in range(tensor.dim())
            ]
            context = StatelessSymbolicContext(dynamic_sizes=dims)
            fakes.append(mode.from_tensor(tensor, symbolic_context=context))
        with torch.no_grad():
            outputs = runner.run(*fakes)
    graph = model._inference_graph
    found = [(value, graph.types[value], result) for value, result in runner.seen.items()]
    return found + [(port.value, graph.types[port.value], outputs[port.name]) for port in graph.body.outputs]


def hint(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


@pytest.mark.parametrize(("op", "example"), INFERENCE_CASES)
def test_the_shape_rule_says_what_fake_tensors_give(op: Op, example: Example) -> None:
    for value, said, result in fake_types(model_of(op, example), batch_of(example), symbolic=False):
        if said.weak:
            assert not isinstance(result, torch.Tensor) or result.dim() == 0
            continue
        assert type_of(result) == said, value


def replace_first(example: Example, size: int) -> Example:
    inputs = {name: re.sub(r"\[\s*\d+", f"[{size}", text, count=1) for name, text in example.inputs.items()}
    return Example(example.call, inputs, example.range, example.tolerance, example.gradient)


def test_nearly_every_op_takes_a_batch_that_only_the_run_knows() -> None:
    every, taken = ({case.values[0].name for case in cases} for cases in (INFERENCE_CASES, BATCHED_CASES))
    none = {"zeros", "ones", "full", "arange", "causal_mask"}  # they have no inputs
    places = {"wired", "wiring_cost"}  # a weight has an axis for each of two sets of points
    assert every - taken == none | places


@pytest.mark.parametrize(("op", "example"), BATCHED_CASES)
def test_the_shape_rule_holds_with_a_symbolic_batch(op: Op, example: Example) -> None:
    model = model_of(op, example, batch=True)
    for size in (BATCH, 2 * BATCH):
        given = batch_of(replace_first(example, size))
        for value, said, result in fake_types(model, given, symbolic=op.name not in NO_SYMBOLIC_FORM):
            if said.weak:
                continue
            assert isinstance(result, torch.Tensor) and result.dim() == said.rank, (value, said)
            sizes = tuple(evaluate(dim, {"B": size}) for dim in said.dims)
            assert sizes == tuple(hint(s) for s in result.shape), (value, said, result.shape)
        out = model(**given)
        for port in model._inference_graph.body.outputs:
            said = model._inference_graph.types[port.value]
            assert tuple(out[port.name].shape) == tuple(evaluate(d, {"B": size}) for d in said.dims)


@pytest.mark.parametrize(("op", "example"), INFERENCE_CASES)
def test_the_outputs_are_finite_and_of_the_dtype_said(op: Op, example: Example) -> None:
    check_outputs(model_of(op, example), batch_of(example))


def check_outputs(model: Model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = model(**batch)
    for port in model._inference_graph.body.outputs:
        said, result = model._inference_graph.types[port.value], found[port.name]
        if said.weak:
            continue
        assert type_of(result) == said
        assert not result.is_floating_point() or bool(result.isfinite().all()), result
    return found


@pytest.mark.parametrize("dtype", ["f64", "bf16"])
@pytest.mark.parametrize(("op", "example"), FLOAT_CASES)
def test_float64_and_bfloat16_inputs(op: Op, example: Example, dtype: str) -> None:
    model = model_of(op, example, dtype)
    batch = batch_of(example, dtype)
    found = check_outputs(model, batch)
    if dtype == "f64":
        expected = model_of(op, example)(
            **{n: t.float() if t.is_floating_point() else t for n, t in batch.items()}
        )
        scale = max(float(t.detach().double().abs().max()) if t.numel() else 0.0 for t in expected.values())
        for name, tensor in found.items():
            if any(p.is_floating_point() for p in model.parameters()):
                continue  # drawn anew in another dtype
            torch.testing.assert_close(
                tensor.double(), expected[name].double(), rtol=1e-4, atol=1e-5 * max(scale, 1)
            )


@pytest.mark.parametrize(("op", "example"), [c for c in INFERENCE_CASES if c.values[1].gradient])
def test_gradients_in_float64(op: Op, example: Example) -> None:
    text = inputs_of(example, "f64")
    assert any(t.startswith("f64") for t in text.values()) or op.params is not None
    model = copy.deepcopy(model_of(op, example, "f64")).double()
    batch = batch_of(example, "f64")
    constants = CONSTANTS.get(op.name, set())
    names = [name for name, tensor in batch.items() if tensor.is_floating_point() and name not in constants]
    fixed = {name: tensor for name, tensor in batch.items() if name not in names}
    parameters = dict(model.named_parameters())

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(names, values, strict=False))
        stored = dict(zip(parameters, values[len(names) :], strict=True))
        out = torch.func.functional_call(model, stored, args=(), kwargs={**fixed, **given})
        return tuple(t for t in out.values() if t.is_floating_point() and t.requires_grad)

    points = [batch[name].requires_grad_() for name in names]
    points += [p.detach().clone().requires_grad_() for p in parameters.values()]
    torch.autograd.gradcheck(function, points, atol=1e-4)


def test_every_op_has_an_example() -> None:
    assert [op.name for op in builtin().values() if not op.examples] == []
