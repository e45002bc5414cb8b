"""Ops of slots, ages and surprises against what they are said to do, written out in Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.loops import NEVER
from r2d2c.model import Model

AGES = torch.tensor([[2, 0, 1], [NEVER, 0, NEVER], [NEVER, NEVER, NEVER], [5, 9, NEVER - 1]])


def compiled(call: str, **inputs: str) -> Model:
    lines = ["r2d2c: 1", "model: op", "inputs:", *(f"  {name}: {type_}" for name, type_ in inputs.items())]
    lines += ["tasks:", "  t:", "    behavior: |", f"      out = {call}", "outputs:", "  out: t.out"]
    return r2d2c.compile(r2d2c.loads("\n".join(lines) + "\n", name="op.yaml"))


def run(call: str, types: dict[str, str], **given: Tensor) -> Tensor:
    return compiled(call, **types)(**given)["out"]


def refusal(call: str, **inputs: str) -> str:
    with pytest.raises(CompileError) as caught:
        compiled(call, **inputs)
    return str(caught.value)


# -- which slot


def test_an_empty_slot_is_replaced_first_and_else_the_first_with_the_lowest_score() -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0], [-9.0, -9.0, 5.0], [0.0, -1.0, -2.0], [1.0, math.inf, 0.5]])
    types = {"s": "f32[B, 3]", "age": "i64[B, 3]"}
    assert run("slot_to_replace(s, age)", types, s=scores, age=AGES).tolist() == [1, 0, 0, 2]
    assert run("slot_to_replace(-age, age)", {"age": "i64[B, 3]"}, age=AGES).tolist() == [0, 0, 0, 2]


def test_the_newest_and_the_oldest_slot_are_of_those_that_were_written() -> None:
    types = {"age": "i64[B, 3]"}
    assert run("newest_slot(age)", types, age=AGES).tolist() == [1, 1, 0, 0]
    assert run("oldest_slot(age)", types, age=AGES).tolist() == [0, 1, 0, 2]


def test_scores_drawn_in_inference_are_even_and_unlike_from_write_to_write() -> None:
    counts = torch.arange(3000)
    ages = torch.zeros(3000, 4, dtype=torch.int64)
    found = run("random_scores(age, n)", {"age": "i64[B, 4]", "n": "i64[B]"}, age=ages, n=counts)
    assert ((found >= 0) & (found < 1)).all()
    first = found.argmin(1)
    assert torch.bincount(first, minlength=4).float().div(3000).sub(0.25).abs().max() < 0.04
    pairs = torch.bincount(4 * first[:-1] + first[1:], minlength=16).float() / 2999
    assert (pairs - 1 / 16).abs().max() < 0.025
    late = run("random_scores(age, n)", {"age": "i64[B, 4]", "n": "i64[B]"}, age=ages, n=counts + 2**60)
    assert ((late >= 0) & (late < 1)).all()


# -- writing


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (4, 3, 2, 5)])
def test_a_write_changes_one_slot_of_the_samples_that_write(shape: tuple[int, ...]) -> None:
    x, value = torch.randn(shape), torch.randn(shape[0], *shape[2:])
    index, when = torch.tensor([2, 0, 1, 1]), torch.tensor([True, False, True, False])
    kind = f"f32[B, {', '.join(map(str, shape[1:]))}]"
    types = {"x": kind, "i": "i64[B]", "v": f"f32[{', '.join(map(str, ('B', *shape[2:])))}]", "w": "bool[B]"}
    wanted = x.clone()
    for sample in range(4):
        wanted[sample, index[sample]] = value[sample]
    found = run("write_slot(x, i, v)", {k: v for k, v in types.items() if k != "w"}, x=x, i=index, v=value)
    assert torch.equal(found, wanted)
    wanted[~when] = x[~when]
    assert torch.equal(run("write_slot(x, i, v, when=w)", types, x=x, i=index, v=value, w=when), wanted)
    assert torch.equal(
        run("read_slot(x, i)", {"x": kind, "i": "i64[B]"}, x=x, i=index), x[torch.arange(4), index]
    )


def test_ages_go_up_at_every_write_and_stop_below_that_of_an_empty_slot() -> None:
    index, when = torch.tensor([0, 2, 1, 0]), torch.tensor([True, True, False, False])
    types = {"age": "i64[B, 3]", "i": "i64[B]"}
    found = run("advance_age(age, i)", types, age=AGES, i=index)
    assert found.tolist() == [[0, 1, 2], [NEVER, 1, 0], [NEVER, 0, NEVER], [0, 10, NEVER - 1]]
    found = run("advance_age(age, i, when=w)", {**types, "w": "bool[B]"}, age=AGES, i=index, w=when)
    assert found.tolist() == [[0, 1, 2], [NEVER, 1, 0], [NEVER] * 3, [6, 10, NEVER - 1]]


def test_slots_are_samples_and_back() -> None:
    x = torch.randn(4, 3, 2)
    types = {"x": "f32[B, 3, 2]"}
    assert torch.equal(run("slots_as_samples(x)", types, x=x), x.reshape(12, 2))
    assert torch.equal(run("samples_as_slots(slots_as_samples(x), 3)", types, x=x), x)
    none = run("samples_as_slots(slots_as_samples(x), 3)", types, x=x[:0])
    assert none.shape == (0, 3, 2)


# -- reading several


def test_slots_by_age() -> None:
    x = torch.randn(4, 3, 2)
    found = run("by_age(x, age)", {"x": "f32[B, 3, 2]", "age": "i64[B, 3]"}, x=x, age=AGES)
    order = [[1, 2, 0], [1, 0, 2], [0, 1, 2], [0, 1, 2]]
    assert torch.equal(found, torch.stack([x[b][row] for b, row in enumerate(order)]))


def test_the_nearest_and_the_best_slots() -> None:
    x, key, query, score = torch.randn(5, 6, 2), torch.randn(5, 6, 3), torch.randn(5, 3), torch.randn(5, 6)
    written = torch.rand(5, 6) > 0.3
    written[:, :2] = True
    types = {"x": "f32[B, 6, 2]", "k": "f32[B, 6, 3]", "q": "f32[B, 3]", "w": "bool[B, 6]"}
    found = run("nearest(x, k, q, k=2, written=w)", types, x=x, k=key, q=query, w=written)
    for sample in range(5):
        far = [float((key[sample, k] - query[sample]).norm()) for k in range(6)]
        order = sorted((k for k in range(6) if written[sample, k]), key=far.__getitem__)
        assert torch.equal(found[sample], x[sample, order[:2]])
    found = run("top_slots(x, s, 3)", {"x": "f32[B, 6, 2]", "s": "f32[B, 6]"}, x=x, s=score)
    assert torch.equal(found, torch.stack([x[b, score[b].argsort(descending=True)[:3]] for b in range(5)]))


def test_attention_over_slots_and_over_none() -> None:
    query = torch.randn(3, 4, requires_grad=True)
    key, value = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    written = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5])
    types = {"q": "f32[B, 4]", "k": "f32[B, 5, 4]", "v": "f32[B, 5, 2]", "w": "bool[B, 5]"}
    found = run("attend_slots(q, k, v, written=w)", types, q=query, k=key, v=value, w=written)
    for sample in range(2):
        kept = written[sample]
        weights = torch.softmax(key[sample, kept] @ query[sample] / 2, 0)
        torch.testing.assert_close(found[sample], weights @ value[sample, kept])
    assert torch.equal(found[2], torch.zeros(2))
    found.sum().backward()
    assert query.grad is not None and query.grad.isfinite().all() and not query.grad[2].any()


# -- how long ago


def test_bits_of_ages() -> None:
    ages = torch.tensor([0, 1, 6, 15, 16, 1000, NEVER - 1, NEVER])
    found = run("bits(age, 4)", {"age": "i64[B]"}, age=ages)
    assert found.tolist() == [[float(min(int(a), 15) >> k & 1) for k in range(4)] for a in ages]
    found = run("bits(age, 30)", {"age": "i64[B]"}, age=ages)
    assert found.tolist() == [[float(min(int(a), 2**30 - 1) >> k & 1) for k in range(30)] for a in ages]
    assert "1 to 30 bits" in refusal("bits(age, 31)", age="i64[B]")
    assert "`age` is f32[B]" in refusal("bits(age, 3)", age="f32[B]")


def test_sinusoids_are_exact_at_great_ages_and_zero_for_what_was_never_written() -> None:
    ages = torch.tensor([0, 1, 100, 123_456_789, NEVER - 1, NEVER])
    found = run("sinusoid(age, 6)", {"age": "i64[B]"}, age=ages)
    for row, age in zip(found.tolist()[:-1], ages.tolist()[:-1], strict=True):
        rates = [10_000 ** (-k / 3) for k in range(3)]
        wanted = [f(age * rate) for f in (math.sin, math.cos) for rate in rates]
        assert row == pytest.approx(wanted, abs=1e-6)
    assert not found[-1].any()
    assert "even" in refusal("sinusoid(age, 3)", age="i64[B]")


def test_log_age() -> None:
    ages = torch.tensor([0, 1, 7, NEVER])
    assert run("log_age(age)", {"age": "i64[B]"}, age=ages).tolist() == pytest.approx([0, 1, 3, 30])


def test_a_rotation_keeps_lengths_adds_up_and_leaves_what_was_never_written() -> None:
    model = compiled("rotate_by(x, age)", x="f32[B, 3, 4]", age="i64[B, 3]").double()
    (angle,) = model.parameters()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    age = torch.tensor([[0, 1, 5], [NEVER, 2, 7]])
    found = model(x=x, age=age)["out"]
    turned = torch.polar(
        torch.ones(()).double(), angle.detach() * torch.where(age == NEVER, 0, age)[..., None]
    )
    wanted = torch.complex(x[..., :2], x[..., 2:]) * turned
    torch.testing.assert_close(found, torch.cat([wanted.real, wanted.imag], -1))
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1))
    again = model(x=model(x=x, age=age)["out"], age=age)["out"]
    torch.testing.assert_close(again, model(x=x, age=torch.where(age == NEVER, age, 2 * age))["out"])
    assert torch.equal(found[1, 0], x[1, 0])
    found[1, 0].sum().backward()
    assert angle.grad is None or not angle.grad.any()


# -- surprises


def test_surprises_of_tokens() -> None:
    p = torch.softmax(torch.randn(6, 4), -1)
    ids = torch.tensor([0, 1, 2, 3, 0, 1])
    hot = torch.eye(4)[ids]
    one, two = {"p": "f32[B, 4]", "x": "i64[B]"}, {"p": "f32[B, 4]", "x": "f32[B, 4]"}
    chosen = torch.stack([p[b, ids[b]] for b in range(6)])
    for types, x in ((one, ids), (two, hot)):
        torch.testing.assert_close(run("missed(p, x)", types, p=p, x=x), 1 - chosen)
        torch.testing.assert_close(run("surprisal(p, x)", types, p=p, x=x), -chosen.log())
    q = torch.softmax(torch.randn(6, 4), -1)
    types = {"p": "f32[B, 4]", "q": "f32[B, 4]"}
    torch.testing.assert_close(
        run("kl_each(p, q)", types, p=p, q=q),
        torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1),
    )
    torch.testing.assert_close(run("kl_each(p, q)", types, p=hot, q=q), -(q * hot).sum(-1).log())
    impossible = run("surprisal(p, x)", one, p=torch.eye(4)[[0]], x=torch.tensor([1]))
    assert impossible.isfinite().all() and impossible > 60


def test_surprises_of_values_are_of_each_sample_alone() -> None:
    p, x = torch.randn(5, 3, 2), torch.randn(5, 3, 2)
    types = {"p": "f32[B, 3, 2]", "x": "f32[B, 3, 2]"}
    for call, order in (("l1_each(p, x)", 1), ("l2_each(p, x)", 2)):
        whole = run(call, types, p=p, x=x)
        torch.testing.assert_close(
            whole, torch.stack([(p[b] - x[b]).flatten().norm(order) for b in range(5)])
        )
        assert torch.equal(whole[2:3], run(call, types, p=p[2:3], x=x[2:3]))
    same = p.clone().requires_grad_()
    run("l2_each(p, x)", types, p=same, x=p).sum().backward()
    assert same.grad is not None and not same.grad.any()


# -- what does not fit


@pytest.mark.parametrize(
    ("call", "inputs", "said"),
    [
        (
            "slot_to_replace(x, age)",
            {"x": "f32[B, 3]", "age": "i64[B, 4]"},
            "`age` is i64[B, 4], and the slots",
        ),
        ("slot_to_replace(x, age)", {"x": "bool[B, 3]", "age": "i64[B, 3]"}, "a number for every slot"),
        ("slot_to_replace(x, age)", {"x": "f32[B, 3]", "age": "f32[B, 3]"}, "an index must be"),
        (
            "write_slot(x, i, v)",
            {"x": "f32[B, 3]", "i": "i64[B]", "v": "f32[B, 2]"},
            "holds f32[B], and f32[B, 2]",
        ),
        ("write_slot(x, i, v)", {"x": "f32[B, 3]", "i": "i64[B]", "v": "i64[B]"}, "holds f32[B], and i64[B]"),
        ("write_slot(x, i, 0.5)", {"x": "i64[B, 3]", "i": "i64[B]"}, "holds i64[B], and float[]"),
        ("write_slot(x, i, 1, when=w)", {"x": "f32[B, 3]", "i": "i64[B]", "w": "f32[B]"}, "bool[B]"),
        ("read_slot(x, i)", {"x": "f32[B]", "i": "i64[B]"}, "works on slots"),
        ("read_slot(x, i)", {"x": "f32[B, 3]", "i": "i64[3]"}, "names a slot of every sample"),
        ("samples_as_slots(x, 3)", {"x": "f32[4, 2]"}, "no samples of 3 slots"),
        ("top_slots(x, s, 4)", {"x": "f32[B, 3]", "s": "f32[B, 3]"}, "there are 3 slots"),
        (
            "nearest(x, k, q)",
            {"x": "f32[B, 3]", "k": "f32[B, 3, 2]", "q": "f32[B, 4]"},
            "[B, D] and [B, K, D]",
        ),
        ("rotate_by(x, age)", {"x": "f32[B, 3]", "age": "i64[B]"}, "even"),
        ("missed(p, x)", {"p": "f32[B, 3]", "x": "i64[B, 3]"}, "ids have the dims"),
        ("l1_each(p, x)", {"p": "f32[B, 3]", "x": "f32[B, 4]"}, "the same type"),
    ],
)
def test_what_does_not_fit_is_said(call: str, inputs: dict[str, str], said: str) -> None:
    message = refusal(call, **inputs)
    assert "E301" in message and said in message
