"""A csv file that is too large for memory: the same columns, classes, splits and messages as one that is not."""

import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.train.data import Column, Dataset, csv_columns, csv_file, open_data, spilled
from r2d2c.train.data.dataset import name_classes
from r2d2c.train.data.lazy import LazyRows, extent_of, in_blocks
from r2d2c.train.data.spilled import SpilledRows
from r2d2c.train.data.split import split_rows
from tests.unit.data_files import CLI, said
from tests.unit.data_rows import bound, same, train_of

COUNT = 500


def rows_of(count: int = COUNT) -> str:
    rng = np.random.default_rng(0)
    lines = ["a,when,n,grape,odd,label"]
    for k in range(count):
        # `odd` begins as a column of numbers and is one of classes in the end.
        odd = ("7", "7.0", "seven")[k % 3] if k > count // 2 else "7"
        grape = ("riesling", "ätna rosso", "gamay")[rng.integers(3)]
        lines.append(f"{rng.normal():.9g},{k / 8},{rng.integers(-5, 300)},{grape},{odd},{rng.integers(4)}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Files of any size are large, and are read 12 rows at a time."""
    monkeypatch.setattr(csv_file, "PART", 12 * 6)
    monkeypatch.setattr(csv_file, "LARGE", 0)
    monkeypatch.setattr(csv_file, "_last", [])
    return monkeypatch


def both(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Dataset]:
    """From memory, and from a temporary file."""
    with monkeypatch.context() as patch:
        patch.setattr(csv_file, "LARGE", 1 << 40)
        inside = open_data(text, CLI)
    return inside, open_data(text, CLI)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "?scale=standard",
        "?target=n&split=last",
        "?target=grape&features=a,n&test=0.3&seed=4",
        "?target=a,n",
    ],
)
def test_it_is_what_a_small_one_is(tmp_path: Path, large: pytest.MonkeyPatch, options: str) -> None:
    (tmp_path / "a.csv").write_text(rows_of())
    small, spilt = both(f"csv:{tmp_path}/a.csv{options}", large)
    assert (
        small.notes == spilt.notes
        and small.classes == spilt.classes
        and small.splits.keys() == spilt.splits.keys()
    )
    for split, table in small.splits.items():
        other = spilt.splits[split]
        assert list(table) == list(other) and len(table) == len(other)
        for name, column in table.columns.items():
            twin = other.columns[name]
            assert isinstance(twin.array, LazyRows) or (name == "y" and twin.array.ndim == 1)
            assert (column.classes, column.type_text) == (twin.classes, twin.type_text), name
            np.testing.assert_allclose(column.array, np.asarray(twin.array), rtol=1e-12, err_msg=name)
    assert small.describe() == spilt.describe()


def test_the_rows_of_a_column(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(rows_of())
    small, spilt = both(f"csv:{tmp_path}/a.csv?test=0", large)
    rng = np.random.default_rng(1)
    for name in ("a", "n", "grape", "odd"):
        rows, whole = spilt.train.columns[name].array, small.train.columns[name].array
        assert isinstance(rows, SpilledRows) and rows.block == 12
        for chosen in (
            slice(None),
            slice(490, None),
            slice(5, 5),
            rng.permutation(COUNT),
            np.array([499, 0, 0]),
        ):
            assert np.array_equal(rows[chosen], whole[chosen])
        assert rows.extent == extent_of(whole)
        with pytest.raises(IndexError):
            rows[COUNT]


def test_batches_do_not_depend_on_who_reads_them(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(rows_of())
    data = open_data(f"csv:{tmp_path}/a.csv?target=grape&features=a,n", CLI)
    split = train_of(bound(data, {"x": ("f32", (None, 2)), "y": ("i64", (None,))}))
    alone = list(split.loader(32, seed=3, shuffle=True).epoch(1))
    shared = list(split.loader(32, seed=3, shuffle=True, workers=2).epoch(1))
    assert same(alone, shared)
    x = np.concatenate([batch["x"].numpy() for batch in alone])
    assert np.array_equal(np.sort(x, axis=0), np.sort(data.train["x"].astype(np.float32), axis=0))


def _read_in_another(rows: SpilledRows, pipe: object) -> None:
    pipe.send(rows[[3, 1]].tolist())  # type: ignore[attr-defined]


def test_other_processes_read_it_too(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(rows_of())
    rows = open_data(f"csv:{tmp_path}/a.csv?test=0", CLI).train.columns["n"].array
    for kind in ("fork", "spawn"):
        context = multiprocessing.get_context(kind)
        ours, theirs = context.Pipe()
        process = context.Process(target=_read_in_another, args=(rows, theirs))
        process.start()
        assert ours.poll(60) and ours.recv() == rows[[3, 1]].tolist()
        process.join()
    stored = pickle.dumps(rows)
    assert np.array_equal(pickle.loads(stored)[:], rows[:])
    gone = f"/proc/{os.getpid()}/fd/{rows.spill.file}"
    del rows
    csv_file._last.clear()
    assert not os.path.lexists(gone), "the file goes with the last column of it"
    with pytest.raises(CompileError, match=r"E503.*cannot read the temporary copy of .*a\.csv"):
        pickle.loads(stored)


def test_nothing_is_left_behind_or_written_beside_it(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    scratch, data = tmp_path / "scratch", tmp_path / "data"
    scratch.mkdir()
    data.mkdir()
    (data / "a.csv").write_text(rows_of())
    large.setenv("TMPDIR", str(scratch))
    large.setattr("tempfile.tempdir", None)
    assert spilled.scratch_folder() == str(scratch)
    found = open_data(f"csv:{data}/a.csv", CLI)
    assert isinstance(found.train.columns["a"].array, LazyRows)
    assert list(scratch.iterdir()) == [] and list(data.iterdir()) == [data / "a.csv"]
    assert open_data(f"csv:{data}/a.csv?test=0", CLI).train["a"].shape == (COUNT,), "and it can be read"


def test_where_temporary_files_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    assert spilled.scratch_folder() == "/var/tmp"
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("tempfile.tempdir", "/elsewhere")
    assert spilled.scratch_folder() == "/elsewhere"


def test_a_full_disk(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(rows_of())
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        message = said(f"csv:{tmp_path}/a.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    folder = spilled.scratch_folder()
    assert message == f"E517: no temporary copy of {tmp_path}/a.csv can be made in {folder}: File too large"
    large.setenv("TMPDIR", f"{tmp_path}/none")
    large.setattr("tempfile.tempdir", f"{tmp_path}/none")
    assert said(f"csv:{tmp_path}/a.csv").endswith("No such file or directory")
    assert isinstance(open_data_again(tmp_path, large).train.columns["a"].array, LazyRows), (
        "it is tried again"
    )


def open_data_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return open_data(f"csv:{folder}/a.csv", CLI)


def test_it_is_read_once_for_a_run(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    reads = []
    real = csv_file._read
    large.setattr(csv_file, "_read", lambda *args: reads.append(args[0]) or real(*args))
    (tmp_path / "a.csv").write_text(rows_of())
    (tmp_path / "spec.yaml").write_text(
        "r2d2c: 1\nmodel: m\ndims: {D: infer, C: infer}\ninputs: {x: 'f32[B, D]'}\ntargets: {y: 'i64[B]'}\ntasks:\n"
        "  t:\n    behavior: logits = linear(x, C)\n    distance: cross_entropy(logits, y)\noutputs: {logits: t.logits}\n"
        "train: {data: 'csv:a.csv?target=grape&features=a,n', epochs: 1, batch_size: 32}\n"
    )
    run = r2d2c.train(tmp_path / "spec.yaml", out=tmp_path / "run", threads=1)
    assert run.origin.classes == ("gamay", "riesling", "ätna rosso") and reads == [(tmp_path / "a.csv")]
    (tmp_path / "a.csv").write_text(rows_of(200))
    assert len(open_data(f"csv:{tmp_path}/a.csv?test=0", CLI).train) == 200, "it has changed"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3,riesling,7", "E507: FILE:302: 5 cells, where the header has 6"),
        ("1,,3,riesling,7,1", "E509: FILE:302: column `when` has an empty cell"),
        ("1,inf,3,riesling,7,1", "E509: FILE:302: column `when` has `inf`, which is no finite number"),
        ("1,x,3,riesling,7,1", "E508: FILE:302: column `when` has `x`, where the other rows have numbers"),
        ('1,"x,3,riesling,7,1', "E505: FILE:502: not sound CSV (unexpected end of data)"),
        ("1,\0,3,riesling,7,1", "E515: FILE:302: there is a NUL character in it, so it is no text"),
        ("1,ö,3,riesling,7,1", "E515: FILE:302: byte BYTE (0xf6) is not UTF-8"),
    ],
)
def test_the_messages_are_those_of_small_files(
    tmp_path: Path, large: pytest.MonkeyPatch, line: str, message: str
) -> None:
    lines = rows_of().replace("ä", "a").splitlines()
    lines.insert(301, line)
    path = tmp_path / "a.csv"
    raw = ("\n".join(lines) + "\n").encode("latin1")
    path.write_bytes(raw)
    message = message.replace("BYTE", str(raw.find(b"\xf6")))
    assert said(f"csv:{path}").replace(str(path), "FILE") == message
    large.setattr(csv_file, "LARGE", 1 << 40)
    assert said(f"csv:{path}").replace(str(path), "FILE") == message


def test_too_many_texts_to_be_classes(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    large.setattr(csv_columns, "MAX_CLASSES", 100)
    path = tmp_path / "a.csv"
    path.write_text("name,y\n" + "".join(f"n{k % 101},{k % 2}\n" for k in range(400)))
    message = f"E508: {path}:2: column `name` has more than 100 different texts, too many to be classes"
    assert said(f"csv:{path}") == message
    path.write_text("name,y\n" + "".join(f"n{k % 100},{k % 2}\n" for k in range(400)))
    data = open_data(f"csv:{path}?test=0&target=name&features=y", CLI)
    assert data.classes == tuple(sorted(f"n{k}" for k in range(100)))
    path.write_text("many,y\n" + "".join(f"{k}.5,{k % 2}\n" for k in range(400)) + "many,1\n" * 90)
    message = f"E508: {path}:402: column `many` has more than 100 different texts, too many to be classes"
    assert said(f"csv:{path}") == message, "though it began as a column of numbers"


def test_splits_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    for count, classes, share in [(9, 2, 0.5), (150, 3, 0.2), (331, 7, 0.13), (1000, 20, 0.9), (60, 40, 0.1)]:
        for labels in (None, rng.integers(classes, size=count), rng.choice([-3, 9, 70_000], count)):
            sizes = np.unique(labels, return_counts=True)[1] if labels is not None else np.ones(1)
            held = round(count * share)
            strata = labels if sizes.min() >= 2 and len(sizes) <= min(held, count - held) else None
            for seed in (0, 5):
                wanted = train_test_split(
                    np.arange(count), test_size=held, random_state=seed, stratify=strata
                )
                found = split_rows(count, share, seed, labels)
                assert [np.sort(part).tolist() for part in wanted] == [part.tolist() for part in found]


def test_rows_in_blocks() -> None:
    rng = np.random.default_rng(3)
    starts = np.array([0, 4, 5, 11, 20])
    for rows in (np.arange(20), rng.permutation(20), rng.integers(0, 20, 50), np.array([], np.int64)):
        found = np.full(len(rows), -1)
        for number, places in in_blocks(rows, starts):
            assert found[places].size and (found[places] == -1).all()
            found[places] = number
        assert np.array_equal(found, np.searchsorted(starts, rows, side="right") - 1)


def test_classes_of_integers_on_disk_have_names(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(
        "a,b,c\n" + "".join(f"{k % 3},{k % 3 + 1},{k % 3 - 1}\n" for k in range(90))
    )
    columns = open_data(f"csv:{tmp_path}/a.csv?test=0", CLI).train.columns
    assert all(isinstance(columns[name].array, LazyRows) for name in "abc")
    assert name_classes(columns["a"]).classes == ("0", "1", "2")
    assert name_classes(columns["b"]).classes is None and name_classes(columns["c"]).classes is None
    assert name_classes(Column(np.zeros(4, np.int64))).classes is None


READING = """
import sys
from r2d2c.train.data import DataContext, csv_file, open_data

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

csv_file.LARGE, csv_file.PART = int(sys.argv[1]), 1 << 15
open_data(sys.argv[2], DataContext(trusted=True))
before = peak()
data = open_data(sys.argv[3], DataContext(trusted=True))
total = sum(float(part.sum()) for part in (data.train.columns["x"].array[k : k + 500] for k in range(0, 9000, 500)))
print(total, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux does")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """5.4 million cells, which are 41 MiB as numbers and twice that with `x`."""
    names = ",".join(f"c{k}" for k in range(600))
    for name, rows in (("small", 200), ("large", 9000)):
        lines = [",".join(str((row * 7 + k) % 10) for k in range(600)) for row in range(10)]
        (tmp_path / f"{name}.csv").write_text("\n".join([names, *(lines * (rows // 10))]))
    found = {}
    for limit in (0, 1 << 40):
        command = [sys.executable, "-c", READING, str(limit)]
        command += [f"csv:{tmp_path}/{name}.csv?test=0" for name in ("small", "large")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found[limit] = tuple(map(float, done.stdout.split()))
    (total, grown), (same_total, whole) = found.values()
    assert total == same_total == 9000 * 599 * 4.5
    assert whole > 100 << 10 and grown < 20 << 10, f"{grown / 1024} and {whole / 1024} MiB"
