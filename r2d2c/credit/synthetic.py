"""Synthetic gradients: a task learns from a guess of its gradient, before the tasks above have run."""

from __future__ import annotations

from r2d2c.credit.checks_values import check_synthetic
from r2d2c.credit.options import Option
from r2d2c.credit.parts import flat, linear, numel, of_batch, per_sample, shaped
from r2d2c.credit.record import CreditRule, Edge, Network
from r2d2c.graph import Init, Loss, Value


def _attach(edge: Edge) -> Value:
    return edge.leaf(edge.value)


def _finish(net: Network) -> None:
    """S(h[, y]) is δ of every sample: h learns from S/B at once, S from what comes back to h later."""
    first: dict[Value, Edge] = {}
    for edge in net.edges:
        first.setdefault(edge.value, edge)
    labels = dict[str, Value]()
    guesses = {h: _guess(edge, labels) for h, edge in first.items()}
    for h, edge in first.items():
        edge.signal(h, of_batch(edge, edge.stop(guesses[h])))
    for h, edge in reversed(first.items()):
        back = edge.gradient(edge.leaf(h)) if edge.option("bootstrap") else edge.true_gradient(h)
        wanted = per_sample(edge, back)
        value = edge.node("mse", guesses[h], wanted, name="loss")
        edge.loss(Loss(edge.name, value, owner=edge.link.source_task, every=edge.option("every")))


def _guess(edge: Edge, known: dict[str, Value]) -> Value:
    """The predictor: a block, or a linear layer that starts at zero. known: labels as it sees them, for all edges."""
    h = edge.stop(edge.value)
    label = edge.option("labels")
    port = edge.target(label) if label is not None else None
    given = edge.apply("predictor", h, *([port] if port is not None else []))
    if given is not None:
        return given
    seen = flat(edge, h)
    if port is not None:
        if label not in known:
            labels = edge.label(label)
            assert labels is not None
            known[label] = edge.node("one_hot", labels.value, name="label", classes=labels.classes)
        seen = edge.node("concat", seen, known[label], name="seen", axis=-1)
    width = numel(edge.type(h))
    assert width is not None
    return shaped(edge, linear(edge, seen, width, "predictor", Init("zeros"), edge.type(h)), h)


SYNTHETIC = CreditRule(
    "synthetic",
    "Synthetic gradients (Jaderberg et al., 2017): a predictor S guesses δ from h, and from the label if it is told. "
    "The task learns from the guess at once; S learns from what the task above, itself taught by its own S, sends "
    "back (`bootstrap`), or from the true gradient.",
    "S(h[, y])",
    attach=_attach,
    finish=_finish,
    check=check_synthetic,
    arguments=(
        Option("labels", "target", None, "the target that S sees besides h"),
        Option("predictor", "behavior", None, "S, from h (and the target); by default one linear layer that starts at zero",
               takes=("source", "y:labels")),
        Option("every", "int", 1, "S learns in every so many steps", minimum=1),
        Option("bootstrap", "bool", True, "whether S learns from what the next S makes of it, or from the true gradient"),
    ),
    colour="#9467bd",
)  # fmt: skip
