"""Kinds of ops of op graphs: what is made of a formula, their numbers in checkpoints, and those that plug-ins bring."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import r2d2c
from r2d2c.cli.main import main
from r2d2c.diagnostics import CompileError
from r2d2c.emit import emit_python
from r2d2c.lower.opgraph import columns, load
from r2d2c.lower.opgraph_call import program_of
from r2d2c.lower.opgraph_kernels import numpy_arrays, torch_arrays
from r2d2c.mutate_checks import commutes, constant
from r2d2c.opgraph import ARITY, KINDS, OP_KINDS, arities, empty, plan
from r2d2c.opkind_formulas import evaluate, gradient
from r2d2c.opkinds import FOREIGN, OpKind, UnknownKindError, kind_of, number_of, problem, register
from tests.unit.op_graph_oracle import HEAD, SHOWN, TASK, batch

LETTERS = "abc"
SWIRL = OpKind("swirl", 2, "sin(a * b) + 0.5 * a", doc="sin(ab) + a/2")
# One text with each part of the language, and the same in PyTorch.
RICH = OpKind(
    "rich",
    3,
    "where(1 - a > 0.1, 2 / (1 + exp(-b)), log(1 + abs(c))) + minimum(a, 0.5) * (b >= c) - arctan(-c) / 3"
    " + maximum(1, a) * sigmoid(c) + softplus(b) - relu(a) + sqrt(square(a) + 1) + sign(b) * cos(c)",
)


def rich(a: Any, b: Any, c: Any) -> Any:
    first = torch.where(1 - a > 0.1, 2 / (1 + torch.exp(-b)), torch.log(1 + c.abs()))
    second = a.clamp(max=0.5) * (b >= c) - torch.atan(-c) / 3 + a.clamp(min=1) * torch.sigmoid(c)
    third = torch.nn.functional.softplus(b) - torch.relu(a) + torch.sqrt(a * a + 1) + b.sign() * torch.cos(c)
    return first + second + third


def test_the_numbers_of_checkpoints_stay() -> None:
    first = [
        "identity",
        "add",
        "sub",
        "mul",
        "div",
        "max",
        "min",
        "gauss",
        "gated",
        "sin",
        "cos",
        "tanh",
        "relu",
        "abs",
        "square",
        "multiply_add",
    ]
    assert [kind.name for kind in OP_KINDS][:16] == first
    then = [
        "neg",
        "sigmoid",
        "softplus",
        "silu",
        "gelu",
        "exp",
        "log",
        "sqrt",
        "sign",
        "mean",
        "hypot",
        "where",
        "mix",
    ]
    assert [kind.name for kind in OP_KINDS][16:] == then  # add new ones behind these
    assert [number_of(kind) for kind in OP_KINDS] == list(range(len(OP_KINDS)))
    assert number_of(SWIRL) == 1675850551


@pytest.mark.parametrize("kind", OP_KINDS, ids=lambda kind: kind.name)
def test_gradients_that_are_written_are_those_that_are_made_of_the_formula(kind: OpKind) -> None:
    draw = np.random.default_rng(3)
    scope = dict(zip(LETTERS, draw.normal(size=(kind.arity, 200)) * 3, strict=False)) | {
        "g": draw.normal(size=200)
    }
    scope["v"] = evaluate(kind.formula, scope)
    for place, text in enumerate(kind.slopes):
        letter = LETTERS[place]
        found = scope[f"d{letter}"] = evaluate(text, scope) + np.zeros(200)
        np.testing.assert_allclose(
            found, evaluate(gradient(kind.formula, letter), scope) + np.zeros(200), atol=1e-9
        )


@pytest.mark.parametrize("arrays", [numpy_arrays, torch_arrays])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_of_a_formula_with_all_parts_of_the_language(arrays: Any, dtype: torch.dtype) -> None:
    register([RICH])
    given = [
        p.requires_grad_()
        for p in torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(1), dtype=dtype)
    ]
    value = rich(*given)
    slope = torch.randn(4, 50, dtype=dtype)
    wanted = torch.autograd.grad(value, given, slope)
    library = arrays()
    kernel = library.kernels[number_of(RICH)]
    parts = [library.of(p.detach().clone()) for p in given]
    out, *places = (library.of(torch.empty(4, 50, dtype=dtype)) for _ in range(4))
    kernel.forward(parts, 0, out)
    kernel.backward(parts, 0, out, library.of(slope), places)
    torch.testing.assert_close(library.tensor(out), value.detach())
    for place, other in zip(places, wanted, strict=True):
        torch.testing.assert_close(library.tensor(place), other)
    for part, before in zip(parts, given, strict=True):
        assert torch.equal(library.tensor(part), before.detach()), "a kernel wrote into its arguments"


def test_where_takes_nothing_of_what_it_does_not_choose() -> None:
    table = replace(
        empty(3, 1), kind=np.array([KINDS["where"]]), args=np.array([[0, 1, 2]], np.int32), names=("n0",)
    )
    x = torch.tensor([[torch.inf, 2.0, -1.0], [3.0, torch.nan, 1.0]], requires_grad=True)
    none = torch.zeros(1)
    found = columns(load(plan(table)), x, torch.zeros(1, 3), none, none)[0][:, 3]
    assert found.tolist() == [2, 3]
    found.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_numbers_are_of_the_name_and_the_formula_and_not_of_an_order() -> None:
    other = OpKind("other", 1, "a * 3")
    for order in ([SWIRL, other], [other, SWIRL]):
        register(order)
        assert kind_of(number_of(SWIRL)) == SWIRL and kind_of(number_of(other)) == other
    assert number_of(replace(SWIRL, formula=" sin( a*b )+(0.5*a)", doc="")) == number_of(SWIRL) >= FOREIGN
    assert number_of(replace(SWIRL, formula="sin(a * b) + 0.4 * a")) != number_of(SWIRL)
    assert number_of(replace(SWIRL, name="swirls")) != number_of(SWIRL)
    table = np.array([-1, 1, number_of(SWIRL), 15, number_of(other)])
    assert arities(table).tolist() == [0, 2, 2, 3, 1]
    assert arities(table[:2]).tolist() == [0, ARITY[1]]
    with pytest.raises(UnknownKindError):
        arities(np.array([FOREIGN]))


def test_what_follows_from_a_formula() -> None:
    register([SWIRL, OpKind("near", 2, "exp(-abs(a - b))")])
    assert commutes("near") and not commutes("swirl")
    assert constant("near", ("a", "a")) and not constant("swirl", ("a", "a"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (OpKind("swirl", 2, "sin(a * b"), "cannot be read"),
        (OpKind("swirl", 2, "sin(a)"), "does not read `b`"),
        (OpKind("swirl", 1, "sin(a) + d"), "reads `d`; it may read `a`"),
        (OpKind("swirl", 1, "sinc(a)"), "calls `sinc`; it may call `abs`"),
        (OpKind("swirl", 1, "__import__('os').system(a)"), "has `__import__('os').system(a)`"),
        (OpKind("swirl", 1, "a ** 2"), "has `a ** 2`"),
        (OpKind("swirl", 1, "a + exp(1)"), "`exp(1)` is of numbers alone"),
        (OpKind("swirl", 1, "a + 1 / 0"), "`1 / 0` is of numbers alone"),
        (OpKind("swirl", 1, "maximum(a)"), "gives `maximum` 1 of its 2 arguments"),
        (OpKind("swirl", 2, "where(a, b, 0)"), "the first argument of `where` is a comparison"),
        (OpKind("swirl", 1, "a if a > 0 else 0"), "a formula has"),
        (OpKind("swirl", 1, "(" * 400 + "a" + ")" * 400), "cannot be read"),
        (OpKind("swirl", 1, "-" * 5000 + "a"), "cannot be read"),
        (OpKind("swirl", 4, "a + b + c + d"), "has 4 arguments; it may have 1 to 3"),
        (OpKind("gauss", 1, "a"), "has the name of a kind that op graphs have"),
        (OpKind("p", 1, "a * 2"), "means something else"),
        (OpKind("a b", 1, "a * 2"), "a name that is none"),
        (OpKind("swirl", 2, "a * b", ("g * b",)), "1 of its gradients are given"),
        (
            OpKind("swirl", 2, "a * b", ("g * b", "g * b")),
            "the gradient of `b` of the kind `swirl` is not that",
        ),
        (OpKind("swirl", 2, "a * b", ("g * db", "g * a")), "reads `db`"),
    ],
    ids=range(20),
)
def test_kinds_that_cannot_be_are_told(kind: OpKind, said: str) -> None:
    assert said in (problem(kind) or "")
    with pytest.raises(CompileError) as caught:
        r2d2c.loads("r2d2c: 1\n", plugins=[kind])
    assert [d.code for d in caught.value.diagnostics] == ["E254"]


def test_gradients_of_ones_own_are_taken() -> None:
    assert problem(OpKind("swirl", 2, "maximum(a * b, 0)", ("g * b * (v > 0)", "g * a * (v > 0)"))) is None


# -- plug-ins

PLUGIN = """
from r2d2c.opkinds import OpKind

OP_KINDS = (
    OpKind("swirl", 2, "sin(a * b) + 0.5 * a", doc="sin(ab) + a/2"),
    OpKind("clipped", 1, "where(a > 0.2, 0.2, maximum(a, -0.2))"),
)
"""
GRAPH = """
  layer:
    ops: [swirl, clipped, add, hypot]
    capacity: 20
    start: 10
    normalise: batch
    nodes: {first: "swirl(x[0], x[1])", second: clipped(first)}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def model_with(plugin: Path, text: str = GRAPH + SHOWN) -> Any:
    return r2d2c.compile(r2d2c.loads(HEAD.lstrip() + text.lstrip("\n"), plugins=[plugin]))


def test_an_op_graph_with_kinds_of_a_plugin(plugin: Path, tmp_path: Path) -> None:
    model = model_with(plugin, (GRAPH + SHOWN).replace("normalise: batch", "normalise: none"))
    x = batch()["x"]
    found = model(x=x)["columns"]
    start = model.layer.number.tolist()
    first = torch.sin(x[:, 0] * x[:, 1]) + 0.5 * x[:, 0]
    torch.testing.assert_close(found[:, 4 + start.index(0)], first)
    torch.testing.assert_close(found[:, 4 + start.index(1)], first.clamp(-0.2, 0.2))
    kinds = {kind_of(number).name for number in model.layer.kind.tolist() if number >= 0}
    assert kinds <= {"swirl", "clipped", "add", "hypot"}


def test_files_that_are_written_have_the_kinds_of_a_plugin(plugin: Path, tmp_path: Path) -> None:
    model = model_with(plugin)
    for seed in range(2):
        model.learn(**batch(seed=seed))
    r2d2c.export(model, tmp_path / "m.onnx")  # compared with PyTorch there
    x = batch(seed=4)["x"]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    named = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"x": x.numpy()}), strict=True)
    )
    np.testing.assert_allclose(named["out"], model(x=x)["out"].detach(), atol=1e-5)
    scope: dict[str, Any] = {}
    exec(compile(emit_python(model), "emitted.py", "exec"), scope)
    other = next(c for c in scope.values() if isinstance(c, type) and issubclass(c, torch.nn.Module))()
    other.load_state_dict(model.state_dict())
    given = batch(seed=5)
    model.zero_grad()
    step = model.learn(**given)
    losses, _ = other.learn(*given.values())
    torch.testing.assert_close(losses["fit"], step.losses["fit"])
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad, msg=name)


def test_all_kinds_in_the_files_that_are_written(tmp_path: Path) -> None:
    register([RICH])
    kinds = [*OP_KINDS, RICH]
    nodes = "".join(
        f"      k{n}: {kind.name}({', '.join(['x[0]', 'x[1]', 'x[2]'][: kind.arity])})\n"
        for n, kind in enumerate(kinds)
    )
    text = f"  layer:\n    capacity: {len(kinds)}\n    nodes:\n{nodes}" + SHOWN
    model = r2d2c.compile(r2d2c.loads(HEAD.lstrip() + text, plugins=[RICH]))
    r2d2c.export(model, tmp_path / "m.onnx")
    scope: dict[str, Any] = {}
    exec(compile(emit_python(model), "emitted.py", "exec"), scope)
    other = next(c for c in scope.values() if isinstance(c, type) and issubclass(c, torch.nn.Module))()
    x = batch(200)["x"]
    torch.testing.assert_close(other(x)["columns"], model(x=x)["columns"])
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    named = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"x": x.numpy()}), strict=True)
    )
    np.testing.assert_allclose(named["columns"], model(x=x)["columns"].detach(), atol=1e-5, rtol=1e-5)


def test_a_spec_without_the_plugin_does_not_know_its_kinds(plugin: Path) -> None:
    model_with(plugin)
    with pytest.raises(CompileError) as caught:
        r2d2c.loads(HEAD.lstrip() + (GRAPH + SHOWN).lstrip("\n"))
    assert {d.code for d in caught.value.diagnostics} == {"E341"}
    two = [SimpleNamespace(OP_KINDS=(SWIRL,)), SimpleNamespace(OP_KINDS=(replace(SWIRL, formula="a - b"),))]
    with pytest.raises(CompileError, match=r"E254.*two plug-ins bring a kind `swirl`"):
        r2d2c.loads("r2d2c: 1\n", plugins=two)
    assert list(
        r2d2c.loads(
            HEAD.lstrip() + "  g: {ops: [add], capacity: 2, start: 1}\n" + TASK.replace("layer", "g"),
            plugins=[plugin, plugin, SWIRL],
        ).ops.extra
    ) == [*_kinds(plugin)]


def _kinds(plugin: Path) -> tuple[OpKind, ...]:
    from r2d2c.plugins import load_file

    kinds: tuple[OpKind, ...] = load_file(plugin).OP_KINDS
    return kinds


def test_the_command_line_lists_them(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--kinds", "--plugin", str(plugin)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(OP_KINDS) + 2
    assert lines[-2].split(maxsplit=2)[2] == "sin(ab) + a/2"
    assert main(["ops", "where", "--kinds", "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["arity"] == 3 and found["formula"] == "where(c > 0, a, b)"
    assert main(["ops", "whree", "--kinds"]) == 2
    assert "did you mean `where`?" in " ".join(capsys.readouterr().err.split())


def test_a_table_with_a_kind_that_is_not_there_is_told(plugin: Path) -> None:
    model = model_with(plugin)
    kinds = model.layer.kind
    kinds[0] = 123456789
    with pytest.raises(CompileError) as caught:
        program_of(kinds, model.layer.args, 4, torch.device("cpu"))
    assert [d.code for d in caught.value.diagnostics] == ["E341"]
    assert "123456789" in caught.value.diagnostics[0].message


def test_a_training_with_kinds_of_a_plugin_goes_on_and_is_replayed(plugin: Path, tmp_path: Path) -> None:
    from r2d2c.train.checkpoint import load_checkpoint
    from r2d2c.train.replay import replay

    spec = tmp_path / "spec.yaml"
    grow = "    grow: {every: epochs(1), add: 4, prune: 2}\n"
    data = "train: {data: 'formula:x0*x1?samples=64&inputs=4', epochs: 4, optimizer: adam(lr=0.01)}\n"
    text = HEAD + GRAPH.replace("normalise: batch\n", "normalise: batch\n" + grow) + TASK + data
    spec.write_text(
        text.replace("linear(columns, 2)", "linear(columns, 1)")
        .replace("y: f32[B, 2]", "y: f32[B, 1]")
        .lstrip()
    )
    runs = [tmp_path / "whole", tmp_path / "parts"]
    r2d2c.train(spec, out=runs[0], plugins=[plugin])
    r2d2c.train(spec, out=runs[1], plugins=[plugin], epochs=2)
    other = tmp_path / "other.py"  # more kinds, in another order
    kinds = PLUGIN.replace("OP_KINDS = (", 'OP_KINDS = (\n    OpKind("first", 1, "a * 7"),')
    other.write_text(kinds + "OP_KINDS = OP_KINDS[::-1]\n")
    r2d2c.train(resume=runs[1], epochs=4, plugins=[other])
    one, two = (load_checkpoint(run / "checkpoints" / "last.safetensors") for run in runs)
    assert all(torch.equal(one.model[name], two.model[name]) for name in one.model)
    assert any(number >= FOREIGN for number in one.model["layer.kind"].tolist())
    assert not replay(runs[1], plugins=[plugin])["layer"].differences
    with pytest.raises(CompileError) as caught:
        r2d2c.open_run(runs[0]).model()
    assert {d.code for d in caught.value.diagnostics} == {"E341"}
    other.write_text(PLUGIN.replace("0.5 * a", "0.25 * a").replace("-0.2", "-0.3"))
    with pytest.raises(CompileError) as caught:
        _forgotten(lambda: r2d2c.evaluate(runs[0], plugins=[other]))
    assert {d.code for d in caught.value.diagnostics} == {"E341"}


def _forgotten(call: Any) -> None:
    """As in another process, which has not seen the kinds of this one."""
    from r2d2c import opkinds

    kept = dict(opkinds._FOREIGN)
    opkinds._FOREIGN.clear()
    try:
        call()
    finally:
        opkinds._FOREIGN.update(kept)
