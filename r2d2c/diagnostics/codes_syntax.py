"""Diagnostics 1xx: expressions."""

from __future__ import annotations

from r2d2c.diagnostics.codes_sections import SECTIONS
from r2d2c.diagnostics.entry import Entry

SYNTAX: tuple[Entry, ...] = (
    Entry(
        "E101",
        "an expression is missing",
        """\
Only blanks or a comment stand where an expression belongs.

    distance: "  "              # nothing in it
    distance: mse(h, r)""",
    ),
    Entry(
        "E102",
        "a string is not closed",
        """\
A string starts and ends with the same quote, on one line.

    h = einsum("bij,bjk->bik, x, y)
    h = einsum("bij,bjk->bik", x, y)""",
    ),
    Entry(
        "E103",
        "a character that no expression has",
        """\
The character starts no token of the language. From other languages: `&` is written `and`, `!` is `not`, `|`
is `or` (or `|>`, which passes a value on), and braces are not used.

    m = a & b
    m = a and b""",
    ),
    Entry(
        "E104",
        "a bracket is never closed",
        """\
The expression ends, and a `(` or `[` still waits for its other half. Both places are shown.

    h = relu(linear(x, 64)
    h = relu(linear(x, 64))""",
    ),
    Entry(
        "E105",
        "the expression ends too early",
        """\
An operator, a comma or `=` waits for what follows it. A line goes on after `|>` and inside brackets only.

    h = x +
    h = x + b""",
    ),
    Entry(
        "E106",
        "a bracket that closes nothing",
        """\
There is no open bracket of its kind: one is missing further left, this one is too many, or `(` was closed
by `]`.

    h = x[0) + 1
    h = x[0] + 1""",
    ),
    Entry(
        "E107",
        "something that cannot stand here",
        """\
The token does not fit after what stands before it. A power is `^`, not `**`; `==` compares, and `=` gives a
value its name at the start of a statement; comparisons are not chained.

    h = x ** 2
    h = x ^ 2""",
    ),
    Entry(
        "E108",
        "an operator or a comma is missing",
        """\
Two values follow each other with nothing between them.

    h = linear(x 64)
    h = linear(x, 64)""",
    ),
    Entry(
        "E109",
        "YAML escapes in an expression",
        r"""
The expression stands in quotes and has an escape of YAML (`\n` in "…", `''` in '…'). What is read would
not be what stands in the file, and places could not be shown. A block has no escapes.

    behavior: "h = x\ng = h"
    behavior: |
      h = x
      g = h""".lstrip("\n"),
    ),
    Entry(
        "N110",
        "a comment ended the expression",
        """\
To YAML, a `#` after a space starts a comment, so what follows it is no part of the expression. The note
comes with the mistake that this has led to.

    distance: mse(h, # the target r)
    distance: mse(h, r)  # the target""",
    ),
    *SECTIONS,
)
