"""What users have in place of data: links, pipes, archives, spreadsheets of other countries; each is told what it is."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from r2d2c.train.data import Column, Dataset, Port, Table, open_data
from r2d2c.train.data.convert import as_tensor
from tests.unit.data_files import CLI, idx_bytes, refused, said, write_idx
from tests.unit.data_rows import bound, train_of

GOOD = "a,b,y\n" + "".join(f"{k},{k * 2},{k % 2}\n" for k in range(10))
SOURCES = ("csv", "text", "npz", "parquet", "npy", "idx", "images")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.csv").write_text(GOOD)


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_no_file_or_folder(source: str) -> None:
    folder = source in ("npy", "idx", "images")
    what = "folder" if folder else "file"
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("gone").symlink_to("nowhere")
    Path("folder").mkdir()
    assert said(f"{source}:loop") == "E503: cannot read loop: Too many levels of symbolic links"
    assert said(f"{source}:gone") == f"E503: cannot read gone: there is no such {what}"
    assert said(f"{source}:good.csv/x") == f"E503: cannot read good.csv/x: there is no such {what}"
    assert said(f"{source}:~no such user/x") == "E503: cannot read ~no such user/x: there is no such user"
    if folder:
        assert said(f"{source}:pipe") == "E503: cannot read pipe: it is not a folder"
        assert said(f"{source}:good.csv") == "E503: cannot read good.csv: it is not a folder"
    else:
        assert said(f"{source}:pipe") == "E503: cannot read pipe: it is not a regular file"
        assert said(f"{source}:folder") == "E503: cannot read folder: it is a folder"


FORBIDDEN = """
import os, sys
import PIL.Image, pyarrow.parquet
from r2d2c.diagnostics import CompileError
from r2d2c.train.data import DataContext, open_data
PIL.Image.init()
if os.getuid() == 0:
    os.setgroups([])
    os.setuid(65534)
for text in sys.argv[1:]:
    try:
        open_data(text, DataContext(trusted=True))
    except CompileError as error:
        print(f"{error.diagnostics[0].code}: {error.diagnostics[0].message}")
"""


def test_what_may_not_be_read(tmp_path: Path) -> None:
    if (
        os.getuid() == 0
    ):  # root may read all, so somebody else has to try; a test's folders are its user's alone
        for path in (tmp_path, *tmp_path.parents[:-2]):
            path.chmod(path.stat().st_mode | 0o711)
    Image.new("L", (4, 4)).save("one.png")
    Path("pictures").mkdir()
    Path("one.png").rename("pictures/one.png")
    Path("closed").mkdir()
    for name in ("good.csv", "pictures/one.png", "closed"):
        Path(name).chmod(0)
    Path("pictures").chmod(0o755)
    line = [sys.executable, "-c", FORBIDDEN]
    texts = [f"{source}:good.csv" for source in SOURCES[:4]] + ["images:pictures", "npy:closed", "idx:closed"]
    done = subprocess.run([*line, *texts], capture_output=True, text=True, check=False)
    wanted = ["good.csv"] * 4 + ["pictures/one.png", "closed", "closed"]
    assert done.stdout.splitlines() == [f"E503: cannot read {name}: Permission denied" for name in wanted], (
        done.stderr
    )
    Path("closed").chmod(0o755)


@pytest.mark.parametrize(
    ("edit", "message", "fix"),
    [
        (lambda b: gzip.compress(b), "is packed by gzip, not a text in UTF-8", "unpack it: gunzip -k FILE"),
        (
            lambda b: b"PK\x03\x04\0\0" + b,
            "is a zip archive, as spreadsheets are, not a text in UTF-8",
            "unpack it, or save the sheet as CSV",
        ),
        (
            lambda b: b.decode().encode("utf-16"),
            "is in UTF-16, not a text in UTF-8",
            "convert it: iconv -f utf-16 -t utf-8 FILE",
        ),
        (
            lambda b: b"PAR1\0" + b,
            "is a Parquet file, not a text in UTF-8",
            "name it so: --data parquet:FILE",
        ),
    ],
)
def test_files_that_say_what_they_are(edit: Callable[[bytes], bytes], message: str, fix: str) -> None:
    Path("a.csv").write_bytes(edit(GOOD.encode()))
    for source in ("csv", "text"):
        diagnostic = refused(f"{source}:a.csv")
        assert (diagnostic.code, diagnostic.message) == ("E515", f"a.csv {message}")
        assert diagnostic.fix is not None and diagnostic.fix.text == fix


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", " , "),
        lambda text: "\n\n" + text.replace("\n", "\n\n"),
        lambda text: text.removesuffix("\n"),
        lambda text: text.replace("b,y", '"b","y"'),
    ],
)
def test_ways_to_write_a_table(edit: Callable[[str], str]) -> None:
    Path("other.csv").write_bytes(edit(GOOD).encode())
    one, other = (open_data(f"csv:{name}.csv?test=0", CLI).train for name in ("good", "other"))
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_cell_of_many_lines() -> None:
    Path("a.csv").write_text('"the\nname",a,y\n"x\ny",1,0\n\n"z, ""q""",2,1\n')
    data = open_data("csv:a.csv?test=0", CLI)
    assert data.train.columns["the\nname"].classes == ("x\ny", 'z, "q"')
    Path("a.csv").write_text('name,a,y\n"x\ny",1,0\n"z\n\nz",2,1\nu,,0\n')
    assert said("csv:a.csv") == "E509: a.csv:7: column `a` has an empty cell", "the line of the file"
    Path("a.csv").write_text('a,y\n"' + "x" * 200_000 + '",1\n')
    assert said("csv:a.csv") == "E505: a.csv:2: not sound CSV (field larger than field limit (131072))"


def test_a_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from r2d2c.train.data import utf8

    monkeypatch.setattr(utf8, "LONGEST", 1000)
    Path("a.csv").write_text(GOOD + "1," * 600)
    message = "E505: a.csv:12: the line has 1,000 characters or more, so it is no table"
    assert said("csv:a.csv") == message


def test_numbers_with_a_comma() -> None:
    Path("a.csv").write_text("a;b;y\n" + "".join(f"{k},5;{k};{k % 2}\n" for k in range(10)))
    diagnostic = refused("csv:a.csv")
    assert (diagnostic.code, diagnostic.message) == (
        "E508",
        "a.csv:2: column `a` has `0,5`, a number with a comma",
    )
    assert diagnostic.fix is not None and diagnostic.fix.text == "write numbers with a point: 0.5"
    Path("a.csv").write_text(
        "a;b;y\n" + "".join(f"{'1,2' if k % 2 else 'one'};{k};{k % 2}\n" for k in range(10))
    )
    assert open_data("csv:a.csv?test=0", CLI).train.columns["a"].classes == ("1,2", "one"), "those are names"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("features=", "E502: option `features` names no column"),
        ("target=", "E502: option `target` names no column"),
        ("features=a,b,a", "E502: option `features` names column `a` twice"),
        ('separator="', 'E502: option `separator` must be one character, not `"`'),
        ("separator=,,", "E502: option `separator` must be one character, not `,,`"),
    ],
)
def test_options_of_tables(options: str, message: str) -> None:
    assert said(f"csv:good.csv?{options}") == message


def test_what_is_left_out_is_told() -> None:
    Path("a.csv").write_text(GOOD.replace(",", "\t"))
    diagnostic = refused("csv:a.csv?separator=,")
    assert diagnostic.message == "a.csv leaves no column for `x`" and diagnostic.notes == (
        "its columns are: a\tb\ty",
    )
    Path("a.csv").write_text("name,kind,y\n" + "u,v,1\n" * 9)
    notes = ("its columns are: name, kind, y", "of texts, so that they are classes: `name`, `kind`")
    assert refused("csv:a.csv").notes == notes
    days = pa.array([1] * 9, pa.date32())
    pq.write_table(pa.table({"day": days, "y": [0] * 9}), "a.parquet")
    notes = ("its columns are: y", "`day` is left out: it is date32[day]")
    assert refused("parquet:a.parquet").notes == notes
    pq.write_table(pa.table({"day": days}), "a.parquet")
    assert refused("parquet:a.parquet").notes == notes[1:]
    assert (
        said("parquet:a.parquet?features=day")
        == "E508: column `day` of a.parquet is date32[day], not numbers"
    )


def test_texts_of_another_layout() -> None:
    texts = ["u", "v", "u", "w"] * 3
    kinds = {"plain": pa.string(), "large": pa.large_string(), "view": pa.string_view()}
    for name, kind in kinds.items():
        pq.write_table(pa.table({"a": list(range(12)), "y": pa.array(texts, kind)}), "a.parquet")
        data = open_data("parquet:a.parquet?test=0", CLI)
        assert data.classes == ("u", "v", "w") and data.train["y"].tolist() == [0, 1, 0, 2] * 3, name
    booleans = pa.table({"a": [k % 3 == 0 for k in range(12)], "y": [k % 2 == 0 for k in range(12)]})
    pq.write_table(booleans, "a.parquet")
    assert open_data("parquet:a.parquet?test=0", CLI).train.columns["a"].type_text == "bool[N]"


def test_values_too_large_to_be_scaled() -> None:
    Path("a.csv").write_text("a,y\n" + "1e308,1\n-1e308,0\n" * 9)
    message = "E509: column `a` of a.csv has values so large that they cannot be scaled"
    assert said("csv:a.csv?scale=standard") == message


def test_members_that_are_no_arrays() -> None:
    import zipfile

    np.savez("a.npz", x=np.zeros((9, 2)))
    with zipfile.ZipFile("a.npz", "a") as file:
        file.writestr("readme.txt", "hello")
    assert said("npz:a.npz") == "E508: `readme.txt` in a.npz is no array"


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=False)
    labels = tmp_path / "train-labels-idx1-ubyte"
    for value, what in ((-1, "a negative label at index 3"), (2**31 - 2, "the label 2147483646 at index 3")):
        array = np.zeros(12, ">i4")
        array[3] = value
        labels.write_bytes(idx_bytes(array, 0x0C))
        assert said(f"idx:{tmp_path}").startswith(f"E513: {labels} has {what}")


def test_links_among_pictures() -> None:
    for name in ("a", "b"):
        Path("pictures", name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(f"pictures/{name}/1.png")
    Path("pictures/a/2.png").symlink_to("2.png")
    assert said("images:pictures") == "E503: cannot read pictures/a/2.png: Too many levels of symbolic links"


def test_arrays_that_lie_backwards() -> None:
    values = np.arange(12.0).reshape(4, 3)[::-1, ::-1]
    assert torch.equal(as_tensor(values), torch.tensor(values.tolist(), dtype=torch.float64))
    ports: dict[str, Port] = {"x": ("f32", (None, 3))}
    (batch,) = train_of(bound(Dataset("back", Table({"x": Column(values)})), ports)).loader(4).epoch(0)
    assert batch["x"].tolist() == values.tolist()
