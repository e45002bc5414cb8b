"""Where a number stopped to be one: the place in the spec, the batch, and what was saved before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.train.checkpoint import load_checkpoint

SPEC = """\
r2d2c: 1
model: fragile
inputs:
  x: f32[B, 4]
targets:
  y: f32[B, 3]
tasks:
  encode:
    behavior: h = x |> linear(8) |> relu
    distance: mean(h^2)
  answer:
    behavior: a = encode.h |> linear(3)
    distance: mse(a, y)
links:
  encode.h -> answer: {credit: local}
outputs:
  a: answer.a
train:
  epochs: 3
  batch_size: 10
  optimizer: sgd(lr=0.01)
"""
LOOP = """\
r2d2c: 1
model: steps
inputs:
  x: f32[B, 4]
targets:
  y: f32[B, 3]
loops:
  refine(data):
    repeat: 4
    carry:
      c: f32[B, 4] = ones
    body: |
      d = linear(data, 4) + log(3 - c)
      c = c + 1 + 0 * d
tasks:
  answer:
    behavior: a = refine(x).d |> linear(3)
    distance: mse(a, y)
outputs:
  a: answer.a
train:
  epochs: 1
  batch_size: 10
"""


def arrays(count: int = 100) -> dict[str, numpy.ndarray]:
    numbers = numpy.random.default_rng(0)
    return {
        "x": numbers.normal(size=(count, 4)).astype("f4"),
        "y": numbers.normal(size=(count, 3)).astype("f4"),
    }


def stopped(folder: Path, text: str, settings: dict[str, Any] | None = None, **data: Any) -> Diagnostic:
    """What a training of a spec stops with; every parameter of its last checkpoint is finite."""
    (folder / "spec.yaml").write_text(text)
    numpy.savez(folder / "data.npz", **(arrays() | data))
    with pytest.raises(CompileError) as caught:
        r2d2c.train(
            folder / "spec.yaml",
            data=f"npz:{folder}/data.npz?test=0",
            out=folder / "run",
            threads=1,
            **(settings or {}),
        )
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E536", diagnostic
    good = folder / "run" / "checkpoints" / "last.safetensors"
    assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(good).model.values())
    assert diagnostic.notes[-1].startswith(f"the last good checkpoint is {good}, after ")
    return diagnostic


def at(diagnostic: Diagnostic) -> str:
    assert diagnostic.span is not None
    return diagnostic.span.text


def test_the_logarithm_of_a_negative_number(tmp_path: Path) -> None:
    found = stopped(tmp_path, SPEC.replace("mse(a, y)", "mse(log(a - 100), y)"))
    assert found.message == "the loss `answer` became NaN in step 1, epoch 1"
    assert (at(found), found.span.line if found.span else 0) == ("log(a - 100)", 13)
    assert found.labels[0].text == "this is the first to be NaN"
    assert "the first value that is not finite is `answer.log`: 30 of its 30 numbers are" in found.notes
    assert any(note.startswith("its argument `answer.sub` is between -10") for note in found.notes)


def test_a_division_by_zero(tmp_path: Path) -> None:
    found = stopped(tmp_path, SPEC.replace("mse(a, y)", "mse(a / (y - y), y)"))
    assert found.message == "the loss `answer` became infinite in step 1, epoch 1"
    assert at(found) == "a / (y - y)"
    assert "its argument `answer.sub` is 0 everywhere" in found.notes


def test_masks_that_are_infinite_on_purpose_are_not_blamed(tmp_path: Path) -> None:
    text = SPEC.replace("mse(a, y)", "mse(softmax(a - 1 / (a - a)), log(0 - y^2))")
    text = text.replace("softmax(a - 1 / (a - a))", "exp(0 - 1 / (a - a)^2)")
    assert at(stopped(tmp_path, text)) == "log(0 - y^2)"


def test_a_learning_rate_that_is_too_large(tmp_path: Path) -> None:
    found = stopped(tmp_path, SPEC.replace("lr=0.01", "lr=1e30"))
    assert "became infinite in step 2, epoch 1" in found.message
    # The step before made the parameters so large that their product is too large for f32.
    assert at(found) in ("linear(8)", "linear(3)", "mean(h^2)", "mse(a, y)", "h^2")
    assert any("is between" in note for note in found.notes)


def test_a_gradient_alone(tmp_path: Path) -> None:
    """sqrt(0) is 0, and its gradient is not."""
    found = stopped(tmp_path, SPEC.replace("mse(a, y)", "mean(sqrt(a - a) + a^2)"))
    assert (
        found.message == "the parameter `answer.a.linear.weight` is no finite number any more, epoch 1"
        or (found.message.startswith("the loss `answer` became NaN in step 2"))
    )
    assert at(found) == "a - a"
    assert found.labels[0].text == "the gradient here is infinite"
    assert (
        "the first gradient that is not finite, from the losses back, is that of `answer.sub`" in found.notes
    )


def test_a_batch_in_the_middle_of_a_later_epoch(tmp_path: Path) -> None:
    """The 37th sample is met by one batch of each epoch; its value is finite until it is squared often."""
    x = arrays()["x"]
    x[37] = 1e25
    found = stopped(tmp_path, SPEC.replace("|> relu", "|> relu |> linear(8)"), x=x)
    assert "became infinite in step" in found.message
    step = int(found.message.partition("step ")[2].partition(",")[0])
    assert 1 <= step <= 10
    order = r2d2c.open_run(tmp_path / "run").files.load().state
    assert order["batches"] == 0, "found by going on from the checkpoint, which stays as it was"


def test_a_loop_says_in_which_step(tmp_path: Path) -> None:
    """c counts 1, 2, 3: the logarithm of 0 comes in the third step."""
    found = stopped(tmp_path, LOOP)
    assert at(found) == "log(3 - c)"
    assert found.labels[0].text.endswith("in step 3")


def test_batches_that_come_only_once_name_the_loss(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.replace("mse(a, y)", "mse(log(a - 100), y)"))
    batch = {name: torch.from_numpy(array) for name, array in arrays().items()}
    with pytest.raises(CompileError) as caught:
        r2d2c.train(tmp_path / "spec.yaml", data=[batch], out=tmp_path / "run")
    (found,) = caught.value.diagnostics
    assert (found.code, at(found), found.labels[0].text) == ("E536", "mse(log(a - 100), y)", "this is NaN")
