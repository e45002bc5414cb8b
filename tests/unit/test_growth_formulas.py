"""Planted formulas are found again by growth, and what is left has their size; `bench.growth_formulas` has all ten."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.growth_formulas import PLANTED, page, recover, variance

pytestmark = pytest.mark.usefixtures("one_thread")


SHORT = ("train.epochs=44", "op_graphs.layer.grow.epochs=40")


@pytest.mark.parametrize("text", ["x0*x1 + x2", "maximum(x0, x1) - x2", "x0*x1*x2"])
def test_a_planted_formula_is_found_again(tmp_path: Path, text: str) -> None:
    (planted,) = (one for one in PLANTED if one.text == text)
    found = recover(planted, 0, tmp_path / "run", SHORT)
    assert found.recovered, found
    assert found.error < 1e-8
    assert found.ops == planted.ops


def test_the_study_counts_what_is_not_found(tmp_path: Path) -> None:
    """With sines alone there is no product: it is approximated, or left out, and the page says so."""
    planted = PLANTED[0]
    found = recover(planted, 0, tmp_path / "run", (*SHORT, "op_graphs.layer.ops=[sin, sub]"))
    assert not found.recovered
    text = page([found])
    assert "0 of 1" in text and "What was found instead" in text


def test_variances_are_those_of_the_data() -> None:
    """Of a product of two uniform ones it is (4/3)²."""
    assert variance(PLANTED[0]) == pytest.approx((4 / 3) ** 2, rel=0.01)
