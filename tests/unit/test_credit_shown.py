"""What credit rules add, as it is shown: wiring, plan, pictures and the training graph as text."""

from pathlib import Path

import pytest

import r2d2c
from r2d2c.cli.commands import plan as plan_command
from r2d2c.cli.commands import wiring as wiring_command
from r2d2c.credit.registry import rules
from r2d2c.draw import Picture, picture, picture_of_nodes
from r2d2c.driver import Checked
from r2d2c.passes.training import training_graph
from r2d2c.plan import plan
from r2d2c.printer import print_graph
from r2d2c.wiring import explained, wiring

SPECS = Path(__file__).parents[2] / "specs" / "tasks"
WIRING = """\
two_tasks: which loss trains which parameters

parameters                      size  1      2      3      4
encode.h.*                    16,576  ·      ·      ·  synthetic
classify.logits.linear.*         650  ·      g      ·      ·
encode.r.linear.*                704  ·      ·      ·      ·
encode.synthetic.predictor.*   4,160  ·  synthetic  g      ·

  1  encode
  2  classify
  3  encode.synthetic        a loss that the credit `synthetic` adds
  4  encode.synthetic.delta  δ of the credit `synthetic`, which no loss is behind

g: the gradient of this loss trains these parameters
synthetic: the credit rule of this name trains them, with what it makes of this loss or δ
·: this loss does not reach them

The distance of `encode` is not used: encode -> classify has credit `synthetic`. `keep: own` in the task would keep it.
"""
PLAN = """\
two_tasks: 3 visits in a learning pass

   visit                   losses                  ops  FLOPs a sample  activations, batch 32  finishes
1  encode.synthetic.delta  encode.synthetic.delta    5          41,152               56.0 KiB         4
2  classify                classify                  2           1,320                1.3 KiB         2
3  encode.synthetic        encode.synthetic          2             320                8.0 KiB         2
"""


def load(credit: str, spec: str = "two_tasks") -> r2d2c.Checked:
    return r2d2c.load(SPECS / f"{spec}.yaml", credit=credit)


def drawn(checked: Checked) -> Picture:
    known = rules()
    training = training_graph(checked.graph, checked.ops, known)
    every = {**checked.graph.storage, **training.storage}
    trained = [name for name, row in every.items() if row.kind == "param"]
    losses = {**checked.graph.losses, **training.losses}
    return picture(checked.graph, known, wiring(training, checked.ops, losses, trained), training)


def test_wiring_has_the_parameters_and_losses_of_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    wiring_command.command(SPECS / "two_tasks.yaml", credit="synthetic")
    assert capsys.readouterr().out == WIRING


def test_wiring_as_json_says_what_its_rows_are(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    wiring_command.command(SPECS / "two_tasks.yaml", credit="hebbian", prove=True, format_="json")
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == {"encode.hebbian": "the plastic change of the credit `hebbian`"}
    assert found["wiring"]["encode.hebbian"]["encode.h.linear.weight"] == "plastic"
    assert found["proof"]["ok"]


def test_rows_of_rules_come_task_by_task() -> None:
    model = r2d2c.compile(load("synthetic", "four_task_chain"))
    rows = list(model.wiring())
    assert rows[:4] == ["t1", "t2", "t3", "t4"]
    assert rows[4:] == [f"t{k}.synthetic{end}" for k in (1, 2, 3) for end in ("", ".delta")]
    training = model._training_graph
    assert [explained(training, row) for row in ("t4", "t1.synthetic")] == [
        "",
        "a loss that the credit `synthetic` adds",
    ]


def test_plan_has_the_visits_and_parameters_of_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    plan_command.command(SPECS / "two_tasks.yaml", credit="synthetic")
    shown = capsys.readouterr().out
    assert shown.startswith(PLAN)
    assert "encode.synthetic 4,160 16.2 KiB while learning only" in [
        " ".join(row.split()) for row in shown.splitlines()
    ]
    plan_command.command(SPECS / "two_tasks.yaml", credit="feedback")
    rows = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert "classify.feedback 640 2.5 KiB while learning only, fixed" in rows
    found = plan(load("direct"), rules())
    assert [(o.owner, o.parameters, o.bytes, o.fixed) for o in found.owners if not o.inference][-1] == (
        "encode.direct", 640, 2560, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("credit", "lines"),
    [
        ("synthetic", ("encode.synthetic", "predictor.weight f32[64, 64]", "predictor.bias f32[64]")),
        ("target", ("encode.target", "inverse.weight f32[64, 10]", "inverse.bias f32[64]")),
        ("direct", ("encode.direct", "B f32[10, 64]")),
        ("feedback", ("classify.feedback", "logits.linear.feedback f32[10, 64]")),
        ("hebbian", ("encode.hebbian",)),
    ],
)
def test_a_picture_has_a_box_for_what_a_rule_keeps(credit: str, lines: tuple[str, ...]) -> None:
    found = drawn(load(credit))
    boxes = [shape for shape in found.shapes.values() if shape.kind == "credit"]
    assert [box.lines for box in boxes] == [lines]
    assert boxes[0].group == lines[0].partition(".")[0]
    ends = {(arrow.start, arrow.end, arrow.label) for arrow in found.arrows}
    colour = rules()[credit].colour
    assert [a.colour for a in found.arrows if a.style == "link" and a.start == "encode.h"] == [colour]
    expected = {
        "synthetic": (f"credit {lines[0]}", "encode.h", "rule:synthetic"),
        "target": ("loss encode.target.inverse", f"credit {lines[0]}", ""),
        "direct": (f"credit {lines[0]}", "encode.h", "B"),
        "feedback": (f"credit {lines[0]}", "classify.logits", "B"),
        "hebbian": (f"credit {lines[0]}", "encode.h", "plastic"),
    }
    assert expected[credit] in ends


def test_a_picture_has_a_box_for_a_block_that_an_option_names() -> None:
    found = drawn(r2d2c.load(SPECS.parent / "credit" / "target.yaml"))
    box = found.shapes["credit t1.target"]
    assert (box.kind, box.group, len(box.lines)) == ("credit", "t1", 3)
    ends = {(arrow.start, arrow.end, arrow.label) for arrow in found.arrows}
    assert ("loss t1.target.inverse", "credit t1.target", "") in ends
    assert ("loss t1.target.inverse", "t1.h", "") not in ends


def test_every_node_of_a_training_graph_with_the_storage_of_its_rules() -> None:
    checked = load("direct")
    found = picture_of_nodes(training_graph(checked.graph, checked.ops, rules()), checked.graph.storage)
    assert [shape.lines for shape in found.shapes.values() if shape.kind == "credit"] == [
        ("encode.direct.B", "f32[10, 64]")
    ]


def test_the_training_graph_as_text() -> None:
    checked = load("synthetic(every=4)")
    text = print_graph(training_graph(checked.graph, checked.ops, rules()), checked.ops)
    assert "visit 1 `encode.synthetic.delta`: losses none, signals encode.synthetic.delta\n" in text
    assert "of encode, for the credit synthetic, every 4 passes" in text
    along = "%encode.synthetic.of_batch.value.stop of encode.synthetic"
    assert f"vjp(%encode.h.linear_2 along {along}) by (@encode.h.linear.weight" in text
    checked = load("equilibrium(steps=2)", "two_heads")
    text = print_graph(training_graph(checked.graph, checked.ops, rules()), checked.ops)
    assert "trains by %equilibrium." in text and "None" not in text
