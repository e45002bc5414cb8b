"""What `check` says of learning is what the wiring matrix, and the training graph behind it, does."""

from pathlib import Path

import pytest

from r2d2c import CompileError, loads
from r2d2c.credit.registry import rules
from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.passes.training import training_graph
from r2d2c.verify.context import Context
from r2d2c.wiring import wiring

ROOT = Path(__file__).parents[2]


def specs() -> list[tuple[str, Checked]]:
    """The ready specs, and the cases of tests/errors that have warnings alone."""
    texts = {
        str(p.relative_to(ROOT)): p.read_text("utf-8")
        for p in (ROOT / "specs").rglob("*.yaml")
        if p.parent.name != "std"
    }
    for part in (ROOT / "tests" / "errors" / "4_tasks.txt").read_text("utf-8").split("################ ")[1:]:
        name, _, rest = part.partition("\n")
        texts[name] = rest.partition("----------------\n")[0]
    found = []
    for name, text in texts.items():
        try:
            found.append((name, loads(text, folder=ROOT / "specs")))
        except CompileError:
            continue
    return found


SPECS = specs()


@pytest.mark.parametrize(("name", "checked"), SPECS, ids=[name for name, _ in SPECS])
def test_the_parameters_that_train_are_those_of_the_matrix(name: str, checked: Checked) -> None:
    graph = checked.graph
    training = training_graph(graph, checked.ops, rules())
    # With what credit rules add: predictors, inverses.
    every = {**graph.storage, **training.storage}
    trained = {n: row for n, row in every.items() if row.kind == "param"}
    matrix = wiring(training, checked.ops, {**graph.losses, **training.losses}, trained)
    context = Context(graph, checked.spec, checked.ops, rules(), Sink())
    assert context.trained == {p for row in matrix.values() for p, taught in row.items() if taught}
    silent = {loss for loss, row in matrix.items() if not any(row.values())}
    said = {d.message.split("`")[1] for d in checked.diagnostics if d.code == "W442"}
    assert said <= silent
    # What is silent besides was dropped by a rule of credit.
    assert silent - said <= set(graph.losses) - set(context.losses)


def test_there_are_enough_of_them() -> None:
    assert len(SPECS) >= 15
