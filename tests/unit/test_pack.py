"""Archives of runs: the same bytes for the same run, used as folders are, and nothing of a stranger's is trusted."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.train.checkpoint import load_checkpoint, save_checkpoint
from r2d2c.train.pack import MEMBERS, MOST_TEXT, is_archive, pack
from r2d2c.train.replay import replay
from r2d2c.train.run import open_run

TWO = Path(__file__).parents[2] / "specs" / "tasks" / "two_tasks.yaml"
GROWING = Path(__file__).parents[2] / "specs" / "growth" / "digits.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "first"
    r2d2c.train(TWO, out=folder, epochs=2, limit_batches=3, threads=1)
    return folder


@pytest.fixture(scope="module")
def archive(run: Path) -> Path:
    return pack(run).path


def refused(call: Callable[[], Any]) -> Diagnostic:
    with pytest.raises(CompileError) as caught:
        call()
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def test_the_same_run_gives_the_same_bytes(run: Path, archive: Path, tmp_path: Path) -> None:
    assert archive == run.with_name("first.r2d2c")
    again = pack(run, tmp_path / "again.zip")
    assert again.path.read_bytes() == archive.read_bytes()
    assert set(again.files) == {name for name in MEMBERS if (run / name).is_file()}
    assert refused(lambda: pack(run)).code == "E624"
    assert pack(run, archive, force=True).bytes == len(again.path.read_bytes())
    assert is_archive(archive) and is_archive(again.path) and not is_archive(run)


def test_what_takes_a_folder_takes_the_archive(run: Path, archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    opened = open_run(archive)
    assert opened.metrics == open_run(run).metrics
    assert opened.spec.graph == open_run(run).spec.graph or opened.spec.name == "two_tasks"
    mine, theirs = opened.model.state_dict(), open_run(run).model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert r2d2c.evaluate(archive) == r2d2c.evaluate(run)
    assert r2d2c.predict(archive).to_csv() == r2d2c.predict(run).to_csv()
    begun = r2d2c.train(TWO, out=tmp_path / "begun", start=archive, epochs=0, threads=1)
    state = begun.load("last").state_dict()
    assert all(torch.equal(state[name], theirs[name]) for name in theirs)
    assert archive.read_bytes() == before


def test_going_on_with_an_archive_is_exact(run: Path, archive: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "folder")
    one = r2d2c.train(resume=tmp_path / "folder", epochs=4, threads=1)
    two = r2d2c.train(resume=archive, out=tmp_path / "unpacked", epochs=4, threads=1)
    a, b = (load_checkpoint(r.folder / "checkpoints" / "last.safetensors") for r in (one, two))
    assert all(torch.equal(tensor, b.model[name]) for name, tensor in a.model.items())
    assert two.folder == tmp_path / "unpacked"
    assert refused(lambda: r2d2c.train(resume=archive, out=tmp_path / "unpacked")).code == "E522"


def test_a_run_that_grows(tmp_path: Path) -> None:
    grown = r2d2c.train(GROWING, out=tmp_path / "grown", epochs=1, limit_batches=12, threads=1)
    found = replay(pack(grown.folder).path)
    assert all(one.differences == [] or one.differences == () for one in found.values())


def test_paths_of_this_machine_are_left_out(tmp_path: Path) -> None:
    numbers = numpy.random.default_rng(0)
    data = tmp_path / "secret place" / "data.npz"
    data.parent.mkdir()
    numpy.savez(data, x=numbers.normal(size=(60, 64)).astype("f4"), y=numbers.integers(0, 10, 60))
    made = r2d2c.train(TWO, data=f"npz:{data}?test=0.2", out=tmp_path / "run", epochs=1, threads=1)
    r2d2c.train(TWO, data=f"npz:{data}", out=tmp_path / "next", start=made.folder, epochs=1, threads=1)
    for folder in (tmp_path / "run", tmp_path / "next"):
        target = tmp_path / "other" / f"{folder.name}.r2d2c"
        target.parent.mkdir(exist_ok=True)
        pack(folder, target)
        with zipfile.ZipFile(target) as opened:
            for name in opened.namelist():
                assert not name.startswith("/")
                assert str(tmp_path).encode() not in opened.read(name), name
    # Data lie beside the archive, or are named.
    assert refused(lambda: r2d2c.evaluate(target.with_name("run.r2d2c"))).code.startswith("E50")
    shutil.copy(data, target.parent / "data.npz")
    assert r2d2c.evaluate(target.with_name("run.r2d2c"))["samples"] == 12


# -- archives of strangers


def changed(archive: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """An archive with other members, and a manifest that fits them."""
    with zipfile.ZipFile(archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    change(members)
    manifest["files"] = {
        name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in members.items()
    }
    with zipfile.ZipFile(target, "w") as made:
        for name, raw in {"manifest.json": json.dumps(manifest).encode(), **members}.items():
            made.writestr(zipfile.ZipInfo(name), raw)
    return target


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "name",
    [
        "../spec.yaml",
        "/etc/passwd",
        "checkpoints/../../x",
        "evil.pkl",
        "plugin.py",
        "a\\b",
        "checkpoints/",
        "é",
    ],
)
def test_members_that_no_run_has(archive: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    bad = changed(archive, tmp_path / "bad.r2d2c", lambda m: m.update({name: pickle.dumps(Evil(mark))}))
    found = refused(lambda: open_run(bad))
    assert (found.code, "which no run has" in found.message) == ("E621", True)
    assert not mark.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.r2d2c"]


@pytest.mark.parametrize(
    "name", ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "lock.json"]
)
def test_a_pickle_in_the_place_of_a_member_is_never_loaded(archive: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    raw = pickle.dumps(Evil(mark))
    bad = changed(archive, tmp_path / "bad.r2d2c", lambda m: m.update({name: raw}))
    found = refused(lambda: open_run(bad))
    assert found.code in ("E520", "E620"), found
    assert not mark.exists()
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pt")
    raw = (tmp_path / "w.pt").read_bytes()
    assert refused(
        lambda: open_run(changed(archive, tmp_path / "two.r2d2c", lambda m: m.update({name: raw})))
    ).code in ("E520", "E620")


def test_links_bombs_and_doubles(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}

    def write(name: str, edit: Callable[[zipfile.ZipFile], None], without: str = "") -> Diagnostic:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as made:
            for member, raw in members.items():
                if member != without:
                    made.writestr(zipfile.ZipInfo(member), raw)
            edit(made)
        return refused(lambda: open_run(path))

    def link(made: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("spec.yaml")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        made.writestr(info, "/etc/passwd")

    def bomb(made: zipfile.ZipFile) -> None:
        with made.open(_deflated("metrics.jsonl"), "w", force_zip64=True) as stream:
            for _ in range(MOST_TEXT // 2**20 + 1):
                stream.write(b" " * 2**20)

    def double(made: zipfile.ZipFile) -> None:
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr(zipfile.ZipInfo("spec.yaml"), b"r2d2c: 1")

    def squeezed(made: zipfile.ZipFile) -> None:
        made.writestr(_deflated("checkpoints/last.safetensors"), b"\0" * 1000)

    assert "is a link" in write("link.r2d2c", link, "spec.yaml").message
    assert "the most" in write("bomb.r2d2c", bomb, "metrics.jsonl").message
    assert (tmp_path / "bomb.r2d2c").stat().st_size < 2**20
    assert "has two members" in write("double.r2d2c", double).message
    assert "is compressed" in write("squeezed.r2d2c", squeezed, "checkpoints/last.safetensors").message
    assert "it has no lock.json" in write("without.r2d2c", lambda made: None, "lock.json").message


def _deflated(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def test_every_cut_and_many_changed_bytes_are_found(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    path = tmp_path / "cut.r2d2c"
    for at in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at])
        assert refused(lambda: open_run(path)).code in ("E620", "E621")
    numbers = numpy.random.default_rng(1)
    with zipfile.ZipFile(archive) as opened:
        where = [info.header_offset for info in opened.infolist()]
    same = 0
    for at in [
        *numbers.integers(0, len(whole), 60),
        *numbers.integers(len(whole) - 700, len(whole), 60),
        *where,
    ]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(numbers.integers(8)))]) + whole[at + 1 :])
        try:
            found = open_run(path).load("last").state_dict()  # times and permissions of a member mean nothing
            theirs = open_run(archive).model.state_dict()
            assert all(torch.equal(found[name], theirs[name]) for name in theirs)
            same += 1
        except CompileError as error:
            assert error.diagnostics[0].code in ("E620", "E621")
    assert same < 30


def test_words_of_a_stranger_are_not_trusted(archive: Path, tmp_path: Path) -> None:
    """Neither data outside, nor values of other types than ours."""

    def with_json(name: str, **values: Any) -> Callable[[dict[str, bytes]], None]:
        return lambda m: m.update({name: json.dumps(json.loads(m[name]) | values).encode()})

    secret = tmp_path / "elsewhere" / "secret.npz"
    secret.parent.mkdir()
    numpy.savez(secret, x=numpy.zeros((50, 64), "f4"), y=numpy.arange(50) % 10)
    (tmp_path / "here").mkdir()
    for number, origin in enumerate(
        (
            {"data": f"npz:{secret}", "packed": False, "folder": "/"},
            {"data": "npz:../elsewhere/secret.npz", "folder": ".."},
        )
    ):
        bad = changed(archive, tmp_path / "here" / f"{number}.r2d2c", with_json("run.json", **origin))
        assert refused(lambda bad=bad: r2d2c.evaluate(bad)).code == "E504"
        out = tmp_path / f"out{number}"
        assert refused(lambda bad=bad, out=out: r2d2c.train(resume=bad, out=out, epochs=3)).code == "E504"
    for name, values in (
        ("run.json", {"classes": 3}),
        ("run.json", {"limit_batches": "x"}),
        ("lock.json", {"versions": [1]}),
        ("lock.json", {"threads": None}),
    ):
        bad = changed(archive, tmp_path / f"{name}{len(str(values))}.r2d2c", with_json(name, **values))
        assert refused(lambda bad=bad: open_run(bad)).code == "E620"
    lines = b'{"split": "train", "epoch": 1, "loss": 1, "losses": 7}\n'
    bad = changed(archive, tmp_path / "lines.r2d2c", lambda m: m.update({"metrics.jsonl": lines}))
    assert "`losses` of metrics.jsonl:1" in refused(lambda: open_run(bad)).message

    def other_state(members: dict[str, bytes]) -> None:
        (tmp_path / "c").write_bytes(members["checkpoints/last.safetensors"])
        found = load_checkpoint(tmp_path / "c")
        found.state["epoch"] = "many"
        save_checkpoint(tmp_path / "c", found)
        members["checkpoints/last.safetensors"] = (tmp_path / "c").read_bytes()

    bad = changed(archive, tmp_path / "state.r2d2c", other_state)
    assert "`epoch` of the state of checkpoints/last.safetensors" in refused(lambda: open_run(bad)).message
