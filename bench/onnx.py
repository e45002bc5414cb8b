"""ONNX: writing a file, and running it, against torch's exporter and eager PyTorch."""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F

from bench.measure import Result, Setting, interleaved
from bench.specs import HandMLP, batch, compiled, head, mlp
from r2d2c.model import Model


def _long(ops: int) -> str:
    """A behavior of so many ops without parameters."""
    lines = ["      v0 = x\n"]
    for k in range(1, ops + 1):
        before = f"v{k - 1}"
        lines.append(f"      v{k} = {(f'tanh({before})', f'relu({before})', f'{before} + x')[k % 3]}\n")
    body = f"tasks:\n  t:\n    behavior: |\n{''.join(lines)}    distance: mse(v{ops}, y)\n"
    return head("long", {"D": 16}, y="f32[B, D]") + body + f"outputs:\n  out: t.v{ops}\n"


class _Long(torch.nn.Module):
    """The same ops by hand."""

    def __init__(self, ops: int) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x
        for k in range(1, self.ops + 1):
            kind = k % 3
            value = torch.tanh(value) if kind == 0 else F.relu(value) if kind == 1 else value + x
        return value


def _written(model: Model) -> bytes:
    """The file, as `r2d2c.export` builds it before it verifies."""
    # Type checkers do not follow the mapping of the backends' folder.
    build = import_module("r2d2c.backends.onnx.build").build
    data: bytes = import_module("r2d2c.backends.onnx.runtime").serialize(build(model), model.spec.name)
    return data


def export(setting: Setting, ops: int) -> Result:
    """Building and serializing, without the verification that `r2d2c.export` adds, both."""
    count = 10 if setting.quick else ops
    model, hand = compiled(_long(count)), _Long(count)
    x = torch.zeros(4, 16)

    def ours() -> None:
        _written(model)

    def theirs() -> None:
        shapes: Any = ({0: torch.export.Dim("B")},)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(hand, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        assert program is not None
        program.model_proto.SerializeToString()

    return interleaved(ours, theirs, setting, seconds=10.0, block=0.0, least=3)


def runtime(setting: Setting, width: int, size: int) -> Result:
    """ONNX Runtime on our file against eager PyTorch, both on one thread."""
    import onnxruntime

    model, hand = compiled(mlp(width)), HandMLP(width)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(_written(model), options, ["CPUExecutionProvider"])
    x, _ = batch(size, width, width, "cpu")
    feed = {"x": x.numpy()}
    with torch.inference_mode():
        return interleaved(lambda: session.run(None, feed), lambda: hand(x), setting)
