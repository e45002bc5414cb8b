"""Exit codes, streams, and what is imported when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r2d2c.cli.main import COMMANDS, MEANT
from tests.e2e.command_line import BROKEN, TWO_TASKS, r2d2c

HEAVY = ("torch", "numpy", "networkx", "matplotlib", "onnx", "sklearn")


def imported(stderr: str) -> set[str]:
    """The top-level modules that ``-X importtime`` has seen."""
    lines = (
        line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")
    )
    return {name.partition(".")[0] for name in lines}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text(BROKEN)
    return path


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    done = r2d2c("--help", python=("-X", "importtime"))
    assert done.returncode == 0
    for name in (
        "new",
        "check",
        "fmt",
        "explain",
        "ops",
        "wiring",
        "plan",
        "graph",
        "compile",
        "data",
        "export",
        "inspect",
    ):
        assert f"\n  {name} " in done.stdout
    assert imported(done.stderr).isdisjoint((*HEAVY, "lark", "yaml", "pydantic"))


def test_a_syntax_error_imports_neither_torch_nor_the_ops(broken: Path) -> None:
    done = r2d2c("check", broken, python=("-X", "importtime"))
    assert done.returncode == 1
    assert imported(done.stderr).isdisjoint(HEAVY)
    assert "r2d2c.ops" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("check",), ("plan",), ("wiring",), ("graph",), ("compile", "--emit", "training"), ("fmt", "--check")],
)
def test_what_needs_no_torch_does_not_import_it(arguments: tuple[str, ...]) -> None:
    done = r2d2c(*arguments, TWO_TASKS, python=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    assert imported(done.stderr).isdisjoint(("torch", "matplotlib", "onnx", "sklearn"))


def test_version() -> None:
    done = r2d2c("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "r2d2c 0.1.0\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chek", "x"), "No such command 'chek'. Did you mean 'check'?"),
        (("init",), "No such command 'init'. Did you mean 'new'?"),
        (
            ("sweep", TWO_TASKS, "--sampler", "grids"),
            "'--sampler': 'grids' is not one of 'grid', 'tpe', 'random'.",
        ),
        (("train", TWO_TASKS, "--epochs", "many"), "'--epochs': this should be a whole number"),
        (("train", TWO_TASKS, "--resume", "x"), "--resume has the spec of the run: leave"),
        (("train", TWO_TASKS, "--threads", "0"), "'--threads': this should be at least 1"),
        (("check",), "Missing argument 'SPEC'"),
        (("check", "--nope", "x"), "No such option: --nope"),
        (("explain", "E9999"), "there is no code E9999"),
        (("ops", "liner"), "there is no op `liner`; did you mean `linear`?"),
        (("ops", "--credit", "locl"), "there is no credit rule `locl`; did you mean `local`?"),
        (("graph", TWO_TASKS, "-o", "/nope/x.mmd"), "the folder /nope does not exist"),
        (("graph", TWO_TASKS, "-o", "x.png"), "x.png should end in .mmd, .dot or .json, or say --as"),
        (("compile", TWO_TASKS, "--emit", "onnx"), "say where to write it, -o FILE.onnx"),
        (("compile", TWO_TASKS), "Missing option '--emit'"),
        (("plan", TWO_TASKS, "--size", "T"), "`T` is not NAME=N"),
        (("plan", TWO_TASKS, "--batch", "0"), "--batch"),
    ],
)
def test_wrong_usage(arguments: tuple[str | Path, ...], said: str) -> None:
    done = r2d2c(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_names_of_other_tools_are_told_ours() -> None:
    commands = {row.name for row in COMMANDS}
    assert set(MEANT.values()) <= commands | {"--help"} and not set(MEANT) & commands


def test_no_argument_shows_help_as_wrong_usage() -> None:
    done = r2d2c()
    assert done.returncode == 2
    assert "Commands:" in done.stderr


def test_a_mistake_goes_to_stderr_with_its_place(broken: Path) -> None:
    done = r2d2c("check", broken.name, cwd=broken.parent)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error[E104]: this `(` is never closed" in done.stderr
    assert " --> broken.yaml:9:32" in done.stderr  # as the user wrote the path
    assert "1 error" in done.stderr
    assert "\x1b" not in done.stderr


def test_colour_only_where_it_is_wanted(broken: Path) -> None:
    assert "\x1b[" in r2d2c("check", broken, env={"FORCE_COLOR": "1"}).stderr
    assert "\x1b[" not in r2d2c("check", broken, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stderr


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "r2d2c", "ops"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("to_file", [True, False])
def test_a_full_disk_is_the_machines_fault(to_file: bool) -> None:
    arguments = [sys.executable, "-m", "r2d2c", "compile", str(TWO_TASKS), "--emit", "graph"]
    if to_file:
        arguments += ["-o", "/dev/full"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "r2d2c: " in done.stderr and "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


RAISING = """\
from r2d2c.ops.record import Arg, Op

def shape(s, a):
    raise {error}

OPS = (Op("mine", "Mine.", (Arg("x"),), shape, "torch.relu"),)
"""


def with_mine(tmp_path: Path, error: str) -> tuple[Path, Path]:
    spec, plugin = tmp_path / "spec.yaml", tmp_path / "mine.py"
    spec.write_text(TWO_TASKS.read_text().replace("relu", "mine"))
    plugin.write_text(RAISING.format(error=error))
    return spec, plugin


def test_a_plugin_that_raises_is_named(tmp_path: Path) -> None:
    spec, plugin = with_mine(tmp_path, 'ValueError("oh no")')
    done = r2d2c("check", spec, "--plugin", plugin)
    assert done.returncode == 1
    assert f"r2d2c: the plug-in {plugin}:4 fails: ValueError: oh no\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_is_the_machines_fault(tmp_path: Path) -> None:
    spec, plugin = with_mine(tmp_path, "MemoryError")
    done = r2d2c("check", spec, "--plugin", plugin)
    assert done.returncode == 3
    assert done.stderr == "r2d2c: out of memory: try a smaller batch or smaller dims\n"


BUG = (
    "import sys; from r2d2c.cli import main; main.build = lambda a: 1 / 0; sys.exit(main.main(sys.argv[1:]))"
)


def test_a_bug_of_ours_is_called_one_and_noted_down(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    call = [sys.executable, "-c", BUG, "check", "x.yaml"]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "r2d2c: internal error: ZeroDivisionError: division by zero" in done.stderr
    assert "This is a bug in r2d2c, not a mistake of yours." in done.stderr
    assert "Traceback" not in done.stderr
    (note,) = tmp_path.glob("r2d2c-*.txt")
    assert str(note) in done.stderr
    text = note.read_text()
    assert "Traceback" in text and "arguments: check x.yaml" in text
    shown = subprocess.run(
        [*call, "--traceback"], env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" in shown.stderr


def test_an_interrupt_is_quiet(tmp_path: Path) -> None:
    spec, plugin = with_mine(tmp_path, "KeyboardInterrupt")
    done = r2d2c("check", spec, "--plugin", plugin)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c(tmp_path: Path) -> None:
    spec, plugin = with_mine(
        tmp_path, 'SystemExit((open("started", "w").close(), __import__("time").sleep(60)))'
    )
    call = [sys.executable, "-m", "r2d2c", "check", str(spec), "--plugin", str(plugin)]
    # Whoever runs the tests in the background ignores SIGINT, and children inherit that.
    process = subprocess.Popen(
        call,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(300):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
