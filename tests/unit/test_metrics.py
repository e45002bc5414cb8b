"""Metrics are exact over batches of any sizes."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.train.metrics import METRICS, Metric, find_metric

BY_NAME = {metric.name: metric for metric in METRICS}


def data(metric: Metric, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n, 3, generator=generator) < 0.7
    if metric.shape == "classes":
        predictions = torch.randn(n, 3, 7, generator=generator)
        return predictions, torch.randint(0, 7, (n, 3), generator=generator), mask
    return torch.randn(n, 3, generator=generator), torch.randn(n, 3, generator=generator), mask


def run(metric: Metric, parts: list[tuple[Any, ...]], **options: Any) -> float:
    state = metric.init()
    for predictions, targets, mask in parts:
        state = metric.update(state, predictions, targets, mask, options)
    return metric.compute(state)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(METRICS),
    st.integers(1, 40),
    st.lists(st.integers(0, 40), max_size=5),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_split_gives_the_whole(metric: Metric, n: int, cuts: list[int], masked: bool, seed: int) -> None:
    predictions, targets, mask = data(metric, n, seed)
    edges = sorted({0, n, *(min(cut, n) for cut in cuts)})
    parts = [(predictions[a:b], targets[a:b], mask[a:b] if masked else None) for a, b in pairwise(edges)]
    split = run(metric, parts)
    whole = run(metric, [(predictions, targets, mask if masked else None)])
    assert split == pytest.approx(whole, rel=1e-12, nan_ok=True)


def test_values_against_torch() -> None:
    logits, y = torch.randn(50, 7), torch.randint(0, 7, (50,))
    assert run(BY_NAME["accuracy"], [(logits, y, None)]) == float((logits.argmax(1) == y).double().mean())
    top2 = (logits.topk(2).indices == y[:, None]).any(1).double().mean()
    assert run(BY_NAME["top_k_accuracy"], [(logits, y, None)], k=2) == float(top2)
    assert run(BY_NAME["top_k_accuracy"], [(logits, y, None)], k=99) == 1.0
    cross_entropy = torch.nn.functional.cross_entropy(logits.double(), y)
    assert run(BY_NAME["perplexity"], [(logits, y, None)]) == pytest.approx(math.exp(cross_entropy), rel=1e-6)
    a, b = torch.randn(9, 2), torch.randn(9, 2)
    assert run(BY_NAME["mse"], [(a, b, None)]) == pytest.approx(
        float(torch.nn.functional.mse_loss(a, b)), rel=1e-6
    )
    assert run(BY_NAME["mae"], [(a, b, None)]) == pytest.approx(float((a - b).abs().mean()), rel=1e-6)


def test_masks_drop_even_nan() -> None:
    a = torch.tensor([1.0, math.nan])
    mask = torch.tensor([True, False])
    assert run(BY_NAME["mse"], [(a, torch.zeros(2), mask)]) == 1.0
    assert math.isnan(run(BY_NAME["mse"], [(a, torch.zeros(2), torch.zeros(2))]))
    assert math.isnan(BY_NAME["mse"].compute(BY_NAME["mse"].init()))


def test_bfloat16_is_summed_exactly() -> None:
    ones = torch.ones(10_000, dtype=torch.bfloat16)
    assert run(BY_NAME["mae"], [(ones, torch.zeros_like(ones), None)]) == 1.0


def test_no_gradient_is_kept_and_huge_perplexity_is_infinite() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    state = BY_NAME["perplexity"].update({}, logits * 1.0, torch.tensor([0, 1]))
    assert not state["sum"].requires_grad
    assert run(BY_NAME["perplexity"], [(torch.tensor([[0.0, 1e4]]), torch.tensor([0]), None)]) == math.inf


def test_shapes_never_broadcast() -> None:
    with pytest.raises(CompileError) as caught:
        BY_NAME["mse"].update({}, torch.zeros(4, 1), torch.zeros(4))
    (diagnostic,) = caught.value.diagnostics
    assert str(diagnostic) == "error[E511]: metric `mse` got predictions [4, 1] and targets [4]"
    assert diagnostic.notes == ("it wants both of one shape",)


def test_better() -> None:
    accuracy, mse = BY_NAME["accuracy"], BY_NAME["mse"]
    assert accuracy.improves(0.9, 0.8)
    assert not accuracy.improves(0.8, 0.8)
    assert mse.improves(0.1, 0.2)
    assert mse.improves(0.1, None)
    assert mse.improves(0.1, math.nan)
    assert not mse.improves(math.nan, None)


def test_names_and_options() -> None:
    sink = Sink()
    assert find_metric("top_k_accuracy", {"k": 3}, sink) is BY_NAME["top_k_accuracy"]
    assert not sink.diagnostics
    assert find_metric("acuracy", {}, sink) is None
    assert find_metric("accuracy", {"k": 3}, sink) is None
    assert find_metric("top_k_accuracy", {"k": 0}, sink) is None
    assert [str(d) for d in sink.diagnostics] == [
        "error[E535]: there is no metric `acuracy`",
        "error[E531]: metric `accuracy` has no option `k`",
        "error[E532]: option `k` of metric `top_k_accuracy` must be a whole number from 1, not 0",
    ]
    assert sink.diagnostics[0].fix is not None
    assert sink.diagnostics[0].fix.text == "did you mean `accuracy`?"
