"""Sequences: the tasks that are made up, and texts as bytes and characters. What they give, and that it can be learned."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import r2d2c
from r2d2c.train.data import SOURCES, Table, open_data
from r2d2c.train.data.text_file import BYTES, encode
from tests.unit.data_files import CLI, refused, said

TASKS = ("delayed_copy", "two_symbols", "adding", "copy", "addition", "recall")


def names(table: Table, column: str = "x") -> np.ndarray:
    """A column of tokens by their names."""
    classes = table.columns[column].classes
    assert classes is not None
    return np.array(classes)[table[column]]


def text(table: Table, row: int, column: str = "x") -> str:
    return "".join(names(table, column)[row])


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_made_from_its_seed(task: str) -> None:
    data, again, other = (open_data(f"{task}?samples=40{seed}") for seed in ("", "&seed=0", "&seed=1"))
    assert data.test is not None and (len(data.train), len(data.test)) == (40, 10)
    assert all(np.array_equal(data.train[name], again.train[name]) for name in data.train)
    assert not np.array_equal(data.train["x"], other.train["x"])
    assert not np.array_equal(data.train["x"][:10], data.test["x"])
    assert np.array_equal(data.train.columns["x"].array.shape[:1], [40])


def test_delayed_copy() -> None:
    data = open_data("delayed_copy?samples=300&delay=6&symbols=3&lead=4")
    table = data.train
    x, at = table["x"], table["at"]
    assert x.shape == (300, 11) and data.classes == ("a", "b", "c")
    assert table.columns["x"].classes == (".", "a", "b", "c", "?")
    assert set(at) == {1, 2, 3, 4} and set(table["y"]) == {0, 1, 2}
    for row in range(300):
        symbol = "abc"[table["y"][row]]
        expected = "." * at[row] + symbol + "." * (9 - at[row]) + "?"
        assert text(table, row) == expected
        assert text(table, row, "next") == expected[1:] + symbol
    assert (table["asked"] == (names(table) == "?")).all()
    assert open_data("delayed_copy?samples=8&delay=1000").train["x"].shape == (8, 1002)


def test_noise_is_what_cannot_be_foreseen() -> None:
    table = open_data("delayed_copy?samples=2000&delay=30&noise=0.25").train
    shown = names(table)
    there = np.isin(shown[:, 2:-1], list("01234567"))
    assert abs(there.mean() - 0.25) < 0.01 and (shown[:, 0] == ".").all() and (shown[:, -1] == "?").all()
    symbols = np.isin(shown, list("abcdefgh"))
    assert (symbols.sum(1) == 1).all() and symbols[:, 1].all()
    assert set(shown[:, 2:-1].ravel()) == set(".01234567")
    quiet = open_data("delayed_copy?samples=8&kinds=8").train
    assert quiet.columns["x"].classes == table.columns["x"].classes, (
        "to be measured with noise after training without"
    )
    assert not np.isin(names(quiet), list("01234567")).any()


def test_two_symbols() -> None:
    table = open_data("two_symbols?samples=3000&length=9&symbols=4&gaps=7").train
    assert table["x"].shape == (3000, 9)
    places = set()
    for row in range(3000):
        symbols = "abcd"[table["first"][row]] + "." * table["gap"][row] + "abcd"[table["second"][row]]
        sequence = text(table, row)
        assert sequence.strip(".") == symbols and sequence[0] == "." and symbols[0] != symbols[-1]
        assert text(table, row, "next") == sequence[1:] + "."
        places.add((table["gap"][row], sequence.index(symbols[0])))
    assert places == {(gap, at) for gap in range(7) for at in range(1, 8 - gap)}
    assert np.bincount(table["gap"]).min() > 350, "every gap is as frequent"
    assert len(open_data("two_symbols?length=24").train.columns["gap"].classes or ()) == 12


def test_adding() -> None:
    table = open_data("adding?samples=500&length=12&least=5").train
    x, y, length, mask = (table[name] for name in ("x", "y", "length", "mask"))
    assert x.shape == (500, 12, 2) and x.dtype == y.dtype == np.float32 and set(length) == set(range(5, 13))
    assert np.array_equal(mask, np.arange(12) < length[:, None]) and not x[~mask].any()
    for row in range(500):
        marked = np.flatnonzero(x[row, :, 1])
        assert len(marked) == 2 and marked[0] < length[row] // 2 <= marked[1] < length[row]
        assert y[row] == x[row, marked[0], 0] + x[row, marked[1], 0]
    assert abs(x[mask][:, 0].mean() - 0.5) < 0.02
    full = open_data("adding?samples=4000&length=7").train
    assert full["mask"].all() and abs(((full["y"] - 1) ** 2).mean() - 1 / 6) < 0.01


def test_recall() -> None:
    table = open_data("recall?samples=400&pairs=3&least=1&keys=5&values=4").train
    length, mask = table["length"], table["mask"]
    assert table["x"].shape == (400, 8) and set(length) == {4, 6, 8}
    asked = set()
    for row in range(400):
        sequence, n = text(table, row), length[row]
        pairs = dict(zip(sequence[: n - 2 : 2], sequence[1 : n - 2 : 2], strict=True))
        assert (
            len(pairs) == (n - 2) // 2 and set(pairs) <= set("abcde") and set(pairs.values()) <= set("ABCD")
        )
        answer = "ABCD"[table["y"][row]]
        assert sequence[n - 2] == "?" and pairs[sequence[n - 1]] == answer and set(sequence[n:]) <= {"."}
        assert text(table, row, "next") == sequence[1:n] + answer + "." * (8 - n)
        asked.add(list(pairs).index(sequence[n - 1]))
        assert np.flatnonzero(table["asked"][row]) == [n - 1] and mask[row].sum() == n
    assert asked == {0, 1, 2}


def test_more_symbols_than_letters() -> None:
    table = open_data("delayed_copy?samples=4&symbols=300").train
    classes = table.columns["x"].classes
    assert classes is not None and len(set(classes)) == len(classes) == 302
    assert table["x"].max() == classes.index("?"), "such ids do not fit into a byte"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("recall:5", "E502: `recall` takes no argument, it got `5`"),
        ("adding?lenght=5", "E502: unknown option `lenght` of a data source"),
        ("two_symbols?length=3", "E502: option `length` must be a whole number of at least 4, not `3`"),
        (
            "two_symbols?length=6&gaps=5",
            "E502: option `gaps` of `two_symbols` is 5, it may be 4 at the most here",
        ),
        ("adding?length=5&least=6", "E502: option `least` of `adding` is 6, it may be 5 at the most here"),
        ("recall?pairs=5&keys=4", "E502: option `pairs` of `recall` is 5, it may be 4 at the most here"),
        ("delayed_copy?delay=0", "E502: option `delay` must be a whole number of at least 1, not `0`"),
        ("delayed_copy?noise=1", "E502: option `noise` must be at least 0 and less than 1, not `1`"),
        ("delayed_copy?noise=nan", "E502: option `noise` must be at least 0 and less than 1, not `nan`"),
        ("text:a?split=1", "E502: option `split` must lie between 0 and 1, not be `1`"),
        ("text:a?unit=word", "E502: option `unit` must be `character` or `byte`, not `word`"),
    ],
)
def test_bad_options(source: str, message: str) -> None:
    assert said(source) == message


def test_the_parts_of_a_text_do_not_overlap(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("".join(chr(0x100 + n) for n in range(1000)))
    data = open_data(f"text:{tmp_path}/t.txt?length=10&split=0.6", CLI)
    assert data.classes is not None and len(data.classes) == 601
    (tmp_path / "u.txt").write_text("ab" * 300 + "cd" * 100 + "ef" * 100)
    data = open_data(f"text:{tmp_path}/u.txt?length=10&split=0.6", CLI)
    assert data.classes == ("a", "b", "\ufffd") and data.validation is not None and data.test is not None
    assert set(data.train["y"].ravel()) == {0, 1}, "not even the last target is of validation"
    assert set(data.validation["x"].ravel()) == set(data.test["y"].ravel()) == {2}
    assert [len(table) for table in data.splits.values()] == [59, 19, 19]


def test_segments_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("".join(chr(0x100 + n) for n in range(1000)))
    flat, cut = (
        open_data(f"text:{tmp_path}/t.txt?length=12&split=0.6{more}", CLI) for more in ("", "&segment=4")
    )
    for name in ("x", "y"):
        assert cut.train[name].shape == (49, 3, 4)
        assert (cut.train[name].reshape(49, 12) == flat.train[name]).all()
    refusal = refused(f"text:{tmp_path}/t.txt?length=12&segment=5", CLI)
    assert refusal.code == "E502" and "12" in refusal.message and "5" in refusal.message


def test_bytes(tmp_path: Path) -> None:
    raw = bytes(range(256)) * 8
    (tmp_path / "t.bin").write_bytes(raw)
    data = open_data(f"text:{tmp_path}/t.bin?length=16&unit=byte&split=0.5", CLI)
    assert data.classes == BYTES and data.classes[65] == "0x41"
    x, y = data.train["x"].ravel(), data.train["y"].ravel()
    assert bytes(x.tolist()) == raw[: len(x)] and bytes(y.tolist()) == raw[1 : len(x) + 1]
    assert encode("é", BYTES).tolist() == [0xC3, 0xA9]
    (tmp_path / "e").write_bytes(b"")
    assert refused(f"text:{tmp_path}/e?unit=byte", CLI).code == "E506"
    short = refused(f"text:{tmp_path}/t.bin?length=60&unit=byte&split=0.95", CLI)
    assert short.code == "E516" and short.notes == (
        "train, validation and test have 1,946, 51 and 51; each needs more than one sample has",
    )


COPY = """
r2d2c: 1
model: copy
dims: {V: infer, C: infer, S: 24}
inputs: {x: "i64[B, T]"}
targets: {y: "i64[B]", next: "i64[B, T]", asked: "bool[B, T]"}
loops:
  read(tokens):
    over: T
    each: {t: tokens}
    carry: {h: "f32[B, S] = zeros"}
    body: |
      h = tanh(embedding(t, V, S) + linear(h, S))
      token = linear(h, V)
tasks:
  predict:
    behavior: |
      r = read(x)
      answer = linear(r.h, C)
    distance: cross_entropy(answer, y) + cross_entropy(r.token.steps, next, mask=asked)
outputs: {answer: predict.answer, tokens: predict.r.token.steps}
train:
  data: delayed_copy?delay=3&samples=400
  epochs: 6
  optimizer: adam(lr=1e-2)
  metrics: ["accuracy(answer, y)"]
"""

RAGGED = """
r2d2c: 1
model: ragged
dims: {S: 8}
inputs: {x: "f32[B, T, 2]", mask: "bool[B, T]"}
targets: {y: "f32[B, 1]"}
loops:
  read(rows, there):
    over: T
    each: {row: rows, is: there}
    carry: {h: "f32[B, S] = zeros"}
    body: h = where(unsqueeze(is, 1), tanh(linear(row, S) + linear(h, S)), h)
tasks:
  add:
    behavior: |
      r = read(x, mask)
      sum = linear(r.h, 1)
    distance: mse(sum, y)
outputs: {sum: add.sum}
train: {data: "adding?length=9&least=4&samples=64", epochs: 1}
"""


def test_padding_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "ragged.yaml").write_text(RAGGED)
    run = r2d2c.train(tmp_path / "ragged.yaml", out=tmp_path / "run", threads=1)
    table = open_data("adding?length=9&least=4&samples=64").train
    padded = r2d2c.predict(run, split="train")["sum"]
    assert len(set(table["length"])) == 6
    for row in range(0, 64, 7):
        x = torch.tensor(table["x"][row : row + 1, : table["length"][row]])
        alone = run.model(x=x, mask=torch.ones(x.shape[:2], dtype=torch.bool))["sum"]
        assert torch.allclose(alone, torch.tensor(padded[row]), atol=1e-6)


def test_a_spec_learns_both_forms_of_the_delayed_copy(tmp_path: Path) -> None:
    (tmp_path / "copy.yaml").write_text(COPY)
    run = r2d2c.train(tmp_path / "copy.yaml", out=tmp_path / "run", threads=1)
    assert run.test is not None and run.test["metrics"]["accuracy(answer, y)"] > 0.95
    assert run.origin.shapes == {"x": [5], "y": [], "next": [5], "asked": [5]}
    found = r2d2c.predict(run, "delayed_copy?delay=3&samples=8&seed=5", "train")
    table = open_data("delayed_copy?delay=3&samples=8&seed=5").train
    last = found["tokens"][:, -1].argmax(-1)
    assert (last == table["y"] + 1).mean() > 0.8 and found["tokens"].shape == (8, 5, 10)
    longer = r2d2c.evaluate(run, "delayed_copy?delay=40&samples=8")
    assert longer["samples"] == 2 and torch.tensor(longer["loss"]).isfinite()


PAGE = (Path(__file__).parents[2] / "docs/sequences.md").read_text("utf-8")


def test_the_spec_of_the_page_learns_and_goes_on(tmp_path: Path) -> None:
    (spec,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "characters.yaml").write_text(spec)
    (tmp_path / "tale.txt").write_text("In the beginning was the word. " * 130)
    run = r2d2c.train(tmp_path / "characters.yaml", out=tmp_path / "run", epochs=1, threads=1)
    said = r2d2c.generate(run, "In the", length=200, temperature=0.8, top_k=20, seed=1)
    assert len(said) == 200 and set(said) <= set("In the beginning was the word. ")


@pytest.mark.parametrize("task", [*TASKS, "text"])
def test_the_page_tells_every_column_and_option(task: str) -> None:
    source = next(source for source in SOURCES if source.name == task)
    columns = open_data(f"{task}?samples=4").train if task != "text" else ("x", "y")
    told = {*columns, *source.options} - {"samples", "test", "seed"}
    assert {name for name in told if not re.search(rf"`{name}\b", PAGE)} == set()
