"""Options of credit rules: what a spec says, what a rule then gets, and the regions of behaviors."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from r2d2c import Checked, CompileError, compile, loads
from r2d2c.credit.options import REQUIRED, Option, call, default_text, options, options_of
from r2d2c.credit.record import CreditRule
from r2d2c.graph import Credit, Node
from r2d2c.passes.inline import inference_graph
from r2d2c.printer import print_graph
from r2d2c.sampling import random_batch
from r2d2c.syntax.override import with_credit
from r2d2c.train.resolved import resolved_text

RULE = CreditRule(
    "aimed",
    "Nothing comes back.",
    "0",
    lambda edge: edge.stop(edge.value),
    arguments=(
        Option("guess", "behavior", None, takes=("source", "y:labels")),
        Option("back", "behavior", None, takes=("target",)),
        Option("step", "float", 0.5, minimum=0),
        Option("every", "int", 1, minimum=1),
        Option("own", "bool", False),
        Option("variant", "choice", "random", choices=("random", "sign", "mean")),
        Option("labels", "target", None),
        Option("negatives", "input", "hard", choices=("hard",)),
        Option("note", "text", None),
    ),
    keeps_distance=True,
)
COUNTED = CreditRule(
    "counted", "Nothing.", "0", lambda edge: edge.stop(edge.value), arguments=("k",), keeps_distance=True
)
SPEC = """r2d2c: 1
model: chain
dims: {H: 8, C: 3}
inputs:
  x: f32[B, 4]
targets:
  y: i64[B]
BLOCKScredit: DEFAULT
tasks:
  one:
    behavior: h = linear(x, H)
    distance: mean(h ^ 2)
  two:
    behavior: |
      h = linear(one.h, H)
      g = tanh(one.h)
    distance: mean(h ^ 2)
  three:
    behavior: logits = linear(two.h, C) + linear(two.g, C) + linear(one.h, C)
    distance: cross_entropy(logits, y)
LINKSoutputs:
  logits: three.logits
"""


def load(
    default: str = "local", links: dict[str, str] | None = None, blocks: str = "", **more: Any
) -> Checked:
    lines = "".join(f"  {key}:\n    {entry}\n" for key, entry in (links or {}).items())
    text = SPEC.replace("DEFAULT", default).replace("BLOCKS", blocks)
    text = text.replace("LINKS", f"links:\n{lines}" if lines else "")
    return loads(text, plugins=[RULE, COUNTED], **more)


def given(checked: Checked, source: str = "one", target: str = "two") -> Credit:
    return next(k.credit for k in checked.graph.links if (k.source_task, k.target) == (source, target))


def codes(default: str, **more: Any) -> list[str]:
    with pytest.raises(CompileError) as caught:
        load(default, **more)
    return [d.code for d in caught.value.diagnostics if d.severity == "error"]


# -- values


@pytest.mark.parametrize(
    ("written", "args"),
    [
        ("aimed", ()),
        ("aimed()", ()),
        ("aimed(step=0.1)", (("step", 0.1),)),
        ("aimed(step=1)", (("step", 1.0),)),
        ("aimed(step=1 / C)", (("step", 1 / 3),)),
        ("aimed(every=2 * H, own=true)", (("every", 16), ("own", True))),
        ("aimed(variant=sign)", (("variant", "sign"),)),
        ("aimed(variant=mean)", (("variant", "mean"),)),  # `mean` is an op as well
        ("aimed(labels=y, negatives=x)", (("labels", "y"), ("negatives", "x"))),
        ("aimed(labels=none)", (("labels", None),)),
        ("aimed(negatives=hard)", (("negatives", "hard"),)),
        ('aimed(note="so, so")', (("note", "so, so"),)),
        ("counted(3)", (("k", 3.0),)),
        ("counted(k=3)", (("k", 3.0),)),
    ],
)
def test_what_is_given(written: str, args: tuple[tuple[str, object], ...]) -> None:
    credit = given(load(written))
    assert credit.args == args
    assert [type(value) for _, value in credit.args] == [type(value) for _, value in args]
    assert credit.origin is not None and credit.origin.text == written


def test_the_defaults_are_filled_in() -> None:
    credit = given(load("aimed(step=0.1, labels=y)"))
    assert options_of(RULE, credit) == {
        "guess": None, "back": None, "step": 0.1, "every": 1, "own": False, "variant": "random", "labels": "y",
        "negatives": "hard", "note": None,
    }  # fmt: skip
    assert credit.option("step") == 0.1 and credit.option("every") is None and credit.option("every", 4) == 4


def test_a_credit_prints_as_it_is_written() -> None:
    written = "aimed(step=0.1, own=true, variant=sign, labels=none)"
    assert str(given(load(written))) == written
    assert str(Credit("local")) == "local"


def test_a_rule_prints_its_defaults() -> None:
    assert call(COUNTED) == "counted(k)"
    assert call(RULE).startswith(
        "aimed(guess=…, back=…, step=0.5, every=1, own=false, variant=random, labels=…"
    )
    (k,) = options(COUNTED)
    assert k == Option("k", "float", REQUIRED) and k.required and default_text(k) == ""


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("aimed(stpe=1)", "E431"),
        ("counted(3, 4)", "E431"),
        ("aimed(own=true, linear)", "E431"),
        ("aimed(step=true)", "E435"),
        ("aimed(every=1.0)", "E435"),
        ("aimed(own=1)", "E435"),
        ("aimed(variant=1)", "E435"),
        ('aimed(variant="sign")', "E435"),
        ("aimed(note=so)", "E435"),
        ("aimed(step=none)", "E435"),
        ("aimed(step=(1, 2))", "E435"),
        ("aimed(guess=true)", "E435"),
        ("aimed(step=-1)", "E436"),
        ("aimed(every=0)", "E436"),
        ("aimed(step=1, step=2)", "E437"),
        ("aimed(relu, guess=relu)", "E437"),
        ("counted", "E438"),
        ("aimed(labels=x)", "E439"),
        ("aimed(negatives=z)", "E439"),
        ("aimed(step=1 / 0)", "E205"),
        ("aimed(guess=nothing)", "E207"),
        ("aimed(guess=linear)", "E225"),
        ("aimed(guess=linear(H, wight=2))", "E224"),
        ("aimed(guess=linear(one.h))", "E226"),
        ("aimed(guess=add(one.h))", "E201"),
        ("relu(1)(2)", "E412"),
        ("1 |> aimed", "E412"),
        ("aimed + 1", "E412"),
        ("nothing(step=-1)", "E430"),
    ],
)
def test_a_mistake(written: str, code: str) -> None:
    assert set(codes(written)) == {code}


def test_the_usage_is_shown() -> None:
    with pytest.raises(CompileError) as caught:
        load("aimed(stpe=1)")
    (found,) = caught.value.diagnostics
    assert found.labels[0].text == f"usage: {call(RULE)}"
    assert found.fix is not None and found.fix.replacement == "step"
    assert found.span is not None and found.span.text == "stpe"


# -- behaviors


def regions(checked: Checked) -> list[str]:
    return [name for name, region in checked.graph.regions.items() if region.kind == "credit"]


def calls(checked: Checked) -> dict[str, Node]:
    body = checked.graph.body
    return {
        n.attrs["region"]: n for n in body.nodes if n.op == "call" and n.attrs["region"] in regions(checked)
    }


def test_a_behavior_is_a_region_of_its_own() -> None:
    checked = load(links={"one.h -> two": "credit: aimed(guess=linear(H))"})
    assert given(checked).args == (("guess", "one.aimed.guess"),)
    assert regions(checked) == ["one.aimed.guess"]
    region = checked.graph.regions["one.aimed.guess"]
    assert [port.name for port in region.inputs] == ["source"]
    assert [port.name for port in region.outputs] == ["out"]
    made = [name for name, row in checked.graph.storage.items() if row.owner == "one.aimed.guess"]
    assert made == ["one.aimed.guess.linear.weight", "one.aimed.guess.linear.bias"]
    (link,) = (k for k in checked.graph.links if k.target == "two")
    (node,) = calls(checked).values()
    assert node.inputs == (link.source,)
    assert str(checked.graph.types[node.value()]) == "f32[B, H=8]"


GUESS = "blocks:\n  guess(h, y, n): return concat(h, one_hot(y, C), axis=-1) |> linear(n)\n"


@pytest.mark.parametrize("written", ["guess(H)", "guess(n=H)", "guess(H) |> tanh |> linear(H)", "(guess(H))"])
def test_a_block_takes_what_it_is_applied_to_first(written: str) -> None:
    checked = load(links={"one.h -> two": f'credit: "aimed(labels=y, guess={written})"'}, blocks=GUESS)
    region = checked.graph.regions["one.aimed.guess"]
    assert [port.name for port in region.inputs] == ["source", "labels"]
    (node,) = calls(checked).values()
    assert [str(checked.graph.types[value]) for value in node.inputs if value] == ["f32[B, H=8]", "i64[B]"]
    assert "one.aimed.guess.guess.out.linear.weight" in checked.graph.storage


def test_a_target_that_is_not_given_is_left_out() -> None:
    checked = load(links={"one.h -> two": "credit: aimed(guess=relu)"})
    assert [p.name for p in checked.graph.regions["one.aimed.guess"].inputs] == ["source"]


def test_a_behavior_of_the_upper_task_s_value() -> None:
    checked = load(links={"two.h -> three": "credit: aimed(back=linear(H))"})
    (node,) = calls(checked).values()
    (value,) = node.inputs
    assert value is not None and value.node == "three" and value.port == 0
    assert checked.graph.regions["three"].outputs[0].name == "logits"


def test_a_default_makes_one_for_every_link() -> None:
    checked = load("aimed(guess=linear(H))")
    # `one` goes to two tasks, two values of `two` go to one.
    assert regions(checked) == [
        "one.aimed.guess.two",
        "two.aimed.guess.three",
        "two.aimed.guess.three_2",
        "one.aimed.guess.three",
    ]
    assert len({link.credit.option("guess") for link in checked.graph.links}) == 4
    owned = {row.owner for row in checked.graph.storage.values()}
    assert set(regions(checked)) < owned


def test_a_default_that_no_link_takes_makes_none() -> None:
    links = {
        "one.h -> two": "credit: local",
        "one.h -> three": "credit: local",
        "two -> three": "credit: local",
    }
    assert regions(load("aimed(guess=linear(H))", links)) == []


def test_nothing_reads_a_behavior_s_call() -> None:
    checked = load(links={"one.h -> two": "credit: aimed(guess=linear(H, name=g), back=linear(H))"})
    assert [d for d in checked.diagnostics if d.code.startswith("W")] == []
    inference = inference_graph(checked.graph)
    assert not [name for name in inference.storage if ".aimed." in name]
    printed = print_graph(checked.graph, checked.ops)
    assert "region one.aimed.guess (credit)" in printed
    assert "credit aimed(guess=one.aimed.guess, back=one.aimed.back)" in printed
    model = compile(checked)
    step = model.learn(**random_batch(checked.graph))
    assert all(loss.isfinite() for loss in step.losses.values())
    grads = {name: p.grad for name, p in model.named_parameters() if ".aimed." in name}
    assert set(grads) <= {
        f"one.aimed.{n}" for n in ("guess.g.weight", "guess.g.bias", "back.linear.weight", "back.linear.bias")
    }
    assert all(grad is None or not grad.any() for grad in grads.values())


def test_ports_that_only_a_rule_reads_are_read() -> None:
    text = SPEC.replace("  y: i64[B]\n", "  y: i64[B]\n  other: f32[B, 4]\n").replace("BLOCKS", "")
    for credit, unread in (("aimed(negatives=other)", []), ("aimed", ["W451"])):
        checked = loads(text.replace("DEFAULT", credit).replace("LINKS", ""), plugins=[RULE])
        assert [d.code for d in checked.diagnostics if d.code[0] == "W"] == unread


# -- one credit for all


def test_one_credit_for_every_link() -> None:
    links = {"one.h -> two": "credit: backprop", "two.h -> three": "credit: counted(3)"}
    checked = load("backprop", links, credit="aimed(step=0.1)")
    assert {str(link.credit) for link in checked.graph.links} == {"aimed(step=0.1)"}
    assert checked.settings == ("--credit aimed(step=0.1)",)
    assert checked.graph.links[0].origin is not None
    assert {str(link.credit) for link in load(credit="backprop", settings=["dims.H=4"]).graph.links} == {
        "backprop"
    }


def test_a_block_that_only_an_overridden_credit_names_is_used() -> None:
    links = {"one.h -> two": "credit: aimed(labels=y, guess=guess(H))"}
    checked = load("local", links, GUESS, credit="local")
    assert [d.code for d in checked.diagnostics if d.code[0] == "W"] == []
    assert regions(checked) == []


def fed(**more: Any) -> Checked:
    text = """r2d2c: 1
model: fed
inputs:
  x: f32[B, 4]
targets:
  y: f32[B, 3]
tasks:
  one:
    behavior: h = linear(x, 8)
    representative: r = y |> linear(8)
    distance: mse(h, r)
    teach: one + two
  two:
    behavior: p = linear(one.h, 3)
    distance: mse(p, y)
links:
  one.h -> two: {credit: local, feed: one.r}
outputs:
  p: two.p
"""
    return loads(text, plugins=[RULE], **more)


@pytest.mark.parametrize(
    ("credit", "feeds"), [("local", True), ("backprop", False), ("aimed(step=2)", False)]
)
def test_feed_goes_where_the_rule_does_not_take_it(credit: str, feeds: bool) -> None:
    if credit.startswith("aimed"):
        # The distance stays, and `teach` names a loss that no longer reaches the representative.
        with pytest.raises(CompileError, match="E460"):
            fed(credit=credit)
        return
    (link,) = fed(credit=credit).graph.links
    assert (link.feed is not None) == feeds


@pytest.mark.parametrize("credit", ["local", "backprop"])
def test_the_resolved_spec_has_the_credit(credit: str) -> None:
    checked = fed(credit=credit)
    text = resolved_text(checked)
    assert f"# with --credit {credit}\n" in text and f"\ncredit: {credit}\n" in text
    assert ("feed: one.r" in text) == (credit == "local") == ("links:" in text)
    again = loads(text, name="spec.yaml")
    assert [(str(k.credit), k.feed) for k in again.graph.links] == [
        (str(k.credit), k.feed) for k in checked.graph.links
    ]


@pytest.mark.parametrize(
    "credit", ['aimed(note="a # b")', 'aimed(note="a: b")', "aimed(guess=linear(H),\n  step=0.1)"]
)
def test_a_credit_that_yaml_would_misread_is_kept(credit: str) -> None:
    checked = load(credit=credit)
    again = loads(resolved_text(checked), plugins=[RULE])
    assert [k.credit.args for k in again.graph.links] == [k.credit.args for k in checked.graph.links]


@pytest.mark.parametrize(
    ("credit", "code"),
    [
        ("", "E101"),
        ("lokal", "E430"),
        ("aimed(", "E1"),
        ("aimed(stpe=1)", "E431"),
        ("0.5", "E412"),
        ("a b", "E1"),
    ],
)
def test_a_mistake_in_the_credit_for_all(credit: str, code: str) -> None:
    with pytest.raises(CompileError) as caught:
        load(credit=credit)
    errors = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert {d.code[: len(code)] for d in errors} == {code}
    assert {d.span.source.name for d in errors if d.span is not None} == {"--credit"}


@pytest.mark.parametrize(
    ("settings", "credit", "both"),
    [
        (None, None, ()),
        (["dims.H=2"], None, ("dims.H=2",)),
        (("dims.H=2",), "local", ("dims.H=2", "--credit local")),
    ],
)
def test_it_is_kept_among_the_settings(
    settings: Sequence[str] | None, credit: str | None, both: tuple[str, ...]
) -> None:
    assert with_credit(settings, credit) == both


def test_a_checked_spec_comes_back_with_its_credit() -> None:
    checked = loads(fed().spec.source.text, credit="backprop")
    again = pickle.loads(pickle.dumps(checked))
    assert [str(k.credit) for k in again.graph.links] == ["backprop"]


def test_a_run_keeps_its_credit(tmp_path: Path) -> None:
    import r2d2c

    batches = [{"x": torch.randn(6, 4), "y": torch.randn(6, 3)} for _ in range(2)]
    spec = tmp_path / "fed.yaml"
    spec.write_text(f"{fed().spec.source.text}train:\n  epochs: 3\n", "utf-8")
    run = r2d2c.train(spec, data=batches, out=tmp_path / "run", epochs=1, credit="backprop")
    assert json.loads((tmp_path / "run" / "lock.json").read_text())
    again = r2d2c.open_run(tmp_path / "run")
    assert [(str(k.credit), k.feed) for k in again.spec.graph.links] == [("backprop", None)]
    assert again.model.state_dict().keys() == run.model.state_dict().keys()
    with pytest.raises(CompileError, match="E548"):
        r2d2c.train(resume=tmp_path / "run", credit="local")
    resumed = r2d2c.train(resume=tmp_path / "run", data=batches, epochs=2)
    assert [str(k.credit) for k in resumed.spec.graph.links] == ["backprop"]
