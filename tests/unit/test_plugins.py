"""Plug-ins: ops of one's own from records, files and packages, and nn.Module classes as ops."""

import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import r2d2c
from r2d2c import CompileError, compile, loads
from r2d2c.credit.record import CreditRule, Edge
from r2d2c.graph import Init, Loss, Value
from r2d2c.ops.module_op import module_op
from r2d2c.ops.record import Arg, Op
from r2d2c.prove import prove
from r2d2c.sampling import random_batch
from r2d2c.types import TensorType

SWISH = Op("swishy", "x · sigmoid(βx).", (Arg("x"), Arg("beta", "float", 1.0)), lambda s, a: a.x, lambda b, a: b(
    "torch.mul", a.x, b("torch.sigmoid", b("torch.mul", a.x, a.beta))
))  # fmt: skip


class Gated(nn.Module):
    """A gated layer with a fixed offset."""

    def __init__(self, size: int, width: int, depth: int = 1) -> None:
        super().__init__()
        self.value = nn.Linear(size, width)
        self.gate = nn.Linear(size, width, bias=False)
        self.scale = nn.Parameter(torch.full((width,), 0.5))
        self.register_buffer("offset", torch.linspace(0, 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value(x) * torch.sigmoid(self.gate(x)) * self.scale + self.offset


class Pair(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner(x + y), x - y


GATED = module_op(
    "gated",
    Gated,
    args=("x", Arg("width", "size")),
    construct=lambda a: {"size": a.x.dims[-1], "width": a.width},
    sample={"size": 2, "width": 2},
    shape=lambda s, a: a.x.with_dims((*a.x.dims[:-1], a.width)),
)
PAIR = module_op(
    "pair",
    Pair,
    args=("x", "y"),
    construct=lambda a: {"width": a.x.dims[-1]},
    sample={"width": 2},
    shape=lambda s, a: (a.x, a.x),
    outputs=("mixed", "apart"),
)


def spec(*statements: str, extra: str = "") -> str:
    lines = textwrap.indent("\n".join(statements), "      ")
    return f"""r2d2c: 1
model: own
dims: {{D: 6, H: 4}}
inputs:
  x: f32[B, D]
tasks:
  t:
    behavior: |
{lines}
    distance: mean((h - 1) ^ 2)
outputs:
  h: t.h
{extra}"""


# -- records


def test_an_op_of_ones_own() -> None:
    model = compile(loads(spec("h = x |> linear(H) |> swishy(beta=2)"), plugins=[SWISH]))
    x = torch.randn(3, 6)
    a = nn.functional.linear(x, *model.parameters())
    torch.testing.assert_close(model(x=x)["h"], a * torch.sigmoid(2 * a))
    assert prove(model).ok


def test_plugins_are_records_modules_objects_and_files(tmp_path: Path) -> None:
    text = spec("h = x |> linear(H) |> swishy")
    file = tmp_path / "mine.py"
    file.write_text(
        "from r2d2c.ops.record import Arg, Op\n"
        "OPS = (Op('swishy', 'The double.', (Arg('x'),), lambda s, a: a.x, lambda b, a: b('torch.mul', a.x, 2)),)\n"
    )
    for plugin in (SWISH, SimpleNamespace(OPS=(SWISH,)), file, str(file)):
        assert "swishy" in loads(text, plugins=[plugin]).ops
    with pytest.raises(CompileError, match=r"E207.*there is no op or block `swishy`"):
        loads(text)


def test_plugins_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", f"{__name__}:INSTALLED", "r2d2c.plugins")
    monkeypatch.setattr(EntryPoint, "load", lambda self: SimpleNamespace(OPS=(SWISH,)))
    monkeypatch.setattr(
        "r2d2c.plugins.entry_points", lambda group: [point] if group == "r2d2c.plugins" else []
    )
    assert loads(spec("h = x |> linear(H) |> swishy")).ops["swishy"] is SWISH


def halved(edge: Edge) -> Value:
    half = edge.node("constant", value=0.5)
    return edge.node(
        "add",
        edge.node("mul", edge.value, half),
        edge.node("mul", edge.stop(edge.value), half),
        name="halved",
    )


HALF = CreditRule("half", "Half of the gradient comes back.", "½ ∂L/∂h", halved)
DEAF = CreditRule("deaf", "Nothing comes back.", "0", lambda edge: edge.stop(edge.value), keeps_distance=True)
LINKED = """r2d2c: 1
model: own
dims: {D: 6, H: 4}
inputs:
  x: f32[B, D]
tasks:
  a:
    behavior: h = linear(x, H)
    distance: mean(h ^ 2)
  b:
    behavior: h = linear(a.h, H)
    distance: mean((h - 1) ^ 2)
links:
  a.h -> b: {credit: CREDIT}
outputs:
  h: b.h
"""


@pytest.mark.parametrize(("rule", "like", "factor"), [(DEAF, "local", 1.0), (HALF, "backprop", 0.5)])
def test_a_credit_rule_of_ones_own(rule: CreditRule, like: str, factor: float) -> None:
    text = LINKED.replace("CREDIT", rule.name)
    with pytest.raises(CompileError, match=f"E430.*`{rule.name}`"):
        loads(text)
    model = compile(loads(text, plugins=[rule]))
    usual = compile(loads(LINKED.replace("CREDIT", like)))
    assert model.wiring() == usual.wiring()
    assert prove(model).ok
    x = torch.randn(4, 6)
    model.learn(x=x)
    usual.learn(x=x)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), usual.named_parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad * (factor if name.startswith("a.") else 1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ValueError('no luck')", "the plug-in .*bad.py does not load: ValueError: no luck"),
        ("import nowhere_to_be_found", "does not load: ModuleNotFoundError: No module named"),
        ("def broken(:", "does not load: SyntaxError"),
    ],
)
def test_a_plugin_that_does_not_load(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(CompileError, match=f"E250.*{message}"):
        loads(spec("h = linear(x, H)"), plugins=[file])


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"E250.*there is no plug-in file"):
        loads(spec("h = linear(x, H)"), plugins=[tmp_path / "none.py"])


@pytest.mark.parametrize(
    "statement",
    [
        "h = torch.tanh(linear(x, H))",
        "h = os.system('true')",
        "h = my_package.layers.Gated(x)",
        "h = plugin('mine.py')",
    ],
)
def test_a_spec_cannot_name_a_python_path(statement: str) -> None:
    with pytest.raises(CompileError) as error:
        loads(spec(statement), plugins=[SWISH])
    assert error.value.diagnostics[0].code in ("E201", "E203", "E207")


def test_a_spec_has_no_section_for_plugins() -> None:
    with pytest.raises(CompileError) as error:
        loads(spec("h = linear(x, H)", extra="plugins: [mine.py]\n"))
    assert error.value.diagnostics[0].message == "the spec has no key `plugins`"


# -- modules


def plain_of(model: torch.nn.Module, place: str, module: nn.Module) -> nn.Module:
    state = model.state_dict()
    module.load_state_dict({name: state[f"{place}.{name}"] for name in module.state_dict()})
    return module


def test_a_module_has_the_outputs_and_gradients_of_the_plain_one() -> None:
    model = compile(loads(spec("h = x |> gated(2*H) |> relu |> gated(H)"), plugins=[GATED]))
    first = plain_of(model, "t.h.gated", Gated(6, 8))
    second = plain_of(model, "t.h.gated_2", Gated(8, 4))
    x = torch.randn(5, 6)
    h = second(first(x).relu())
    torch.testing.assert_close(model(x=x)["h"], h)
    loss = ((h - 1) ** 2).mean()
    loss.backward()
    step = model.learn(x=x)
    torch.testing.assert_close(step.losses["t"], loss.detach())
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert len(gradients) == 8
    for place, module in (("t.h.gated", first), ("t.h.gated_2", second)):
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(gradients[f"{place}.{name}"], parameter.grad)


def test_a_module_starts_as_its_class_does_it_and_the_same_every_time() -> None:
    text = spec("h = gated(x, H)")
    one, other = (compile(loads(text, plugins=[GATED])).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(one["t.h.gated.scale"], torch.full((4,), 0.5))
    assert torch.equal(one["t.h.gated.offset"], torch.linspace(0, 1, 4))
    weight = one["t.h.gated.value.weight"]
    assert 0 < weight.abs().max() <= 6**-0.5
    assert not torch.equal(weight, one["t.h.gated.gate.weight"])
    assert not torch.equal(
        weight, compile(loads(text, plugins=[GATED], seed=1)).state_dict()["t.h.gated.value.weight"]
    )


def test_a_modules_parameters_are_values() -> None:
    checked = loads(spec("a = gated(x, H, frozen=true, name=first)", "h = linear(a, H)"), plugins=[GATED])
    model = compile(checked)
    assert [name for name, _ in model.named_parameters()] == ["t.h.linear.weight", "t.h.linear.bias"]
    assert "t.first.value.weight" in dict(model.named_buffers())
    assert checked.graph.storage["t.first.offset"].kind == "frozen"
    free = compile(loads(spec("a = gated(x, H)", "h = linear(a, H)"), plugins=[GATED]))
    assert free.wiring()["t"]["t.a.gated.value.weight"] == "gradient"
    assert prove(free).ok
    doubled = free.double()
    assert doubled(x=torch.randn(2, 6, dtype=torch.float64))["h"].dtype == torch.float64


def test_a_module_with_two_inputs_and_two_values() -> None:
    model = compile(loads(spec("a = linear(x, H)", "u, v = pair(a, relu(a))", "h = u + v"), plugins=[PAIR]))
    x = torch.randn(3, 6)
    state = model.state_dict()
    a = nn.functional.linear(x, state["t.a.linear.weight"], state["t.a.linear.bias"])
    u, v = plain_of(model, "t.u.pair" if "t.u.pair.inner.weight" in state else "t.out.pair", Pair(4))(
        a, a.relu()
    )
    torch.testing.assert_close(model(x=x)["h"], u + v)


def test_a_module_is_exported_through_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    import onnxruntime

    model = compile(loads(spec("h = x |> gated(H) |> swishy"), plugins=[GATED, SWISH]))
    r2d2c.export(model, tmp_path / "m.onnx")
    x = torch.randn(7, 6)
    (found,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(["h"], {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x=x)["h"])


def test_a_module_needs_sizes_that_are_known() -> None:
    text = spec("h = gated(s, H)").replace("  x: f32[B, D]", "  s: f32[B, D, T]")
    with pytest.raises(CompileError, match="the size `size` of `gated` must be known, and is T"):
        loads(text, plugins=[GATED])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: module_op("m", Gated, shape=lambda s, a: a.x), r"module_op\('m'\): give `sample`"),
        (lambda: module_op("m", Pair, args=(), shape=lambda s, a: a.x), "`args` are the tensors"),
        (
            lambda: module_op("m", nn.BatchNorm1d, sample={"num_features": 2}, shape=lambda s, a: a.x),
            "the buffer `num_batches_tracked` counts",
        ),
    ],
)
def test_a_module_that_cannot_be_an_op(make: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()  # type: ignore[operator]


def test_a_modules_parameters_may_not_depend_on_its_arguments() -> None:
    class Deep(nn.Sequential):
        def __init__(self, depth: int) -> None:
            super().__init__(*(nn.Linear(4, 4) for _ in range(depth)))

    deep = module_op(
        "deep", Deep, args=("x", Arg("depth", "int")), sample={"depth": 1}, shape=lambda s, a: a.x
    )
    with pytest.raises(CompileError, match=r"`Deep\(depth=2\)` has other parameters than the sample"):
        loads(spec("a = linear(x, 4)", "h = deep(a, 2)"), plugins=[deep])


def guess(edge):
    """A rule with a trained matrix, a fixed vector and a loss of its own."""
    h = edge.stop(edge.value)
    width = edge.type(edge.value).dims[-1]
    w = edge.storage("back.weight", TensorType("f32", (width, width)), Init("orthogonal"), "param")
    b = edge.storage("back.fixed", TensorType("f32", (width,)), Init("normal"), "frozen")
    found = edge.node("linear", h, w, b, name="guess", out=width)
    edge.loss(Loss(f"{edge.link.source_task}.guess", edge.node("mse", found, edge.stop(h)), 0.5))
    return edge.node("add", h, edge.stop(found))


def test_a_rule_may_have_storage_and_a_loss_of_its_own():
    rule = CreditRule("guess", "doc", "0", guess, keeps_distance=True)
    text = """
r2d2c: 1
inputs:
  x: f32[B, 4]
tasks:
  a:
    behavior: h = linear(x, 3) |> tanh
    distance: mean(h^2)
  b:
    behavior: y = linear(a.h, 2)
    distance: mean(y^2)
links:
  a.h -> b: {credit: guess}
outputs:
  y: b.y
"""
    model = r2d2c.compile(r2d2c.loads(text, plugins=[rule]))
    assert "a.guess.back.weight" in dict(model.named_parameters())
    assert "a.guess.back.fixed" in dict(model.named_buffers())
    step = model.learn(**random_batch(model.graph))
    assert set(step.losses) == {"a", "b", "a.guess"}
    teachers = {
        n: {loss for loss, row in model.wiring().items() if row[n]} for n, _ in model.named_parameters()
    }
    assert teachers["a.guess.back.weight"] == {"a.guess"} and teachers["a.h.linear.weight"] == {"a"}
    assert prove(model).ok


def test_emitted_python_refuses_the_code_of_a_plugin():
    from r2d2c.emit import emit_python

    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    text = """
r2d2c: 1
inputs:
  x: f32[B, 4]
tasks:
  a:
    behavior: h = x |> doubled |> linear(3)
    distance: mean(h^2)
outputs:
  h: a.h
"""
    model = r2d2c.compile(r2d2c.loads(text, plugins=[module_op("doubled", Doubled, shape=lambda s, a: a.x)]))
    with pytest.raises(CompileError, match=r"E613.*`doubled` runs code of a plug-in"):
        emit_python(model)
