"""Op records of products, convolution, norms, attention and shapes: rule against torch, and torch by hand."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from r2d2c.ops import registry
from r2d2c.ops.dims import divide
from r2d2c.ops.record import Example, Op, ShapeError, Shapes
from r2d2c.ops.shaping import scrambled_axes
from r2d2c.types import Dim, TensorType, Unifier, symbol
from tests.unit import eager_double
from tests.unit.eager_double import Eager, type_of, types_of

FAMILIES = (
    "linear", "embedding", "convolution", "feedback", "pooling", "norms", "attention", "random", "shaping", "joining",
    "indexing", "patterns", "constants",
)  # fmt: skip
CASES = [
    pytest.param(op, example, id=f"{op.name}-{number}")
    for family in FAMILIES
    for op in registry.FAMILIES[family]
    for number, example in enumerate(op.examples)
]
OPS = registry.builtin()
B, T = symbol("B"), symbol("T")


class _Index:
    """`x[…]` of an example as the resolver gives it to `slice`."""

    def __getitem__(self, items: Any) -> tuple[Any, ...]:
        parts = items if isinstance(items, tuple) else (items,)
        return tuple(
            "..."
            if part is ...
            else ("slice", part.start, part.stop, part.step)
            if isinstance(part, slice)
            else part
            for part in parts
        )


def bind(op: Op, example: Example, seed: int = 0) -> SimpleNamespace:
    """As the double's, for `x[…]` and for sizes by name too."""
    if op.name == "slice":
        items = eval(example.call, {"x": _Index()})
        bound = eager_double.bind(op, replace(example, call="slice(x, 0)"), seed)
        bound.items = items
        return bound
    named = next((arg.name for arg in op.args if str(arg.kind) == "named"), None)
    if named is None:
        return eager_double.bind(op, example, seed)
    sizes = {name: int(size) for name, size in re.findall(r", (\w+)=(\d+)", example.call)}
    bound = eager_double.bind(op, replace(example, call=re.sub(r", \w+=\d+", "", example.call)), seed)
    setattr(bound, named, sizes)
    return bound


def typed(op: Op, a: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**types_of(op, vars(a)))


def lowered(
    op: Op, a: SimpleNamespace, training: bool = True
) -> tuple[tuple[TensorType, ...], tuple[Any, ...]]:
    """The types by the rule, the values by torch."""
    said = op.shape(Shapes(), typed(op, a))
    types = said if isinstance(said, tuple) else (said,)
    result = op.lower(Eager(vars(a), types, training), a)  # type: ignore[operator]
    return types, tuple(result) if isinstance(said, tuple) else (result,)


def call(name: str, training: bool = True, **arguments: Any) -> Any:
    """An op on tensors, its other arguments by name."""
    op = OPS[name]
    for arg in op.args:
        arguments.setdefault(arg.name, None if arg.kind == "param" else arg.default)
    types, results = lowered(op, SimpleNamespace(**arguments), training)
    for type_, result in zip(types, results, strict=True):
        assert type_of(result) == type_
    return results[0] if len(results) == 1 else results


def shape(name: str, **arguments: Any) -> Any:
    """The rule alone: types for values."""
    op = OPS[name]
    for arg in op.args:
        arguments.setdefault(arg.name, None if arg.kind == "param" else arg.default)
    return op.shape(Shapes(), SimpleNamespace(**arguments))


def f32(*dims: Any) -> TensorType:
    return TensorType("f32", dims)


def ids(*dims: Any) -> TensorType:
    return TensorType("i64", dims)


# -- every example


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(("op", "example"), CASES)
def test_the_shape_rule_says_what_torch_gives(op: Op, example: Example, training: bool) -> None:
    a = bind(op, example)
    types, results = lowered(op, a, training)
    assert len(types) == len(results)
    for type_, result in zip(types, results, strict=True):
        assert type_of(result) == type_
    if op.mixes is not None:
        for argument, axis in op.mixes(typed(op, a)):
            given = getattr(typed(op, a), argument)
            assert 0 <= axis < (given[0] if isinstance(given, tuple) else given).rank
    if op.cost is not None:
        assert isinstance(op.cost(typed(op, a)), int)


@pytest.mark.parametrize(("op", "example"), CASES)
def test_inputs_are_not_changed(op: Op, example: Example) -> None:
    a, again = bind(op, example), bind(op, example)
    lowered(op, a)
    for name, value in vars(a).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(again, name))


def test_every_op_has_examples() -> None:
    assert not [op.name for family in FAMILIES for op in registry.FAMILIES[family] if len(op.examples) < 2]


# -- by hand


def test_linear_with_a_weight_per_sample_is_a_loop_over_samples() -> None:
    x, w, c = torch.randn(3, 6, 4), torch.randn(3, 5, 4), torch.randn(3, 5)
    expected = torch.stack([F.linear(x[n], w[n], c[n]) for n in range(3)])
    torch.testing.assert_close(call("linear", x=x, out=5, weight=w, bias=c), expected)


def test_bilinear_with_a_weight_per_sample_is_a_loop_over_samples() -> None:
    x, y, w = torch.randn(3, 4), torch.randn(3, 6), torch.randn(3, 2, 4, 6)
    expected = torch.cat([F.bilinear(x[n : n + 1], y[n : n + 1], w[n]) for n in range(3)])
    torch.testing.assert_close(call("bilinear", x=x, y=y, out=2, weight=w), expected)


def test_embedding_with_a_table_per_sample_is_a_loop_over_samples() -> None:
    table, i = torch.randn(3, 7, 4), torch.randint(7, (3, 5, 2))
    expected = torch.stack([F.embedding(i[n], table[n]) for n in range(3)])
    assert torch.equal(call("embedding", ids=i, count=7, width=4, weight=table), expected)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1, "groups": 2}, {"same": True}, {"dilation": 2}]
)
def test_convolution_with_a_kernel_per_sample_is_a_loop_over_samples(options: dict[str, Any]) -> None:
    groups = options.get("groups", 1)
    x, w, c = torch.randn(3, 4, 6, 7), torch.randn(3, 2, 4 // groups, 2, 3), torch.randn(3, 2)
    one = [
        call("conv2d", x=x[n : n + 1], out=2, kernel=(2, 3), weight=w[n], bias=c[n], **options)
        for n in range(3)
    ]
    torch.testing.assert_close(
        call("conv2d", x=x, out=2, kernel=(2, 3), weight=w, bias=c, **options),
        torch.cat(one),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_same_padding_is_that_of_torch(kernel: int) -> None:
    x, w = torch.randn(2, 3, 8), torch.randn(4, 3, kernel)
    expected = F.conv1d(x, w, padding="same")
    torch.testing.assert_close(call("conv1d", x=x, out=4, kernel=kernel, weight=w, same=True), expected)


@pytest.mark.parametrize(
    ("make", "dims"),
    [(torch.nn.BatchNorm1d, (6, 4)), (torch.nn.BatchNorm1d, (6, 4, 3)), (torch.nn.BatchNorm2d, (3, 4, 5, 2))],
)
def test_batch_norm_and_its_statistics_are_those_of_torch(make: Any, dims: tuple[int, ...]) -> None:
    module, x = make(4), torch.randn(dims) * 3 + 1
    torch.nn.init.normal_(module.weight)
    mean, var = module.running_mean.clone(), module.running_var.clone()
    for _ in range(3):
        before = mean.clone()
        y, mean, var = call("batch_norm", x=x, weight=module.weight, bias=module.bias, mean=mean, var=var)
        torch.testing.assert_close(y, module(x))
        torch.testing.assert_close(mean, module.running_mean)
        torch.testing.assert_close(var, module.running_var)
        assert not mean.requires_grad
        assert not torch.equal(before, mean)
    module.eval()
    y, same, _ = call("batch_norm", False, x=x, weight=module.weight, bias=module.bias, mean=mean, var=var)
    torch.testing.assert_close(y, module(x))
    assert same is mean


@pytest.mark.parametrize("name", ["layer_norm", "group_norm", "instance_norm", "batch_norm"])
def test_norms_take_a_scale_per_sample(name: str) -> None:
    x, w, c = torch.randn(3, 4, 4), torch.randn(3, 4), torch.randn(3, 4)
    more = {"groups": 2} if name == "group_norm" else {}
    more |= {"mean": torch.zeros(4), "var": torch.ones(4)} if name == "batch_norm" else {}
    first = (lambda result: result[0]) if name == "batch_norm" else (lambda result: result)
    plain = first(call(name, x=x, **more))
    shape = (3, 1, 4) if name == "layer_norm" else (3, 4, 1)
    expected = plain * w.reshape(shape) + c.reshape(shape)
    torch.testing.assert_close(first(call(name, x=x, weight=w, bias=c, **more)), expected)


def _attention_by_hand(q: Any, k: Any, v: Any, allowed: Any = None) -> Any:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1) @ v


def test_attention_by_hand() -> None:
    q, k, v = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    torch.testing.assert_close(call("attention", q=q, k=k, v=v), _attention_by_hand(q, k, v))
    heads = [
        _attention_by_hand(q[..., n : n + 2], k[..., n : n + 2], v[..., m : m + 3])
        for n, m in ((0, 0), (2, 3))
    ]
    torch.testing.assert_close(call("attention", q=q, k=k, v=v, heads=2), torch.cat(heads, -1))


def test_attention_joins_its_mask_with_the_causal_one() -> None:
    x, mask = torch.randn(2, 5, 4), torch.rand(2, 5, 5) < 0.5
    mask[..., 0] = True
    both = mask & torch.ones(5, 5, dtype=torch.bool).tril()
    expected = _attention_by_hand(x, x, x, both)
    torch.testing.assert_close(call("attention", q=x, k=x, v=x, mask=mask, causal=True), expected)
    added = torch.zeros(2, 5, 5).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(call("attention", q=x, k=x, v=x, mask=added, causal=True), expected)


def test_rearrange_and_reduce_by_hand() -> None:
    x = torch.randn(2, 12, 3)
    y = call("rearrange", x=x, pattern="b (h w) c -> b c h w", lengths={"h": 4})
    assert torch.equal(y, x.reshape(2, 4, 3, 3).permute(0, 3, 1, 2))
    back = call("rearrange", x=y, pattern="b c h w -> b (h w) c")
    assert torch.equal(back, x)
    pooled = call("reduce", x=y, pattern="b c (h p) w -> b h w c", how="max", lengths={"p": 2})
    assert torch.equal(pooled, y.reshape(2, 3, 2, 2, 3).amax(3).permute(0, 2, 3, 1))
    torch.testing.assert_close(call("reduce", x=y, pattern="b ... -> b", how="mean"), y.flatten(1).mean(1))


def test_dropout_and_noise_are_of_training_only() -> None:
    x = torch.ones(1000)
    y = call("dropout", x=x, p=0.25)
    assert sorted(set(y.tolist())) == pytest.approx([0.0, 1 / 0.75])
    assert 0.2 < (y == 0).float().mean() < 0.3
    assert torch.equal(y, call("dropout", x=x, p=0.25)), "the same seed, the same mask"
    assert call("dropout", False, x=x, p=0.25) is x
    assert call("noise", False, x=x) is x
    assert 0.4 < call("noise", x=x, std=0.5).std() < 0.6


def test_adaptive_pooling_and_upsampling() -> None:
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(
        call("adaptive_avg_pool2d", x=x, sizes=(2, 3)), F.adaptive_avg_pool2d(x, (2, 3))
    )
    assert torch.equal(call("upsample", x=x, scale=(2, 3)), x.repeat_interleave(2, 2).repeat_interleave(3, 3))


# -- shape rules on dims that only the run knows


def test_shape_rules_on_symbolic_dims() -> None:
    assert shape("linear", x=f32(B, T, 4), out=5, weight=f32(5, 4)) == f32(B, T, 5)
    assert shape("matmul", x=f32(B, T, 4), y=f32(B, 4, T)) == f32(B, T, T)
    assert shape("einsum", pattern="btd,bsd->bts", x=f32(B, T, 4), y=f32(B, 7, 4)) == f32(B, T, 7)
    assert shape("conv1d", x=f32(B, 3, T), out=4, kernel=3, padding=1, weight=f32(4, 3, 3)) == f32(B, 4, T)
    half = shape("conv1d", x=f32(B, 3, T), out=4, kernel=3, stride=2, same=True, weight=f32(4, 3, 3))
    assert half == f32(B, 4, (T - 1) // 2 + 1)
    assert shape("upsample", x=f32(B, 3, T), scale=2) == f32(B, 3, 2 * T)
    assert shape("reshape", x=f32(B, T, 12), sizes=(B, T, -1, 4)) == f32(B, T, 3, 4)
    assert shape("reshape", x=f32(B, T, 12), sizes=(-1, 12)) == f32(B * T, 12)
    assert shape("reshape", x=f32(B * T, 12), sizes=(B, -1, 12)) == f32(B, T, 12)
    assert shape("flatten", x=f32(B, T, 12), start=1) == f32(B, 12 * T)
    assert shape("concat", xs=(f32(B, T, 3), f32(B, 1, 3)), axis=1) == f32(B, T + 1, 3)
    assert shape("split", x=f32(B, 2 * T), parts=2) == (f32(B, T), f32(B, T))
    assert shape("slice", x=f32(B, T, 3), items=(("slice", None, None, None), -1)) == f32(B, 3)
    assert shape("slice", x=f32(B, T), items=("...", ("slice", 1, None, None))) == f32(B, T - 1)
    assert shape("take", x=f32(10, 4), index=ids(B, T)) == f32(B, T, 4)
    rows = shape("rearrange", x=f32(B * T, 12), pattern="(b t) (h d) -> b t h d", lengths={"t": T, "h": 3})
    assert rows == f32(B, T, 3, 4)
    assert shape("attention", q=f32(B, T, 8), k=f32(B, T, 8), v=f32(B, T, 8), heads=2) == f32(B, T, 8)
    assert shape("causal_mask", n=T) == TensorType("bool", (T, T))
    assert shape("pad", x=f32(B, T), sizes=(1, 0)) == f32(B, T + 1)


def test_a_dim_to_be_inferred_is_bound() -> None:
    unifier, width = Unifier(), symbol("?H")
    s = Shapes(unifier)
    a = SimpleNamespace(x=f32(B, width), sizes=(B, 4, 8))
    assert OPS["reshape"].shape(s, a) == f32(B, 4, 8)
    assert unifier.resolve(width) == 32


def test_quotients_of_dims() -> None:
    assert divide(B * T * 12, T * 4) == B * 3
    assert divide(12, 5) is None
    assert divide(T, 2) == T // 2
    assert isinstance(divide(B, T), Dim)


# -- what mixes the samples of a batch


def mixes(name: str, **arguments: Any) -> list[tuple[str, int]]:
    op = OPS[name]
    for arg in op.args:
        arguments.setdefault(arg.name, None if arg.kind == "param" else arg.default)
    assert op.mixes is not None
    return op.mixes(SimpleNamespace(**arguments))


def test_ops_name_the_axes_they_mix() -> None:
    x = f32(B, T, 4)
    assert ("x", 0) in mixes("reshape", x=f32(B, T), sizes=(T, B))
    assert mixes("reshape", x=x, sizes=(B * T, 4)) == []
    assert mixes("reshape", x=x, sizes=(B, 4, T)) == [("x", 1), ("x", 2)]
    assert mixes("slice", x=x, items=(0,)) == [("x", 0)]
    assert mixes("slice", x=x, items=(("slice", None, None, None), -1)) == [("x", 1)]
    assert mixes("take", x=x, index=ids(B), axis=1) == [("x", 1), ("index", 0)]
    assert mixes("take", x=f32(10, 4), index=ids(B, T)) == [("x", 0)]
    assert mixes("gather", x=x, index=ids(B, T, 4), axis=0) == [("x", 0)]
    assert mixes("concat", xs=(x, x), axis=0) == [("xs", 0)]
    assert mixes("einsum", pattern="btd,bsd->ts", x=x, y=x) == [("x", 0), ("x", 2), ("y", 0), ("y", 2)]
    assert mixes("matmul", x=f32(4, B), y=f32(B, 4)) == [("x", 1), ("y", 0)]
    assert mixes("reduce", x=x, pattern="b t d -> t d", how="mean") == [("x", 0)]
    assert ("k", 1) in mixes("attention", q=x, k=x, v=x)
    assert mixes("flip", x=x, axes=(0,)) == [("x", 0)]


def test_reshapes_that_scramble() -> None:
    assert scrambled_axes((B, 12), (B, 3, 4)) == []
    assert scrambled_axes((B, 4), (2 * B, 2)) == []
    assert scrambled_axes((B, T, 4), (T, B, 4)) == [0, 1]
    assert scrambled_axes((B, 4, 6), (B, 6, 4)) == [1, 2]


# -- mistakes


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("matmul", {"x": f32(B, 4), "y": f32(5, 6)}, "`x` is f32[B, 4] and `y` is f32[5, 6]: 4 and 5 do not fit"),
        ("linear", {"x": f32(B, 4), "out": 3, "weight": TensorType("f64", (3, 4))}, "`x` is f32[B, 4] and `weight` is f64[3, 4]: a product needs one dtype"),
        ("einsum", {"pattern": "ij,jk->ik", "x": f32(B, 4), "y": f32(5, 6)}, "the index `j` is 4 in `x` and 5 in `y`"),
        ("einsum", {"pattern": "ij,jk", "x": f32(B, 4), "y": f32(4, 6)}, 'a pattern says what it gives: "ij,jk->…"'),
        ("embedding", {"ids": f32(B), "count": 3, "width": 2, "weight": f32(3, 2)}, "`ids` is f32[B], and an index must be i64 or i32"),
        ("one_hot", {"x": ids(B), "classes": T}, "the number of classes has to be known when compiling, and T is not"),
        ("conv2d", {"x": f32(B, 3, 2, 8), "out": 4, "kernel": 3, "weight": f32(4, 3, 3, 3)}, "a kernel of 3 does not fit in 2 with a padding of 0"),
        ("conv2d", {"x": f32(B, 3, 8, 8), "out": 4, "kernel": 3, "groups": 2, "weight": f32(4, 1, 3, 3)}, "3 channels do not divide into 2 groups"),
        ("group_norm", {"x": f32(B, 6), "groups": 4}, "6 channels do not divide into 4 groups"),
        ("attention", {"q": f32(B, T, 6), "k": f32(B, T, 6), "v": f32(B, T, 6), "heads": 4}, "a width of 6 does not divide into 4 heads"),
        ("reshape", {"x": f32(B, 12), "sizes": (B, 5, -1)}, "`x` is f32[B, 12], which does not divide into [B, 5, -1]"),
        ("reshape", {"x": f32(B, 12), "sizes": (B, 11)}, "`x` is f32[B, 12], which does not fit in [B, 11]"),
        ("squeeze", {"x": f32(B, 3), "axis": 1}, "`x` is f32[B, 3]: axis 1 has size 3, not 1"),
        ("split", {"x": f32(B, 7), "parts": 2}, "`x` is f32[B, 7]: 7 does not divide into 2 parts"),
        ("concat", {"xs": (f32(B, 3, 4), f32(B, 2, 5))}, "f32[B, 3, 4] and f32[B, 2, 5] can only differ in axis -1: 3 and 2"),
        ("slice", {"x": f32(B, 3), "items": (0, 3)}, "`x` is f32[B, 3]: axis 1 has no element 3"),
        ("gather", {"x": f32(B, T, 4), "index": ids(B, T, 4), "axis": 3}, "there is no axis 3: the value has 3 dims"),
        ("rearrange", {"x": f32(B, 12), "pattern": "b (h w) -> b h w"}, "give the size of `h` or of `w` of `(h w)`"),
        ("rearrange", {"x": f32(B, 12), "pattern": "b c -> b"}, "an axis on the left is not on the right"),
        ("rearrange", {"x": f32(B, 12), "pattern": "b (h w -> b"}, 'the parentheses of "b (h w" do not match'),
        ("dropout", {"x": f32(B), "p": 1.5}, "`p` is at least 0 and less than 1, not 1.5"),
    ],
)  # fmt: skip
def test_mistakes_are_said_plainly(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError) as error:
        shape(name, **arguments)
    assert str(error.value) == message


def test_storage_cannot_depend_on_a_dim_of_the_run() -> None:
    op = OPS["linear"]
    assert op.params is not None
    with pytest.raises(ShapeError, match="the size of a weight cannot depend on T, which only the run knows"):
        op.params(Shapes(), SimpleNamespace(x=f32(B, T), out=3, weight=None, bias=None))
