"""Every example of the language reference is run: checked, compiled, one pass forward and backward."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from r2d2c import CompileError, compile, loads
from r2d2c.diagnostics import Diagnostic
from r2d2c.sampling import random_batch

PAGE = Path(__file__).parents[2] / "grammar" / "reference.md"
TEXT = PAGE.read_text("utf-8")
BLOCK = re.compile(r"^<!-- ([^\n]*?) -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What the frame has and an example does not use.
FRAME_ONLY = {"W451", "W452"}
# What needs no example of its own: words of a message, or sentences of the reference.
REQUIRED_SECTIONS = (
    "r2d2c", "model", "doc", "dims", "imports", "inputs", "targets", "blocks", "tasks", "links", "losses", "outputs",
    "credit", "train", "loops", "hypernets", "memories",
)  # fmt: skip


class Example(NamedTuple):
    kind: str  # run, error, warning
    code: str
    statements: bool
    settings: tuple[str, ...]
    credit: str | None
    text: str


def sections(text: str) -> dict[str, str]:
    """A text by its top-level keys; of a key given twice, both."""
    found: dict[str, str] = {}
    for part in re.split(r"^(?=\w)", text, flags=re.MULTILINE):
        if part.strip():
            key = part.partition(":")[0]
            found[key] = found.get(key, "") + part
    return found


def examples() -> Iterator[object]:
    heading = ""
    for found in re.finditer(rf"^## ([^\n]*)$|{BLOCK.pattern}", TEXT, re.MULTILINE | re.DOTALL):
        if found[1]:
            heading = found[1]
            continue
        mark, text = found[2], found[3]
        kind, _, rest = mark.partition(":")
        if kind in ("frame", "file"):
            continue
        code = next(iter(re.findall(r"\b[EWN]\d{3}\b", rest)), "")
        settings = tuple(
            s.strip().removeprefix("set ") for s in rest.split(",") if s.strip().startswith("set ")
        )
        words = [s.strip() for s in rest.split(",")]
        credit = next((s.removeprefix("credit ") for s in words if s.startswith("credit ")), None)
        example = Example(kind, code, "statements" in rest, settings, credit, text)
        line = TEXT[: found.start()].count("\n") + 1
        yield pytest.param(example, id=f"{line}: {heading} {mark}")


def blocks(mark: str) -> list[tuple[str, str]]:
    return [(found[1], found[2]) for found in BLOCK.finditer(TEXT) if found[1].startswith(mark)]


((_, FRAME),) = blocks("frame")


def completed(example: Example) -> str:
    text = example.text
    if example.statements:
        body = textwrap.indent(text, "      ")
        text = f"tasks:\n  t:\n    behavior: |\n{body}    distance: mean(h ^ 2)\noutputs:\n  h: t.h\n"
    own = sections(text)
    return "".join(part for key, part in sections(FRAME).items() if key not in own) + text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for mark, text in blocks("file"):
        path = tmp_path / mark.partition(":")[2].strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return tmp_path


@pytest.mark.parametrize("example", list(examples()))
def test_an_example(example: Example, folder: Path) -> None:
    text = completed(example)
    found: tuple[Diagnostic, ...]
    try:
        checked = loads(
            text, name="reference.md", folder=folder, settings=example.settings, credit=example.credit
        )
        found = checked.diagnostics
    except CompileError as error:
        assert example.kind == "error", str(error)
        found = error.diagnostics
        assert {d.code for d in found if d.severity == "error"} == {example.code}, str(error)
        return
    assert example.kind != "error", f"no {example.code}"
    warned = {d.code for d in found if d.severity == "warning"} - FRAME_ONLY
    assert warned == ({example.code} if example.kind == "warning" else set()), [str(d) for d in found]
    model = compile(checked)
    batch = random_batch(checked.graph)
    step = model.learn(**batch)
    outputs = model(**{name: batch[name] for name in model._inference_lowered.inputs})
    assert all(value.isfinite().all() for value in (*outputs.values(), *step.losses.values()))
    assert any(p.grad is not None for p in model.parameters())


def test_every_section_has_an_example() -> None:
    used = {key for _, text in blocks("run") for key in sections(text)}
    assert used >= set(REQUIRED_SECTIONS)


def test_no_block_is_left_unmarked() -> None:
    assert TEXT.count("\n```yaml\n") == len(BLOCK.findall(TEXT))


@pytest.mark.parametrize("code", sorted(set(re.findall(r"\b[EWN]\d{3}\b", TEXT))))
def test_codes_exist(code: str) -> None:
    from r2d2c.diagnostics.catalog import CATALOG

    assert code in CATALOG
