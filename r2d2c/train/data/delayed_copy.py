"""`delayed_copy`: one symbol near the start, much filler, and then the question which symbol it was.

In the manner of the noise-free recall problems of Hochreiter and Schmidhuber, Long Short-Term Memory, 1997. Filler is
predictable, so the symbol is the one surprise of a sequence; ``noise`` is what cannot be predicted and means nothing.
"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe
from r2d2c.train.data.sequences import (
    FILLER,
    LETTERS,
    NUMBERS,
    QUERY,
    named,
    read,
    shifted,
    tokens,
)

OPTIONS = {
    "delay": "steps from the symbol to the question, at the least (20)",
    "symbols": "how many symbols there are to tell apart (8)",
    "lead": "the symbol is at a random place from 1 to this (1)",
    "noise": "the part of filler that is a random token instead (0)",
    "kinds": "how many tokens of noise there are (8 if there is noise, else 0)",
}


def make(made: Made) -> Recipe:
    """Tokens ``x`` u8[N, T], also called ``tokens``, with T = lead + delay + 1, and ``y`` i64[N] < symbols.

    Ids: 0 is filler, 1 to ``symbols`` the symbols, then the question, then noise. The first token is filler, that of
    step ``at`` i64[N] the symbol, the last one the question. ``next`` u8[N, T] is the token of the next step,
    after the question the symbol's; ``asked`` bool[N, T] is true at the question.
    """
    import numpy

    delay, symbols, lead = (
        made.number("delay", 20),
        made.number("symbols", 8, least=2),
        made.number("lead", 1),
    )
    noise = made.share("noise")
    kinds = made.number("kinds", 8 if noise else 0, least=1 if noise else 0)
    question, length = symbols + 1, lead + delay + 1
    answers = named(symbols, LETTERS, "s")
    names = (FILLER, *answers, QUERY, *named(kinds, NUMBERS, "n"))
    generator = made.generator

    def table(count: int) -> Table:
        x = numpy.zeros((count, length), numpy.int64)
        if noise:
            here = generator.random((count, length)) < noise
            here[:, 0] = False
            x[here] = generator.integers(question + 1, question + 1 + kinds, int(here.sum()))
        y, at = generator.integers(0, symbols, count), generator.integers(1, lead + 1, count)
        x[numpy.arange(count), at] = y + 1
        x[:, -1] = question
        asked = numpy.zeros((count, length), bool)
        asked[:, -1] = True
        return Table(
            {
                **read(x, names),
                "y": Column(y, classes=answers),
                "next": tokens(shifted(x, y + 1), names),
                "asked": Column(asked),
                "at": Column(at),
            }
        )

    note = f"{len(names)} tokens, {length} steps; chance is {1 / symbols:.3g}"
    return Recipe(table, (note,))


DELAYED_COPY = Generated(
    name="delayed_copy",
    doc="one symbol, then filler, then which symbol was it?; made from a seed",
    make=make,
    options=OPTIONS,
    usage="delay=20&symbols=8&lead=1&noise=0.1&kinds=8",
).source()
