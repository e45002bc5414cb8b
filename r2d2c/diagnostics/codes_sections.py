"""Diagnostics 150–199: the sections of a spec, their keys and their kinds of values."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

SECTIONS: tuple[Entry, ...] = (
    Entry(
        "E150",
        "an unknown key",
        """\
The key is not one of those that may stand here; the message lists them. It is misspelled, or indented
too far or too little.

    tasks:
      encode:
        behaviour: h = linear(x, 8)     # the key is `behavior`
    epochs: 30                          # belongs under `train:`""",
    ),
    Entry(
        "E151",
        "a key is missing",
        """\
A spec needs `r2d2c: 1`, `tasks` and `outputs`; a task needs a `behavior`; a loss needs a `value`; a
block that is written as a map needs a `body`.

    tasks:
      encode:
        distance: mse(h, r)             # no behavior

    tasks:
      encode:
        behavior: h = linear(x, 8)
        distance: mse(h, r)""",
    ),
    Entry(
        "E152",
        "a value of the wrong kind",
        """\
The value is a map where a text belongs, a text where a number belongs, and so on. In YAML, `[…]` is a
list and {…} is a map, also where an expression was meant.

    train:
      epochs: many                      # a whole number
      metrics: accuracy(logits, y)      # a list

    train:
      epochs: 30
      metrics:
        - accuracy(logits, y)""",
    ),
    Entry(
        "E153",
        "not a name",
        """\
Expressions use names, so a name has only letters of the English alphabet, digits and `_`, and does not
start with a digit.

    inputs:
      x-1: f32[B, 4]        # to an expression, x minus 1
      x_1: f32[B, 4]""",
    ),
    Entry(
        "E154",
        "a reserved word as a name",
        """\
`and`, `or`, `not`, `return`, `true` and `false` are words of the language, so nothing can be called
that.

    outputs:
      return: fit.p
      result: fit.p""",
    ),
    Entry(
        "E155",
        "another version of the language",
        """\
The first line of a spec says which version of the language it is written in. This compiler reads version
1.

    r2d2c: 2
    r2d2c: 1

If the spec comes from somebody with a newer compiler, update yours.""",
    ),
    Entry(
        "E156",
        "a value that is not allowed here",
        """\
The value is of the right kind, but not one of those that make sense here: less than the least number, or
not one of the words.

    train:
      batch_size: 0         # at least 1
    tasks:
      encode:
        keep: all           # `own` is the only word""",
    ),
    Entry(
        "E158",
        "a comment swallows the lines after it",
        """\
Only a literal block (`|`) keeps its lines apart. In a folded (`>`), quoted or plain text YAML joins them
into one line, so a `#` would make a comment of everything after it.

    body: >
      h = linear(x, 8)      # this comment never ends
      return h

    body: |
      h = linear(x, 8)      # this one ends with its line
      return h""",
    ),
    Entry(
        "E159",
        "not a size",
        """\
A dim is a whole number of at least 1, `infer`, a range of whole numbers for a size that is chosen at run
time, or integer arithmetic with other dims.

    dims:
      D: 0                  # at least 1
      H: 2.5                # a whole number
      depth: 8..1           # the smaller bound comes first

    dims:
      D: 64
      H: 2*D
      depth: 1..8""",
    ),
    Entry(
        "E160",
        "nothing where something is expected",
        """\
A key stands without a value, or a section without entries. Give it one, or remove the key.

    links:
    tasks:
      encode:
        behavior:
    outputs: {}""",
    ),
    Entry(
        "E161",
        "two parts, of which one is missing",
        """\
Some entries have two parts with a mark in between: a carry its type and its initial value, the steps of a loss the
first and the last.

    c: f32[B, S]
    c: f32[B, S] = zeros

    steps: 2
    steps: 2..depth""",
    ),
)
