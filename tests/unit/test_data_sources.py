"""Data sources: what they give."""

from pathlib import Path

import numpy as np
import pytest

from r2d2c.train.data import SOURCES, DataContext, Dataset, open_data
from r2d2c.train.data.text_file import encode
from tests.unit.data_files import CLI, WINE, idx_bytes, write_idx


def test_digits() -> None:
    data = open_data("digits")
    again = open_data("digits")
    assert (len(data.train), len(data.test or ())) == (1438, 359)
    assert data.train["x"].shape == (1438, 64)
    assert data.train["x"].dtype == np.float32
    assert data.train["image"].shape == (1438, 1, 8, 8)
    assert data.train["y"].dtype == np.int64
    assert data.train["x"].min() == 0
    assert data.train["x"].max() == 1
    assert np.array_equal(data.train["x"], again.train["x"])
    assert data.classes == tuple("0123456789")
    assert data.test is not None
    # stratified: every digit is in the test part as often as in the whole
    assert np.ptp(np.bincount(data.test["y"])) <= 2


def test_digits_and_tables() -> None:
    data = open_data("digits_and_tables")
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (1700, 425)
    assert data.classes is not None and len(data.classes) == 16 and data.classes[-1] == "iris virginica"
    first = {"wine": (10, 13, 0), "iris": (13, 4, 13)}
    for table in (data.train, data.test):
        y, length, values, fields = (table[name] for name in ("y", "length", "values", "fields"))
        there = np.arange(13) < length[:, None]
        assert np.array_equal(table["is_image"], y < 10) and np.array_equal(table["is_image"], length == 0)
        assert not values[~there].any() and not fields[~there].any()
        assert not table["image"][~table["is_image"]].any() and table["image"].max() == 1
        for lowest, size, field in first.values():
            rows = (y >= lowest) & (y < lowest + 3)
            assert set(length[rows]) == {size}
            assert (fields[rows][:, :size] == np.arange(field, field + size)).all()
    for lowest, size, _ in first.values():
        rows = (data.train["y"] >= lowest) & (data.train["y"] < lowest + 3)
        known = data.train["values"][rows][:, :size]
        assert np.allclose(known.mean(0), 0, atol=1e-5) and np.allclose(known.std(0), 1, atol=1e-5)
        other = data.test["values"][(data.test["y"] >= lowest) & (data.test["y"] < lowest + 3)][:, :size]
        assert not np.allclose(other.mean(0), 0, atol=1e-5), "test took no part in it"
    assert np.bincount(data.test["y"]).min() >= 9


def test_parity() -> None:
    data = open_data("parity?samples=400&length=9")
    assert (len(data.train), len(data.test or ())) == (400, 100)
    for table in (data.train, data.test):
        assert table is not None
        x, y, n = table["x"], table["y"], table["n"]
        assert x.shape == (len(table), 9) and x.dtype == np.float32 and y.dtype == n.dtype == np.int64
        assert ((x != 0) == (np.arange(9) < n[:, None])).all() and set(np.unique(x)) == {-1.0, 0.0, 1.0}
        assert ((x == 1).sum(1) % 2 == y).all()
        assert set(n) == set(range(1, 10)) and 0.4 < y.mean() < 0.6
    assert data.classes == ("even", "odd")
    again, other = open_data("parity?samples=400&length=9"), open_data("parity?samples=400&length=9&seed=1")
    assert np.array_equal(again.train["x"], data.train["x"]), "made from a seed, whatever the run's"
    assert not np.array_equal(other.train["x"], data.train["x"])
    assert data.test is not None and not np.array_equal(data.test["x"], data.train["x"][:100])


def test_validation_comes_out_of_train_on_demand() -> None:
    data = open_data("digits")
    split = data.with_validation(0.25, seed=3)
    again = data.with_validation(0.25, seed=3)
    assert split.validation is not None
    assert again.validation is not None
    assert len(split.train) + len(split.validation) == len(data.train)
    rows = {row.tobytes() for row in split.train["x"]} & {row.tobytes() for row in split.validation["x"]}
    assert not rows
    assert split.with_validation() is split
    assert np.array_equal(split.validation["x"], again.validation["x"])


def test_describe() -> None:
    assert open_data("digits").with_validation().describe() == (
        "digits: 1,797 handwritten digits of 8x8 pixels (scikit-learn); needs no download\n"
        "  train         1,294 samples\n"
        "  validation      144 samples\n"
        "  test            359 samples\n"
        "  x      f32[N, 64]  0 … 1\n"
        "  image  f32[N, 1, 8, 8]  0 … 1\n"
        "  y      i64[N]  10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    )


@pytest.mark.parametrize("packed", [False, True])
def test_idx(tmp_path: Path, packed: bool) -> None:
    write_idx(tmp_path, packed)
    data = open_data(f"idx:{tmp_path}", CLI)
    assert len(data.train) == 12
    assert len(data.test or ()) == 6
    assert data.train.columns["x"].array.dtype == np.uint8
    assert data.train["x"].dtype == np.float32
    assert data.train["image"].shape == (12, 1, 4, 4)
    assert np.array_equal(data.train["image"].reshape(12, 16), data.train["x"])
    assert data.train["x"].max() <= 1
    assert data.classes == ("0", "1", "2")


def test_idx_of_floats_and_dotted_names(tmp_path: Path) -> None:
    images = np.linspace(-1, 1, 2 * 3 * 3).reshape(2, 3, 3).astype(">f4")
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx_bytes(images, 0x0D))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx_bytes(np.array([0, 1], np.uint8)))
    data = open_data(f"idx:{tmp_path}", CLI)
    assert np.allclose(data.train["x"], images.reshape(2, 9))
    assert data.test is None


def test_npz_with_splits_and_without(tmp_path: Path) -> None:
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", train_x=x[:15], train_y=y[:15], test_x=x[15:], test_y=y[15:])
    np.savez_compressed(tmp_path / "b.npz", x_train=x[:15], y_train=y[:15], x_test=x[15:], y_test=y[15:])
    np.savez(tmp_path / "c.npz", x=x, y=y)
    a, b, c = (open_data(f"npz:{tmp_path}/{name}.npz?test=0.25", CLI) for name in "abc")
    for data in (a, b, c):
        assert (len(data.train), len(data.test or ())) == (15, 5)
        assert set(data.train) == {"x", "y"}
        assert data.classes == ("0", "1")
    assert np.array_equal(a.train["x"], b.train["x"])


def csv_data(tmp_path: Path, text: str, options: str = "") -> Dataset:
    (tmp_path / "wine.csv").write_text(text)
    return open_data(f"csv:{tmp_path}/wine.csv{options}", CLI)


def test_csv_classes(tmp_path: Path) -> None:
    data = csv_data(tmp_path, WINE)
    assert data.classes == ("bad", "good")
    assert data.train["x"].shape == (4, 2)
    assert set(data.train) == {"acid", "sugar", "quality", "x", "y"}
    assert data.notes == ("x is acid, sugar", "y is quality")


def test_csv_options(tmp_path: Path) -> None:
    data = csv_data(tmp_path, WINE, "?target=acid&features=sugar&test=0.4&seed=2")
    assert data.train["x"].shape == (3, 1)
    assert data.train.columns["y"].kind == "float"
    both = csv_data(tmp_path, WINE.replace(",", ";"), "?target=acid,sugar&features=sugar")
    assert both.train["y"].shape == (4, 2)


def test_csv_scaled_by_train(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},7,{i % 2}" for i in range(20))
    data = csv_data(tmp_path, f"a,b,y\n{rows}\n", "?scale=standard")
    assert np.allclose(data.train["x"].mean(0), 0)
    assert np.allclose(data.train["x"].std(0), [1, 0])
    assert data.classes == ("0", "1")


def test_text(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 5) for i in range(900)) + "ß" * 100
    (tmp_path / "t.txt").write_text(text)
    data = open_data(f"text:{tmp_path}/t.txt?length=8", CLI)
    assert data.classes == ("a", "b", "c", "d", "e", "\ufffd")
    assert data.validation is not None
    x, y = data.train["x"], data.train["y"]
    assert np.array_equal(x.ravel()[1:], y.ravel()[:-1])
    assert x.shape == (len(x), 8)
    assert set(data.validation["x"].ravel()) == {5}, "ß is not in train"
    assert encode("abcß", data.classes).tolist() == [0, 1, 2, 5]
    assert np.shares_memory(data.train.columns["x"].array, data.train.columns["y"].array)


def test_random_follows_the_ports() -> None:
    ports = {
        "x": ("f32", (None, 3)),
        "t": ("i64", (None, None)),
        "m": ("bool", (None,)),
        "h": ("bf16", (None,)),
    }
    context = DataContext(ports=ports, bounds={"t": 5})
    data = open_data("random?samples=8&length=4", context)
    assert data.train["x"].shape == (8, 3)
    assert data.train["t"].shape == (8, 4)
    assert set(data.train["t"].ravel()) <= set(range(5))
    assert data.train["m"].dtype == bool
    again = open_data("random?samples=8&length=4", context)
    assert np.array_equal(data.train["x"], again.train["x"])
    other = open_data("random?samples=8&seed=1", context)
    assert not np.array_equal(data.train["x"], other.train["x"])


def test_every_source_is_documented_and_its_options_are_in_its_usage() -> None:
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    for source in SOURCES:
        assert source.doc
        assert source.usage.startswith(source.name)
        assert all(f"{option}=" in source.usage for option in source.options), source.name
