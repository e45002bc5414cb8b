"""What all tests share: goldens, printed text that is compared with a file and refreshed by one flag."""

import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Every graph that a test makes is held against the legality table after every pass (r2d2c/passes/legality.py).
os.environ["R2D2C_CHECK"] = "1"
EXPECTED = Path(__file__).parent / "golden" / "expected"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--refresh-goldens", action="store_true", help="rewrite tests/golden/expected instead of comparing"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` holds text against tests/golden/expected/NAME."""
    refresh = request.config.getoption("--refresh-goldens")

    def compare(name: str, text: str) -> None:
        path = EXPECTED / name
        expected = path.read_bytes().decode() if path.exists() else None
        if text == expected:
            return
        if refresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
            return
        remedy = "If this is what it should be, run `make goldens` and read the diff."
        if expected is None:
            pytest.fail(f"There is no golden {name} yet. {remedy}\n\n{text}", pytrace=False)
        pytest.fail(f"{name} differs. {remedy}\n\n{''.join(_diff(name, expected, text))}", pytrace=False)

    return compare


def _diff(name: str, expected: str, text: str) -> Iterator[str]:
    lines = difflib.unified_diff(
        expected.splitlines(keepends=True),
        text.splitlines(keepends=True),
        f"expected/{name}",
        "what the test got",
    )
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n"
