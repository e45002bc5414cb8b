"""The printed stages of three small specs, held against files that a person has read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import r2d2c
from r2d2c.credit.registry import rules
from r2d2c.draw import picture, picture_of_nodes
from r2d2c.draw_text import to_dot, to_mermaid
from r2d2c.emit_loops import fx_text
from r2d2c.graph import Graph
from r2d2c.passes.inline import inference_graph
from r2d2c.passes.training import training_graph
from r2d2c.printer import print_graph
from r2d2c.syntax_printer import print_syntax

SPECS = {
    "taught": """\
r2d2c: 1
model: taught
doc: A representative taught by a product of losses, and a task that listens only.
dims: {D: 4, H: 3, C: 2}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  encode:
    behavior: h = x |> linear(2*H) |> relu |> linear(H, name=out)
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
    teach: 0.5 * encode + classify
  classify:
    behavior: logits = linear(encode.h, C, bias=false)
    distance: cross_entropy(logits, y)
    weight: 2.0
links:
  encode.h -> classify: {credit: local, feed: encode.r}
outputs:
  logits: classify.logits
  p: softmax(classify.logits)
train:
  metrics:
    - accuracy(logits, y)
""",
    "blocks": """\
r2d2c: 1
model: blocks
doc: Blocks, a statistic, a shared weight, noise that is there while learning only.
inputs:
  x: f32[B, 1, 8, 8]
targets:
  y: i64[B]
blocks:
  stage(x, width, rate=0.1):
    body: |
      return x |> conv2d(width, 3, padding=1) |> batch_norm |> relu |> dropout(rate)
tasks:
  see:
    behavior: |
      a = stage(x, 2)
      b = stage(a, 4, rate=0.2) |> max_pool2d(4)
      code = flatten(b)
  name:
    behavior: |
      logits = linear(see.code, 10, name=read)
    distance: cross_entropy(logits, y)
outputs:
  logits: name.logits
""",
    "losses": """\
r2d2c: 1
model: losses
doc: A trunk with two heads, one of which listens only, and a loss of its own.
dims: {D: 4}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
  z: f32[B, 1]
tasks:
  trunk:
    behavior: h = (x * 0.5 - 1) |> linear(6) |> tanh
    keep: own
    distance: mean(h ^ 2)
  left:
    behavior: logits = linear(trunk.h, 3)
    distance: cross_entropy(logits, y)
  right:
    behavior: value = linear(trunk.h, 1)
    distance: mse(value, z)
links:
  trunk.h -> left: {credit: backprop}
  trunk.h -> right: {credit: local}
losses:
  agree:
    value: mean(abs(left.logits))
    weight: 0.01
outputs:
  logits: left.logits
  value: right.value
""",
    "loops": """\
r2d2c: 1
model: loops
doc: A loop in a loop, one over a sequence, and one that runs until its samples halt.
dims: {D: 4, S: 3, C: 2, depth: 1..8 = 3}
inputs:
  x: f32[B, T, D]
targets:
  y: i64[B]
loops:
  settle(v):
    repeat: 2
    carry:
      u: f32[B, S] = v
    body: u = tanh(linear(u, S)) + v
  read(x):
    over: T
    each: {xt: x}
    carry:
      h:
        value: f32[B, S] = zeros
        credit: truncate(3)
    body: h = tanh(linear(xt, S) + h) |> dropout(0.1)
  refine(data):
    repeat: depth
    carry:
      c: f32[B, S] = learned
      z:
        value: f32[B, S] = zeros
        credit: local
    recompute: true
    body: |
      c = settle(data + c)
      z = z + linear(c, S) / step
      logits = linear(z, C)
  think(v):
    until: p
    max: 5
    epsilon: 0.05
    carry:
      c: f32[B, S] = v
    body: |
      c = tanh(linear(c, S))
      p = sigmoid(linear(c, 1)) |> reshape(B)
tasks:
  encode:
    behavior: |
      r = read(x)
      s = refine(r.h * 2)
      h = s.z
      steps = s.logits.steps
    distance: mean(h ^ 2)
  classify:
    behavior: |
      t = think(encode.h)
      logits = linear(t.c.mean, C)
      count = t.count
    distance: cross_entropy(logits, y) + 0.01 * mean(t.ponder)
links:
  encode.h -> classify: {credit: backprop}
outputs:
  logits: classify.logits
  steps: encode.steps
  count: classify.count
train:
  metrics:
    - accuracy(logits, y)
""",
}

STAGES = ("syntax", "graph", "inference", "training", "fx")
Golden = Callable[[str, str], None]


def checked(name: str) -> r2d2c.Checked:
    return r2d2c.loads(SPECS[name], name=f"/somewhere/else/{name}.yaml")


def stage_of(spec: r2d2c.Checked, stage: str) -> Graph:
    if stage == "inference":
        return inference_graph(spec.graph)
    if stage == "training":
        return training_graph(spec.graph, spec.ops, rules())
    return spec.graph


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", SPECS)
def test_printed_stages(name: str, stage: str, golden: Golden) -> None:
    spec = checked(name)
    if stage == "syntax":
        text = print_syntax(spec.spec)
    elif stage == "fx":
        text = fx_text(r2d2c.compile(spec).graphs)
    else:
        text = print_graph(stage_of(spec, stage), spec.ops)
    assert "/somewhere" not in text
    golden(f"{name}.{stage}.txt", text)


@pytest.mark.parametrize("name", SPECS)
def test_pictures(name: str, golden: Golden) -> None:
    spec = checked(name)
    drawn = picture(spec.graph, rules(), r2d2c.compile(spec).wiring())
    golden(f"{name}.mmd", to_mermaid(drawn))
    golden(f"{name}.dot", to_dot(drawn))


def test_picture_of_a_training_graph(golden: Golden) -> None:
    golden("taught.training.mmd", to_mermaid(picture_of_nodes(stage_of(checked("taught"), "training"))))


@pytest.mark.parametrize("name", SPECS)
def test_printing_twice_gives_the_same(name: str) -> None:
    first, second = (print_graph(stage_of(checked(name), "training"), checked(name).ops) for _ in range(2))
    assert first == second
