"""Credit rules that have every kind of option and do nothing else."""

from r2d2c.credit.options import Option
from r2d2c.credit.record import CreditRule

AIMED = CreditRule(
    "aimed",
    "Nothing comes back.",
    "0",
    lambda edge: edge.stop(edge.value),
    arguments=(
        Option("inverse", "behavior", None, "What leads back.", takes=("target",)),
        Option("step", "float", 0.5, "How far.", minimum=0),
        Option("every", "int", 1, "How often.", minimum=1, maximum=100),
        Option("difference", "bool", True, "Whether the inverse's mistake is taken off."),
        Option("variant", "choice", "random", "Which.", choices=("random", "sign", "uniform_sign")),
        Option("labels", "target", None, "The class."),
        Option("negatives", "input", "hard", "The wrong ones.", choices=("hard", "uniform")),
        Option("note", "text", None, "Anything."),
        Option("guess", "behavior", None, "What guesses.", takes=("source", "y:labels")),
    ),
    keeps_distance=True,
)
COUNTED = CreditRule(
    "counted",
    "Nothing comes back.",
    "0",
    lambda edge: edge.stop(edge.value),
    arguments=("k", Option("by", "choice", choices=("row", "column"))),
    keeps_distance=True,
)
CREDIT_RULES = (AIMED, COUNTED)
