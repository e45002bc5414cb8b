"""Every example of every op as a one-task spec: what the conformance tests are parametrised with."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.model import Model
from r2d2c.ops.record import Example, Op
from r2d2c.ops.registry import builtin
from tests.unit.eager_double import random_tensor

# Draw numbers and have no inference form, which an exported graph would be.
TRAINING_ONLY = {
    name for name, op in builtin().items() if "random" in op.traits and "train_only" not in op.traits
}

CASES = [
    pytest.param(op, example, id=f"{op.name}-{number}")
    for op in builtin().values()
    for number, example in enumerate(op.examples)
]
INFERENCE_CASES = [case for case in CASES if case.values[0].name not in TRAINING_ONLY]
# Those whose f32 can be replaced by another float dtype.
FLOAT_CASES = [
    case
    for case in INFERENCE_CASES
    for types in [" ".join(case.values[1].inputs.values())]
    if "f32" in types and "f64" not in types and case.values[0].name != "cast"
]


def inputs_of(example: Example, dtype: str = "f32") -> dict[str, str]:
    """The example's input types with another dtype in f32's place."""
    return {name: text.replace("f32", dtype) for name, text in example.inputs.items()}


def spec_text(
    op: Op, example: Example, dtype: str = "f32", batch: bool = False, parts: int | None = None
) -> str:
    """A spec of one task that calls the op. ``batch`` puts the run-time dim B first in every input."""
    types = {name: text.partition("<")[0].strip() for name, text in inputs_of(example, dtype).items()}
    if batch:
        types = {name: re.sub(r"\[\s*\d+", "[B", text, count=1) for name, text in types.items()}
    call = example.call.replace("f32", dtype) if dtype != "f32" else example.call
    # Running statistics (`new_mean`) are outputs for the training graph, not values of the language.
    count = parts or sum(not name.startswith("new_") for name in op.outputs)
    names = ["out"] if count == 1 else [f"out{n}" for n in range(count)]
    lines = ["r2d2c: 1", "model: conformance"]
    if types:
        lines += ["inputs:", *(f"  {name}: {text}" for name, text in types.items())]
    lines += ["tasks:", "  task_0:", "    behavior: |", f"      {', '.join(names)} = {call}"]
    return "\n".join([*lines, "outputs:", *(f"  {name}: task_0.{name}" for name in names)]) + "\n"


def parts_of(example: Example) -> int | None:
    """How many values an op gives whose number of outputs depends on its arguments."""
    found = re.search(r"^(?:split|unstack|unbind|chunk)\(\w+, (\d+|\([\d, ]+\))", example.call)
    if found is None:
        return None
    return found[1].count(",") + 1 if found[1].startswith("(") else int(found[1])


@cache
def _model(name: str, number: int, dtype: str, batch: bool) -> Model:
    op = builtin()[name]
    example = op.examples[number]
    text = spec_text(op, example, dtype, batch, parts_of(example))
    model = r2d2c.compile(r2d2c.loads(text, name="conformance.yaml"))
    generator = torch.Generator().manual_seed(1)
    low, high = example.range
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(low, high, generator=generator)
    return model


def model_of(op: Op, example: Example, dtype: str = "f32", batch: bool = False) -> Model:
    """The compiled spec; its parameters are drawn from the example's range. Shared: do not change it."""
    return _model(op.name, op.examples.index(example), dtype, batch)


def batch_of(example: Example, dtype: str = "f32", seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs for an example."""
    generator = torch.Generator().manual_seed(seed)
    return {name: random_tensor(text, example, generator) for name, text in inputs_of(example, dtype).items()}


def takes_batch(op: Op, example: Example) -> bool:
    """Whether the first dim of an example's inputs may be one that only the run knows."""
    if not example.inputs or any("[]" in text for text in example.inputs.values()):
        return False
    try:
        model_of(op, example, batch=True)
    except CompileError:
        return False
    return True


BATCHED_CASES = [case for case in INFERENCE_CASES if takes_batch(*case.values)]
