"""The table of credit rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from r2d2c.credit.alternate import ALTERNATE
from r2d2c.credit.backprop import BACKPROP
from r2d2c.credit.direct import DIRECT
from r2d2c.credit.equilibrium import EQUILIBRIUM
from r2d2c.credit.feedback import FEEDBACK_RULE
from r2d2c.credit.goodness import GOODNESS
from r2d2c.credit.hebbian import HEBBIAN
from r2d2c.credit.local import LOCAL
from r2d2c.credit.predictive import PREDICTIVE
from r2d2c.credit.record import CreditRule
from r2d2c.credit.synthetic import SYNTHETIC
from r2d2c.credit.target import TARGET

BUILTIN: tuple[CreditRule, ...] = (
    BACKPROP,
    LOCAL,
    FEEDBACK_RULE,
    DIRECT,
    SYNTHETIC,
    TARGET,
    GOODNESS,
    ALTERNATE,
    PREDICTIVE,
    EQUILIBRIUM,
    HEBBIAN,
)


def rules(extra: Iterable[CreditRule] = ()) -> Mapping[str, CreditRule]:
    """Every credit rule by name: the built-in ones, then those added."""
    return {rule.name: rule for rule in (*BUILTIN, *extra)}
