"""`xor` and `spirals`: points in classes that no straight line parts. Made from a seed.

xor: as in Minsky and Papert, Perceptrons, 1969, with noise. spirals: Lang and Witbrock, Learning to Tell Two Spirals
Apart, 1988.
"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe


def make_xor(made: Made) -> Recipe:
    """``x`` f32[N, length], each -1 or 1 with noise around it, and ``y`` i64[N]: 1 where an odd number is near 1."""
    import numpy

    length, noise, generator = made.number("length", 2), made.positive("noise", 0.2), made.generator

    def table(count: int) -> Table:
        ones = generator.integers(0, 2, (count, length))
        x = 2.0 * ones - 1 + noise * generator.standard_normal((count, length))
        return Table(
            {
                "x": Column(x.astype(numpy.float32)),
                "y": Column(ones.sum(1) % 2, classes=("even", "odd")),
            }
        )

    return Recipe(table)


def make_spirals(made: Made) -> Recipe:
    """``x`` f32[N, 2] in the unit circle (beyond it with noise), and ``y`` i64[N] < classes: on which arm it lies."""
    import numpy

    classes, turns, noise = made.number("classes", 2), made.positive("turns", 1.5), made.positive("noise", 0)
    generator = made.generator

    def table(count: int) -> Table:
        y = generator.integers(0, classes, count)
        # From a little outside the centre, where all arms meet.
        radius = generator.uniform(0.1, 1, count)
        angle = 2 * numpy.pi * (turns * radius + y / classes)
        x = radius[:, None] * numpy.stack([numpy.cos(angle), numpy.sin(angle)], axis=1)
        x += noise * generator.standard_normal((count, 2))
        return Table(
            {"x": Column(x.astype(numpy.float32)), "y": Column(y, classes=tuple(map(str, range(classes))))}
        )

    return Recipe(table)


POINTS = (
    Generated(
        name="xor",
        doc="whether an odd number of inputs is 1 (of two, with noise); made from a seed",
        make=make_xor,
        options={
            "length": "inputs, the size of x (2)",
            "noise": "the deviation of each input from -1 or 1 (0.2)",
        },
        usage="length=2&noise=0.2",
        samples=1_000,
    ).source(),
    Generated(
        name="spirals",
        doc="on which of the spirals around each other a point lies; made from a seed",
        make=make_spirals,
        options={
            "classes": "how many spirals there are (2)",
            "turns": "how often each goes around (1.5)",
            "noise": "the deviation of a point from its spiral (0)",
        },
        usage="classes=2&turns=1.5&noise=0.02",
        samples=1_000,
    ).source(),
)
