"""`copy`: symbols to be remembered, filler, a question, and then all of the symbols again, from memory.

The copying memory problem of Hochreiter and Schmidhuber, Long Short-Term Memory, 1997, as in Arjovsky, Shah and Bengio,
Unitary Evolution Recurrent Neural Networks, 2016; with ``delay=0`` and several lengths the copy task of Graves, Wayne
and Danihelka, Neural Turing Machines, 2014. Nothing of the answer is read: at its steps there is filler.
"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe
from r2d2c.train.data.sequences import FILLER, LETTERS, QUERY, named, ragged, read, tokens

OPTIONS = {
    "length": "symbols of the longest sequence, L (10)",
    "least": "symbols of the shortest one: their number is drawn from here to `length` (length)",
    "delay": "steps of filler between the symbols and the question (10)",
    "symbols": "how many symbols there are to tell apart (8)",
}


def make(made: Made) -> Recipe:
    """Tokens ``x`` u8[N, T], also called ``tokens``, with T = 2L + delay, as ``b a c . . ? . .``, and ``y`` u8[N, T].

    Ids: 0 is filler, 1 to ``symbols`` the symbols, then the question. ``y`` is the answer from the question on, here
    ``b a c``, and filler before; ``asked`` bool[N, T] is true at the steps of the answer. ``length`` i64[N] and
    ``mask`` bool[N, T] say which steps are there; padding is at the end.
    """
    import numpy

    most, symbols = made.number("length", 10), made.number("symbols", 8, least=2)
    least = made.number("least", most, most=most)
    delay = made.number("delay", 10, least=0)
    names = (FILLER, *named(symbols, LETTERS, "s"), QUERY)
    size, generator = 2 * most + delay, made.generator

    def table(count: int) -> Table:
        lengths = generator.integers(least, most + 1, count)
        drawn = generator.integers(1, symbols + 1, (count, most))
        places = numpy.arange(size)
        x, y = numpy.zeros((count, size), numpy.int64), numpy.zeros((count, size), numpy.int64)
        there = numpy.arange(most) < lengths[:, None]
        x[:, :most] = numpy.where(there, drawn, 0)
        question = lengths + delay
        x[numpy.arange(count), question] = symbols + 1
        asked = (places >= question[:, None]) & (places < (question + lengths)[:, None])
        y[asked] = drawn[there]
        return Table(
            {
                **read(x, names),
                "y": tokens(y, names),
                "asked": Column(asked),
                **ragged(question + lengths, size),
            }
        )

    note = f"{len(names)} tokens, {size} steps; chance is {1 / symbols:.3g} at a step that is asked"
    return Recipe(table, (note,))


COPY = Generated(
    name="copy",
    doc="symbols, filler, then all of the symbols again from memory; made from a seed",
    make=make,
    options=OPTIONS,
    usage="length=10&least=5&delay=10&symbols=8",
).source()
