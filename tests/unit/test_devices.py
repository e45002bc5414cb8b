"""Nothing that learns mixes devices: ready specs on a device that is not the CPU, with torch's FakeTensor as the oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each construct once. Adaptive halting is missing: which samples go on depends on numbers, and these have none.
SPECS = sorted(
    f"specs/{name}.yaml"
    for name in (
        "baselines/conv",
        *(f"credit/{file.stem}" for file in (ROOT / "specs" / "credit").glob("*.yaml")),
        "growth/digits",
        "growth/placed_ops",
        "memory/fifo",
        "memory/importance",
        "memory/lstm",
        "memory/pairs",
        "memory/segments",
        "memory/token_machine",
        "r2d2/modalities",
        "tasks/denoise",
        "tasks/two_heads",
    )
)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("devices") / "found.json"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("one_device.py")), str(out), *SPECS],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_learns_on_one_device(said: dict[str, str], spec: str) -> None:
    assert said[spec] == ""


def test_two_devices_would_be_found(said: dict[str, str]) -> None:
    assert "FakeTensorDeviceMismatchError" in said["two devices"]
