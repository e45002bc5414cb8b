"""`random`: seeded noise in the shapes of the spec's ports, for `plan`, tests and first steps."""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe

OPTIONS = {
    "length": "the size of every dynamic dim but the batch (16)",
}


def make(made: Made) -> Recipe:
    """Normal floats, integers below a port's bound (or 2), fair booleans; one column per port."""
    import numpy

    context, generator = made.context, made.generator
    if not context.ports:
        made.refuse("`random` has no ports to make data for")
    length = made.number("length", 16)

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

    return Recipe(lambda count: Table({name: column(name, count) for name in context.ports}))


RANDOM = Generated(
    name="random",
    doc="seeded noise in the shapes of the spec's ports",
    make=make,
    samples=256,
    options=OPTIONS,
    seed="of the noise (the run's seed)",
    usage="length=16",
).source()
