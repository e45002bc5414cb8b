"""The ops of feedback alignment: with B = W they are the plain ops, with another B the formula of Lillicrap et al."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import r2d2c
from r2d2c.credit.feedback import FEEDBACK
from r2d2c.emit import emit_python
from r2d2c.ops import functions
from r2d2c.ops.record import ShapeError, Shapes
from r2d2c.ops.registry import builtin
from r2d2c.types import TensorType
from tests.unit.eager_double import Eager

OPS = builtin()
LINEAR_X = [(6, 4), (2, 3, 4), (2, 3, 2, 4), (4,), (0, 4)]
CONVOLUTIONS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("conv1d", (2, 4, 9), {"kernel": 3}),
    ("conv1d", (2, 4, 9), {"kernel": 4, "same": True, "stride": 2}),
    ("conv1d", (2, 4, 9), {"kernel": 3, "dilation": 2, "padding": 1, "groups": 2}),
    ("conv2d", (2, 4, 7, 6), {"kernel": 3}),
    ("conv2d", (2, 4, 7, 6), {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    ("conv2d", (2, 4, 7, 6), {"kernel": (2, 3), "same": True}),
    ("conv2d", (2, 4, 7, 6), {"kernel": 2, "stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
    ("conv_transpose2d", (2, 4, 3, 4), {"kernel": 3}),
    ("conv_transpose2d", (2, 4, 3, 4), {"kernel": 3, "stride": 2, "padding": 1, "extra": 1, "groups": 2}),
]


def arguments(name: str, **given: Any) -> SimpleNamespace:
    """The namespace of an op's arguments, defaults included."""
    filled = {arg.name: None if arg.kind == "param" else arg.default for arg in OPS[name].args}
    return SimpleNamespace(**{**filled, **given})


def run(name: str, training: bool = True, **given: Any) -> torch.Tensor:
    a = arguments(name, **given)
    result = OPS[name].lower(Eager(vars(a), (), training), a)  # type: ignore[operator]
    assert isinstance(result, torch.Tensor)
    return result


def draw(*dims: int, trained: bool = True) -> torch.Tensor:
    return torch.randn(dims, dtype=torch.float64).requires_grad_(trained)


def storage(name: str, x: torch.Tensor, bias: bool, **options: Any) -> dict[str, Any]:
    """Weight, bias and feedback as the op makes them, 6 outputs wide."""
    a = arguments(name, x=TensorType("f64", tuple(x.shape)), out=6, **options)
    made = OPS[name].params(Shapes(), a)  # type: ignore[misc]
    assert made["feedback"].kind == "frozen" and made["feedback"].dims == made["weight"].dims
    sizes = {key: [int(dim) for dim in spec.dims] for key, spec in made.items()}  # type: ignore[arg-type]
    found = {key: draw(*sizes[key], trained=key != "feedback") for key in sizes}
    return found | ({} if bias else {"bias": None})


def gradients(y: torch.Tensor, delta: torch.Tensor, *values: torch.Tensor | None) -> list[torch.Tensor]:
    return list(torch.autograd.grad(y, [v for v in values if v is not None], delta, retain_graph=True))


def cases() -> list[tuple[str, tuple[int, ...], dict[str, Any]]]:
    return [("linear", shape, {}) for shape in LINEAR_X] + CONVOLUTIONS


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("plain", "shape", "options"), cases())
def test_with_its_own_weight_it_is_the_plain_op(
    plain: str, shape: tuple[int, ...], options: dict[str, Any], bias: bool
) -> None:
    x = draw(*shape)
    kept = storage(FEEDBACK[plain], x, bias, **options)
    w, c = kept["weight"], kept["bias"]
    given = {"x": x, "out": 6, "weight": w, "bias": c, **options}
    expected = run(plain, **given)
    found = run(FEEDBACK[plain], **given, feedback=w)
    delta = torch.randn_like(expected)
    assert torch.equal(found, expected)
    same(gradients(found, delta, x, w, c), gradients(expected, delta, x, w, c))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("plain", "shape", "options"), cases())
def test_the_input_learns_through_the_feedback_alone(
    plain: str, shape: tuple[int, ...], options: dict[str, Any], bias: bool
) -> None:
    """δ_x is that of a layer with B for its weight; those of weight and bias do not change."""
    x = draw(*shape)
    kept = storage(FEEDBACK[plain], x, bias, **options)
    w, c, b = kept["weight"], kept["bias"], kept["feedback"]
    given = {"x": x, "out": 6, "bias": c, **options}
    expected = run(plain, weight=w, **given)
    found = run(FEEDBACK[plain], weight=w, feedback=b, **given)
    delta = torch.randn_like(expected)
    (back,) = gradients(run(plain, weight=b, **given), delta, x)
    assert torch.equal(found, expected)
    assert x.numel() == 0 or not torch.allclose(back, gradients(expected, delta, x)[0])
    same(gradients(found, delta, x, w, c), [back, *gradients(expected, delta, w, c)])


@pytest.mark.parametrize("shape", LINEAR_X)
def test_linear_by_hand(shape: tuple[int, ...]) -> None:
    """Lillicrap et al. (2016): δ_x = δ B; and ΔW = δᵀ x, Δb = Σ δ as ever."""
    x, w, c, b = draw(*shape), draw(5, 4), draw(5), draw(5, 4, trained=False)
    y = functions.feedback_linear(x, w, c, b)
    delta = torch.randn_like(y)
    rows, errors = x.reshape(-1, 4), delta.reshape(-1, 5)
    same(gradients(y, delta, x, w, c), [delta @ b, errors.T @ rows, errors.sum(0)])


def test_inputs_that_are_not_contiguous_are_computed_alike() -> None:
    for bias in (draw(5), None):
        x, w, b = draw(3, 2, 4).transpose(0, 1), draw(5, 4), draw(5, 4, trained=False)
        y = functions.feedback_linear(x, w, bias, b)
        assert torch.equal(y, F.linear(x, w, bias))
        delta = torch.randn_like(y)
        same(gradients(y, delta, x), [delta @ b])


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize(
    ("plain", "shape"), [("linear", (6, 4)), ("linear", (2, 3, 4)), ("conv2d", (2, 4, 5, 5))]
)
def test_what_needs_no_gradient_gets_none(
    plain: str, shape: tuple[int, ...], wanted: tuple[bool, ...]
) -> None:
    options = {} if plain == "linear" else {"kernel": 3}
    x = draw(*shape)
    kept = storage(FEEDBACK[plain], x, True, **options)
    values = [x, kept["weight"], kept["bias"]]
    for value, needed in zip(values, wanted, strict=True):
        value.requires_grad_(needed)
    b = kept["feedback"].requires_grad_()
    y = run(FEEDBACK[plain], x=x, out=6, weight=values[1], bias=values[2], feedback=b, **options)
    assert y.requires_grad is any(wanted)
    if any(wanted):
        y.sum().backward()
    assert [value.grad is not None for value in values] == list(wanted)
    assert b.grad is None


def test_in_use_and_without_gradients_it_is_the_plain_op() -> None:
    x, w, b = draw(3, 4), draw(5, 4), draw(5, 4, trained=False)
    used = run("feedback_linear", training=False, x=x, out=5, weight=w, feedback=b)
    same(gradients(used, torch.ones_like(used), x), [torch.ones_like(used) @ w])
    with torch.no_grad():
        assert torch.equal(run("feedback_linear", x=x, out=5, weight=w, feedback=b), used)


@pytest.mark.parametrize("name", ["feedback_linear", "feedback_conv2d"])
def test_where_the_node_cannot_be_given_the_feedback_there_is_a_detour(name: str) -> None:
    """Values that are hooked already, and numbers of another dtype than the feedback's."""
    conv = name == "feedback_conv2d"
    plain: Any = F.conv2d if conv else F.linear
    x, w = (draw(2, 4, 5, 5), draw(6, 4, 3, 3)) if conv else (draw(3, 4), draw(6, 4))
    c, b = draw(6), torch.randn_like(w)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        y = getattr(functions, name)(x, w, c, b)
    delta = torch.randn_like(y)
    expected = plain(x, w, c)
    torch.testing.assert_close(y, expected)
    same(gradients(y, delta, x, w, c), [*gradients(plain(x, b), delta, x), *gradients(expected, delta, w, c)])
    with torch.autocast("cpu", torch.bfloat16):
        low = getattr(functions, name)(*(t.detach().float().requires_grad_() for t in (x, w, c, b)))
    assert low.dtype == torch.bfloat16
    low.float().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    x, w, b = (draw(*dims).detach().to(dtype).requires_grad_() for dims in ((3, 4), (5, 4), (5, 4)))
    y = functions.feedback_linear(x, w, None, b)
    delta = torch.randn_like(y)
    assert torch.equal(gradients(y, delta, x)[0], delta @ b)


def test_function_transforms_and_second_derivatives() -> None:
    x, w, b = draw(3, 4, trained=False), draw(5, 4, trained=False), draw(5, 4, trained=False)

    def loss(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = functions.feedback_linear(x, w, None, b)
        return (y**2).sum()

    expected = 2 * (x @ w.T) @ b
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    each = torch.func.vmap(torch.func.grad(loss))(x[:, None])
    torch.testing.assert_close(each[:, 0], expected)
    x.requires_grad_()
    (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
    torch.testing.assert_close(first, expected)
    (second,) = torch.autograd.grad(first.sum(), x)
    # The gradient is a field of its own, 2 B^T W x: its derivative goes through the forward's node again.
    torch.testing.assert_close(second, 2 * (torch.ones_like(x) @ b.T) @ b)


# -- shapes


def refused(name: str, **types: Any) -> ShapeError:
    with pytest.raises(ShapeError) as found:
        OPS[name].shape(Shapes(), arguments(name, **types))
    return found.value


def test_a_weight_per_sample_has_no_feedback() -> None:
    x, w, b = (TensorType("f32", dims) for dims in ((3, 4), (3, 5, 4), (5, 4)))
    error = refused("feedback_linear", x=x, out=5, weight=w, feedback=b)
    message = "feedback goes through one weight for all samples; this one is f32[3, 5, 4], per sample"
    assert (str(error), error.argument, error.fix) == (message, "weight", "use `linear`")


def test_the_feedback_is_as_large_as_the_weight() -> None:
    x, w, b = (TensorType("f32", dims) for dims in ((3, 4), (5, 4), (4, 5)))
    error = refused("feedback_linear", x=x, out=5, weight=w, feedback=b)
    assert str(error) == "`feedback` stands for the weight f32[5, 4] in the backward, and is f32[4, 5]"
    assert (error.argument, error.other) == ("feedback", "weight")


def test_every_plain_op_has_the_arguments_of_its_feedback_op() -> None:
    assert {"linear", "conv1d", "conv2d", "conv_transpose2d"} == set(FEEDBACK)
    for plain, name in FEEDBACK.items():
        assert [arg.name for arg in OPS[name].args] == [*(arg.name for arg in OPS[plain].args), "feedback"]


# -- in a model

SPEC = """\
r2d2c: 1
model: fed_back
inputs: {x: "f32[B, 1, 6, 6]"}
targets: {y: "i64[B]"}
tasks:
  t:
    behavior: |
      h = x |> feedback_conv2d(3, 3, same=true) |> tanh |> feedback_conv2d(2, 2, stride=2) |> tanh |> flatten(1)
      logits = h |> feedback_linear(5) |> tanh |> feedback_linear(3)
    distance: cross_entropy(logits, y)
outputs: {logits: t.logits}
"""


class Textbook(torch.autograd.Function):
    """Forward with W, backward with B."""

    @staticmethod
    def forward(ctx: Any, product: Any, x: Any, w: Any, c: Any, b: Any) -> Any:
        ctx.product = product
        ctx.save_for_backward(x, w, c, b)
        return product(x, w, c)

    @staticmethod
    def backward(ctx: Any, delta: Any) -> Any:
        x, w, c, b = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            dw, dc = torch.autograd.grad(ctx.product(x, w, c), (w, c), delta)
            (dx,) = torch.autograd.grad(ctx.product(x, b, c), x, delta)
        return None, dx, dw, dc, None


def textbook(model: r2d2c.Model, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """The gradients of all parameters, in order."""
    parameters = [t.detach().requires_grad_() for t in model.parameters()]
    buffers, h = list(model.buffers()), x
    products = [lambda x, w, c: F.conv2d(F.pad(x, (1, 1, 1, 1)), w, c), lambda x, w, c: F.conv2d(x, w, c, 2)]
    for number, product in enumerate([*products, F.linear, F.linear]):
        h = torch.tanh(h) if number else h
        h = h.flatten(1) if number == 2 else h
        h = Textbook.apply(product, h, *parameters[2 * number : 2 * number + 2], buffers[number])
    return list(torch.autograd.grad(F.cross_entropy(h, y), parameters))


def batch(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 1, 6, 6, generator=generator).to(dtype)
    return {"x": x, "y": torch.randint(3, (4,), generator=generator)}


def test_a_spec_may_use_them() -> None:
    model = r2d2c.compile(r2d2c.loads(SPEC)).double()
    names = [name for name, _ in model.named_buffers()]
    assert [name.rpartition(".")[2] for name in names] == ["feedback"] * 4
    before = [t.clone() for t in model.buffers()]
    given = batch(torch.float64)
    step = model.learn(**given)
    same([p.grad for p in model.parameters() if p.grad is not None], textbook(model, **given))
    assert all(map(torch.equal, before, model.buffers()))
    assert torch.equal(step.outputs["logits"], model(x=given["x"])["logits"])


def test_emitted_python_holds_the_functions() -> None:
    model = r2d2c.compile(r2d2c.loads(SPEC))
    text = emit_python(model)
    assert "r2d2c" not in text.split('"""')[2] and "feedback_conv1d" not in text
    assert text.count("def keeps(") == text.count("def feedback_linear(") == 1
    scope: dict[str, Any] = {}
    exec(compile(text, "emitted.py", "exec"), scope)
    other, given = scope["FedBack"](), batch()
    model.learn(**given)
    losses, _ = other.learn(given["x"], given["y"])
    torch.testing.assert_close(losses["t"], model.losses(**given)["t"])
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(theirs.grad, ours.grad)


def test_emitted_python_without_feedback_has_none_of_it() -> None:
    spec = r2d2c.loads(SPEC.replace("feedback_", ""))
    assert "feedback" not in emit_python(r2d2c.compile(spec)).split('"""')[2]


@pytest.mark.slow
def test_inductor_runs_them_between_what_it_compiles() -> None:
    spec = r2d2c.loads(SPEC)
    model, compiled = r2d2c.compile(spec), r2d2c.compile(spec, backend="inductor")
    model.learn(**batch())
    compiled.learn(**batch())
    for ours, theirs in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-4, atol=1e-6)
