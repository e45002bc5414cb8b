"""`parquet:FILE`: what it gives, whole and by row groups, against pyarrow and csv; and damaged files."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.train.data import bind, open_data, parquet
from r2d2c.train.data.lazy import Joined, LazyRows
from r2d2c.train.data.parquet import ParquetRows
from tests.unit.data_files import CLI, WINE, refused, said


def write(path: Path, groups: int | None = None, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=groups)
    return f"parquet:{path}"


def test_it_gives_what_csv_gives(tmp_path: Path) -> None:
    (tmp_path / "wine.csv").write_text(WINE)
    rows = [line.split(",") for line in WINE.split()[1:]]
    text = write(
        tmp_path / "wine.parquet",
        acid=[float(row[0]) for row in rows],
        sugar=[int(row[1]) for row in rows],
        quality=[row[2] for row in rows],
    )
    for options in ("", "?target=acid&features=sugar&test=0.4&seed=2", "?scale=standard", "?split=last"):
        csv, found = open_data(f"csv:{tmp_path}/wine.csv{options}", CLI), open_data(f"{text}{options}", CLI)
        assert found.notes == csv.notes and found.splits.keys() == csv.splits.keys()
        for split, table in csv.splits.items():
            for name in table:
                mine = found.splits[split].columns[name]
                assert np.array_equal(mine.array, table[name]) and mine.classes == table.columns[name].classes


def test_types(tmp_path: Path) -> None:
    n = 10
    text = write(
        tmp_path / "a.parquet",
        half=pa.array(np.arange(n, dtype=np.float16)),
        small=pa.array(np.arange(n, dtype=np.uint8)),
        flag=pa.array([k % 2 == 0 for k in range(n)]),
        price=pa.array([f"{k}.25" for k in range(n)]).cast(pa.decimal128(6, 2)),
        name=pa.array(["b", "a"] * 5).dictionary_encode(),
        vector=pa.array([[k, k + 1.0] for k in range(n)]),
        grid=pa.array([[[k, 2], [3, 4], [5, 6]] for k in range(n)], pa.list_(pa.list_(pa.int32(), 2), 3)),
        when=pa.array(range(n), pa.timestamp("ms")),
        label=pa.array([k % 3 for k in range(n)]),
    )
    data = open_data(f"{text}?test=0&features=half,vector", CLI)
    table = data.train
    assert {name: column.type_text for name, column in table.columns.items()} == {
        "half": "f16[N]",
        "small": "u8[N]",
        "flag": "bool[N]",
        "price": "f64[N]",
        "name": "i64[N]",
        "vector": "f64[N, 2]",
        "grid": "i32[N, 3, 2]",
        "label": "i64[N]",
        "x": "f64[N, 3]",
        "y": "i64[N]",
    }
    assert data.notes[-1] == "`when` is left out: it is timestamp[ms]"
    assert table["price"][3] == 3.25 and table["grid"][4].tolist() == [[4, 2], [3, 4], [5, 6]]
    assert table.columns["name"].classes == ("a", "b") and table["name"][:2].tolist() == [1, 0]
    assert table["x"][7].tolist() == [7, 7, 8] and data.classes == ("0", "1", "2")
    assert (
        said(f"{text}?features=when")
        == f"E508: column `when` of {tmp_path}/a.parquet is timestamp[ms], not numbers"
    )


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    columns = {
        "a": rng.normal(size=1000),
        "b": rng.normal(size=(1000, 3)).astype(np.float32),
        "label": rng.integers(0, 4, 1000),
    }
    text = write(
        tmp_path / "large.parquet",
        groups=64,
        a=columns["a"],
        b=pa.FixedSizeListArray.from_arrays(columns["b"].ravel(), 3),
        name=[f"n{k % 7}" for k in range(1000)],
        label=columns["label"],
    )
    monkeypatch.setattr(parquet, "LARGE", 0)
    return text, columns


def test_a_large_file_is_read_by_row_groups(large, monkeypatch: pytest.MonkeyPatch) -> None:
    text, truth = large
    data = open_data(f"{text}?test=0.3&seed=1", CLI)
    a = data.train.columns["a"].array
    assert isinstance(a, LazyRows) and a.block == 64 and len(a) == 700
    monkeypatch.setattr(parquet, "LARGE", 1 << 40)
    whole = open_data(f"{text}?test=0.3&seed=1", CLI)
    assert isinstance(whole.train.columns["a"].array, np.ndarray)
    for split in ("train", "test"):
        for name, column in whole.splits[split].columns.items():
            mine = data.splits[split].columns[name]
            assert mine.type_text == column.type_text and mine.classes == column.classes
            assert np.array_equal(data.splits[split][name], column.array)
            rows = np.array([5, 2, 2, 299])
            assert np.array_equal(mine.array[rows], column.array[rows])
            assert np.array_equal(mine.array[3:9], column.array[3:9]) and np.array_equal(
                mine.array[-1], column.array[-1]
            )
    assert np.array_equal(
        np.sort(np.concatenate([data.train["a"], data.splits["test"]["a"]])), np.sort(truth["a"])
    )
    sink = Sink()
    ports: Any = {"x": ("f32", (None, 4)), "y": ("i64", (None,))}
    lazy, memory = (bind(each, ports, sink) for each in (data, whole))
    assert lazy is not None and memory is not None and lazy.train is not None and memory.train is not None
    ours, theirs = (next(iter(each.train.loader(50).epoch(1))) for each in (lazy, memory))
    assert all(torch.equal(ours[port], theirs[port]) for port in ports)


def test_only_some_row_groups_are_kept_and_it_can_be_pickled(large, monkeypatch: pytest.MonkeyPatch) -> None:
    text, truth = large
    monkeypatch.setattr(parquet, "CACHE", 3 * 64 * 8)
    column = open_data(f"{text}?test=0", CLI).train.columns["a"].array
    assert isinstance(column, ParquetRows)
    assert np.array_equal(column[:], truth["a"]) and len(column.kept.parts) == 3
    again = pickle.loads(pickle.dumps(column))
    assert not again.kept.parts and again.kept.reader is None
    assert np.array_equal(again[[999, 0]], truth["a"][[999, 0]])
    scaled = open_data(f"{text}?scale=standard&test=0", CLI).train.columns["x"]
    assert isinstance(scaled.array, LazyRows)
    assert np.allclose(scaled.array[:].mean(0), 0) and np.allclose(scaled.array[:].std(0), 1)
    table = open_data(f"{text}?test=0", CLI).train
    both = pickle.loads(pickle.dumps(table.columns["x"].array))
    assert isinstance(both, Joined) and both.arrays[0].kept is both.arrays[1].kept, "they share what is kept"
    path = Path(text.partition(":")[2])
    write(path, a=[1.0, 2.0], label=[0, 1])
    with pytest.raises(CompileError, match="has changed since it was opened"):
        both[:]


def test_nothing_is_read_twice_or_wholly(large, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = large
    data = open_data(f"{text}?test=0", CLI)
    read: list[int] = []
    whole = parquet._Reader.group
    monkeypatch.setattr(
        parquet._Reader, "group", lambda self, name, k: (read.append(k), whole(self, name, k))[1]
    )
    x = data.train.columns["a"].array
    x[np.array([70, 71, 130, 69])]
    x[np.array([100])]
    assert read == [1, 2]
    with pytest.raises(IndexError):
        x[1000]


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, a=[1.0, 2.0], y=[0, 1])
    sound = path.read_bytes()
    for cut in (3, 8, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:cut])
        message = said(f"parquet:{path}")
        assert message.startswith(
            f"E505: {path} cannot be read: it is damaged, cut off or no Parquet file"
        ), message
    path.write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    assert refused(f"parquet:{path}").code == "E505"
    path.write_bytes(b"")
    assert said(f"parquet:{path}") == f"E506: {path} is empty"
    assert (
        said(f"parquet:{tmp_path}/b.parquet")
        == f"E503: cannot read {tmp_path}/b.parquet: there is no such file"
    )
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), path)
    assert said(f"parquet:{path}") == f"E506: {path} has no rows"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), path)
    assert said(f"parquet:{path}") == f"E507: {path} has two columns called `a`"
    pq.write_table(pa.table({"a": pa.array([1, 2], pa.timestamp("s"))}), path)
    assert said(f"parquet:{path}") == f"E508: {path} has no column of numbers or texts"
    fix = refused(f"{path}").fix
    assert fix is not None and fix.text == f"did you mean `parquet:{path}`?"


def test_a_damaged_page_names_its_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"a": np.random.default_rng(0).normal(size=5000), "y": np.zeros(5000)}),
        path,
        compression="snappy",
        use_dictionary=False,
    )
    sound = bytearray(path.read_bytes())
    sound[4:60] = bytes(56)
    path.write_bytes(sound)
    assert said(f"parquet:{path}").startswith(
        f"E505: column `a` of {path} cannot be read: the file is damaged"
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, None, 3.0, 4.0], "E509: column `a` of FILE has no value in row 1"),
        (["u", "v", None, "u"], "E509: column `a` of FILE has no value in row 2"),
        ([[1.0], [2.0], [3.0], [None]], "E509: column `a` of FILE has no value in row 3"),
        ([[[1.0]], [[2.0]], None, [[3.0]]], "E509: column `a` of FILE has no value in row 2"),
        ([1.0, 2.0, 3.0, float("nan")], "E509: column `a` of FILE has NaN or infinity in row 3"),
        (
            [[1.0, 2.0], [1.0, 2.0], [1.0, float("inf")], [0.0, 0.0]],
            "E509: column `a` of FILE has NaN or infinity in row 2",
        ),
        (
            [[1.0], [2.0], [3.0], [4.0, 5.0]],
            "E507: column `a` of FILE has 1 numbers in its first row and 2 in row 3",
        ),
    ],
)
@pytest.mark.parametrize("groups", [None, 2])
def test_bad_values(tmp_path: Path, column: list[Any], message: str, groups: int | None) -> None:
    path = tmp_path / "a.parquet"
    text = write(path, groups, a=column, y=[0, 1, 0, 1])
    assert said(text).replace(str(path), "FILE") == message


SPEC = """
r2d2c: 1
model: table
dims: {D: infer, C: infer}
inputs: {x: "f32[B, D]"}
targets: {y: "i64[B]"}
tasks: {t: {behavior: "logits = x |> linear(16) |> tanh |> linear(C)", distance: "cross_entropy(logits, y)"}}
outputs: {logits: t.logits}
train: {epochs: 30, optimizer: adam(lr=1e-2), metrics: ["accuracy(logits, y)"]}
"""


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "diabetes"])
def test_tables_of_scikit_learn_train_the_same_from_both_formats(tmp_path: Path, name: str) -> None:
    loaded = getattr(sklearn.datasets, f"load_{name}")()
    columns = {str(each): loaded.data[:, k].tolist() for k, each in enumerate(loaded.feature_names)}
    numbers = name == "diabetes"  # not classes
    target = (loaded.target / 100).tolist() if numbers else [loaded.target_names[k] for k in loaded.target]
    columns["target"] = [value if numbers else str(value) for value in target]
    rows = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "a.csv").write_text("\n".join([",".join(columns), *rows]))
    write(tmp_path / "a.parquet", **columns)
    spec = SPEC
    if numbers:
        changes = {
            ", C: infer": "",
            "i64[B]": "f32[B, 1]",
            "cross_entropy": "mse",
            "accuracy": "mse",
            "C)": "1)",
        }
        for old, new in changes.items():
            spec = spec.replace(old, new)
    (tmp_path / "spec.yaml").write_text(spec)
    csv, found = (
        r2d2c.train(
            tmp_path / "spec.yaml",
            data=f"{kind}:{tmp_path}/a.{kind}?scale=standard&target=target",
            out=tmp_path / kind,
            threads=1,
        )
        for kind in ("csv", "parquet")
    )
    assert csv.test is not None and found.test is not None
    assert found.test["loss"] == csv.test["loss"] and found.origin.classes == csv.origin.classes
    if numbers:
        assert csv.test["loss"] < 0.8 * np.var(target)
    else:
        assert csv.test["metrics"]["accuracy(logits, y)"] > 0.9
