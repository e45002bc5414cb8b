"""Specs damaged at random give diagnostics or still check; they never raise anything else, and what checks, lowers."""

import random
import re
from pathlib import Path

import pytest

from r2d2c import CompileError, loads
from r2d2c.credit.registry import rules
from r2d2c.diagnostics.render import render_json, render_text
from r2d2c.driver import Checked
from r2d2c.lower.graphs import TrainingLowering, lower_inference
from r2d2c.passes.inline import inference_graph
from r2d2c.passes.training import training_graph

SPECS = Path(__file__).parents[2] / "specs"
COUNT, CHUNK = 500, 50

INLINE = [
    """\
r2d2c: 1
imports:
  - std/layers
dims: {D: 16, H: 8, depth: 1..4}
inputs:
  x: f32[B, T, D]
  ids: i64[B, T]
targets:
  y: i64[B]
blocks:
  mix(x, width, rate=0.1): |
    a, b = split(linear(x, 2*width), 2)
    return a * sigmoid(b) |> dropout(rate)
tasks:
  read:
    behavior: |
      e = embedding(ids, 50, D) + x
      m = mix(e, D, repeat=2) |> layer_norm
      h = mean(m, axes=1)
  answer:
    behavior: logits = linear(read.h, 10, init=normal(0.02), name=head)
    distance: cross_entropy(logits, y) + 0.1 * mean(answer.logits ^ 2)
    weight: 2 * H / D
losses:
  small:
    body: |
      s = stop(read.h)[..., 1:H]
    value: mean(s * s) + l1(read.h, 0)
    weight: 0.3
credit: backprop
outputs:
  logits: answer.logits
  best: argmax(answer.logits, axis=-1)
train:
  metrics:
    - accuracy(logits, y)
""",
    """\
r2d2c: 1
dims: {D: 12}
inputs:
  x: f32[B, D]
targets:
  y: f32[B, 3]
tasks:
  one:
    behavior: h = x |> linear(D // 2) |> tanh
    representative: r = y |> linear(D // 2) |> noise(0.1)
    distance: l2(h, r)
    teach: one + 0.5 * two
    keep: own
  two:
    behavior: h = linear(one.h, 5)
    representative: |
      q = linear(y, 5)
      r = q - mean(q, axes=-1, keep=true)
    distance: cosine(h, r)
    teach: two * three
  three:
    behavior: p = where(two.h > 0, two.h, 0.1 * two.h) * linear(one.h, 5, weight=two.h.linear.weight) |> linear(3)
    distance: mse(p, y)
links:
  one.h -> two: {credit: local, feed: one.r}
  two.h -> three: {credit: local, feed: two.r}
  one -> three: {credit: backprop}
outputs:
  p: three.p
""",
]
BASES = [
    path.read_text("utf-8") for path in sorted(SPECS.rglob("*.yaml")) if path.parent.name != "std"
] + INLINE
TOKEN = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|\|>|->|\s+|.", re.DOTALL)
ODD = [
    "0", "-1", "1e400", "3.5", "64", "x", "y", "h", "r", "encode", "encode.h", "fit", "B", "T", "H", "none", "true", "return",
    "not", "linear", "relu", "softmax", "mse", "argmax", "gather(x, y)", "split(x, 2)", "x[0]", "x[:, -1]", "[", "]", "(", ")",
    "{", "}", "'", '"', "|>", "|", "->", "=", "==", "^", "**", "@", ",", ":", " #", "\t", "\n", "&a ", "*a", "!", "- ", "é", "\x00",
    "local", "backprop", "infer", "1..8", "stop(x)", "repeat=3", "shared=true", "frozen=true", "init=zeros", "name=a",
]  # fmt: skip


def damaged(text: str, dice: random.Random) -> str:
    for _ in range(dice.choice((1, 1, 2, 3))):
        text = dice.choice((_lines, _tokens, _swapped_values, _swapped_values))(text, dice)
    return text


def _lines(text: str, dice: random.Random) -> str:
    lines = text.split("\n")
    at, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = lines[at][: dice.randint(0, len(lines[at]))]
    else:
        lines[at] = " " * dice.randint(0, 8) + lines[at].lstrip()
    return "\n".join(lines)


def _tokens(text: str, dice: random.Random) -> str:
    tokens = TOKEN.findall(text)
    at, other = dice.randrange(len(tokens)), dice.randrange(len(tokens))
    kind = dice.randrange(5)
    if kind == 0:
        del tokens[at]
    elif kind == 1:
        tokens.insert(at, tokens[at])
    elif kind == 2:
        tokens[at], tokens[other] = tokens[other], tokens[at]
    elif kind == 3:
        tokens[at] = dice.choice(ODD)
    else:
        tokens[at] = tokens[other]
    return "".join(tokens)


def _swapped_values(text: str, dice: random.Random) -> str:
    """Names and numbers for each other: what is left often parses, so later stages get their share."""
    tokens = TOKEN.findall(text)
    words = [n for n, token in enumerate(tokens) if re.match(r"\w", token)]
    at, other = dice.choice(words), dice.choice(words)
    tokens[at] = tokens[other]
    return "".join(tokens)


def check(text: str) -> Checked | None:
    try:
        checked = loads(text, name="spec.yaml", folder=SPECS)
    except CompileError as error:
        assert any(d.severity == "error" for d in error.diagnostics)
        for diagnostic in error.diagnostics:
            assert render_text(diagnostic)
        render_json(error.diagnostics)
        return None
    for diagnostic in checked.diagnostics:
        assert diagnostic.severity != "error"
        assert render_text(diagnostic)
    return checked


def lower(checked: Checked) -> None:
    lower_inference(inference_graph(checked.graph), checked.ops)
    training = training_graph(checked.graph, checked.ops, rules(checked.rules))
    TrainingLowering(training, checked.ops).whole()


def test_the_specs_themselves_check_and_lower() -> None:
    for text in BASES:
        checked = check(text)
        assert checked is not None, text[:200]
        lower(checked)


@pytest.mark.parametrize("chunk", range(COUNT // CHUNK))
def test_damage(chunk: int) -> None:
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        dice = random.Random(seed)
        text = damaged(dice.choice(BASES), dice)
        try:
            checked = check(text)
            if checked is not None and seed % 2:
                lower(checked)
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}\n{text}", pytrace=True)
