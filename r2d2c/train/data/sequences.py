"""What the sources of made-up sequences share: their options, the names of their tokens, padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.dataset import Column
from r2d2c.train.data.source import DataContext, split_options, whole_number
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

FILLER, QUERY = ".", "?"
LETTERS, NUMBERS = ascii_lowercase, digits
CAPITALS = ascii_uppercase

SAMPLES = "samples of train; test has a quarter of them (10000)"
SEED = "what the samples are drawn from (0)"


@dataclass(frozen=True, slots=True)
class Made:
    """The options of a source that takes no argument, and the generator of its samples."""

    source: str
    options: Mapping[str, str]
    context: DataContext

    @classmethod
    def of(cls, source: str, argument: str, known: Mapping[str, str], context: DataContext) -> Made:
        """E502 if there is an argument, or an option that is not known."""
        argument, options = split_options(argument, known, context)
        if argument:
            fix = f"write {source}?{next(iter(known))}=…"
            refuse("E502", f"`{source}` takes no argument, it got `{argument}`", context.span, fix=fix)
        return cls(source, options, context)

    def number(self, key: str, default: int, least: int = 1, most: int | None = None) -> int:
        """A whole number; E502 if it is not one, or not from ``least`` to ``most``."""
        value = whole_number(self.options, key, default, self.context, least)
        if most is not None and value > most:
            self.refuse(f"option `{key}` of `{self.source}` is {value}, it may be {most} at the most here")
        return value

    def share(self, key: str) -> float:
        """A probability, 0 where it is not given; E502 if it is not at least 0 and below 1."""
        text = self.options.get(key, "0")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0.0 <= value < 1.0:
            self.refuse(f"option `{key}` must be at least 0 and less than 1, not `{text}`")
        return value

    def refuse(self, message: str) -> None:
        """E502."""
        refuse("E502", message, self.context.span)

    def sizes(self) -> tuple[int, int]:
        """How many samples train and test have."""
        samples = self.number("samples", 10_000)
        return samples, max(1, samples // 4)

    def generator(self) -> numpy.random.Generator:
        """The data is part of the task, not of a run: its seed is not that of the run."""
        import numpy

        return numpy.random.Generator(numpy.random.PCG64(self.number("seed", 0, least=0)))


def named(count: int, letters: str, prefix: str) -> tuple[str, ...]:
    """Names of ``count`` tokens: one letter each, or a prefix and a number where the letters do not suffice."""
    return tuple(letters[:count]) if count <= len(letters) else tuple(f"{prefix}{n}" for n in range(count))


def tokens(ids: NDArray[Any], names: Sequence[str]) -> Column:
    """A column of tokens. Small ids stay small in memory; they become i64 batch by batch."""
    import numpy

    return Column(ids.astype(numpy.uint8 if len(names) <= 256 else numpy.int32), classes=tuple(names))


def read(ids: NDArray[Any], names: Sequence[str]) -> dict[str, Column]:
    """What a model reads, under both names that a port of tokens may have."""
    column = tokens(ids, names)
    return {"x": column, "tokens": column}


def shifted(ids: NDArray[Any], last: NDArray[Any] | int = 0) -> NDArray[Any]:
    """``[N, T]``: at every step the token of the next; at the end ``last``, of which there may be one each."""
    import numpy

    found = numpy.empty_like(ids)
    found[:, :-1] = ids[:, 1:]
    found[:, -1] = last
    return found


def ragged(lengths: NDArray[Any], size: int) -> dict[str, Column]:
    """``length`` i64[N] and ``mask`` bool[N, size]: the steps that are there; the others are padding."""
    import numpy

    return {
        "length": Column(lengths.astype(numpy.int64)),
        "mask": Column(numpy.arange(size) < lengths[:, None]),
    }
