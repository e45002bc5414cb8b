"""What a notebook shows: tables that say what the objects say, pictures inside the page, and nothing that could run."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

import r2d2c
from r2d2c.html import box, colored_table, details, paragraph, table
from r2d2c.train.run import Run
from tests.unit.runs import write_table

EVIL = "<script>alert(1)</script>"
SPEC = """\
r2d2c: 1
model: shown
doc: "Less <b>than</b> & more <img src=x onerror=alert(1)>"
dims: {H: 4}
credit: local
inputs: {x: "f32[B, 3]"}
targets: {y: "i64[B]"}
tasks:
  encode:
    behavior: h = tanh(linear(x, H))
    distance: mean(square(h)) * 0.01
  classify:
    behavior: logits = linear(encode.h, 2)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train:
  data: csv:data.csv?target=y
  batch_size: 16
  epochs: 2
  metrics: ["accuracy(logits, y)"]
"""
ALLOWED = {"div", "b", "span", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "img"}


@dataclass
class Page(HTMLParser):
    """Rows of tables as texts, the images, and what stands open."""

    rows: list[list[str]] = field(default_factory=list)
    text: str = ""
    images: list[bytes] = field(default_factory=list)
    backgrounds: dict[str, str] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    style: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag in ALLOWED and given.keys() <= {"style", "class", "alt", "src"}, (tag, attrs)
        if tag == "img":
            head, _, data = (given["src"] or "").partition(",")
            assert head == "data:image/png;base64"
            self.images.append(b64decode(data, validate=True))
            return
        self.open.append(tag)
        self.style = given.get("style") or ""
        assert "url(" not in self.style
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
            if "background:" in self.style:
                self.backgrounds[data] = self.style.partition("background:")[2].partition(";")[0]


def read(html: str) -> Page:
    """The page, of which every tag is one of ours and closed."""
    page = Page()
    page.feed(html)
    page.close()
    assert not page.open
    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("notebook")
    write_table(made / "data.csv", "abc", 60, lambda values: "yes" if values[0] > 0 else "no")
    (made / "shown.yaml").write_text(SPEC)
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return r2d2c.train(folder / "shown.yaml", out=folder / "run")


def test_a_model(folder: Path) -> None:
    checked = r2d2c.load(folder / "shown.yaml")
    page = read(r2d2c.compile(checked)._repr_html_())
    assert ["encode", "h", "encode", "", "16"] in page.rows
    assert ["classify", "logits", "classify", "encode → local", "10"] in page.rows
    assert ["x", "input", "f32[B, 3]"] in page.rows and ["y", "target", "i64[B]"] in page.rows
    assert ["logits", "output", "f32[B, 2]"] in page.rows
    assert ["classify.logits.linear.weight", "f32[2, 4]", "8"] in page.rows
    assert "Less <b>than</b> & more <img src=x onerror=alert(1)>" in page.text, "it is shown, not obeyed"
    assert "model, 2 tasks, 26 parameters" in page.text
    assert "spec, 2 tasks, 26 parameters" in read(checked._repr_html_()).text


@pytest.mark.parametrize(
    "name", ["loops/parity_act", "growth/tabular", "memory/gru", "r2d2/digits", "credit/goodness"]
)
def test_models_of_every_kind(name: str) -> None:
    path = Path(__file__).parents[2] / "specs" / f"{name}.yaml"
    model = r2d2c.compile(r2d2c.load(path, settings=["dims.D=13"] if "tabular" in name else []))
    page = read(model._repr_html_())
    assert all(any(row[:1] == [task] for row in page.rows) for task in model.graph.tasks)
    matrix = model.wiring()
    heads = [row for row in read(matrix._repr_html_()).rows if row[0] == "parameters"]
    assert heads == [["parameters", *matrix]]


def test_a_wiring(folder: Path) -> None:
    matrix = r2d2c.compile(folder / "shown.yaml").wiring()
    page = read(matrix._repr_html_())
    assert page.rows == [
        ["parameters", "encode", "classify"],
        ["encode.h.linear.* (2)", "gradient", "·"],
        ["classify.logits.linear.* (2)", "·", "gradient"],
    ]
    assert "gradient" in page.backgrounds and "·" not in page.backgrounds
    assert json.loads(json.dumps(matrix)) == matrix == dict(matrix)
    other = r2d2c.compile(r2d2c.load(folder / "shown.yaml", credit="direct")).wiring()
    assert read(other._repr_html_()).rows != page.rows


def test_a_run(run: Run) -> None:
    page = read(run._repr_html_())
    last = run.metrics[-2]
    head, *rows = page.rows
    assert head[1:] == [split for split in ("train", "validation", "test") if split in head]
    loss = next(row for row in rows if row[0] == "loss classify")
    test = run.test
    assert test is not None and loss[-1] == f"{test['losses']['classify']:.4f}"
    assert f"run of shown, {last['epoch']} epochs" in page.text
    (image,) = page.images
    assert image.startswith(b"\x89PNG")


def test_a_run_without_an_epoch(folder: Path) -> None:
    run = r2d2c.train(folder / "shown.yaml", epochs=0, out=folder / "none")
    run.files.keep_metrics(0)
    page = read(run._repr_html_())
    assert "nothing measured yet" in page.text and not page.images


def test_a_comparison_and_a_sweep(folder: Path) -> None:
    compared = r2d2c.compare(folder / "shown.yaml", "spec,direct", seeds=1, epochs=1, out=folder / "compared")
    page = read(compared._repr_html_())
    assert [row[0] for row in page.rows] == ["rule", "spec", "direct"] and len(page.images) == 1
    (folder / "compared" / "curves.png").unlink()
    assert not read(compared._repr_html_()).images
    swept = r2d2c.sweep(folder / "shown.yaml", {"dims.H": [2, 3]}, seeds=1, epochs=1, out=folder / "swept")
    page = read(swept._repr_html_())
    assert page.rows[0][:2] == ["setting", "dims.H"] and {row[1] for row in page.rows[1:]} == {"2", "3"}
    assert len(page.images) == 1 and len(repr(swept)) < 200


def test_texts_are_texts() -> None:
    """Whatever comes in as a text comes out as one."""
    parts = [
        table([EVIL, "b"], [[EVIL, '" onmouseover="x'], ["&amp;", "'>"]]),
        colored_table([EVIL], [[(EVIL, "#fff")]]),
        paragraph(EVIL),
        details(EVIL, paragraph(EVIL)),
    ]
    html = box(EVIL, *parts, note=EVIL)
    assert "<script" not in html
    page = read(html)
    assert page.text.count(EVIL) == 9 and page.rows[1] == [EVIL, '" onmouseover="x']
    assert page.rows[2] == ["&amp;", "'>"]


def test_names_of_a_folder_are_texts(folder: Path, run: Run) -> None:
    path = folder / "<b onclick=alert(1)>run"
    shutil.copytree(run.folder, path)
    assert "<b onclick=alert(1)>run" in read(r2d2c.open_run(path)._repr_html_()).text


def test_long_tables_are_cut() -> None:
    page = read(table(["n"], [[str(k)] for k in range(500)], most=20))
    assert len(page.rows) == 21 and "and 480 more" in page.text


def test_what_is_printed_is_short(folder: Path, run: Run) -> None:
    checked = r2d2c.load(folder / "shown.yaml")
    assert repr(checked) == "<Checked shown: 2 tasks>"
    assert repr(r2d2c.compile(checked)) == "<Model shown: 2 tasks, 26 parameters>"
    assert len(repr(run)) < 200 + len(str(run.folder))
