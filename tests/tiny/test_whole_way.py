"""The whole way in seconds: text to a trained, exported model."""

from __future__ import annotations

import torch

import r2d2c
from r2d2c.sampling import random_batch

SPEC = """
r2d2c: 1
dims: {D: 4, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  encode:
    behavior: h = x |> linear(8) |> relu
    representative: r = one_hot(y, C) |> linear(8) |> tanh
    distance: mse(h, r)
  classify:
    behavior: logits = linear(encode.h, C)
    distance: cross_entropy(logits, y)
links:
  encode.h -> classify: {credit: local, feed: encode.r}
outputs:
  logits: classify.logits
"""


def test_from_text_to_onnx(tmp_path):
    spec = r2d2c.loads(SPEC)
    model = r2d2c.compile(spec)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = random_batch(spec.graph, seed=1, sizes={"B": 32})
    first = model.losses(**batch)
    for _ in range(50):
        optimizer.zero_grad()
        step = model.learn(**batch)
        optimizer.step()
    assert all(step.losses[name] < first[name] for name in first)
    report = r2d2c.export(model, tmp_path / "m.onnx")
    assert report.path.stat().st_size > 0
