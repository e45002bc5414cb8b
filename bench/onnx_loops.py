"""Sequences in ONNX Runtime: the Scan of a file, and the file of one step, against the eager loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from bench.measure import Result, Setting, interleaved
from bench.specs import compiled
from r2d2c.lower import phase_run
from r2d2c.model import Model

LSTM = """\
r2d2c: 1
model: lstm
dims: {D: %d}
inputs:
  x: f32[B, T, D]
loops:
  read(x):
    over: T
    each: {xt: x}
    stateful: true
    carry:
      h: f32[B, D] = zeros
      c: f32[B, D] = zeros
    body: |
      z = linear(xt, 4*D) + linear(h, 4*D, bias=false)
      c = sigmoid(z[:, :D]) * c + sigmoid(z[:, D:2*D]) * tanh(z[:, 2*D:3*D])
      h = sigmoid(z[:, 3*D:]) * tanh(c)
tasks:
  t:
    behavior: out = read(x).h.steps
outputs:
  out: t.out
"""

MEMORY = """\
r2d2c: 1
model: memory
dims: {K: %d, D: %d}
inputs:
  x: f32[B, T, D]
memories:
  m:
    slots: K
    fields: {state: "f32[D]", token: "f32[D]", surprise: f32}
    each_slot: rep = tanh(linear(concat(state, token), D))
loops:
  read(x):
    over: T
    each: {xt: x}
    stateful: true
    carry:
      last: f32[B, D] = zeros
      guess: f32[B, D] = zeros
    body: |
      m = write(m, state=last, token=xt, surprise=1 - sum(guess * xt, -1))
      last = stop(m.newest.rep)
      out = linear(concat(flatten(m.rep), log(1.0 + m.age)), D)
      guess = stop(softmax(out))
tasks:
  t:
    behavior: out = read(x).out.steps
outputs:
  out: t.out
"""


def _session(model: Model, step: bool, as_loop: bool = False) -> Any:
    """The file in ONNX Runtime, on one thread. as_loop: with a Loop in place of every Scan."""
    import onnxruntime

    # Type checkers do not follow the mapping of the backends' folder.
    loops: Any = import_module("r2d2c.backends.onnx.loops")
    scan = loops.ScanWriter
    try:
        if as_loop:
            loops.ScanWriter = loops.LoopWriter
        built = import_module("r2d2c.backends.onnx.build").build(model, step)
    finally:
        loops.ScanWriter = scan
    data = import_module("r2d2c.backends.onnx.runtime").serialize(built, model.spec.name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])


def _model(kind: str, slots: int, width: int) -> Model:
    return compiled(LSTM % width if kind == "lstm" else MEMORY % (slots, width))


def _feed(model: Model, size: int, length: int, width: int) -> dict[str, torch.Tensor]:
    """A sequence, and a state that counts for nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.softmax(torch.randn(size, length, width, generator=generator), -1)
    with torch.no_grad():
        state = model(x=x[:, :1])["state"]
    zeros = {f"state.{name}": torch.zeros_like(value) for name, value in state.items()}
    return {"x": x, "reset": torch.ones(size, dtype=torch.bool), **zeros}


@contextmanager
def _in_phases(wanted: bool) -> Iterator[None]:
    """Whether eager loops run in phases where they may."""
    before, phase_run.ENABLED = phase_run.ENABLED, wanted
    try:
        yield
    finally:
        phase_run.ENABLED = before


def scan(
    setting: Setting, kind: str, width: int, size: int, length: int, slots: int = 0, in_phases: bool = False
) -> Result:
    """A whole sequence in ONNX Runtime, against the same model run by eager PyTorch, both on one thread.

    in_phases: whether eager PyTorch may do the same in another order than step by step.
    """
    length = 4 if setting.quick else length
    model = _model(kind, slots, width)
    session, feed = _session(model, step=False), _feed(model, size, length, width)
    arrays, x = {name: value.numpy() for name, value in feed.items()}, feed["x"]
    with torch.inference_mode(), _in_phases(in_phases):
        return interleaved(lambda: session.run(None, arrays), lambda: model(x=x), setting)


def against_loop(setting: Setting, kind: str, width: int, size: int, length: int, slots: int = 0) -> Result:
    """The Scan against an ONNX Loop of the same step."""
    length = 4 if setting.quick else length
    model = _model(kind, slots, width)
    ours, theirs = _session(model, step=False), _session(model, step=False, as_loop=True)
    feed = {name: value.numpy() for name, value in _feed(model, size, length, width).items()}
    return interleaved(lambda: ours.run(None, feed), lambda: theirs.run(None, feed), setting)


def one_step(setting: Setting, width: int, size: int, slots: int) -> Result:
    """One step in ONNX Runtime, its state handed on, against a call of the eager model with one element and its state."""
    model = _model("memory", slots, width)
    session, feed = _session(model, step=True), _feed(model, size, 1, width)
    x = feed["x"]
    arrays = {name: value.numpy() for name, value in feed.items()} | {"x": x[:, 0].numpy()}
    names = [output.name for output in session.get_outputs()]
    kept = {"state": model(x=x)["state"]}

    def ours() -> None:
        found = dict(zip(names, session.run(None, arrays), strict=True))
        arrays.update({name: found[f"{name}.next"] for name in arrays if name.startswith("state.")})

    def theirs() -> None:
        kept["state"] = model(x=x, state=kept["state"])["state"]

    with torch.inference_mode():
        return interleaved(ours, theirs, setting)
