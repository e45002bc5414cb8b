"""Sizes with the batch in them, in steps that run for those samples alone that have not halted."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from torch import Tensor

import r2d2c
from r2d2c.emit import emit_python
from tests.specs.test_ready_specs import agrees_with_emitted_python
from tests.unit.loop_oracle import Params, batch, compare, compiled, spec

SIZES = """
think(seq, data):
  until: p
  max: 5
  carry:
    c: f32[B, S] = learned
  body: |
    rows = reshape(seq, (B*T, D))
    gate = reshape(expand(reshape(c[:, 0], (B, 1)), (B, T)), (B*T, 1))
    u = mean(reshape(linear(rows * gate, S, name=read), (B, T, S)), axes=1)
    c = tanh(u + linear(c, S, name=back) NUMBER)
    p = sigmoid(linear(c, 1, name=halt))[:, 0]
"""


@pytest.mark.parametrize("recompute", ["", "  recompute: true\n"])
@pytest.mark.parametrize(
    ("said", "number"), [("", 0.0), ("- c * B / 40", -1 / 40), ("- c * (B + T) / 32", -1 / 32)]
)
def test_sizes_that_the_batch_is_in(said: str, number: float, recompute: str) -> None:
    """A shape such as B*T follows the samples that run. As a number to compute with, B is the whole batch's."""
    text = spec(
        SIZES.replace("NUMBER", said) + recompute,
        "r = think(x, mean(x, axes=1))\nout = r.c.mean",
        inputs="x: f32[B, T, D]",
    )

    def body(p: Params, given: dict[str, Tensor], _: int) -> Tensor:
        found, counts, size = [], set(), sum(given["x"].shape[: 1 + ("T" in said)])
        for x in given["x"]:
            c, total, mean = p["think.c.initial"], x.new_zeros(()), x.new_zeros(4)
            for n in range(5):
                u = p.linear("think.read", x * c[0]).mean(0)
                c = torch.tanh(u + p.linear("think.back", c) + c * size * number)
                h = torch.sigmoid(p.linear("think.halt", c))[0]
                if total + h >= 0.99 or n == 4:
                    mean = mean + (1 - total) * c
                    break
                mean, total = mean + h * c, total + h
            found.append(mean)
            counts.add(n)
        assert len(counts) > 1, "samples halt at different steps"
        return torch.stack(found)

    compare(compiled(text), body, batch(3, size=12))


@pytest.mark.parametrize("said", ["", "- c * B / 40"])
def test_files_have_these_sizes_too(said: str, tmp_path: Path) -> None:
    """The file of `--emit python`, without r2d2c, and the ONNX file, which runs all samples and masks those that halted."""
    text = spec(
        SIZES.replace("NUMBER", said),
        "r = think(x, mean(x, axes=1))\nout = r.c.mean",
        inputs="x: f32[B, T, D]",
    )
    model = compiled(text, dtype=torch.float32)
    given = {name: value.float() for name, value in batch(3, size=12).items()}
    agrees_with_emitted_python(model, given)  # type: ignore[no-untyped-call]
    source = emit_python(model)
    assert "run_until(" in source and "import r2d2c" not in source and "from r2d2c" not in source
    file = r2d2c.export(model, tmp_path / "m.onnx").path
    (found,) = ort.InferenceSession(str(file)).run(None, {"x": given["x"].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x=given["x"])["out"], rtol=1e-5, atol=1e-6)


def test_a_loop_in_a_step_asks_for_sizes_that_the_batch_is_in() -> None:
    """Its step has no input with the samples alone along an axis."""
    loops = """
inner(rows):
  repeat: 2
  carry:
    h: f32[B*T, D] = zeros
  body: |
    s = reshape(rows + h, (B, T, D))
    h = tanh(reshape(linear(s, D, name=mix) * mean(s, axes=1, keep=true), (B*T, D)))
think(seq):
  until: p
  max: 5
  carry:
    c: f32[B, T, D] = seq
  body: |
    r = inner(reshape(c, (B*T, D)))
    c = reshape(r.h, (B, T, D)) + 0.5 * seq
    p = sigmoid(linear(mean(c, axes=1), 1, name=halt))[:, 0]
"""
    text = spec(loops, "r = think(x)\nout = mean(r.c.mean, axes=1)[:, :4]", inputs="x: f32[B, T, D]")

    def body(p: Params, given: dict[str, Tensor], _: int) -> Tensor:
        found = []
        for x in given["x"]:
            c, total, mean = x, x.new_zeros(()), torch.zeros_like(x)
            for n in range(5):
                h = torch.zeros_like(x)
                for _ in range(2):
                    s = c + h
                    h = torch.tanh(p.linear("inner.mix", s) * s.mean(0, keepdim=True))
                c = h + 0.5 * x
                says = torch.sigmoid(p.linear("think.halt", c.mean(0)))[0]
                if total + says >= 0.99 or n == 4:
                    mean = mean + (1 - total) * c
                    break
                mean, total = mean + says * c, total + says
            found.append(mean.mean(0)[:4])
        return torch.stack(found)

    compare(compiled(text), body, batch(3, size=12))
