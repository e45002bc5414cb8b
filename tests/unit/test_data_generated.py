"""Generated sets: one scheme of options, and what the samples of each are, told anew by hand."""

import re

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier

from r2d2c.train.data import SOURCES, DataContext, Table, open_data
from tests.unit.data_files import said

GENERATED = [source for source in SOURCES if source.family == "generated"]
CONTEXT = DataContext(ports={"x": ("f32", (None, 3))})


def text(table: Table, row: int, column: str = "x") -> str:
    classes = table.columns[column].classes
    assert classes is not None
    return "".join(np.array(classes)[table[column][row]])


def opened(name: str, options: str) -> Table:
    return open_data(f"{name}?{options}").train


@pytest.mark.parametrize("source", GENERATED, ids=lambda source: source.name)
def test_all_take_samples_test_and_seed(source) -> None:
    name = f"{source.name}:x0" if source.name == "formula" else source.name
    assert {"samples", "test", "seed"} <= set(source.options)
    data, none, half = (open_data(f"{name}?samples=40&test={test}", CONTEXT) for test in ("0.25", "0", "0.5"))
    assert data.test is not None and half.test is not None and none.test is None
    assert [len(part) for part in (data.train, data.test, none.train, half.test)] == [40, 10, 40, 20]
    assert np.array_equal(data.train["x"], none.train["x"]), "how much test has does not change train"
    other = open_data(f"{name}?samples=40&seed=7", CONTEXT)
    assert not np.array_equal(other.train["x"], data.train["x"])
    message = "E502: option `test` must be at least 0 and less than 1, not `1`"
    assert said(f"{name}?test=1", CONTEXT) == message


def test_copy() -> None:
    table = opened("copy", "samples=300&length=5&least=2&delay=3&symbols=4")
    assert table["x"].shape == (300, 13) and table.columns["x"].classes == (".", "a", "b", "c", "d", "?")
    seen = set()
    for row in range(300):
        found = re.fullmatch(r"([a-d]{2,5})\.{3}\?(\.*)", text(table, row))
        assert found is not None
        symbols, steps = found[1], table["length"][row]
        seen.add(len(symbols))
        assert steps == 2 * len(symbols) + 3
        before = "." * (len(symbols) + 3)
        assert text(table, row, "y") == (before + symbols).ljust(13, ".")
        assert "".join("ny"[int(a)] for a in table["asked"][row]) == (
            "n" * len(before) + "y" * len(symbols)
        ).ljust(13, "n")
        assert table["mask"][row].sum() == steps and table["mask"][row][:steps].all()
    assert seen == {2, 3, 4, 5}
    assert opened("copy", "samples=4").columns["x"].shape == (30,)


def test_addition() -> None:
    table = opened("addition", "samples=500&length=3")
    assert table["x"].shape == (500, 12)
    digits = set()
    for row in range(500):
        equation = text(table, row).rstrip(".")
        left, right = equation.split("=")
        a, b = left.split("+")
        assert int(a) + int(b) == int(right) == table["sum"][row] and str(int(a)) == a and str(int(b)) == b
        assert text(table, row, "next") == text(table, row)[1:] + "."
        asked = "".join("ny"[int(each)] for each in table["asked"][row])
        assert asked == ("n" * len(left) + "y" * (1 + len(right))).ljust(12, "n")
        assert table["length"][row] == len(equation) == table["mask"][row].sum()
        digits.add((len(a), len(b)))
    assert len(digits) == 9
    long = opened("addition", "samples=50&length=17&least=17")
    assert all(int(text(long, row).split("=")[1].rstrip(".")) == long["sum"][row] for row in range(50))


def test_xor() -> None:
    table = opened("xor", "samples=2000&length=3&noise=0.3")
    x, y = table["x"], table["y"]
    assert x.shape == (2000, 3) and x.dtype == np.float32 and table.columns["y"].classes == ("even", "odd")
    corners = np.where(x > 0, 1, -1)
    assert ((np.prod(corners, axis=1) > 0) == (y == 1)).mean() > 0.99, "three signs: odd where positive"
    assert abs((x - corners).std() - 0.3) < 0.02
    two = opened("xor", "samples=4000")
    line = LinearRegression().fit(two["x"], two["y"])
    assert line.score(two["x"], two["y"]) < 0.01, "nothing of it is linear"
    product = two["x"][:, :1] * two["x"][:, 1:]
    assert LinearRegression().fit(product, two["y"]).score(product, two["y"]) > 0.9


def test_spirals() -> None:
    data = open_data("spirals?classes=3&turns=2")
    x, y = data.train["x"], data.train["y"]
    radius, angle = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0])
    ahead = (angle / (2 * np.pi) - 2 * radius - y / 3) % 1
    assert np.minimum(ahead, 1 - ahead).max() < 1e-5, "r = (angle - arm) / turns"
    assert radius.min() >= 0.1 and radius.max() <= 1 and set(y) == {0, 1, 2}
    assert data.test is not None
    near = KNeighborsClassifier(3).fit(x, y)
    assert near.score(data.test["x"], data.test["y"]) > 0.95
    noisy = opened("spirals", "noise=0.5")
    assert np.hypot(*noisy["x"].T).max() > 1.2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("copy:5", "E502: `copy` takes no argument, it got `5`"),
        ("copy?length=3&least=4", "E502: option `least` of `copy` is 4, it may be 3 at the most here"),
        ("copy?symbols=1", "E502: option `symbols` must be a whole number of at least 2, not `1`"),
        ("addition?length=18", "E502: option `length` of `addition` is 18, it may be 17 at the most here"),
        ("xor?noise=-1", "E502: `noise` is a number that is not negative, not `-1`"),
        ("spirals?turns=inf", "E502: `turns` is a number that is not negative, not `inf`"),
        ("spirals?length=3", "E502: unknown option `length` of a data source"),
    ],
)
def test_bad_options(source: str, message: str) -> None:
    assert said(source) == message
