"""`random`: seeded noise in the shapes of the spec's ports, for `plan`, tests and first steps."""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, split_options, whole_number
from r2d2c.train.refuse import refuse

OPTIONS = {
    "samples": "samples of train; test has a quarter of them (256)",
    "length": "the size of every dynamic dim but the batch (16)",
    "seed": "of the noise (the run's seed)",
}


def open_random(argument: str, context: DataContext) -> Dataset:
    """Normal floats, integers below a port's bound (or 2), fair booleans; one column per port."""
    import numpy

    argument, options = split_options(argument, OPTIONS, context)
    if argument:
        refuse(
            "E502",
            f"`random` takes no argument, it got `{argument}`",
            context.span,
            fix="write random?samples=…",
        )
    if not context.ports:
        refuse("E502", "`random` has no ports to make data for", context.span)
    samples = whole_number(options, "samples", 256, context)
    length = whole_number(options, "length", 16, context)
    generator = numpy.random.Generator(
        numpy.random.PCG64(whole_number(options, "seed", context.seed, context, least=0))
    )

    def column(name: str, count: int) -> Column:
        dtype, dims = context.ports[name]
        shape = (count, *(length if dim is None else dim for dim in dims[1:]))
        if dtype.startswith(("f", "bf")):
            return Column(generator.standard_normal(shape, numpy.float32))
        if dtype.startswith("b"):
            return Column(generator.integers(0, 2, shape).astype(bool))
        bound = context.bounds.get(name, 2)
        classes = tuple(map(str, range(bound))) if bound <= 1000 else None
        return Column(generator.integers(0, bound, shape), classes=classes)

    sizes = (samples, max(1, samples // 4))
    train, test = (Table({name: column(name, size) for name in context.ports}) for size in sizes)
    return Dataset("random", train, test=test, doc="noise in the shapes of the spec's ports")


RANDOM = DataSource(
    name="random",
    doc="seeded noise in the shapes of the spec's ports",
    usage="random[?samples=256&length=16&seed=0]",
    open=open_random,
    options=OPTIONS,
)
