"""Loops against the same loops written by hand: outputs and all gradients to 1e-12, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.loop_oracle import Params, batch, compare, compiled, spec

PLAIN = """
refine(data):
  repeat: REPEAT
  carry:
    c: f32[B, S] = learned
    z: f32[B, S] = zeros
  body: |
    v = linear(data, S)
    c = tanh(v + linear(c, S))
    z = z + linear(c, S)
"""


def zeros(given: dict[str, Tensor]) -> Tensor:
    return given["x"].new_zeros(len(given["x"]), 4)


def plain(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
    c, z = p["refine.c.initial"].expand(len(given["x"]), 4), zeros(given)
    for _ in range(steps):
        v = p.linear("refine.v.linear", given["x"])
        c = torch.tanh(v + p.linear("refine.c.linear", c))
        z = z + p.linear("refine.z.linear", c)
    return z


# -- how often


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_fixed_number_of_steps(steps: int) -> None:
    model = compiled(spec(PLAIN.replace("REPEAT", str(steps))))
    compare(model, lambda p, given, _: plain(p, given, steps), batch())


def test_every_depth_of_one_model() -> None:
    model = compiled(spec(PLAIN.replace("REPEAT", "depth")))
    for depth in range(1, 9):
        compare(model, plain, batch(), depth)
    compare(model, plain, batch())
    with pytest.raises(ValueError, match=r"`depth` is 9, the spec says 1\.\.8"):
        model(x=batch()["x"], depth=9)
    with pytest.raises(ValueError, match="whole number"):
        model(x=batch()["x"], depth=2.5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_over_a_sequence(length: int, axis: int) -> None:
    read = """
read(seq):
  over: T
  each:
    xt: seq
  carry:
    h: f32[B, S] = zeros
  body: |
    h = tanh(linear(xt, S) + linear(h, S, bias=false))
"""
    dims = "B, T, D" if axis else "T, B, D"
    text = spec(read, "r = read(x)\nout = r.h", inputs=f"x: f32[{dims}]")
    if not axis:
        text = text.replace("f32[T, B, D]", "f32[B, T, D]").replace(
            "r = read(x)", "r = read(transpose(x, 0, 1))"
        )
    model = compiled(text)

    def body(p: Params, given: dict[str, Tensor], _: int) -> Tensor:
        h = zeros(given)
        for t in range(length):
            h = torch.tanh(
                p.linear("read.h.linear", given["x"][:, t]) + F.linear(h, p["read.h.linear_2.weight"])
            )
        return h

    compare(model, body, batch(length))


def test_each_of_two_sequences_backwards_through_the_step_number() -> None:
    loop = """
read(seq, other):
  over: T
  each:
    a: seq
    b: relu(other)
  carry:
    h: f32[B, S] = ones
  body: |
    h = h * 0.5 + linear(a * b, S) / step
"""
    model = compiled(spec(loop, "r = read(x, tanh(x))\nout = r.h", inputs="x: f32[B, T, D]"))

    def body(p: Params, given: dict[str, Tensor], _: int) -> Tensor:
        h, x = zeros(given) + 1, given["x"]
        for t in range(4):
            h = h * 0.5 + p.linear("read.h.linear", x[:, t] * torch.relu(torch.tanh(x[:, t]))) / (t + 1)
        return h

    compare(model, body, batch(4))


def test_the_number_of_the_step() -> None:
    loop = """
refine(data):
  repeat: depth
  carry:
    z: f32[B, S] = zeros
  body: |
    z = z + linear(data, S) * step
"""
    model = compiled(spec(loop))

    def body(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
        return p.linear("refine.z.linear", given["x"]) * sum(range(1, steps + 1))

    for depth in (1, 4):
        compare(model, body, batch(), depth)


# -- where carries start


@pytest.mark.parametrize(
    ("initial", "start"),
    [
        ("zeros", lambda p, x: torch.zeros(len(x), 4, dtype=x.dtype)),
        ("ones", lambda p, x: torch.ones(len(x), 4, dtype=x.dtype)),
        ("uniform", lambda p, x: torch.full((len(x), 4), 0.25, dtype=x.dtype)),
        ("0.7", lambda p, x: torch.full((len(x), 4), 0.7, dtype=x.dtype)),
        ("learned", lambda p, x: p["refine.z.initial"].expand(len(x), 4)),
        ("learned(normal(0.1))", lambda p, x: p["refine.z.initial"].expand(len(x), 4)),
        ("relu(linear(data, S))", lambda p, x: torch.relu(p.linear("refine.z.linear", x))),
        ("data[:, :4] * 2", lambda p, x: x[:, :4] * 2),
    ],
)
def test_initial_values(initial: str, start: Any) -> None:
    loop = f"""
refine(data):
  repeat: depth
  carry:
    z: f32[B, S] = {initial}
  body: |
    z = tanh(linear(z, S, name=again) + linear(data, S, name=from))
"""
    model = compiled(spec(loop))

    def body(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
        z = start(p, given["x"])
        for _ in range(steps):
            z = torch.tanh(p.linear("refine.again", z) + p.linear("refine.from", given["x"]))
        return z

    for depth in (1, 3):
        compare(model, body, batch(), depth)


# -- calls, nesting, parameters


def test_two_calls_share_their_parameters() -> None:
    model = compiled(
        spec(PLAIN.replace("REPEAT", "depth"), "a = refine(x)\nb = refine(2 * x)\nout = a.z + b.c * a.z")
    )

    def body(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
        def run(x: Tensor) -> tuple[Tensor, Tensor]:
            c, z = p["refine.c.initial"].expand(len(x), 4), zeros(given)
            for _ in range(steps):
                c = torch.tanh(p.linear("refine.v.linear", x) + p.linear("refine.c.linear", c))
                z = z + p.linear("refine.z.linear", c)
            return c, z

        (_, z), (c, _) = run(given["x"]), run(2 * given["x"])
        return z + c * z

    for depth in (1, 4):
        compare(model, body, batch(), depth)


NESTED = """
inner(v, c):
  repeat: 2
  carry:
    h: f32[B, S] = c
  body: |
    h = tanh(linear(h, S) + v)
outer(data):
  repeat: depth
  carry:
    z: f32[B, S] = zeros
  body: |
    i = inner(linear(data, S), z)
    z = z + linear(i.h, S, name=mix)
"""


def test_a_loop_in_a_loop() -> None:
    model = compiled(spec(NESTED, "r = outer(x)\nout = r.z"))

    def body(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
        z = zeros(given)
        for _ in range(steps):
            h, v = z, p.linear("outer.i.linear", given["x"])
            for _ in range(2):
                h = torch.tanh(p.linear("inner.h.linear", h) + v)
            z = z + p.linear("outer.mix", h)
        return z

    for depth in (1, 3):
        compare(model, body, batch(), depth)


def test_a_sequence_is_read_anew_in_every_step_of_an_outer_loop() -> None:
    loop = """
read(seq, first):
  over: T
  each:
    xt: seq
  carry:
    h: f32[B, S] = first
  body: |
    h = tanh(linear(xt, S) + linear(h, S, name=back) * step)
outer(seq):
  repeat: depth
  carry:
    z: f32[B, S] = learned
  body: |
    z = read(seq, z)
"""
    model = compiled(spec(loop, "r = outer(x)\nout = r.z", inputs="x: f32[B, T, D]"))

    def body(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
        z = p["outer.z.initial"].expand(6, 4)
        for _ in range(steps):
            for t in range(3):
                z = torch.tanh(
                    p.linear("read.h.linear", given["x"][:, t]) + p.linear("read.back", z) * (t + 1)
                )
        return z

    for depth in (1, 3):
        compare(model, body, batch(3), depth)


@pytest.mark.parametrize("repeat", ["3", "depth"])
def test_parameters_of_their_own_for_every_step(repeat: str) -> None:
    model = compiled(spec(PLAIN.replace("REPEAT", repeat) + "  parameters: per_step\n"))
    weight = dict(model.named_parameters())["refine.z.linear.weight"]
    assert weight.shape == (3 if repeat == "3" else 8, 4, 4)

    def body(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
        c, z = p["refine.c.initial"].expand(6, 4), zeros(given)
        for n in range(steps):
            v = p.linear("refine.v.linear", given["x"], n)
            c = torch.tanh(v + p.linear("refine.c.linear", c, n))
            z = z + p.linear("refine.z.linear", c, n)
        return z

    for depth in (None,) if repeat == "3" else (1, 3, 8):
        compare(model, body, batch(), depth)


def test_a_block_in_a_step_is_an_instance_of_its_own() -> None:
    text = spec(
        """
refine(data):
  repeat: depth
  carry:
    z: f32[B, S] = zeros
  body: |
    z = z + mlp(data) + mlp(z)
"""
    ).replace("loops:", "blocks:\n  mlp(h): return h |> linear(S) |> tanh\nloops:")
    model = compiled(text)
    names = [name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith("weight")]
    assert len(names) == 2

    def body(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
        z = zeros(given)
        for _ in range(steps):
            z = z + torch.tanh(p.linear(names[0], given["x"])) + torch.tanh(p.linear(names[1], z))
        return z

    compare(model, body, batch(), 3)
