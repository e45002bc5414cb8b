"""Every example of every op as ONNX: against PyTorch, in several dtypes and batch sizes, and against torch.onnx.export."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from contextlib import redirect_stdout

import onnxruntime
import pytest
import torch

import r2d2c
from r2d2c.backends.onnx.build import Built, build
from r2d2c.backends.onnx.runtime import open_session, run, serialize
from r2d2c.backends.onnx.verify import check_model
from r2d2c.diagnostics import CompileError
from r2d2c.model import Model
from r2d2c.ops.record import Example, Op
from r2d2c.ops.registry import builtin
from tests.conformance.models import (
    BATCHED_CASES,
    FLOAT_CASES,
    INFERENCE_CASES,
    batch_of,
    model_of,
    spec_text,
)
from tests.conformance.test_ops_eager import check_outputs, replace_first

# ONNX Runtime 1.31 has no CPU kernels of float64 for these, or for what they are made of.
NO_FLOAT64 = {
    "conv1d", "conv2d", "conv_transpose2d", "feedback_conv1d", "feedback_conv2d", "feedback_conv_transpose2d",
    "avg_pool1d", "avg_pool2d", "upsample",
}  # fmt: skip
# ONNX opset 20 does not define these, or what they are made of, for bfloat16.
NO_BFLOAT16 = {
    "floor_divide", "sin", "cos", "round", "topk", "sort", "conv1d", "conv2d", "conv_transpose2d", "bilinear", "einsum",
    "feedback_conv1d", "feedback_conv2d", "feedback_conv_transpose2d", "max_pool1d", "max_pool2d", "avg_pool1d",
    "avg_pool2d", "top_slots", "nearest",
}  # fmt: skip
# Examples to hold against torch.onnx.export, a few only: it takes seconds a model.
ORACLE = (
    "add-0", "remainder-0", "gelu-0", "softmax-0", "sum-0", "std-0", "linear-0", "conv2d-0", "max_pool2d-0", "layer_norm-0",
    "batch_norm-0", "attention-3", "one_hot-0", "embedding-0", "slice-0", "gather-0", "topk-0", "concat-0", "rearrange-0",
    "einsum-0", "cross_entropy-0", "where-0",
)  # fmt: skip


def session_of(model: Model) -> tuple[Built, onnxruntime.InferenceSession]:
    built = build(model)
    data = serialize(built, "conformance")
    check_model(data, model)
    return built, open_session(data, model)


def compare(model: Model, batch: dict[str, torch.Tensor], tolerance: float) -> None:
    built, session = session_of(model)
    same(model, built, session, batch, tolerance)


def same(
    model: Model,
    built: Built,
    session: onnxruntime.InferenceSession,
    batch: dict[str, torch.Tensor],
    tolerance: float,
) -> None:
    with torch.no_grad():
        expected = model(**batch)
    got = run(session, built, batch)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        scale = max(1.0, float(tensor.detach().double().abs().max())) if tensor.numel() else 1.0
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=tolerance * scale, equal_nan=True)


@pytest.mark.parametrize(("op", "example"), INFERENCE_CASES)
def test_onnx_gives_what_pytorch_gives(op: Op, example: Example) -> None:
    model = model_of(op, example)
    built, session = session_of(model)
    for seed in range(3):
        same(model, built, session, batch_of(example, seed=seed), example.tolerance)
    for node in built.model.graph:
        assert node.metadata_props["r2d2c.value"]
        assert node.metadata_props["r2d2c.source"].startswith("conformance.yaml:")


@pytest.mark.parametrize(("op", "example"), BATCHED_CASES)
def test_onnx_with_a_batch_that_only_the_run_knows(op: Op, example: Example) -> None:
    model = model_of(op, example, batch=True)
    built, session = session_of(model)
    for size in (6, 4, 12):
        same(model, built, session, batch_of(replace_first(example, size)), example.tolerance)


@pytest.mark.parametrize(("op", "example"), FLOAT_CASES)
def test_onnx_in_float64(op: Op, example: Example) -> None:
    model = copy.deepcopy(model_of(op, example)).double()
    batch = batch_of(example, "f64")
    if op.name in NO_FLOAT64:
        with pytest.raises(CompileError, match=r"E604.*ONNX Runtime has no `\w+` for float64"):
            session_of(model)
        return
    built, session = session_of(model)
    with torch.no_grad():
        expected = model(**batch)
    got = run(session, built, batch)
    for name, tensor in expected.items():
        scale = max(1.0, float(tensor.double().abs().max())) if tensor.numel() else 1.0
        torch.testing.assert_close(
            got[name].double(),
            tensor.double(),
            rtol=0,
            atol=min(example.tolerance, 1e-6) * scale,
            equal_nan=True,
        )


@pytest.mark.parametrize(("op", "example"), FLOAT_CASES)
def test_onnx_in_bfloat16_is_valid(op: Op, example: Example) -> None:
    """ONNX Runtime has next to no bfloat16 kernels on the CPU: the models are checked, not run."""
    model = model_of(op, example, "bf16")
    data = serialize(build(model), "conformance")
    if op.name in NO_BFLOAT16:
        with pytest.raises(CompileError, match=r"E612.*ONNX opset 20 has no `\w+` for bfloat16"):
            check_model(data, model)
    else:
        check_model(data, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ORACLE)
def test_torch_onnx_export_agrees(name: str) -> None:
    case = next(c for c in INFERENCE_CASES if c.id == name)
    op, example = case.values
    model, batch = model_of(op, example), batch_of(example)
    names = list(model._inference_lowered.inputs)
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.graphs["inference"],
            tuple(batch[n] for n in names),
            dynamo=True,
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    oracle = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    feed = {i.name: batch[n].numpy() for i, n in zip(oracle.get_inputs(), names, strict=True)}
    built, session = session_of(model)
    ours = run(session, built, batch)
    for theirs, mine in zip(oracle.run(None, feed), ours.values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), mine, rtol=0, atol=1e-4)


PAIRS = [
    ("f32[3]", "f64[]"),
    ("bf16[3]", "f32[]"),
    ("i32[3]", "i64[]"),
    ("i64[3]", "f64[]"),
    ("f32[]", "f64[3]"),
]
ARITHMETIC = ["add", "sub", "mul", "div", "remainder", "pow", "maximum", "where"]
WITH_BOOLS = [
    ("add", "f32[3]", "bool[]"),
    ("mul", "f32[3]", "bool[]"),
    ("maximum", "f32[3]", "bool[]"),
    ("where", "f32[3]", "bool[]"),
]


@pytest.mark.parametrize(
    ("name", "left", "right"), [*((name, *pair) for name in ARITHMETIC for pair in PAIRS), *WITH_BOOLS]
)
def test_a_scalar_does_not_widen_what_has_dims(name: str, left: str, right: str) -> None:
    call = "where(x == x, x, y)" if name == "where" else f"{name}(x, y)"
    example = Example(call, {"x": left, "y": right}, range=(0.5, 2.0))
    model = r2d2c.compile(r2d2c.loads(spec_text(builtin()[name], example)))
    batch = batch_of(example)
    check_outputs(model, batch)
    if "bf16" in left:
        check_model(serialize(build(model), "conformance"), model)
    else:
        compare(model, batch, 1e-5)
