"""Which rows and columns of a file are used: splits, `train.columns`, and all rows of new data for a trained model."""

from pathlib import Path

import numpy as np
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.train.data import DataContext, open_data
from r2d2c.train.data.columns import with_classes
from tests.unit.data_files import CLI, refused, said

ROWS = [
    (k / 10, (k * 7) % 11, ("good", "bad", "fair")[k % 3], ("train", "val", "test")[k // 10])
    for k in range(30)
]
TEXT = "acid,the sugar,quality,part\n" + "".join(f"{a},{b},{c},{d}\n" for a, b, c, d in ROWS)

SPEC = """
r2d2c: 1
model: wine
dims: {C: infer}
inputs: {x: "f32[B, 2]"}
targets: {y: "i64[B]"}
tasks:
  t:
    behavior: logits = linear(x, C)
    distance: cross_entropy(logits, y)
outputs: {logits: t.logits}
train:
  data: csv:wine.csv?test=0.2
  columns: {x: [the sugar, acid], y: quality}
  epochs: 1
  metrics: ["accuracy(logits, y)"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wine.csv").write_text(TEXT)
    (tmp_path / "spec.yaml").write_text(SPEC)
    x = np.array([[row[1], row[0]] for row in ROWS])
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 3)
    return tmp_path


@pytest.mark.parametrize("file", ["csv:{}/wine.csv", "npz:{}/a.npz"])
def test_which_rows_are_test(folder: Path, file: str) -> None:
    text = file.format(folder)
    more = "&target=quality&features=acid" if "csv" in file else ""
    first = "acid" if "csv" in file else "x"
    sizes = {
        options: [len(table) for table in open_data(f"{text}?{options}{more}", CLI).splits.values()]
        for options in ("seed=0", "test=0", "test=0.1", "test=0.5&split=last")
    }
    assert sizes == {"seed=0": [24, 6], "test=0": [30], "test=0.1": [27, 3], "test=0.5&split=last": [15, 15]}
    every = open_data(f"{text}?test=0{more}", CLI)
    assert every.test is None
    last = open_data(f"{text}?test=0.2&split=last{more}", CLI)
    assert last.test is not None
    assert np.array_equal(last.train[first], every.train[first][:24])
    assert np.array_equal(last.test[first], every.train[first][24:])
    whole = open_data(f"{text}?{more[1:]}" if more else text, DataContext(trusted=True, whole=True))
    assert whole.test is None and np.array_equal(whole.train[first], every.train[first])
    asked = open_data(f"{text}?test=0.5{more}", DataContext(trusted=True, whole=True))
    assert len(asked.test or ()) == 15, "who asks for a split gets one"
    few = refused(f"{text}?test=0.01{more}")
    assert few.code == "E516" and few.fix is not None and few.fix.text == "hold nothing out: ?test=0"


def test_a_column_splits_the_rows(folder: Path) -> None:
    data = open_data(f"csv:{folder}/wine.csv?split=part", CLI)
    assert [len(table) for table in data.splits.values()] == [10, 10, 10]
    assert data.validation is not None and data.validation["acid"].tolist() == [row[0] for row in ROWS[10:20]]
    assert "part" not in data.train and data.classes == ("bad", "fair", "good"), (
        "the last column but that one"
    )
    where = f"column `quality` of {folder}/wine.csv splits the rows, and has"
    assert said(f"csv:{folder}/wine.csv?split=quality") == f"E508: {where} `bad`"
    where = f"column `acid` of {folder}/wine.csv splits the rows, and has"
    assert said(f"csv:{folder}/wine.csv?split=acid") == f"E508: {where} f64[N]"
    assert said(f"csv:{folder}/wine.csv?split=parts") == "E510: there is no column `parts` in the file"
    message = "E502: option `test` has no use where column `part` splits the rows"
    assert said(f"csv:{folder}/wine.csv?split=part&test=0.1") == message
    (folder / "b.csv").write_text("a,y,part\n1,2,test\n2,3,test\n")
    assert (
        said(f"csv:{folder}/b.csv?split=part")
        == f"E516: column `part` of {folder}/b.csv leaves no row for train"
    )
    scaled = open_data(f"csv:{folder}/wine.csv?split=part&scale=standard", CLI)
    assert scaled.test is not None
    mean, deviation = np.mean([row[0] for row in ROWS[:10]]), np.std([row[0] for row in ROWS[:10]])
    assert np.allclose(scaled.test["acid"], ([row[0] for row in ROWS[20:]] - mean) / deviation)
    assert np.allclose(scaled.test["x"][:, 0], scaled.test["acid"])


def test_columns_of_the_spec_go_to_its_ports(folder: Path) -> None:
    run = r2d2c.train(folder / "spec.yaml", out=folder / "run", threads=1)
    assert run.origin.classes == ("bad", "fair", "good"), "C is inferred from them"
    found = r2d2c.predict(run, f"csv:{folder}/wine.csv")
    x = torch.tensor([[row[1], row[0]] for row in ROWS], dtype=torch.float32)
    assert torch.allclose(torch.tensor(found["logits"]), run.model(x=x)["logits"], atol=1e-6)
    assert list(found.row) == list(range(30)) and set(found.split) == {"all"}
    one = r2d2c.train(
        folder / "spec.yaml", out=folder / "one", threads=1, settings=["train.columns.y=quality"]
    )
    assert one.metrics == one.metrics and one.origin.classes == run.origin.classes


def mistake(folder: Path, setting: str) -> Diagnostic:
    with pytest.raises(CompileError) as caught:
        r2d2c.train(folder / "spec.yaml", settings=[setting], out=folder / "never", threads=1)
    assert not (folder / "never").exists()
    return caught.value.diagnostics[0]


@pytest.mark.parametrize(
    ("setting", "message", "place"),
    [
        (
            "train.columns.x=[acid, suger]",
            "E510: the train data of csv:wine.csv has no column `suger`",
            "suger",
        ),
        (
            "train.columns.x=[acid, quality]",
            "E508: column `quality` of csv:wine.csv has classes, so it is not one of several",
            "quality",
        ),
        ("train.columns.z=acid", "E591: `z` is no input or target of the spec, so it takes no column", None),
        ("train.columns.x=[]", "E510: `columns` names no column for port `x`", None),
        ("train.columns.x=acid", "E511: port `x` is f32[N, 2], column `x` of csv:wine.csv is f64[N]", None),
        ("train.columns.y=acid", "E512: port `y` is i64[N], column `y` of csv:wine.csv is f64[N]", None),
    ],
)
def test_columns_that_do_not_fit(folder: Path, setting: str, message: str, place: str | None) -> None:
    if setting == "train.columns.y=acid":
        text = (folder / "spec.yaml").read_text().replace("C: infer", "C: 3")
        (folder / "spec.yaml").write_text(text)
    found = mistake(folder, setting)
    assert f"{found.code}: {found.message}" == message
    if place is not None:
        assert found.span is not None and found.span.text == place


def test_new_rows_need_no_target_and_no_split(folder: Path) -> None:
    run = r2d2c.train(folder / "spec.yaml", out=folder / "run", threads=1)
    (folder / "new.csv").write_text("acid,the sugar\n0.5,3\n")
    found = r2d2c.predict(run, f"csv:{folder}/new.csv")
    assert len(found) == 1 and found["logits"].shape == (1, 3)
    assert torch.allclose(torch.tensor(found["logits"]), run.model(x=torch.tensor([[3.0, 0.5]]))["logits"])
    assert len(r2d2c.predict(run, f"csv:{folder}/wine.csv", "test")) == 6
    np.savez(folder / "new.npz", **{"the sugar": np.arange(7.0), "acid": np.ones(7)})
    assert r2d2c.predict(run, f"npz:{folder}/new.npz")["logits"].shape == (7, 3)
    assert set(r2d2c.predict(run).split) == {"test"}


def test_other_data_has_the_classes_of_training(folder: Path) -> None:
    run = r2d2c.train(folder / "spec.yaml", out=folder / "run", threads=1)
    lines = TEXT.splitlines()
    good = [line for line in lines[1:] if ",good," in line]
    (folder / "good.csv").write_text("\n".join([lines[0], *good]))
    measured = r2d2c.evaluate(run, f"csv:{folder}/good.csv?test=0", "train")
    logits = torch.tensor(r2d2c.predict(run, f"csv:{folder}/good.csv")["logits"])
    loss = torch.nn.functional.cross_entropy(logits, torch.full((10,), 2))
    assert measured["loss"] == pytest.approx(loss.item(), rel=1e-5), "good is 2, as in training, not 0"
    (folder / "poor.csv").write_text(TEXT.replace("bad", "poor"))
    with pytest.raises(CompileError) as caught:
        r2d2c.evaluate(run, f"csv:{folder}/poor.csv")
    diagnostic = caught.value.diagnostics[0]
    assert (
        diagnostic.code == "E594"
        and "has the class `poor`, which the model was not trained on" in diagnostic.message
    )
    assert diagnostic.notes == ("its classes are: `bad`, `fair`, `good`",)
    numbered = open_data(f"npz:{folder}/a.npz", CLI)
    assert (
        numbered.classes == ("0", "1", "2")
        and with_classes(numbered, ("bad", "fair", "good"), None) is numbered
    )


def test_a_text_keeps_the_ids_of_training(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd" * 200)
    (tmp_path / "b.txt").write_text("bdz" * 200)
    (tmp_path / "spec.yaml").write_text(
        SPEC.replace("csv:wine.csv?test=0.2", "text:a.txt?length=8")
        .replace("  columns: {x: [the sugar, acid], y: quality}\n", "")
        .replace('x: "f32[B, 2]"', 'x: "i64[B, T]"')
        .replace("i64[B]", "i64[B, T]")
        .replace("linear(x, C)", "embedding(x, C, C)")
    )
    run = r2d2c.train(tmp_path / "spec.yaml", out=tmp_path / "run", threads=1)
    assert run.origin.classes == ("a", "b", "c", "d", "\ufffd")
    measured = r2d2c.evaluate(run, f"text:{tmp_path}/b.txt?length=8", "test")
    data = open_data(f"text:{tmp_path}/b.txt?length=8", CLI)
    assert data.test is not None
    ids = np.array([1, 3, 4])
    assert data.classes == ("b", "d", "z", "\ufffd")
    logits = run.model(x=torch.tensor(ids[data.test["x"]]))["logits"]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(ids[data.test["y"]]).flatten()
    )
    assert measured["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_other_data_for_a_run_is_scaled_as_its_training_data_was(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(5, 3, (40, 2))
    rows = [f"{a},{b},{a - b}" for a, b in numbers.tolist()]
    (tmp_path / "old.csv").write_text("\n".join(["a,b,y", *rows]) + "\n", "utf-8")
    (tmp_path / "new.csv").write_text("\n".join(["a,b", "7,1", "6,2"]) + "\n", "utf-8")
    (tmp_path / "other.csv").write_text("\n".join(["a,c", "7,1"]) + "\n", "utf-8")
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "r2d2c: 1\ndims: {D: 2}\ninputs: {x: 'f32[B, D]'}\ntargets: {y: 'f32[B, 1]'}\ntasks:\n  fit:\n"
        "    behavior: out = linear(x, 1)\n    distance: mse(out, y)\noutputs: {out: fit.out, seen: x * 1}\n",
        "utf-8",
    )
    run = r2d2c.train(
        spec, data=f"csv:{tmp_path}/old.csv?scale=standard&test=0", out=tmp_path / "run", epochs=1
    )
    for options, shift, scale in (("", numbers.mean(0), numbers.std(0)), ("&scale=none", 0, 1)):
        found = r2d2c.predict(run, data=f"csv:{tmp_path}/new.csv?features=a,b{options}")
        wanted = (np.array([[7, 1], [6, 2]]) - shift) / scale
        np.testing.assert_allclose(found.outputs["seen"], wanted, rtol=1e-5)
    with pytest.raises(CompileError, match=r"E595.*`c`"):
        r2d2c.predict(run, data=f"csv:{tmp_path}/other.csv?features=a,c")
