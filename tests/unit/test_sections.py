"""The sections of a spec: what `validate` makes of a tree, and what it says of mistakes."""

import pytest

from r2d2c.diagnostics import Sink
from r2d2c.diagnostics.render import render_text
from r2d2c.source import Source
from r2d2c.syntax.section_models import SECTIONS
from r2d2c.syntax.sections import MAP_SECTIONS, SECTION_NAMES, Document, validate
from r2d2c.syntax.yaml_tree import YScalar, apply_set, compose

SPEC = """\
r2d2c: 1
model: split_digits
doc: Two tasks.
dims: {D: 64, H: 2*D, C: infer, depth: 1..8}
imports:
  - std/mlp.yaml
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
blocks:
  mlp(x, width): |
    return x |> linear(width)
  other(x):
    doc: Another.
    body: return x
tasks:
  encode:
    behavior: h = x |> mlp(H)
    representative: r = one_hot(y, C)
    distance: mse(h, r)
    teach: encode + classify
    keep: own
    weight: 0.3
  classify:
    behavior: logits = linear(encode.h, C)
    distance: cross_entropy(logits, y)
links:
  encode.h -> classify: {credit: local, feed: encode.r}
losses:
  extra:
    value: mse(a, b)
    body: |
      a = x
outputs:
  logits: classify.logits
credit: backprop
train:
  data: digits
  epochs: 30
  optimizer: adam(lr=2e-3)
  metrics:
    - accuracy(logits, y)
"""


def document_of(text: str, **options: bool) -> Document:
    sink = Sink()
    tree = compose(Source("specs/two-tasks.yaml", text), sink)
    assert tree is not None
    document = validate(tree, sink, **options)
    assert document is not None, [str(d) for d in sink.diagnostics]
    return document


def said(text: str) -> list[str]:
    sink = Sink()
    tree = compose(Source("s.yaml", text), sink)
    assert tree is not None and not sink.diagnostics
    assert validate(tree, sink) is None
    out = []
    for d in sink.diagnostics:
        assert d.span is not None
        render_text(d)
        out.append(f"{d.span.line}:{d.span.column} {d.code} {d.message} <{d.span.text}>")
    return out


def test_a_document_has_all_sections() -> None:
    d = document_of(SPEC)
    assert (d.r2d2c, d.model, d.doc) == (1, "split_digits", "Two tasks.")
    sizes = {dim.name: dim.value.value if isinstance(dim.value, YScalar) else dim.value for dim in d.dims}
    assert sizes == {"D": 64, "H": "2*D", "C": "infer", "depth": (1, 8, 8)}
    assert [path.value for path in d.imports] == ["std/mlp.yaml"]
    assert [(p.name, p.value.value) for p in d.inputs + d.targets] == [("x", "f32[B, D]"), ("y", "i64[B]")]
    assert [(b.signature.value, b.doc) for b in d.blocks] == [
        ("mlp(x, width)", None),
        ("other(x)", "Another."),
    ]
    assert d.blocks[0].body.content.text == "    return x |> linear(width)"
    encode, classify = d.tasks
    assert encode.teach is not None and encode.weight is not None
    assert (encode.keep, encode.weight.value, encode.teach.value) == ("own", "0.3", "encode + classify")
    assert classify.representative is None
    (link,) = d.links
    assert link.credit is not None and link.feed is not None
    assert (link.name, link.credit.value, link.feed.value) == ("encode.h -> classify", "local", "encode.r")
    assert d.losses[0].value.value == "mse(a, b)" and d.outputs[0].value.value == "classify.logits"
    assert d.credit is not None and d.credit.value == "backprop"
    assert d.train is not None and d.train.optimizer is not None
    assert (d.train.data, d.train.epochs, d.train.seed) == ("digits", 30, None)
    assert [metric.value for metric in d.train.metrics] == ["accuracy(logits, y)"]


def test_records_know_their_places() -> None:
    d = document_of(SPEC)
    assert (d.tasks[0].span.text, d.tasks[0].at("teach").text, d.tasks[0].at("doc").text) == (
        "encode",
        "encode + classify",
        "encode",
    )
    assert d.train is not None
    assert (d.train.span.text, d.train.at("epochs").text) == ("train", "30")


def test_a_model_without_a_name_is_called_like_its_file() -> None:
    assert document_of(SPEC.replace("model: split_digits\n", "")).model == "two_tasks"


def test_a_library_needs_no_tasks() -> None:
    d = document_of("r2d2c: 1\nblocks:\n  f(x): return x\n", library=True)
    assert d.tasks == () and d.blocks[0].name == "f(x)"


def test_the_tables_agree() -> None:
    assert tuple(s.name for s in SECTIONS) == SECTION_NAMES
    assert set(MAP_SECTIONS) == {s.name for s in SECTIONS if s.one or s.model} - {"tasks"}


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        (
            "    behavior: h",
            "    behaviour: h",
            ["19:5 E150 task `encode` has no key `behaviour` <behaviour>"],
        ),
        ("    behavior: h = x |> mlp(H)\n", "", ["18:3 E151 task `encode` has no `behavior` <encode>"]),
        ("    value: mse(a, b)\n", "", ["31:3 E151 loss `extra` has no `value` <extra>"]),
        ("r2d2c: 1\n", "", ["1:1 E151 the spec has no `r2d2c` <model>"]),
        ("outputs:\n  logits: classify.logits\n", "", ["1:1 E151 the spec has no `outputs` <r2d2c>"]),
        ("  logits: classify.logits\n", "", ["35:1 E160 `outputs` is empty <outputs>"]),
        ("  extra:\n", "  extra: {}\n  more:\n", ["31:3 E151 loss `extra` has no `value` <extra>"]),
        (
            "credit: local,",
            "credti: local,",
            ["29:26 E150 link `encode.h -> classify` has no key `credti` <credti>"],
        ),
        ("train:", "trian:", ["38:1 E150 the spec has no key `trian` <trian>"]),
        ("  epochs: 30", "  epoch: 30", ["40:3 E150 `train` has no key `epoch` <epoch>"]),
        (
            "epochs: 30",
            "epochs: many",
            ["40:11 E152 `epochs`: expected a whole number, found the text `many` <many>"],
        ),
        (
            "epochs: 30",
            "epochs: 3.5",
            ["40:11 E152 `epochs`: expected a whole number, found the number 3.5 <3.5>"],
        ),
        ("epochs: 30", "epochs: true", ["40:11 E152 `epochs`: expected a whole number, found `true` <true>"]),
        (
            "epochs: 30",
            "epochs: {a: 1}",
            ["40:3 E152 `epochs`: expected a whole number, found a map <epochs>"],
        ),
        ("epochs: 30", "batch_size: 0", ["40:15 E156 `batch_size`: 0 is too small <0>"]),
        (
            "  metrics:\n    - accuracy(logits, y)",
            "  metrics: accuracy(logits, y)",
            [
                "42:12 E152 `train.metrics` must be a list, not the text `accuracy(logits, y)` <accuracy(logits, y)>"
            ],
        ),
        (
            "logits: classify.logits",
            "logits: [a, b]",
            ["36:3 E152 `logits`: expected an expression, found a list <logits>"],
        ),
        (
            "logits: classify.logits",
            "logits:",
            ["36:3 E160 `logits`: an expression is missing here <logits>"],
        ),
        (
            "logits: classify.logits",
            "logits: >\n    a # b\n    c",
            ["36:11 E158 this `#` makes a comment of all lines after it <>\n    a # b\n    c>"],
        ),
        (
            "r2d2c: 1",
            "r2d2c: 2",
            ["1:8 E155 this compiler reads version 1 of the language, not the number 2 <2>"],
        ),
        (
            "r2d2c: 1",
            "r2d2c: true",
            ["1:8 E155 this compiler reads version 1 of the language, not `true` <true>"],
        ),
        (
            "  x: f32",
            "  x-1: f32",
            ["8:3 E153 `x-1` is not a name: letters, digits and `_`, not a digit first <x-1>"],
        ),
        (
            "  x: f32",
            "  not: f32",
            ["8:3 E154 `not` is a word of the language, so nothing can be called that <not>"],
        ),
        (
            "model: s",
            "model: 3s",
            [
                "2:8 E153 `3split_digits` is not a name: letters, digits and `_`, not a digit first <3split_digits>"
            ],
        ),
        (
            "keep: own",
            "keep: all",
            ["23:11 E156 `keep`: only `own` can stand here, not the text `all` <all>"],
        ),
        ("D: 64", "D: 0", ["4:11 E159 a size is at least 1, not 0 <0>"]),
        ("D: 64", "D: 2.5", ["4:11 E159 a size is a whole number, not the number 2.5 <2.5>"]),
        ("1..8", "8..1", ["4:40 E159 the range 8..1 is empty <8..1>"]),
        (
            "dims: {D: 64, H: 2*D, C: infer, depth: 1..8}",
            "dims: 3",
            ["4:7 E152 `dims` must be a map, not the number 3 <3>"],
        ),
        ("dims: {D: 64, H: 2*D, C: infer, depth: 1..8}", "dims:", ["4:1 E160 `dims` is empty <dims>"]),
        (
            "dims: {D: 64, H: 2*D, C: infer, depth: 1..8}",
            "dims:\n  D:64",
            ["5:4 E013 a space is missing after this colon <:>"],
        ),
        ("  other(x):\n    doc: Another.\n", "  other(x):\n", []),
        (
            "    body: return x\n",
            "    boby: return x\n",
            ["16:5 E150 block `other(x)` has no key `boby` <boby>"],
        ),
    ],
)
def test_mistakes_have_exact_places(old: str, new: str, messages: list[str]) -> None:
    assert old in SPEC
    text = SPEC.replace(old, new, 1)
    if not messages:
        document_of(text)
        return
    assert said(text) == messages


def test_all_mistakes_are_reported_in_the_order_of_the_file() -> None:
    text = SPEC.replace("model:", "modle:").replace("epochs: 30", "epochs: x").replace("D: 64", "D: 0")
    assert [line.split()[1] for line in said(text)] == ["E150", "E159", "E152"]


def test_an_unknown_key_lists_what_is_allowed() -> None:
    sink = Sink()
    tree = compose(Source("s.yaml", SPEC.replace("    keep: own", "    kep: own")), sink)
    assert tree is not None and validate(tree, sink) is None
    assert render_text(sink.diagnostics[0]) == (
        "error[E150]: task `encode` has no key `kep`\n"
        "  --> s.yaml:23:5\n"
        "   |\n"
        "23 |     kep: own\n"
        "   |     ^^^ unknown key\n"
        "   |\n"
        "   = note: the keys are `behavior`, `representative`, `distance`, `teach`, `keep`, `weight`, `doc`\n"
        "   = help: did you mean `keep`?"
    )


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("\nlinks:", "\ndistance: x\nlinks:", "`distance` is a key of a task: is it indented right?"),
        ("    keep: own", "    optimizer: sgd", "`optimizer` is a key of `train`: is it indented right?"),
        ("    keep: own", "    inputs: own", "`inputs` is a section of the spec: is it indented too far?"),
    ],
)
def test_a_key_at_the_wrong_depth(old: str, new: str, remedy: str) -> None:
    sink = Sink()
    tree = compose(Source("s.yaml", SPEC.replace(old, new, 1)), sink)
    assert tree is not None and validate(tree, sink) is None
    fix = sink.diagnostics[0].fix
    assert fix is not None and fix.text == remedy


def test_a_mistake_in_set_is_shown_there() -> None:
    sink = Sink()
    tree = compose(Source("s.yaml", SPEC), sink)
    assert tree is not None
    tree = apply_set(tree, "train.epochs=many", sink)
    assert tree is not None and validate(tree, sink) is None
    assert render_text(sink.diagnostics[0]) == (
        "error[E152]: `epochs`: expected a whole number, found the text `many`\n"
        " --> --set train.epochs=many:1:14\n"
        "  |\n"
        "1 | train.epochs=many\n"
        "  |              ^^^^ expected a whole number"
    )
