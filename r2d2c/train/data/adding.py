"""`adding`: the sum of the two numbers that are marked (Hochreiter and Schmidhuber, Long Short-Term Memory, 1997).

With the markers of Le, Jaitly and Hinton, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, 2015:
one in the first half of a sequence and one in the second. Answering 1 always has a mean squared error of 1/6.
"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe
from r2d2c.train.data.sequences import ragged

OPTIONS = {
    "length": "steps of the longest sequence, T (100)",
    "least": "steps of the shortest one: lengths are drawn from here to `length` (length)",
}


def make(made: Made) -> Recipe:
    """``x`` f32[N, T, 2]: at every step a number from 0 to 1, and 1 where it is marked, else 0; ``y`` f32[N].

    ``length`` i64[N] and ``mask`` bool[N, T] say how many steps a sample has; the rest of ``x`` is 0.
    """
    import numpy

    length = made.number("length", 100, least=2)
    least = made.number("least", length, least=2, most=length)
    generator = made.generator

    def table(count: int) -> Table:
        rows = numpy.arange(count)
        lengths = generator.integers(least, length + 1, count)
        there = ragged(lengths, length)
        x = numpy.zeros((count, length, 2), numpy.float32)
        x[..., 0] = generator.random((count, length), numpy.float32) * there["mask"].array
        half = lengths // 2
        places = generator.integers(0, half), generator.integers(half, lengths)
        for place in places:
            x[rows, place, 1] = 1
        y = x[rows, places[0], 0] + x[rows, places[1], 0]
        return Table({"x": Column(x), "y": Column(y), **there})

    note = "answering 1 always has a mean squared error of 0.167"
    return Recipe(table, (note,))


ADDING = Generated(
    name="adding",
    doc="the sum of the two numbers of a sequence that are marked; made from a seed",
    make=make,
    options=OPTIONS,
    usage="length=100&least=50",
).source()
