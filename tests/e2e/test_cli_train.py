"""train, eval and predict as processes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch

from r2d2c.train.checkpoint import load_checkpoint

SPEC = Path(__file__).parents[2] / "specs" / "tasks" / "two_tasks.yaml"
CONV = Path(__file__).parents[2] / "specs" / "baselines" / "conv.yaml"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
COMMAND = [sys.executable, "-m", "r2d2c"]


def r2d2c(folder: Path, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def lines(run: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("seconds", "rate")} for record in found]


def assert_same(a: Path, b: Path) -> None:
    one, two = (load_checkpoint(run / "checkpoints" / "last.safetensors") for run in (a, b))
    assert one.optimizers.keys() == two.optimizers.keys()
    pairs = [(packed.tensors, two.optimizers[key].tensors) for key, packed in one.optimizers.items()]
    for mine, others in ((one.model, two.model), *pairs):
        assert mine.keys() == others.keys()
        assert all(torch.equal(tensor, others[name]) for name, tensor in mine.items())
    assert lines(a) == lines(b)
    assert {**one.state, "seconds": 0} == {**two.state, "seconds": 0}


def test_train_eval_predict(tmp_path: Path) -> None:
    done = r2d2c(tmp_path, "train", SPEC, "--epochs", 2)
    run = tmp_path / "runs" / "two_tasks-001"
    shown = done.stdout.splitlines()
    assert shown[0] == "two_tasks: 17,930 parameters, digits, 1,438 samples, cpu"
    assert shown[1] == "run folder: runs/two_tasks-001"
    assert [line.split("  ")[0] for line in shown[2:4]] == ["epoch 1/2", "epoch 2/2"]
    assert "encode 0." in shown[2]
    assert "  r2d2c eval runs/two_tasks-001" in shown
    files = {
        "spec.yaml",
        "lock.json",
        "run.json",
        "metrics.jsonl",
        "curves.png",
        "events.out.tfevents.r2d2c",
        "summary.txt",
        "checkpoints",
    }
    assert {entry.name for entry in run.iterdir()} == files
    assert "epochs: 2" in (run / "spec.yaml").read_text()

    found = json.loads(r2d2c(tmp_path, "eval", "runs/two_tasks-001", "--format", "json").stdout)
    assert found["samples"] == 359
    assert found["metrics"] == lines(run)[-1]["metrics"]
    text = r2d2c(tmp_path, "eval", "runs/two_tasks-001", "--split", "train").stdout
    assert text.startswith("two_tasks, last checkpoint: digits, train, 1,438 samples")
    assert "untrained" in r2d2c(tmp_path, "eval", SPEC).stderr
    assert "E539" in r2d2c(tmp_path, "eval", run, "--split", "validation", expect=1).stderr

    r2d2c(tmp_path, "predict", run, "-o", "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(rows) == 359
    assert {row["logits_class"] for row in rows} <= set("0123456789")
    numpy.savez(tmp_path / "new.npz", x=numpy.zeros((7, 64), numpy.float32))
    r2d2c(tmp_path, "predict", run, "--data", "npz:new.npz", "-o", "out.npz")
    with numpy.load(tmp_path / "out.npz") as arrays:
        assert arrays["logits"].shape == (7, 10)
        assert arrays["logits_class"].shape == (7,)
    assert "neither in .csv nor in .npz" in r2d2c(tmp_path, "predict", run, "-o", "out.txt", expect=2).stderr


def test_a_run_that_exists_is_refused(tmp_path: Path) -> None:
    r2d2c(tmp_path, "train", SPEC, "--epochs", 1, "--out", "mine", "--quiet")
    before = (tmp_path / "mine" / "metrics.jsonl").read_bytes()
    done = r2d2c(tmp_path, "train", SPEC, "--out", "mine", expect=1)
    assert "error[E522]: the run folder mine is not empty" in done.stderr
    assert "or go on with this run: --resume mine" in done.stderr
    assert (tmp_path / "mine" / "metrics.jsonl").read_bytes() == before
    assert "E548" in r2d2c(tmp_path, "train", "--resume", "mine", expect=1).stderr
    assert "as it was started" in r2d2c(tmp_path, "train", "--resume", "mine", "--seed", 3, expect=2).stderr
    assert r2d2c(tmp_path, "train", expect=2).stderr
    assert "E543" in r2d2c(tmp_path, "train", SPEC, "--device", "cuda:97", expect=1).stderr
    assert not (tmp_path / "runs").exists()


def test_interrupt_saves_and_resume_is_exact(tmp_path: Path) -> None:
    """Convolution, batch norm and dropout, killed by a Ctrl-C somewhere in an epoch."""
    arguments = ["train", CONV, "--epochs", 6, "--batch-size", 8, "--seed", 4]
    r2d2c(tmp_path, *arguments, "--out", "whole")
    process = subprocess.Popen(
        [*COMMAND, *map(str, [*arguments, "--out", "cut"])],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "epoch 2/6" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "stopped and saved in epoch" in stderr
    assert "  r2d2c train --resume cut" in stderr
    assert len(lines(tmp_path / "cut")) < 6
    r2d2c(tmp_path, "train", "--resume", "cut")
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_data_outside_the_spec_is_for_the_command_line(tmp_path: Path) -> None:
    inside = tmp_path / "specs"
    inside.mkdir()
    numpy.savez(tmp_path / "d.npz", x=numpy.random.rand(50, 64).astype("f4"), y=numpy.arange(50) % 10)
    spec = inside / "two.yaml"
    spec.write_text(SPEC.read_text().replace("data: digits", "data: npz:../d.npz"))
    assert "E504" in r2d2c(tmp_path, "train", spec, "--out", "a", expect=1).stderr
    r2d2c(tmp_path, "train", spec, "--out", "a", "--data", "npz:d.npz", "--epochs", 1, "--limit-batches", 1)
    assert (
        json.loads(r2d2c(tmp_path, "eval", "a", "--split", "train", "--format", "json").stdout)["samples"]
        == 40
    )


def test_a_termination_saves_and_a_second_one_quits(tmp_path: Path) -> None:
    """SIGTERM is as Ctrl-C; a batch that takes long is not waited for if a second one comes."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\nfrom r2d2c.train.loop import Trainer\nlearn = Trainer._learn\n"
        "def _learn(self, batch):\n    learn(self, batch)\n    print('learned', flush=True)\n    time.sleep(0.1)\n"
        "Trainer._learn = _learn\n"
    )
    for name, second in (("once", False), ("twice", True)):
        if second:
            slow.write_text(slow.read_text().replace("0.1", "60"))
        arguments = ["train", SPEC, "--plugin", slow, "--out", name, "--epochs", 3, "--checkpoint-every", 0]
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        while "learned" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        if second:
            time.sleep(0.3)
            assert process.poll() is None, "the first one waits for the batch"
            process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130, stderr
        state = load_checkpoint(tmp_path / name / "checkpoints" / "last.safetensors").state
        assert ("stopped and saved in epoch 1" in stderr, state["batches"] > 0) == (not second, not second)


def test_bars_on_a_terminal(tmp_path: Path) -> None:
    """Losses by task, rate, memory and time left; plain lines elsewhere, and nothing at all with --quiet."""
    pty = pytest.importorskip("pty")
    plain = {k: v for k, v in ENVIRONMENT.items() if k != "NO_COLOR"} | {"TERM": "xterm", "COLUMNS": "120"}
    mine, theirs = pty.openpty()
    arguments = ["train", SPEC, "--out", "run", "--epochs", 2, "--batch-size", 2]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=tmp_path, env=plain, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(mine, 65536):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"batch .* +\d+/719 +encode \d\.\d+ +classify \d\.\d+ +0:00:\d\d", text)
    assert re.search(r"epoch .* 0/2 +[\d,]+ samples/s +[\d.]+ MiB", text)
    assert re.search(r"epoch 1/2  encode .* samples/s", text)
    done = r2d2c(tmp_path, "train", SPEC, "--out", "quiet", "--epochs", 1, "--limit-batches", 1, "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_early_stopping_is_said(tmp_path: Path) -> None:
    """When it happens and at the end; not where the last epoch is the one that was asked for."""
    still = ("--set", "train.optimizer=sgd(lr=0.0)", "--set", "train.early_stop=2", "--limit-batches", "2")
    done = r2d2c(tmp_path, "train", SPEC, *still, "--epochs", 9, "-o", "run")
    text = "stopped early after epoch 3: loss was no better for 2 epochs"
    shown = done.stdout.splitlines()
    assert shown[5] == text and shown.count(text) == 2, done.stdout
    assert "two_tasks: 3 epochs" in shown
    done = r2d2c(tmp_path, "train", SPEC, *still, "--epochs", 3, "-o", "whole")
    assert "stopped early" not in done.stdout + (tmp_path / "whole" / "summary.txt").read_text()
    quiet = r2d2c(tmp_path, "train", SPEC, *still, "--epochs", 9, "-o", "quiet", "-q")
    assert quiet.stdout == ""
