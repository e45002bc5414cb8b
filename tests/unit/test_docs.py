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
    spec = blocks(README, "yaml")[0]
    assert spec == DEMO.read_text("utf-8")


# The pages whose specs learn and run here, each with the numbers of these specs.
SPECS = {"README.md": (1, 2), "docs/loops.md": (0, 1, 2), "docs/memory.md": (0, 1, 2), "docs/growth.md": (0,)}


@pytest.mark.parametrize(
    ("page", "number"),
    [(page, number) for page, numbers in SPECS.items() for number in numbers],
)
def test_a_spec_of_a_page_learns_and_runs(page: str, number: int) -> None:
    text = blocks((ROOT / page).read_text("utf-8"), "yaml")[number]
    checked = r2d2c.loads(text)
    assert not checked.diagnostics, [str(d) for d in checked.diagnostics]
    model = r2d2c.compile(checked)
    batch = random_batch(checked.graph)
    losses = model.learn(**batch).losses
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is not None for p in model.parameters())
    outputs = model(**{name: value for name, value in batch.items() if name != "y"})
    assert all(value.isfinite().all() for value in outputs.values())


@pytest.mark.parametrize("page", SPECS)
def test_every_spec_of_a_page_is_run(page: str) -> None:
    first = 1 if page == "README.md" else 0  # its first spec is a ready one
    found = blocks((ROOT / page).read_text("utf-8"), "yaml")
    assert SPECS[page] == tuple(range(first, len(found)))


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


CREDIT = (ROOT / "docs/credit.md").read_text("utf-8")


def test_the_credit_page_shows_the_examples() -> None:
    shown = blocks(CREDIT, "python")[:2]
    assert shown == [
        (ROOT / f"examples/credit/{name}.py").read_text("utf-8")
        for name in ("direct_random_target", "forward_gradient")
    ]


def test_the_rules_of_the_credit_page_are_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("\n".join(blocks(CREDIT, "python")[2:]), "utf-8")
    text = """r2d2c: 1
inputs:
  x: f32[B, 6]
targets:
  y: i64[B]
tasks:
  t1:
    behavior: h = x |> linear(4) |> tanh
  out:
    behavior: logits = linear(t1.h, 3)
    distance: cross_entropy(logits, y)
credit: transport
outputs:
  logits: out.logits
"""
    mine = tmp_path / "mine.py"
    same, usual = (
        r2d2c.compile(r2d2c.loads(text, plugins=[mine], credit=c)) for c in ("transport", "backprop")
    )
    batch = random_batch(same.graph)
    same.learn(**batch)
    usual.learn(**batch)
    for (name, one), (_, other) in zip(same.named_parameters(), usual.named_parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and one.grad.allclose(other.grad), name
    learned = r2d2c.compile(r2d2c.loads(text, plugins=[mine], credit="learned_direct(rate=2)"))
    assert set(learned.learn(**batch).losses) == {"out", "t1.learned_direct"}
    wiring = learned.wiring()
    assert wiring["t1.learned_direct"]["t1.learned_direct.B"] == "gradient"
    assert wiring["out"]["t1.h.linear.weight"] == "rule:learned_direct"


def test_the_credit_page_has_every_rule_option_block_and_method() -> None:
    from r2d2c.credit import record
    from r2d2c.credit.options import call, options
    from r2d2c.credit.registry import BUILTIN

    for rule in BUILTIN:
        assert f"\n### {rule.name}\n" in CREDIT
        usage = call(rule)
        if options(rule) and len(usage) < 80:
            assert f"`{usage}`" in CREDIT, usage
    for block in re.findall(
        r"^  (\w+_error\(.*\)): \|$", (ROOT / "specs/std/heads.yaml").read_text(), re.MULTILINE
    ):
        assert f"`{block}`" in CREDIT, block
    tables = CREDIT.partition("### What there is to build with")[2]
    for protocol in (record.Builder, record.Attaching, record.Edge, record.Network, record.Layers):
        for name in vars(protocol):
            if not name.startswith("_"):
                assert re.search(rf"`{name}\b", tables), f"{protocol.__name__}.{name}"


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
