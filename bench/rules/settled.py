"""What each rule was settled on for Fashion-MNIST, with which it reaches its accuracy (see `fashion.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.rules.alternate import Alternate
from bench.rules.energy import Equilibrium, Predictive
from bench.rules.goodness import Goodness
from bench.rules.gradient import Backprop, Direct, Feedback, Heads
from bench.rules.hebbian import Hebbian
from bench.rules.representatives import Representatives, tasks_of_two
from bench.rules.stack import Rule, Stack, mlp
from bench.rules.synthetic import Synthetic
from bench.rules.target import Target

Sizes = Sequence[int]


@dataclass(frozen=True)
class Settled:
    """build: from the network's sizes to the rule. rate: of Adam, at the start of its linear decay."""

    build: Callable[[Sizes], Rule]
    rate: float


def _relu(sizes: Sizes) -> Stack:
    return mlp(sizes, "relu")


def _xavier(sizes: Sizes) -> Stack:
    return mlp(sizes, "tanh", "xavier")


def _orthogonal(sizes: Sizes) -> Stack:
    return mlp(sizes, "tanh", "orthogonal")


def _forward_forward(sizes: Sizes, half: bool, infer: str) -> Goodness:
    net = mlp(sizes, "relu", "kaiming")
    return Goodness(net, threshold=1.0, sharp=20.0, overlay=3.0, norm_input=True, half=half, infer=infer)


SETTLED: dict[str, Settled] = {
    "backprop": Settled(lambda s: Backprop(_relu(s)), 2e-3),
    "heads": Settled(lambda s: Heads(_relu(s)), 2e-3),
    "direct": Settled(lambda s: Direct(_xavier(s)), 2e-3),
    "feedback": Settled(lambda s: Feedback(_xavier(s)), 2e-3),
    "feedback_sign": Settled(lambda s: Feedback(_xavier(s), "sign"), 1e-3),
    "feedback_uniform_sign": Settled(lambda s: Feedback(_xavier(s), "uniform_sign"), 1e-3),
    "synthetic": Settled(lambda s: Synthetic(_xavier(s), bootstrap=False), 1e-3),
    "synthetic_bootstrap": Settled(lambda s: Synthetic(_xavier(s), predictor_rate=10.0), 3e-4),
    "synthetic_no_labels": Settled(lambda s: Synthetic(_xavier(s), labels=False, bootstrap=False), 1e-3),
    "target": Settled(lambda s: Target(_orthogonal(s), "tanh"), 1e-3),
    "alternate": Settled(lambda s: Alternate(_xavier(s)), 1e-3),
    "hebbian": Settled(lambda s: Hebbian(_orthogonal(s)), 3e-3),
    "goodness": Settled(lambda s: _forward_forward(s, False, "classifier"), 1e-3),
    "goodness_half": Settled(lambda s: _forward_forward(s, True, "classifier"), 1e-3),
    "goodness_labels": Settled(lambda s: _forward_forward(s, False, "labels"), 1e-3),
    "predictive": Settled(lambda s: Predictive(_orthogonal(s), 6, 0.2), 1e-3),
    "equilibrium": Settled(lambda s: Equilibrium(_orthogonal(s), 6, 0.2), 1e-3),
    "representative": Settled(lambda s: Representatives(tasks_of_two(s), code_rate=0.01), 1e-3),
    "representative_head": Settled(lambda s: Representatives(tasks_of_two(s), teach="head", own=0.1), 1e-3),
    "representative_frozen": Settled(lambda s: Representatives(tasks_of_two(s), teach="frozen"), 1e-3),
    "representative_fed": Settled(
        lambda s: Representatives(tasks_of_two(s), feed="representative", noise=0.3), 1e-3
    ),
}
