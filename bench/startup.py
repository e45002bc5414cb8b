"""The command line before anything is computed, against a process that imports torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Result, Setting, Work, interleaved

# As the installed script does it: it is not always beside the interpreter.
CLI = "import sys; sys.argv[0] = 'r2d2c'; from r2d2c.cli.main import run; run()"
BROKEN = """r2d2c: 1
model: broken
dims: {D: 4}
inputs:
  x: f32[B, D]
tasks:
  t:
    behavior: h = linear(x, (D) |> relu
    distance: mse(h, x)
outputs:
  h: t.h
"""


def _process(code: str, *arguments: str, ends: Sequence[int] = (0,)) -> Work:
    command = [sys.executable, "-c", code, *arguments]

    def run() -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in ends:
            raise RuntimeError(f"exit {done.returncode}: {done.stderr[-500:]}")

    return run


def _against_torch(setting: Setting, ours: Work) -> Result:
    return interleaved(ours, _process("import torch"), setting, seconds=15.0, wall=True)


def help_page(setting: Setting) -> Result:
    return _against_torch(setting, _process(CLI, "--help"))


def syntax_error(setting: Setting) -> Result:
    """`r2d2c check` of a spec with a syntax error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "broken.yaml")
        path.write_text(BROKEN)
        return _against_torch(setting, _process(CLI, "check", str(path), ends=(1,)))
