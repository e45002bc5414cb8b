"""The committed tables are those of the grammar, and parse as a parser built from it does."""

from __future__ import annotations

from pathlib import Path

from r2d2c.diagnostics import Sink
from r2d2c.source import Source
from r2d2c.syntax import expressions, tables
from r2d2c.syntax.lexer import Region

FILE = Path(__file__).parents[2] / "grammar" / "tables.json"
BODY = """
a = x |> linear(2*H, bias=false) |> relu
b, c = split(a[:, 1:3, ..., ::2], 2)
d = not (b < c) and -b^2 @ c // 3 or "text" != x.y.z
return (a, b), where(d, b, c)
"""


def test_the_tables_are_current(request):
    if request.config.getoption("--refresh-goldens") and not tables.are_current(FILE.read_text("utf-8")):
        FILE.write_text(tables.dump(), "utf-8")
    advice = "the grammar or Lark has changed: run `make goldens ARGS=tests/unit/test_grammar_tables.py`"
    assert tables.are_current(FILE.read_text("utf-8")), advice


def parsed(parser) -> list[tuple[object, ...]]:
    builder = expressions._Builder()
    engine = parser(builder)
    expressions._tighten(engine)
    lexer = expressions.ExpressionLexer(engine.parser.lexer_conf)
    nodes = builder.begin()
    engine.parse(lexer.tokens(Region(Source("t", BODY), 0, BODY)), "body")
    return [(n.kind, n.start, n.end, n.value, n.args, n.keywords) for n in nodes]


def test_loaded_and_built_parsers_agree():
    assert parsed(tables.load) == parsed(tables.build) != []
    assert expressions.parse_body(Region(Source("t", BODY), 0, BODY), Sink()) is not None


def test_tables_of_another_grammar_are_not_used(monkeypatch):
    monkeypatch.setattr(tables, "_made_from", lambda grammar: "another")
    built = []
    monkeypatch.setattr(tables, "build", lambda transformer: built.append(transformer))
    tables.load("mine")
    assert built == ["mine"]
