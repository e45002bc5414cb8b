"""Forward gradients: a task hears only how fast its loss changes along one random direction.

Baydin et al. (2022), "Gradients without Backpropagation"; here activities are perturbed, not weights, as by Ren et
al. (2023), "Scaling Forward Gradient With Local Losses": for every sample v ~ N(0, 1) in the shape of h, and
δ = (∂L/∂h·v) v, whose mean over v is ∂L/∂h. The number ∂L/∂h·v is what one forward-mode pass gives. It is taken here
from a backward pass through the tasks above: the same number, hence the same learning, without the time saved.
v comes from (seed, node, step), so a resumed run goes on with the numbers it would have drawn.
"""

from r2d2c.credit.record import CreditRule, Edge
from r2d2c.graph import Value


def attach(edge: Edge) -> Value:
    return edge.leaf(edge.value)


def signal(edge: Edge) -> Value:
    gradient = edge.true_gradient(edge.value)
    v = edge.node("normal_like", edge.stop(edge.value), name="v")
    axes = tuple(range(1, edge.type(v).rank))
    slope = edge.node("sum", edge.node("mul", gradient, v), axes=axes, keep=True, name="slope")
    return edge.node("mul", slope, v, name="estimate")


FORWARD_GRADIENT = CreditRule(
    "forward_gradient", "The slope along a random direction.", "(∂L/∂h·v) v", attach=attach, signal=signal
)
CREDIT_RULES = (FORWARD_GRADIENT,)
