"""The angle to backprop: its arithmetic, rules whose angle is known, and that measuring changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.driver import Checked
from r2d2c.model import Model
from r2d2c.train.angles import ALL, FILE, Angles, angles, gradients, read_angles, under_backprop
from r2d2c.train.checkpoint import load_checkpoint

SPEC = """\
r2d2c: 1
model: chain
dims: {D: 64, H: 24, C: 10}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  t1:
    behavior: h = x |> linear(H) |> LAYER
  t2:
    behavior: h = t1.h |> linear(H) |> tanh
  out:
    behavior: logits = linear(t2.h, C)
    distance: cross_entropy(logits, y)
outputs:
  logits: out.logits
train:
  data: digits
  epochs: 3
  batch_size: 100
  optimizer: adam(lr=2e-3)
  metrics:
    - accuracy(logits, y)
"""
PLAIN = SPEC.replace("LAYER", "tanh")
NOISY = SPEC.replace("LAYER", "batch_norm |> relu |> dropout(0.2)")


pytestmark = pytest.mark.usefixtures("one_thread")


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(32, 64, generator=generator)
    return {"x": x, "y": torch.randint(0, 10, (32,), generator=generator)}


def pair(credit: str, text: str = PLAIN) -> tuple[Model, Model]:
    """A model and the same under backprop."""
    checked = r2d2c.loads(text, credit=credit)
    reference = under_backprop(checked)
    assert reference is not None
    return r2d2c.compile(checked), r2d2c.compile(reference)


def measured(model: Model, reference: Model) -> dict[str, float]:
    return angles(gradients(model, batch()), gradients(reference, batch()), list(model.graph.tasks))


def test_angles_by_hand() -> None:
    mine = {"a.w": torch.tensor([1.0, 0.0]), "b.w": torch.tensor([0.0, 2.0]), "c.w": torch.tensor([0.0])}
    theirs = {"a.w": torch.tensor([1.0, 1.0]), "b.w": torch.tensor([0.0, -3.0]), "c.w": torch.tensor([4.0])}
    found = angles(mine, theirs, ["a", "b", "c"])
    assert found.keys() == {ALL, "a", "b"}  # c learns nothing
    assert found["a"] == pytest.approx(45) and found["b"] == pytest.approx(180)
    # (1, 0, 0, 2, 0) and (1, 1, 0, −3, 4)
    assert found[ALL] == pytest.approx(math.degrees(math.acos(-5 / math.sqrt(5 * 27))))


def test_what_only_backprop_trains_counts_as_zero() -> None:
    theirs = {"a.w": torch.tensor([3.0]), "b.w": torch.tensor([3.0])}
    assert angles({"b.w": torch.tensor([0.5])}, theirs, ["a", "b"]) == pytest.approx({ALL: 45.0, "b": 0.0})
    assert angles({}, theirs, ["a"]) == {} and angles({}, {}, []) == {}
    # What the rule adds for itself, or has made of another shape, is none of backprop's.
    more = {"b.w": torch.tensor([1.0]), "b.inverse": torch.ones(4), "a.w": torch.ones(2)}
    assert angles(more, theirs, ["a", "b"]) == {ALL: 0.0, "b": 0.0}
    assert angles({"a.w": torch.tensor([math.nan])}, theirs, ["a"]) == {}


@pytest.mark.parametrize("text", [PLAIN, NOISY], ids=["plain", "noisy"])
def test_backprop_has_no_angle_to_itself(text: str) -> None:
    found = measured(*pair("backprop", text))
    assert found == dict.fromkeys([ALL, "t1", "t2", "out"], 0.0)


def test_feedback_with_the_weights_themselves_is_backprop() -> None:
    model, reference = pair("feedback")
    reference.load_state_dict({name: model.state_dict()[name] for name in reference.state_dict()})
    before = measured(model, reference)
    assert before["t1"] > 45 and before["out"] == 0
    state = model.state_dict()
    fixed = [name for name in state if name.endswith(".feedback")]
    assert fixed
    with torch.no_grad():
        for name in fixed:
            weight = state[name.removesuffix("feedback") + "weight"]
            state[name].copy_(weight if weight.shape == state[name].shape else weight.T)
    assert max(measured(model, reference).values()) < 0.01


def test_a_task_that_learns_nothing_has_no_angle() -> None:
    found = measured(*pair("local"))
    assert found.keys() == {ALL, "out"}
    assert found["out"] == 0 and found[ALL] > 1


@pytest.mark.parametrize("credit", ["backprop", "feedback", "synthetic(every=3)", "hebbian", "target"])
def test_measuring_changes_nothing(tmp_path: Path, credit: str) -> None:
    """Batch norm, dropout, statistics of rules, optimizer and generators: a training with angles is the same."""
    checked = r2d2c.loads(NOISY, credit=credit)

    def train(name: str, *callbacks: Any) -> dict[str, Any]:
        run = r2d2c.train(checked, out=tmp_path / name, callbacks=callbacks)
        saved = load_checkpoint(run.folder / "checkpoints" / "last.safetensors")
        lines = [{k: v for k, v in r.items() if k not in ("seconds", "rate")} for r in run.metrics]
        tensors = {**saved.model, **saved.rng.tensors}
        for key, packed in saved.optimizers.items():
            tensors |= {f"{key}{name}": tensor for name, tensor in packed.tensors.items()}
        return {"lines": lines, "tensors": tensors}

    torch.manual_seed(5)
    plain = train("plain")
    measuring = Angles()
    with_angles = train("measured", measuring)
    assert plain["lines"] == with_angles["lines"]
    assert plain["tensors"].keys() == with_angles["tensors"].keys()
    assert all(torch.equal(t, with_angles["tensors"][name]) for name, t in plain["tensors"].items())
    assert list(measuring.history) == [0, 1, 2, 3]
    assert all(0 <= value <= 180 for found in measuring.history.values() for value in found.values())


def test_the_file_and_going_on(tmp_path: Path) -> None:
    checked = r2d2c.loads(PLAIN, credit="feedback")
    whole = r2d2c.train(checked, out=tmp_path / "whole", angles=True, epochs=4)
    found = read_angles(whole.folder / FILE)
    assert list(found) == [0, 1, 2, 3, 4] and found[4].keys() == {ALL, "t1", "t2", "out"}
    assert (whole.folder / FILE).read_text().startswith("epoch,task,degrees\n0,,")
    # Going on goes on measuring, and what was measured after the checkpoint is forgotten.
    cut = r2d2c.train(checked, out=tmp_path / "cut", angles=True, epochs=2)
    with (cut.folder / FILE).open("a") as stream:
        stream.write("3,,1.0\n3,t1,")
    r2d2c.train(resume=cut.folder, epochs=4)
    again = read_angles(cut.folder / FILE)
    assert list(again) == [0, 1, 2, 3, 4]
    assert again == {epoch: pytest.approx(mine) for epoch, mine in found.items()}
    assert not (r2d2c.train(checked, out=tmp_path / "none", epochs=1).folder / FILE).exists()


def test_batches_from_python_are_all_trained_on(tmp_path: Path) -> None:
    checked = r2d2c.loads(PLAIN, credit="feedback")
    given = [batch(), batch()]
    measuring = Angles()
    run = r2d2c.train(checked, data=given, out=tmp_path / "list", epochs=1, callbacks=[measuring])
    assert run.metrics[0]["samples"] == 64 and list(measuring.history) == [0, 1]
    measuring = Angles()
    run = r2d2c.train(checked, data=lambda: iter(given), out=tmp_path / "f", epochs=1, callbacks=[measuring])
    assert run.metrics[0]["samples"] == 64 and list(measuring.history) == [0, 1]


def test_feedback_comes_to_point_along_backprop(tmp_path: Path) -> None:
    """Lillicrap et al. 2016: the weights align with the fixed matrices, so the angle falls below 90°."""
    checked: Checked = r2d2c.load(Path(__file__).parents[2] / "specs" / "credit" / "feedback.yaml")
    measuring = Angles()
    r2d2c.train(checked, out=tmp_path / "run", epochs=15, callbacks=[measuring])
    first, last = measuring.history[0], measuring.history[15]
    hidden = [task for task in checked.graph.tasks if task != "out"]
    assert sum(first[task] for task in hidden) / len(hidden) > 80
    assert all(last[task] < 90 for task in hidden)
    assert sum(last[task] for task in hidden) / len(hidden) < 80
