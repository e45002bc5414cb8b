"""Snippets with mistakes, and the exact text that a user then reads: one file of cases a stage.

The credit rules of `credit_rules.py` and the kinds of `op_kinds.py` are there in the files of their names alone.

A case is its name after `################`, the spec, `----------------`, and what is rendered. After a change:
`pytest tests/errors --refresh-goldens`, and read the diff as a user would.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from r2d2c import CompileError, loads
from r2d2c.diagnostics.catalog import CATALOG
from r2d2c.diagnostics.render import render_text

HERE = Path(__file__).parent
PLUGINS = {"5_credit_rules": [HERE / "credit_rules.py"], "h_op_kinds": [HERE / "op_kinds.py"]}
NAME, RESULT = "################ ", "----------------"
FILES = sorted(HERE.glob("*.txt"))


def cases(path: Path) -> Iterator[tuple[str, str, str]]:
    for part in path.read_text("utf-8").split(NAME)[1:]:
        name, _, rest = part.partition("\n")
        spec, _, expected = rest.partition(f"{RESULT}\n")
        yield name, spec, expected


def rendered(spec: str, plugins: Iterable[Path] = ()) -> str:
    try:
        found = loads(spec, name="spec.yaml", folder=HERE, plugins=plugins).diagnostics
    except CompileError as error:
        found = error.diagnostics
    return "".join(f"{render_text(d)}\n\n" for d in found).rstrip("\n") + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_messages_of_a_stage(path: Path, request: pytest.FixtureRequest) -> None:
    plugins = PLUGINS.get(path.stem, ())
    found = [(name, spec, expected, rendered(spec, plugins)) for name, spec, expected in cases(path)]
    if request.config.getoption("--refresh-goldens"):
        text = "\n".join(f"{NAME}{name}\n{spec}{RESULT}\n{now}" for name, spec, _, now in found)
        path.write_text(text, "utf-8")
        return
    for name, _, expected, now in found:
        assert now == expected.removesuffix("\n").rstrip("\n") + "\n", f"{path.name}: {name}"


def test_every_code_of_a_spec_has_a_case() -> None:
    seen = {
        code
        for path in HERE.iterdir()
        if path.is_file()
        for code in re.findall(r"[EWN]\d{3}", path.read_text("utf-8"))
    }
    wanted = {code for code in CATALOG if code[1] in "01234"}
    assert wanted - seen == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_one_mistake_is_said_once(path: Path) -> None:
    for name, _, expected in cases(path):
        headlines = re.findall(r"^(?:error|warning|note)\[.*\n +--> .*$", expected, re.MULTILINE)
        assert len(headlines) == len(set(headlines)), f"{path.name}: {name}"
