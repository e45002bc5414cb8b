"""Two processes train what one does: shares of batches, tasks, sharded optimizers; and what a killed one leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from r2d2c.train.checkpoint import Checkpoint, load_checkpoint

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

# A rule each, noise, dropout, statistics of the batch, a memory with a state of its own, a loop.
SPECS = [
    "baselines/conv",
    "credit/alternate",
    "credit/backprop",
    "credit/direct",
    "credit/equilibrium",
    "credit/feedback",
    "credit/goodness",
    "credit/hebbian",
    "credit/local_feed",
    "credit/predictive",
    "credit/synthetic",
    "credit/target",
    "loops/parity_act",
    "memory/fifo",
    "r2d2/digits",
    "tasks/denoise",
    "tasks/four_task_chain",
]


def run(command: list[str], code: int = 0, **more: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | more, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> dict[str, float]:
    out = tmp_path_factory.mktemp("processes") / "found.json"
    specs = [f"specs/{name}.yaml" for name in SPECS]
    run([*TORCHRUN, "tests/e2e/processes_worker.py", str(out), *specs])
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", SPECS)
def test_two_processes_learn_what_one_does(learned, name):
    assert learned[f"specs/{name}.yaml"] < 1e-10


def train(out: Path, spec: str, *options: str, several: bool = True) -> Checkpoint:
    start = [*TORCHRUN, "-m", "r2d2c"] if several else [sys.executable, "-m", "r2d2c"]
    run([*start, "train", spec, "-q", "--threads", "1", "-o", str(out), *options])
    return load_checkpoint(out / "checkpoints" / "last.safetensors")


def far(one: Checkpoint, other: Checkpoint) -> float:
    assert one.model.keys() == other.model.keys()
    return max(
        float((one.model[n].double() - t.double()).abs().max()) for n, t in other.model.items() if t.numel()
    )


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> tuple[Path, Checkpoint]:
    out = tmp_path_factory.mktemp("heads") / "one"
    return out, train(out, "specs/credit/local_heads.yaml", "--epochs", "2", several=False)


@pytest.mark.parametrize("option", [(), ("--shard-optimizer",)])
def test_a_training_by_shares(heads, tmp_path, option):
    (before, one), out = heads, tmp_path / "two"
    two = train(out, "specs/credit/local_heads.yaml", "--epochs", "2", *option)
    assert 0 < far(one, two) < 1e-5  # f32: sums in another order
    assert one.optimizers.keys() == two.optimizers.keys()
    for key, packed in one.optimizers.items():
        assert packed.tensors.keys() == two.optimizers[key].tensors.keys()
        for name, tensor in packed.tensors.items():
            assert torch.allclose(tensor, two.optimizers[key].tensors[name], atol=1e-6), name
    for a, b in zip(lines(before), lines(out), strict=True):
        assert a["losses"] == pytest.approx(b["losses"], abs=1e-5)
        assert a["metrics"] == pytest.approx(b["metrics"], abs=2e-3)
        assert a.get("samples") == b.get("samples")
    # A single process goes on with what two have left.
    goes_on = [sys.executable, "-m", "r2d2c", "train", "-q", "--epochs", "3", "--resume"]
    run([*goes_on, str(out)])
    assert [(r["epoch"], r["split"]) for r in lines(out)][-2:] == [(3, "train"), (3, "test")]


def test_tasks_in_two_processes_are_those_of_one_bit_for_bit(heads, tmp_path):
    before, one = heads
    two = train(tmp_path / "two", "specs/credit/local_heads.yaml", "--epochs", "2", "--parallel", "tasks")
    assert far(one, two) == 0
    for key, packed in one.optimizers.items():
        found = two.optimizers[key]
        assert packed.tensors.keys() == found.tensors.keys()
        assert all(torch.equal(tensor, found.tensors[name]) for name, tensor in packed.tensors.items())
    for a, b in zip(lines(before), lines(tmp_path / "two"), strict=True):
        assert (a["epoch"], a["split"], a.get("samples")) == (b["epoch"], b["split"], b.get("samples"))
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-12 if a["split"] == "train" else 1e-6)
        assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-12)
    assert "spent waiting" in (tmp_path / "two" / "summary.txt").read_text()


@pytest.mark.parametrize(
    ("spec", "options", "code", "says"),
    [
        ("credit/similarity", (), "E630", "cannot share batches"),
        ("credit/backprop", ("--parallel", "tasks"), "E633", "has the credit `backprop`"),
        ("tasks/two_tasks", ("--parallel", "tasks"), "E633", "both `encode` and `classify` train `encode.r"),
        ("credit/local_heads", ("--parallel", "tasks", "--set", "train.accumulate=2"), "E636", "accumulate"),
        ("tasks/two_tasks", ("--batch-size", "1437"), "E632", "the last of 2 batches"),
    ],
)
def test_what_processes_cannot_do_is_refused(tmp_path, spec, options, code, says):
    command = [*TORCHRUN, "-m", "r2d2c", "train", f"specs/{spec}.yaml", "-o", str(tmp_path / "run"), *options]
    said = run(command, 1)
    assert code in said
    assert says in said
    assert "internal error" not in said


def test_a_killed_process_stops_the_others_and_the_run_goes_on(tmp_path):
    out = tmp_path / "run"
    command = [
        *TORCHRUN,
        "-m",
        "r2d2c",
        "train",
        "specs/credit/local_heads.yaml",
        "--epochs",
        "400",
        "-o",
        str(out),
    ]
    started = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until = time.monotonic() + 60
        while not (out / "checkpoints" / "best.safetensors").is_file() and time.monotonic() < until:
            time.sleep(0.05)
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        said, _ = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode != 0
    assert "E635" in said
    assert "--resume" in said
    assert "internal error" not in said
    epoch = load_checkpoint(out / "checkpoints" / "last.safetensors").state["epoch"]
    assert 1 <= epoch < 400
    resume = ["-m", "r2d2c", "train", "-q", "--epochs", str(epoch + 1), "--resume", str(out)]
    run([*TORCHRUN, *resume])
    assert load_checkpoint(out / "checkpoints" / "last.safetensors").state["epoch"] == epoch + 1


def test_a_training_that_torchrun_starts_again_goes_on_by_itself(tmp_path):
    out = tmp_path / "run"
    start = [*TORCHRUN[:-2], "--max-restarts", "1", "--nproc-per-node", "2"]
    command = [
        *start,
        "-m",
        "r2d2c",
        "train",
        "specs/credit/local_heads.yaml",
        "--epochs",
        "40",
        "-o",
        str(out),
    ]
    started = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until = time.monotonic() + 60
        while not (out / "checkpoints" / "best.safetensors").is_file() and time.monotonic() < until:
            time.sleep(0.05)
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        said, _ = started.communicate(timeout=90)
    finally:
        started.kill()
    assert started.returncode == 0, said
    assert "goes on" in said
    assert [record["epoch"] for record in lines(out) if record["split"] == "train"] == list(range(1, 41))
    assert lines(out)[-1]["split"] == "test"
