"""`images:FOLDER`: what is decoded, against pillow; splits, laziness, and files that are no pictures."""

import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from r2d2c.diagnostics import CompileError
from r2d2c.train.data import DataContext, images, open_data
from r2d2c.train.data.images import ImageRows
from r2d2c.train.data.lazy import LazyRows
from tests.unit.data_files import CLI, refused, said

CLASSES = ("cat", "dog", "owl")


def picture(seed: int, height: int = 6, width: int = 4, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fill(folder: Path, count: int = 5, **size: int) -> dict[str, np.ndarray]:
    """Pictures by their paths below the folder."""
    made = {}
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            array = picture(100 * label + number, **size)
            Image.fromarray(array).save(folder / name / f"{number}.png")
            made[f"{name}/{number}.png"] = array
    return made


def test_png_in_class_folders(tmp_path: Path) -> None:
    made = fill(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "dog/.thumb.png").write_bytes(b"no picture")
    (tmp_path / "README.txt").write_text("not a class")
    (tmp_path / "owl/notes.txt").write_text("not a picture")
    data = open_data(f"images:{tmp_path}?test=0", CLI)
    assert data.classes == CLASSES and data.test is None and len(data.train) == 15
    assert data.train.columns["image"].type_text == "f32[N, 3, 6, 4]"
    assert data.train.columns["image"].array.dtype == np.uint8
    expected = np.stack([made[key].transpose(2, 0, 1) for key in sorted(made)]) / np.float32(255)
    assert np.array_equal(data.train["image"], expected)
    assert np.array_equal(data.train["x"], expected.reshape(15, -1))
    assert data.train["y"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.notes == (f"1 files are not jpg or png, as {tmp_path}/owl/notes.txt",)


def test_splits(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    data = open_data(f"images:{tmp_path}?test=0.2", CLI)
    assert data.test is not None and np.bincount(data.test["y"]).tolist() == [2, 2, 2]
    whole = open_data(f"images:{tmp_path}?test=0", CLI).train["x"]
    last = open_data(f"images:{tmp_path}?test=0.2&split=last", CLI)
    assert last.test is not None
    assert np.array_equal(last.test["x"], whole[[8, 9, 18, 19, 28, 29]])
    own = tmp_path / "own"
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        fill(own / split, count)
    found = open_data(f"images:{own}", CLI)
    assert {name: len(table) for name, table in found.splits.items()} == {
        "train": 9,
        "validation": 6,
        "test": 3,
    }
    assert (
        said(f"images:{own}?test=0.5")
        == f"E502: {own} has splits of its own, so they are no options: test, train, val"
    )
    (own / "test/yak").mkdir()
    Image.fromarray(picture(0)).save(own / "test/yak/a.png")
    assert said(f"images:{own}") == f"E507: {own} has no class `yak` in train, and has it in test"


def test_grey_colour_and_size(tmp_path: Path) -> None:
    made = fill(tmp_path, 2, channels=1)
    grey = open_data(f"images:{tmp_path}?test=0", CLI).train["image"]
    assert grey.shape == (6, 1, 6, 4) and np.array_equal(grey[0, 0] * np.float32(255), made["cat/0.png"])
    three = open_data(f"images:{tmp_path}?test=0&channels=3", CLI).train["image"]
    assert three.shape == (6, 3, 6, 4) and (three == three[:, :1]).all()
    resized = open_data(f"images:{tmp_path}?test=0&size=3x5", CLI).train["image"]
    expected = np.asarray(Image.fromarray(made["owl/1.png"]).resize((5, 3), Image.Resampling.BILINEAR))
    assert resized.shape == (6, 1, 3, 5)
    assert np.array_equal(resized[5, 0], expected / np.float32(255))
    Image.fromarray(picture(1)).save(tmp_path / "dog/9.jpg", quality=95)
    mixed = open_data(f"images:{tmp_path}?test=0", CLI).train["image"]
    assert mixed.shape == (7, 3, 6, 4), "one with colours, so all have three channels"
    assert np.array_equal(open_data(f"images:{tmp_path}?test=0&channels=1", CLI).train["image"][0], grey[0])


def test_sixteen_bits_and_alpha(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    deep = np.linspace(0, 65535, 24).reshape(6, 4).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a/0.png")
    found = open_data(f"images:{tmp_path}?test=0", CLI).train.columns["image"].array
    assert np.array_equal(found[0, 0], deep >> 8)
    with_alpha = np.concatenate([picture(0), np.full((6, 4, 1), 9, np.uint8)], axis=2)
    Image.fromarray(with_alpha).save(tmp_path / "a/0.png")
    found = open_data(f"images:{tmp_path}?test=0", CLI).train.columns["image"].array
    assert np.array_equal(found[0], with_alpha[..., :3].transpose(2, 0, 1))


def test_many_are_decoded_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 10)
    whole = open_data(f"images:{tmp_path}?test=0.3", CLI)
    monkeypatch.setattr(images, "LARGE", 0)
    data = open_data(f"images:{tmp_path}?test=0.3", CLI)
    decoded: list[int] = []
    read = ImageRows.read
    monkeypatch.setattr(
        ImageRows, "read", lambda self, rows: (decoded.extend(rows.tolist()), read(self, rows))[1]
    )
    for name in ("image", "x"):
        column = data.train.columns[name]
        assert isinstance(column.array, LazyRows) and column.type_text == whole.train.columns[name].type_text
        rows = np.array([4, 0, 20])
        assert np.array_equal(column.array[rows], whole.train.columns[name].array[rows])
        assert np.array_equal(column.array[2:4], whole.train.columns[name].array[2:4])
    assert len(decoded) == 10, "these and no others"
    again = pickle.loads(pickle.dumps(data.train.columns["image"].array))
    assert np.array_equal(again[:], whole.train.columns["image"].array)
    path = tmp_path / "cat/3.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CompileError, match=r"E505.*cat/3\.png is no sound jpg or png"):
        data.train["image"], data.splits["test"]["image"]


def test_bad_folders(tmp_path: Path) -> None:
    assert said(f"images:{tmp_path}") == f"E506: {tmp_path} has no pictures (jpg or png)"
    assert said(f"images:{tmp_path}/no") == f"E503: cannot read {tmp_path}/no: there is no such folder"
    (tmp_path / "a").mkdir()
    assert said(f"images:{tmp_path}") == f"E506: {tmp_path}/a has no pictures (jpg or png)"
    for option in ("size=0", "size=3x", "size=99999", "size=-1"):
        value = option.partition("=")[2]
        message = f"E502: option `size` must be as 32 or 32x48, height first, not `{value}`"
        assert said(f"images:{tmp_path}?{option}") == message
    assert said(f"images:{tmp_path}?channels=2") == "E502: option `channels` must be 1 or 3, not `2`"
    assert said(f"images:{tmp_path}?split=first") == (
        "E502: option `split` must be `random` or `last`, not `first`"
    )


def test_pictures_without_classes(tmp_path: Path) -> None:
    arrays = [picture(k) for k in range(4)]
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    data = open_data(f"images:{tmp_path}", DataContext(trusted=True, whole=True))
    assert set(data.train) == {"image", "x"} and data.doc == "4 pictures"
    assert np.array_equal(data.train.columns["image"].array, np.stack(arrays).transpose(0, 3, 1, 2))
    held = open_data(f"images:{tmp_path}?test=0.25&split=last", CLI).test
    assert held is not None and np.array_equal(held["image"], data.train["image"][3:])


def test_unequal_sizes(tmp_path: Path) -> None:
    fill(tmp_path)
    Image.fromarray(picture(0, 8, 3)).save(tmp_path / "dog/2.png")
    diagnostic = refused(f"images:{tmp_path}")
    assert (diagnostic.code, diagnostic.message) == (
        "E507",
        f"the pictures differ in size: {tmp_path}/cat/0.png is 6x4, {tmp_path}/dog/2.png is 8x3",
    )
    assert diagnostic.fix is not None and diagnostic.fix.text == "resize them as they are read: ?size=6x4"
    assert open_data(f"images:{tmp_path}?size=6x4", CLI).train["image"].shape[1:] == (3, 6, 4)


def bomb(height: int, width: int) -> bytes:
    """A png whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b"", "is no sound jpg or png: it does not start as one"),
        (lambda b: b"GIF89a" + b[6:], "is no sound jpg or png: it does not start as one"),
        (lambda b: b[: len(b) // 2], "is no sound jpg or png: "),
        (lambda b: b[:-40], "is no sound jpg or png: "),
        (lambda b: b[:50] + bytes(8) + b[58:], "is no sound jpg or png: "),
        (lambda b: bomb(20_000, 20_000), "is no sound jpg or png: "),
        (lambda b: bomb(9_000, 9_000), "is 9000x9000, more than the 67,108,864 pixels that are read"),
    ],
)
def test_damaged_pictures(tmp_path: Path, change: Any, message: str) -> None:
    fill(tmp_path, 3, height=30, width=30)
    path = tmp_path / "dog/1.png"
    path.write_bytes(change(path.read_bytes()))
    assert said(f"images:{tmp_path}?size=8").startswith(f"E505: {path} {message}")


def test_a_truncated_jpg(tmp_path: Path) -> None:
    fill(tmp_path, 2, height=40, width=40)
    path = tmp_path / "cat/0.jpg"
    Image.fromarray(picture(0, 40, 40)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    assert said(f"images:{tmp_path}").startswith(
        f"E505: {path} is no sound jpg or png: image file is truncated"
    )


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "spec", tmp_path / "secret"
    fill(inside / "pictures")
    fill(outside)
    context = DataContext(root=inside)
    assert len(open_data("images:pictures?test=0", context).train) == 15
    (inside / "pictures/cat/here.png").symlink_to(inside / "pictures/dog/1.png")
    assert len(open_data("images:pictures?test=0", context).train) == 16
    (inside / "pictures/cat/link.png").symlink_to(outside / "cat/1.png")
    assert refused("images:pictures", context).code == "E504"
    assert len(open_data(f"images:{inside}/pictures?test=0", CLI).train) == 17
    (inside / "pictures/cat/link.png").unlink()
    (inside / "pictures/yak").symlink_to(outside / "dog")
    assert refused("images:pictures", context).code == "E504"
    assert refused("images:../secret", context).code == "E504"
