"""`parity`: is the number of ones odd? Made from a seed; samples with more elements take more steps to answer.

As in Graves, Adaptive Computation Time for Recurrent Neural Networks, 2016: the first n of ``length`` elements are -1 or
1, with n drawn from 1 to ``length`` for every sample, and the others are 0.
"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, split_options, whole_number
from r2d2c.train.refuse import refuse

OPTIONS = {
    "samples": "samples of train; test has a quarter of them (20000)",
    "length": "the most elements that a sample has, the size of x (16)",
    "seed": "what the samples are drawn from (0)",
}


def open_parity(argument: str, context: DataContext) -> Dataset:
    """``x`` f32[N, length], ``y`` i64[N] (1: odd), and how many elements there are, ``n`` i64[N]."""
    import numpy

    argument, options = split_options(argument, OPTIONS, context)
    if argument:
        fix = "write parity?length=…"
        refuse("E502", f"`parity` takes no argument, it got `{argument}`", context.span, fix=fix)
    samples = whole_number(options, "samples", 20_000, context)
    length = whole_number(options, "length", 16, context)
    # The data is part of the task, not of a run: its seed is not that of the run.
    generator = numpy.random.Generator(numpy.random.PCG64(whole_number(options, "seed", 0, context, least=0)))

    def table(count: int) -> Table:
        n = generator.integers(1, length + 1, count)
        there = numpy.arange(length) < n[:, None]
        ones = generator.integers(0, 2, (count, length)).astype(bool) & there
        x = numpy.where(there, numpy.where(ones, 1.0, -1.0), 0.0).astype(numpy.float32)
        y = Column(ones.sum(1) % 2, classes=("even", "odd"))
        return Table({"x": Column(x), "y": y, "n": Column(n)})

    train, test = table(samples), table(max(1, samples // 4))
    return Dataset("parity", train, test=test, doc=PARITY.doc)


PARITY = DataSource(
    name="parity",
    doc="whether the number of ones is odd, in up to 16 elements; made from a seed",
    usage="parity[?samples=20000&length=16&seed=0]",
    open=open_parity,
    options=OPTIONS,
)
