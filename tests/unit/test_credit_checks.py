"""Every built-in credit rule on the ready specs and on odd ones: it learns, or says why it cannot; it never crashes."""

from pathlib import Path

import pytest
import torch

import r2d2c
from r2d2c import CompileError
from r2d2c.credit.registry import rules
from r2d2c.diagnostics import Diagnostic
from r2d2c.draw import picture, picture_of_nodes
from r2d2c.draw_text import to_dot, to_mermaid
from r2d2c.passes.training import training_graph
from r2d2c.plan import plan
from r2d2c.printer import print_graph
from r2d2c.sampling import random_batch
from r2d2c.train.weights import load_weights
from r2d2c.wiring import wiring

SPECS = Path(__file__).parents[2] / "specs"
READY = sorted([*SPECS.glob("tasks/*.yaml"), *SPECS.glob("baselines/*.yaml")])
RULES = (
    "backprop", "local", "feedback", "feedback(variant=sign, own=true)", "direct", "synthetic",
    "synthetic(bootstrap=false, every=2)", "target", "target(difference=false)", "alternate(steps=2)",
    "predictive(steps=3)", "predictive(fixed=true)", "equilibrium(steps=3)", "hebbian", "hebbian(variant=bcm)",
)  # fmt: skip
HEAD = """
r2d2c: 1
dims: {D: 4, H: 6, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  a:
    behavior: h = tanh(linear(x, H))
"""
TOP = """
  c:
    behavior: logits = linear(b.h, C)
    distance: cross_entropy(logits, y)
outputs:
  logits: c.logits
"""
ODD = {
    "a diamond": HEAD
    + "  b:\n    behavior: h = tanh(linear(a.h, H))\n  b2:\n    behavior: h = tanh(linear(a.h, H))"
    + TOP.replace("linear(b.h, C)", "linear(concat(b.h, b2.h), C)"),
    "a skip": HEAD + "  b:\n    behavior: h = tanh(linear(a.h, H))" + TOP.replace("(b.h,", "(b.h + a.h,"),
    "a value read twice": HEAD + "  b:\n    behavior: h = tanh(linear(a.h, H)) * a.h" + TOP,
    "no parameters": HEAD.replace("tanh(linear(x, H))", "x") + "  b:\n    behavior: h = a.h" + TOP,
    "frozen above": HEAD + "  b:\n    behavior: h = linear(a.h, H, frozen=true)" + TOP,
    "a dead end": HEAD + "  b:\n    behavior: h = linear(a.h, H)\n  s:\n    behavior: o = linear(a.h, H)" + TOP + "  s: s.o",
    "stopped above": HEAD + "  b:\n    behavior: h = linear(stop(a.h), H)" + TOP,
    "an output below": HEAD.replace("tanh(linear(x, H))\n", "linear(x, C)\n    distance: cross_entropy(h, y)\n")
    + "  b:\n    behavior: h = tanh(linear(a.h, H))" + TOP + "  early: a.h",
    "two values": HEAD.replace("h = tanh(linear(x, H))", "|\n      h = linear(x, H)\n      k = linear(h, H)")
    + "  b:\n    behavior: h = linear(a.h, H) + linear(a.k, H)" + TOP,
    "one number a sample": HEAD.replace("tanh(linear(x, H))", "linear(x, 1)[:, 0]")
    + "  b:\n    behavior: h = x * reshape(a.h, (-1, 1))" + TOP,
    "one number": HEAD.replace("tanh(linear(x, H))", "mean(linear(x, H))") + "  b:\n    behavior: h = x * a.h" + TOP,
    "integers": HEAD.replace("tanh(linear(x, H))", "argmax(linear(x, H), axis=-1)")
    + "  b:\n    behavior: h = one_hot(a.h, 6)" + TOP,
    "a sequence": (HEAD + "  b:\n    behavior: h = tanh(linear(a.h, H))" + TOP).replace("[B, D]", "[B, T, D]").replace("i64[B]", "i64[B, T]"),
    "a sequence that ends": HEAD.replace("[B, D]", "[B, T, D]") + "  b:\n    behavior: h = mean(linear(a.h, H), axes=1)" + TOP,
    "time first": HEAD.replace("[B, D]", "[T, B, D]") + "  b:\n    behavior: h = mean(linear(a.h, H), axes=0)" + TOP,
    "images": HEAD.replace("[B, D]", "[B, 2, 6, 6]").replace("tanh(linear(x, H))", "conv2d(x, 3, 3) |> batch_norm")
    + "  b:\n    behavior: h = a.h |> conv2d(4, 3) |> batch_norm |> dropout(0.1) |> flatten" + TOP,
    "representatives": HEAD
    + "    representative: r = one_hot(y, C) |> linear(H) |> noise(0.1)\n    distance: mse(h, r)\n    keep: own\n"
    + "  b:\n    behavior: h = tanh(linear(a.h, H))" + TOP,
    "losses of their own": HEAD + "  b:\n    behavior: h = tanh(linear(a.h, H))" + TOP
    + "losses:\n  small:\n    value: mean(a.h ^ 2) + mean(b.h ^ 2)\n    weight: 0.1",
}  # fmt: skip


def told(found: tuple[Diagnostic, ...]) -> set[str]:
    return {diagnostic.code for diagnostic in found}


def exercise(checked: r2d2c.Checked) -> None:
    """Everything that reads a training graph, and two learning passes."""
    model = r2d2c.compile(checked)
    batch, matrix = random_batch(model.graph, seed=1), model.wiring()
    trace = model.trace(**batch)
    model.learn(**batch)
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    marked = {name for row in matrix.values() for name, entry in row.items() if entry}
    assert moved <= marked
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(torch.isfinite(delta).all() for delta in trace.deltas.values())
    model.learn(**batch)
    known = rules()
    training = training_graph(checked.graph, checked.ops, known)
    assert print_graph(training, checked.ops)
    assert plan(checked, known).owners
    every = {**checked.graph.storage, **training.storage}
    trained = {name: row for name, row in every.items() if row.kind == "param"}
    found = wiring(training, checked.ops, {**checked.graph.losses, **training.losses}, trained)
    assert found == matrix
    for drawn in (
        picture(checked.graph, known, found, training),
        picture_of_nodes(training, checked.graph.storage),
    ):
        assert to_dot(drawn) and to_mermaid(drawn)
    if not told(checked.diagnostics) & {"W440", "W442", "W497"}:
        assert marked >= set(trained) - _of_representatives(checked)


def _of_representatives(checked: r2d2c.Checked) -> set[str]:
    """The parameters of representatives: under most rules nothing reads them, which a note says."""
    names = {task.representative for task in checked.graph.tasks.values() if task.representative}
    places = tuple(f"{name.removesuffix('.representative')}.r" for name in names)
    return {name for name in checked.graph.storage if name.startswith(places)} if places else set()


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
@pytest.mark.parametrize("credit", RULES)
def test_ready_specs(path: Path, credit: str) -> None:
    if path.stem == "two_modalities" and credit.startswith("target"):
        with pytest.raises(CompileError) as error:
            r2d2c.load(path, credit=credit)
        # A task that gives several values has none to lead back from.
        assert {d.code for d in error.value.diagnostics if d.severity == "error"} == {"E491"}
        return
    checked = r2d2c.load(path, credit=credit)
    warnings = {code for code in told(checked.diagnostics) if code[0] == "W"}
    allowed = {"W440"} if credit == "local" else {"W497"} if credit.startswith("hebbian") else set()
    if path.stem == "conv":
        allowed |= {"W499"}  # its dropout
    assert warnings <= allowed
    exercise(checked)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("credit", RULES)
def test_odd_specs(name: str, credit: str) -> None:
    try:
        checked = r2d2c.loads(ODD[name], credit=credit)
    except CompileError as error:
        errors = {d.code for d in error.diagnostics if d.severity == "error"}
        assert errors <= {"E490", "E491", "E492", "E493", "E495", "E496", "E498"}
        return
    assert not [d for d in checked.diagnostics if d.severity == "error"]
    exercise(checked)


def test_what_a_rule_needs_to_know_is_asked_of_it_alone() -> None:
    """A sequence has no linear inverse and no linear predictor; the other rules take it as it is."""
    refused = set()
    for credit in RULES:
        try:
            r2d2c.loads(ODD["a sequence"], credit=credit)
        except CompileError:
            refused.add(credit.partition("(")[0])
    assert refused == {"target", "synthetic"}


def test_a_frozen_layer_is_neither_plastic_nor_given_a_matrix() -> None:
    spec = (
        HEAD
        + "  b:\n    behavior: h = a.h |> linear(H, frozen=true, bias=false) |> linear(H, bias=false)"
        + TOP
    )
    for credit in ("hebbian", "feedback"):
        model = r2d2c.compile(r2d2c.loads(spec, credit=credit))
        model.learn(**random_batch(model.graph))
        assert model.get_buffer("b.h.linear.weight").grad is None
    assert "b.h.linear.feedback" not in model.state_dict() and "b.h.linear_2.feedback" in model.state_dict()


# -- fixed matrices and checkpoints


@pytest.mark.parametrize(
    ("credit", "name"), [("feedback", "c.logits.linear.feedback"), ("direct", "a.direct.B")]
)
def test_weights_without_the_fixed_matrices(credit: str, name: str) -> None:
    spec = HEAD + "  b:\n    behavior: h = tanh(linear(a.h, H))" + TOP
    model = r2d2c.compile(r2d2c.loads(spec, credit=credit, seed=7))
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    load_weights(model, tensors)
    shape = list(tensors[name].shape)
    for changed, what in (
        ({k: t for k, t in tensors.items() if k != name}, f"`{name}` is in the spec alone"),
        (
            {**tensors, name: torch.zeros(2, 2)},
            f"`{name}` is [2, 2] in the checkpoint and {shape} in the spec",
        ),
    ):
        with pytest.raises(CompileError) as caught:
            load_weights(model, changed, Path("weights.safetensors"))
        (found,) = caught.value.diagnostics
        assert found.code == "E526"
        assert found.message == (
            f"the checkpoint weights.safetensors has not the fixed matrices B that the credit `{credit}` needs"
        )
        assert found.notes == (
            what,
            "B is drawn from the run's seed (here 7) and never trained; it belongs to the run, whose\n"
            "weights have learned with it",
        )


def test_weights_of_another_model_are_just_that() -> None:
    spec = HEAD + "  b:\n    behavior: h = tanh(linear(a.h, H))" + TOP
    model = r2d2c.compile(r2d2c.loads(spec, credit="feedback"))
    with pytest.raises(CompileError) as caught:
        load_weights(model, {"other": torch.zeros(1)})
    assert caught.value.diagnostics[0].code == "E521"
    plain = r2d2c.compile(r2d2c.loads(spec))
    with pytest.raises(CompileError) as caught:
        load_weights(plain, model.state_dict())
    assert caught.value.diagnostics[0].code == "E521"
