"""Sums over slots after each of many steps, against those that are made step by step."""

from __future__ import annotations

import pytest
import torch

from r2d2c.lower.readout import over_steps, running_sum


@pytest.mark.parametrize("shape", [(1, 2, 3), (5, 2, 3), (16, 4), (37, 1, 2), (256, 3)])
def test_running_sums_are_those_of_cumsum(shape: tuple[int, ...]) -> None:
    x = torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine, plain = running_sum(x), x.cumsum(0)
    torch.testing.assert_close(mine, plain, rtol=1e-13, atol=1e-13)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (mine, plain)]
    torch.testing.assert_close(*grads, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("sometimes", [False, True])
def test_sums_over_slots_after_each_step_are_those_of_the_slots(sometimes: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    slots, count, samples, width, out = 3, 21, 4, 5, 2
    real = {"dtype": torch.float64, "generator": drawn}
    weights = torch.randn(slots, width, out, **real, requires_grad=True)  # type: ignore[call-overload]
    values = torch.randn((slots + count) * samples, width, **real, requires_grad=True)  # type: ignore[call-overload]
    index = torch.randint(slots, (count, samples), generator=drawn)
    when = torch.rand(count, samples, generator=drawn) < 0.4 if sometimes else None
    rows = values.reshape(slots + count, samples, width)
    held = [[rows[k, b] for k in range(slots)] for b in range(samples)]
    sums = []
    for t in range(count):
        for b in range(samples):
            if when is None or when[t, b]:
                held[b][int(index[t, b])] = rows[slots + t, b]
            sums.append(torch.stack([held[b][k] @ weights[k] for k in range(slots)]).sum(0))
    plain, mine = torch.stack(sums), over_steps(weights, values, index, when)
    torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-12)
    scale = torch.randn(plain.shape, **real)  # type: ignore[call-overload]
    grads = [torch.autograd.grad((y * scale).sum(), (weights, values)) for y in (mine, plain)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
