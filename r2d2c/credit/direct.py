"""Direct feedback alignment: every task hears of the output's error through a fixed random matrix."""

from __future__ import annotations

from r2d2c.credit.checks_values import check_direct
from r2d2c.credit.options import Option
from r2d2c.credit.parts import add, flat, numel, shaped
from r2d2c.credit.record import CreditRule, Edge
from r2d2c.graph import Init, Value
from r2d2c.types import TensorType


def _signal(edge: Edge) -> Value:
    """δ = Σ e·B over outputs, with B: [numel of the output, numel of h]; per position where both are sequences."""
    h, found = edge.value, []
    if edge.option("recompute"):
        edge.learn_again()
    type_ = edge.type(h)
    for number, (output, error) in enumerate(edge.errors()):
        given = edge.type(output)
        name = f"B_{number}" if number else "B"
        rows, columns = numel(given), numel(type_)
        along = rows is None or columns is None
        if along:
            rows, columns = (
                int(dim) if isinstance(dim, int) else None for dim in (given.dims[-1], type_.dims[-1])
            )
        assert rows is not None and columns is not None
        init = Init("xavier")
        matrix = edge.storage(name, TensorType(type_.dtype, (rows, columns)), init, "frozen")
        part = edge.node("matmul", error if along else flat(edge, error), matrix, name="sent")
        found.append(part if along else shaped(edge, part, h))
    total = add(edge, found, "sent")
    scale = edge.option("scale")
    return total if scale == 1.0 else edge.node("mul", total, edge.number(scale), name="sent")


DIRECT = CreditRule(
    "direct",
    "Direct feedback alignment (Nøkland, 2016): the error at the outputs reaches every task through a fixed random "
    "matrix of its own, past all tasks in between.",
    "e·B, e = ∂L/∂output",
    signal=_signal,
    check=check_direct,
    arguments=(
        Option("scale", "float", 1.0, "how much larger B is than Xavier's", minimum=0.0),
        Option("recompute", "bool", False, "a second forward pass once the error is known, task by task: memory does not "
               "grow with depth"),
    ),
    colour="#d62728",
)  # fmt: skip
