"""Data sources: what they give, and what they say of damaged files, each message in full."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.train.data import SOURCES, DataContext, Dataset, open_data
from r2d2c.train.data.text_file import encode

CLI = DataContext(trusted=True)


def refused(text: str, context: DataContext = CLI) -> Diagnostic:
    with pytest.raises(CompileError) as caught:
        open_data(text, context)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def said(text: str, context: DataContext = CLI) -> str:
    diagnostic = refused(text, context)
    return f"{diagnostic.code}: {diagnostic.message}"


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, packed: bool, train: int = 12, test: int = 6, size: int = 4) -> None:
    rng = np.random.default_rng(0)
    for head, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        for name, array in ((f"{head}-images-idx3-ubyte", images), (f"{head}-labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)


# What is right


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


def test_validation_comes_out_of_train_on_demand() -> None:
    data = open_data("digits")
    split = data.with_validation(0.25, seed=3)
    assert split.validation is not None
    assert len(split.train) + len(split.validation) == len(data.train)
    rows = {row.tobytes() for row in split.train["x"]} & {row.tobytes() for row in split.validation["x"]}
    assert not rows
    assert split.with_validation() is split
    assert np.array_equal(split.validation["x"], data.with_validation(0.25, seed=3).validation["x"])  # type: ignore[union-attr]


def test_describe() -> None:
    assert open_data("digits").with_validation().describe() == (
        "digits: 1,797 handwritten digits of 8x8 pixels (scikit-learn); needs no download\n"
        "  train         1,294 samples\n"
        "  validation      144 samples\n"
        "  test            359 samples\n"
        "  x      f32[N, 64]\n"
        "  image  f32[N, 1, 8, 8]\n"
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


WINE = "acid,sugar,quality\n1.5,2,good\n0.5,1,bad\n2.5,3,good\n1.0,2,bad\n2.0,2,good\n"


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
    assert 0 <= data.train["t"].min()
    assert data.train["t"].max() < 5
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


# What is wrong


def test_unknown_source() -> None:
    diagnostic = refused("digit")
    assert str(diagnostic) == "error[E501]: there is no data source `digit`"
    assert diagnostic.fix is not None
    assert diagnostic.fix.text == "did you mean `digits`?"
    assert diagnostic.notes == (
        "data sources: digits, fashion_mnist, idx:FOLDER, npz:FILE, csv:FILE, text:FILE, random",
    )
    fix = refused("wine.csv").fix
    assert fix is not None
    assert fix.text == "did you mean `csv:wine.csv`?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits:5", "E502: `digits` takes no argument, it got `5`"),
        ("digits?x=1", "E502: unknown option `x` of a data source"),
        ("csv:", "E502: `csv:` needs a path after the colon, as in `csv:PATH`"),
        ("csv:a\0b", "E502: `csv:` got a path with a NUL character in it"),
        ("text:a?length", "E502: option `length` of `a?length` has no value"),
        ("text:a?length=0", "E502: option `length` must be a whole number of at least 1, not `0`"),
        ("text:a?length=1e9", "E502: option `length` must be a whole number of at least 1, not `1e9`"),
        ("text:a?length=1&length=2", "E502: option `length` is given twice in `a?length=1&length=2`"),
        ("csv:a?test=1.5", "E502: option `test` must lie between 0 and 1, not be `1.5`"),
        ("csv:a?test=nan", "E502: option `test` must lie between 0 and 1, not be `nan`"),
        ("csv:a?scale=max", "E502: option `scale` must be `standard` or `none`, not `max`"),
        ("random", "E502: `random` has no ports to make data for"),
    ],
)
def test_bad_arguments(text: str, message: str) -> None:
    assert said(text) == message


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "wine.csv").write_text(WINE)
    diagnostic = refused(f"csv:{tmp_path}/wino.csv")
    assert diagnostic.message == f"cannot read {tmp_path}/wino.csv: there is no such file"
    assert diagnostic.fix is not None
    assert diagnostic.fix.text == "did you mean `wine.csv`?"
    assert said(f"csv:{tmp_path}") == f"E503: cannot read {tmp_path}: it is a folder"
    assert said(f"idx:{tmp_path}/no") == f"E503: cannot read {tmp_path}/no: there is no such folder"
    assert said(f"idx:{tmp_path}") == f"E503: {tmp_path} has no training images in idx format"
    assert said("csv:/dev/zero") == "E503: cannot read /dev/zero: it is not a regular file"
    assert said(f"csv:{tmp_path}/{'x' * 300}").startswith("E503: cannot read ")


def test_a_spec_names_data_inside_its_folder_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "spec", tmp_path / "secret"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "wine.csv").write_text(WINE)
    (inside / "sub" / "wine.csv").write_text(WINE)
    (inside / "link.csv").symlink_to(outside / "wine.csv")
    (inside / "loop.csv").symlink_to(inside / "loop.csv")
    (inside / "good.csv").symlink_to(inside / "sub" / "wine.csv")
    context = DataContext(root=inside)
    assert len(open_data("csv:sub/wine.csv", context).train) == 4
    assert len(open_data("csv:good.csv", context).train) == 4
    assert len(open_data("csv:sub/../sub/wine.csv", context).train) == 4
    for name in ("../secret/wine.csv", str(outside / "wine.csv"), "link.csv", "sub/../../secret/wine.csv"):
        assert refused(f"csv:{name}", context).code == "E504", name
    diagnostic = refused("csv:../secret/wine.csv", context)
    assert diagnostic.message == f"the spec names data outside its own folder: {inside}/../secret/wine.csv"
    assert diagnostic.fix is not None
    assert diagnostic.fix.text == "name this data on the command line: --data SOURCE:PATH"
    assert refused("csv:loop.csv", context).code in ("E503", "E504")
    assert (
        said("csv:wine.csv", DataContext()) == "E504: a spec that is not in a file cannot name `csv:wine.csv`"
    )
    write_idx(outside, packed=False)
    (inside / "images").mkdir()
    for path in outside.glob("*ubyte"):
        (inside / "images" / path.name).symlink_to(path)
    assert refused("idx:images", context).code == "E504", "a link inside a folder of the spec's"


def change(tmp_path: Path, name: str, edit: Callable[[bytes], bytes], packed: bool = False) -> str:
    write_idx(tmp_path, packed)
    path = tmp_path / name
    path.write_bytes(edit(path.read_bytes()))
    return said(f"idx:{tmp_path}").replace(str(tmp_path), "DIR")


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def test_damaged_idx(tmp_path: Path) -> None:
    sound = f"E505: DIR/{IMAGES} is not a sound idx file: "
    assert change(tmp_path, IMAGES, lambda b: b[:100]) == sound + (
        "its header promises 192 bytes, the file has 100 on disk"
    )
    assert change(tmp_path, IMAGES, lambda b: b[:-3]) == sound + (
        "its header promises 192 bytes from byte 16 on, there are only 189"
    )
    assert change(tmp_path, IMAGES, lambda b: b + b"x") == sound + (
        "its header promises 192 bytes from byte 16 on, there are more"
    )
    assert (
        change(tmp_path, IMAGES, lambda b: b[:2])
        == sound + "it ends at byte 2, inside the 4-byte magic number"
    )
    assert (
        change(tmp_path, IMAGES, lambda b: b[:9])
        == sound + "it ends at byte 9, inside its header of 16 bytes"
    )
    assert change(tmp_path, IMAGES, lambda b: b"PNG!" + b[4:]) == sound + (
        "it does not start with an idx magic number, but with bytes 50 4e 47 21"
    )
    huge = b"\0\0\x08\x03" + b"\xff" * 12
    assert change(tmp_path, IMAGES, lambda b: huge + b[16:]).startswith(
        sound + "its header promises 79,228,162"
    )
    assert change(tmp_path, LABELS, lambda b: idx_bytes(np.zeros(5, np.uint8))) == (
        f"E507: DIR/{IMAGES} has 12 images, DIR/{LABELS} 5 labels"
    )
    assert change(tmp_path, LABELS, lambda b: idx_bytes(np.zeros(12, ">f4"), 0x0D)) == (
        f"E505: DIR/{LABELS} is not a sound idx file: its labels are float32, not integers"
    )
    assert change(tmp_path, IMAGES, lambda b: idx_bytes(np.zeros(12, np.uint8))) == sound + (
        "it holds an array of 1 axes, as images have 3 or 4 and labels 1"
    )
    write_idx(tmp_path, packed=False)
    (tmp_path / LABELS).unlink()
    assert said(f"idx:{tmp_path}") == f"E503: {tmp_path}/{IMAGES} has no file of labels beside it"
    write_idx(tmp_path, packed=False, train=0)
    assert said(f"idx:{tmp_path}") == f"E506: {tmp_path}/{IMAGES} has no images (its shape is [0, 4, 4])"


def test_damaged_gz(tmp_path: Path) -> None:
    name = f"{IMAGES}.gz"
    for edit in (
        lambda b: b[: len(b) // 2],
        lambda b: b[:-4],
        lambda b: b"no gzip at all",
    ):
        message = change(tmp_path, name, edit, packed=True)
        assert message.startswith(
            f"E505: DIR/{name} is not a sound idx file: its gzip stream is damaged or cut"
        ), message
    assert change(tmp_path, name, lambda b: b[:20] + bytes(40) + b[60:], packed=True).startswith("E505: ")
    assert change(tmp_path, name, lambda b: b"", packed=True) == (
        f"E505: DIR/{name} is not a sound idx file: it ends at byte 0, inside the 4-byte magic number"
    )


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x = np.arange(2000.0).reshape(1000, 2)
    np.savez(path, x=x, y=np.array([{}] * 1000, dtype=object))
    diagnostic = refused(f"npz:{path}")
    assert (diagnostic.code, diagnostic.message) == ("E508", f"array `y` of {path} holds Python objects")
    assert diagnostic.notes == ("r2d2c never unpickles data: a pickle can run any code",)
    np.savez(path, x=x, y=np.array(["a"] * 1000))
    assert said(f"npz:{path}") == f"E508: array `y` of {path} is <U1, not numbers"
    np.savez(path, x=np.where(x == 7, np.nan, x))
    assert said(f"npz:{path}") == f"E509: array `x` of {path} has NaN or infinity in row 3"
    np.savez(path, x=x, y=np.zeros(999))
    assert said(f"npz:{path}") == f"E507: the arrays of {path} differ in their number of rows"
    np.savez(path, x=x, train_y=np.zeros(3))
    assert said(f"npz:{path}") == f"E507: {path} mixes arrays with and without a split in their names"
    np.savez(path, test_x=x)
    assert said(f"npz:{path}") == f"E516: {path} has no training arrays, only test_x"
    np.savez(path, x=np.float64(3))
    assert said(f"npz:{path}") == f"E507: array `x` of {path} is a single number, not a sample a row"
    np.savez(path, train_x=np.zeros((0, 3)))
    assert said(f"npz:{path}") == f"E506: the train arrays of {path} are empty"
    np.savez(path)
    assert said(f"npz:{path}") == f"E506: {path} has no arrays in it"
    path.write_bytes(b"")
    assert said(f"npz:{path}") == f"E506: {path} is empty"
    path.write_bytes(b"not a zip at all")
    assert said(f"npz:{path}") == f"E505: {path} is no npz file: it starts with bytes 6e 6f 74 20 61 20 7a 69"
    np.savez(path, x=x)
    whole = path.read_bytes()
    for cut in range(8, len(whole), 997):
        path.write_bytes(whole[:cut])
        assert refused(f"npz:{path}").code == "E505"
    path.write_bytes(whole[:500] + b"\xff" + whole[501:])
    assert refused(f"npz:{path}").code == "E505", "the zip's own checksum"
    with path.open("wb") as stream:
        np.save(stream, x)
    assert said(f"npz:{path}") == f"E505: {path} is a single .npy array"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "E506: FILE is empty"),
        ("\n \n", "E506: FILE is empty"),
        ("a,b\n", "E506: FILE has no rows below its header"),
        ("a,b,y\n1,2,0\n3,4\n", "E507: FILE:3: 2 cells, where the header has 3"),
        ("a,a\n1,2\n", "E507: FILE:1: two columns are called `a`"),
        ("a,,y\n1,2,3\n", "E507: FILE:1: column 2 has no name in the header"),
        ("1,2\n3,4\n", "E507: FILE:1: the first line must be a header with names, it has only numbers"),
        ("a,y\n1,2\n,3\n", "E509: FILE:3: column `a` has an empty cell"),
        ("a,y\n1,2\nnan,3\n", "E509: FILE:3: column `a` has `nan`, which is no finite number"),
        ("a,y\n1,2\n1e999,3\n", "E509: FILE:3: column `a` has `1e999`, which is no finite number"),
        ('a,y\n1,2\n"3,4\n', "E505: FILE:3: not sound CSV (unexpected end of data)"),
        ("a,y\nx,1\ny,2\n", "E508: FILE leaves no column for `x`"),
        (
            "a,y\n" + "1,2\n" * 30 + "O.5,2\n",
            "E508: FILE:32: column `a` has `O.5`, where the other rows have numbers",
        ),
        ("a,y\n1,2\n", "E516: 1 samples cannot be split with a fraction of 0.2"),
        ("a,y\n1,2\0\n", "E515: FILE:2: there is a NUL character in it, so it is no text"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wine.csv"
    path.write_text(text)
    assert said(f"csv:{path}").replace(str(path), "FILE") == message


def test_csv_of_another_encoding_and_column(tmp_path: Path) -> None:
    path = tmp_path / "wine.csv"
    path.write_bytes("a,y\n1,gut\n2,schön\n".encode("latin1"))
    assert said(f"csv:{path}") == f"E515: {path}:3: byte 15 (0xf6) is not UTF-8"
    path.write_text(WINE)
    diagnostic = refused(f"csv:{path}?target=qualty")
    assert diagnostic.message == "there is no column `qualty` in the file"
    assert diagnostic.fix is not None
    assert diagnostic.fix.text == "did you mean `quality`?"
    assert (
        said(f"csv:{path}?features=acid,quality&target=sugar")
        == f"E508: column `quality` of {path} is not of numbers"
    )


def test_bad_text(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"abc\n\xff\xfe")
    assert said(f"text:{path}") == f"E515: {path}:2: byte 4 (0xff) is not UTF-8"
    path.write_text("short")
    assert said(f"text:{path}") == f"E516: {path} has 5 characters, too few for samples of 64"
    path.write_text("")
    assert said(f"text:{path}") == f"E506: {path} is empty"
