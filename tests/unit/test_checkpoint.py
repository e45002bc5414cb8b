"""Checkpoints: atomic, checked, and exact for every optimizer."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r2d2c.diagnostics import CompileError
from r2d2c.train.atomic import link_atomic, remove_partial, write_atomic
from r2d2c.train.checkpoint import (
    Checkpoint,
    Packed,
    load_checkpoint,
    load_tensors,
    pack_optimizer,
    pack_rng,
    save_checkpoint,
    save_tensors,
    unpack_optimizer,
    unpack_rng,
)
from r2d2c.train.optimizers import OPTIMIZERS, OptimizerRecord, build_optimizer

TENSORS = {
    "w": torch.arange(12.0).reshape(3, 4),
    "b": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    "flag": torch.tensor([True, False]),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4, dtype=torch.float64),
}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit, NaN included."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
    )


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    )


def refused(path: Path) -> str:
    with pytest.raises(CompileError) as caught:
        load_tensors(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E520"
    return diagnostic.message


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, TENSORS, {"note": "né"})
    tensors, metadata = load_tensors(path)
    assert metadata == {"note": "né"}
    assert tensors.keys() == TENSORS.keys()
    assert all(same_bytes(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_views_and_transposes_are_stored_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    views = {"a": base[:6].view(2, 3), "b": base[6:], "t": base.view(3, 4).t(), "all": base}
    save_tensors(tmp_path / "a", views, {})
    tensors, _ = load_tensors(tmp_path / "a")
    assert all(torch.equal(tensors[name], views[name]) for name in views)


def test_every_cut_and_many_changes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    # without booleans, of which torch reads every byte but 0 as True
    save_tensors(path, {name: t for name, t in TENSORS.items() if name != "flag"}, {"note": "x"})
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        refused(path)
    rng = random.Random(0)
    for _ in range(200):
        at = rng.randrange(len(whole))
        changed = bytes([whole[at] ^ (1 << rng.randrange(8))])
        if whole[at : at + 1] in b" {}" or changed in b" \t\n":
            continue  # padding of the header may be any white space
        path.write_bytes(whole[:at] + changed + whole[at + 1 :])
        refused(path)


def test_a_file_of_another_program(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(2)}, path)
    assert (
        refused(path)
        == f"cannot use checkpoint {path}: it has no checksum, so r2d2c did not write it or it was altered"
    )
    assert load_tensors(path, foreign=True)[0]["w"].tolist() == [1, 1]


def test_messages(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    assert refused(path) == f"cannot use checkpoint {path}: there is no such file"
    path.mkdir()
    assert refused(path).startswith(f"cannot use checkpoint {path}: ")
    path.rmdir()
    save_tensors(path, {"w": torch.zeros(100)}, {})
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + b"\x01" + whole[-39:])
    assert refused(path) == f"cannot use checkpoint {path}: its checksum does not match what is in it"
    path.write_bytes(whole)
    with pytest.raises(CompileError) as caught:
        load_checkpoint(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message == f"cannot use checkpoint {path}: it is no checkpoint of this version of r2d2c"
    assert diagnostic.fix is None
    (tmp_path / "best.safetensors").write_bytes(whole)
    with pytest.raises(CompileError) as caught:
        load_checkpoint(path)
    fix = caught.value.diagnostics[0].fix
    assert fix is not None
    assert fix.text == f"go on from the best one, which may be older: cp {tmp_path}/best.safetensors {path}"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, TENSORS, {})
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a"):
        save_tensors(tmp_path / "missing" / "a", TENSORS, {})


def test_links_and_leftovers(tmp_path: Path) -> None:
    write_atomic(tmp_path / "last", b"one")
    link_atomic(tmp_path / "last", tmp_path / "best")
    write_atomic(tmp_path / "last", b"two")
    assert (tmp_path / "best").read_bytes() == b"one"
    link_atomic(tmp_path / "last", tmp_path / "best")
    assert (tmp_path / "best").read_bytes() == b"two"
    (tmp_path / ".last.99.0.partial").write_bytes(b"half")
    remove_partial(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["best", "last"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_while_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, torch
        from pathlib import Path
        from r2d2c.train.checkpoint import save_tensors
        path = Path(sys.argv[1])
        for n in range(10**9):
            save_tensors(path, {"w": torch.full((50_000,), float(n))}, {"n": str(n)})
            if n == 0:
                print("ready", flush=True)
        """
    )
    path = tmp_path / "a"
    for wait in (0.0, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        tensors, metadata = load_tensors(path)
        assert (tensors["w"] == float(metadata["n"])).all()


# Optimizers


def model() -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"encode.weight": (4, 3), "classify.weight": (2, 4)}
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()
    }


def train(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("record", OPTIMIZERS, ids=lambda record: record.name)
@pytest.mark.parametrize("extra", [{}, "all"], ids=["default", "all"])
def test_resume_is_exact_for_every_optimizer(tmp_path: Path, record: OptimizerRecord, extra: Any) -> None:
    arguments: dict[str, Any] = {}
    if extra == "all":
        offered = {"momentum": 0.9, "nesterov": True, "amsgrad": True, "centered": True, "weight_decay": 0.01}
        arguments = {key: value for key, value in offered.items() if key in record.arguments}
    whole = model()
    train(whole, build_optimizer(record, arguments, whole.values()), range(7))

    first = model()
    optimizer = build_optimizer(record, arguments, first.values())
    train(first, optimizer, range(4))
    packed = pack_optimizer(optimizer, first)
    save_checkpoint(tmp_path / "c", Checkpoint(first, {"main": packed}, state={"epoch": 4}))

    loaded = load_checkpoint(tmp_path / "c")
    second = model()
    for name, parameter in second.items():
        parameter.data.copy_(loaded.model[name])
    # Parameters in another order, another learning rate: names and the checkpoint decide.
    turned = dict(reversed(second.items()))
    resumed = build_optimizer(record, {**arguments, "lr": 0.123}, turned.values())
    unpack_optimizer(resumed, turned, loaded.optimizers["main"])
    train(second, resumed, range(4, 7))
    assert all(same(second[name], whole[name]) for name in whole)
    assert loaded.state == {"epoch": 4}
    assert isinstance(resumed.param_groups[0].get("betas", ()), tuple)


def test_state_of_another_model_is_refused() -> None:
    parameters = model()
    optimizer = torch.optim.Adam(parameters.values())
    train(parameters, optimizer, range(1))
    packed = pack_optimizer(optimizer, parameters)
    other = {"encode.weight": torch.nn.Parameter(torch.zeros(3, 3))}
    with pytest.raises(CompileError) as caught:
        unpack_optimizer(torch.optim.Adam(other.values()), other, packed)
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.message) == ("E521", "the optimizer state is of another model")
    assert diagnostic.notes == (
        "`exp_avg_sq` of `encode.weight` is [4, 3], not [3, 3]",
        "`exp_avg` of `encode.weight` is [4, 3], not [3, 3]",
        "state of `classify.weight`, which is not there",
    )


def test_optimizers_outside_the_table() -> None:
    """Adafactor keeps a row and a column of a matrix."""
    whole, first = model(), model()
    train(whole, torch.optim.Adafactor(whole.values()), range(4))
    optimizer = torch.optim.Adafactor(first.values())
    train(first, optimizer, range(2))
    resumed = torch.optim.Adafactor(first.values())
    unpack_optimizer(resumed, first, pack_optimizer(optimizer, first))
    train(first, resumed, range(2, 4))
    assert all(same(first[name], whole[name]) for name in whole)


def test_new_parameters_start_without_state() -> None:
    parameters = model()
    optimizer = torch.optim.Adam(parameters.values())
    train(parameters, optimizer, range(2))
    packed = pack_optimizer(optimizer, parameters)
    grown = {**model(), "new": torch.nn.Parameter(torch.zeros(2))}
    resumed = torch.optim.Adam(grown.values())
    unpack_optimizer(resumed, grown, packed)
    assert grown["new"] not in resumed.state
    assert resumed.state[grown["encode.weight"]]["step"] == 2


def test_tensor_learning_rates_and_odd_scalars_survive() -> None:
    parameters = model()
    optimizer = torch.optim.Adam(parameters.values(), lr=torch.tensor(0.1))
    optimizer.state[parameters["encode.weight"]] = {
        "n": 3,
        "x": 0.1 + 0.2,
        "none": None,
        "eta": torch.tensor(1.5),
    }
    packed = pack_optimizer(optimizer, parameters)
    again = Packed(packed.tensors, json.loads(json.dumps(packed.scalars)))
    resumed = torch.optim.Adam(parameters.values(), lr=torch.tensor(0.5))
    unpack_optimizer(resumed, parameters, again)
    assert resumed.param_groups[0]["lr"] == torch.tensor(0.1)
    state = resumed.state[parameters["encode.weight"]]
    assert (state["n"], state["x"], state["none"], float(state["eta"])) == (3, 0.1 + 0.2, None, 1.5)


def test_random_states(tmp_path: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    random.gauss(0, 1), np.random.standard_normal()
    save_checkpoint(tmp_path / "c", Checkpoint({}, rng=pack_rng()))
    first = (
        torch.rand(3).tolist(),
        random.gauss(0, 1),
        random.random(),
        np.random.standard_normal(3).tolist(),
    )
    unpack_rng(load_checkpoint(tmp_path / "c").rng)
    second = (
        torch.rand(3).tolist(),
        random.gauss(0, 1),
        random.random(),
        np.random.standard_normal(3).tolist(),
    )
    assert first == second


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda packed: packed.tensors.__setitem__("cpu", torch.zeros(3)), "cpu"),
        (lambda packed: packed.tensors.pop("python"), "python"),
        (lambda packed: packed.tensors.__setitem__("python", torch.arange(9)), "python"),
        (lambda packed: packed.scalars.__setitem__("python", "three"), "python"),
        (lambda packed: packed.scalars.__setitem__("numpy", ["MT19938", 1, 0, 0.0]), "numpy"),
        (lambda packed: packed.tensors.__setitem__("numpy", torch.zeros(5)), "numpy"),
    ],
)
def test_random_states_that_are_none_are_refused(change: Any, key: str) -> None:
    before = pack_rng()
    packed = Packed(dict(before.tensors), dict(before.scalars))
    change(packed)
    try:
        with pytest.raises(CompileError, match=r"E520.*random states"):
            unpack_rng(packed)
    finally:
        unpack_rng(before)
