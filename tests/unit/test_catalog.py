"""The catalog of diagnostics: exactly the codes that the sources use, each explained with an example."""

import re
from pathlib import Path

import pytest

from r2d2c.diagnostics.catalog import CATALOG

ROOT = Path(__file__).parents[2]


def used() -> dict[str, str]:
    """The codes in the sources, with a file that uses each."""
    found: dict[str, str] = {}
    for folder in ("r2d2c", "backends"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent.name == "diagnostics" and path.name.startswith("codes_"):
                continue
            for code in re.findall(r'"([EWN]\d{3})"', path.read_text("utf-8")):
                found.setdefault(code, str(path.relative_to(ROOT)))
    return found


def test_every_code_that_is_used_is_in_the_catalog() -> None:
    assert {code: path for code, path in used().items() if code not in CATALOG} == {}


def test_every_code_in_the_catalog_is_used() -> None:
    assert set(CATALOG) - set(used()) == set()


@pytest.mark.parametrize("code", sorted(CATALOG))
def test_an_entry(code: str) -> None:
    entry = CATALOG[code]
    assert entry.code == code and code[0] in "EWN"
    assert entry.title and not entry.title.endswith(".") and len(entry.title) <= 72
    assert entry.text == entry.text.strip("\n")
    assert not [line for line in entry.text.split("\n") if len(line) > 120]
    if code[1] in "1234":
        assert re.search(r"\n\n    \S", entry.text), "an example is missing"


def test_a_code_has_one_entry() -> None:
    text = "".join(path.read_text("utf-8") for path in (ROOT / "r2d2c" / "diagnostics").glob("codes_*.py"))
    codes = re.findall(r'Entry\(\s*"([EWN]\d{3})"', text)
    assert len(codes) == len(set(codes))
    # The severity is in the letter alone: no number is used twice.
    assert len({code[1:] for code in codes}) == len(codes)
