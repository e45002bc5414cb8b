"""The README and the docs: their code runs, their links lead somewhere, their spec and drawing are the real ones."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import r2d2c
from r2d2c.driver import read
from r2d2c.sampling import random_batch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DEMO = ROOT / "specs/tasks/two_tasks.yaml"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "grammar").glob("*.md")])


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    (tmp_path / "example.py").write_text("\n".join(blocks(README, "python")), "utf-8")
    printed = run(tmp_path, "example.py")
    assert "torch.Size([8, 10])" in printed and "def forward(self, x)" in printed
    assert (tmp_path / "two_tasks.onnx").stat().st_size > 10_000


def test_the_spec_of_the_readme_is_the_ready_one() -> None:
    (spec,) = blocks(README, "yaml")
    assert spec == DEMO.read_text("utf-8")


def test_the_wiring_of_the_readme_is_the_real_one() -> None:
    model = r2d2c.compile(r2d2c.load(DEMO))
    shown = next(text for text in blocks(README, "") if "which loss trains which parameters" in text)
    for loss, row in model.wiring().items():
        for name, entry in row.items():
            place = name.rpartition(".")[0]
            line = next(
                x
                for x in shown.splitlines()
                if x.startswith((f"{place}.*", f"{'.'.join(place.split('.')[:2])}.*"))
            )
            assert line.split()[2:][list(model.wiring()).index(loss)] == (entry or "·")


def test_the_drawing_of_the_readme_is_current(request: pytest.FixtureRequest) -> None:
    drawn = run(ROOT, "-m", "r2d2c", "graph", "specs/tasks/two_tasks.yaml")
    (shown,) = blocks(README, "mermaid")
    if request.config.getoption("--refresh-goldens"):
        (ROOT / "README.md").write_text(README.replace(shown, f"{drawn.rstrip()}\n"), "utf-8")
        return
    assert shown.rstrip() == drawn.rstrip(), "run `make goldens ARGS=tests/unit/test_docs.py`"


def test_the_plugin_page_is_a_plugin(tmp_path: Path) -> None:
    page = (ROOT / "docs/plugins.md").read_text("utf-8")
    (tmp_path / "mine.py").write_text("\n".join(blocks(page, "python")), "utf-8")
    assert "encode.h.gated.gate.weight" in run(tmp_path, "mine.py")
    (tmp_path / "spec.yaml").write_text(re.findall(r'SPEC = """\\\n(.*?)"""', page, re.DOTALL)[0], "utf-8")
    run(tmp_path, "-m", "r2d2c", "check", "spec.yaml", "--plugin", "mine.py")
    spec = r2d2c.load(tmp_path / "spec.yaml", plugins=[tmp_path / "mine.py"])
    model = r2d2c.compile(spec)
    batch = random_batch(spec.graph)
    assert model.learn(**batch).losses["classify"] > 0
    half = {name: parameter.grad for name, parameter in model.named_parameters()}
    text = read(tmp_path / "spec.yaml").text
    whole = r2d2c.compile(
        r2d2c.loads(text.replace("credit: half", "credit: backprop"), plugins=[tmp_path / "mine.py"])
    )
    whole.learn(**batch)
    for name, parameter in whole.named_parameters():
        factor = 0.5 if name.startswith("encode.") else 1.0
        assert half[name] is not None and half[name].allclose(parameter.grad * factor), name  # type: ignore[union-attr,operator]
    pytest.importorskip("onnxscript")
    r2d2c.export(model, tmp_path / "m.onnx")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        path, _, anchor = target.partition("#")
        assert not path or (page.parent / path).exists(), target
        assert not anchor or path or anchor in anchors(text), target


def test_the_picture_is_the_scripts(tmp_path: Path) -> None:
    run(ROOT, "docs/pipeline.py", str(tmp_path / "pipeline.svg"))
    assert (tmp_path / "pipeline.svg").read_bytes() == (ROOT / "docs/pipeline.svg").read_bytes()


def test_the_readme_names_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    table = README.partition("## Dependencies")[2]
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=]", requirement)[0]
        assert re.search(rf"^\|.*\b{name.replace('-', '[-_]')}\b.*\|", table, re.MULTILINE), name
