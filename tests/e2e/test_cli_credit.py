"""`--credit RULE` on the command line: the credit of every link, for every command that reads a spec."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.command_line import TWO_TASKS, r2d2c

# A rule with options, as somebody's plug-in brings it.
PLUGIN = """\
from r2d2c.credit.options import Option
from r2d2c.credit.record import CreditRule

CREDIT_RULES = (
    CreditRule(
        "mine",
        "Nothing comes back.",
        "0",
        lambda edge: edge.stop(edge.value),
        arguments=(
            Option("step", "float", 0.5, "How far.", minimum=0),
            Option("variant", "choice", "random", "Which way.", choices=("random", "sign")),
            Option("guess", "behavior", None, "What guesses.", takes=("source",)),
        ),
    ),
)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_the_credit_of_every_link() -> None:
    done = r2d2c("wiring", TWO_TASKS, "--credit", "backprop", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wiring"]["classify"]["encode.h.linear.weight"] == "gradient"
    assert found["dropped"] == {"encode": "encode -> classify has credit `backprop`"}
    # What the spec says of its link itself, `feed` included, is that of `local`.
    plain, local = (r2d2c("wiring", TWO_TASKS, *more).stdout for more in ((), ("--credit", "local")))
    assert plain == local


@pytest.mark.parametrize(
    "command",
    [
        ("check", TWO_TASKS),
        ("plan", TWO_TASKS),
        ("graph", TWO_TASKS),
        ("compile", TWO_TASKS, "--emit", "graph"),
        ("compile", TWO_TASKS, "--emit", "syntax"),
        ("compile", TWO_TASKS, "--emit", "training"),
        ("compile", TWO_TASKS, "--emit", "fx"),
        ("data", "--spec", TWO_TASKS),
        ("eval", TWO_TASKS),
    ],
    ids=lambda command: " ".join(map(str, (command[0], *command[2:]))),
)
def test_every_command_that_reads_a_spec_takes_it(command: tuple[str | Path, ...]) -> None:
    done = r2d2c(*command, "--credit", "backprop")
    assert done.returncode == 0, done.stderr
    assert "E4" not in done.stderr
    if command[0] in ("graph", "compile") and command[-1] != "fx":
        assert "backprop" in done.stdout
    # Not its syntax but whether there is such a rule is what needs the rest of the compiler.
    if command[-1] != "syntax":
        wrong = r2d2c(*command, "--credit", "backprob")
        assert wrong.returncode == 1
        assert "error[E430]: there is no credit rule `backprob`\n --> --credit:1:1\n" in wrong.stderr
    damaged = r2d2c(*command, "--credit", "backprop(")
    assert damaged.returncode == 1
    assert "--> --credit:1:10\n" in damaged.stderr and "error[E1" in damaged.stderr


def test_options_and_behaviors(plugin: Path) -> None:
    more = ("--plugin", plugin, "--credit")
    done = r2d2c("compile", TWO_TASKS, "--emit", "graph", *more, "mine(0.1, variant=sign, guess=linear(H))")
    assert done.returncode == 0, done.stderr
    assert "credit mine(step=0.1, variant=sign, guess=encode.mine.guess)" in done.stdout
    assert "@encode.mine.guess.linear.weight" in done.stdout
    wrong = r2d2c("check", TWO_TASKS, *more, "mine(stop=0.1)")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(
        """\
error[E431]: the credit `mine` has no option `stop`
 --> --credit:1:6
  |
1 | mine(stop=0.1)
  |      ^^^^ usage: mine(step=0.5, variant=random, guess=…)
  |
  = help: did you mean `step`?
"""
    )


def test_the_rules_with_their_options(plugin: Path) -> None:
    done = r2d2c("ops", "--credit", "mine", "--plugin", plugin)
    assert done.stdout.startswith("mine(step=0.5, variant=random, guess=…)\n")
    assert "  step     a number of at least 0" in done.stdout and "default 0.5" in done.stdout
    (found,) = json.loads(r2d2c("ops", "--credit", "mine", "--plugin", plugin, "--format", "json").stdout)
    assert [option["name"] for option in found["options"]] == ["step", "variant", "guess"]
    assert found["options"][1]["choices"] == ["random", "sign"]


def test_a_run_is_used_with_the_credit_it_was_trained_with(tmp_path: Path, plugin: Path) -> None:
    run = tmp_path / "run"
    more = ("--plugin", plugin)
    done = r2d2c("train", TWO_TASKS, "--epochs", "1", "-o", run, "--credit", "mine(step=0.1)", *more)
    assert done.returncode == 0, done.stderr
    spec = (run / "spec.yaml").read_text()
    assert "# with --credit mine(step=0.1)\n" in spec and "\ncredit: mine(step=0.1)\n" in spec
    assert "local" not in spec and "feed" not in spec
    for command in (
        ("eval", run),
        ("predict", run, "-o", tmp_path / "predictions.csv"),
        ("export", run, "-o", tmp_path / "model.onnx"),
        ("train", "--resume", run, "--epochs", "2"),
    ):
        done = r2d2c(*command, *more)
        assert done.returncode == 0, (command, done.stderr)
    shown = r2d2c("wiring", run / "spec.yaml", "--format", "json", *more)
    assert json.loads(shown.stdout)["dropped"] == {"encode": "encode -> classify has credit `mine(step=0.1)`"}
    for name, *rest in (
        ("eval", run),
        ("export", run, "-o", tmp_path / "b.onnx"),
        ("train", "--resume", run),
    ):
        done = r2d2c(name, *rest, "--credit", "local", *more)
        assert done.returncode == 2 and "--credit" in done.stderr, (name, done.stderr)


def test_an_export_of_a_spec(tmp_path: Path) -> None:
    done = r2d2c("export", TWO_TASKS, "-o", tmp_path / "model.onnx", "--credit", "backprop")
    assert done.returncode == 0, done.stderr
