"""`parity`: is the number of ones odd? Made from a seed; samples with more elements take more steps to answer.

As in Graves, Adaptive Computation Time for Recurrent Neural Networks, 2016: the first n of ``length`` elements are -1 or
1, with n drawn from 1 to ``length`` for every sample, and the others are 0.
"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe

OPTIONS = {
    "length": "the most elements that a sample has, the size of x (16)",
}


def make(made: Made) -> Recipe:
    """``x`` f32[N, length], ``y`` i64[N] (1: odd), and how many elements there are, ``n`` i64[N]."""
    import numpy

    length, generator = made.number("length", 16), made.generator

    def table(count: int) -> Table:
        n = generator.integers(1, length + 1, count)
        there = numpy.arange(length) < n[:, None]
        ones = generator.integers(0, 2, (count, length)).astype(bool) & there
        x = numpy.where(there, numpy.where(ones, 1.0, -1.0), 0.0).astype(numpy.float32)
        y = Column(ones.sum(1) % 2, classes=("even", "odd"))
        return Table({"x": Column(x), "y": y, "n": Column(n)})

    return Recipe(table)


PARITY = Generated(
    name="parity",
    doc="whether the number of ones is odd, in up to 16 elements; made from a seed",
    make=make,
    samples=20_000,
    options=OPTIONS,
    usage="length=16",
).source()
