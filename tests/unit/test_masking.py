"""Masks: padded and masked equals unpadded, with nan in the padding, for ops, blocks and a whole model."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.model import Model
from r2d2c.ops.registry import builtin
from tests.unit.eager_double import Eager, type_of

LENGTHS = (3, 0, 5, 1)
SIZE = 5
EXACT = {"rtol": 1e-12, "atol": 1e-12}

pytestmark = pytest.mark.filterwarnings("ignore:Anomaly Detection")


def call(name: str, **arguments: Any) -> Tensor:
    """An op's lowering, run at once."""
    op = builtin()[name]
    given = {arg.name: arg.default for arg in op.args} | arguments
    type_ = type_of(arguments.get("x"))
    assert type_ is not None and callable(op.lower)
    result = op.lower(Eager(given, (type_,)), SimpleNamespace(**given))
    assert isinstance(result, Tensor)
    return result


def ragged(*dims: int) -> list[Tensor]:
    """Samples of different lengths, [n, …] each."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, *dims, generator=generator, dtype=torch.float64) for n in LENGTHS]


def padded(samples: list[Tensor], fill: float = torch.nan) -> tuple[Tensor, Tensor]:
    """The samples as [B, SIZE, …] and their mask."""
    whole = torch.full((len(samples), SIZE, *samples[0].shape[1:]), fill, dtype=samples[0].dtype)
    mask = torch.zeros(len(samples), SIZE, dtype=torch.bool)
    for row, sample in enumerate(samples):
        whole[row, : len(sample)], mask[row, : len(sample)] = sample, True
    return whole, mask


def plain(name: str, sample: Tensor) -> Tensor:
    """What a reduction is for one sample without padding, by torch itself."""
    if not len(sample):
        return torch.zeros(sample.shape[1:], dtype=sample.dtype)
    return {"masked_sum": sample.sum(0), "masked_mean": sample.mean(0), "masked_max": sample.amax(0)}[name]


@pytest.mark.parametrize("dims", [(), (2,)])
@pytest.mark.parametrize("name", ["masked_sum", "masked_mean", "masked_max"])
def test_a_reduction_of_padded_rows_is_that_of_each_sample(name: str, dims: tuple[int, ...]) -> None:
    samples = [sample.requires_grad_() for sample in ragged(*dims)]
    with torch.no_grad():
        x, mask = padded(samples)
    x.requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        found = call(name, x=x, mask=mask)
        factors = torch.arange(1.0, 1 + found.numel(), dtype=found.dtype).reshape(found.shape)
        (found * factors).sum().backward()
    expected = torch.stack([plain(name, sample) for sample in samples])
    (expected * factors).sum().backward()
    torch.testing.assert_close(found, expected, **EXACT)
    assert x.grad is not None
    zeros = [torch.zeros_like(s) if s.grad is None else s.grad for s in samples]
    assert torch.equal(x.grad[~mask], torch.zeros_like(x.grad[~mask]))
    torch.testing.assert_close(x.grad, padded(zeros, 0.0)[0], **EXACT)
    kept = call(name, x=x, mask=mask, keep=True)
    assert kept.shape == (len(LENGTHS), 1, *dims) and torch.equal(kept[:, 0], found)


def test_several_axes_and_a_mask_of_size_one() -> None:
    x = torch.randn(3, 2, 4, 2, dtype=torch.float64)
    mask = torch.tensor([[[True, False, True, False], [False, True, False, False]]])
    expected = torch.stack([x[:, 0, 0], x[:, 0, 2], x[:, 1, 1]]).mean(0)
    torch.testing.assert_close(call("masked_mean", x=x, mask=mask, axes=(1, 2)), expected, **EXACT)


def test_a_count_beyond_what_bfloat16_counts() -> None:
    x = torch.ones(1, 1001, dtype=torch.bfloat16)
    assert call("masked_mean", x=x, mask=x > 0).item() == 1.0


def test_softmax_of_padded_scores_is_that_of_each_sample() -> None:
    samples = [sample.requires_grad_() for sample in ragged()]
    with torch.no_grad():
        x, mask = padded(samples)
    x.requires_grad_()
    factors = torch.arange(1.0, 1 + x.numel(), dtype=x.dtype).reshape(x.shape)
    with torch.autograd.detect_anomaly(check_nan=True):
        found = call("masked_softmax", x=x, mask=mask)
        (found * factors).sum().backward()
    expected = padded([sample.softmax(0) for sample in samples], 0.0)[0]
    (expected * factors).sum().backward()
    torch.testing.assert_close(found, expected, **EXACT)
    assert torch.equal(found[~mask], torch.zeros_like(found[~mask]))
    assert x.grad is not None
    zeros = [torch.zeros_like(s) if s.grad is None else s.grad for s in samples]
    torch.testing.assert_close(x.grad, padded(zeros, 0.0)[0], **EXACT)
    middle = call("masked_softmax", x=x[:, :, None].expand(-1, -1, 3), mask=mask, axis=1)
    torch.testing.assert_close(middle, found[:, :, None].expand(-1, -1, 3), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_softmax_leaves_nothing_to_what_is_absent(dtype: torch.dtype) -> None:
    x, mask = torch.tensor([[-60000.0, 9.0, -1.0]], dtype=dtype), torch.tensor([[True, False, False]])
    assert call("masked_softmax", x=x, mask=mask).tolist() == [[1.0, 0.0, 0.0]]


PORTS = {"x": "f32[B, T, D]", "z": "f32[B, T, D]", "s": "f32[B, T]", "m": "bool[B, T]", "n": "i64[B]"}


def compiled(expression: str, distance: str = "mean(h ^ 2)") -> Model:
    """A model of one task in float64, with the inputs that it reads."""
    read = set(re.findall(r"\b\w+\b", f"{expression} {distance}"))
    lines = ["r2d2c: 1", "dims: {D: 4}", "imports: [std/rows]", "inputs:"]
    lines += [f"  {name}: {type_}" for name, type_ in PORTS.items() if name in read]
    lines += ["tasks:", "  t:", "    behavior: |", f"      h = {expression}", f"    distance: {distance}"]
    return r2d2c.compile(r2d2c.loads("\n".join([*lines, "outputs:", "  h: t.h\n"]))).double()


def test_pad_mask() -> None:
    model = compiled("where(pad_mask(n, T), s, 0)")
    s, n = torch.ones(3, 4, dtype=torch.float64), torch.tensor([0, 4, 2])
    assert model(s=s, n=n)["h"].tolist() == [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    bounds = {port.name: model.graph.bounds.get(port.value) for port in model.graph.body.inputs}
    assert str(bounds["n"]) in ("1 + T", "T + 1"), "data with greater lengths is refused"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("masked_mean(x, s)", "a mask is of bools"),
        ("masked_mean(x, m, axes=2)", "does not reach axis 2"),
        ("masked_mean(x[:, 0], m)", "a mask has the first dims of `x`"),
        ("masked_softmax(x, m)", "does not reach axis 2"),
        ("masked_sum(cast(s, i64), m)", "must be of a floating dtype"),
        ("masked_max(x, m, axes=3)", "there is no axis 3"),
        ("where(pad_mask(s, T), x[..., 0], 0)", "an index must be i64 or i32"),
        ("x + learned((T, D))", "cannot depend on T"),
        ("x + learned(D, value=x[0, 0, :2])", "is needed, or"),
    ],
)
def test_what_does_not_fit_is_said(expression: str, message: str) -> None:
    with pytest.raises(CompileError, match=message) as caught:
        compiled(expression)
    assert all(d.code.startswith("E3") and d.labels for d in caught.value.diagnostics)


# -- learned


def test_learned() -> None:
    model = compiled("sum(x, 1) + learned(D, name=place) + learned(D, init=zeros, frozen=true)")
    rows = model.graph.storage
    assert {name: row.kind for name, row in rows.items()} == {
        "t.place.value": "param",
        "t.h.learned.value": "frozen",
    }
    place = model.get_parameter("t.place.value")
    assert place.shape == (4,) and not model.get_buffer("t.h.learned.value").any()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    h = model(x=x)["h"]
    torch.testing.assert_close(h, x.sum(1) + place, **EXACT)
    model.learn(x=x)
    torch.testing.assert_close(place.grad, (2 * h / h.numel()).sum(0).detach(), **EXACT)


def test_learned_starts_small_and_init_changes_that() -> None:
    model = compiled("sum(x, 1)[:, :1] + sum(learned((40, 50))) + sum(learned((40, 50), init=normal(0.5)))")
    spreads = [float(p.detach().std()) for p in model.parameters()]
    assert spreads == pytest.approx([0.02, 0.5], rel=0.05)


def test_learned_takes_a_value_from_elsewhere() -> None:
    model = compiled("x + learned(D, name=a) + learned((1, D), value=reshape(a.value, (1, D)))")
    x = torch.zeros(1, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x=x)["h"][0, 0], 2 * model.get_parameter("t.a.value"), **EXACT)
    sampled = compiled("sum(x, 1) + learned(D, value=mean(x, 1))")
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(sampled(x=x)["h"], 1.5 * x.sum(1), **EXACT)


# -- distances

DISTANCES = [
    "mse(h, x",
    "l1(h, x",
    "huber(h, x",
    "bce(h, x",
    "bce_probs(sigmoid(h), x",
    "gaussian_nll(h, x, h",
]
DISTANCES += ["l2(h[:, 0], x[:, 0]", "cosine(h, x", "kl(h, x", "cross_entropy(h, x", "hinge(h, argmax(x, -1)"]


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_masked_target_of_nan_leaves_the_gradients_alone(distance: str) -> None:
    """Against the same rows in one sample that has no padding; the layer sees no nan, its target does."""
    mask = ", mask=m[:, 0])" if distance.startswith("l2") else ", mask=m)"
    model = compiled("linear(z, D)", distance + mask)
    samples = [torch.sigmoid(sample) for sample in ragged(4)]
    if distance.startswith("l2"):
        x, m = padded(samples)
        whole, there = x[m[:, 0]], m[m[:, 0]]
    else:
        (x, m), whole = padded(samples), torch.cat(samples)[None]
        there = torch.ones(whole.shape[:2], dtype=torch.bool)
    losses, gradients = [], []
    for given, seen in ((whole, there), (x, m)):
        model.zero_grad()
        losses.append(model.learn(x=given, m=seen, z=given.nan_to_num(7.0)).losses["t"])
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[1], losses[0], **EXACT)
    assert len(gradients[0]) == 2 and all(bool(g.any()) for g in gradients[0])
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


# -- blocks and whole models


def tensors(samples: list[Tensor]) -> dict[str, Tensor]:
    """A padded batch for the ports x, s and m; what is padding is nan."""
    x, mask = padded(samples)
    return {"x": x, "s": x[..., 0], "m": mask}


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One sample of a batch, without its padding."""
    return {
        n: v[row : row + 1, : LENGTHS[row]] if v.dim() > 1 else v[row : row + 1] for n, v in batch.items()
    }


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("present(x, m)", True),
        ("norm_rows(x, m)", True),
        ("row_attention(x, m, D, heads=2)", True),
        ("row_transformer(x, m, D, heads=2, repeat=2)", True),
        ("field_rows(s, cast(m, i64), m, D, D)", True),
        ("pool_rows(x, m)", False),
    ],
)
def test_a_block_gives_each_sample_what_it_gets_alone(expression: str, rows: bool) -> None:
    model = compiled(expression)
    batch = {n: v for n, v in tensors(ragged(4)).items() if n in model._inference_lowered.inputs}
    source = batch["x" if "x" in batch else "s"].requires_grad_()
    parameters = list(model.parameters())

    def loss(found: Tensor, mask: Tensor) -> Tensor:
        return (found[mask] if rows else found).pow(3).sum()

    found = model(**batch)["h"]
    gradients = torch.autograd.grad(loss(found, batch["m"]), [source, *parameters])
    assert torch.equal(gradients[0][~batch["m"]], torch.zeros_like(gradients[0][~batch["m"]]))
    assert expression.startswith("field") or torch.equal(found, found.nan_to_num())
    total: Tensor | float = 0.0
    for row, length in enumerate(LENGTHS):
        if not length:
            assert rows or not found[row].any()
            continue
        one = alone(batch, row)
        single = model(**one)["h"]
        torch.testing.assert_close(found[row, :length] if rows else found[row], single[0], **EXACT)
        total = total + loss(single, one["m"])
    assert isinstance(total, Tensor)
    for mine, theirs in zip(gradients, torch.autograd.grad(total, [source, *parameters]), strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)


WHOLE = """r2d2c: 1
dims: {D: 4, W: 8, C: 3}
imports: [std/rows]
inputs:
  x: f32[B, T, D]
  m: bool[B, T]
targets:
  y: i64[B]
tasks:
  trunk:
    behavior: |
      rows = linear(present(x, m), W) + embedding(arange(T), 6, W, name=position) + learned(W, name=kind)
      h = row_transformer(rows, m, W, heads=2)
  classify:
    behavior: logits = trunk.h |> pool_rows(m) |> linear(C)
    distance: cross_entropy(logits, y, reduction=sum)
losses:
  rebuild:
    body: again = linear(trunk.h, D)
    value: mse(again, x, mask=m, reduction=sum)
outputs:
  logits: classify.logits
  best: masked_max(trunk.h, m)
"""


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, EXACT), (torch.float32, {"rtol": 2e-6, "atol": 2e-6})]
)
@pytest.mark.parametrize("credit", ["backprop", "local"])
def test_a_model_learns_from_padded_samples_what_it_learns_from_each(
    dtype: torch.dtype, close: dict[str, float], credit: str
) -> None:
    """Losses, outputs and the gradient of every parameter; the rows and the targets that are padding are nan."""
    model = r2d2c.compile(r2d2c.loads(WHOLE, credit=credit)).to(dtype)
    x, mask = padded([sample.to(dtype) for sample in ragged(4)])
    batch = {"x": x, "m": mask, "y": torch.tensor([0, 1, 2, 1])}
    there = [row for row, length in enumerate(LENGTHS) if length]
    singles = [alone(batch, row) for row in there]
    batch = {name: value[there] for name, value in batch.items()}
    step = model.learn(**batch)
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    steps = [model.learn(**single) for single in singles]
    for name, loss in step.losses.items():
        torch.testing.assert_close(loss, torch.stack([s.losses[name] for s in steps]).sum(), **close)
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and {"trunk.kind.value", "trunk.position.weight"} <= found.keys()
    for name, gradient in found.items():
        assert gradient.any(), name
        torch.testing.assert_close(gradient, expected[name], **close)
    for name, output in model(x=batch["x"], m=batch["m"]).items():
        rows = torch.cat([model(x=single["x"], m=single["m"])[name] for single in singles])
        torch.testing.assert_close(output, rows, **close)


def test_what_a_sample_of_two_modalities_lacks_changes_nothing() -> None:
    """The ready spec: other pixels where there is no image and nan for values that are padding, to the last bit."""
    path = Path(__file__).parents[2] / "specs" / "tasks" / "two_modalities.yaml"
    spec = r2d2c.load(path)
    image, table = (torch.arange(6) % 2 == rest for rest in (0, 1))
    batch = {
        "image": torch.rand(6, 1, 8, 8) * image[:, None, None, None],
        "is_image": image,
        "values": torch.randn(6, 13),
        "fields": torch.randint(0, 17, (6, 13)),
        "length": torch.tensor([0, 13, 0, 4, 0, 7]),
        "y": torch.tensor([3, 10, 0, 13, 9, 15]),
    }
    there = torch.arange(13) < batch["length"][:, None]
    batch["values"] = batch["values"].masked_fill(~there, 0.0)
    other = batch | {
        "image": batch["image"] + 5.0 * table[:, None, None, None],
        "values": batch["values"].masked_fill(~there, torch.nan),
        "fields": torch.where(there, batch["fields"], 16),
    }
    gradients, steps = [], []
    for given in (batch, other):
        model = r2d2c.compile(spec)
        steps.append(model.learn(**given))
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert steps[0].losses["fill_in"] > 0
    for name, loss in steps[0].losses.items():
        torch.testing.assert_close(steps[1].losses[name], loss, rtol=0, atol=0)
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-7)
