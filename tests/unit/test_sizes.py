"""Sizes and widths that a model takes when it runs: on the command line, in Python, in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.cli.main import main
from r2d2c.diagnostics import Sink
from r2d2c.sizes import Given, check_choices, check_sizes, number
from r2d2c.train.api import evaluate, open_run, predict, train
from r2d2c.train.settings import read_settings
from tests.unit.loop_specs import DEPTH, NESTED

DIGITS = DEPTH.replace("D: 6, S: 5, C: 3", "D: 64, S: 5, C: 10")
WIDE = NESTED.replace("D: 6, S: 5, C: 3", "D: 64, S: 5, C: 10")


def said(sink: Sink) -> list[tuple[str, str]]:
    return [(d.code, d.message) for d in sink.diagnostics]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        (" 1/4 ", 0.25),
        ("0.5", 0.5),
        ("4/2", 2),
        ("1/0", None),
        ("x", None),
        ("-1", None),
        ("", None),
    ],
)
def test_numbers(text: str, value: float | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("name", "text", "code", "message"),
    [
        ("depth", "6", "E552", "`depth` is 6, the spec says 1..5"),
        ("depth", "1/2", "E552", "`depth` is a whole number, not 0.5"),
        ("depth", "4..2", "E552", "the range 4..2 of `depth` is empty"),
        ("depth", "two", "E552", "`two` is no size of `depth`"),
        ("width", "0.3", "E552", "`width` is 0.3, the spec says 0.4, 1"),
        ("dept", "3", "E551", "`dept` is no size that this model takes when it runs"),
        ("S", "3", "E551", "the size of `S` is fixed, 5: the model was made for it"),
    ],
)
def test_what_a_size_may_be(name: str, text: str, code: str, message: str) -> None:
    graph, sink = r2d2c.loads(NESTED).graph, Sink()
    assert check_choices(graph, name, text, None, sink) is None
    assert said(sink) == [(code, message)]


def test_ranges_are_for_training_only() -> None:
    graph, sink = r2d2c.loads(NESTED).graph, Sink()
    assert check_choices(graph, "depth", "2..4", None, sink) == range(2, 5)
    assert check_choices(graph, "width", "2/5..1", None, sink) == (0.4, 1.0)
    assert check_sizes(graph, {"depth": Given("4"), "width": Given("2/5")}, sink) == {
        "depth": 4,
        "width": 0.4,
    }
    assert said(sink) == []
    assert check_sizes(graph, {"depth": Given("2..4")}, sink) == {}
    assert said(sink) == [("E552", "`depth` is one number here, not `2..4`")]


def settings_of(text: str, *changes: str) -> Any:
    sink = Sink()
    found = read_settings(r2d2c.loads(text, settings=changes), sink)
    return found if found is not None else said(sink)


def test_sizes_of_a_training() -> None:
    found = settings_of(WIDE, "train.sizes.depth=1..4", "train.sizes.width=2/5..1")
    drawn = [found.sizes_at(step) for step in range(64)]
    assert {each["depth"] for each in drawn} == {1, 2, 3, 4} and {each["width"] for each in drawn} == {
        0.4,
        1.0,
    }
    assert drawn == [found.sizes_at(step) for step in range(64)]
    other = settings_of(WIDE, "train.sizes.depth=1..4", "train.seed=1")
    assert [other.sizes_at(step)["depth"] for step in range(64)] != [each["depth"] for each in drawn]
    assert settings_of(WIDE, "train.sizes.depth=2").sizes_at(9) == {"depth": 2}
    assert settings_of(WIDE, "train.sizes.depth=0..4") == [("E552", "`depth` is 0, the spec says 1..5")]
    assert settings_of(WIDE, "train.sizes.deep=2")[0][0] == "E551"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "wide.yaml"
    path.write_text(WIDE, "utf-8")
    return path


@pytest.fixture(scope="module")
def run(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of a few batches, each at another depth."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(spec, out=out, epochs=2, limit_batches=5, sizes={"depth": "1..5", "width": "2/5..1"})
    return out


class Depths:
    """Which depths a training ran at, by its learning passes."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_ready(self, trainer: Any) -> None:
        visits = trainer.model.visits

        def watched(**batch: Any) -> Any:
            self.seen.append(batch["depth"])
            return visits(**batch)

        trainer.model.visits = watched


def test_a_training_goes_on_exactly(spec: Path, run: Path, tmp_path: Path) -> None:
    first, second = Depths(), Depths()
    sizes = {"depth": "1..5", "width": "2/5..1"}
    out = tmp_path / "half"
    train(spec, out=out, epochs=1, limit_batches=5, sizes=sizes, callbacks=[first])
    train(resume=out, epochs=2, callbacks=[second])
    settings = read_settings(open_run(run).spec, Sink())
    assert settings is not None
    depths = [settings.sizes_at(step)["depth"] for step in range(10)]
    assert first.seen + second.seen == depths and len(set(depths)) > 1
    one, two = (open_run(path).load("last").state_dict() for path in (run, out))
    assert all(torch.equal(one[name], two[name]) for name in one)
    fixed = tmp_path / "fixed"
    train(spec, out=fixed, epochs=2, limit_batches=5)
    assert not torch.equal(
        open_run(fixed).load("last").state_dict()["outer.c.linear.weight"], one["outer.c.linear.weight"]
    )


def test_measuring_at_sizes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--depth", "1,4", "--width", "2/5,1", "--format", "json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [r["sizes"] for r in results] == [{"depth": d, "width": w} for d in (1, 4) for w in (0.4, 1.0)]
    assert len({r["losses"]["t"] for r in results}) == 4
    for result in results:
        assert evaluate(run, sizes=result["sizes"]) == result


@pytest.mark.parametrize("sizes", [{}, {"depth": 4, "width": 0.4}, {"depth": 1}])
def test_what_is_measured(run: Path, sizes: dict[str, Any]) -> None:
    model = open_run(run).model
    draw = torch.Generator().manual_seed(5)
    x, y = torch.rand(30, 64, generator=draw), torch.randint(0, 10, (30,), generator=draw)
    logits = model(x=x, **sizes)["logits"].detach()
    found = evaluate(
        model, data={"test": [{"x": x[:20], "y": y[:20]}, {"x": x[20:], "y": y[20:]}]}, sizes=sizes
    )
    loss = torch.nn.functional.cross_entropy(logits, y)
    assert found["losses"]["t"] == pytest.approx(float(loss), rel=1e-5)
    assert found["metrics"]["accuracy(logits, y)"] == pytest.approx(
        float((logits.argmax(1) == y).float().mean())
    )
    assert found["sizes"] == {"depth": 3, "width": 1.0} | sizes
    given = predict(model, data={"train": [{"x": x}], "test": [{"x": x}]}, split="test", sizes=sizes)
    assert torch.allclose(torch.as_tensor(given["logits"]), logits, atol=1e-6)


def test_one_size_and_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--depth", "2"]) == 0
    assert "depth 2, width 1" in capsys.readouterr().out.splitlines()[0].replace(
        "width 1, depth 2", "depth 2, width 1"
    )
    assert main(["eval", str(run), "--size", "depth=1,2,5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:3] == ["depth", "loss", "t"] and [line.split()[0] for line in lines[3:]] == [
        "1",
        "2",
        "5",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["eval", "RUN", "--depth", "9"], 1, "error[E552]: `depth` is 9, the spec says 1..5"),
        (["eval", "RUN", "--size", "deep=2"], 1, "error[E551]: `deep` is no size"),
        (["eval", "RUN", "--size", "depth"], 2, "`depth` is not NAME=N"),
        (["eval", "RUN", "--size", "depth=1", "--depth", "2"], 2, "`depth` is given twice"),
        (["predict", "RUN", "--width", "2"], 1, "error[E552]: `width` is 2, the spec says 0.4, 1"),
        (["plan", "SPEC", "--depth", "1..3"], 1, "`depth` is one number here"),
        (["plan", "SPEC", "--size", "Q=3"], 1, "error[E551]: `Q` is no size"),
        (["train", "SPEC", "--depth", "0..3"], 1, "error[E552]: `depth` is 0, the spec says 1..5"),
        (["train", "--resume", "RUN", "--depth", "3"], 2, "a run goes on as it was started"),
    ],
)
def test_mistakes(
    arguments: list[str], code: int, message: str, run: Path, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str({"RUN": run, "SPEC": spec}.get(a, a)) for a in arguments]
    assert main(given) == code
    assert message in capsys.readouterr().err


def test_the_plan_is_counted_with_them(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for depth in ("1", "5"):
        assert main(["plan", str(spec), "--depth", depth, "--format", "json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [each["sizes"]["depth"] for each in found] == [1, 5]
    assert [[loop["name"], loop["steps"]] for loop in found[1]["loops"]] == [["outer", 5], ["inner", 2]]
    step = found[0]["loops"][0]["flops_per_step_and_sample"]
    # What is outside of the loop, such as the mean over steps, depends on the depth as well.
    assert found[1]["visits"][0]["flops_per_sample"] - found[0]["visits"][0]["flops_per_sample"] >= 4 * step
