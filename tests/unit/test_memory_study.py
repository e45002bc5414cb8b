"""The studies of memories: their variants still fit the ready specs, and what they measure is what they say."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

import r2d2c
from bench import memory_rows, memory_study
from bench.memory_rows import Row

ROWS = (*memory_rows.SYMBOL_ROWS, *memory_rows.DELAY_ROWS, *memory_rows.NOISE_ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_spec(row: Row) -> None:
    checked = r2d2c.loads(row.text(), folder=memory_rows.FOLDER, settings=row.settings)
    # A control may leave a field or a dim without use.
    assert {d.code for d in checked.diagnostics} <= {"W452", "W478"}


def test_a_change_fits_once() -> None:
    with pytest.raises(ValueError, match="0 times"):
        memory_rows.changed("a b", (("c", "d"),))
    with pytest.raises(ValueError, match="2 times"):
        memory_rows.changed("a a", (("a", "d"),))


def test_how_long_a_symbol_stays_with_a_constant_guess() -> None:
    """Against a store of surprises and ages by hand."""
    row = memory_rows.DELAY_ROWS[0]
    model = r2d2c.compile(r2d2c.loads(row.text(), folder=memory_rows.FOLDER)).eval()
    guess = torch.zeros(10)
    guess[0] = 5.0
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        parameters["read.says.linear.weight"].zero_()
        parameters["read.says.linear.bias"].copy_(guess)
    filler, symbol = (1 - torch.softmax(guess, 0))[:2].tolist()
    found = memory_rows.retention(row, model, 0.9, most=200, count=8)

    slots: list[tuple[float, int]] = []
    stays = 0
    for surprise in [0.0, symbol, *[filler] * 198]:
        if len(slots) == 8:
            slots.remove(min(slots, key=lambda slot: slot[0] * 0.9 ** slot[1]))
        slots = [(held, age + 1) for held, age in slots] + [(surprise, 0)]
        stays += any(held == symbol for held, _ in slots)
    assert 20 < stays < 190
    assert found["measured"] == stays
    assert found["filler"] == pytest.approx(filler, rel=1e-4)
    assert found["symbol"] == pytest.approx(symbol, rel=1e-4)
    assert found["expected"] == pytest.approx(numpy.log(symbol / filler) / -numpy.log(0.9), rel=1e-4)


def test_noise_is_in_a_stretch_after_the_symbol() -> None:
    test = memory_rows.noisy(memory_rows.LATER).test
    assert test is not None
    x, y = test["x"], test["y"]
    noise = x >= memory_rows.FIRST_NOISE
    first, last = noise.argmax(1), x.shape[1] - 1 - noise[:, ::-1].argmax(1)
    assert noise.any(1).all() and (first >= 21).all() and (last - first < 50).all()
    symbols = (x >= 1) & (x <= 8)
    assert (symbols.sum(1) == 1).all() and (symbols.argmax(1) < first).all()
    assert (x[symbols] == y + 1).all()


def test_the_page_has_every_row_that_was_run() -> None:
    shares: dict[str, Any] = {"all": 0.5, "first": 1.0, "second": 0.75, "gap": 0.25}
    found = {"symbols": {"1 slot": {"0": {"12": shares, "24": shares, "seconds": 1.0}}}}
    text = memory_study.page(found)
    assert "| 1 slot | 1 | 50.0 | 100.0 | 75.0 | 25.0 | 50.0 |" in text
    assert "not run yet" in text
