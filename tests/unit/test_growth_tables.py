"""The study of op graphs on tables: what it counts and chooses, and that every row of it still runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import r2d2c
from bench import growth_models as models
from bench import growth_tables as study
from bench.growth_models import Job, Outcome, Set
from bench.growth_tables import Row
from r2d2c.opgraph import KINDS, NUMBER, empty

WINE, DIABETES = models.SETS[0], models.SETS[2]


def test_parameters_of_an_op_graph_by_hand() -> None:
    """Two nodes, x0 * p and sin(n0), and two free rows: 1 number, 3 outputs of (2 inputs + 2 nodes) and 3 biases."""
    none = empty(2, 4)
    kind, args = none.kind.copy(), none.args.copy()
    kind[:2] = KINDS["mul"], KINDS["sin"]
    args[0, :2], args[1, 0] = (0, NUMBER), 2
    topology = replace(none, kind=kind, args=args, names=("n0", "n1", None, None), next=2)
    assert models.op_graph_parameters(topology, 3) == 1 + 3 * 4 + 3
    assert models.op_graph_parameters(none, 3) == 3 * 2 + 3


@pytest.mark.parametrize("table", models.SETS, ids=lambda table: table.name)
def test_an_mlp_has_the_parameters_that_are_told(table: Set) -> None:
    inputs, outputs = table.inputs, table.classes or 1
    hidden = models.hidden_units(200, inputs, outputs)
    settings = (*table.settings, f"dims.H={hidden}")
    model = r2d2c.compile(r2d2c.loads(models.MLP, settings=settings))
    told = models.mlp_parameters(inputs, hidden, outputs)
    assert told == sum(p.numel() for p in model.parameters())
    assert abs(told - 200) <= (inputs + outputs + 1) / 2


def test_parameters_of_trees_by_hand() -> None:
    """Trees of one split have a threshold and two values each."""
    from sklearn.ensemble import GradientBoostingRegressor

    x = np.arange(8.0)[:, None]
    model = GradientBoostingRegressor(n_estimators=5, max_depth=1).fit(x, np.sin(x[:, 0]))
    assert models.tree_parameters([tree.tree_ for tree in model.estimators_.ravel()]) == 5 * 3


def test_a_setting_is_chosen_without_the_test_part() -> None:
    data = WINE.data(1)
    part = study.inner(data)
    assert data.test is not None and part.test is not None
    rows = {tuple(row) for row in data.train["x"].tolist()}
    chosen = [tuple(row) for table in (part.train, part.test) for row in table["x"].tolist()]
    assert set(chosen) == rows and len(chosen) == len(data.train)
    assert not {tuple(row) for row in data.test["x"].tolist()} & set(chosen)


def test_the_best_setting_is_taken() -> None:
    def work(job: Job) -> Outcome:
        assert job.data.test is not None
        loss = abs(job.setting - 2) if len(job.data.train) < 142 else 10 - job.setting
        return Outcome(job.setting, loss, 1, 0.0)

    found = study.fold_of(WINE, Row("row", work, "number", (1.0, 2.0, 3.0)), 1, (0, 1), {})
    assert found["setting"] == 2.0 and set(found["seeds"]) == {"0", "1"}
    assert found["inner"] == {"1": 1.0, "2": 0.0, "3": 1.0}


def test_ridge_regression_beside_the_equations() -> None:
    """The linear model of diabetes is (XᵀX + αI)⁻¹Xᵀy; R² is measured on the test part."""
    data = DIABETES.data(1)
    assert data.test is not None
    outcome = models.linear(Job(DIABETES, data, 3.0, 0))
    x, y = data.train["x"].astype(np.float64), data.train["y"].ravel().astype(np.float64)
    mean = x.mean(0)
    weights = np.linalg.solve((x - mean).T @ (x - mean) + 3 * np.eye(10), (x - mean).T @ (y - y.mean()))
    target = data.test["y"].ravel()
    error = target - (data.test["x"] - mean) @ weights - y.mean()
    assert outcome.loss == pytest.approx(np.square(error).mean(), rel=1e-4)
    assert outcome.metric == pytest.approx(1 - np.square(error).mean() / target.var(), rel=1e-4)
    assert outcome.parameters == 11


@pytest.fixture(scope="module")
def fast() -> dict[str, Any]:
    """A short fold of every row, without a choice."""
    rows = [replace(row, candidates=row.candidates[1:2]) for row in study.ROWS]
    return study.study({}, folds=(1,), seeds=(0,), epochs=9, rows=rows)


def test_every_row_runs(fast: dict[str, Any]) -> None:
    for table in models.SETS:
        assert list(fast[table.name]) == [row.name for row in study.ROWS]
        for row in study.ROWS:
            run = fast[table.name][row.name]["1"]["seeds"]["0"]
            assert math.isfinite(run["loss"]) and run["seconds"] >= 0 and run["metric"] <= 1
            if row.like is not None:
                target = fast[table.name][row.like]["1"]["seeds"]["0"]["parameters"]
                unit = table.inputs + (table.classes or 1) + 1
                assert abs(run["parameters"] - target) <= max(unit / 2, unit + 3 - target)
        grown = fast[table.name][study.GROWN]["1"]["seeds"]["0"]
        # 16 ops at first; rounds after 4 and 8 epochs add 4 and prune 2 each.
        assert grown["ops"] == 20


def test_the_page(fast: dict[str, Any]) -> None:
    text = study.page(fast)
    for table in models.SETS:
        assert f"| {table.name} |" in text
    for row in study.ROWS:
        assert text.count(f"| {row.name} |") == len(models.SETS)
    assert "nan" not in text


def test_what_is_there_is_not_run_again(fast: dict[str, Any]) -> None:
    def never(job: Job) -> Outcome:
        raise AssertionError

    rows = [replace(row, work=never) for row in study.ROWS]
    assert study.study(fast, folds=(1,), seeds=(0,), rows=rows) is fast
