"""`addition`: sums of two numbers as characters, such as ``48+7=55``, to be gone on with after the ``=``.

As in Zaremba and Sutskever, Learning to Execute, 2014.
"""

from __future__ import annotations

from r2d2c.train.data.dataset import Column, Table
from r2d2c.train.data.generated import Generated, Made, Recipe
from r2d2c.train.data.sequences import FILLER, NUMBERS, ragged, read, shifted, tokens

OPTIONS = {
    "length": "digits of the longest numbers (3)",
    "least": "digits of the shortest ones: their number is drawn from here to `length` (1)",
}
NAMES = (FILLER, *NUMBERS, "+", "=")


def make(made: Made) -> Recipe:
    """Tokens ``x`` u8[N, T], also called ``tokens``, with T = 3·length + 3: the whole equation; and ``sum`` i64[N].

    Ids: 0 is the end, then the ten digits, ``+`` and ``=``. ``next`` u8[N, T] is the token of the next step; ``asked``
    bool[N, T] is true where that is of the answer, or its end: from the ``=`` on. ``length`` i64[N] and ``mask``
    bool[N, T] say which steps are there; padding is at the end.
    """
    import numpy

    most = made.number("length", 3, most=17)
    least = made.number("least", 1, most=most)
    size, generator = 3 * most + 3, made.generator
    ids = numpy.zeros(128, numpy.int64)
    for number, name in enumerate(NAMES):
        ids[ord(name)] = number

    def numbers(count: int) -> numpy.ndarray:
        digits = generator.integers(least, most + 1, count)
        lowest = numpy.where(digits == 1, 0, 10 ** (digits - 1))
        return generator.integers(lowest, 10**digits)

    def table(count: int) -> Table:
        a, b = numbers(count), numbers(count)
        texts = [f"{m}+{n}={m + n}" for m, n in zip(a.tolist(), b.tolist(), strict=True)]
        lengths = numpy.array([len(text) for text in texts])
        characters = numpy.frombuffer(
            "".join(text.ljust(size, FILLER) for text in texts).encode(), numpy.uint8
        )
        x = ids[characters].reshape(count, size)
        there = ragged(lengths, size)
        asked = (numpy.cumsum(x == NAMES.index("="), axis=1) > 0) & there["mask"].array
        return Table(
            {
                **read(x, NAMES),
                "next": tokens(shifted(x), NAMES),
                "asked": Column(asked),
                "sum": Column(a + b),
                **there,
            }
        )

    return Recipe(table, (f"{len(NAMES)} tokens, {size} steps",))


ADDITION = Generated(
    name="addition",
    doc="sums as characters, 48+7=55, to be gone on with after the `=`; made from a seed",
    make=make,
    options=OPTIONS,
    usage="length=3&least=1",
).source()
