"""The table of credit rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from r2d2c.credit.backprop import BACKPROP
from r2d2c.credit.local import LOCAL
from r2d2c.credit.record import CreditRule

BUILTIN: tuple[CreditRule, ...] = (BACKPROP, LOCAL)


def rules(extra: Iterable[CreditRule] = ()) -> Mapping[str, CreditRule]:
    """Every credit rule by name: the built-in ones, then those added."""
    return {rule.name: rule for rule in (*BUILTIN, *extra)}
