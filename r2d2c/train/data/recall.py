"""`recall`: pairs of a key and a value, then one of the keys. Which was its value?

Associative recall, as in Ba et al., Using Fast Weights to Attend to the Recent Past, 2016.
"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe
from r2d2c.train.data.sequences import (
    CAPITALS,
    FILLER,
    LETTERS,
    QUERY,
    named,
    ragged,
    read,
    shifted,
    tokens,
)

OPTIONS = {
    "pairs": "pairs of the longest sequence (4)",
    "least": "pairs of the shortest one: their number is drawn from here to `pairs` (pairs)",
    "keys": "how many keys there are (16)",
    "values": "how many values there are (16)",
}


def make(made: Made) -> Recipe:
    """Tokens ``x`` u8[N, T], also called ``tokens`` with T = 2·pairs + 2, as ``a K c M b K ? c``, and ``y`` i64[N] < values, here M.

    Ids: 0 is padding, 1 the question mark, then the keys, then the values. No key is twice in a sequence. ``length``
    i64[N] and ``mask`` bool[N, T] say which steps are there; padding is at the end. ``next`` u8[N, T] is the token of
    the next step, at the last one the answer's; ``asked`` bool[N, T] is true there.
    """
    import numpy

    keys, values = made.number("keys", 16), made.number("values", 16, least=2)
    pairs = made.number("pairs", min(4, keys), most=keys)
    least = made.number("least", pairs, most=pairs)
    size = 2 * pairs + 2
    answers = named(values, CAPITALS, "v")
    names = (FILLER, QUERY, *named(keys, LETTERS, "k"), *answers)
    generator = made.generator

    def table(count: int) -> Table:
        rows = numpy.arange(count)
        number = generator.integers(least, pairs + 1, count)
        lengths = 2 * number + 2
        key = generator.permuted(numpy.tile(numpy.arange(keys), (count, 1)), axis=1)[:, :pairs]
        value = generator.integers(0, values, (count, pairs))
        x = numpy.zeros((count, size), numpy.int64)
        x[:, 0:-2:2], x[:, 1:-2:2] = key + 2, value + 2 + keys
        there = ragged(lengths, size)
        x[~there["mask"].array] = 0
        chosen = generator.integers(0, number)
        x[rows, lengths - 2], x[rows, lengths - 1] = 1, key[rows, chosen] + 2
        y = value[rows, chosen]
        after = shifted(x)
        after[rows, lengths - 1] = y + 2 + keys
        asked = numpy.zeros((count, size), bool)
        asked[rows, lengths - 1] = True
        return Table(
            {
                **read(x, names),
                "y": Column(y, classes=answers),
                "next": tokens(after, names),
                "asked": Column(asked),
                **there,
            }
        )

    note = f"{len(names)} tokens; chance is {1 / values:.3g}"
    return Recipe(table, (note,))


RECALL = Generated(
    name="recall",
    doc="pairs of a key and a value, then a key: which was its value?; made from a seed",
    make=make,
    options=OPTIONS,
    usage="pairs=4&least=2&keys=16&values=16",
).source()
