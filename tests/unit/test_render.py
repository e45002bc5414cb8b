"""Diagnostics as text and as JSON."""

from r2d2c.diagnostics import Diagnostic, Fix, Label
from r2d2c.diagnostics.render import render_json, render_text, summary
from r2d2c.source import Source, Span

TEXT = """\
dims: {H: 64}
\ttasks: 日本 = foo(x, yy, z)
three
four
five
six
"""
A = Source("a.yaml", TEXT)
B = Source("b.yaml", "q: 1\nw: 2")


def mark(source: Source, part: str, text: str = "") -> Label:
    start = source.text.index(part)
    return Label(Span(source, start, start + len(part)), text)


def shown(*labels: Label, notes: tuple[str, ...] = (), fix: Fix | None = None) -> str:
    return render_text(Diagnostic("E301", "error", "H is 64 and 128", labels, notes, fix))


def test_without_a_place() -> None:
    assert shown(notes=("a note",), fix=Fix("do it")) == (
        "error[E301]: H is 64 and 128\n = note: a note\n = help: do it"
    )


def test_one_place() -> None:
    assert shown(mark(A, "64", "is 64")) == (
        "error[E301]: H is 64 and 128\n --> a.yaml:1:11\n  |\n1 | dims: {H: 64}\n  |           ^^ is 64"
    )


def test_notes_and_help_over_several_lines() -> None:
    assert shown(mark(A, "three"), notes=("one\ntwo",), fix=Fix("do it")) == (
        "error[E301]: H is 64 and 128\n"
        " --> a.yaml:3:1\n"
        "  |\n"
        "3 | three\n"
        "  | ^^^^^\n"
        "  |\n"
        "  = note: one\n"
        "          two\n"
        "  = help: do it"
    )


def test_places_on_one_line_with_tabs_and_wide_characters() -> None:
    text = shown(mark(A, "foo", "call"), mark(A, "yy", "second"), mark(A, "z", "last"))
    assert text == (
        "error[E301]: H is 64 and 128\n"
        " --> a.yaml:2:14\n"
        "  |\n"
        "2 |     tasks: 日本 = foo(x, yy, z)\n"
        "  |                   ^^^    --  - last\n"
        "  |                   |      |\n"
        "  |                   |      second\n"
        "  |                   call"
    )


def test_a_place_inside_another() -> None:
    assert shown(mark(A, "foo(x, yy, z)", "outer"), mark(A, "yy", "inner")).split("\n")[3:] == [
        "2 |     tasks: 日本 = foo(x, yy, z)",
        "  |                   ^^^^^^^--^^^^ outer",
        "  |                          |",
        "  |                          inner",
    ]


def test_far_lines_and_other_files() -> None:
    assert shown(mark(A, "three", "3"), mark(A, "dims", "1"), mark(A, "six", "6"), mark(B, "w", "other")) == (
        "error[E301]: H is 64 and 128\n"
        " --> a.yaml:3:1\n"
        "  |\n"
        "1 | dims: {H: 64}\n"
        "  | ---- 1\n"
        "2 |     tasks: 日本 = foo(x, yy, z)\n"
        "3 | three\n"
        "  | ^^^^^ 3\n"
        "...\n"
        "6 | six\n"
        "  | --- 6\n"
        " ::: b.yaml:2:1\n"
        "  |\n"
        "2 | w: 2\n"
        "  | - other"
    )


def test_a_place_over_several_lines() -> None:
    assert shown(mark(A, "foo(x, yy, z)\nthree\nfour\nfive\n", "this")).split("\n")[3:] == [
        "2 |     tasks: 日本 = foo(x, yy, z)",
        "  |                   ^^^^^^^^^^^^^ from here …",
        "...",
        "5 | five",
        "  | ^^^^ … to here: this",
    ]


def test_the_end_of_the_file() -> None:
    end = len(TEXT)
    assert shown(Label(Span(A, end, end), "here")).split("\n")[1:] == [
        " --> a.yaml:7:1",
        "  |",
        "7 |",
        "  | ^ here",
    ]


def test_long_lines_are_shown_around_the_mark() -> None:
    long = Source("l.yaml", "x" * 200 + " here " + "y" * 200 + " there " + "z" * 300)
    rows = shown(mark(long, "here", "one"), mark(long, "there", "two")).split("\n")[3:]
    assert [row[4:].lstrip(" ") for row in rows[1::2]] == ["^^^^ one", "----- two"]
    for source, marks, part in ((rows[0], rows[1], "here"), (rows[2], rows[3], "there")):
        assert len(source) < 110 and source[4] == "…" and source[-1] == "…"
        assert source.index(part) == len(marks) - len(marks[4:].lstrip(" "))


def test_a_line_of_megabytes() -> None:
    huge = Source("h.yaml", "a" * 3_000_000 + "!" + "b" * 3_000_000)
    rows = shown(mark(huge, "!", "here")).split("\n")
    assert rows[1] == " --> h.yaml:1:3000001"
    assert rows[3].index("!") == rows[4].index("^")


def test_a_spec_cannot_command_the_terminal() -> None:
    evil = Source("e.yaml", "a: \x1b[31m\u202e red")
    text = render_text(Diagnostic("E301", "error", "no \x1b[31m", (mark(evil, "red", "\x07"),)))
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text


def test_color_is_only_added() -> None:
    diagnostic = Diagnostic("W401", "warning", "hm", (mark(A, "foo", "a"), mark(A, "yy", "b")), ("n",))
    colored = render_text(diagnostic, color=True)
    assert "\x1b[1;33mwarning[W401]\x1b[0m" in colored
    assert "\x1b[1;33m^^^\x1b[0m" in colored and "\x1b[1;34m-- \x1b[0m" not in colored
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == render_text(diagnostic)


def test_json() -> None:
    label = mark(A, "H", "is 64")
    fix = Fix("rename it", label.span, "G")
    place = {"file": "a.yaml", "line": 1, "column": 8, "end_line": 1, "end_column": 9}
    assert render_json(
        [Diagnostic("E301", "error", "m", (label,), ("n",), fix), Diagnostic("N401", "note", "x")]
    ) == [
        {
            "code": "E301",
            "severity": "error",
            "message": "m",
            **place,
            "labels": [{**place, "text": "is 64"}],
            "notes": ["n"],
            "fix": {"text": "rename it", "replacement": "G", "at": place},
        },
        {
            "code": "N401",
            "severity": "note",
            "message": "x",
            "file": None,
            "line": None,
            "column": None,
            "end_line": None,
            "end_column": None,
            "labels": [],
            "notes": [],
            "fix": None,
        },
    ]


def test_summary() -> None:
    error, warning = Diagnostic("E301", "error", "m"), Diagnostic("W401", "warning", "m")
    assert summary([error, warning, error]) == "2 errors, 1 warning"
    assert summary([Diagnostic("N401", "note", "m")]) == "1 note"
    assert summary([]) == "no problems"
