"""Diagnostics 551-552: sizes and widths that are given when a model runs."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

SIZES: tuple[Entry, ...] = (
    Entry(
        "E551",
        "not a size that the model takes",
        """\
`--size NAME=VALUE`, `--depth`, `--width` and `train.sizes` give the numbers that a model takes when it runs: a
dim with a range that no input shows, such as how often a loop runs, and the width of carried values that may
be narrow. This model has none of this name. A dim with one size is fixed when the model is made:
`--set dims.NAME=…` makes another model.

    dims: {depth: 1..8 = 3}      # a size that the model takes; 3 where it is not given
    r2d2c eval runs/first --depth 5""",
    ),
    Entry(
        "E552",
        "bad size",
        """\
A size is a number within the range that the spec gives its dim; a width is one of those that `widths` lists.
Under `train.sizes` it may be a range as well: a number of it is drawn anew for every batch, from the seed and
the number of the learning pass.

    train:
      sizes:
        depth: 1..4              # another depth in every batch
        width: 1/2""",
    ),
)
