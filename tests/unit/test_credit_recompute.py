"""`direct(recompute=true)`: the same as `direct`, task by task. And visits that compute no outputs."""

from __future__ import annotations

import pytest
import torch

import r2d2c
from tests.unit.credit_oracle import NETS, batch_of, gradients

NOISY = """\
r2d2c: 1
model: noisy
dims: {D: 6, H: 5, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
credit: direct
tasks:
  t1:
    behavior: h = x |> linear(H) |> batch_norm |> tanh |> dropout(0.3)
  t2:
    behavior: h = t1.h |> linear(H) |> batch_norm |> tanh |> dropout(0.3)
  t3:
    behavior: h = concat(t1.h, t2.h) |> linear(H) |> tanh
  out:
    behavior: logits = linear(t3.h, C)
    distance: cross_entropy(logits, y)
outputs:
  logits: out.logits
  twice: 2 * t1.h
"""


def both(text: str) -> list[r2d2c.Model]:
    again = text.replace("credit: direct\n", "credit: direct(recompute=true)\n")
    assert again != text
    return [r2d2c.compile(r2d2c.loads(t)).double() for t in (text, again)]


@pytest.mark.parametrize("shape", NETS)
def test_recomputed_is_the_same(shape: str) -> None:
    net = NETS[shape]
    once, twice = net.model("direct"), net.model("direct(recompute=true)")
    batch = batch_of(once)
    assert once.wiring() == twice.wiring()
    found, wanted = gradients(twice, batch), gradients(once, batch)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14, msg=name)


def test_the_second_run_draws_the_same_and_leaves_statistics_alone() -> None:
    once, twice = both(NOISY)
    batch = batch_of(once)
    for _ in range(3):
        found, wanted = gradients(twice, batch), gradients(once, batch)
        for name, gradient in wanted.items():
            assert torch.equal(found[name], gradient), name
    for name, buffer in once.named_buffers():
        assert torch.equal(twice.get_buffer(name), buffer), name


def test_every_task_learns_in_a_visit_of_its_own() -> None:
    _, twice = both(NOISY)
    finished = [visit.finished for visit in twice._training_graph.visits]
    owners = [{name.partition(".")[0] for name in names} for names in finished if names]
    assert owners == [{"out"}, {"t1"}, {"t2"}, {"t3"}]


def test_a_task_that_hears_from_above_stays_with_its_first_run() -> None:
    links = "links:\n  t1.h -> t2: {credit: backprop}\n"
    once, twice = both(NOISY.replace("outputs:", f"{links}outputs:"))
    batch = batch_of(once)
    found, wanted = gradients(twice, batch), gradients(once, batch)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14, msg=name)


def test_visits_compute_no_outputs() -> None:
    text = NOISY.replace("twice: 2 * t1.h", "code: t1.h |> exp |> exp")
    model, other = (r2d2c.compile(r2d2c.loads(text)).double() for _ in range(2))
    batch = batch_of(model)
    model.learn(**batch)
    for _ in other.visits(**batch):
        pass
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        if p.grad is None:
            assert q.grad is None
        else:
            assert q.grad is not None and torch.equal(p.grad, q.grad), name
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, other.get_buffer(name)), name

    def ops(outputs: bool) -> str:
        return "".join(str(visit.lowered.fx) for visit in other._visits(outputs))

    assert "exp" in ops(True).replace("expand", "") and "exp" not in ops(False).replace("expand", "")
