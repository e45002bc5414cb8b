"""Parameters of their own for every step, where loops stand in loops."""

import pytest
import torch

import r2d2c

SPEC = """
r2d2c: 1
dims: {D: 8, H: 4, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
loops:
  inner(data):
    repeat: 2
    parameters: INNER
    carry: {h: "f32[B, H] = zeros"}
    body: h = tanh(linear(data, H) + linear(h, H))
  outer(data):
    repeat: 4
    parameters: OUTER
    carry: {h: "f32[B, H] = zeros"}
    body: h = h + inner(data)
tasks:
  classify:
    behavior: logits = linear(outer(x), C)
    distance: cross_entropy(logits, y)
outputs:
  logits: classify.logits
"""


@pytest.mark.parametrize("inner", ["shared", "per_step"])
@pytest.mark.parametrize("outer", ["shared", "per_step"])
def test_the_parameters_of_an_inner_loop(inner: str, outer: str) -> None:
    """Of the inner loop's steps if those have their own, else of the outer's; an oracle by hand, with gradients."""
    model = r2d2c.compile(r2d2c.loads(SPEC.replace("INNER", inner).replace("OUTER", outer))).double()
    x, y = torch.randn(5, 8, dtype=torch.float64), torch.randint(0, 3, (5,))
    model.learn(x=x, y=y)
    leaves = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    steps = 2 if inner == "per_step" else 4 if outer == "per_step" else None
    assert leaves["inner.h.linear.weight"].shape == ((4, 8) if steps is None else (steps, 4, 8))

    def of(name: str, k: int, o: int) -> torch.Tensor:
        value = leaves[f"inner.h.{name}"]
        return value if steps is None else value[k if inner == "per_step" else o]

    total = torch.zeros(5, 4, dtype=torch.float64)
    for o in range(4):
        h = torch.zeros_like(total)
        for k in range(2):
            first = x @ of("linear.weight", k, o).T + of("linear.bias", k, o)
            h = torch.tanh(first + h @ of("linear_2.weight", k, o).T + of("linear_2.bias", k, o))
        total = total + h
    logits = total @ leaves["classify.logits.linear.weight"].T + leaves["classify.logits.linear.bias"]
    torch.testing.assert_close(model(x=x)["logits"], logits, rtol=1e-12, atol=1e-12)
    torch.nn.functional.cross_entropy(logits, y).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, leaves[name].grad, rtol=1e-12, atol=1e-12)
