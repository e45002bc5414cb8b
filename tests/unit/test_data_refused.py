"""What data sources say of damaged files and wrong arguments, each message in full."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from r2d2c.train.data import DataContext, open_data
from tests.unit.data_files import WINE, idx_bytes, refused, said, write_idx


def test_unknown_source() -> None:
    diagnostic = refused("digit")
    assert str(diagnostic) == "error[E501]: there is no data source `digit`"
    assert diagnostic.fix is not None
    assert diagnostic.fix.text == "did you mean `digits`?"
    assert diagnostic.notes == (
        "data sources: digits, digits_and_tables, wine, breast_cancer, diabetes, fashion_mnist, idx:FOLDER, npz:FILE, npy:FOLDER, csv:FILE, "
        "parquet:FILE, images:FOLDER, text:FILE, hf:NAME, formula:x0*x1 + x2, xor, spirals, parity, copy, "
        "delayed_copy, two_symbols, adding, addition, recall, random",
    )
    fix = refused("wine.csv").fix
    assert fix is not None
    assert fix.text == "did you mean `csv:wine.csv`?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits:5", "E502: `digits` takes no argument, it got `5`"),
        ("digits_and_tables:5", "E502: `digits_and_tables` takes no argument, it got `5`"),
        ("parity:5", "E502: `parity` takes no argument, it got `5`"),
        ("parity?length=0", "E502: option `length` must be a whole number of at least 1, not `0`"),
        ("digits?x=1", "E502: unknown option `x` of a data source"),
        ("csv:", "E502: `csv:` needs a path after the colon, as in `csv:PATH`"),
        ("csv:a\0b", "E502: `csv:` got a path with a NUL character in it"),
        ("text:a?length", "E502: option `length` of `a?length` has no value"),
        ("text:a?length=0", "E502: option `length` must be a whole number of at least 1, not `0`"),
        ("text:a?length=1e9", "E502: option `length` must be a whole number of at least 1, not `1e9`"),
        ("text:a?length=1&length=2", "E502: option `length` is given twice in `a?length=1&length=2`"),
        ("csv:a?test=1.5", "E502: option `test` must be at least 0 and less than 1, not `1.5`"),
        ("csv:a?test=nan", "E502: option `test` must be at least 0 and less than 1, not `nan`"),
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
