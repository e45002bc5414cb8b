"""`two_symbols`: two different symbols somewhere among zeros, as in 000xy000 or 0x000y00. Which, and how far apart?"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe
from r2d2c.train.data.sequences import FILLER, LETTERS, named, read, shifted, tokens

OPTIONS = {
    "length": "tokens of a sequence, T (12)",
    "symbols": "how many symbols there are (8)",
    "gaps": "how many gaps there are: 0 to gaps - 1 zeros are between the two (half the length)",
}


def make(made: Made) -> Recipe:
    """Tokens ``x`` u8[N, T], also called ``tokens``; ``first``, ``second`` i64[N] < symbols, ``gap`` i64[N] < gaps.

    Ids: 0 is the zero, 1 to ``symbols`` the symbols. The first token is a zero. All gaps are as frequent, and with a
    gap all places. ``next`` u8[N, T] is the token of the next step, a zero after the last. The two symbols differ, so
    their order is told by ``first`` and ``second``.
    """
    import numpy

    length, symbols = made.number("length", 12, least=4), made.number("symbols", 8, least=2)
    gaps = made.number("gaps", length // 2, most=length - 2)
    kinds = named(symbols, LETTERS, "s")
    names, distances = (FILLER, *kinds), tuple(map(str, range(gaps)))
    generator = made.generator

    def table(count: int) -> Table:
        rows = numpy.arange(count)
        gap = generator.integers(0, gaps, count)
        at = generator.integers(1, length - 1 - gap)
        first = generator.integers(0, symbols, count)
        second = (first + generator.integers(1, symbols, count)) % symbols
        x = numpy.zeros((count, length), numpy.int64)
        x[rows, at], x[rows, at + gap + 1] = first + 1, second + 1
        return Table(
            {
                **read(x, names),
                "first": Column(first, classes=kinds),
                "second": Column(second, classes=kinds),
                "gap": Column(gap, classes=distances),
                "next": tokens(shifted(x), names),
            }
        )

    return Recipe(table)


TWO_SYMBOLS = Generated(
    name="two_symbols",
    doc="which two symbols stand among zeros, in which order, how far apart?; made from a seed",
    make=make,
    options=OPTIONS,
    usage="length=12&symbols=8&gaps=6",
).source()
