"""The command line as a process, for the tests of this folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ONE = {"OMP_NUM_THREADS": "1"}
TWO_TASKS = ROOT / "specs" / "tasks" / "two_tasks.yaml"

BROKEN = """\
r2d2c: 1
model: broken
inputs:
  x: f32[B, 4]
targets:
  y: i64[B]
tasks:
  a:
    behavior: h = x |> linear(4
    distance: cross_entropy(h, y)
outputs:
  h: a.h
"""


def r2d2c(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    python: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run one command; colour and width are those of no terminal."""
    return subprocess.run(
        [sys.executable, *python, "-m", "r2d2c", *map(str, arguments)],
        cwd=cwd,
        env={**_plain(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def interrupted(*arguments: str | Path, cwd: Path, at: str, everybody: bool = False) -> str:
    """Run one command, send Ctrl-C after the first line of stdout with ``at`` in it; what it said on stderr.

    everybody: the signal goes to all processes, as a terminal sends it.
    """
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "r2d2c", *map(str, arguments)],
        cwd=cwd,
        env={**_plain(), **ONE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=everybody,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if at in line:
                break
        (os.killpg if everybody else os.kill)(process.pid, signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    return said


def write_products(folder: Path, count: int = 60) -> None:
    """``data.csv``: three normal numbers, and whether the first two have one sign."""
    draw = random.Random(1)
    lines = ["a,b,c,y"]
    for _ in range(count):
        a, b, c = (draw.gauss(0, 1) for _ in range(3))
        lines.append(f"{a:.3f},{b:.3f},{c:.3f},{'yes' if a * b > 0 else 'no'}")
    (folder / "data.csv").write_text("\n".join([*lines, ""]))


def _plain() -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**environment, "PYTHONIOENCODING": "utf-8"}
