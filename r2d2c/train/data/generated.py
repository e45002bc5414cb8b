"""`Generated`: a set of samples that is made up from a seed. Each is one record and one function.

All have the options ``samples``, ``test`` and ``seed``, and ``length`` where a sample is as long as one asks for. The
data is part of the task, not of a run: its seed is not that of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from r2d2c.train.data.dataset import Dataset, Table
from r2d2c.train.data.source import DataContext, DataSource, fraction, split_options, whole_number
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    import numpy

FAMILY = "generated"
SEED = "what the samples are drawn from (0)"
TEST = "how many more samples test has, as a part of train's; 0: none (0.25)"


@dataclass(frozen=True, slots=True)
class Made:
    """What is asked of a generated set, checked as it is read, and the generator of its samples."""

    source: str
    argument: str
    options: Mapping[str, str]
    context: DataContext
    samples: int
    generator: numpy.random.Generator

    def number(self, key: str, default: int, least: int = 1, most: int | None = None) -> int:
        """A whole number; E502 if it is not one, or not from ``least`` to ``most``."""
        value = whole_number(self.options, key, default, self.context, least)
        if most is not None and value > most:
            self.refuse(f"option `{key}` of `{self.source}` is {value}, it may be {most} at the most here")
        return value

    def share(self, key: str) -> float:
        """A probability, 0 where it is not given; E502 if it is not at least 0 and below 1."""
        return fraction(self.options, key, 0.0, self.context, none=True)

    def positive(self, key: str, default: float) -> float:
        """A number that is not negative; E502 for any other."""
        text = self.options.get(key, str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            self.refuse(f"`{key}` is a number that is not negative, not `{text}`")
        return value

    def refuse(self, message: str, *, notes: tuple[str, ...] = (), fix: str | None = None) -> NoReturn:
        """E502."""
        refuse("E502", message, self.context.span, notes=notes, fix=fix)


Draw = Callable[[int], Table]
"""So many samples, the next ones of the generator."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How samples are drawn, once the options are known. test: for the samples of test, where they differ."""

    draw: Draw
    notes: tuple[str, ...] = ()
    test: Draw | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated set. ``make`` reads its own ``options`` from a `Made` and says how samples are drawn.

    ``usage`` are its options as an example, without samples, test and seed; ``argument`` is an example of what comes
    after a colon, where there is something. ``seed`` says what takes the place of `SEED`: then the run's is used.
    """

    name: str
    doc: str
    make: Callable[[Made], Recipe]
    options: Mapping[str, str] = field(default_factory=dict)
    usage: str = ""
    samples: int = 10_000
    argument: str = ""
    seed: str = SEED

    def open(self, text: str, context: DataContext) -> Dataset:
        """The splits train and test, drawn one after the other."""
        import numpy

        options = self.all_options
        argument, given = split_options(text, options, context)
        if argument and not self.argument:
            fix = f"write {self.name}?{next(iter(options))}=…"
            refuse("E502", f"`{self.name}` takes no argument, it got `{argument}`", context.span, fix=fix)
        samples = whole_number(given, "samples", self.samples, context)
        share = fraction(given, "test", 0.25, context, none=True)
        seed = whole_number(given, "seed", 0 if self.seed == SEED else context.seed, context, least=0)
        generator = numpy.random.Generator(numpy.random.PCG64(seed))
        recipe = self.make(Made(self.name, argument, given, context, samples, generator))
        train = recipe.draw(samples)
        test = (recipe.test or recipe.draw)(max(1, int(samples * share))) if share else None
        return Dataset(self.name, train, test=test, doc=self.doc, notes=recipe.notes)

    @property
    def all_options(self) -> dict[str, str]:
        """Its own, and those that all have."""
        samples = f"samples of train ({self.samples})"
        return {**self.options, "samples": samples, "test": TEST, "seed": self.seed}

    def source(self) -> DataSource:
        """As a row of the table of sources."""
        argument = f":{self.argument}" if self.argument else ""
        own = f"{self.usage}&" if self.usage else ""
        usage = f"{self.name}{argument}[?{own}samples={self.samples}&test=0.25&seed=0]"
        return DataSource(self.name, self.doc, usage, self.open, self.all_options, FAMILY)
