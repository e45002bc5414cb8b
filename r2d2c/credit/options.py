"""`Option`: an argument of a credit rule, as ``target(inverse=linear(H), step=0.5)`` gives it.

A spec says only what differs from the defaults: `Credit.args` holds what was given, and `options_of` fills in
the rest from the rule's record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from r2d2c.graph import Credit, spelled

if TYPE_CHECKING:
    from r2d2c.credit.record import CreditRule

# What a value may be:
#   float, int, bool, text: written as such; text stands in quotes
#   choice: one of `choices`, as a bare name
#   target: the name of a port of `targets:`; input: of `inputs:` or `targets:`; both may have choices too
#   behavior: a block or an op, applied to what the rule hands over (`takes`), as `predictor=guess(64)`
Kind = Literal["float", "int", "bool", "text", "choice", "target", "input", "behavior"]


class Required(Enum):
    """The default of an option that has none. (An enum, so that it is the same in every process.)"""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Option:
    """A record.

    default: its value where it is not given; `REQUIRED` if it must be. With the default None it is simply absent.
    minimum, maximum: of a number, both included.
    takes: what a behavior is applied to, in this order: ``"source"``, the value of the link; ``"target"``, the
        first value that the upper task gives; ``"y:NAME"``, the port that the option NAME names, if it is given.
    """

    name: str
    kind: Kind
    default: Any = REQUIRED
    doc: str = ""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    takes: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def values(self) -> str:
        """What it may be, in words: ``a number from 0 to 1``, ``random or sign``."""
        named = {"target": "the name of a target", "input": "the name of an input or target"}.get(self.kind)
        if self.kind in ("choice", "target", "input"):
            *first, last = [f"`{choice}`" for choice in self.choices] + ([named] if named else [])
            words = f"{', '.join(first)} or {last}" if first else last
        else:
            words = {
                "float": "a number", "int": "an integer", "bool": "true or false", "text": "a text in quotes",
                "behavior": "a block or an op",
            }[self.kind] + self._range()  # fmt: skip
        return words

    def _range(self) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f" from {self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f" of at least {self.minimum:g}"
        return f" of at most {self.maximum:g}" if self.maximum is not None else ""


def options(rule: CreditRule) -> tuple[Option, ...]:
    """The options of a rule. A plain name among its arguments is a number that must be given."""
    return tuple(Option(arg, "float") if isinstance(arg, str) else arg for arg in rule.arguments)


def options_of(rule: CreditRule, credit: Credit) -> dict[str, Any]:
    """The value of every option of a rule on a link: as given, else the default.

    Of a behavior it is the name of its region, of a port its name.
    """
    given = dict(credit.args)
    return {option.name: given.get(option.name, option.default) for option in options(rule)}


_TAKEN = {"source": "the value of the link", "target": "the first value of the task above"}


def described(option: Option) -> str:
    """What an option's value is, and what a behavior is applied to."""
    taken = [
        _TAKEN.get(item) or f"the target that `{item.removeprefix('y:')}` names" for item in option.takes
    ]
    return f"{option.values}, applied to {' and '.join(taken)}" if taken else option.values


def default_text(option: Option) -> str:
    """The default in words; empty if the option must be given."""
    return "" if option.required else spelled(option.default)


def call(rule: CreditRule) -> str:
    """``target(inverse=…, step=0.5)``: the rule with its options and their defaults."""
    shown = list(_shown(rule))
    return f"{rule.name}({', '.join(shown)})" if shown else rule.name


def _shown(rule: CreditRule) -> Iterator[str]:
    for option in options(rule):
        if option.required and option.kind in ("float", "int"):
            yield option.name
        elif option.required or option.default is None:
            yield f"{option.name}=…"
        else:
            yield f"{option.name}={default_text(option)}"


def usage(rule: CreditRule) -> str:
    """``usage: target(inverse=…, step=0.5)``, as messages end."""
    return f"usage: {call(rule)}"


__all__ = [
    "REQUIRED",
    "Kind",
    "Option",
    "call",
    "default_text",
    "described",
    "options",
    "options_of",
    "usage",
]
