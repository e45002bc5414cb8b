"""Direct random target projection: every task hears of the label through a fixed random matrix, and of no error.

Frenkel, Lefebvre and Bol (2021), "Learning Without Feedback", replace the error y* − y of direct feedback alignment
by the one-hot target y*, which has the same sign; so a task learns before those above it have run. As y* − y falls
where ∂L/∂y grows, δ here, which training makes smaller, is −y*·B. B is as likely as −B, so the sign is a convention
(the authors' published code has the other one). It wants a plain `sgd` with a large rate: y* never gets smaller, and
with `adam` the units saturate in a deep network.
"""

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.parts import numel, of_batch, shaped
from r2d2c.credit.record import CreditRule, Edge
from r2d2c.graph import Value


def check(link: LinkCheck) -> None:
    if link.labels is None:
        link.refuse("no target is a class label", "give the links another credit, such as `direct`")


def signal(edge: Edge) -> Value:
    y, classes = edge.labels
    B = edge.storage("B", (classes, numel(edge.type(edge.value))), "xavier", "frozen")
    target = edge.node("one_hot", y, classes=classes, name="target")
    delta = edge.node("neg", edge.node("matmul", target, B, name="projection"))
    return of_batch(edge, shaped(edge, delta, edge.value))


DRTP = CreditRule("drtp", "The label through a fixed random matrix.", "−y*·B", signal=signal, check=check)
CREDIT_RULES = (DRTP,)
