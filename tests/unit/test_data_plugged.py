"""Sources of data from elsewhere: plug-ins, and Hugging Face's library by a stand-in with its API's shape."""

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.train.data import DataContext, Dataset, DataSource, Table, hugging_face, open_data
from r2d2c.train.data.lazy import LazyRows
from r2d2c.train.data.plugged import plugged_sources
from tests.unit.data_files import CLI, refused, said

PLUGIN = """
import numpy
from r2d2c.train.data import Column, Dataset, DataSource, Table

def open_line(argument, context):
    if argument == "bad":
        return 1 / 0
    if argument == "none":
        return numpy.zeros(3)
    if argument == "empty":
        return Dataset("line", Table({"x": Column(numpy.zeros((0, 2)))}))
    x = numpy.linspace(0, 1, 2 * int(argument)).reshape(-1, 2)
    return Dataset("line", Table({"x": Column(x), "y": Column(x.sum(1) * 2)}))

DATA_SOURCES = (DataSource("line", "points of a line", "line:COUNT", open_line),)
"""

SPEC = """
r2d2c: 1
model: fit
inputs: {x: "f32[B, 2]"}
targets: {y: "f32[B, 1]"}
tasks: {t: {behavior: "out = linear(x, 1)", distance: "mse(out, y)"}}
outputs: {out: t.out}
train: {data: "line:12", epochs: 1}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "fit.yaml").write_text(SPEC)
    return tmp_path / "mine.py"


def test_a_plug_in_brings_a_source(plugin: Path) -> None:
    spec = plugin.parent / "fit.yaml"
    run = r2d2c.train(spec, plugins=[plugin], out=plugin.parent / "run", threads=1)
    assert run.origin.shapes == {"x": [2], "y": [1]}
    assert len(r2d2c.predict(run, "line:5")) == 5, "a run knows its plug-ins"
    with pytest.raises(CompileError) as caught:
        r2d2c.train(spec, out=plugin.parent / "never")
    assert caught.value.diagnostics[0].code == "E501", "who gives no plug-in has no such source"
    record = plugged_sources([plugin], ())
    assert len(open_data("line:7", extra=record).train) == 7
    assert len(open_data("line:7", extra=plugged_sources(record, ())).train) == 7, "a record itself will do"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "r2d2c", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


def test_the_command_line_takes_it_too(plugin: Path) -> None:
    listed = command(plugin.parent, "data", "--plugin", "mine.py").stdout
    assert "of plug-ins" in listed and "line:COUNT" in listed
    found = json.loads(
        command(plugin.parent, "data", "line:3", "--plugin", "mine.py", "--format", "json").stdout
    )
    assert found["splits"] == {"train": 3} and found["ranges"] == {"x": [0, 1], "y": [0.4, 3.6]}
    done = command(
        plugin.parent, "train", "fit.yaml", "--plugin", "mine.py", "--data", "line:4", "--out", "run"
    )
    assert done.returncode == 0, done.stderr
    done = command(
        plugin.parent, "eval", "run", "--plugin", "mine.py", "--data", "line:4", "--split", "train"
    )
    assert "4 samples" in done.stdout, done.stderr


def mistake(*sources: Any, text: str = "line:3") -> str:
    with pytest.raises(CompileError) as caught:
        open_data(text, extra=plugged_sources([types.SimpleNamespace(DATA_SOURCES=sources)], ("csv",)))
    diagnostic = caught.value.diagnostics[0]
    return f"{diagnostic.code}: {diagnostic.message}"


def test_sources_that_cannot_be(plugin: Path) -> None:
    def record(name: str) -> DataSource:
        return DataSource(name, "", name, lambda argument, context: Dataset("a", Table({})))

    cannot = "E592: a plug-in cannot be used: "
    assert mistake(record("csv")) == cannot + "the data source `csv` is built in"
    assert (
        mistake(record("A b"))
        == cannot + "`A b` cannot be the name of a data source: small letters, digits and `_`"
    )
    assert mistake("line") == cannot + "`DATA_SOURCES` has str, not a record `DataSource`"
    two = "two plug-ins bring a data source `line`, and they are not the same"
    assert mistake(record("line"), record("line")) == cannot + two
    (found,) = plugged_sources([plugin], ())
    with pytest.raises(CompileError) as caught:
        found.open("bad", DataContext())
    diagnostic = caught.value.diagnostics[0]
    raised = "the data source `line` of a plug-in raised ZeroDivisionError: division by zero"
    assert (diagnostic.code, diagnostic.message) == ("E593", raised)
    assert diagnostic.notes == (f"in {plugin}:7",)
    for argument, message in (
        ("none", "E593: the data source `line` of a plug-in gave ndarray"),
        ("empty", "E506: the data source `line` of a plug-in gave no samples"),
    ):
        with pytest.raises(CompileError) as caught:
            found.open(argument, DataContext())
        assert f"{caught.value.diagnostics[0].code}: {caught.value.diagnostics[0].message}" == message


# Hugging Face: what `datasets` has of its API, in memory


class Value:
    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class ClassLabel:
    dtype = "int64"

    def __init__(self, names: list[str]) -> None:
        self.names = names


class _Image:
    dtype = "PIL.Image.Image"


_Image.__name__ = "Image"


class Sequence:
    dtype = "list"


class Stored:
    """As `datasets.Dataset`: rows by a slice or a list of numbers give a dict of lists."""

    def __init__(self, features: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        self.features, self.columns = features, columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def select_columns(self, names: list[str]) -> "Stored":
        return Stored({n: self.features[n] for n in names}, {n: self.columns[n] for n in names})

    def __getitem__(self, rows: slice | list[int]) -> dict[str, list[Any]]:
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
        return {name: [values[row] for row in chosen] for name, values in self.columns.items()}


class Library(types.ModuleType):
    __version__ = "4.1.0"

    def __init__(self) -> None:
        super().__init__("datasets")
        self.calls: list[tuple[Any, ...]] = []
        self.found: Any = None
        self.DownloadConfig = lambda local_files_only: "local" if local_files_only else "anywhere"

    def load_dataset(self, path: str, name: str | None = None, *, download_config: str) -> Any:
        self.calls.append((path, name, download_config))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def load_from_disk(self, path: str) -> Any:
        self.calls.append(("disk", path))
        return self.found


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    made = Library()
    monkeypatch.setitem(sys.modules, "datasets", made)
    yield made


def pictures(count: int, size: int = 5) -> list[Any]:
    rng = np.random.default_rng(count)
    return [Image.fromarray(rng.integers(0, 256, (size, 4), dtype=np.uint8)) for _ in range(count)]


def digits(count: int) -> Stored:
    features = {"image": _Image(), "label": ClassLabel(["zero", "one"]), "caption": Value("string")}
    columns = {"image": pictures(count), "label": [k % 2 for k in range(count)], "caption": ["a"] * count}
    return Stored(features, columns)


def test_images_and_classes(library: Library) -> None:
    library.found = {"train": digits(8), "test": digits(4)}
    data = open_data("hf:someone/digits?config=small", CLI)
    assert library.calls == [("someone/digits", "small", "local")], "nothing is downloaded"
    assert {name: len(table) for name, table in data.splits.items()} == {"train": 8, "test": 4}
    assert data.train.columns["image"].type_text == "f32[N, 1, 5, 4]" and data.classes == ("zero", "one")
    expected = np.stack([np.asarray(each)[None] for each in pictures(8)])
    assert np.array_equal(data.train.columns["image"].array, expected)
    assert data.train["y"].tolist() == [0, 1] * 4 and data.notes == ("`caption` is left out: it is string",)


def test_numbers_and_splits(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {
        "speed": [k / 2 for k in range(10)],
        "vector": [[k, 1] for k in range(10)],
        "label": [k % 3 for k in range(10)],
    }
    library.found = Stored(
        {"speed": Value("float64"), "vector": Sequence(), "label": Value("int64")}, numbers
    )
    data = open_data("hf:cars?x=vector&y=speed&test=0.3&split=last", CLI)
    assert [len(table) for table in data.splits.values()] == [7, 3]
    assert (
        data.train["x"].tolist() == numbers["vector"][:7] and data.train["y"].tolist() == numbers["speed"][:7]
    )
    assert open_data("hf:cars?test=0", CLI).classes == ("0", "1", "2")
    library.found = {"train": library.found}
    assert len(open_data("hf:cars?test=0", CLI).train) == 10, "a set of one split has none of its own"
    library.found = {"test": digits(2), "extra": digits(2)}
    assert said("hf:cars") == "E516: hf:cars has no split `train`"
    library.found = digits(6)
    monkeypatch.setattr(hugging_face, "LARGE", 0)
    lazy = open_data("hf:cars?test=0.5", CLI).train.columns["image"].array
    assert isinstance(lazy, LazyRows) and lazy[[2, 0]].shape == (2, 1, 5, 4)


def test_folders_on_disk(library: Library, tmp_path: Path) -> None:
    library.found = digits(10)
    folder = tmp_path / "spec" / "mine"
    folder.mkdir(parents=True)
    open_data(f"hf:{folder}", CLI)
    (folder / "state.json").write_text("{}")
    open_data(f"hf:{folder}", CLI)
    context = DataContext(root=tmp_path / "spec")
    open_data("hf:mine", context)
    assert library.calls == [(str(folder), None, "local"), ("disk", str(folder)), ("disk", str(folder))]
    (tmp_path / "other").mkdir()
    assert refused("hf:../other", context).code == "E504"
    assert refused(f"hf:{tmp_path}/other", context).code == "E504"
    assert refused(f"hf:{tmp_path}/nowhere", CLI).code == "E503"
    assert refused(f"hf:{'x' * 300}/", CLI).code == "E503"
    assert refused("hf:", CLI).code == refused("hf:a\0b", CLI).code == "E502"


def test_what_is_wrong_with_it(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.found = ConnectionError("Couldn't reach it\nand more")
    diagnostic = refused("hf:someone/digits")
    assert (diagnostic.code, diagnostic.message) == (
        "E503",
        "cannot read hf:someone/digits: ConnectionError: Couldn't reach it",
    )

    def column(feature: Any, values: list[Any]) -> str:
        library.found = Stored({"a": feature}, {"a": values})
        return said("hf:a")

    assert column(Value("float64"), [1.0, None]) == "E509: column `a` of hf:a has no value in row 1"
    assert (
        column(Value("float64"), [1.0, 2.0, np.inf])
        == "E509: column `a` of hf:a has NaN or infinity in row 2"
    )
    assert column(Sequence(), [[1], [1, 2]]) == "E507: column `a` of hf:a has lists of different lengths"
    message = "E509: column `a` of hf:a has no value in row 1"
    assert column(Sequence(), [[1, 2], [1, None]]) == message
    assert column(Value("string"), ["a", "b"]) == "E508: hf:a has no column of numbers, classes or images"
    assert column(Value("int64"), []) == "E506: hf:a has no samples"
    unequal = [*pictures(2), *pictures(1, size=6)]
    message = "E507: column `a` of hf:a has images of 5x4 in row 0 and 6x4 in row 2"
    assert column(_Image(), unequal) == message
    assert column(_Image(), [*pictures(1), None]) == "E509: column `a` of hf:a has no value in row 1"
    library.found = digits(4)
    assert said("hf:a?y=lable") == "E510: hf:a has no column `lable`"
    library.__version__ = "2.14.0"
    assert said("hf:a") == "E590: `datasets` 2.14.0 may run code that comes with a data set"
    monkeypatch.setitem(sys.modules, "datasets", None)
    diagnostic = refused("hf:a")
    assert diagnostic.code == "E590" and diagnostic.fix is not None
    assert diagnostic.fix.text == "pip install datasets"


def test_remote_code_is_refused_by_older_versions(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def load(
        path: str, name: str | None, *, download_config: str, trust_remote_code: bool | None = None
    ) -> Any:
        given["trust_remote_code"] = trust_remote_code
        return digits(10)

    monkeypatch.setattr(library, "load_dataset", load)
    open_data("hf:a", CLI)
    assert given == {"trust_remote_code": False}
