"""Long generated functions are split and mean the same."""

from __future__ import annotations

import random

import torch

import r2d2c
from r2d2c.lower import codegen
from r2d2c.lower.chunks import split_long
from r2d2c.sampling import random_batch


def program(length: int, seed: int) -> str:
    """Random straight-line code, with the deletions that fx writes."""
    draw = random.Random(seed)
    lines, names = ["def forward(a, b):"], ["a", "b"]
    for number in range(length):
        left, right = draw.choice(names[-9:]), draw.choice(names)
        lines.append(f"    v{number} = ({left} * 3 + {right}) % 1009;  w = None")
        names.append(f"v{number}")
    lines.append(f"    return {{'out': {names[-1]}, 'a': a, 'early': v1}}")
    return "import math\n\n" + "\n".join(lines) + "\n"


def run(sources: list[str]) -> object:
    scope: dict[str, object] = {}
    for source in sources:
        exec(compile(source, "generated", "exec"), scope)
    return scope["forward"](5, 7)  # type: ignore[operator]


def test_split_code_gives_the_same():
    for seed, (length, size) in enumerate([(40, 7), (41, 41), (100, 1), (99, 13), (30, 29)]):
        whole = program(length, seed)
        split = split_long(whole, limit=3, size=size)
        assert len(split) == 2 + -(-(length + 1) // size)
        assert run(split) == run([whole])


def test_short_code_is_left_alone():
    assert split_long(program(10, 0)) == [program(10, 0)]


def test_a_model_of_many_parts_learns_the_same(monkeypatch):
    text = """
r2d2c: 1
inputs:
  x: f32[B, 6]
tasks:
  a:
    behavior: h = x |> linear(5) |> batch_norm |> tanh |> dropout(0.2)
    representative: r = x |> linear(5) |> tanh
    distance: mse(h, r)
  b:
    behavior: y = a.h |> linear(4) |> relu |> linear(3)
    distance: mean(y^2)
links:
  a.h -> b: {credit: local, feed: a.r}
outputs:
  y: b.y
"""
    model, other = (r2d2c.compile(r2d2c.loads(text)) for _ in range(2))
    monkeypatch.setattr(codegen, "split_long", lambda source: split_long(source, limit=2, size=3))
    for seed in range(3):
        batch = random_batch(model.graph, seed=seed)
        assert torch.equal(other(x=batch["x"])["y"], model(x=batch["x"])["y"])
        mine = model.learn(**batch)
        assert all(torch.equal(loss, mine.losses[name]) for name, loss in other.learn(**batch).losses.items())
    for name, parameter in model.named_parameters():
        assert torch.equal(dict(other.named_parameters())[name].grad, parameter.grad), name
