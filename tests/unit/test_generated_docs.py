"""References that are written from records are as the records are: refreshed by `--refresh-goldens`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import r2d2c.credit.reference
import r2d2c.diagnostics.reference
import r2d2c.ops.reference
from r2d2c.ops.registry import FAMILIES, builtin

ROOT = Path(__file__).parents[2]
WRITTEN = [
    ("grammar/ops.md", r2d2c.ops.reference.reference),
    ("grammar/credit.md", r2d2c.credit.reference.reference),
    ("docs/diagnostics.md", r2d2c.diagnostics.reference.reference),
]


@pytest.mark.parametrize(("file", "write"), WRITTEN, ids=[file for file, _ in WRITTEN])
def test_a_reference_is_current(file: str, write: Callable[[], str], request: pytest.FixtureRequest) -> None:
    path, text = ROOT / file, write()
    if request.config.getoption("--refresh-goldens"):
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text, (
        f"{file} is old: run `make goldens ARGS=tests/unit/test_generated_docs.py`"
    )


def test_every_op_is_in_the_reference_once() -> None:
    text = (ROOT / "grammar/ops.md").read_text("utf-8")
    assert sum(len(ops) for ops in FAMILIES.values()) == len(builtin())
    assert all(text.count(f"\n### {name}\n") == 1 for name in builtin())


@pytest.mark.parametrize(
    "module", ["r2d2c.ops.reference", "r2d2c.credit.reference", "r2d2c.diagnostics.reference"]
)
def test_a_reference_is_written_without_torch(module: str) -> None:
    code = f"import sys, {module} as m; m.reference(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
