"""How often a file is read when it is opened and bound: what was seen in it then is not looked at again."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2d2c.diagnostics import Sink
from r2d2c.train.data import Column, Dataset, Port, Table, bind, csv_file, open_data, parquet, stored
from r2d2c.train.data.lazy import LazyRows, Reshaped, Scaled, Taken, extent_of, join
from tests.unit.data_files import CLI
from tests.unit.data_rows import Noted

X = np.random.default_rng(0).normal(size=(1000, 3)) * 100
Y = np.arange(1000) % 4


def written(kind: str, folder: Path, x: Any = X) -> str:
    """A file of two features and a target, as a source."""
    if kind == "csv":
        rows = "".join(f"{a},{b},{c},{y}\n" for (a, b, c), y in zip(x.tolist(), Y.tolist(), strict=True))
        (folder / "a.csv").write_text("a,b,c,y\n" + rows)
    elif kind == "parquet":
        table = pa.table({**{name: x[:, k] for k, name in enumerate("abc")}, "y": Y})
        pq.write_table(table, folder / "a.parquet", row_group_size=100)
    else:
        np.savez(folder / "a.npz", x=x, y=Y)
    return f"{kind}:{folder}/a.{kind}"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every file is large; how many rows are read after it was opened."""
    for module in (csv_file, parquet, stored):
        monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(csv_file, "_last", [])
    found: list[int] = []
    whole = LazyRows.__getitem__
    monkeypatch.setattr(LazyRows, "__getitem__", lambda self, rows: (found.append(1), whole(self, rows))[1])
    return found


def said(data: Dataset, ports: dict[str, Port], **options: Any) -> list[str]:
    sink = Sink()
    bind(data, ports, sink, **options)
    return [f"{each.code}: {each.message}" for each in sink.diagnostics]


@pytest.mark.parametrize("options", ["", "scale=standard"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_floats_are_looked_at_once(kind: str, options: str, tmp_path: Path, reads: list[int]) -> None:
    if kind == "npz" and options:
        options = "test=0.1"
    data = open_data(f"{written(kind, tmp_path)}?{options}", CLI)
    reads.clear()
    assert said(data, {"x": ("f32", (None, 3))}) == [] and not reads
    assert said(data, {"x": ("bf16", (None, 3))}) == [] and not reads


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_what_does_not_fit_is_found_all_the_same(kind: str, tmp_path: Path, reads: list[int]) -> None:
    x = X.copy()
    x[777, 1] = 1e300
    data = open_data(f"{written(kind, tmp_path, x)}?test=0", CLI)
    message = f"E509: port `x`: sample 777 of the train data of {data.name} is inf, not a finite number"
    assert said(data, {"x": ("f32", (None, 3))}) == [message] and reads
    reads.clear()
    assert said(data, {"x": ("f64", (None, 3))}) == [] and not reads
    x[777, 1] = 70_000
    data = open_data(f"{written(kind, tmp_path, x)}?test=0", CLI)
    assert said(data, {"x": ("f16", (None, 3))}) == [message] and said(data, {"x": ("f32", (None, 3))}) == []


def test_integers_that_an_f16_cannot_hold() -> None:
    data = Dataset("ints", Table({"x": Column(np.array([[1], [70_000], [3]]))}))
    message = "E509: port `x`: sample 1 of the train data of ints is inf, not a finite number"
    assert said(data, {"x": ("f16", (None, 1))}) == [message] and said(data, {"x": ("f32", (None, 1))}) == []


def test_the_extent_of_what_is_seen_in_another_way() -> None:
    values = np.array([[1.0, -7.0], [2.5, 4.0], [0.5, 3.0]])
    assert extent_of(values) == (-7.0, 4.0)
    assert extent_of(np.array([2, 2**62 + 1])) == (2, 2**62 + 1), "integers stay exact"
    assert extent_of(np.array([True, False])) == (False, True)
    for bad in (np.nan, np.inf, -np.inf):
        assert extent_of(np.array([1.0, bad])) is None
    assert extent_of(values[:0]) is None
    assert Noted(values).extent is None and Taken(Noted(values), np.array([0])).extent is None
    assert Reshaped(values, (2, 1)).extent == Taken(values, np.array([1])).extent == (-7.0, 4.0)
    assert join([Reshaped(values, (1, 2)), values[:, 0]], np.float64).extent == (-7.0, 4.0)
    assert join([Noted(values), values[:, 0]], np.float64).extent is None
    scaled = Scaled(values, np.array([1.0, 0.0]), np.array([0.5, 2.0]))
    low, high = scaled.extent or (0, 0)
    assert low <= scaled[:].min() and scaled[:].max() <= high and np.isfinite([low, high]).all()
    assert Scaled(values * 1e300, np.array([0.0, 0.0]), np.array([1e-20, 1.0])).extent is None
