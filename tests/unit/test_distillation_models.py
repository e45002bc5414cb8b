"""Models with losses over steps and widths: what is off changes no bit, and all else that a spec goes through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import r2d2c
from r2d2c import loads
from r2d2c.credit.registry import rules
from r2d2c.emit import emit_python
from r2d2c.plan import plan
from r2d2c.prove import prove
from tests.unit.distillation_oracle import LOSSES, WIDTHS, Run, Wanted, batch, ce, check, spec
from tests.unit.loop_oracle import Params, compiled, near

# -- off is off


def trained(text: str, **learning: Any) -> dict[str, Tensor]:
    """The parameters after five steps of Adam in float32."""
    model = r2d2c.compile(loads(text))
    given = {"x": batch()["x"].float(), "y": batch()["y"]}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        model.learn(**given, **learning)
        optimizer.step()
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


PLAIN = spec("").replace("losses:\n", "")


def test_what_is_switched_off_changes_no_bit() -> None:
    plain = PLAIN.replace(WIDTHS, "")
    wanted = trained(plain)
    same(trained(PLAIN), wanted)  # widths that are declared, at width 1
    for line in LOSSES.strip().splitlines():
        off = spec(line.rpartition("weight:")[0] + "weight: 0}")
        same(trained(off), wanted)
    assert any(not torch.equal(a, wanted[n]) for n, a in trained(spec(LOSSES)).items())


def test_what_is_stored_changes_no_bit() -> None:
    text = spec(LOSSES)
    off, on = trained(text), trained(text.replace("repeat: depth", "repeat: depth\n    recompute: true"))
    same(off, on)


# -- what else a spec goes through


def test_wiring_is_proved() -> None:
    losses = LOSSES + "head: {value: 'mse(linear(stop(think.r.z.steps), 2), x[:, :2])', steps: 2..depth}\n"
    checked = loads(spec(losses))
    model = r2d2c.compile(checked)
    wiring = model.wiring()
    taught = {name for name, how in wiring["head"].items() if how}
    assert taught == {"head.linear.weight", "head.linear.bias"}
    assert wiring["narrow"]["refine.c.initial"] == "gradient"
    assert prove(model).ok


def test_a_trace_and_a_plan() -> None:
    model, given = compiled(spec(LOSSES)), batch()
    trace, losses = model.trace(**given), model.losses(**given)
    assert all(torch.equal(trace.losses[name], losses[name]) for name in losses)
    each = [trace.values[f"early.mse@{k}"] for k in (1, 2, 3)]
    near(losses["early"], torch.stack(each).mean(), "the mean over the steps")
    loops = plan(model.spec, rules(model.spec.rules), width=0.5).loops
    assert {(row.name, row.steps) for row in loops} == {("refine", 4), ("early.each", 3), ("both.each", 4)}
    # One run for each width that losses ask for, and the model's own; the losses have no width.
    assert sorted(row.width for row in loops if row.width is not None) == [0.25, 0.5, 0.5]
    assert all((row.width is None) == (row.name != "refine") for row in loops)


def test_an_epoch_of_training(tmp_path: Any) -> None:
    text = spec(LOSSES).replace("D: 5", "D: 64").replace("C: 3", "C: 10")
    text += "train:\n  data: digits\n  epochs: 1\n  batch_size: 64\n  sizes: {depth: 1..6}\n"
    run = r2d2c.train(loads(text), out=tmp_path / "run")
    for depth in (1, 6):
        for width in (0.25, 1.0):
            losses = r2d2c.evaluate(run, sizes={"depth": depth, "width": width})["losses"]
            assert all(0 < losses[name] < 3 for name in ("think", "narrow", "both"))
            assert (losses["early"] == 0) == (depth == 1)


def test_nothing_is_said_of_losses_that_are_right() -> None:
    assert loads(spec(LOSSES)).diagnostics == ()


def test_a_value_that_is_called_steps_or_widths() -> None:
    """What a task names so is its value, and a loss of it no loss over steps."""
    text = PLAIN.replace(WIDTHS, "").replace(
        "out = r.logits", "out = r.logits\n      steps = tanh(out)\n      widths = out * 2"
    )
    named = text.replace("outputs:", "losses:\n  a: {value: 'mse(think.steps, think.widths)'}\noutputs:")
    model = compiled(named)

    def by_hand(p: Params, given: dict[str, Any], depth: int) -> Wanted:
        out = Run(p, given["x"], depth).logits[-1]
        return {"think": (ce(out, given), 1), "a": (F.mse_loss(torch.tanh(out), out * 2), 1)}

    check(model, by_hand)


def test_steps_and_widths_of_a_loop_that_halts() -> None:
    losses = """
every: {value: "mse(think.r.z.steps, stop(think.r.z.mean))", steps: 2..4, weight: 0.3}
narrow: {value: "mse(think.r.z.mean.widths, stop(think.r.z.mean))"}
"""
    text = spec(losses).replace("repeat: depth", "until: p\n    max: 4").replace(", depth: 1..6 = 4", "")
    text = text.replace(
        "logits = linear(z, C)", "p = sigmoid(linear(c, 1))[:, 0]\n      logits = linear(z, C)"
    )
    model, given = compiled(text), batch()
    model.learn(**given)
    mean_ = model.trace(**given).values
    full, narrow = (mean_[n] for n in ("refine.z.mean", "refine.z.mean@think.r@0.5.refine()"))
    quarter = mean_["refine.z.mean@think.r@0.25.refine()"]
    wanted = (F.mse_loss(narrow, full) + F.mse_loss(quarter, full)) / 2
    near(model.losses(**given)["narrow"], wanted, "the loss narrow")
    steps = mean_["refine.z.steps"]
    assert steps.shape == (6, 4, 8)
    wanted = torch.stack([F.mse_loss(steps[:, k], full) for k in (1, 2, 3)]).mean()
    near(model.losses(**given)["every"], wanted, "the loss every")


def test_export_at_every_depth_and_width(tmp_path: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = r2d2c.compile(loads(spec(LOSSES)))
    given = {"x": batch()["x"].float(), "y": batch()["y"]}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model.learn(**given)
        optimizer.step()
    path = r2d2c.export(model, tmp_path / "m.onnx").path
    session = onnxruntime.InferenceSession(path)
    names = {i.name: i for i in (*session.get_inputs(), *session.get_overridable_initializers())}
    assert names.keys() == {"x", "depth", "width"}
    for depth in (1, 4, 6):
        for width in (0.25, 0.5, 1.0):
            feeds = {"x": given["x"].numpy()}
            for name, value in (("depth", depth), ("width", width)):
                kind = "int64" if "int64" in names[name].type else "float32"
                feeds[name] = torch.full(names[name].shape, value).numpy().astype(kind)
            (theirs,) = session.run(["logits"], feeds)
            mine = model(x=given["x"], depth=depth, width=width)["logits"]
            torch.testing.assert_close(torch.from_numpy(theirs), mine.detach(), rtol=0, atol=1e-5)


def test_the_emitted_python_learns_the_same() -> None:
    """At depth 1 too, which has no step of one of the losses."""
    model = r2d2c.compile(loads(spec(LOSSES)))
    space: dict[str, Any] = {"__name__": "emitted"}
    exec(compile(emit_python(model), "emitted.py", "exec"), space)
    made = [c for c in space.values() if isinstance(c, type) and c.__module__ == "emitted"]
    emitted = next(c for c in reversed(made) if issubclass(c, torch.nn.Module))()
    emitted.load_state_dict(model.state_dict())
    given = {"x": batch()["x"].float(), "y": batch()["y"]}
    for depth in (1, 6):
        model.zero_grad()
        emitted.zero_grad()
        losses, theirs = model.learn(**given, depth=depth).losses, emitted.learn(**given, depth=depth)[0]
        assert all(torch.equal(losses[name], theirs[name]) for name in losses)
        for (name, mine), other in zip(model.named_parameters(), emitted.parameters(), strict=True):
            assert mine.grad is not None and torch.equal(mine.grad, other.grad), name
