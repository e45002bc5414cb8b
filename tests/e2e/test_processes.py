"""Two processes train what one does: shares of batches, tasks, sharded optimizers; and what a killed one leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from r2d2c.train.checkpoint import Checkpoint, load_checkpoint
from tests.e2e.coupled import COUPLED, LOSSES, ONE

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

# Every rule, noise, dropout, statistics of the batch, samples that are coupled or counted, op graphs, hypernets, memories
# with states of their own, loops. And what stands in `coupled`, and forward-forward that divides its batch.
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
    "credit/local_frozen",
    "credit/local_heads",
    "credit/predictive",
    "credit/similarity",
    "credit/synthetic",
    "credit/target",
    "growth/digits",
    "growth/formula",
    "growth/placed",
    "growth/placed_ops",
    "growth/tabular",
    "loops/parity_act",
    "memory/confidence",
    "memory/fifo",
    "memory/importance",
    "memory/pairs",
    "memory/remember",
    "memory/reservoir",
    "memory/segments",
    "memory/stacked",
    "memory/two_symbols",
    "r2d2/digits",
    "r2d2/shared_weights",
    "tasks/denoise",
    "tasks/four_task_chain",
    "tasks/two_heads",
    "tasks/two_modalities",
]
# Rules whose every δ is followed, as if something were coupled.
FOLLOWED = [name for name in SPECS if name.startswith("credit/")]
TEXTS = {
    **COUPLED,
    "split": (ROOT / "specs/credit/goodness.yaml")
    .read_text()
    .replace("credit: goodness", "credit: goodness(split=true)"),
}


def run(command: list[str], code: int = 0, **more: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | more, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("processes")
    for name, text in TEXTS.items():
        (folder / f"{name}.yaml").write_text(text)
    out = folder / "found.json"
    paths = {name: f"specs/{name}.yaml" for name in SPECS} | {n: str(folder / f"{n}.yaml") for n in TEXTS}
    paths |= {f"all:{name}": f"all:{paths[name]}" for name in FOLLOWED}
    run([*TORCHRUN, "tests/e2e/processes_worker.py", str(out), *paths.values()])
    found = json.loads(out.read_text())
    return {name: found[path] for name, path in paths.items()}


@pytest.mark.parametrize("name", [*SPECS, *TEXTS, *(f"all:{name}" for name in FOLLOWED)])
def test_two_processes_learn_what_one_does(learned, name):
    assert learned[name] < 1e-10


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


def alike(one: Checkpoint, two: Checkpoint) -> None:
    """Bit for bit the same."""
    assert far(one, two) == 0
    assert {**one.state, "seconds": 0} == {**two.state, "seconds": 0}
    for key, packed in one.optimizers.items():
        found = two.optimizers[key]
        assert packed.tensors.keys() == found.tensors.keys()
        assert all(torch.equal(tensor, found.tensors[name]) for name, tensor in packed.tensors.items())


# 3 batches an epoch, of 8, 8 and 7 sequences.
MEMORIES = ("specs/memory/fifo.yaml", "--epochs", "2", "--batch-size", "8")


@pytest.fixture(scope="module")
def memories(tmp_path_factory) -> tuple[Path, Checkpoint]:
    """Two processes on a text, part by part, with a memory that goes on from part to part."""
    out = tmp_path_factory.mktemp("memories") / "two"
    return out, train(out, *MEMORIES)


def test_memories_and_parts_of_sequences_by_shares(memories, tmp_path):
    before, two = memories
    one = train(tmp_path / "one", *MEMORIES, several=False)
    assert 0 < far(one, two) < 1e-4
    for a, b in zip(lines(before), lines(tmp_path / "one"), strict=True):
        assert a["losses"] == pytest.approx(b["losses"], abs=1e-5)


@pytest.mark.parametrize(("rank", "batch"), [(0, 2), (1, 4)])
def test_a_stop_of_any_process_changes_nothing(memories, tmp_path, rank, batch):
    out = tmp_path / "cut"
    stopped = ["tests/e2e/processes_stopped.py", "specs/memory/fifo.yaml", str(out), str(rank), str(batch)]
    said = run([*TORCHRUN, *stopped, "2", "8"])
    assert said.count("stopped after batch") == 2
    run([*TORCHRUN, "-m", "r2d2c", "train", "-q", "--threads", "1", "--resume", str(out)])
    alike(memories[1], load_checkpoint(out / "checkpoints" / "last.safetensors"))
    for a, b in zip(lines(memories[0]), lines(out), strict=True):
        assert {**a, "seconds": 0, "rate": 0} == {**b, "seconds": 0, "rate": 0}


# Its steps are as far apart as gradients are; those of adam may be larger.
SGD = "train.optimizer=sgd(lr=0.02)"


@pytest.mark.parametrize("spec", ["credit/local_heads", "credit/similarity"])
def test_batches_that_make_one_step_by_shares(tmp_path, spec):
    # 9 batches: the last step is of one.
    options = ("--epochs", "2", "--set", "train.accumulate=4", "--batch-size", "160", "--set", SGD)
    one, two = (
        train(tmp_path / f"{several}", f"specs/{spec}.yaml", *options, several=several)
        for several in (False, True)
    )
    assert 0 < far(one, two) < 1e-5
    for a, b in zip(lines(tmp_path / "False"), lines(tmp_path / "True"), strict=True):
        assert a["losses"] == pytest.approx(b["losses"], abs=1e-5)


def test_angles_are_measured_on_a_whole_batch_and_written_once(tmp_path):
    spec = tmp_path / "net.yaml"
    text = ONE.format(loss=LOSSES["info_nce"]).replace("D: 6", "D: 64").replace("C: 3", "C: 10")
    spec.write_text(f"{text}train: {{data: digits, batch_size: 128, optimizer: sgd(lr=0.02)}}\n")
    found = []
    for several in (False, True):
        out = tmp_path / f"{several}"
        train(out, str(spec), "--epochs", "1", "--angles", several=several)
        found.append([line.split(",") for line in (out / "angles.csv").read_text().splitlines()])
    one, two = found
    assert [line[:2] for line in one] == [line[:2] for line in two]
    for a, b in zip(one[1:], two[1:], strict=True):
        assert float(a[2]) == pytest.approx(float(b[2]), abs=1e-2)


def test_growth_by_shares_makes_the_same_mutations(tmp_path):
    spec = tmp_path / "grows.yaml"
    text = (ROOT / "specs/growth/tabular.yaml").read_text()
    spec.write_text(text.replace("every: epochs(4)", "every: epochs(1)"))
    one, two = (
        train(tmp_path / f"{several}", str(spec), "--epochs", "4", "--set", SGD, several=several)
        for several in (False, True)
    )
    logs = [
        [json.loads(line) for line in (tmp_path / f"{several}" / "mutations.jsonl").read_text().splitlines()]
        for several in (False, True)
    ]
    assert any("worth" in record for record in logs[0])
    for a, b in zip(*logs, strict=True):
        worth, other = a.pop("worth", {}), b.pop("worth", {})
        assert a == b
        assert worth == pytest.approx(other, abs=1e-4)
    assert one.model.keys() == two.model.keys()
    for name, tensor in one.model.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, two.model[name], rtol=1e-3, atol=1e-5), name
        else:
            assert torch.equal(tensor, two.model[name]), name


SPREAD = """
from r2d2c.ops.record import Arg, Op
from r2d2c.types import TensorType

SPREAD = Op(
    "spread",
    "The root of the mean square of a whole batch, which does not say that it mixes samples.",
    (Arg("x"),),
    shape=lambda s, a: TensorType(a.x.dtype),
    lower=lambda b, a: b("torch.sqrt", b("torch.mean", b("torch.square", a.x))),
    traits=frozenset({"distance"}),
)
OPS = (SPREAD,)
"""


def test_an_op_that_does_not_say_what_it_mixes_is_found(tmp_path):
    (tmp_path / "spread.py").write_text(SPREAD)
    spec = tmp_path / "net.yaml"
    spec.write_text(ONE.format(loss="spread(h)") + "train: {data: digits}\n")
    spec.write_text(spec.read_text().replace("D: 6", "D: 64").replace("C: 3", "C: 10"))
    said = run(
        [
            *TORCHRUN,
            "-m",
            "r2d2c",
            "train",
            str(spec),
            "--plugin",
            str(tmp_path / "spread.py"),
            "-o",
            str(tmp_path / "run"),
        ],
        1,
    )
    assert "E630" in said
    assert "`t1` of a batch is not the mean over shares of it" in said
    assert "internal error" not in said


def test_an_op_whose_samples_are_coupled_while_they_halt_is_refused(tmp_path):
    spec = tmp_path / "halts.yaml"
    text = (ROOT / "specs/loops/parity_act.yaml").read_text()
    centred = text.replace("says = linear(c, C)", "says = linear(c - mean(c, axes=0, keep=true), C)")
    assert centred != text
    spec.write_text(centred)
    said = run([*TORCHRUN, "-m", "r2d2c", "train", str(spec), "-o", str(tmp_path / "run")], 1)
    assert "E630" in said
    assert "its samples halt" in said
    assert not (tmp_path / "run" / "checkpoints" / "last.safetensors").exists()


def test_one_process_unpacks_what_all_go_on_with(heads, tmp_path):
    packed, out = tmp_path / "run.r2d2c", tmp_path / "run"
    run([sys.executable, "-m", "r2d2c", "pack", str(heads[0]), "-o", str(packed)])
    goes_on = [*TORCHRUN, "-m", "r2d2c", "train", "-q", "--epochs", "3", "--resume", str(packed), "-o"]
    run([*goes_on, str(out)])
    assert [(r["epoch"], r["split"]) for r in lines(out)][-2:] == [(3, "train"), (3, "test")]
    assert load_checkpoint(out / "checkpoints" / "last.safetensors").state["epoch"] == 3
    packed.write_bytes(packed.read_bytes()[:10_000])
    said = run([*goes_on, str(tmp_path / "other")], 1)
    assert "E620" in said
    assert "process 1: cannot open" in said
    assert "internal error" not in said


# -- processes that are killed


class Started:
    """What `torchrun` has started, which may be killed or stopped, and what it said."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.text = folder / "said.txt"
        with self.text.open("w") as said:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=ENVIRONMENT, stdout=said, stderr=subprocess.STDOUT
            )

    def said(self) -> str:
        return self.text.read_text()

    def until(self, true: Callable[[], bool], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)

    def worker(self, rank: int) -> int:
        """The number of the process with this rank."""
        parent = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for child in map(int, parent.read_text().split()):
            try:
                environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:  # it is gone already
                continue
            if b"RANK=%d" % rank in environment:
                return child
        raise AssertionError(f"there is no process {rank}: {self.said()}")

    def end(self, seconds: float = 300) -> int:
        return self.process.wait(seconds)


@contextmanager
def started(folder: Path, command: list[str]) -> Iterator[Started]:
    found = Started(folder, command)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.terminate()  # torchrun ends those that it started
            try:
                found.process.wait(60)
            except subprocess.TimeoutExpired:
                found.process.kill()


def epochs_of(out: Path) -> list[int]:
    """Those that were learned, by the whole lines of the metrics."""
    path = out / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [record["epoch"] for record in found if record["split"] == "train"]


# More epochs than there is time for: nothing ends before it is killed.
ENDLESS = [
    "-m",
    "r2d2c",
    "train",
    "specs/credit/local_heads.yaml",
    "--epochs",
    "100000",
    "--threads",
    "1",
    "-o",
]


def test_a_killed_process_stops_the_others_and_the_run_goes_on(tmp_path):
    out = tmp_path / "run"
    with started(tmp_path, [*TORCHRUN, *ENDLESS, str(out)]) as training:
        training.until((out / "checkpoints" / "best.safetensors").is_file)
        os.kill(training.worker(1), signal.SIGKILL)
        assert training.end() != 0
        said = training.said()
    assert "E635" in said
    assert "--resume" in said
    assert "internal error" not in said
    epoch = load_checkpoint(out / "checkpoints" / "last.safetensors").state["epoch"]
    assert 1 <= epoch < 100_000
    resume = ["-m", "r2d2c", "train", "-q", "--epochs", str(epoch + 1), "--resume", str(out)]
    run([*TORCHRUN, *resume])
    assert load_checkpoint(out / "checkpoints" / "last.safetensors").state["epoch"] == epoch + 1


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("meeting", ["--standalone", "--master-port"])
def test_a_training_that_torchrun_starts_again_goes_on_by_itself(tmp_path, meeting):
    out = tmp_path / "run"
    where = [meeting, str(free_port())] if meeting == "--master-port" else [meeting]
    start = [sys.executable, "-m", "torch.distributed.run", *where, "--max-restarts", "1"]
    with started(tmp_path, [*start, "--nproc-per-node", "2", *ENDLESS, str(out)]) as training:
        training.until((out / "checkpoints" / "best.safetensors").is_file)
        os.kill(training.worker(1), signal.SIGKILL)
        training.until(lambda: "goes on after" in training.said())
        last = len(epochs_of(out))
        training.until(lambda: len(epochs_of(out)) > last + 1)
        os.kill(training.worker(0), signal.SIGTERM)
        training.end()
        said = training.said()
    assert "E635" in said
    assert "stopped and saved" in said
    learned = epochs_of(out)
    assert learned == list(range(1, len(learned) + 1))
