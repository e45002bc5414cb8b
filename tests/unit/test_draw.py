"""Pictures: what is in them, and that their text is sound DOT and Mermaid whatever the names are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import r2d2c
from r2d2c.credit.registry import rules
from r2d2c.draw import Arrow, Picture, picture, picture_of_nodes, shorten
from r2d2c.draw_text import to_dot, to_mermaid
from r2d2c.passes.inline import inference_graph
from r2d2c.passes.training import training_graph
from r2d2c.wiring import wiring

ROOT = Path(__file__).parents[2]
SPEC = """\
r2d2c: 1
model: pair
inputs:
  x: f32[B, 4]
targets:
  y: i64[B]
blocks:
  deep(x, n):
    body: |
      return x |> linear(n) |> relu
tasks:
  encode:
    behavior: |
      a = deep(x, 6)
      h = a |> linear(3)
    representative: r = one_hot(y, 2) |> deep(3)
    distance: mse(h, r)
    teach: encode + classify
  classify:
    behavior: logits = linear(encode.h, 2)
    distance: cross_entropy(logits, y)
    weight: 0.5
links:
  encode.h -> classify: {credit: CREDIT}
losses:
  small:
    value: mean(encode.h ^ 2)
outputs:
  logits: classify.logits
  p: softmax(classify.logits)
"""
FED = SPEC.replace("CREDIT", "local, feed: encode.r")


def drawn(text: str) -> Picture:
    spec = r2d2c.loads(text)
    graph = spec.graph
    trained = {name: row for name, row in graph.storage.items() if row.kind == "param"}
    training = training_graph(graph, spec.ops, rules())
    return picture(graph, rules(), wiring(training, spec.ops, graph.losses, trained))


def edges(found: Picture, style: str) -> set[tuple[str, str]]:
    return {(arrow.start, arrow.end) for arrow in found.arrows if arrow.style == style}


def test_tasks_are_groups_of_named_values() -> None:
    found = drawn(FED)
    assert found.groups == {"encode": "encode", "classify": "classify"}
    inside = {
        shape.key: (shape.kind, shape.lines) for shape in found.shapes.values() if shape.group == "encode"
    }
    assert inside == {
        "encode.a": ("value", ("a", "deep()", "f32[B, 6]")),
        "encode.h": ("value", ("h", "linear", "f32[B, 3]")),
        "encode.r": ("representative", ("r", "one_hot · deep()", "f32[B, 3]")),
        "loss encode": ("loss", ("encode loss", "mse")),
    }
    assert found.shapes["loss small"].group is None
    assert found.shapes["loss classify"].lines == ("classify loss", "cross_entropy", "weight 0.5")
    assert found.shapes["port y"].kind == "target"


def test_data_flows_between_named_values() -> None:
    found = drawn(FED)
    assert edges(found, "data") == {
        ("port x", "encode.a"),
        ("encode.a", "encode.h"),
        ("port y", "encode.r"),
        ("encode.h", "loss encode"),
        ("encode.r", "loss encode"),
        ("classify.logits", "loss classify"),
        ("port y", "loss classify"),
        ("encode.h", "loss small"),
        ("classify.logits", "output logits"),
        ("classify.logits", "node outputs.p"),
        ("node outputs.p", "output p"),
    }


def test_links_have_the_colour_of_their_rule() -> None:
    links = [arrow for arrow in drawn(FED).arrows if arrow.style == "link"]
    local = rules()["local"].colour
    assert links == [
        Arrow("encode.h", "classify.logits", "link", "local, when used", local),
        Arrow("encode.r", "classify.logits", "link", "local, while learning", local),
    ]
    assert drawn(FED).legend == [("local", local)]


def test_losses_point_to_what_they_train() -> None:
    assert edges(drawn(FED), "trains") == {
        ("loss encode", "encode.h"),
        ("loss encode", "encode.r"),
        ("loss classify", "classify.logits"),
        ("loss classify", "encode.r"),  # through a block that the representative calls
        ("loss small", "encode.h"),
    }


def test_a_distance_that_is_dropped_trains_nothing() -> None:
    text = SPEC.replace("CREDIT", "backprop").replace("    teach: encode + classify\n", "")
    found = drawn(text)
    assert found.shapes["loss encode"].lines[-1] == "trains nothing here"
    assert edges(found, "trains") == {
        ("loss classify", "classify.logits"),
        ("loss classify", "encode.h"),
        ("loss small", "encode.h"),
    }


def test_a_value_that_is_an_input_is_shown() -> None:
    found = drawn(
        FED.replace("a = deep(x, 6)\n      h = a |> linear(3)", "h = x\n      k = linear(x, 3)")
        .replace("mse(h, r)", "mse(k, r)")
        .replace("local, feed: encode.r", "local")
        .replace("teach: encode + classify", "teach: encode")
    )
    assert ("port x", "encode.h") in edges(found, "data")


def test_pictures_of_nodes() -> None:
    spec = r2d2c.loads(FED)
    inference = picture_of_nodes(inference_graph(spec.graph))
    assert "port y" not in inference.shapes and not any("loss" in s.kind for s in inference.shapes.values())
    assert set(inference.groups) == {"encode", "classify"}
    training = picture_of_nodes(training_graph(spec.graph, spec.ops, rules()))
    kinds = {shape.kind for shape in training.shapes.values()}
    assert {"gradient", "loss", "input", "target", "output"} <= kinds
    for found in (inference, training):
        assert all(arrow.start in found.shapes and arrow.end in found.shapes for arrow in found.arrows)


def test_a_long_chain_shows_its_ends() -> None:
    assert shorten(list("abcde")) == "a · b · c · d · e"
    assert shorten(list("abcdefgh")) == "a · b · … 4 more … · g · h"


NASTY = 'a "b" <c> & `d` #e; \\n [f] {g} (h) | end\nnext'


def nasty() -> Picture:
    found = Picture(NASTY)
    found.groups[NASTY] = NASTY
    found.add("one", "input", [NASTY])
    found.add("end", "loss", [NASTY, NASTY], NASTY)
    found.connect("one", "end", "link", NASTY, "#112233")
    found.legend.append((NASTY, "#112233"))
    return found


# One statement of a flowchart, in the forms that we write: a label is quoted and has no bare quote, and no `<` but of
# our own tags.
_LABEL = r'"(?:[^"<>&`\\]|</?(?:b|small|br/)/?>)*"'
_MERMAID = [
    r"---",
    r'title: "(?:[^"\\]|\\.)*"',
    r"flowchart LR",
    rf"\w+(?:\(\[{_LABEL}\]\)|\[\({_LABEL}\)\]|\{{\{{{_LABEL}\}}\}}|\[/{_LABEL}/\]|\[{_LABEL}\]|\(\({_LABEL}\)\)|>{_LABEL}\])",
    rf"subgraph \w+\[{_LABEL}\]",
    r"end",
    rf'\w+(?:\[" "\])? (?:-->|==>|-\.->)(?:\|{_LABEL}\|)? \w+(?:\[" "\])?',
    r"linkStyle \d+ stroke:#[0-9a-f]{6},color:#[0-9a-f]{6}",
    r"classDef \w+ fill:#[0-9a-f]{6},stroke:#[0-9a-f]{6},color:#[0-9a-f]{6}(?:,stroke-dasharray:4 3)?",
    r"class \w+(?:,\w+)* \w+",
]


def sample(which: str) -> Picture:
    if which == "memory":
        return drawn((ROOT / "specs" / "memory" / "remember.yaml").read_text("utf-8"))
    return nasty() if which == "nasty" else drawn(FED)


@pytest.mark.parametrize("which", ["spec", "nasty", "training", "memory"])
def test_mermaid_is_sound(which: str) -> None:
    found = sample(which)
    if which == "training":
        spec = r2d2c.loads(FED)
        found = picture_of_nodes(training_graph(spec.graph, spec.ops, rules()))
    lines = to_mermaid(found).splitlines()
    for line in lines:
        assert any(re.fullmatch(form, line.strip()) for form in _MERMAID), line
    arrows = [line for line in lines if re.search(r" (?:-->|==>|-\.->)", line)]
    styled = [int(line.split()[1]) for line in lines if line.strip().startswith("linkStyle")]
    assert sorted(styled) == sorted(set(styled)) and max(styled, default=0) < len(arrows)
    # Every edge but those of data is styled, and so are those of the legend.
    coloured = {number for number, arrow in enumerate(found.arrows) if arrow.style != "data"}
    assert set(styled) == coloured | set(range(len(found.arrows), len(arrows)))


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
@pytest.mark.parametrize("which", ["spec", "nasty", "memory"])
def test_dot_is_sound(which: str) -> None:
    found = sample(which)
    done = subprocess.run(["dot", "-Tsvg"], input=to_dot(found), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count('class="node"') == len(found.shapes)
    assert done.stdout.count('class="edge"') == len(found.arrows)
    assert done.stdout.count('class="cluster"') == len(found.groups)


def test_dot_quotes_are_closed() -> None:
    for line in to_dot(nasty()).splitlines():
        assert line.replace('\\"', "").count('"') % 2 == 0, line
