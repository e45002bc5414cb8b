"""Credit rules of one's own: the two of `examples/credit` against their formulas, and what goes wrong in a plug-in."""

import subprocess
import sys
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import r2d2c
from r2d2c import CompileError, compile, load, loads, plugins
from r2d2c.credit.parts import of_batch
from r2d2c.credit.record import CreditRule
from r2d2c.emit import emit_python
from r2d2c.graph import Value
from r2d2c.lower.init import Rng
from r2d2c.prove import prove
from r2d2c.sampling import random_batch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/credit"
DRTP, FORWARD = EXAMPLES / "direct_random_target.py", EXAMPLES / "forward_gradient.py"
FILES = {"drtp": DRTP, "forward_gradient": FORWARD}
CHAIN = """r2d2c: 1
model: chain
dims: {D: 64, H: 32, C: 10}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
credit: backprop
tasks:
  t1:
    behavior: h = x |> linear(H, init=xavier) |> tanh
  t2:
    behavior: h = t1.h |> linear(H, init=xavier) |> tanh
  out:
    behavior: logits = t2.h |> linear(H) |> tanh |> linear(C)
    distance: cross_entropy(logits, y)
outputs:
  logits: out.logits
train:
  data: digits
  epochs: 15
  optimizer: sgd(lr=0.3)
  metrics:
    - accuracy(logits, y)
"""


def chain(rule: str, text: str = CHAIN, **options) -> r2d2c.model.Model:
    given = options.pop("plugins", [FILES[rule]] if rule in FILES else [])
    return compile(loads(text, plugins=given, credit=rule, **options))


def batch(model) -> dict[str, torch.Tensor]:
    return {name: v.double() if v.is_floating_point() else v for name, v in random_batch(model.graph).items()}


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def forward(p, x):
    """The chain by hand: h of t1, h of t2 and the logits, each task from a leaf of what is below."""
    h1 = torch.tanh(F.linear(x, p["t1.h.linear.weight"], p["t1.h.linear.bias"]))
    leaf1 = h1.detach().requires_grad_()
    h2 = torch.tanh(F.linear(leaf1, p["t2.h.linear.weight"], p["t2.h.linear.bias"]))
    leaf2 = h2.detach().requires_grad_()
    z = torch.tanh(F.linear(leaf2, p["out.logits.linear.weight"], p["out.logits.linear.bias"]))
    return (
        (h1, leaf1),
        (h2, leaf2),
        F.linear(z, p["out.logits.linear_2.weight"], p["out.logits.linear_2.bias"]),
    )


def by_hand(model, data, deltas) -> dict[str, torch.Tensor]:
    """The gradients with δ as `deltas(true gradients at h1 and h2)` gives them; those of `out` are its loss's."""
    p = {name: v.detach().clone().requires_grad_() for name, v in model.named_parameters()}
    (h1, leaf1), (h2, leaf2), logits = forward(p, data["x"])
    F.cross_entropy(logits, data["y"]).backward()
    true2 = leaf2.grad
    (true1,) = torch.autograd.grad(h2, leaf1, true2, retain_graph=True)
    for h, delta in zip((h1, h2), deltas(true1, true2), strict=True):
        h.backward(delta)
    return {name: v.grad for name, v in p.items()}


def close(mine, other) -> None:
    assert mine.keys() == other.keys()
    for name, gradient in mine.items():
        torch.testing.assert_close(
            gradient, other[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


# -- the two rules against their formulas


def test_direct_random_target_projection_is_its_formula() -> None:
    model = chain("drtp").double()
    data = batch(model)
    target = F.one_hot(data["y"], 10).double()
    B = [model.state_dict()[f"{task}.drtp.B"] for task in ("t1", "t2")]
    model.learn(**data)
    size = len(data["y"])
    close(gradients(model), by_hand(model, data, lambda *true: [-(target @ b) / size for b in B]))
    assert all(b.shape == (10, 32) and 0 < b.abs().max() <= (6 / 42) ** 0.5 for b in B)


def along(directions, *true):
    return [(g * v).sum(1, keepdim=True) * v for g, v in zip(true, directions, strict=True)]


def test_a_forward_gradient_is_its_formula() -> None:
    model = chain("forward_gradient").double()
    data, seen = batch(model), []
    for step in range(2):
        model.zero_grad()
        model.learn(**data)
        rng = Rng(model.graph.seed, step)
        size = len(data["y"]), 32
        v = [
            torch.randn(
                size, dtype=torch.float64, generator=rng.generator(f"{task}.forward_gradient.v", "cpu")
            )
            for task in ("t1", "t2")
        ]
        close(
            gradients(model),
            by_hand(model, data, partial(along, v)),
        )
        seen.append(gradients(model)["t1.h.linear.weight"])
    assert not torch.equal(*seen)


def test_a_forward_gradient_is_the_gradient_on_average() -> None:
    model = chain("forward_gradient").double()
    data, name = batch(model), "t1.h.linear.bias"
    for _ in range(800):
        model.learn(**data)
    plain = chain("backprop").double()
    plain.learn(**data)
    mean, true = gradients(model)[name] / 800, gradients(plain)[name]
    assert F.cosine_similarity(mean, true, 0) > 0.9
    close(
        {"out": gradients(model)["out.logits.linear.weight"] / 800},
        {"out": gradients(plain)["out.logits.linear.weight"]},
    )


def test_the_true_gradient_goes_through_tasks_with_other_credit() -> None:
    """A link above with feedback, and a value that two tasks and a loss read."""
    text = CHAIN.replace("credit: backprop\n", "").replace("outputs:", """\
  side:
    behavior: logits = concat(t1.h, t2.h) |> linear(C)
    distance: cross_entropy(logits, y)
losses:
  small:
    value: mean(t2.h ^ 2)
links:
  t1.h -> t2: {credit: exact}
  t1.h -> side: {credit: exact}
  t2.h -> out: {credit: exact}
outputs:""").replace("  logits: out.logits", "  logits: out.logits\n  more: side.logits")  # fmt: skip
    exact = CreditRule(
        "exact",
        "doc",
        "∂L/∂h",
        lambda edge: edge.leaf(edge.value),
        lambda edge: edge.true_gradient(edge.value),
    )
    model = compile(loads(text, plugins=[exact])).double()
    plain = compile(loads(text.replace("exact", "backprop"))).double()
    data = batch(model)
    model.learn(**data)
    plain.learn(**data)
    close(gradients(model), gradients(plain))
    assert prove(model).ok


def test_a_delta_from_the_weights_above() -> None:
    """W: the error at the output times the weights of the layer in between is backprop, and B for W is not needed."""

    def signal(edge):
        ((_, error),), weights = edge.errors(), edge.parameters(edge.link.target)
        return edge.node("matmul", error, weights[f"{edge.link.target}.logits.linear.weight"])

    text = CHAIN.replace("t2.h |> linear(H) |> tanh |> linear(C)", "linear(t2.h, C)").replace(
        "credit: backprop\n", ""
    )
    text += "links:\n  t2.h -> out: {credit: transport}\n"
    model = compile(loads(text, plugins=[CreditRule("transport", "doc", "e·W", signal=signal)])).double()
    plain = compile(loads(text.replace("transport", "backprop"))).double()
    data = batch(model)
    model.learn(**data)
    plain.learn(**data)
    close(gradients(model), gradients(plain))
    assert model.wiring()["out"]["t1.h.linear.weight"] == "rule:transport" and prove(model).ok


# -- as if built in


@pytest.mark.parametrize("rule", FILES)
def test_a_rule_of_ones_own_is_proven_emitted_and_exported(rule: str, tmp_path: Path) -> None:
    model = chain(rule)
    assert prove(model).ok
    data, scope = random_batch(model.graph), {}
    exec(emit_python(model), scope)
    other = next(c for c in scope.values() if isinstance(c, type) and issubclass(c, torch.nn.Module))()
    other.load_state_dict(model.state_dict())
    losses, _ = other.learn(*data.values())
    step = model.learn(**data)
    torch.testing.assert_close(losses["out"], step.losses["out"])
    for (name, mine), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
    r2d2c.export(model, tmp_path / "m.onnx")


def test_what_wiring_says() -> None:
    wiring = chain("drtp").wiring()
    hidden = {name: f"{name[:2]}.drtp.delta" for name in ("t1.h.linear.weight", "t2.h.linear.bias")}
    for name, row in hidden.items():
        assert wiring[row][name] == "rule:drtp" and wiring["out"][name] is None
    assert wiring["out"]["out.logits.linear.weight"] == "gradient"
    assert not any("B" in name for name in wiring["out"])
    wiring = chain("forward_gradient").wiring()
    assert list(wiring) == ["out"]
    assert wiring["out"]["t1.h.linear.weight"] == "rule:forward_gradient"


def test_a_task_learns_before_those_above_it_have_run() -> None:
    model = chain("drtp")
    visits = [(visit.name, visit.finished) for visit in model.visits(**random_batch(model.graph))]
    assert [name for name, _ in visits] == ["t1.drtp.delta", "t2.drtp.delta", "out"]
    assert "t1.h.linear.weight" in visits[0][1]


@pytest.mark.parametrize("rule", FILES)
def test_it_trains(rule: str, tmp_path: Path) -> None:
    run = r2d2c.train(loads(CHAIN, plugins=[FILES[rule]], credit=rule), epochs=30, out=tmp_path / "run")
    assert run.test is not None and run.test["metrics"]["accuracy(logits, y)"] > 0.8


def test_from_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    points = [
        EntryPoint("mine", module, plugins.GROUP) for module in ("direct_random_target", "forward_gradient")
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == plugins.GROUP else [])
    text = CHAIN + "links:\n  t1.h -> t2: {credit: drtp}\n  t2.h -> out: {credit: forward_gradient}\n"
    wiring = compile(loads(text)).wiring()
    assert wiring["t1.drtp.delta"]["t1.h.linear.weight"] == "rule:drtp"
    assert wiring["out"]["t2.h.linear.weight"] == "rule:forward_gradient"


def cli(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "r2d2c", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("rule", FILES)
def test_the_commands(rule: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(CHAIN)
    (tmp_path / "mine.py").write_text(FILES[rule].read_text("utf-8"))
    given, short = ("--plugin", "mine.py"), ("--epochs", "1", "--limit-batches", "2", "-q")
    assert "ok. 3 tasks" in cli(tmp_path, "check", "spec.yaml", *given, "--credit", rule)
    assert "proved" in cli(tmp_path, "wiring", "spec.yaml", "--prove", *given, "--credit", rule)
    cli(tmp_path, "train", "spec.yaml", *given, "--credit", rule, *short, "-o", "run")
    cli(tmp_path, "export", "run", *given, "-o", "m.onnx")
    cli(
        tmp_path,
        "compare",
        "spec.yaml",
        *given,
        "--credit",
        f"backprop,{rule}",
        "--seeds",
        "1",
        *short,
        "-o",
        "both",
    )
    assert rule in (tmp_path / "both/table.md").read_text("utf-8")


def test_it_is_drawn() -> None:
    from r2d2c.credit.registry import rules
    from r2d2c.draw import picture

    spec = loads(CHAIN, plugins=[DRTP], credit="drtp")
    links = {arrow.label for arrow in picture(spec.graph, rules(spec.rules)).arrows}
    assert "drtp" in links


# -- what goes wrong in a plug-in


FOREIGN = Value("another.h")
SETUP = "from r2d2c.credit.record import CreditRule\nfrom r2d2c.graph import Value\n\n\n"
BROKEN = {
    "it raises": (
        "def signal(edge):\n    return edge.storage('B', (10, size), 'xavier', 'frozen')\n",
        ["error[E251]: `signal` of the credit rule `bad` raises NameError: name 'size' is not defined", "mine.py:6:5"],
    ),
    "it raises in a helper": (
        "def help(edge):\n    raise RuntimeError\n\n\ndef signal(edge):\n    return help(edge)\n",
        ["error[E251]: `signal` of the credit rule `bad` raises RuntimeError\n", "mine.py:6:5"],
    ),
    "no such op": (
        "def signal(edge):\n    return edge.node('tnah', edge.value)\n",
        ["raises ValueError: there is no op `tnah`", "mine.py:6:5"],
    ),
    "no such argument": (
        "def signal(edge):\n    return edge.node('sum', edge.value, axis=1)\n",
        ["raises ValueError: `sum` has no argument `axis`; its arguments are axes, keep", "mine.py:6:5"],
    ),
    "shapes that do not fit": (
        "def signal(edge):\n    return edge.node('matmul', edge.value, edge.value)\n",
        ["error[E251]: `signal` of the credit rule `bad` raises ShapeError: ", "mine.py:6:5"],
    ),
    "a foreign input": (
        "def signal(edge):\n    return edge.node('neg', Value('another.h'))\n",
        ["an input of `neg` is Value(node='another.h', port=0), which is no value of this graph", "mine.py:6:5"],
    ),
    "nothing": (
        "def signal(edge):\n    edge.node('neg', edge.value)\n",
        ["error[E252]: `signal` of the credit rule `bad` gives nothing; it has to return a value", "mine.py:5:1"],
    ),
    "a number": (
        "def signal(edge):\n    return 0.5\n",
        ["gives the float 0.5, not a value of the graph", "mine.py:5:1"],
    ),
    "another shape": (
        "def signal(edge):\n    return edge.node('mean', edge.value, axes=1)\n",
        ["gives f32[B], and the value of the link is f32[B, H=32]", "mine.py:5:1"],
    ),
    "a foreign value": (
        "def signal(edge):\n    return Value('another.h')\n",
        ["gives `another.h`, which is no value of this graph", "mine.py:5:1"],
    ),
    "another shape to read": (
        "def signal(edge):\n    return edge.value\n\n\ndef attach(edge):\n    return edge.node('sum', edge.value, axes=1)\n",
        ["error[E252]: `attach` of the credit rule `bad` gives f32[B]", "mine.py:9:1"],
    ),
    "in check": (
        "def signal(edge):\n    return edge.value\n\n\ndef check(link):\n    link.wrong\n",
        ["error[E251]: `check` of the credit rule `bad` raises AttributeError", "mine.py:10:5"],
    ),
    "in finish": (
        "def signal(edge):\n    return edge.value\n\n\ndef finish(net):\n    net.edges[7]\n",
        ["error[E251]: `finish` of the credit rule `bad` raises IndexError", "mine.py:10:5"],
    ),
    "in layers": (
        "def signal(edge):\n    return edge.value\n\n\ndef layers(net):\n    net.at(3)\n",
        ["error[E251]: `layers` of the credit rule `bad` raises AttributeError", "mine.py:10:5"],
    ),
    "it refuses": (
        "def signal(edge):\n    return edge.value\n\n\ndef check(link):\n    link.refuse('no way', 'another one')\n",
        ["error[E253]: the credit `bad` cannot stand here: no way\n --> ", "= help: another one"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_broken_rule_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = BROKEN[name]
    moments = [m for m in ("attach", "check", "finish", "layers") if f"def {m}(" in code]
    given = "".join(f", {m}={m}" for m in moments)
    Path("mine.py").write_text(
        f"{SETUP}{code}\n\nCREDIT_RULES = (CreditRule('bad', '', '', signal=signal{given}),)\n"
    )
    with pytest.raises(CompileError) as error:
        loads(CHAIN, name="spec.yaml", plugins=["mine.py"], credit="bad")
    text = str(error.value)
    for part in said:
        assert part in text, text
    assert name == "it refuses" or ("--credit:1:1" in text and "`t1 -> t2`" in text)


def test_no_traceback_reaches_the_user(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(CHAIN)
    (tmp_path / "mine.py").write_text(
        SETUP + "CREDIT_RULES = (CreditRule('bad', '', '', signal=lambda edge: edge.no),)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "r2d2c", "check", "spec.yaml", "--plugin", "mine.py", "--credit", "bad"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "E251" in done.stderr and "mine.py:5" in done.stderr
    assert "Traceback" not in done.stderr


def test_labels_are_needed() -> None:
    text = CHAIN.replace("y: i64[B]", "y: f32[B, C]").replace(
        "    - accuracy(logits, y)", "    - mse(logits, y)"
    )
    with pytest.raises(CompileError, match=r"E253.*`drtp` cannot stand here: no target is a class label"):
        loads(text.replace("cross_entropy", "mse"), plugins=[DRTP], credit="drtp")


def test_a_bug_of_ours_stays_one() -> None:
    """Only a plug-in's own functions are excused: a rule of ours that raises is to be reported."""
    from r2d2c.credit import guard

    function = of_batch  # ours, and fails without a builder
    with pytest.raises(AttributeError):
        guard.ask(CreditRule("ours", "", "", signal=function), [], "signal", None, None)  # type: ignore[arg-type]


def test_the_examples_load_from_a_file() -> None:
    spec = load(ROOT / "specs/credit/backprop.yaml", plugins=[DRTP, FORWARD], credit="drtp")
    assert {rule.name for rule in spec.rules} == set(FILES)
