"""The command line as a process, for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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


def _plain() -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**environment, "PYTHONIOENCODING": "utf-8"}
