"""YAML trees: values, spans, bounds, and the exact text of every diagnostic of a file."""

from pathlib import Path

import pytest

from r2d2c.diagnostics import Sink
from r2d2c.diagnostics.catalog import CATALOG
from r2d2c.diagnostics.render import render_text
from r2d2c.source import Source
from r2d2c.syntax.yaml_tree import (
    YMap,
    YNode,
    YScalar,
    YSeq,
    compose,
    compose_node,
    plain_value,
    read_source,
    yaml_comment_after,
)


def tree_of(text: str) -> YMap:
    sink = Sink()
    tree = compose(Source("s.yaml", text), sink)
    assert tree is not None and not sink.diagnostics, [str(d) for d in sink.diagnostics]
    return tree


def scalar_of(text: str) -> YScalar:
    node = tree_of(text).entries[0][1]
    assert isinstance(node, YScalar)
    return node


def plain(node: YNode | None) -> object:
    if isinstance(node, YMap):
        return {key.value: plain(value) for key, value in node}
    if isinstance(node, YSeq):
        return [plain(item) for item in node]
    return None if node is None else plain_value(node)


def said(text: str) -> list[str]:
    """`line:column CODE message | label` of every diagnostic."""
    sink = Sink()
    tree = compose(Source("s.yaml", text), sink)
    assert (tree is None) or not sink.failed or {d.code for d in sink.diagnostics} == {"E014"}
    out = []
    for d in sink.diagnostics:
        render_text(d)
        where = f"{d.span.line}:{d.span.column} " if d.span else ""
        marked = f" <{d.span.text}>" if d.span else ""
        out.append(f"{where}{d.code} {d.message}{marked}")
    return out


# -- values and spans


def test_a_tree_has_values_in_order() -> None:
    tree = tree_of("a: 1\nb: {c: x, d: [1, y]}\ne:\n  - q\n  - f(x, y)\n")
    assert plain(tree) == {"a": 1, "b": {"c": "x", "d": [1, "y"]}, "e": ["q", "f(x, y)"]}
    assert tree.keys() == ("a", "b", "e")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("k: f(x)  # c\n", "f(x)"),
        ("k: 'f(x)'\n", "f(x)"),
        ('k: "f(x)"\n', "f(x)"),
        ("k: a\n  b\n\n  c # d\n", "a\n  b\n\n  c"),
        ("k: |  # note\n\n  a\n   b\n\n  # c\n\n# out\n", "  a\n   b\n\n  # c"),
        ("k: >-\n  fold\n  two\nl: 1\n", "  fold\n  two"),
        ("k: |\n  last", "  last"),
        ("k:\n", ""),
        ("k: &anchor  # c\n  f(x)\n", "f(x)"),
        ("\ufeffk: f(x)\r\n", "f(x)"),
        ("é: ü日本\n", "ü日本"),
        ("k: |\r\n  a\r\n  b\r\nl: 1\r\n", "  a\r\n  b"),
    ],
)
def test_content_is_the_raw_text(text: str, content: str) -> None:
    scalar = scalar_of(text)
    assert scalar.content.text == content
    assert len(scalar.expression_text()) == len(content)


def test_expression_text_folds_line_breaks_where_yaml_does() -> None:
    assert scalar_of("k: a\n  b\n").expression_text() == "a   b"
    assert scalar_of("k: >\r\n  a\r\n  b\r\n").expression_text() == "  a    b"
    assert scalar_of("k: |\r\n  a\r\n  b\r\n").expression_text() == "  a \n  b"


def test_block_spans_end_with_their_last_value() -> None:
    tree = tree_of("a:\n  b: 1 # c\n  # d\n\nz:\n  - 2\n# e\n")
    assert [value.span.text for _, value in tree] == ["b: 1", "- 2"]
    assert tree.span.text.endswith("- 2")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ('k: "a\\tb"', True),
        ("k: 'it''s'", True),
        ("k: 'a\\b'", False),
        ('k: "it\'s"', False),
        ("k: a\\b", False),
    ],
)
def test_escapes_are_seen(text: str, escaped: bool) -> None:
    assert scalar_of(text).has_escapes is escaped


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("1e-3", 1e-3),
        ("2e-3", 2e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        (".inf", float("inf")),
        ("9" * 5000, "9" * 5000),
        ("1..8", "1..8"),
    ],
)
def test_scalars_resolve_as_in_yaml_1_2(text: str, value: object) -> None:
    found = plain_value(scalar_of(f"k: {text}\n"))
    if value == "9" * 5000:
        assert isinstance(found, str | float)
        return
    assert found == value and type(found) is type(value)


def test_a_comment_that_ends_a_scalar() -> None:
    comment = yaml_comment_after(scalar_of("k: f(x  # y)\n"))
    assert comment is not None and comment.text == "# y)"
    assert yaml_comment_after(scalar_of("k: f(x)\n# y\n")) is None
    assert yaml_comment_after(scalar_of("k: |\n  a # b\n")) is None


def test_aliases_are_the_node_itself() -> None:
    tree = tree_of("a: &x {b: 1}\nc: *x\n")
    assert tree.get("a") is tree.get("c")


# -- mistakes


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("{x: f32[B, D]}", ["1:5 E011 an expression inside {…} is cut into pieces by YAML <f32[B, D]>"]),
        ("t: [f(a, b), g(c)]", ["1:5 E011 an expression inside […] is cut into pieces by YAML <f(a, b)>"]),
        (
            "t: {x: f(a, b), y: g(c, d)}",
            [
                "1:8 E011 an expression inside {…} is cut into pieces by YAML <f(a, b)>",
                "1:20 E011 an expression inside {…} is cut into pieces by YAML <g(c, d)>",
            ],
        ),
        (
            "t: {behavior: a, b = split(x)}",
            ["1:18 E011 an expression inside {…} is cut into pieces by YAML <b = split(x)>"],
        ),
        (
            "t: {a: b # c}\nx: 1",
            ["1:10 E011 ` #` starts a comment, so YAML does not see the `}` after it <# c}>"],
        ),
        (
            "t: [a, b] |> concat",
            [
                "1:4 E011 a value that starts with `[` is a list of its own to YAML, which ends at its `]` <[a, b]>"
            ],
        ),
        (
            "x: 'a' == b",
            [
                "1:4 E010 a value that starts with `'` is a quoted text to YAML, which ends at its second quote <'a'>"
            ],
        ),
        ("t:\n\tx: 1", ["2:1 E012 a tab cannot indent a line of YAML <\t>"]),
        ("t:\n  a: 1\n\tb: 2", ["3:1 E012 a tab cannot indent a line of YAML <\t>"]),
        ("t:\n  a: 1\n  b:2\nz: 1", ["3:4 E013 a space is missing after this colon <:>"]),
        ("t:\n  a:1\n  b: 2\n", ["2:4 E013 a space is missing after this colon <:>"]),
        ("t: {a:1, b: 2}", ["1:6 E013 a space is missing after this colon <:>"]),
        ("r2d2c:1", ["1:6 E013 a space is missing after this colon <:>"]),
        ("a: 1\na: 2", ["2:1 E014 the key `a` is given twice <a>"]),
        ("? [a]\n: b", ["1:3 E015 a key must be a name, this one is a list <[>"]),
        ('a: !!int "3"', ["1:4 E016 tags have no meaning in a spec <!!int>"]),
        ("a: 1\n---\nb: 2", ["2:1 E017 a second document starts here <--->"]),
        ("a: 1\n...\nb: 2", ["3:1 E017 the document ended before this line <b: 2>"]),
        ("a: {<<: *b}", ["1:5 E018 merge keys (`<<`) are not part of a spec <<<>"]),
        ("a: *b", ["1:4 E022 `*b` names nothing: there is no `&b` before it <*b>"]),
        ("a: &x\n  b: *x", ["2:6 E021 `*x` stands inside what `&x` names, so it would never end <*x>"]),
        ("- a", ["1:1 E024 a spec is a map of `key: value` lines, this file is a list <- a>"]),
        ("a: b\x07", ["1:5 E025 the character U+0007 cannot stand in a spec <\x07>"]),
        ("a: \ud800", ["1:4 E025 the character U+D800 cannot stand in a spec <\ud800>"]),
        ("# nothing", ["E005 `s.yaml` is empty"]),
        ("x: |> relu", ["1:4 E010 a value cannot start with `|` <|>"]),
        ("x: @a", ["1:4 E010 a value cannot start with `@` <@>"]),
        ("x: a: b", ["1:5 E010 a second `: ` cannot stand in the same value <:>"]),
        ("x: - a", ["1:4 E010 a list cannot start on the line of its key <->"]),
        ("x: 'a\nb: c", ["1:4 E010 this ' is never closed <'>"]),
        ('x: "a \\q"', ["1:7 E010 in double quotes, `\\` starts an escape, and this one is none <\\q>"]),
        ("t:\n  x: 1\n y: 2", ["3:2 E010 this line's indentation fits no line above it <y: 2>"]),
        ("a: 1\n- b", ["2:1 E010 a list item stands where a key is expected <- b>"]),
        (
            "a: 1\nb c\nd: 2",
            ["2:1 E010 this line is neither `key: value` nor part of the value before it <b c>"],
        ),
        (
            "a: x\n  b: c",
            ["2:3 E010 this key is indented deeper than the line before it, which already has a value <b:>"],
        ),
        ("a: [b, c", ["1:8 E010 this […] is not closed <c>"]),
        ("a: ]", ["1:4 E010 `]` cannot stand here <]>"]),
        (" a: 1\nb: 2", ["2:1 E010 this line belongs to nothing above it <b: 2>"]),
    ],
)
def test_mistakes_have_exact_places(text: str, messages: list[str]) -> None:
    assert said(text) == messages


def test_a_broken_expression_says_what_yaml_did() -> None:
    sink = Sink()
    compose(Source("s.yaml", "inputs: {x: f32[B, D]}\n"), sink)
    assert render_text(sink.diagnostics[0]) == (
        "error[E011]: an expression inside {…} is cut into pieces by YAML\n"
        " --> s.yaml:1:13\n"
        "  |\n"
        "1 | inputs: {x: f32[B, D]}\n"
        "  |         -   ^^^^^^^^^ to YAML, `[` has a meaning of its own here\n"
        "  |         |\n"
        "  |         YAML's own `{` opens here\n"
        "  |\n"
        "  = note: inside {…} and […], `[`, `]`, `{`, `}`, `,` and ` #` mean something of their own to YAML\n"
        "  = help: give the expression a line of its own (`key: expression`), or put it in quotes"
    )


def test_all_duplicates_are_reported_and_the_first_is_kept() -> None:
    sink = Sink()
    tree = compose(Source("s.yaml", "a: 1\nb: {c: 1, c: 2}\na: 3\n"), sink)
    assert plain(tree) == {"a": 1, "b": {"c": 1}}
    assert [d.labels[1].text for d in sink.diagnostics] == ["first here", "first here"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 100_000, "E019 this is nested more than 100 levels deep"),
        ("{" * 100_000, "E019 this is nested more than 100 levels deep"),
        ("- " * 100_000, "E019 this is nested more than 100 levels deep"),
        ("\n".join(" " * i + "a:" for i in range(200)), "E019 this is nested more than 100 levels deep"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300)),
            "E019 this alias is nested more than 100 levels deep",
        ),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{k}: &{k} [{', '.join([f'*{p}'] * 9)}]\n" for p, k in zip("abcdefg", "bcdefgh", strict=True)
            ),
            "E020 aliases expand this file to more than 100,000 values",
        ),
    ],
)
def test_bounds(text: str, message: str) -> None:
    (only,) = said(text)
    assert message in only


def test_99_levels_are_fine() -> None:
    assert compose_node(Source("s.yaml", "[" * 99 + "]" * 99), Sink()) is not None


# -- files


def read(path: Path, shown: str | None = None) -> tuple[Source | None, list[str]]:
    sink = Sink()
    source = read_source(path, sink, shown)
    return source, [render_text(d) for d in sink.diagnostics]


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9\r\n")
    source, messages = read(path, "s.yaml")
    assert source is not None and (source.name, source.text, messages) == ("s.yaml", "a: é\r\n", [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "error[E005]: `s.yaml` is empty\n = help: `r2d2c new` writes a spec to start from"),
        (
            b"# only\n\n  # comments",
            "error[E005]: `s.yaml` is empty\n = help: `r2d2c new` writes a spec to start from",
        ),
        (
            b"a: 1\nb: \xe9\nc: 3\n",
            "error[E004]: `s.yaml` is not UTF-8: byte 0xe9 at offset 8\n --> s.yaml:2:4\n  |\n2 | b: \ufffd\n"
            "  |    ^ this byte\n  |\n  = help: save the file as UTF-8",
        ),
        (
            "a: 1\n".encode("utf-16"),
            "error[E004]: `s.yaml` is in UTF-16, not UTF-8\n = help: save the file as UTF-8",
        ),
        (
            b"a\0b",
            "error[E006]: `s.yaml` is a binary file: it has a NUL byte here\n --> s.yaml:1:2\n  |\n1 | a\ufffdb\n  |  ^",
        ),
        (b"a" * (16 * 1024 * 1024 + 1), "error[E007]: `s.yaml` is larger than 16 MiB, so it is no spec"),
    ],
)
def test_files_that_are_no_spec(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    assert read(path, "s.yaml") == (None, [message])


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spec.yaml").write_text("r2d2c: 1")
    missing = "error[E001]: there is no file `spce.yaml`\n = help: did you mean `spec.yaml`?"
    assert read(tmp_path / "spce.yaml", "spce.yaml") == (None, [missing])
    folder = "error[E003]: `here` is a folder, not a spec\n = help: there is `spec.yaml` in it"
    assert read(tmp_path, "here") == (None, [folder])
    assert read(Path("a\0b"), "a?b") == (None, ["error[E002]: `a?b` cannot be read: embedded null byte"])
    too_long = "error[E002]: `long` cannot be read: the name is too long"
    assert read(tmp_path / ("x" * 5000), "long") == (None, [too_long])

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    denied = "error[E002]: `spec.yaml` cannot be read: permission denied"
    assert read(tmp_path / "spec.yaml", "spec.yaml") == (None, [denied])


def test_every_entry_of_the_catalog_explains_itself() -> None:
    for entry in CATALOG.values():
        if entry.code[1] == "0" or "E150" <= entry.code <= "E199":
            assert entry.text.count("\n") >= 1 and len(entry.text) > 100, entry.code
