"""Hypernets against loops over samples written out in torch, in every mode, on every kind of op."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import r2d2c
from r2d2c.passes import forms_rule
from tests.unit.hypernet_oracle import CASES, MODES, OPS, B, S, draw, model_of, one_sample, parameter, text


@pytest.mark.parametrize(("mode", "op"), CASES)
def test_it_is_the_equations_sample_by_sample(mode: str, op: str) -> None:
    makes, dims = OPS[op]
    model = model_of(makes, ("B", *dims), ("B", S), MODES[mode])
    x, c, y = draw(B, *dims), draw(B, S), draw(B)
    normalise = MODES[mode].partition("normalise: ")[2] or "none"
    p = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    expected = torch.stack([one_sample(makes, p, x[i], c[i], normalise) for i in range(B)])
    # A norm is kept from 0 by 1e-12 under its root: where it is small, that is seen.
    rtol = 1e-9 if normalise == "none" else 1e-6
    assert torch.allclose(model(x=x, c=c)["o"], expected, rtol=rtol, atol=1e-10)
    F.mse_loss(expected.flatten(1).mean(-1), y).backward()
    model.learn(x=x, c=c, y=y)
    for name, value in model.named_parameters():
        assert value.grad is not None and p[name].grad is not None, name
        assert torch.allclose(value.grad, p[name].grad, rtol=rtol, atol=1e-9), name  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "op"), CASES)
def test_a_batch_is_its_samples(mode: str, op: str) -> None:
    makes, dims = OPS[op]
    model = model_of(makes, ("B", *dims), ("B", S), MODES[mode]).float()
    x, c, y = draw(B, *dims).float(), draw(B, S).float(), draw(B).float()
    out = model(x=x, c=c)["o"]
    model.learn(x=x, c=c, y=y)
    whole = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    for i in range(B):
        single = {"x": x[i : i + 1], "c": c[i : i + 1]}
        assert torch.allclose(model(**single)["o"], out[i : i + 1], atol=1e-5)
        model.learn(**single, y=y[i : i + 1])
    for name, value in model.named_parameters():
        assert value.grad is not None
        scale = max(1.0, whole[name].abs().max().item())
        assert torch.allclose(value.grad / B, whole[name], atol=1e-5 * scale), name


@pytest.mark.parametrize("mode", ["full", "no base", "frobenius", "rows"])
@pytest.mark.parametrize(
    ("x", "c"),
    [
        (("B", 6), ("B", S)),
        (("B", 4, 6), ("B", S)),
        (("B", 4, 2, 6), ("B", 4, S)),
        (("B", "T", 6), ("B", "T", S)),
        (("B", 4, 6), (4, S)),
        (("B", 2, 4, 6), (2, 4, S)),
    ],
    ids=str,
)
def test_both_forms_of_a_full_linear_are_the_same(
    mode: str, x: tuple[Any, ...], c: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"x": draw(*x), "c": draw(*c), "y": draw(B)}
    found = []
    for traffic in (10**9, -(10**9)):
        monkeypatch.setattr(forms_rule, "TRAFFIC", traffic)
        model = model_of("linear(7)", x, c, MODES[mode])
        step = model.learn(**values)
        form = model.spec.graph.generated[0].form
        found.append((form, step.outputs["o"], {n: p.grad for n, p in model.named_parameters()}))
    assert [form for form, _, _ in found] == ["reorder", "batched"]
    assert torch.allclose(found[0][1], found[1][1], atol=1e-11)
    for name, grad in found[0][2].items():
        assert torch.allclose(grad, found[1][2][name], atol=1e-10), name


@pytest.mark.parametrize("mode", ["full", "factors", "scale", "chunks"])
def test_a_position_has_a_context_of_its_own(mode: str) -> None:
    model = model_of("linear(7)", ("B", 4, 6), (4, S), MODES[mode])
    x, c = draw(B, 4, 6), draw(4, S)
    p = dict(model.named_parameters())
    expected = torch.stack([one_sample("linear(7)", p, x[:, i], c[i], "none") for i in range(4)], 1)
    assert torch.allclose(model(x=x, c=c)["o"], expected, atol=1e-11)


@pytest.mark.parametrize("mode", ["full", "factors", "scale", "chunks"])
def test_one_context_for_all_gives_one_weight(mode: str) -> None:
    model = model_of("linear(7)", ("B", 4, 6), (S,), MODES[mode])
    x, c = draw(B, 4, 6), draw(S)
    expected = one_sample("linear(7)", dict(model.named_parameters()), x, c, "none")
    assert torch.allclose(model(x=x, c=c)["o"], expected, atol=1e-11)


def test_a_task_is_a_context() -> None:
    spec = text("linear(7)", "B, 6", "B, 5", "hidden: 4")
    spec = spec.replace("c: f32[B, 5]", "task: i64[B]").replace("from=c", "from=embedding(task, 3, 5)")
    model = r2d2c.compile(r2d2c.loads(spec)).double()
    x = draw(1, 6).expand(3, 6)
    out = model(x=x, task=torch.tensor([0, 1, 0]))["o"]
    assert torch.equal(out[0], out[2]) and not torch.allclose(out[0], out[1], atol=1e-3)


BLOCKS = """
blocks:
  mlp(x, width):
    return x |> linear(width) |> inner(width) |> layer_norm |> linear(6)
  inner(x, width):
    return relu(linear(x, width))
"""


@pytest.mark.parametrize("mode", MODES)
def test_every_layer_of_a_block_is_generated(mode: str) -> None:
    model = model_of("mlp(8)", ("B", 6), ("B", S), MODES[mode], BLOCKS)
    x, c = draw(B, 6), draw(B, S)
    p = dict(model.named_parameters())
    normalise = MODES[mode].partition("normalise: ")[2] or "none"
    places = sorted(
        {name.rpartition(".")[0].rpartition(".")[0] for name in p if "code" not in name and "linear" in name}
    )
    assert len(places) == 3

    def layer(place: str, value: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        weight, bias = (parameter(p, f"{place}.{n}", context, normalise) for n in ("weight", "bias"))
        return F.linear(value, weight, bias)  # type: ignore[arg-type]

    first, second = (place for place in places if "inner" not in place)
    (inside,) = (place for place in places if "inner" in place)
    norm = next(name for name in p if "layer_norm.weight" in name).partition(".weight")[0]
    expected = []
    for i in range(B):
        h = torch.relu(layer(inside, layer(first, x[i], c[i]), c[i]))
        weight, bias = (parameter(p, f"{norm}.{n}", c[i], normalise) for n in ("weight", "bias"))
        expected.append(layer(second, F.layer_norm(h, h.shape, weight, bias), c[i]))
    assert torch.allclose(model(x=x, c=c)["o"], torch.stack(expected), atol=1e-10)


def test_attention_with_generated_projections() -> None:
    blocks = """
blocks:
  attend(x): |
    q = linear(x, 8)
    k = linear(x, 8)
    v = linear(x, 8)
    return attention(q, k, v, heads=2) |> linear(6)
"""
    model = model_of("attend()", ("B", "T", 6), ("B", S), "rank: 2", blocks)
    x, c = draw(B, 4, 6), draw(B, S)
    out = model(x=x, c=c)["o"]
    again = torch.cat([model(x=x[i : i + 1], c=c[i : i + 1])["o"] for i in range(B)])
    assert torch.allclose(out, again, atol=1e-11)
    other = model(x=x, c=c.flip(0))["o"]
    assert not torch.allclose(out[0], other[0], atol=1e-4)
    assert sum("weight.left" in name for name, _ in model.named_parameters()) == 4


@pytest.mark.parametrize("mode", MODES)
def test_samples_have_weights_of_their_own(mode: str) -> None:
    model = model_of("linear(7)", ("B", 6), ("B", S), MODES[mode])
    x = draw(1, 6).expand(B, 6)
    out = model(x=x, c=draw(B, S))["o"]
    assert not torch.allclose(out[0], out[1], atol=1e-3)


def test_the_width_of_a_context_changes_neither_scale_nor_rate() -> None:
    """As many numbers of size 1 as there may be: what is generated has one size, and moves as far in a step."""
    sizes, moves = [], []
    for width in (16, 1024):
        model = model_of("linear(32)", ("B", 32), ("B", width), "hidden: 64\n    base: false").float()
        generator = torch.Generator().manual_seed(3)
        x, c = torch.randn(256, 32, generator=generator), torch.randn(256, width, generator=generator)
        sizes.append(model(x=x, c=c)["o"].std().item())
        one = c[:1].expand(256, width)
        before = model(x=x, c=one)["o"].detach()
        model.learn(x=x, c=one, y=torch.randn(256, generator=generator))
        weight = model.get_parameter("view.code.weight")
        assert weight.grad is not None
        weight.data -= 0.01 * weight.grad
        moves.append((model(x=x, c=one)["o"] - before).norm().item())
    assert 0.7 < sizes[0] / sizes[1] < 1.4
    assert 0.6 < moves[0] / moves[1] < 1.7


def test_shared_is_the_op_itself() -> None:
    spec = text("linear(7)", "B, 6", "B, 5", "hidden: 4\n    mode: shared")
    shared = r2d2c.compile(r2d2c.loads(spec))
    plain = r2d2c.compile(
        r2d2c.loads(
            spec.partition("hypernets:")[0].replace("  c: f32[B, 5]\n", "")
            + "blocks:\n  view(x): return linear(x, 7)\ntasks:"
            + spec.partition("tasks:")[2].replace(", from=c", "")
        )
    )
    names = [name for name, _ in shared.named_parameters()]
    assert names == ["view.linear.weight", "view.linear.bias"]
    for mine, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    x, c, y = draw(B, 6).float(), draw(B, 5).float(), draw(B).float()
    assert torch.equal(shared(x=x, c=c)["o"], plain(x=x)["o"])
    shared.learn(x=x, c=c, y=y)
    plain.learn(x=x, y=y)
    for mine, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None and torch.equal(mine.grad, theirs.grad)


def test_two_uses_share_the_parameters() -> None:
    spec = text("linear(6)", "B, 6", "B, 5", "hidden: 4").replace(
        "out = view(x, from=c)", "out = view(x, from=c) |> tanh |> view(from=c)"
    )
    model = r2d2c.compile(r2d2c.loads(spec)).double()
    x, c = draw(B, 6), draw(B, 5)
    p = dict(model.named_parameters())
    first = [torch.tanh(one_sample("linear(6)", p, x[i], c[i], "none")) for i in range(B)]
    expected = torch.stack([one_sample("linear(6)", p, first[i], c[i], "none") for i in range(B)])
    assert torch.allclose(model(x=x, c=c)["o"], expected, atol=1e-11)


@pytest.mark.parametrize("credit", ["feedback", "direct", "target", "alternate", "predictive", "equilibrium"])
@pytest.mark.parametrize("mode", ["full", "factors", "scale"])
def test_a_hypernet_learns_by_every_credit(mode: str, credit: str) -> None:
    spec = text("linear(6)", "B, 6", "B, 5", MODES[mode]).replace(
        "tasks:\n  t:\n", "tasks:\n  s:\n    behavior: h = view(x, from=c)\n  t:\n"
    )
    spec = spec.replace("out = view(x, from=c)", "out = linear(s.h, 4)").replace(
        "hypernets:", f"credit: {credit}\nhypernets:"
    )
    model = r2d2c.compile(r2d2c.loads(spec))
    model.learn(x=draw(B, 6).float(), c=draw(B, 5).float(), y=draw(B).float())
    for name, value in model.named_parameters():
        if name.startswith("view."):
            assert value.grad is not None and value.grad.abs().max() > 0, name


def test_each_of_two_factors_has_a_feedback_of_its_own() -> None:
    spec = text("linear(6)", "B, 6", "B, 5", "rank: 2").replace(
        "tasks:\n  t:\n", "tasks:\n  s:\n    behavior: h = linear(x, 6)\n  t:\n"
    )
    spec = spec.replace("view(x, from=c)", "view(s.h, from=c)").replace(
        "hypernets:", "credit: feedback\nhypernets:"
    )
    model = r2d2c.compile(r2d2c.loads(spec))
    model.learn(x=draw(B, 6).float(), c=draw(B, 5).float(), y=draw(B).float())
    shapes = {name: tuple(value.shape) for name, value in model.named_buffers() if "feedback" in name}
    assert shapes["view.linear.weight.left.feedback"] == (6, 2)
    assert shapes["view.linear.weight.right.feedback"] == (2, 6)
