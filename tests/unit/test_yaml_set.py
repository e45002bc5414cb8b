"""`--set key=value`: what it replaces and adds, and what it says of mistakes."""

import pytest

from r2d2c.diagnostics import Sink
from r2d2c.source import Source
from r2d2c.syntax.yaml_tree import YMap, YNode, YSeq, apply_set, compose, plain_value


def tree_of(text: str) -> YMap:
    tree = compose(Source("s.yaml", text), Sink())
    assert tree is not None
    return tree


def plain(node: YNode | None) -> object:
    if isinstance(node, YMap):
        return {key.value: plain(value) for key, value in node}
    if isinstance(node, YSeq):
        return [plain(item) for item in node]
    return None if node is None else plain_value(node)


SPEC = """\
dims: {H: 64}
tasks:
  encode:
    behavior: h = x
links:
  encode.h -> classify: {credit: local}
train:
  metrics:
    - a
    - b
empty:
"""


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("dims.H=128", ("dims", "H"), 128),
        ("dims.D= 2*H", ("dims", "D"), "2*H"),
        (
            "links.encode.h -> classify.credit=backprop",
            ("links", "encode.h -> classify", "credit"),
            "backprop",
        ),
        ("links.encode.h->classify.feed=encode.r", ("links", "encode.h -> classify", "feed"), "encode.r"),
        ('links."encode.h -> classify".feed=a', ("links", "encode.h -> classify", "feed"), "a"),
        ("train.optimizer=adam(lr=2e-3)", ("train", "optimizer"), "adam(lr=2e-3)"),
        ("losses.extra={value: x}", ("losses", "extra"), {"value": "x"}),
        ("empty.a=1", ("empty", "a"), 1),
        ("doc='a=b'", ("doc",), "a=b"),
    ],
)
def test_set_replaces_and_adds(setting: str, path: tuple[str, ...], value: object) -> None:
    sink = Sink()
    before = tree_of(SPEC)
    node: YNode | None = apply_set(before, setting, sink, ["losses"])
    assert not sink.diagnostics
    for name in path:
        assert isinstance(node, YMap)
        node = node.get(name)
    assert plain(node) == value
    assert node is not None and str(node.span).startswith(f"--set {setting}:1:")
    assert before.get("doc") is None


def test_set_in_a_list() -> None:
    tree = apply_set(tree_of(SPEC), "train.metrics.1=c", Sink())
    assert tree is not None and plain(tree.get("train")) == {"metrics": ["a", "c"]}


@pytest.mark.parametrize(
    ("setting", "message", "remedy"),
    [
        ("dims.H", "1:1 E026 expected `key=value`", "for example `--set dims.H=128`"),
        ("=3", "1:1 E026 expected `key=value`", "for example `--set dims.H=128`"),
        ("dims.H=", "1:1 E026 expected `key=value`", "for example `--set dims.H=128`"),
        ("dim.H=3", "1:1 E027 the spec has no key `dim` to set something in", "did you mean `dims`?"),
        (
            "tasks.encod.weight=2",
            "1:7 E027 `tasks` has no key `encod` to set something in",
            "did you mean `encode`?",
        ),
        ("dims.H.x=2", "1:8 E027 `dims.H` is the number 64, which has no `x`", None),
        ("train.metrics.2=c", "1:15 E027 `train.metrics` is a list of 2; `2` is none of its items", None),
        ("dims=[", "1:6 E010 this […] is not closed", None),
    ],
)
def test_set_says_what_is_wrong(setting: str, message: str, remedy: str | None) -> None:
    sink = Sink()
    assert apply_set(tree_of(SPEC), setting, sink) is None
    (d,) = sink.diagnostics
    assert d.span is not None
    assert f"{d.span.line}:{d.span.column} {d.code} {d.message}" == message
    assert (d.fix.text if d.fix else None) == remedy
