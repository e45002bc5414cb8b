"""Elementwise ops, comparisons, activations, reductions and distances: their shape rules against torch, and their meaning."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from r2d2c.ops import (
    activations,
    arithmetic,
    class_distances,
    comparison,
    distances,
    ordering,
    reductions,
    unary,
)
from r2d2c.ops.record import Example, Op, ShapeError, Shapes
from r2d2c.types import TensorType, symbol
from tests.unit.eager_double import DTYPES, Eager, check_example, evaluate, run_example, type_of, types_of

MODULES = (arithmetic, unary, comparison, activations, reductions, ordering, distances, class_distances)
OPS: dict[str, Op] = {op.name: op for module in MODULES for op in module.OPS}
EXAMPLES = [pytest.param(op, e, id=f"{e.call} {n}") for op in OPS.values() for n, e in enumerate(op.examples)]
DISTANCES = [op for op in OPS.values() if "distance" in op.traits]
B = symbol("B")


def run(name: str, call: str, **tensors: Any) -> Any:
    """The result of a call on given tensors."""
    op = OPS[name]
    positional, named = evaluate(call, tensors)
    bound = dict(zip((arg.name for arg in op.args), positional, strict=False)) | named
    a = SimpleNamespace(**{arg.name: bound.get(arg.name, arg.default) for arg in op.args})
    said = op.shape(Shapes(), SimpleNamespace(**types_of(op, vars(a))))
    b = Eager(vars(a), said if isinstance(said, tuple) else (said,))
    if isinstance(op.lower, str):
        return b(op.lower, *(getattr(a, arg.name) for arg in op.values))
    return op.lower(b, a)


def shape(name: str, **arguments: Any) -> Any:
    """What the shape rule says of types."""
    op = OPS[name]
    return op.shape(
        Shapes(), SimpleNamespace(**{arg.name: arguments.get(arg.name, arg.default) for arg in op.args})
    )


def refused(name: str, **arguments: Any) -> ShapeError:
    with pytest.raises(ShapeError) as caught:
        shape(name, **arguments)
    return caught.value


def f32(*dims: Any) -> TensorType:
    return TensorType("f32", dims)


# -- every record


@pytest.mark.parametrize(("op", "example"), EXAMPLES)
def test_the_shape_rule_says_what_torch_gives(op: Op, example: Example) -> None:
    check_example(op, example)


@pytest.mark.parametrize(("op", "example"), EXAMPLES)
def test_the_shape_rule_says_what_fake_tensors_give(op: Op, example: Example) -> None:
    outcome = run_example(op, example)
    with FakeTensorMode() as mode:
        fake = {
            n: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v
            for n, v in vars(outcome.arguments).items()
        }
        a = SimpleNamespace(**fake)
        b = Eager(fake, outcome.types)
        result = (
            b(op.lower, *(fake[v.name] for v in op.values)) if isinstance(op.lower, str) else op.lower(b, a)
        )
    results = result if len(outcome.types) > 1 else (result,)
    assert tuple(type_of(r) for r in results) == outcome.types


@pytest.mark.parametrize(("op", "example"), EXAMPLES)
def test_gradients_reach_every_float_where_an_example_says_so(op: Op, example: Example) -> None:
    outcome = run_example(op, example)
    a = outcome.arguments
    floats = {n: v for n, v in vars(a).items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    for value in floats.values():
        value.requires_grad_()
    b = Eager(vars(a), outcome.types)
    result = (
        b(op.lower, *(getattr(a, v.name) for v in op.values)) if isinstance(op.lower, str) else op.lower(b, a)
    )
    first = result[0] if isinstance(result, tuple) else result
    moves = isinstance(first, torch.Tensor) and first.requires_grad
    if not example.gradient:
        if moves:  # torch has a gradient of zeros
            (first * 1.0).sum().backward()
            assert all(v.grad is None or not v.grad.any() for v in floats.values())
        return
    assert moves
    first.sum().backward()
    assert all(v.grad is not None and v.grad.isfinite().all() for v in floats.values())


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_records_are_complete(op: Op) -> None:
    assert op.doc.endswith(".") and all(arg.doc or len(op.args) == 1 for arg in op.args)
    assert 2 <= len(op.examples) <= 8
    assert op.onnx is not None
    assert not ("no_gradient" in op.traits and any(e.gradient for e in op.examples))


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.mixes], ids=lambda op: op.name)
@pytest.mark.parametrize("which", [0, 1])
def test_mixes_names_the_axes_along_which_elements_meet(op: Op, which: int) -> None:
    example = op.examples[which]
    outcome = run_example(op, example)
    said = op.mixes(SimpleNamespace(**types_of(op, vars(outcome.arguments)))) if op.mixes else []
    for name, axis in said:
        value = getattr(outcome.arguments, name)
        assert isinstance(value, torch.Tensor) and 0 <= axis < value.ndim


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.cost], ids=lambda op: op.name)
def test_the_cost_counts_the_elements_of_the_input(op: Op) -> None:
    outcome = run_example(op, op.examples[0])
    assert op.cost is not None
    first = next(v for v in vars(outcome.arguments).values() if isinstance(v, torch.Tensor))
    assert op.cost(SimpleNamespace(**types_of(op, vars(outcome.arguments)))) >= first.numel()


# -- numbers, dtypes and messages


def test_a_number_stays_a_number() -> None:
    assert run("sqrt", "sqrt(64)") == 8.0
    assert run("floor", "floor(2.5)") == 2.0
    assert run("maximum", "maximum(2, 3)") == 3
    assert shape("sqrt", x=TensorType("int")) == TensorType("float")


def test_a_number_on_the_left_is_compared() -> None:
    assert run("lt", "lt(1, x)", x=torch.tensor([0, 1, 2])).tolist() == [False, False, True]
    assert run("ge", "ge(1, x)", x=torch.tensor([0, 1, 2])).tolist() == [True, True, False]


def test_floor_division_and_remainder_follow_python() -> None:
    x, y = [7, -7, 7, -7], [2, 2, -2, -2]
    assert run("floor_divide", "f(x, y)", x=torch.tensor(x), y=torch.tensor(y)).tolist() == [3, -4, -4, 3]
    assert run("remainder", "f(x, y)", x=torch.tensor(x), y=torch.tensor(y)).tolist() == [1, 1, -1, -1]


def test_mean_of_bools_is_a_share() -> None:
    assert run("mean", "mean(x)", x=torch.tensor([True, False, True, True])).item() == 0.75


def test_dims_known_only_at_run_time_pass_through() -> None:
    x = f32(B, 4)
    assert shape("sum", x=x, axes=(1,)) == f32(B)
    assert shape("softmax", x=x) == x
    assert shape("glu", x=x) == f32(B, 2)
    assert shape("cross_entropy", logits=x, target=TensorType("i64", (B,)), reduction="none") == f32(B)
    assert shape("mse", x=x, y=x, mask=TensorType("bool", (B,))) == f32()


def test_messages_of_shape_rules() -> None:
    assert str(refused("add", x=f32(3), y=f32(4))) == "`x` is f32[3] and `y` is f32[4]: 3 and 4 do not fit"
    assert (
        str(refused("neg", x=TensorType("bool", (3,))))
        == "`neg` is not defined for bools, and `x` is bool[3]"
    )
    assert str(refused("relu", x=TensorType("i64", (3,)))) == "`x` is i64[3], and must be of a floating dtype"
    assert str(refused("tanh", x=TensorType("float"))) == "an activation needs a tensor, and `x` is a number"
    assert str(refused("sum", x=f32(3), axes=(1,))) == "there is no axis 1: the value has 1 dims"
    assert str(refused("sum", x=f32(3, 2), axes=(0, -2))) == "an axis is named twice in (0, -2)"
    assert str(refused("topk", x=f32(3), k=4)) == "axis -1 of `x` has 3 elements, fewer than 4"
    assert str(refused("glu", x=f32(2, 3))) == "`glu` halves axis -1, and `x` is f32[2, 3]"
    assert str(refused("clamp", x=f32(2), low=2.0, high=1.0)) == "`low` is 2 and above `high`, 1"
    condition = refused("where", condition=f32(2), x=f32(2), y=f32(2))
    assert str(condition) == "a condition is of bools, and `condition` is f32[2]"


def test_distances_do_not_broadcast() -> None:
    error = refused("mse", x=f32(B, 1), y=f32(B))
    assert str(error) == "`mse` compares values of one shape: `x` is f32[B, 1] and `y` is f32[B]"
    assert (error.argument, error.other) == ("x", "y")


def test_targets_of_the_wrong_kind() -> None:
    logits = f32(B, 5)
    error = refused("cross_entropy", logits=logits, target=f32(B))
    assert (
        str(error) == "class ids are integers, `target` is f32[B]"
        and error.fix == "convert it: `cast(…, i64)`"
    )
    error = refused("cross_entropy", logits=logits, target=TensorType("i64", (B, 5)))
    assert "without the class axis, i64[B]: `target` is i64[B, 5]" in str(error)


def test_class_ids_are_bounded_by_the_number_of_classes() -> None:
    for name in ("cross_entropy", "hinge"):
        s = Shapes()
        op = OPS[name]
        a = {arg.name: arg.default for arg in op.args} | {
            "logits": f32(B, 5),
            "target": TensorType("i64", (B,)),
        }
        op.shape(s, SimpleNamespace(**a))
        assert s.bounds == [("target", 5)]


# -- distances


def _arguments(op: Op) -> tuple[str, dict[str, torch.Tensor]]:
    """A call without reduction, with room for more arguments, on a batch of 4."""
    made = torch.Generator().manual_seed(1)
    x, y = torch.rand(4, 3, generator=made), torch.rand(4, 3, generator=made)
    if op.name in ("cross_entropy", "hinge"):
        return "f(x, y%s)", {"x": x, "y": torch.tensor([0, 2, 1, 1])}
    return "f(x, y, x%s)" if op.name == "gaussian_nll" else "f(x, y%s)", {"x": x, "y": y}


@pytest.mark.parametrize("op", DISTANCES, ids=lambda op: op.name)
def test_mean_sum_and_weights_agree_with_the_losses(op: Op) -> None:
    call, tensors = _arguments(op)
    losses = run(op.name, call % ", reduction='none'", **tensors)
    assert losses.shape[0] == 4
    torch.testing.assert_close(run(op.name, call % "", **tensors), losses.mean())
    torch.testing.assert_close(run(op.name, call % ", reduction='sum'", **tensors), losses.sum())
    w = torch.tensor([1.0, 0.0, 2.0, 0.5])
    full = w.reshape(4, *[1] * (losses.ndim - 1)).expand_as(losses)
    torch.testing.assert_close(
        run(op.name, call % ", weights=w", w=w, **tensors), (full * losses).sum() / full.sum()
    )
    m = torch.tensor([True, False, True, True])
    kept = run(op.name, call % ", mask=m", m=m, **tensors)
    torch.testing.assert_close(kept, losses[m].mean())
    torch.testing.assert_close(kept, run(op.name, call % ", mask=m", m=m.float(), **tensors))
    both = run(op.name, call % ", mask=m, weights=w", m=m, w=w, **tensors)
    torch.testing.assert_close(both, (full * losses)[m].sum() / full[m].sum())
    masked = run(op.name, call % ", mask=m, reduction='none'", m=m, **tensors)
    assert not masked[1].any() and torch.equal(masked[m], losses[m])


@pytest.mark.parametrize("op", DISTANCES, ids=lambda op: op.name)
def test_nothing_to_weigh_gives_zero_and_no_gradient(op: Op) -> None:
    call, tensors = _arguments(op)
    tensors["x"].requires_grad_()
    result = run(
        op.name, call % ", mask=m, weights=w", m=torch.zeros(4, dtype=torch.bool), w=torch.ones(4), **tensors
    )
    assert result.item() == 0
    result.backward()
    assert tensors["x"].grad is not None and not tensors["x"].grad.any()


@pytest.mark.parametrize("op", DISTANCES, ids=lambda op: op.name)
def test_a_plain_distance_is_few_calls(op: Op) -> None:
    called = run_example(op, op.examples[0]).called
    single = {"mse", "l1", "huber", "bce", "bce_probs", "cross_entropy", "hinge"}
    assert len(called) == 1 if op.name in single else len(called) <= 9


def test_a_masked_nan_is_left_out() -> None:
    x, y, m = torch.tensor([1.0, torch.nan]), torch.tensor([2.0, 3.0]), torch.tensor([True, False])
    assert run("mse", "mse(x, y, mask=m)", x=x, y=y, m=m).item() == 1.0


def test_a_distance_to_a_number() -> None:
    logits = torch.tensor([[0.3], [-2.0]])
    expected = F.binary_cross_entropy_with_logits(logits, torch.ones(2, 1))
    torch.testing.assert_close(run("bce", "bce(x, 1)", x=logits), expected)
    assert run("mse", "mse(3, x)", x=torch.tensor([1.0, 2.0])).item() == 2.5


def test_l2_is_the_mean_norm_of_a_sample() -> None:
    x, y = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert run("l2", "l2(x, y)", x=x, y=y).item() == 2.5


def test_kl_takes_logits_and_measures_from_the_target() -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    p, q = y.softmax(-1), x.softmax(-1)
    torch.testing.assert_close(run("kl", "kl(x, y)", x=x, y=y), (p * (p / q).log()).sum(-1).mean())
    torch.testing.assert_close(run("kl", "kl(x, y)", x=q.log(), y=p.log()), run("kl", "kl(x, y)", x=x, y=y))


def test_info_nce_is_a_cross_entropy_over_the_batch() -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    logits = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T / 0.2
    expected = F.cross_entropy(logits, torch.arange(4))
    torch.testing.assert_close(run("info_nce", "info_nce(x, y, temperature=0.2)", x=x, y=y), expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_cross_entropy_along_any_axis(axis: int) -> None:
    x = torch.randn(3, 4, 5)
    last = x.movedim(axis, -1)
    target = torch.randint(x.shape[axis], last.shape[:-1])
    expected = -last.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    got = run("cross_entropy", f"f(x, t, axis={axis}, reduction='none')", x=x, t=target)
    torch.testing.assert_close(got, expected)
    onehot = F.one_hot(target, x.shape[axis]).float().movedim(-1, axis)
    torch.testing.assert_close(run("cross_entropy", f"f(x, t, axis={axis})", x=x, t=onehot), expected.mean())


@pytest.mark.parametrize("dtype", ["f64", "bf16"])
@pytest.mark.parametrize(
    "op", [o for o in OPS.values() if o.name not in ("cast", "prelu")], ids=lambda op: op.name
)
def test_other_float_dtypes(op: Op, dtype: str) -> None:
    example = op.examples[0]
    assert all(text.startswith(("f32", "i64", "bool")) for text in example.inputs.values())
    inputs = {name: text.replace("f32", dtype) for name, text in example.inputs.items()}
    check_example(op, Example(example.call, inputs, example.range))
    assert dtype in DTYPES
